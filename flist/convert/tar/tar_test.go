package tar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/internal/treetest"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// e is an entry of a test archive.
type e struct {
	typ     byte
	name    string
	link    string
	content string
	pax     map[string]string
	h       tar.Header // further fields
}

func archive(t testing.TB, entries ...e) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, x := range entries {
		h := x.h
		h.Typeflag, h.Name, h.Linkname, h.Size, h.PAXRecords = x.typ, x.name, x.link, int64(len(x.content)), x.pax
		if h.Mode == 0 && x.typ != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
		if x.pax != nil && x.typ != tar.TypeXGlobalHeader {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, x.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func read(t testing.TB, raw []byte, opts convert.Options) (*convert.Result, error) {
	t.Helper()
	opts.TempDir = t.TempDir()
	res, err := ReadFrom(context.Background(), bytes.NewReader(raw), int64(len(raw)), opts)
	if left, _ := os.ReadDir(opts.TempDir); len(left) > 0 {
		t.Errorf("%d files are left in the temporary directory", len(left))
	}
	if err == nil {
		t.Cleanup(func() { res.Close() })
	}
	return res, err
}

func mustRead(t testing.TB, raw []byte) *tree.Node {
	t.Helper()
	res, err := read(t, raw, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return res.Root
}

func write(t testing.TB, root *tree.Node) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Write(context.Background(), &buf, root, convert.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// The law: what is written is read back equal, and writing it again gives the
// same bytes.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		want := treetest.Draw(rt, treetest.Everything())
		raw := write(t, want)
		res, err := ReadFrom(context.Background(), bytes.NewReader(raw), 0, convert.Options{TempDir: dir})
		if err != nil {
			rt.Fatal(err)
		}
		defer res.Close()
		if d := treetest.Diff(want, res.Root); d != "" {
			rt.Fatalf("tree differs:\n%s", d)
		}
		if !bytes.Equal(raw, write(t, res.Root)) {
			rt.Fatal("writing the tree again gave other bytes")
		}
	})
}

func TestExtremes(t *testing.T) {
	root := tree.NewDir(0o755)
	long := &tree.Node{Mode: tree.Regular | 0o6755, UID: 1<<32 - 2, GID: 1 << 31, Mtime: -1, Nsec: 999999999, Size: 3, Content: tree.Bytes("abc")}
	path := strings.Repeat(strings.Repeat("d", 255)+"/", 40) + strings.Repeat("\xff", 255)
	if err := root.Insert(path, long); err != nil {
		t.Fatal(err)
	}
	if err := root.Insert("zz", long); err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat("e/", tree.MaxDepth-1) + "f"
	if err := root.Insert(deep, &tree.Node{Mode: tree.FIFO}); err != nil {
		t.Fatal(err)
	}
	got := mustRead(t, write(t, root))
	if d := treetest.Diff(root, got); d != "" {
		t.Error(d)
	}
	if got.At("zz") != got.At(path) {
		t.Error("the hard link became a copy")
	}
}

func TestPlacement(t *testing.T) {
	reg := func(name, content string) e { return e{typ: tar.TypeReg, name: name, content: content} }
	dir := func(name string) e { return e{typ: tar.TypeDir, name: name, h: tar.Header{Mode: 0o700}} }
	sym := func(name, target string) e { return e{typ: tar.TypeSymlink, name: name, link: target} }
	hard := func(name, target string) e { return e{typ: tar.TypeLink, name: name, link: target} }
	for name, tt := range map[string]struct {
		in   []e
		want string // paths in order
	}{
		"absolute name":                {[]e{reg("/etc/x", "1")}, "etc etc/x=1"},
		"dots and slashes":             {[]e{reg("././/a//b", "1")}, "a a/b=1"},
		"absolute link parent":         {[]e{dir("usr/lib"), sym("lib", "/usr/lib"), reg("lib/x", "1")}, "lib@ usr usr/lib usr/lib/x=1"},
		"absolute link in a directory": {[]e{sym("a/l", "/b"), reg("a/l/x", "1")}, "a a/l@ b b/x=1"},
		"relative link in a directory": {[]e{sym("a/l", "b/../c"), reg("a/l/x", "1")}, "a a/b a/c a/c/x=1 a/l@"},
		"link parent stays inside":     {[]e{sym("up", "../../../.."), reg("up/etc/x", "1")}, "etc etc/x=1 up@"},
		"link in a link":               {[]e{sym("a", "b/c"), sym("b", "d"), reg("a/x", "1")}, "a@ b@ d d/c d/c/x=1"},
		"dangling parent":              {[]e{sym("lib", "usr/lib"), reg("lib/x", "1"), dir("usr")}, "lib@ usr usr/lib usr/lib/x=1"},
		"last wins":                    {[]e{reg("a", "1"), reg("a", "2")}, "a=2"},
		"directory over link":          {[]e{dir("b"), sym("a", "b"), dir("a"), reg("a/x", "1")}, "a a/x=1 b"},
		"directory over directory":     {[]e{reg("a/x", "1"), dir("a")}, "a a/x=1"},
		"file over directory":          {[]e{reg("a/x", "1"), reg("a", "2")}, "a=2"},
		"link over directory, in use":  {[]e{reg("a/x", "1"), dir("b"), sym("a", "b"), reg("a/y", "2")}, "a@ b b/y=2"},
		"hard link":                    {[]e{reg("a", "1"), hard("b/c", "/a")}, "a=1 b b/c=1"},
		"hard link to itself":          {[]e{reg("a", "1"), hard("a", "a")}, "a=1"},
		"hard link keeps the old":      {[]e{reg("a", "1"), hard("b", "a"), reg("a", "2")}, "a=2 b=1"},
		"hard link by link":            {[]e{reg("d/a", "1"), sym("l", "d"), hard("b", "l/a")}, "b=1 d d/a=1 l@"},
		"hard link to a link":          {[]e{sym("a", "x"), hard("b", "a")}, "a@ b@"},
		"whiteouts are plain names":    {[]e{reg("a", "1"), reg(".wh.a", "2")}, ".wh.a=2 a=1"},
		"volume label":                 {[]e{{typ: 'V', name: "backup"}, reg("a", "1")}, "a=1"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sketch(t, mustRead(t, archive(t, tt.in...))); got != tt.want {
				t.Errorf("tree = %s, want %s", got, tt.want)
			}
		})
	}
}

