package workload

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

func TestStarters(t *testing.T) {
	editor := compiled(t, Draft)
	for _, typ := range Types() {
		text, err := Starter(typ, "x.json")
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		if !strings.HasPrefix(text, "# yaml-language-server: $schema=x.json\n") {
			t.Errorf("%s: no schema in %.60q", typ, text)
		}
		d, err := Read([]byte(text), Draft)
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		found := false
		for _, w := range d.Workloads {
			found = found || w.Type == typ
		}
		if !found {
			t.Errorf("the starter for %s has none", typ)
		}
		inEditor(t, editor, string(typ), []byte(text))
	}
	if _, err := Starter("contaner", ""); err == nil || !strings.Contains(err.Error(), "did you mean container?") {
		t.Errorf("a wrong type: %v", err)
	}
}

// inEditor checks YAML with the schema that editors use.
func inEditor(t *testing.T, s *jsonschema.Schema, name string, src []byte) {
	t.Helper()
	b, err := yaml.YAMLToJSON(src)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if err := s.Validate(v); err != nil {
		t.Errorf("%s: an editor would complain: %v", name, err)
	}
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	editor := compiled(t, Draft)
	types := make(map[Type]bool)
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(src), "\n")
		if line != "# yaml-language-server: $schema=../docs/reference/deployment-draft.schema.json" {
			t.Errorf("%s starts with %q", f, line)
		}
		d, err := Read(src, Draft)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		for _, w := range d.Workloads {
			types[w.Type] = true
		}
		inEditor(t, editor, f, src)
	}
	for _, typ := range Types() {
		if !types[typ] {
			t.Errorf("no example has a %s", typ)
		}
	}
}
