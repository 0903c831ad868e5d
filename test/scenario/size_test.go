package scenario

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mountAt mounts an image of the machine at a new directory until the test ends.
func (m *machine) mountAt(name, image string, flags ...string) string {
	m.t.Helper()
	at := m.path(name)
	if err := os.Mkdir(at, 0o755); err != nil {
		m.t.Fatal(err)
	}
	m.must(append([]string{"flist", "mount", image, at}, flags...)...)
	m.t.Cleanup(func() {
		if r := m.run("flist", "unmount", at); r.code != 0 {
			m.t.Errorf("unmount: %v", r)
		}
	})
	return at
}

// A directory of 100 000 files, names of 255 bytes.
func TestManyFiles(t *testing.T) {
	needMounts(t)
	m := newMachine(t)
	const n = 100_000
	f, err := os.Create(m.path("many.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(b)
	content := func(i int) string { return fmt.Sprintf("content of file %d\n", i) }
	for i := range n {
		c := content(i)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d/%06d", i), Mode: 0o644, Size: int64(len(c))}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, c)
	}
	long := strings.Repeat("\xc3\xa9", 127) + "x"
	if err := w.WriteHeader(&tar.Header{Name: "d/" + long, Mode: 0o644, Size: 4}); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "long")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	m.must("key", "new")
	var built struct {
		ID        string
		Entries   int
		Chunks    int
		Published int64
	}
	if err := json.Unmarshal([]byte(m.must("flist", "build", "tar:"+m.path("many.tar"), "-o", "json")), &built); err != nil {
		t.Fatal(err)
	}
	if built.Entries != n+3 {
		t.Errorf("%d entries, want %d", built.Entries, n+3)
	}
	// Small files of a directory share chunks; what describes a file is small.
	if built.Chunks > 100 || built.Published > 30*n {
		t.Errorf("%d chunks, %d bytes to publish", built.Chunks, built.Published)
	}
	at := m.mountAt("mnt", built.ID)
	names, err := os.ReadDir(filepath.Join(at, "d"))
	if err != nil || len(names) != n+1 {
		t.Fatalf("the directory has %d names, %v", len(names), err)
	}
	for _, i := range []int{0, 1, 4999, 50_000, n - 1} {
		if got, err := os.ReadFile(filepath.Join(at, "d", fmt.Sprintf("%06d", i))); string(got) != content(i) {
			t.Errorf("file %d is %q, %v", i, got, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(at, "d", long)); string(got) != "long" {
		t.Errorf("the file with a long name is %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(at, "d", "100000")); !os.IsNotExist(err) {
		t.Errorf("a file that isn't there: %v", err)
	}
}

// A file of 20 GiB that is mostly holes costs what its islands cost.
func TestSparseFile(t *testing.T) {
	needMounts(t)
	m := newMachine(t)
	if err := os.Mkdir(m.path("tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(m.path("tree", "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 20<<30 + 5
	if err := f.Truncate(size); err != nil {
		t.Skipf("the file system has no large files: %v", err)
	}
	island := noise(4, 100<<10)
	offsets := []int64{0, 4<<30 - 1000, 7<<30 + 12345, size - int64(len(island))}
	for _, off := range offsets {
		if _, err := f.WriteAt(island, off); err != nil {
			t.Fatal(err)
		}
	}
	m.must("key", "new")
	var built struct {
		ID      string
		Content int64
		Chunks  int
		Packed  int64 `json:"packed_bytes"`
	}
	if err := json.Unmarshal([]byte(m.must("flist", "build", m.path("tree"), "-o", "json")), &built); err != nil {
		t.Fatal(err)
	}
	if built.Content != size || built.Chunks > 40 || built.Packed > 2<<20 {
		t.Errorf("%d bytes in %d chunks and %d packed bytes", built.Content, built.Chunks, built.Packed)
	}
	at := m.mountAt("mnt", built.ID)
	g, err := os.Open(filepath.Join(at, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if st, err := g.Stat(); err != nil || st.Size() != size {
		t.Errorf("the size is %v, %v", st, err)
	}
	got := make([]byte, len(island))
	for _, off := range offsets {
		if _, err := g.ReadAt(got, off); err != nil || string(got) != string(island) {
			t.Errorf("wrong bytes at %d: %v", off, err)
		}
	}
	for _, off := range []int64{1 << 30, 12 << 30} {
		if _, err := g.ReadAt(got, off); err != nil || strings.Trim(string(got), "\x00") != "" {
			t.Errorf("the hole at %d is no hole: %v", off, err)
		}
	}
}

// One byte put into a big file changes a few chunks.
func TestInsertChangesFewChunks(t *testing.T) {
	m := newMachine(t)
	m.must("key", "new")
	big := noise(5, 16<<20)
	write(t, m.path("tree", "big"), big, 0o644)
	a := m.must("flist", "build", m.path("tree"), "-o", "name")
	write(t, m.path("tree", "big"), append(append(append([]byte(nil), big[:5<<20]...), 'x'), big[5<<20:]...), 0o644)
	b := m.must("flist", "build", m.path("tree"), "-o", "name")
	var d struct {
		Moved int `json:"moved_chunks"`
	}
	if err := json.Unmarshal([]byte(m.must("flist", "diff", a, b, "-o", "json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.Moved < 1 || d.Moved > 3 {
		t.Errorf("%d chunks moved, want 1 to 3", d.Moved)
	}
}
