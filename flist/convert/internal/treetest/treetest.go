// Package treetest makes and compares trees in the tests of the converters.
//
// Draw makes any tree the format can hold: all types, hard links, names that
// are not UTF-8, attributes, odd times. Diff compares every field, the link
// groups and the contents; two trees without a difference make the same image.
//
//	want := treetest.Draw(t, treetest.Everything)
//	if d := treetest.Diff(want, got); d != "" {
//		t.Errorf("differs:\n%s", d)
//	}
package treetest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/flist/tree"
)

// Features say what a drawn tree may have.
type Features struct {
	Devices, Sockets bool
	Owners           bool     // any owner, else 0:0
	Xattrs           []string // names to choose from for any type; nil: any name
	UserXattrs       []string // names that only regular files and directories get
	MinTime, MaxTime int64
	MaxTarget        int
}

// Everything is all that a tree may hold.
func Everything() Features {
	return Features{Devices: true, Sockets: true, Owners: true, MinTime: math.MinInt64, MaxTime: math.MaxInt64, MaxTarget: tree.MaxTarget}
}

// Draw makes a tree of at most a few dozen entries.
func Draw(t *rapid.T, f Features) *tree.Node {
	d := drawer{t: t, f: f}
	root := d.dir(0)
	return root
}

type drawer struct {
	t     *rapid.T
	f     Features
	files []*tree.Node // what may get another name
}

