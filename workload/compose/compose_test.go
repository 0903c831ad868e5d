package compose

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/internal/fault"
	"zos.internal/workload"
)

var update = flag.Bool("update", false, "write golden files")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestFiles converts realistic files. The drafts and all notes are golden.
func TestFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.compose.yaml")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		base := strings.TrimSuffix(f, ".compose.yaml")
		r, err := Convert(src, Options{Name: filepath.Base(base), PublicIP: strings.HasSuffix(base, "shop"), ReadFile: func(name string) ([]byte, error) {
			return os.ReadFile(filepath.Join("testdata", filepath.Base(name)))
		}})
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		var notes strings.Builder
		for _, n := range r.Notes {
			fmt.Fprintln(&notes, n)
		}
		golden(t, base+".draft.yaml", string(r.YAML))
		golden(t, base+".notes", notes.String())
		d, err := workload.Read(r.YAML, workload.Draft)
		if err != nil || len(d.Workloads) == 0 {
			t.Errorf("%s: %v", f, err)
		}
		again, err := Convert(src, Options{Name: filepath.Base(base), PublicIP: strings.HasSuffix(base, "shop"), ReadFile: func(name string) ([]byte, error) {
			return os.ReadFile(filepath.Join("testdata", filepath.Base(name)))
		}})
		if err != nil || string(again.YAML) != string(r.YAML) || fmt.Sprint(again.Notes) != fmt.Sprint(r.Notes) {
			t.Errorf("%s: converted again it differs", f)
		}
	}
}

// Nothing of the machine leaks in: neither variables nor files.
func TestNothingLeaksIn(t *testing.T) {
	t.Setenv("LEAK", "leaked-value")
	dir := t.TempDir()
	for _, name := range []string{".env", "x.env", "labels", "compose.override.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("LEAK=leaked-value\nX=leaked-value\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	src := "services:\n  a:\n    image: a:${LEAK}x\n    env_file: x.env\n    label_file: labels\n    command: ~/x\n    environment: [LEAK, \"B=${LEAK:-standard}\"]\n    volumes: [\"~/y:/y\", \"./x.env:/x.env\"]\n"
	r, err := Convert([]byte(src), Options{})
	if err != nil {
		t.Fatal(err)
	}
	home, _ := os.UserHomeDir()
	for _, leak := range []string{"leaked-value", dir, home + "/"} {
		if strings.Contains(string(r.YAML), leak) {
			t.Errorf("%q leaks into\n%s", leak, r.YAML)
		}
	}
	text := fmt.Sprint(r.Notes)
	for _, want := range []string{"${LEAK}: the variable is not set", "env_file[0]: x.env cannot be read", "environment.LEAK: its value comes from the shell", "label_file", "volumes[0]", "volumes[1]"} {
		if !strings.Contains(text, want) {
			t.Errorf("no note %q in %s", want, text)
		}
	}
	if !strings.Contains(string(r.YAML), `B: "standard"`) {
		t.Errorf("no default of a variable in\n%s", r.YAML)
	}
}

func TestRefuses(t *testing.T) {
	bomb := "services: {a: {image: b}}\nx0: &x0 [y,y,y,y,y,y,y,y,y,y]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("x%d: &x%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d,", i), 10), ","))
	}
	for name, tt := range map[string]struct{ src, want string }{
		"empty":             {"", "not a compose file"},
		"no YAML":           {"services: [", "not a compose file"},
		"no services":       {"volumes: {}", "no services"},
		"a list":            {"- a", "not a compose file"},
		"unknown key":       {"services: {a: {image: b, imaeg: c}}", "imaeg"},
		"include":           {"include: [https://example.com/x.yaml]\nservices: {a: {image: b}}", "other files are not read"},
		"extends a file":    {"services: {a: {extends: {file: /etc/passwd, service: b}}}", "other files are not read"},
		"required variable": {"services: {a: {image: \"${X:?must be set}\"}}", "must be set"},
		"undefined network": {"services: {a: {image: b, networks: [nowhere]}}", "nowhere"},
		"bomb":              {bomb, "excessive aliasing"},
		"copies":            {"services: {a: {image: b, scale: 1000}}", "too many for one node"},
		"too much memory":   {"services: {a: {image: b, mem_limit: 1000g}}", "at most 274877906944"},
		"too big":           {strings.Repeat(" ", MaxBytes+1), "at most"},
		"two documents":     {"services: {a: {image: b}}\n---\nx: 1\n", "second document"},
	} {
		if _, err := Convert([]byte(tt.src), Options{}); err == nil || !strings.Contains(err.Error(), tt.want) || fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v (%v), want invalid: %s", name, err, fault.Of(err), tt.want)
		}
	}
}

func FuzzConvert(f *testing.F) {
	for _, s := range []string{"services: {a: {image: b}}", "services:\n  a:\n    image: b\n    ports: [\"1-3:1-3\"]\n    volumes: [\"v:/v\"]\nvolumes: {v: }\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		r, err := Convert([]byte(src), Options{PublicIP: true})
		if err != nil {
			return
		}
		if _, err := workload.Read(r.YAML, workload.Draft); err != nil {
			t.Fatalf("%v\n%s", err, r.YAML)
		}
	})
}