// A content that lost its last name takes no disk; one that has another name
// stays.
func TestReplacedContents(t *testing.T) {
	spool, err := convert.NewSpool(t.TempDir(), convert.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	b := NewBuilder(spool, convert.Limits{})
	for _, layer := range [][]e{
		{{typ: tar.TypeReg, name: "once", content: big}, {typ: tar.TypeReg, name: "twice", content: big}, {typ: tar.TypeReg, name: "d/gone", content: big}},
		{{typ: tar.TypeLink, name: "other", link: "twice"}, {typ: tar.TypeReg, name: "once", content: "new"}, {typ: tar.TypeReg, name: "d/.wh..wh..opq"}},
		{{typ: tar.TypeReg, name: ".wh.twice"}},
	} {
		if err := b.Apply(t.Context(), bytes.NewReader(archive(t, layer...)), Layer); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.Root().At("other"); n == nil || n.Size != 1<<20 {
		t.Fatalf("other = %+v", n)
	} else if got, err := n.ReadAll(1 << 20); err != nil || string(got) != big {
		t.Errorf("the content of the name that is left changed: %v", err)
	}
	if _, disk := spool.Usage(); disk > 3<<19 {
		t.Errorf("%d bytes on disk for one content of 1 MiB", disk)
	}
}

// sketch is the paths of a tree, with =content and @ for links.
func sketch(t testing.TB, root *tree.Node) string {
	t.Helper()
	var out []string
	for p, n := range root.Walk() {
		switch {
		case p == "":
			continue
		case n.IsRegular():
			b, err := n.ReadAll(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			p += "=" + string(b)
		case n.Type() == tree.Symlink:
			p += "@"
		}
		out = append(out, p)
	}
	return strings.Join(out, " ")
}

func TestGlobalHeader(t *testing.T) {
	root := mustRead(t, archive(t,
		e{typ: tar.TypeXGlobalHeader, pax: map[string]string{"comment": "0123", "mtime": "-1.5", "uid": "7"}},
		e{typ: tar.TypeReg, name: "a"},
		e{typ: tar.TypeReg, name: "b", pax: map[string]string{"SCHILY.xattr.user.empty": ""}, h: tar.Header{ModTime: time.Unix(5, 5), Uid: 1 << 22}},
	))
	if n := root.At("a"); n.Mtime != -2 || n.Nsec != 500000000 || n.UID != 7 {
		t.Errorf("a = %+v", n)
	}
	if n := root.At("b"); n.Mtime != 5 || n.Nsec != 5 || n.UID != 1<<22 || len(n.Xattrs) != 1 {
		t.Errorf("b = %+v", n)
	}
}

func TestACL(t *testing.T) {
	root := mustRead(t, archive(t, e{typ: tar.TypeDir, name: "d", pax: map[string]string{
		"SCHILY.acl.access":  "user::rwx,user:joe:r-x:1000,group::r-x,mask::rwx,other::---",
		"SCHILY.acl.default": "user::rwx\ngroup::r-x\nother::r--\n",
	}}, e{typ: tar.TypeReg, name: "f", pax: map[string]string{"SCHILY.acl.access": "user::rw-,group::r--,other::r--"}}))
	want := []tree.Xattr{
		{Name: "system.posix_acl_access", Value: "\x02\x00\x00\x00" +
			"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\xe8\x03\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
			"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"},
		{Name: "system.posix_acl_default", Value: "\x02\x00\x00\x00" +
			"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"},
	}
	if got := root.At("d").Xattrs; fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("attributes = %q, want %q", got, want)
	}
	if got := root.At("f").Xattrs; len(got) != 0 {
		t.Errorf("a list equal to the mode became %q", got)
	}
}

func TestOptions(t *testing.T) {
	raw := archive(t,
		e{typ: tar.TypeReg, name: "a.o", h: tar.Header{ModTime: time.Unix(50, 0)}},
		e{typ: tar.TypeReg, name: "d/b.o"}, e{typ: tar.TypeReg, name: "d/c"}, e{typ: tar.TypeReg, name: "var/cache/x/y"})
	limit := int64(10)
	var last [2]int64
	res, err := read(t, raw, convert.Options{Exclude: []string{"b.*", "/var/cache/**"}, ClampMtime: &limit,
		Progress: func(_ string, done, total int64) { last = [2]int64{done, total} }})
	if err != nil {
		t.Fatal(err)
	}
	if got := sketch(t, res.Root); got != "a.o= d d/c= var" {
		t.Errorf("tree = %s", got)
	}
	if n := res.Root.At("a.o"); n.Mtime != 10 {
		t.Errorf("mtime = %d, want the limit", n.Mtime)
	}
	if last != [2]int64{int64(len(raw)), int64(len(raw))} {
		t.Errorf("last progress = %v of %d bytes", last, len(raw))
	}
	if !strings.HasPrefix(res.Source, "tar:sha256:") || len(res.Source) != 75 {
		t.Errorf("source = %q", res.Source)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadFrom(ctx, bytes.NewReader(raw), 0, convert.Options{TempDir: t.TempDir()}); fault.Of(err) != fault.Unavailable {
		t.Errorf("cancelled: %v", err)
	}
}

func TestStdin(t *testing.T) {
	raw := archive(t, e{typ: tar.TypeReg, name: "a", content: "1"})
	// A pipe delivers what it has, not what was asked for.
	in := iotest.OneByteReader(bytes.NewReader(raw))
	res, err := Read(t.Context(), "-", convert.Options{TempDir: t.TempDir(), Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	if got := sketch(t, res.Root); got != "a=1" {
		t.Errorf("tree = %s", got)
	}
	for path, kind := range map[string]fault.Kind{"-": fault.Invalid, t.TempDir(): fault.Invalid, "/no/such.tar": fault.NotFound} {
		if _, err := Read(t.Context(), path, convert.Options{}); fault.Of(err) != kind {
			t.Errorf("Read(%q) = %v, want %s", path, err, kind)
		}
	}
	in = iotest.TimeoutReader(bytes.NewReader(raw))
	if _, err := Read(t.Context(), "-", convert.Options{TempDir: t.TempDir(), Stdin: in}); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("a reader that breaks: %v", err)
	}
}

// Hundreds of thousands of entries in one directory, in the worst order, take
// time in proportion. A quadratic insertion would move 240 GB here.
func TestManyInOneDirectory(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	const n = 100_000
	for i := range n {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d/%06d", n-i)}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	root := mustRead(t, buf.Bytes())
	if got := len(root.At("d").Entries); got != n {
		t.Errorf("%d entries, want %d", got, n)
	}
}

// A tool that is not ours writes the archive and reads ours back.
func TestGNUTar(t *testing.T) {
	gnu, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("no tar program")
	}
	src := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(src, "d/sub"), 0o755))
	must(os.WriteFile(filepath.Join(src, "d/file"), []byte("hello"), 0o4755))
	must(os.Chmod(filepath.Join(src, "d/file"), 0o755|os.ModeSetuid))
	must(os.Link(filepath.Join(src, "d/file"), filepath.Join(src, "d/sub/hard")))
	must(os.Symlink("../file", filepath.Join(src, "d/sub/soft")))
	must(os.Chtimes(filepath.Join(src, "d/file"), time.Unix(0, 0), time.Unix(1600000000, 123456789)))
	sparse, err := os.Create(filepath.Join(src, "d/sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("middle"), 3<<30)
	must(err)
	must(sparse.Truncate(5 << 30))
	must(sparse.Close())
	for _, format := range []string{"pax", "gnu"} {
		t.Run(format, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "x.tar")
			if msg, err := exec.Command(gnu, "-C", src, "--format="+format, "--sparse", "-cf", out, ".").CombinedOutput(); err != nil {
				t.Skipf("tar: %v %s", err, msg)
			}
			res, err := Read(t.Context(), out, convert.Options{TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer res.Close()
			f := res.Root.At("d/file")
			if f == nil || f != res.Root.At("d/sub/hard") || f.Mode != tree.Regular|0o4755 || f.Mtime != 1600000000 {
				t.Errorf("file = %+v", f)
			}
			if format == "pax" && f.Nsec != 123456789 {
				t.Errorf("nanoseconds = %d", f.Nsec)
			}
			s := res.Root.At("d/sparse")
			if s.Size != 5<<30 {
				t.Fatalf("sparse file has %d bytes", s.Size)
			}
			r, err := s.Content.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got := make([]byte, 10)
			if _, err := r.(io.ReaderAt).ReadAt(got, 3<<30-2); err != nil || string(got) != "\x00\x00middle\x00\x00" {
				t.Errorf("sparse content = %q, %v", got, err)
			}
		})
	}
	raw := write(t, mustRead(t, archive(t, e{typ: tar.TypeReg, name: "a\xff/b", content: "1"}, e{typ: tar.TypeLink, name: "c", link: "a\xff/b"})))
	cmd := exec.Command(gnu, "-C", t.TempDir(), "-tvf", "-")
	cmd.Stdin = bytes.NewReader(raw)
	if msg, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(msg), `a\377/b`) {
		t.Errorf("tar -t: %v %s", err, msg)
	}
}
