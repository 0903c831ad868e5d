// Package tree is a file tree in memory: what a source delivers, what an image
// holds and what an export writes.
//
// A Node is an inode. Two entries that point to the same *Node are hard links
// of one file. Directories keep their entries sorted by the bytes of the name,
// so every walk has one order. The package knows neither disks nor formats;
// it guarantees that names and paths it accepted can't leave the tree.
//
//	root := tree.NewDir(0o755)
//	err := root.Insert("etc/hostname", &tree.Node{Mode: tree.Regular | 0o644, Size: 4, Content: tree.Bytes("zos\n")})
package tree

import (
	"bytes"
	"cmp"
	"io"
	"iter"
	"slices"
	"strings"

	"zos.internal/internal/fault"
)

// File types, as in st_mode.
const (
	TypeMask  uint32 = 0o170000
	Socket    uint32 = 0o140000
	Symlink   uint32 = 0o120000
	Regular   uint32 = 0o100000
	Block     uint32 = 0o060000
	Directory uint32 = 0o040000
	Char      uint32 = 0o020000
	FIFO      uint32 = 0o010000
	PermMask  uint32 = 0o007777
)

// Limits of one tree, checked when it is built and when an image is opened.
const (
	MaxName    = 255       // bytes of one name
	MaxTarget  = 4095      // bytes of a link target
	MaxXattrs  = 64 << 10  // bytes of names and values of one inode
	MaxEntries = 16 << 20  // names in one tree
	MaxDepth   = 1024      // directories above one another
	MaxMajor   = 1<<12 - 1 // of a device
	MaxMinor   = 1<<20 - 1
)

// Content opens the bytes of a regular file. The reader delivers exactly
// Node.Size bytes, or an error.
type Content interface {
	Open() (io.ReadCloser, error)
}

// Bytes is content in memory.
type Bytes string

// Open returns a reader of b.
func (b Bytes) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(b))), nil
}

// Xattr is one extended attribute. Name is whole ("security.capability").
type Xattr struct {
	Name  string
	Value string
}

// Entry is a name in a directory.
type Entry struct {
	Name string
	Node *Node
}

// Node is an inode. Fields that don't apply to its type are zero.
type Node struct {
	Mode         uint32 // st_mode: type and permission bits
	UID, GID     uint32
	Mtime        int64  // seconds since 1970, may be negative
	Nsec         uint32 // 0..999999999
	Size         int64  // bytes of a regular file
	Major, Minor uint32 // of a device node
	Target       string // of a symlink
	Xattrs       []Xattr
	Entries      []Entry // of a directory: sorted, without "." and ".."
	Content      Content // where a source keeps the bytes; nil in an opened image
	Offset       int64   // first byte in the image's data device; multiple of 4096
}

// NewDir is an empty directory owned by root with the given permissions.
func NewDir(perm uint32) *Node { return &Node{Mode: Directory | perm&PermMask} }

// Type is the file type part of the mode.
func (n *Node) Type() uint32 { return n.Mode & TypeMask }

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Type() == Directory }

// IsRegular reports whether n is a regular file.
func (n *Node) IsRegular() bool { return n.Type() == Regular }

// Lookup is the entry of that name in the directory n, or nil.
func (n *Node) Lookup(name string) *Node {
	i, ok := n.find(name)
	if !ok {
		return nil
	}
	return n.Entries[i].Node
}

func (n *Node) find(name string) (int, bool) {
	// Sources mostly deliver sorted names: look at the end first.
	if k := len(n.Entries); k == 0 || n.Entries[k-1].Name < name {
		return k, false
	}
	return slices.BinarySearchFunc(n.Entries, name, func(e Entry, s string) int { return cmp.Compare(e.Name, s) })
}

// Set puts node at name in the directory n and replaces what was there.
// The name must be valid (CheckName).
func (n *Node) Set(name string, node *Node) error {
	if !n.IsDir() {
		return fault.Errorf(fault.Invalid, "add %q: its parent is not a directory", name)
	}
	if err := CheckName(name); err != nil {
		return err
	}
	i, ok := n.find(name)
	if ok {
		n.Entries[i].Node = node
		return nil
	}
	n.Entries = slices.Insert(n.Entries, i, Entry{name, node})
	return nil
}

// Remove takes name out of the directory n; it reports whether it was there.
func (n *Node) Remove(name string) bool {
	i, ok := n.find(name)
	if ok {
		n.Entries = slices.Delete(n.Entries, i, i+1)
	}
	return ok
}

// Insert puts node at path below n. Missing parents are made as directories
// with mode 0755, owned by root. Symlinks are not followed. A parent that is
// not a directory, a path that is absolute or leaves the tree is Invalid.
func (n *Node) Insert(path string, node *Node) error {
	names, err := Split(path)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fault.Errorf(fault.Invalid, "add %q: this is the root of the tree", path)
	}
	dir := n
	for _, name := range names[:len(names)-1] {
		next := dir.Lookup(name)
		if next == nil {
			next = NewDir(0o755)
			if err := dir.Set(name, next); err != nil {
				return err
			}
		}
		if !next.IsDir() {
			return fault.Errorf(fault.Invalid, "add %q: %q is not a directory", path, name)
		}
		dir = next
	}
	return dir.Set(names[len(names)-1], node)
}

// At is the node at path, without following symlinks, or nil.
func (n *Node) At(path string) *Node {
	names, err := Split(path)
	if err != nil {
		return nil
	}
	for _, name := range names {
		if n == nil || !n.IsDir() {
			return nil
		}
		n = n.Lookup(name)
	}
	return n
}

// Walk yields every name below and including n with its path: a directory
// before its entries, entries in byte order. The root has the path "".
// A hard link is yielded at each of its names.
func (n *Node) Walk() iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) { n.walk("", yield) }
}

