package erofs

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"zos.internal/flist/tree"
)

// scan reads the files below dirs into a tree and lays their data out one
// after the other. It returns the blocks of the device and the names.
func scan(tb testing.TB, dirs ...string) (*tree.Node, uint64, int) {
	tb.Helper()
	root := tree.NewDir(0o755)
	links := make(map[[2]uint64]*tree.Node)
	var device int64
	names := 0
	for _, top := range dirs {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // a real machine has unreadable corners
			}
			var st syscall.Stat_t
			if syscall.Lstat(path, &st) != nil {
				return nil
			}
			id := [2]uint64{st.Dev, st.Ino}
			n := links[id]
			if n == nil || st.Mode&tree.TypeMask == tree.Directory {
				n = &tree.Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}
				switch n.Type() {
				case tree.Regular:
					n.Size = st.Size
					if n.Size > 0 {
						n.Offset = device
						device += alignUp(n.Size, BlockSize)
					}
				case tree.Symlink:
					if n.Target, err = os.Readlink(path); err != nil {
						return nil
					}
				case tree.Block, tree.Char:
					n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
				}
				links[id] = n
			}
			names++
			return root.Insert(strings.TrimPrefix(path, "/"), n)
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	return root, uint64(device / BlockSize), names
}

// realTree is /usr with the Go toolchain and the module cache.
func realTree(tb testing.TB) (*tree.Node, uint64, int) {
	dirs := []string{"/usr"}
	if out, err := exec.Command("go", "env", "GOROOT", "GOMODCACHE").Output(); err == nil {
		for _, dir := range strings.Fields(string(out)) {
			if !strings.HasPrefix(dir, "/usr/") {
				dirs = append(dirs, dir)
			}
		}
	}
	root, blocks, names := scan(tb, dirs...)
	if names < 10000 {
		tb.Skipf("only %d files below %v", names, dirs)
	}
	return root, blocks, names
}

// perName is the size of the image for each name, raw and after zstd.
func perName(tb testing.TB, image []byte, names int) (raw, packed float64) {
	tb.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer enc.Close()
	return float64(len(image)) / float64(names), float64(len(enc.EncodeAll(image, nil))) / float64(names)
}

func report(b *testing.B, image []byte, names int) {
	raw, packed := perName(b, image, names)
	b.ReportMetric(float64(names), "names")
	b.ReportMetric(raw, "B/name")
	b.ReportMetric(packed, "zstd-B/name")
}

// The promise for a real tree: up to 151 bytes a name, 20 after zstd.
func TestBytesPerName(t *testing.T) {
	if testing.Short() {
		t.Skip("scans a large tree")
	}
	root, blocks, names := realTree(t)
	if names < 60000 {
		t.Skipf("only %d names on this machine, the promise is for 60000", names)
	}
	image := mustEncode(t, root, blocks)
	if _, _, err := Check(image); err != nil {
		t.Fatal(err)
	}
	raw, packed := perName(t, image, names)
	t.Logf("%d names: %.1f bytes each, %.1f after zstd", names, raw, packed)
	if raw > 151 || packed > 20 {
		t.Errorf("%.1f bytes a name and %.1f after zstd, want at most 151 and 20", raw, packed)
	}
}

func BenchmarkEncode(b *testing.B) {
	root, blocks, names := realTree(b)
	var image []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if image, err = Encode(root, blocks); err != nil {
			b.Fatal(err)
		}
	}
	report(b, image, names)
}

func BenchmarkCheck(b *testing.B) {
	root, blocks, names := realTree(b)
	image, err := Encode(root, blocks)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Check(image); err != nil {
			b.Fatal(err)
		}
	}
	report(b, image, names)
}

func BenchmarkDecode(b *testing.B) {
	root, blocks, _ := realTree(b)
	image, err := Encode(root, blocks)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(image); err != nil {
			b.Fatal(err)
		}
	}
}
