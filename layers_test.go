package zos

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "zos.internal/"

// layer says which rooms of the house a room may use. Imports are parsed, not
// asked from the go command: its cached answer would hide a forbidden one.
type layer struct {
	room string
	uses []string
}

func layers() []layer {
	base := []string{"internal", "identity", "block", "web", "flist", "workload"}
	with := func(more ...string) []string { return append(append([]string{}, base...), more...) }
	clients := []string{"hub/client", "hub/protocol", "zdb/client", "chain/client", "relay/client"}
	return []layer{
		{"internal", nil},
		{"identity", []string{"internal"}},
		{"block", []string{"internal"}},
		{"web", []string{"internal"}},
		{"flist", []string{"internal", "identity", "block"}},
		{"workload", []string{"internal", "identity", "block", "flist"}},
		{"hub", base},
		{"zdb", base},
		{"qsfs", with("zdb/client")},
		{"chain", base},
		{"relay", base},
		{"node", with(clients...)},
		{"grid", with(clients...)},
		{"explorer", with(append(clients, "grid")...)},
		{"boot", with(append(clients, "grid")...)},
	}
}

// free rooms may use anything.
func free(room string) bool {
	switch room {
	case "cmd", "test", "examples", "docs", ".":
		return true
	}
	return false
}

func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func TestLayers(t *testing.T) {
	uses := make(map[string][]string)
	for _, l := range layers() {
		uses[l.room] = l.uses
	}
	files := 0
	for path := range goFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(path))
		room, _, _ := strings.Cut(dir, "/")
		if free(room) {
			continue
		}
		allowed, known := uses[room]
		if !known {
			t.Errorf("%s: the room %q is not in the layer table of layers_test.go", path, room)
			continue
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			p, ours := strings.CutPrefix(p, module)
			if !ours || within(p, room) {
				continue
			}
			ok := false
			for _, u := range allowed {
				ok = ok || within(p, u)
			}
			if !ok {
				t.Errorf("%s imports %s, which is above or beside %s; move the code or take an interface", path, p, room)
			}
		}
	}
	if files < 50 {
		t.Errorf("only %d files were looked at; the walk is broken", files)
	}
}

// goFiles yields every Go file of the module with its content.
func goFiles(t *testing.T) map[string]bool {
	t.Helper()
	out := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin" || filepath.ToSlash(path) == "test/tools") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			out[path] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
