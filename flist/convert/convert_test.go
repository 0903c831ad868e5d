package convert

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"*.o", "a.o", true}, {"*.o", "src/x/a.o", true}, {"*.o", "src.o/a.c", false},
		{"/tmp", "tmp", true}, {"/tmp", "var/tmp", false}, {"tmp", "var/tmp", true}, {"tmp/", "var/tmp", true},
		{"var/cache", "var/cache", true}, {"var/cache", "x/var/cache", false}, {"/var/cache/**", "var/cache/a/b", true},
		{"**/cache", "a/b/cache", true}, {"**/cache", "cache", true}, {"a/**/b", "a/b", true}, {"a/**/b", "a/x/y/b", true}, {"a/**/b", "a/x/y/c", false},
		{"usr/*/doc", "usr/share/doc", true}, {"usr/*/doc", "usr/share/x/doc", false}, {"[a-c]?", "bz", true}, {"[a-c]?", "dz", false},
		{"**", "a/b", true}, {"./a", "a", true},
	} {
		if got, err := Match(tt.pattern, tt.path); err != nil || got != tt.want {
			t.Errorf("Match(%q, %q) = %v, %v, want %v", tt.pattern, tt.path, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "/", "[", "a/[/b", "../x", strings.Repeat("a/", 65)} {
		if _, err := Match(bad, "a"); fault.Of(err) != fault.Invalid {
			t.Errorf("Match(%q): %v, want invalid", bad, err)
		}
	}
	// No pattern takes more than pattern times path.
	long := strings.Repeat("a/", 1000) + "b"
	if got, err := Match(strings.Repeat("**/a/", 30)+"c", long); got || err != nil {
		t.Errorf("= %v, %v", got, err)
	}
}

func TestPruneAndClamp(t *testing.T) {
	root := tree.NewDir(0o755)
	shared := &tree.Node{Mode: tree.Regular, Mtime: 100, Nsec: 1}
	for _, p := range []string{"a/x.o", "a/y", "b/x.o", "z"} {
		if err := root.Insert(p, shared); err != nil {
			t.Fatal(err)
		}
	}
	if err := Prune(root, []string{"*.o"}); err != nil {
		t.Fatal(err)
	}
	if root.At("a/x.o") != nil || root.At("b/x.o") != nil || root.At("a/y") == nil || root.At("b") == nil {
		t.Error("pruned the wrong entries")
	}
	limit := int64(100)
	Clamp(root, &limit)
	if shared.Mtime != 100 || shared.Nsec != 0 {
		t.Errorf("clamped to %d.%d", shared.Mtime, shared.Nsec)
	}
}

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	s, err := NewSpool(dir, Limits{Bytes: 10 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("the spool has a name: %v", left)
	}
	contents := []string{"", "a", strings.Repeat("\x00", 4096), strings.Repeat("\x00", 64<<10), strings.Repeat("ab\x00", 50000),
		strings.Repeat("\x00", 300<<10) + "x" + strings.Repeat("\x00", 300<<10), strings.Repeat("\x00", 1<<20)}
	blobs := make([]*Blob, len(contents))
	var wg sync.WaitGroup
	for i, c := range contents {
		wg.Go(func() {
			b, err := s.Add(t.Context(), strings.NewReader(c), int64(len(c)))
			if err != nil {
				t.Error(err)
			}
			blobs[i] = b
		})
	}
	wg.Wait()
	for i, b := range blobs {
		r, err := b.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != contents[i] || b.Size() != int64(len(contents[i])) {
			t.Errorf("content %d differs: %d bytes, %v", i, len(got), err)
		}
		r.Close()
	}
	if _, disk := s.Usage(); disk > 400<<10 {
		t.Errorf("%d bytes on disk for 150 KiB that are not zero", disk)
	}
	_, before := s.Usage()
	s.Drop(blobs[4])
	if _, after := s.Usage(); after >= before {
		t.Skipf("the file system makes no holes")
	}
	if _, err := s.Add(t.Context(), strings.NewReader("abc"), 4); fault.Of(err) != fault.Invalid || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short content: %v", err)
	}
	r := strings.NewReader("abcdef")
	if _, err := s.Add(t.Context(), r, 4); err != nil || r.Len() != 2 {
		t.Errorf("read beyond the size: %d left, %v", r.Len(), err)
	}
	for _, size := range []int64{-1, 10 << 20, 1 << 62} {
		if _, err := s.Add(t.Context(), strings.NewReader(""), size); fault.Of(err) != fault.Exhausted {
			t.Errorf("size %d: %v, want exhausted", size, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Add(ctx, strings.NewReader("a"), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := NewSpool(filepath.Join(dir, "no"), Limits{}); err == nil {
		t.Error("a spool in no directory")
	}
}

func TestContents(t *testing.T) {
	n := func(size int64, c tree.Content) *tree.Node {
		return &tree.Node{Mode: tree.Regular, Size: size, Content: c}
	}
	for name, tt := range map[string]struct {
		n    *tree.Node
		c    Contents
		want string
		kind fault.Kind
	}{
		"own":      {n: n(2, tree.Bytes("ab")), want: "ab"},
		"empty":    {n: n(0, nil), want: ""},
		"by image": {n: n(2, nil), c: func(*tree.Node) (io.ReadCloser, error) { return tree.Bytes("cd").Open() }, want: "cd"},
		"short":    {n: n(3, tree.Bytes("ab")), kind: fault.Conflict},
		"long":     {n: n(1, tree.Bytes("ab")), kind: fault.Conflict},
		"none":     {n: n(1, nil), kind: fault.Internal},
	} {
		r, err := tt.c.Open(tt.n)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
			r.Close()
		}
		if fault.Of(err) != tt.kind || tt.kind == "" && string(got) != tt.want {
			t.Errorf("%s: %q, %v, want %q, %s", name, got, err, tt.want, tt.kind)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	file("layout/oci-layout", "{}")
	file("a:b", "x")
	var got string
	opener := func(scheme string) Opener {
		return func(_ context.Context, path string, _ Options) (*Result, error) {
			got = scheme + " " + strings.TrimPrefix(path, dir)
			return &Result{Root: tree.NewDir(0o755)}, nil
		}
	}
	table := Table{}
	for _, s := range []string{"dir", "tar", "oci", "fl", "registry", "docker-archive"} {
		table[s] = opener(s)
	}
	for ref, want := range map[string]string{
		"registry:localhost:5000/a:1": "registry localhost:5000/a:1", "dir:" + dir: "dir ", dir: "dir ", "-": "tar -", "tar:-": "tar -",
		dir + "/layout": "oci /layout", file("x.fl", "SQLite format 3\x00..."): "fl /x.fl", file("x.tar", "whatever"): "tar /x.tar",
		file("empty", ""): "tar /empty", dir + "/a:b": "tar /a:b",
	} {
		res, err := Open(t.Context(), ref, table, Options{})
		if err != nil {
			t.Errorf("Open(%q): %v", ref, err)
			continue
		}
		res.Close()
		if got != want {
			t.Errorf("Open(%q) opened %q, want %q", ref, got, want)
		}
	}
	for ref, tt := range map[string]struct {
		kind fault.Kind
		want string
	}{
		"qsfs:x":                   {fault.NotFound, `no scheme "qsfs"; use one of dir:, docker-archive:, fl:, oci:, registry:, tar:`},
		dir + "/none":              {fault.NotFound, "no such file"},
		"registry.example/nginx:1": {fault.NotFound, "registry:registry.example/nginx:1"},
		"localhost:5000/nginx":     {fault.NotFound, "registry:localhost:5000/nginx"},
		"dir:":                     {fault.Invalid, "dir:PATH"},
	} {
		if _, err := Open(t.Context(), ref, table, Options{}); fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Open(%q) = %v, want %s with %q", ref, err, tt.kind, tt.want)
		}
	}
	delete(table, "fl")
	if _, err := Open(t.Context(), dir+"/x.fl", table, Options{}); fault.Of(err) != fault.Unsupported {
		t.Errorf("without fl: %v", err)
	}
}

func TestFinish(t *testing.T) {
	closed := 0
	bad := &Result{Root: &tree.Node{Mode: tree.Regular}}
	bad.OnClose(closer(func() error { closed++; return nil }))
	if _, err := Finish(bad, Options{}); fault.Of(err) != fault.Invalid || closed != 1 {
		t.Errorf("Finish = %v, closed %d times", err, closed)
	}
	var order bytes.Buffer
	good := &Result{Root: tree.NewDir(0o755)}
	good.OnClose(closer(func() error { order.WriteString("1"); return io.ErrClosedPipe }))
	good.OnClose(closer(func() error { order.WriteString("2"); return nil }))
	if res, err := Finish(good, Options{}); err != nil || res.Config == nil {
		t.Errorf("Finish = %+v, %v", res, err)
	}
	if err := good.Close(); err != io.ErrClosedPipe || order.String() != "21" {
		t.Errorf("Close = %v in the order %s", err, &order)
	}
	if err := good.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

type closer func() error

func (c closer) Close() error { return c() }
