package fl

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// RootIno is the inode number of the root directory; its parent is 0.
const RootIno = 1

// inode is a row of the table inode with its blocks.
type inode struct {
	ino, parent int64
	name        string
	up          *inode // the parent directory, once link has found it
	node        *tree.Node
	blocks      []store.Block
	settled     bool // reached from the root, or reported
}

// path is made when it is asked for: kept for every inode, the paths of a
// deep tree would be far larger than the file.
func (in *inode) path() string {
	if in.up == nil {
		return "/"
	}
	var names []string
	for at := in; at.up != nil; at = at.up {
		names = append(names, at.name)
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

func (in *inode) String() string {
	if in.up != nil {
		return fmt.Sprintf("inode %d %.200q", in.ino, in.path())
	}
	return fmt.Sprintf("inode %d (name %.60q, parent %d)", in.ino, in.name, in.parent)
}

// metadata is everything that the file says, checked as one tree.
type metadata struct {
	inodes []*inode // in order of ino
	root   *tree.Node
	tags   []Tag
	routes []store.Route
}

// limits bound what load takes in.
type limits struct {
	entries, blocks int
	bytes           int64 // of all files together
}

// rows is the most rows of at least size bytes that the file can hold, or
// limit if that is less.
func (d *database) rows(limit, size int) int {
	return int(min(int64(limit), d.size/int64(size)+1))
}

// load reads and checks the whole file except for the bytes of blocks.
func load(ctx context.Context, d *database, lim limits, c *checker) (*metadata, error) {
	m := &metadata{}
	for _, step := range []func(context.Context, *database, limits, *checker) error{
		m.loadInodes, m.loadExtra, m.loadBlocks, m.loadTags, m.loadRoutes, m.link,
	} {
		if err := step(ctx, d, lim, c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metadata) find(ino int64) *inode {
	i, ok := slices.BinarySearchFunc(m.inodes, ino, func(in *inode, ino int64) int { return cmp.Compare(in.ino, ino) })
	if !ok {
		return nil
	}
	return m.inodes[i]
}

func (m *metadata) loadInodes(ctx context.Context, d *database, lim limits, c *checker) error {
	q := table("inode", "ino", "parent", "name", "size", "uid", "gid", "mode", "rdev", "mtime")
	return d.scan(ctx, q, 9, d.rows(lim.entries, 12), func(row int64, v []any) error {
		ino, ok := v[0].(int64)
		if !ok || ino != row {
			return c.bad(fault.Errorf(fault.Invalid, "row %d of the table inode has the number %v; ino must be its INTEGER PRIMARY KEY", row, v[0]))
		}
		in, err := parseInode(ino, v[1:])
		if err != nil {
			return c.bad(err)
		}
		m.inodes = append(m.inodes, in)
		return nil
	})
}

// parseInode checks the fields of one row by themselves.
func parseInode(ino int64, v []any) (*inode, error) {
	name, isText := v[1].(string)
	in := &inode{ino: ino, name: name, node: &tree.Node{}}
	bad := func(format string, args ...any) error {
		return fault.Errorf(fault.Invalid, "inode %d (name %.60q): "+format, append([]any{ino, name}, args...)...)
	}
	if !isText || !utf8.ValidString(name) {
		return nil, bad("its name is not UTF-8 text")
	}
	var n [8]int64
	for i, f := range []struct {
		name string
		max  int64
	}{{"parent", math.MaxInt64}, {}, {"size", math.MaxInt64}, {"uid", math.MaxUint32}, {"gid", math.MaxUint32}, {"mode", 0o177777}, {"rdev", math.MaxInt64}, {"mtime", math.MaxInt64}} {
		if f.name == "" {
			continue
		}
		x, ok := v[i].(int64)
		switch {
		case !ok:
			return nil, bad("its %s is not a number", f.name)
		case x > f.max, x < 0 && f.name != "mtime" && f.name != "rdev":
			return nil, bad("its %s %d is out of range (0 to %d)", f.name, x, f.max)
		}
		n[i] = x
	}
	in.parent = n[0]
	in.node.UID, in.node.GID, in.node.Mode, in.node.Mtime = uint32(n[3]), uint32(n[4]), uint32(n[5]), n[7]
	if ino == RootIno {
		if in.parent != 0 || name != "/" || !in.node.IsDir() {
			return nil, bad("the root must be the directory \"/\" with the parent 0, it has the parent %d and the mode %o", in.parent, in.node.Mode)
		}
	} else if err := tree.CheckName(name); err != nil {
		return nil, bad("%w", err)
	}
	switch in.node.Type() {
	case tree.Regular:
		in.node.Size = n[2]
	case tree.Block, tree.Char:
		in.node.Major, in.node.Minor = unix.Major(uint64(n[6])), unix.Minor(uint64(n[6]))
		if in.node.Major > tree.MaxMajor || in.node.Minor > tree.MaxMinor {
			return nil, bad("the device %d:%d is out of range", in.node.Major, in.node.Minor)
		}
	case tree.Directory, tree.Symlink, tree.FIFO, tree.Socket:
	default:
		return nil, bad("the mode %o has no known file type", in.node.Mode)
	}
	return in, nil
}

func (m *metadata) loadExtra(ctx context.Context, d *database, lim limits, c *checker) error {
	err := d.scan(ctx, table("extra", "ino", "data"), 2, d.rows(lim.entries, 4), func(row int64, v []any) error {
		ino, ok := v[0].(int64)
		in := m.find(ino)
		if !ok || ino != row || in == nil {
			return c.bad(fault.Errorf(fault.Invalid, "row %d of the table extra has data for inode %v, which does not exist", row, v[0]))
		}
		if in.node.Type() != tree.Symlink {
			return nil // rfs does not look at it either
		}
		switch data := v[1].(type) {
		case []byte:
			in.node.Target = string(data)
		case string:
			in.node.Target = data
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, in := range m.inodes {
		if in.node.Type() != tree.Symlink {
			continue
		}
		if t := in.node.Target; t == "" || len(t) > tree.MaxTarget || slices.Contains([]byte(t), 0) {
			if err := c.bad(fault.Errorf(fault.Invalid, "%v: its link target has %d bytes; 1 to %d without a zero byte are allowed", in, len(t), tree.MaxTarget)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *metadata) loadBlocks(ctx context.Context, d *database, lim limits, c *checker) error {
	var in *inode
	err := d.scan(ctx, table("block", "ino", "id", "key"), 3, d.rows(lim.blocks, 68), func(row int64, v []any) error {
		ino, ok := v[0].(int64)
		if !ok {
			return c.bad(fault.Errorf(fault.Invalid, "row %d of the table block belongs to no inode", row))
		}
		if in == nil || in.ino != ino {
			in = m.find(ino)
		}
		if in == nil || !in.node.IsRegular() {
			return c.bad(fault.Errorf(fault.Invalid, "row %d of the table block belongs to inode %d, which is not a file", row, ino))
		}
		id, ok1 := v[1].([]byte)
		key, ok2 := v[2].([]byte)
		if !ok1 || !ok2 || len(id) != len(store.ID{}) || len(key) != len(store.Key{}) {
			return c.bad(fault.Errorf(fault.Invalid, "%v block %d: its id and key must be BLOBs of 32 bytes", in, len(in.blocks)))
		}
		in.blocks = append(in.blocks, store.Block{ID: store.ID(id), Key: store.Key(key)})
		return nil
	})
	if err != nil {
		return err
	}
	var sum int64
	for _, in := range m.inodes {
		// Every block has 1 to store.MaxBlock bytes, so most lies about the size are
		// seen before anything is fetched.
		size, n := in.node.Size, int64(len(in.blocks))
		if in.node.IsRegular() && (size < n || size > n*store.MaxBlock) {
			if err := c.bad(fault.Errorf(fault.Invalid, "%v: its size is %d, which its %d blocks of 1 to %d bytes can't have", in, size, n, store.MaxBlock)); err != nil {
				return err
			}
			continue
		}
		if sum += size; sum > lim.bytes {
			return fault.Errorf(fault.Exhausted, "read %s: its files have more than %d bytes together; raise the limit if that is right", c.file, lim.bytes)
		}
	}
	return nil
}

func (m *metadata) loadTags(ctx context.Context, d *database, _ limits, c *checker) error {
	seen := make(map[string]bool)
	sum := 0
	return d.scan(ctx, table("tag", "key", "value"), 2, d.rows(MaxTags, 2), func(row int64, v []any) error {
		key, ok1 := v[0].(string)
		value, ok2 := v[1].(string)
		t := Tag{key, value}
		if err := t.check(); err != nil || !ok1 || !ok2 {
			return c.bad(fault.Errorf(fault.Invalid, "row %d of the table tag is not a pair of texts (at most %d and %d bytes): %.60q", row, MaxTagKey, MaxTag, key))
		}
		if sum += len(key) + len(value); sum > maxTagSum || seen[key] {
			return c.bad(fault.Errorf(fault.Invalid, "the tag %.60q is there twice, or all tags together have more than %d bytes", key, maxTagSum))
		}
		seen[key] = true
		m.tags = append(m.tags, t)
		return nil
	})
}

func (m *metadata) loadRoutes(ctx context.Context, d *database, _ limits, c *checker) error {
	return d.scan(ctx, table("route", "start", "end", "url"), 3, d.rows(MaxRoutes, 2), func(row int64, v []any) error {
		start, ok1 := v[0].(int64)
		end, ok2 := v[1].(int64)
		url, ok3 := v[2].(string)
		if !ok1 || !ok2 || !ok3 || start < 0 || end < 0 || start > 255 || end > 255 {
			return c.bad(fault.Errorf(fault.Invalid, "row %d of the table route is not two bytes and a URL; delete it with: zos fl config store delete", row))
		}
		r := store.Route{Start: byte(start), End: byte(end), URL: url}
		if err := r.Check(); err != nil {
			return c.bad(fault.Errorf(fault.Invalid, "row %d of the table route: %w", row, err))
		}
		m.routes = append(m.routes, r)
		return nil
	})
}
