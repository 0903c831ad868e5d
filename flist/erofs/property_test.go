package erofs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"zos.internal/flist/tree"
)

// same reports how two trees differ: in names, fields or hard links.
func same(a, b *tree.Node) error {
	twin := make(map[*tree.Node]*tree.Node)
	back := make(map[*tree.Node]*tree.Node)
	var visit func(path string, a, b *tree.Node) error
	visit = func(path string, a, b *tree.Node) error {
		if twin[a] != nil || back[b] != nil {
			if twin[a] != b || back[b] != a {
				return fmt.Errorf("%q: hard links differ", path)
			}
			return nil
		}
		twin[a], back[b] = b, a
		x, y := *a, *b
		x.Entries, x.Content, y.Entries, y.Content = nil, nil, nil, nil
		if !slices.Equal(x.Xattrs, y.Xattrs) || fmt.Sprint(x) != fmt.Sprint(y) {
			return fmt.Errorf("%q: %s", path, cmp.Diff(x, y))
		}
		if b.Content != nil {
			return fmt.Errorf("%q: has content", path)
		}
		if len(a.Entries) != len(b.Entries) {
			return fmt.Errorf("%q: %d entries and %d", path, len(a.Entries), len(b.Entries))
		}
		for i, e := range a.Entries {
			if e.Name != b.Entries[i].Name {
				return fmt.Errorf("%q: %q and %q", path, e.Name, b.Entries[i].Name)
			}
			if err := visit(path+"/"+e.Name, e.Node, b.Entries[i].Node); err != nil {
				return err
			}
		}
		return nil
	}
	return visit("", a, b)
}

// drawNode draws anything but a directory.
func drawNode(t *rapid.T) *tree.Node {
	n := &tree.Node{}
	drawStat(t, n)
	kind := rapid.SampledFrom([]uint32{tree.Regular, tree.Regular, tree.Symlink, tree.Char, tree.Block, tree.FIFO, tree.Socket}).Draw(t, "type")
	n.Mode |= kind
	switch kind {
	case tree.Regular:
		if n.Size = rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 9000), rapid.Int64Range(0, 1<<35)).Draw(t, "size"); n.Size > 0 {
			n.Offset = BlockSize * rapid.Int64Range(0, 1<<31).Draw(t, "offset")
		}
	case tree.Symlink:
		n.Target = strings.Repeat("t", rapid.OneOf(rapid.IntRange(1, 80), rapid.IntRange(3900, tree.MaxTarget)).Draw(t, "target"))
	case tree.Char, tree.Block:
		n.Major = rapid.Uint32Range(0, tree.MaxMajor).Draw(t, "major")
		n.Minor = rapid.Uint32Range(0, tree.MaxMinor).Draw(t, "minor")
	}
	return n
}

func drawStat(t *rapid.T, n *tree.Node) {
	n.Mode = rapid.Uint32Range(0, tree.PermMask).Draw(t, "perm")
	id := rapid.OneOf(rapid.Just(uint32(0)), rapid.Uint32Range(65530, 65540), rapid.Uint32())
	n.UID, n.GID = id.Draw(t, "uid"), id.Draw(t, "gid")
	n.Mtime = rapid.OneOf(rapid.Int64Range(-2, 2), rapid.Int64()).Draw(t, "mtime")
	n.Nsec = rapid.OneOf(rapid.Just(uint32(0)), rapid.Uint32Range(0, 999999999)).Draw(t, "nsec")
	for range rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 4)).Draw(t, "xattrs") {
		name := rapid.SampledFrom([]string{"user.", "trusted.", "security.", "system.posix_acl_access", "system.posix_acl_default"}).Draw(t, "prefix")
		if strings.HasSuffix(name, ".") {
			name += rapid.StringMatching(`[a-c]{1,5}`).Draw(t, "name")
		}
		size := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 8000)).Draw(t, "value")
		n.Xattrs = append(n.Xattrs, tree.Xattr{Name: name, Value: strings.Repeat("v", size)})
	}
	n.Xattrs = tree.SortXattrs(n.Xattrs)
}

type named struct {
	path string
	node *tree.Node
}

// drawTree draws a tree and the list of names that makes it.
func drawTree(t *rapid.T) []named {
	var list []named
	dirs, used := []string{""}, map[string]bool{"": true}
	name := rapid.OneOf(rapid.StringMatching(`[!-/0-9a-d]{1,3}`), rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 255), func(b []byte) string { return string(b) }))
	for range rapid.OneOf(rapid.IntRange(0, 30), rapid.IntRange(60, 200)).Draw(t, "names") {
		s := name.Draw(t, "name")
		path := rapid.SampledFrom(dirs).Draw(t, "dir") + "/" + s
		if tree.CheckName(s) != nil || used[path] {
			continue
		}
		used[path] = true
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0, 1, 2:
			dir := tree.NewDir(0)
			drawStat(t, dir)
			dir.Mode |= tree.Directory
			list = append(list, named{path, dir})
			dirs = append(dirs, path)
		case 3, 4:
			if other := rapid.IntRange(0, max(0, len(list)-1)).Draw(t, "link"); len(list) > 0 && !list[other].node.IsDir() {
				list = append(list, named{path, list[other].node})
			}
		default:
			list = append(list, named{path, drawNode(t)})
		}
	}
	// One directory of several blocks.
	dir, fifo := rapid.SampledFrom(dirs).Draw(t, "dir"), &tree.Node{Mode: tree.FIFO}
	for i := range rapid.OneOf(rapid.Just(0), rapid.IntRange(100, 600)).Draw(t, "many") {
		list = append(list, named{fmt.Sprintf("%s/many%d", dir, i), fifo})
	}
	return list
}

// build makes a tree in the order of the list. Directories are inserted empty
// and get their entries as they come.
func build(list []named, order []int) (*tree.Node, error) {
	root := tree.NewDir(0o755)
	fresh := make(map[*tree.Node]*tree.Node)
	for _, i := range order {
		n := fresh[list[i].node]
		if n == nil {
			c := *list[i].node
			c.Entries = nil
			n = &c
			fresh[list[i].node] = n
		}
		// What made the parents of a later name gets its fields now.
		if old := root.At(list[i].path); old != nil && old.IsDir() {
			n.Entries = old.Entries
		}
		if err := root.Insert(list[i].path, n); err != nil {
			return nil, err
		}
	}
	return root, nil
}

func TestRoundTripIsExactAndDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawTree(t)
		order := make([]int, len(list))
		for i := range order {
			order[i] = i
		}
		root, err := build(list, order)
		if err != nil {
			t.Fatal(err)
		}
		const blocks = 1 << 32 / 2
		image, err := Encode(root, blocks+1<<24)
		if err != nil {
			t.Fatal(err)
		}
		got, device, err := Check(image)
		if err != nil {
			t.Fatal(err)
		}
		if device != blocks+1<<24 {
			t.Fatalf("device of %d blocks, want %d", device, uint64(blocks+1<<24))
		}
		if err := same(root, got); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		again, err := build(list, order)
		if err != nil {
			t.Fatal(err)
		}
		other, err := Encode(again, device)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(image, other) {
			t.Fatal("the order in which a tree was made changes its image")
		}
	})
}
