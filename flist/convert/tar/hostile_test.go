package tar

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

func TestCompressions(t *testing.T) {
	plain := archive(t, e{typ: tar.TypeReg, name: "a", content: strings.Repeat("hello", 5000)})
	for name, wrap := range map[string]func(w io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			z, err := wrap(&buf)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := z.Write(plain); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			raw := buf.Bytes()
			if n := mustRead(t, raw).At("a"); n == nil || n.Size != 25000 {
				t.Errorf("a = %+v", n)
			}
			// Every cut of the compressed stream is noticed, the checksum at its
			// end included.
			for i := range raw {
				if _, err := read(t, raw[:i], convert.Options{}); fault.Of(err) != fault.Invalid {
					t.Fatalf("cut after %d of %d bytes: %v, want invalid", i, len(raw), err)
				}
			}
			for i := len(raw) - 4; i < len(raw); i++ {
				bad := bytes.Clone(raw)
				bad[i] ^= 0x40
				if _, err := read(t, bad, convert.Options{}); fault.Of(err) != fault.Invalid {
					t.Errorf("flip in byte %d of %d: %v, want invalid", i, len(raw), err)
				}
			}
		})
	}
}

func TestCutAtEveryBlock(t *testing.T) {
	root := tree.NewDir(0o755)
	for _, n := range []string{"a", "b/c", "b/\xff"} {
		s := strings.Repeat("\x00", 1500)
		root.Insert(n, &tree.Node{Mode: tree.Regular, Mtime: 1, Nsec: 5, Size: int64(len(s)), Content: tree.Bytes(s), Xattrs: []tree.Xattr{{Name: "user.x", Value: "y"}}})
	}
	raw := write(t, root)
	for cut := 0; cut < len(raw)-512; cut += 512 {
		for _, n := range []int{cut, cut + 1, cut + 511} {
			if _, err := read(t, raw[:n], convert.Options{}); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "cut") && !strings.Contains(err.Error(), "ends") && !strings.Contains(err.Error(), "EOF") {
				t.Fatalf("cut after %d of %d bytes: %v, want invalid", n, len(raw), err)
			}
		}
	}
	mustRead(t, raw[:len(raw)-512]) // one block of zeros is an end
}