func (d *drawer) name() string {
	raw := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9._ -]{1,12}`),
		rapid.StringMatching(`[ab]`),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 20), func(b []byte) string { return string(b) }),
		rapid.Map(rapid.SampledFrom([]string{"x", "é", "\xff", " ", "\n", "%", "="}), func(s string) string { return strings.Repeat(s, 255/len(s)) }),
	).Draw(d.t, "name")
	raw = strings.NewReplacer("/", "_", "\x00", "_").Replace(raw)
	if raw == "." || raw == ".." || len(raw) > tree.MaxName {
		return "dot"
	}
	return raw
}

func (d *drawer) dir(depth int) *tree.Node {
	n := d.attributes(tree.Directory)
	for range rapid.IntRange(0, 6).Draw(d.t, "entries") {
		kind := rapid.SampledFrom([]uint32{tree.Regular, tree.Regular, tree.Symlink, tree.FIFO, tree.Char, tree.Block, tree.Socket, tree.Directory, 0}).Draw(d.t, "type")
		var c *tree.Node
		switch {
		case kind == tree.Directory && depth < 4:
			c = d.dir(depth + 1)
		case kind == 0 && len(d.files) > 0:
			c = rapid.SampledFrom(d.files).Draw(d.t, "hard link")
		case kind == tree.Symlink:
			c = d.attributes(kind)
			c.Target = rapid.StringMatching(`(/|\.\./)?[a-z/.]{1,8}`).Draw(d.t, "target")
			if rapid.IntRange(0, 9).Draw(d.t, "long target") == 0 {
				c.Target = strings.Repeat("\xfe/", d.f.MaxTarget/2)
			}
		case kind == tree.FIFO, kind == tree.Socket && d.f.Sockets:
			c = d.attributes(kind)
		case (kind == tree.Char || kind == tree.Block) && d.f.Devices:
			c = d.attributes(kind)
			c.Major = rapid.Uint32Range(0, tree.MaxMajor).Draw(d.t, "major")
			c.Minor = rapid.Uint32Range(0, tree.MaxMinor).Draw(d.t, "minor")
		default:
			c = d.attributes(tree.Regular)
			c.Content = rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 600), func(b []byte) tree.Bytes { return tree.Bytes(b) }).Draw(d.t, "content")
			if rapid.IntRange(0, 7).Draw(d.t, "large") == 0 {
				c.Content = tree.Bytes(strings.Repeat("\x00", 70<<10) + "end" + strings.Repeat("\x00", 9000))
			}
			c.Size = int64(len(c.Content.(tree.Bytes)))
		}
		name := d.name()
		if n.Lookup(name) != nil {
			continue
		}
		if err := n.Set(name, c); err != nil {
			d.t.Fatal(err)
		}
		if !c.IsDir() {
			d.files = append(d.files, c)
		}
	}
	return n
}

func (d *drawer) attributes(kind uint32) *tree.Node {
	n := &tree.Node{Mode: kind | rapid.Uint32Range(0, tree.PermMask).Draw(d.t, "mode")}
	if kind == tree.Symlink {
		n.Mode = kind | 0o777
	}
	if d.f.Owners {
		n.UID = rapid.Uint32Range(0, math.MaxUint32-1).Draw(d.t, "uid")
		n.GID = rapid.Uint32Range(0, math.MaxUint32-1).Draw(d.t, "gid")
	}
	n.Mtime = rapid.OneOf(
		rapid.Int64Range(d.f.MinTime, d.f.MaxTime),
		rapid.SampledFrom([]int64{0, max(-1, d.f.MinTime), 1700000000, max(-62135596800, d.f.MinTime)}),
	).Draw(d.t, "mtime")
	n.Nsec = rapid.OneOf(rapid.Just[uint32](0), rapid.Uint32Range(0, 999999999)).Draw(d.t, "nsec")
	names := rapid.Map(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 20), func(b []byte) string { return string(b) })
	if d.f.Xattrs != nil {
		allowed := d.f.Xattrs
		if kind == tree.Regular || kind == tree.Directory {
			allowed = append(allowed[:len(allowed):len(allowed)], d.f.UserXattrs...)
		}
		names = rapid.SampledFrom(allowed)
	}
	for range rapid.IntRange(0, 2).Draw(d.t, "attributes") {
		v := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(d.t, "value")
		n.Xattrs = append(n.Xattrs, tree.Xattr{Name: names.Draw(d.t, "attribute"), Value: string(v)})
	}
	n.Xattrs = tree.SortXattrs(n.Xattrs)
	return n
}

// Dir is a temporary directory in memory where there is one, because exports
// wait for the disk, and many of them wait long.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "zos-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Diff is the first differences between two trees, or "".
func Diff(want, got *tree.Node) string {
	w, errW := flat(want)
	g, errG := flat(got)
	if errW != nil || errG != nil {
		return fmt.Sprint("content: ", errW, errG)
	}
	var b strings.Builder
	lines := 0
	for i := 0; i < len(w) || i < len(g); i++ {
		var x, y string
		if i < len(w) {
			x = w[i]
		}
		if i < len(g) {
			y = g[i]
		}
		if x != y {
			fmt.Fprintf(&b, "-%s\n+%s\n", x, y)
			if lines++; lines > 10 {
				break
			}
		}
	}
	return b.String()
}

// List is one line for each name, as Diff compares them.
func List(root *tree.Node) string {
	lines, err := flat(root)
	if err != nil {
		return err.Error()
	}
	return strings.Join(lines, "\n")
}

func flat(root *tree.Node) ([]string, error) {
	if err := root.Check(); err != nil {
		return nil, err
	}
	var out []string
	first := make(map[*tree.Node]string)
	for path, n := range root.Walk() {
		s := fmt.Sprintf("%q %o %d:%d %d.%09d", path, n.Mode, n.UID, n.GID, n.Mtime, n.Nsec)
		if n.IsRegular() {
			s += fmt.Sprintf(" size %d", n.Size)
		}
		if n.Type() == tree.Char || n.Type() == tree.Block {
			s += fmt.Sprintf(" dev %d:%d", n.Major, n.Minor)
		}
		if n.Target != "" {
			s += fmt.Sprintf(" -> %q", n.Target)
		}
		for _, x := range n.Xattrs {
			s += fmt.Sprintf(" %q=%q", x.Name, x.Value)
		}
		if !n.IsDir() {
			if f, ok := first[n]; ok {
				out = append(out, s+fmt.Sprintf(" = %q", f))
				continue
			}
			first[n] = path
		}
		if n.IsRegular() && n.Size > 0 && n.Size < 1<<20 {
			c, err := content(n)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", path, err)
			}
			s += fmt.Sprintf(" %.60q %x", c, sha256.Sum256([]byte(c)))
		}
		out = append(out, s)
	}
	return out, nil
}

func content(n *tree.Node) (string, error) {
	r, err := n.Content.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err == nil && int64(len(b)) != n.Size {
		err = fmt.Errorf("%d bytes where %d were promised", len(b), n.Size)
	}
	return string(b), err
}
