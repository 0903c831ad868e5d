package fl

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/flist/config"
	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
)

var update = flag.Bool("update", false, "make the golden files and seeds that are missing; those that exist never change")

// goldens are kept for ever: byhand.fl was made by SQL as in sample, written.fl
// by the first Write. Their blocks are in testdata/blocks.
func TestGoldenFiles(t *testing.T) {
	if *update {
		makeGoldens(t)
	}
	store, err := filepath.Abs("testdata/blocks")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"byhand", "written"} {
		res := read(t, "testdata/"+name+".fl", ReadOptions{Stores: []string{"dir://" + store}})
		want, err := os.ReadFile("testdata/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), describe(t, res.Root, res.Config)); d != "" {
			t.Errorf("%s.fl differs (-want +got):\n%s", name, d)
		}
	}
}

// describe is all that a .fl says, as text.
func describe(t *testing.T, root *tree.Node, c *config.Config) string {
	var b strings.Builder
	for path, n := range root.Walk() {
		fmt.Fprintf(&b, "/%s %o %d:%d %d.%d", path, n.Mode, n.UID, n.GID, n.Mtime, n.Nsec)
		switch n.Type() {
		case tree.Regular:
			fmt.Fprintf(&b, " %d %q", n.Size, fileBytes(t, root, path))
		case tree.Symlink:
			fmt.Fprintf(&b, " -> %q", n.Target)
		case tree.Char, tree.Block:
			fmt.Fprintf(&b, " %d,%d", n.Major, n.Minor)
		}
		b.WriteByte('\n')
	}
	raw, err := c.OCI()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%s\n", raw)
	return b.String()
}

func makeGoldens(t *testing.T) {
	f := sample(t)
	f.exec("update route set url = 'dir:///srv/blocks'")
	f.exec("vacuum")
	f.db.Close()
	root := tree.NewDir(0o755)
	root.Mtime = 1700000000
	for path, n := range map[string]*tree.Node{
		"bin/app":  {Mode: tree.Regular | 0o4755, UID: 5, GID: 6, Mtime: -1, Size: 10, Content: tree.Bytes("#!/bin/sh\n")},
		"bin/sh":   {Mode: tree.Symlink | 0o777, Target: "app"},
		"dev/disk": {Mode: tree.Block | 0o660, Major: 259, Minor: 65536},
		"two":      regular("two\n"),
	} {
		if err := root.Insert(path, n); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &config.Config{Entrypoint: []string{"/bin/app"}, Env: []string{"A=1"}, Workdir: "/bin", Labels: map[string]string{"fl.tag.version": "1"}}
	written, blocks, _ := write(t, root, cfg, WriteOptions{Strict: true, ID: strings.Repeat("0f", 32)})
	small := newFixture(t)
	small.inode(1, 0, "/", 0o40755, 0)
	small.inode(2, 1, "f", 0o100644, 1)
	small.inode(3, 1, "l", 0o120777, 1)
	small.exec("insert into extra values (3, ?)", []byte("f"))
	small.block(2, []byte("x"))
	small.exec("insert into tag values ('a', 'b')")
	small.exec("insert into route values (0, 255, 'dir:///srv/blocks')")
	small.exec("vacuum")
	small.db.Close()

	copyNew(t, f.file, "testdata/byhand.fl")
	copyNew(t, written, "testdata/written.fl")
	for _, dir := range []string{f.store, blocks} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			copyNew(t, path, "testdata/blocks/"+rel)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := filepath.Abs("testdata/blocks")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"byhand", "written"} {
		res := read(t, "testdata/"+name+".fl", ReadOptions{Stores: []string{"dir://" + store}})
		fileNew(t, "testdata/"+name+".txt", []byte(describe(t, res.Root, res.Config)))
	}
	raw, err := os.ReadFile(small.file)
	if err != nil {
		t.Fatal(err)
	}
	fileNew(t, "testdata/fuzz/FuzzRead/small", []byte(fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", raw)))
}

func copyNew(t *testing.T, from, to string) {
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	fileNew(t, to, raw)
}

// fileNew writes a file unless it is there.
func fileNew(t *testing.T, path string, raw []byte) {
	if _, err := os.Stat(path); err == nil {
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The vectors of docs/reference/fl.md: a body of literals only, as any snappy
// encoder may write it.
func TestVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if len(lines) < 3 {
		t.Fatalf("%d vectors, want at least 3", len(lines))
	}
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("vector %q has %d fields, want plain, key, stored, id", line, len(f))
		}
		var v [4][]byte
		for i := range v {
			if v[i], err = hex.DecodeString(f[i]); err != nil {
				t.Fatal(err)
			}
		}
		got, err := (store.Block{ID: store.ID(v[3]), Key: store.Key(v[1])}).Open(v[2])
		if err != nil || string(got) != string(v[0]) {
			t.Errorf("Open(%s) = %x, %v, want %s", f[3], got, err, f[0])
		}
		if _, b, err := store.Seal(v[0]); err != nil || b.Key != store.Key(v[1]) {
			t.Errorf("Seal(%s) has the key %x, %v, want %s", f[0], b.Key, err, f[1])
		}
		doc, err := os.ReadFile("../../../docs/reference/fl.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range f {
			if !strings.Contains(string(doc), x) {
				t.Errorf("docs/reference/fl.md lacks %s", x)
			}
		}
	}
}
