package workload

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write golden files")

func golden(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the types say; run with -update (-types +file):\n%s", path, diff)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	golden(t, "../docs/reference/deployment.schema.json", Schema(Final))
	golden(t, "../docs/reference/deployment-draft.schema.json", Schema(Draft))
}

func compiled(t testing.TB, mode Mode) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema(mode)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("urn:zos:test", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:zos:test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// structure checks a document by the rules alone, without the cross checks.
func structure(src string, mode Mode) error {
	rep := new(report)
	v, ok := readJSON(source{text: src}, rep)
	if ok {
		b := &binder{rep: rep, draft: mode == Draft}
		b.bind(rules().document, &v, reflect.New(reflect.TypeFor[Document]()).Elem())
	}
	return rep.err(inText(src))
}

// sample makes a value that keeps the rule r.
func sample(t *rapid.T, r *rule, mode Mode) any {
	switch {
	case r.isMap:
		m := map[string]any{}
		for i := range rapid.IntRange(0, 2).Draw(t, "keys") {
			m[fmt.Sprintf("K%d", i)] = sample(t, r.elem, mode)
		}
		return m
	case r.kind == object:
		return sampleObject(t, r, mode)
	case r.kind == list:
		n := rapid.IntRange(int(r.min), int(min(r.max, r.min+2))).Draw(t, "entries")
		out := []any{}
		for range n {
			x := sample(t, r.elem, mode)
			twice := false
			for _, o := range out {
				twice = twice || reflect.DeepEqual(o, x)
			}
			if !r.unique || !twice {
				out = append(out, x)
			}
		}
		return out
	case r.kind == truth:
		return rapid.Bool().Draw(t, "flag")
	case r.kind == number:
		most := r.max
		if most == 0 {
			most = maxNumber
		}
		if r.zero && rapid.Bool().Draw(t, "zero") {
			return json.Number("0")
		}
		return json.Number(itoa(rapid.SampledFrom([]uint64{r.min, most, r.min + (most-r.min)/2}).Draw(t, "number")))
	case r.enum != nil:
		return rapid.SampledFrom(r.enum).Draw(t, "word")
	case r.pattern != nil:
		return rapid.SampledFrom(examples(r.pattern.name)).Draw(t, "text")
	}
	return "x"
}

func examples(pattern string) []string {
	return map[string][]string{
		"name": {"a", "net-0", "0"}, "chain": {"grid-1"}, "hash": {strings.Repeat("3f", 32)}, "flist": {"hub.example/a/b:1"}, "sealed": {"AAAA-_"},
		"variable": {"A", "_b.c-1"}, "line": {"x", "a b"}, "nonul": {"", "x\ny"}, "path": {"/a", "/a/b"}, "user": {"root", "1000:1000"},
		"gpu": {"0000:28:00.0/1002/731f"}, "address": {"10.7.3.20", "fd12::7"}, "range4": {"10.7.0.0/16"}, "endpoint": {"[fd5a::1]:9910", "10.1.2.3:99"},
		"namespace": {"ns 1"}, "port": {"tcp/443", "udp/1"}, "label": {"abc", "a-1"}, "fqdn": {"shop.example.org"}, "output": {"wss://x/y", "redis://10.1.2.3"},
		"x25519": {strings.Repeat("A", 43) + "="}, "format": {Format},
	}[pattern]
}

func sampleObject(t *rapid.T, r *rule, mode Mode) map[string]any {
	m := map[string]any{}
	for _, f := range r.fields {
		if f.draftOnly && mode == Final || (f.optional || f.draftMay && mode == Draft) && !rapid.Bool().Draw(t, f.name) {
			continue
		}
		if f.rule.union {
			m[f.name] = sampleObject(t, rules().data[Type(m["type"].(string))], mode)
			continue
		}
		v := sample(t, f.rule, mode)
		if s, ok := v.(string); ok && f.rule.max > 0 && len(s) < int(f.rule.min) {
			v = s + "/xx"
		}
		m[f.name] = v
	}
	return m
}

// spoil changes one place of a document, often into something wrong.
func spoil(t *rapid.T, v any) any {
	switch x := v.(type) {
	case map[string]any:
		if len(x) > 0 && rapid.IntRange(0, 5).Draw(t, "deeper") > 0 {
			keys := make([]string, 0, len(x))
			for k := range x {
				keys = append(keys, k)
			}
			// The order of a map is not drawn; sort for reproducible runs.
			sortStrings(keys)
			k := rapid.SampledFrom(keys).Draw(t, "key")
			if rapid.IntRange(0, 7).Draw(t, "remove") == 0 {
				delete(x, k)
			} else {
				x[k] = spoil(t, x[k])
			}
			return x
		}
		if rapid.Bool().Draw(t, "add") {
			x[rapid.SampledFrom([]string{"size", "Format", "x", "sealed", "mode"}).Draw(t, "new key")] = json.Number("1")
			return x
		}
	case []any:
		if len(x) > 0 && rapid.IntRange(0, 4).Draw(t, "deeper") > 0 {
			i := rapid.IntRange(0, len(x)-1).Draw(t, "index")
			if rapid.IntRange(0, 5).Draw(t, "double") == 0 {
				return append(x, x[i])
			}
			x[i] = spoil(t, x[i])
			return x
		}
	}
	return rapid.SampledFrom([]any{"", "x", "X Y", "/", "-a", strings.Repeat("y", 5000), json.Number("0"), json.Number("1"), json.Number("100"), json.Number("9007199254740991"), true, map[string]any{}, []any{}, "files", "10.7.0.0/16"}).Draw(t, "value")
}

func sortStrings(s []string) {
	for i := range s {
		for j := i; j > 0 && s[j] < s[j-1]; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
}

// The published schema and the checks of this package say the same about the
// structure of a document, right or wrong.
func TestSchemaAgrees(t *testing.T) {
	for _, mode := range []Mode{Final, Draft} {
		s := compiled(t, mode)
		good, bad := 0, 0
		rapid.Check(t, func(t *rapid.T) {
			doc := any(sampleObject(t, rules().document, mode))
			for range rapid.IntRange(0, 2).Draw(t, "spoil") {
				doc = spoil(t, doc)
			}
			src, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := structure(string(src), mode), s.Validate(v)
			if (ours == nil) != (theirs == nil) {
				t.Fatalf("checks: %v\nschema: %v\n%s", ours, theirs, src)
			}
			if ours == nil {
				good++
			} else {
				bad++
			}
		})
		if good < 20 || bad < 20 {
			t.Errorf("%d good and %d bad documents are too few to compare", good, bad)
		}
	}
}