func (n *Node) walk(path string, yield func(string, *Node) bool) bool {
	if !yield(path, n) {
		return false
	}
	for _, e := range n.Entries {
		p := e.Name
		if path != "" {
			p = path + "/" + e.Name
		}
		if !e.Node.walk(p, yield) {
			return false
		}
	}
	return true
}

// Links counts the names of each non-directory in the tree.
func (n *Node) Links() map[*Node]int {
	links := make(map[*Node]int)
	for _, x := range n.Walk() {
		if !x.IsDir() {
			links[x]++
		}
	}
	return links
}

// CheckName reports a name that no directory may hold.
func CheckName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return fault.Errorf(fault.Invalid, "the name %q is not allowed in a directory", name)
	case strings.ContainsAny(name, "/\x00"):
		return fault.Errorf(fault.Invalid, "the name %q has a slash or a zero byte", name)
	case len(name) > MaxName:
		return fault.Errorf(fault.Invalid, "the name %.40q… has %d bytes, %d are allowed", name, len(name), MaxName)
	}
	return nil
}

// Split takes a path apart: slash-separated, relative ("./" and a leading or
// trailing slash are tolerated, as tar writers produce them). ".." is Invalid.
func Split(path string) ([]string, error) {
	var names []string
	for s := range strings.SplitSeq(path, "/") {
		if s == "" || s == "." {
			continue
		}
		if s == ".." {
			return nil, fault.Errorf(fault.Invalid, "the path %q leaves the tree", path)
		}
		if err := CheckName(s); err != nil {
			return nil, err
		}
		names = append(names, s)
	}
	if len(names) > MaxDepth {
		return nil, fault.Errorf(fault.Invalid, "the path %.40q… is %d directories deep, %d are allowed", path, len(names), MaxDepth)
	}
	return names, nil
}

// SortXattrs puts attributes in the order of their names and drops all but
// the last of one name.
func SortXattrs(xs []Xattr) []Xattr {
	slices.SortStableFunc(xs, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	out := xs[:0]
	for i, x := range xs {
		if i+1 < len(xs) && xs[i+1].Name == x.Name {
			continue
		}
		out = append(out, x)
	}
	return out
}

// Check reports the first thing in the tree that the limits or the format
// forbid: bad names, unsorted or double entries, a directory with two names
// (a cycle), a size without content, too many entries.
func (n *Node) Check() error {
	if !n.IsDir() {
		return fault.Errorf(fault.Invalid, "the root of a tree must be a directory")
	}
	c := checker{dirs: make(map[*Node]bool)}
	return c.check("", n, 0)
}

type checker struct {
	dirs    map[*Node]bool
	entries int
}

func (c *checker) check(path string, n *Node, depth int) error {
	bad := func(format string, args ...any) error {
		return fault.Errorf(fault.Invalid, "%q: "+format, append([]any{path}, args...)...)
	}
	if c.entries++; c.entries > MaxEntries {
		return fault.Errorf(fault.Exhausted, "the tree has more than %d entries; split it into several images", MaxEntries)
	}
	if n.Nsec > 999999999 {
		return bad("%d nanoseconds are not less than a second", n.Nsec)
	}
	sum := 0
	for i, x := range n.Xattrs {
		sum += len(x.Name) + len(x.Value)
		if x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 || len(x.Name) > MaxName {
			return bad("bad attribute name %.40q", x.Name)
		}
		if i > 0 && n.Xattrs[i-1].Name >= x.Name {
			return bad("attributes are not sorted at %q", x.Name)
		}
	}
	if sum > MaxXattrs {
		return bad("attributes have %d bytes, %d are allowed", sum, MaxXattrs)
	}
	switch n.Type() {
	case Regular:
		if n.Size < 0 {
			return bad("size %d is negative", n.Size)
		}
	case Symlink:
		if n.Target == "" || len(n.Target) > MaxTarget || strings.IndexByte(n.Target, 0) >= 0 {
			return bad("link target must have 1 to %d bytes and no zero byte", MaxTarget)
		}
	case Block, Char:
		if n.Major > MaxMajor || n.Minor > MaxMinor {
			return bad("device %d:%d is out of range", n.Major, n.Minor)
		}
	case FIFO, Socket:
	case Directory:
		if c.dirs[n] {
			return bad("the directory has two names; that would be a cycle or a hard link to a directory")
		}
		c.dirs[n] = true
		if depth >= MaxDepth {
			return bad("more than %d directories deep", MaxDepth)
		}
		for i, e := range n.Entries {
			if err := CheckName(e.Name); err != nil {
				return bad("%w", err)
			}
			if i > 0 && n.Entries[i-1].Name >= e.Name {
				return bad("entries are not sorted at %q", e.Name)
			}
			p := e.Name
			if path != "" {
				p = path + "/" + e.Name
			}
			if err := c.check(p, e.Node, depth+1); err != nil {
				return err
			}
		}
	default:
		return bad("mode %o has no known file type", n.Mode)
	}
	if !n.IsDir() && len(n.Entries) > 0 {
		return bad("not a directory, but has entries")
	}
	return nil
}

// ReadAll is the content of a regular file in memory, at most limit bytes.
func (n *Node) ReadAll(limit int64) ([]byte, error) {
	if n.Size > limit {
		return nil, fault.Errorf(fault.Exhausted, "the file has %d bytes, at most %d are read", n.Size, limit)
	}
	if n.Size == 0 {
		return nil, nil
	}
	r, err := n.Content.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(r, n.Size+1)); err != nil {
		return nil, err
	}
	if int64(buf.Len()) != n.Size {
		return nil, fault.Errorf(fault.Conflict, "the file has %d bytes where %d were promised", buf.Len(), n.Size)
	}
	return buf.Bytes(), nil
}
