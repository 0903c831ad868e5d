package erofs

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"zos.internal/flist/tree"
)

// layOut gives every file with content a place in a device and returns the
// blocks of the device.
func layOut(root *tree.Node) uint64 {
	var next int64
	done := make(map[*tree.Node]bool)
	for _, n := range root.Walk() {
		if n.IsRegular() && n.Size > 0 && !done[n] {
			done[n] = true
			n.Offset = next
			next += alignUp(n.Size, BlockSize)
		}
	}
	return uint64(next / BlockSize)
}

func writeContent(root *tree.Node) func(*os.File) error {
	return func(f *os.File) error {
		for _, n := range root.Walk() {
			if n.Content == nil {
				continue
			}
			b, err := n.ReadAll(1 << 24)
			if err != nil {
				return err
			}
			if _, err := f.WriteAt(b, n.Offset); err != nil {
				return err
			}
		}
		return nil
	}
}

func file(perm uint32, content string) *tree.Node {
	return &tree.Node{Mode: tree.Regular | perm, Size: int64(len(content)), Content: tree.Bytes(content)}
}

func insert(tb testing.TB, root *tree.Node, path string, n *tree.Node) *tree.Node {
	tb.Helper()
	if err := root.Insert(path, n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// acl is a POSIX ACL as the kernel stores it: version 2 and the three base
// entries, one named user and the mask.
func acl() string {
	var b []byte
	b = le.AppendUint32(b, 2)
	for _, e := range [][3]uint32{{1, 7, ^uint32(0)}, {2, 5, 1000}, {4, 5, ^uint32(0)}, {16, 5, ^uint32(0)}, {32, 4, ^uint32(0)}} {
		b = le.AppendUint16(b, uint16(e[0]))
		b = le.AppendUint16(b, uint16(e[1]))
		b = le.AppendUint32(b, e[2])
	}
	return string(b)
}

// nasty is a tree with everything that a Linux file system may hold.
func nasty(tb testing.TB, many int) *tree.Node {
	root := tree.NewDir(0o755)
	root.Mtime, root.Nsec = 1700000000, 123456789
	at := func(n *tree.Node, sec int64, nsec uint32) *tree.Node { n.Mtime, n.Nsec = sec, nsec; return n }
	add := func(path string, n *tree.Node) *tree.Node { return insert(tb, root, path, n) }

	add("empty", file(0o644, ""))
	add("hello", at(file(0o4755, "hello\n"), 1700000000, 1))
	add("setgid", at(file(0o2755, strings.Repeat("x", 4096)), -1, 999999999))
	add("old", at(file(0o600, strings.Repeat("y", 4097)), -1<<40, 0))
	add("future", at(file(0o000, strings.Repeat("z", 100000)), 1<<40, 5))
	owner := add("owner", file(0o644, "o"))
	owner.UID, owner.GID = 0xFFFFFFFE, 65536
	sticky := add("tmp", tree.NewDir(0o1777))
	sticky.UID = 65535
	add("dev/null", &tree.Node{Mode: tree.Char | 0o666, Major: 1, Minor: 3})
	add("dev/odd", &tree.Node{Mode: tree.Block | 0o660, Major: tree.MaxMajor, Minor: tree.MaxMinor, GID: 6})
	add("dev/white", &tree.Node{Mode: tree.Char})
	add("dev/mid", &tree.Node{Mode: tree.Block | 0o600, Major: 259, Minor: 300})
	add("dev/fifo", &tree.Node{Mode: tree.FIFO | 0o622})
	add("dev/sock", &tree.Node{Mode: tree.Socket | 0o777})
	for _, n := range []int{1, 59, 4000, 4031, 4032, 4033, 4063, 4064, 4065, 4095} {
		link := func() *tree.Node {
			return &tree.Node{Mode: tree.Symlink | 0o777, Target: strings.Repeat("t/", n)[:n], Mtime: 1}
		}
		add(fmt.Sprintf("links/%d", n), link())
		x := add(fmt.Sprintf("links/x%d", n), link())
		x.Xattrs = []tree.Xattr{{Name: "security.selinux", Value: strings.Repeat("s", 40)}}
		x.Mtime = 0
	}
	hard := add("a/hard", file(0o644, "one inode, three names"))
	add("a/hard2", hard)
	add("z/hard3", hard)
	add("z/fifo", add("a/fifo", &tree.Node{Mode: tree.FIFO | 0o600}))
	add("z/link", add("a/link", &tree.Node{Mode: tree.Symlink | 0o777, Target: "hard"}))
	for _, name := range []string{"!", "-", ".a", ".-", "...", "..a", "..-", "\x01", "\xff\xfe", "a\nb", "ünï", strings.Repeat("n", 255), strings.Repeat("\xf0", 255)} {
		add("names/"+name, file(0o644, name))
	}
	for i := range 40 { // a directory of long names: few to a block
		add(fmt.Sprintf("long/%s%02d", strings.Repeat("l", 253), i), file(0o644, "l"))
	}
	deep := "d"
	for range 200 {
		deep += "/d"
	}
	add(deep+"/end", file(0o644, "deep"))
	for i := range many {
		add(fmt.Sprintf("many/%06d", i), &tree.Node{Mode: tree.Regular | 0o644})
	}
	for i := range 300 { // directories whose last block has every length
		dir := add(fmt.Sprintf("dirs/%d", i), tree.NewDir(0o700))
		for j := range i {
			insert(tb, dir, fmt.Sprint(j), &tree.Node{Mode: tree.Regular | 0o600})
		}
	}
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	add("xattr/ping", file(0o755, "ping")).Xattrs = []tree.Xattr{{Name: "security.capability", Value: capability}}
	add("xattr/all", file(0o750, "all")).Xattrs = []tree.Xattr{
		{Name: "security.capability", Value: capability},
		{Name: "system.posix_acl_access", Value: acl()},
		{Name: "trusted.overlay.opaque", Value: "y"},
		{Name: "user.a", Value: ""},
		{Name: "user.bin", Value: "\x00\x01\xff"},
		{Name: "user." + strings.Repeat("u", 250), Value: strings.Repeat("v", 9000)},
	}
	big := add("xattr/big", file(0o600, "big"))
	for i := range 30 {
		big.Xattrs = append(big.Xattrs, tree.Xattr{Name: fmt.Sprintf("user.%03d", i), Value: strings.Repeat("b", i*70)})
	}
	dir := add("xattr/dir", tree.NewDir(0o750))
	dir.Xattrs = []tree.Xattr{{Name: "system.posix_acl_access", Value: acl()}, {Name: "system.posix_acl_default", Value: acl()}, {Name: "user.x", Value: strings.Repeat("d", 4050)}}
	add("xattr/dir/in", file(0o644, "in"))
	return root
}
