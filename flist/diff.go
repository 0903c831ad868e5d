package flist

import (
	"cmp"
	"slices"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/tree"
)

// Change is one path that differs between two images.
type Change struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // "added", "removed" or "changed"
	// What changed: "type", "content", "mode", "owner", "time", "xattr",
	// "target", "device", "links".
	What []string `json:"what,omitempty"`
	Size int64    `json:"size"` // of the new file; of the old one if removed
}

// Difference is what an upgrade from one image to another would change and
// move. Sizes are bytes.
type Difference struct {
	Changes []Change `json:"changes"`
	Added   int      `json:"added"`
	Removed int      `json:"removed"`
	Changed int      `json:"changed"`
	// MovedChunks are chunks of the new image that the old one does not have,
	// MovedPlain their size and MovedStored their size on the wire (0 when the
	// locator was not given).
	MovedChunks int   `json:"moved_chunks"`
	MovedPlain  int64 `json:"moved_plain"`
	MovedStored int64 `json:"moved_stored"`
	// SharedPlain is the size of the chunks that both have.
	SharedPlain int64 `json:"shared_plain"`
	// ObjectBytes is the size of root, metadata, map and records of the new
	// image, before compression.
	ObjectBytes int64 `json:"object_bytes"`
}

// Diff compares two images by their metadata; no content is read. loc may hold
// the locator of b. Content counts as changed when the size or the list of its
// chunks differs, except for a file with the same size and time whose chunks
// moved because a neighbour in its directory changed.
func Diff(a, b *Image, loc *block.Locator) *Difference {
	d := &Difference{Changes: []Change{}}
	ax, bx := newExtentIndex(a), newExtentIndex(b)
	d.dir("", a.Tree, b.Tree, ax, bx)
	slices.SortStableFunc(d.Changes, func(x, y Change) int { return cmp.Compare(x.Path, y.Path) })
	for _, c := range d.Changes {
		switch c.Kind {
		case "added":
			d.Added++
		case "removed":
			d.Removed++
		default:
			d.Changed++
		}
	}
	have := make(map[block.Name]bool, len(a.Map.Chunks))
	for _, c := range a.Map.Chunks {
		have[c.Name] = true
	}
	for i, c := range b.Map.Chunks {
		if have[c.Name] {
			d.SharedPlain += int64(c.Plain)
			continue
		}
		d.MovedChunks++
		d.MovedPlain += int64(c.Plain)
		if loc != nil && i < len(loc.Where) {
			d.MovedStored += int64(loc.Where[i].Stored)
		}
	}
	d.ObjectBytes = int64(len(b.RootBytes)) + int64(b.Root.Metadata.Size+b.Root.Map.Size+b.Root.Config.Size)
	if b.Root.Executables != nil {
		d.ObjectBytes += int64(b.Root.Executables.Size)
	}
	return d
}

func (d *Difference) dir(path string, a, b *tree.Node, ax, bx *extentIndex) {
	if what := differs(a, b, ax, bx); len(what) > 0 {
		d.Changes = append(d.Changes, Change{Path: path, Kind: "changed", What: what, Size: b.Size})
	}
	ae, be := a.Entries, b.Entries
	for len(ae) > 0 || len(be) > 0 {
		switch {
		case len(be) == 0 || len(ae) > 0 && ae[0].Name < be[0].Name:
			d.all(join(path, ae[0].Name), "removed", ae[0].Node)
			ae = ae[1:]
		case len(ae) == 0 || be[0].Name < ae[0].Name:
			d.all(join(path, be[0].Name), "added", be[0].Node)
			be = be[1:]
		default:
			d.pair(join(path, ae[0].Name), ae[0].Node, be[0].Node, ax, bx)
			ae, be = ae[1:], be[1:]
		}
	}
}

func (d *Difference) pair(path string, a, b *tree.Node, ax, bx *extentIndex) {
	if a.IsDir() && b.IsDir() {
		d.dir(path, a, b, ax, bx)
		return
	}
	if what := differs(a, b, ax, bx); len(what) > 0 {
		d.Changes = append(d.Changes, Change{Path: path, Kind: "changed", What: what, Size: b.Size})
	}
	for _, e := range a.Entries {
		d.all(join(path, e.Name), "removed", e.Node)
	}
	for _, e := range b.Entries {
		d.all(join(path, e.Name), "added", e.Node)
	}
}

// all records a whole subtree as added or removed.
func (d *Difference) all(path, kind string, n *tree.Node) {
	d.Changes = append(d.Changes, Change{Path: path, Kind: kind, Size: n.Size})
	for _, e := range n.Entries {
		d.all(join(path, e.Name), kind, e.Node)
	}
}

func differs(a, b *tree.Node, ax, bx *extentIndex) (what []string) {
	add := func(s string, yes bool) {
		if yes {
			what = append(what, s)
		}
	}
	if a.Type() != b.Type() {
		return []string{"type"}
	}
	sameTime := a.Mtime == b.Mtime && a.Nsec == b.Nsec
	if a.IsRegular() {
		add("content", a.Size != b.Size || !sameTime && !ax.equal(a, bx, b))
	}
	add("mode", a.Mode != b.Mode)
	add("owner", a.UID != b.UID || a.GID != b.GID)
	add("time", !sameTime)
	add("xattr", !slices.Equal(a.Xattrs, b.Xattrs))
	add("target", a.Target != b.Target)
	add("device", a.Major != b.Major || a.Minor != b.Minor)
	add("links", ax.links[a] != bx.links[b])
	return what
}

// extentIndex finds the chunks of a file.
type extentIndex struct {
	m     *chunkmap.Map
	links map[*tree.Node]int
}

func newExtentIndex(img *Image) *extentIndex {
	return &extentIndex{img.Map, img.Tree.Links()}
}

// equal reports whether two files are made of the same pieces of the same
// chunks.
func (x *extentIndex) equal(a *tree.Node, y *extentIndex, b *tree.Node) bool {
	ae, be := x.of(a), y.of(b)
	return slices.EqualFunc(ae, be, func(p, q chunkmap.Extent) bool {
		if p.Len != q.Len || p.In != q.In || (p.Chunk == chunkmap.Zeros) != (q.Chunk == chunkmap.Zeros) {
			return false
		}
		return p.Chunk == chunkmap.Zeros || x.m.Chunks[p.Chunk].Name == y.m.Chunks[q.Chunk].Name
	})
}

func (x *extentIndex) of(n *tree.Node) []chunkmap.Extent {
	es := x.m.Extents
	first, _ := slices.BinarySearchFunc(es, uint64(n.Offset), func(e chunkmap.Extent, off uint64) int { return cmp.Compare(e.Off, off) })
	last, _ := slices.BinarySearchFunc(es, uint64(n.Offset+n.Size), func(e chunkmap.Extent, off uint64) int { return cmp.Compare(e.Off, off) })
	return es[first:max(first, last)]
}
