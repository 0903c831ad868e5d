package mounttest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/flist/tree"
)

// Options of a comparison. The zero value compares everything.
type Options struct {
	// Upper: the directory is a writable overlay, whose directories count
	// their links in their own way and whose root is the upper directory's.
	Upper bool
	// NoRoot: the user isn't root, so special attributes can't be read.
	NoRoot bool
}

// Compare tells every difference between a tree and a mounted directory.
func Compare(root *tree.Node, dir string, opt Options) []string {
	c := comparison{opt: opt, inodes: make(map[*tree.Node]uint64), links: root.Links()}
	for path, n := range root.Walk() {
		if len(c.problems) > 20 {
			break
		}
		c.node(path, filepath.Join(dir, path), n)
	}
	return c.problems
}

type comparison struct {
	opt      Options
	inodes   map[*tree.Node]uint64
	links    map[*tree.Node]int
	problems []string
}

func (c *comparison) say(path, format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf("%q: ", path)+fmt.Sprintf(format, args...))
}

func (c *comparison) node(name, path string, n *tree.Node) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		c.say(name, "lstat: %v", err)
		return
	}
	if st.Mode != n.Mode || st.Uid != n.UID || st.Gid != n.GID {
		c.say(name, "mode %o owner %d:%d, want %o %d:%d", st.Mode, st.Uid, st.Gid, n.Mode, n.UID, n.GID)
	}
	if st.Mtim.Sec != n.Mtime || st.Mtim.Nsec != int64(n.Nsec) {
		c.say(name, "time %d.%09d, want %d.%09d", st.Mtim.Sec, st.Mtim.Nsec, n.Mtime, n.Nsec)
	}
	if !n.IsDir() {
		if int(st.Nlink) != c.links[n] {
			c.say(name, "%d links, want %d", st.Nlink, c.links[n])
		}
		if ino, ok := c.inodes[n]; ok && ino != st.Ino {
			c.say(name, "inode %d, but its other name has %d", st.Ino, ino)
		}
		c.inodes[n] = st.Ino
	}
	c.xattrs(name, path, n)
	switch n.Type() {
	case tree.Regular:
		c.content(name, path, n, st.Size)
	case tree.Symlink:
		if got, err := os.Readlink(path); err != nil || got != n.Target {
			c.say(name, "target %.40q (%v), want %.40q", got, err, n.Target)
		}
		if st.Size != int64(len(n.Target)) {
			c.say(name, "a link of %d bytes, want %d", st.Size, len(n.Target))
		}
	case tree.Block, tree.Char:
		if unix.Major(st.Rdev) != n.Major || unix.Minor(st.Rdev) != n.Minor {
			c.say(name, "device %d:%d, want %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev), n.Major, n.Minor)
		}
	case tree.Directory:
		c.directory(name, path, n, st.Nlink)
	}
}

func (c *comparison) directory(name, path string, n *tree.Node, nlink uint64) {
	es, err := os.ReadDir(path)
	if err != nil {
		c.say(name, "readdir: %v", err)
		return
	}
	dirs := uint64(2)
	var got, want []string
	for _, e := range es {
		got = append(got, e.Name())
	}
	for _, e := range n.Entries {
		want = append(want, e.Name)
		if e.Node.IsDir() {
			dirs++
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		c.say(name, "%d entries, want %d", len(got), len(want))
	}
	if nlink != dirs && !c.opt.Upper {
		c.say(name, "%d links, want %d", nlink, dirs)
	}
}

func (c *comparison) content(name, path string, n *tree.Node, size int64) {
	if size != n.Size {
		c.say(name, "%d bytes, want %d", size, n.Size)
		return
	}
	want, err := n.ReadAll(1 << 30)
	if err != nil {
		c.say(name, "the sample: %v", err)
		return
	}
	got, err := sum(path)
	if h := sha256.Sum256(want); err != nil || got != string(h[:]) {
		c.say(name, "other content (%v)", err)
	}
	if n.Size > 0 {
		if err := mapped(path, want); err != nil {
			c.say(name, "mapped: %v", err)
		}
	}
}

// mapped compares a mapping of the file: its bytes, and zeros behind its end
// up to the end of the page.
func mapped(path string, want []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	pages := (len(want) + blockSize - 1) &^ (blockSize - 1)
	m, err := unix.Mmap(int(f.Fd()), 0, pages, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	if !bytes.Equal(m[:len(want)], want) {
		return errors.New("other content")
	}
	for i, b := range m[len(want):] {
		if b != 0 {
			return fmt.Errorf("byte %d behind the end is %d instead of 0", i, b)
		}
	}
	return nil
}

func (c *comparison) xattrs(name, path string, n *tree.Node) {
	buf := make([]byte, 1<<17)
	k, err := unix.Llistxattr(path, buf)
	if err != nil {
		if len(n.Xattrs) > 0 || !errors.Is(err, unix.EOPNOTSUPP) {
			c.say(name, "list attributes: %v", err)
		}
		return
	}
	var got []tree.Xattr
	for key := range strings.SplitSeq(strings.TrimSuffix(string(buf[:k]), "\x00"), "\x00") {
		// The overlay's own marks and labels of the machine are not the image's.
		if key == "" || strings.HasPrefix(key, "trusted.overlay.") || key == "security.selinux" {
			continue
		}
		v := make([]byte, 1<<17)
		m, err := unix.Lgetxattr(path, key, v)
		if err != nil {
			c.say(name, "attribute %s: %v", key, err)
			continue
		}
		got = append(got, tree.Xattr{Name: key, Value: string(v[:m])})
	}
	if got = tree.SortXattrs(got); !slices.Equal(got, n.Xattrs) {
		c.say(name, "attributes %.80q, want %.80q", fmt.Sprint(got), fmt.Sprint(n.Xattrs))
	}
}