func TestHostile(t *testing.T) {
	reg := func(name string) e { return e{typ: tar.TypeReg, name: name, content: "x"} }
	sym := func(name, target string) e { return e{typ: tar.TypeSymlink, name: name, link: target} }
	hard := func(name, target string) e { return e{typ: tar.TypeLink, name: name, link: target} }
	many := func(n int, f func(i int) e) []e {
		es := make([]e, n)
		for i := range es {
			es[i] = f(i)
		}
		return es
	}
	for name, tt := range map[string]struct {
		in     []e
		limits convert.Limits
		kind   fault.Kind
		want   string
	}{
		"dot dot":             {in: []e{reg("../etc/passwd")}, kind: fault.Invalid, want: `"../etc/passwd"`},
		"dot dot inside":      {in: []e{reg("a/../../etc/passwd")}, kind: fault.Invalid, want: "leaves the tree"},
		"dot dot at end":      {in: []e{{typ: tar.TypeDir, name: "a/.."}}, kind: fault.Invalid, want: "leaves the tree"},
		"hard link outside":   {in: []e{hard("a", "../../etc/shadow")}, kind: fault.Invalid, want: "leaves the tree"},
		"hard link absolute":  {in: []e{hard("a", "/etc/shadow")}, kind: fault.Invalid, want: "not in the archive"},
		"hard link missing":   {in: []e{hard("a", "b")}, kind: fault.Invalid, want: `"b"`},
		"hard link later":     {in: []e{hard("a", "b"), reg("b")}, kind: fault.Invalid, want: "before it"},
		"hard link to dir":    {in: []e{{typ: tar.TypeDir, name: "d"}, hard("d/x", "d")}, kind: fault.Invalid, want: "is a directory"},
		"hard link to root":   {in: []e{hard("x", "./")}, kind: fault.Invalid, want: "is a directory"},
		"hard link of root":   {in: []e{reg("a"), hard("./", "a")}, kind: fault.Invalid, want: "root"},
		"hard link by link":   {in: []e{sym("l", "/../.."), hard("a", "l/etc/shadow")}, kind: fault.Invalid, want: "not in the archive"},
		"root is a file":      {in: []e{reg(".")}, kind: fault.Invalid, want: "root"},
		"root is a link":      {in: []e{sym(".", "/etc")}, kind: fault.Invalid, want: "root"},
		"symlink circle":      {in: []e{sym("a", "b"), sym("b", "a"), reg("a/x")}, kind: fault.Invalid, want: "circle"},
		"symlink to itself":   {in: []e{sym("a", "a/a"), reg("a/x")}, kind: fault.Invalid, want: "circle"},
		"file as a directory": {in: []e{reg("a"), reg("a/b")}, kind: fault.Invalid, want: `"a" on the way`},
		"link to a file":      {in: []e{reg("f"), sym("a", "f"), reg("a/b")}, kind: fault.Invalid, want: `"f" on the way`},
		"long name":           {in: []e{reg(strings.Repeat("n", 256))}, kind: fault.Invalid, want: "256 bytes"},
		"long target":         {in: []e{sym("a", strings.Repeat("n", 4096))}, kind: fault.Invalid, want: "4096"},
		"too deep":            {in: []e{reg(strings.Repeat("a/", 1025) + "b")}, kind: fault.Invalid, want: "deep"},
		"too deep by a link": {in: []e{reg(strings.Repeat("a/", 1000) + "f"), sym("l", strings.Repeat("a/", 1000)),
			reg("l/" + strings.Repeat("b/", 100) + "b")}, kind: fault.Invalid, want: "deep"},
		"device":         {in: []e{{typ: tar.TypeChar, name: "d", h: tar.Header{Devmajor: 4096}}}, kind: fault.Invalid, want: "device 4096:0"},
		"owner":          {in: []e{{typ: tar.TypeReg, name: "f", pax: map[string]string{}, h: tar.Header{Uid: 1 << 32}}}, kind: fault.Invalid, want: "owner"},
		"owner negative": {in: []e{{typ: tar.TypeReg, name: "f", h: tar.Header{Uid: -1, Format: tar.FormatGNU}}}, kind: fault.Invalid, want: "owner"},
		"large attributes": {in: []e{{typ: tar.TypeReg, name: "f", pax: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 65531)}}},
			kind: fault.Exhausted, want: "attributes"},
		"attribute name": {in: []e{{typ: tar.TypeReg, name: "f", pax: map[string]string{"LIBARCHIVE.xattr.a%00b": "eA=="}}}, kind: fault.Invalid, want: "attribute"},
		"attribute code": {in: []e{{typ: tar.TypeReg, name: "f", pax: map[string]string{"LIBARCHIVE.xattr.a": "%"}}}, kind: fault.Invalid, want: "attribute"},
		"acl":            {in: []e{{typ: tar.TypeReg, name: "f", pax: map[string]string{"SCHILY.acl.access": "user:joe:rwx"}}}, kind: fault.Unsupported, want: "joe"},
		"acl damaged":    {in: []e{{typ: tar.TypeReg, name: "f", pax: map[string]string{"SCHILY.acl.access": "nothing"}}}, kind: fault.Invalid, want: "nothing"},
		"newer type":     {in: []e{{typ: tar.TypeReg, name: "f", pax: map[string]string{"ZOS.type": "portal"}}}, kind: fault.Unsupported, want: "portal"},
		"socket with content": {in: []e{{typ: tar.TypeReg, name: "f", content: "x", pax: map[string]string{"ZOS.type": "socket"}}},
			kind: fault.Unsupported, want: "socket"},
		"bytes": {in: []e{{typ: tar.TypeReg, name: "f", content: strings.Repeat("x", 1025)}}, limits: convert.Limits{Bytes: 1024}, kind: fault.Exhausted, want: `"f"`},
		"all bytes": {in: many(11, func(i int) e { return e{typ: tar.TypeReg, name: fmt.Sprint(i), content: strings.Repeat("x", 100)} }),
			limits: convert.Limits{Bytes: 1024}, kind: fault.Exhausted, want: `"10"`},
		"replaced bytes": {in: many(11, func(i int) e { return e{typ: tar.TypeReg, name: "same", content: strings.Repeat("x", 100)} }),
			limits: convert.Limits{Bytes: 1024}, kind: fault.Exhausted, want: "1024"},
		"entries":         {in: many(11, func(i int) e { return reg(fmt.Sprint(i)) }), limits: convert.Limits{Entries: 10}, kind: fault.Exhausted, want: "10 entries"},
		"same entries":    {in: many(11, func(i int) e { return reg("x") }), limits: convert.Limits{Entries: 10}, kind: fault.Exhausted, want: "10 entries"},
		"implied entries": {in: []e{reg(strings.Repeat("a/", 11) + "b")}, limits: convert.Limits{Entries: 10}, kind: fault.Exhausted, want: "10 entries"},
		"names":           {in: many(11, func(i int) e { return reg(strings.Repeat("x", 100)) }), limits: convert.Limits{Metadata: 1000}, kind: fault.Exhausted, want: "1000 bytes"},
		"attributes in all": {in: many(3, func(i int) e {
			return e{typ: tar.TypeReg, name: "f", pax: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 30000)}}
		}), limits: convert.Limits{Metadata: 80000}, kind: fault.Exhausted, want: "80000 bytes"},
		"disk":       {in: []e{reg("f")}, limits: convert.Limits{Free: 1 << 60}, kind: fault.Exhausted, want: "must stay free"},
		"global":     {in: []e{{typ: tar.TypeXGlobalHeader, pax: map[string]string{"path": "x"}}, reg("f")}, kind: fault.Unsupported, want: `"path"`},
		"global uid": {in: []e{{typ: tar.TypeXGlobalHeader, pax: map[string]string{"uid": "99999999999"}}, reg("f")}, kind: fault.Invalid, want: "owner"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(t, archive(t, tt.in...), convert.Options{Limits: tt.limits})
			if err == nil || fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v (%s), want %s with %q", err, fault.Of(err), tt.kind, tt.want)
			}
		})
	}
}

