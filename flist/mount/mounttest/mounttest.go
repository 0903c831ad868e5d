// Package mounttest says what a mounted image must be, for every way to mount.
//
// Sample makes a tree with everything that an image can hold, Pack turns a
// tree into metadata and the bytes of its data device, FileReader serves those
// bytes with faults on demand, and Compare tells every difference between a
// tree and a directory. It needs no testing.T, so that it works as PID 1 of an
// emulated machine, too.
//
//	root := mounttest.Sample(1)
//	img, err := mounttest.Pack(root)
//	for _, problem := range mounttest.Compare(root, "/mnt") { … }
package mounttest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"

	"zos.internal/flist/erofs"
	"zos.internal/flist/tree"
)

const blockSize = 4096

// Image is a tree ready to be mounted.
type Image struct {
	Root *tree.Node
	Meta []byte // EROFS metadata
	Data []byte // the data device
}

// random is n bytes that don't compress, the same for the same seed.
func random(seed uint64, n int) tree.Bytes {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return tree.Bytes(b)
}

// File is a regular file of n random bytes.
func File(seed uint64, n int) *tree.Node {
	return &tree.Node{Mode: tree.Regular | 0o644, Size: int64(n), Mtime: 1700000000, Nsec: 123456789, Content: random(seed, n)}
}

// Sample is a tree with all types of nodes, odd names and attributes, and
// megabytes of files. Device nodes are in it; a user without root can't
// compare those.
func Sample(seed uint64) *tree.Node {
	root := tree.NewDir(0o755)
	root.Mtime = 1600000000
	add := func(path string, n *tree.Node) {
		if err := root.Insert(path, n); err != nil {
			panic(err) // a broken sample
		}
	}
	for i, n := range []int{0, 1, 4095, 4096, 4097, 65536, 65537, 1 << 20, 3<<20 + 5} {
		add(fmt.Sprintf("sizes/%d", n), File(seed*100+uint64(i), n))
	}
	for i := range 300 {
		add(fmt.Sprintf("many/%03d/file", i), File(seed*100+50+uint64(i%7), 1000+i))
	}
	for i := range 600 {
		add(fmt.Sprintf("wide/%s%d", strings.Repeat("n", 20), i), &tree.Node{Mode: tree.Regular | 0o600, Mtime: int64(i)})
	}
	linked := File(seed*100+90, 70000)
	linked.Mode = tree.Regular | 0o4755
	add("links/one", linked)
	add("links/two", linked)
	add("other/three", linked)
	add("links/soft", &tree.Node{Mode: tree.Symlink | 0o777, Target: "../sizes/4096", Mtime: 1})
	add("links/long", &tree.Node{Mode: tree.Symlink | 0o777, Target: strings.Repeat("x/", 2000), Mtime: 2})
	add("links/dangling", &tree.Node{Mode: tree.Symlink | 0o777, Target: "/nowhere", Mtime: 3})
	add("dev/fifo", &tree.Node{Mode: tree.FIFO | 0o622, Mtime: 4})
	add("dev/socket", &tree.Node{Mode: tree.Socket | 0o700, Mtime: 5})
	add("dev/null", &tree.Node{Mode: tree.Char | 0o666, Major: 1, Minor: 3, Mtime: 6})
	add("dev/disk", &tree.Node{Mode: tree.Block | 0o660, Major: 259, Minor: 1<<20 - 1, Mtime: 7})
	add("names/"+strings.Repeat("l", 255), File(seed*100+91, 10))
	add("names/\xff\xfe not utf-8\n", File(seed*100+92, 11))
	add("names/sp ace", File(seed*100+93, 12))
	owned := File(seed*100+94, 100)
	owned.UID, owned.GID, owned.Mtime, owned.Nsec = 70000, 4294967294, -5, 999999999
	add("owner", owned)
	attrs := File(seed*100+95, 5000)
	attrs.Xattrs = tree.SortXattrs([]tree.Xattr{
		{Name: "user.empty", Value: ""},
		{Name: "user.long", Value: strings.Repeat("v", 3000)},
		{Name: "user.binary", Value: "\x00\x01\xff"},
		{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	})
	add("xattrs", attrs)
	sticky := tree.NewDir(0o1777)
	sticky.Xattrs = []tree.Xattr{{Name: "user.dir", Value: "yes"}}
	add("sticky", sticky)
	return root
}

// UserSample is a tree that a user without root can read and compare.
func UserSample() *tree.Node {
	root := tree.NewDir(0o755)
	linked := File(2, 70000)
	owned := File(3, 5000)
	owned.UID, owned.GID, owned.Mode = 1000, 1001, tree.Regular|0o755
	owned.Xattrs = []tree.Xattr{{Name: "user.x", Value: "y"}}
	for path, n := range map[string]*tree.Node{
		"a/large": File(1, 3<<20+1), "a/one": linked, "b/two": linked, "owned": owned,
		"soft": {Mode: tree.Symlink | 0o777, Target: "a/one"}, "empty": {Mode: tree.Regular | 0o444, Mtime: -1},
	} {
		if err := root.Insert(path, n); err != nil {
			panic(err) // a broken sample
		}
	}
	return root
}

// Pack places the files of a tree one after the other in a data device.
// Equal files that are the same node are placed once. Offsets are set in the
// nodes.
func Pack(root *tree.Node) (*Image, error) {
	var data bytes.Buffer
	placed := make(map[*tree.Node]bool)
	for path, n := range root.Walk() {
		if !n.IsRegular() || n.Size == 0 || placed[n] {
			continue
		}
		placed[n] = true
		n.Offset = int64(data.Len())
		b, err := n.ReadAll(1 << 32)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", path, err)
		}
		data.Write(b)
		data.Write(make([]byte, -len(b)&(blockSize-1)))
	}
	meta, err := erofs.Encode(root, uint64(data.Len()/blockSize))
	if err != nil {
		return nil, err
	}
	return &Image{Root: root, Meta: meta, Data: data.Bytes()}, nil
}

// sum hashes the content of a file, read from the start to the end.
func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return string(h.Sum(nil)), nil
}