func TestNotTar(t *testing.T) {
	for name, tt := range map[string]struct {
		in   string
		kind fault.Kind
		want string
	}{
		"empty":  {"", fault.Invalid, "end marker"},
		"text":   {strings.Repeat("hello world\n", 100), fault.Invalid, "not a tar"},
		"bzip2":  {"BZh91AY&SY", fault.Unsupported, "bzip2"},
		"zip":    {"PK\x03\x04", fault.Unsupported, "zip"},
		"gzip":   {"\x1f\x8b\x08\x00garbage", fault.Invalid, "gzip"},
		"window": {"\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00", fault.Invalid, "zstd"},
	} {
		if _, err := read(t, []byte(tt.in), convert.Options{}); fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s with %q", name, err, tt.kind, tt.want)
		}
	}
	two := append(archive(t, e{typ: tar.TypeReg, name: "a"}), archive(t, e{typ: tar.TypeReg, name: "b"})...)
	if _, err := read(t, two, convert.Options{}); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "end marker") {
		t.Errorf("two archives in one: %v, want invalid", err)
	}
}

// A bomb of zeros stops at the limit, takes no disk and little memory.
func TestBomb(t *testing.T) {
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	zeros := make([]byte, 1<<20)
	for i := range 20 {
		w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg, Size: 16 << 20})
		for range 16 {
			w.Write(zeros)
		}
	}
	w.Close()
	z.Close()
	spool, err := convert.NewSpool(t.TempDir(), convert.Limits{Bytes: 100 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	b := NewBuilder(spool, convert.Limits{Bytes: 100 << 20})
	plain, _, err := Decompress(bytes.NewReader(buf.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	err = b.Apply(t.Context(), plain, Archive)
	if fault.Of(err) != fault.Exhausted || !strings.Contains(err.Error(), `"6"`) {
		t.Errorf("Apply = %v, want exhausted at the seventh file", err)
	}
	if apparent, disk := spool.Usage(); apparent != 96<<20 || disk > 1<<20 {
		t.Errorf("the spool has %d bytes, %d on disk; want 96 MiB and next to nothing", apparent, disk)
	}
	// The same in names alone: the stream is bounded even without contents.
	p := &position{r: bytes.NewReader(make([]byte, 100)), left: 10}
	if _, err := io.ReadAll(p); fault.Of(err) != fault.Exhausted {
		t.Errorf("endless stream: %v, want exhausted", err)
	}
}

// A circle of long link targets can't make us walk for ever.
func TestSymlinkSteps(t *testing.T) {
	b := NewBuilder(nil, convert.Limits{})
	b.steps = maxSteps
	raw := archive(t, e{typ: tar.TypeSymlink, name: "a", link: "b"}, e{typ: tar.TypeDir, name: "a/c"})
	if err := b.Apply(t.Context(), bytes.NewReader(raw), Layer); fault.Of(err) != fault.Exhausted {
		t.Errorf("Apply = %v, want exhausted", err)
	}
}
