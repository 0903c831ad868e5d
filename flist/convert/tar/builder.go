package tar

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Kind says how the entries of an archive are understood.
type Kind int

const (
	Archive Kind = iota // an archive of its own: whiteout names are plain names, an end marker is demanded
	Layer               // a container layer over the ones before: whiteouts remove, the end marker may be missing
)

// Builder makes one tree of one or more archives applied in order. It keeps
// the rules of a layered file system whatever the order of entries: a
// directory over a directory keeps the entries, everything else replaces, and
// a whiteout hides only what earlier archives brought.
type Builder struct {
	spool  *convert.Spool
	limits convert.Limits
	root   *item
	layer  int
	links  map[*tree.Node]int // further names of a node

	entries  int   // names seen and directories made
	metadata int64 // bytes of names, targets and attributes seen
	steps    int   // names walked because of symlinks
	lastPath string
	lastDir  *item
}

// item is one name in the tree that grows.
type item struct {
	node     *tree.Node
	parent   *item // the directory that holds the name
	children map[string]*item
	depth    int
	layer    int // archive that set this name, or something below it
	opaque   int // archive that hid what earlier ones had below
}

// NewBuilder puts contents into the spool, which it doesn't own.
func NewBuilder(spool *convert.Spool, limits convert.Limits) *Builder {
	return &Builder{
		spool: spool, limits: limits.WithDefaults(), links: make(map[*tree.Node]int),
		root: &item{node: tree.NewDir(0o755), children: make(map[string]*item)},
	}
}

// Apply reads the plain archive r to its end and puts its entries over what
// is there. After an error the builder is of no use.
func (b *Builder) Apply(ctx context.Context, r io.Reader, kind Kind) error {
	b.layer++
	b.lastDir = nil
	in := &position{r: r, left: b.limits.Bytes + 4*b.limits.Metadata + 2048*int64(b.limits.Entries)}
	tr := tar.NewReader(in)
	var global map[string]string
	last := "" // the entry before, for messages
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := in.expect()
		h, err := tr.Next()
		if err == io.EOF {
			if kind == Archive && in.zeros < 512 {
				return fault.Errorf(fault.Invalid, "the archive ends after the entry %q without its end marker; it was probably cut: %w", last, io.ErrUnexpectedEOF)
			}
			return b.drain(in, kind)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return headerError(err, last, at)
		}
		last = h.Name
		if h.Typeflag == tar.TypeXGlobalHeader {
			if global, err = globalRecords(global, h.PAXRecords); err != nil {
				return err
			}
			continue
		}
		if err := b.add(ctx, tr, h, global, kind); err != nil {
			return entryError(h.Name, err)
		}
	}
}

func headerError(err error, last string, at int64) error {
	if k := fault.Of(err); k != fault.Internal {
		return err
	}
	if last == "" && errors.Is(err, tar.ErrHeader) {
		return fault.Errorf(fault.Invalid, "this is not a tar archive (or its start is damaged): %w", err)
	}
	return fault.Errorf(fault.Invalid, "the archive is damaged or cut after the entry %q at byte %d: %w", last, at, err)
}

func entryError(name string, err error) error {
	kind := fault.Of(err)
	if kind == fault.Internal && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) {
		kind = fault.Invalid
	}
	return fault.Errorf(kind, "entry %q: %w", name, err)
}

// drain reads what follows the end marker, so that checksums are checked.
func (b *Builder) drain(in *position, kind Kind) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		if kind == Archive && slices.ContainsFunc(buf[:n], func(c byte) bool { return c != 0 }) {
			return fault.Errorf(fault.Invalid, "bytes follow the end marker of the archive; if it was made of several, convert them one by one")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return headerError(err, "the end marker", in.n)
		}
	}
}

func (b *Builder) add(ctx context.Context, tr *tar.Reader, h *tar.Header, global map[string]string, kind Kind) error {
	if err := b.account(h); err != nil {
		return err
	}
	if h.Typeflag == 'V' { // the label of a GNU volume
		return nil
	}
	names, err := tree.Split(h.Name)
	if err != nil {
		return err
	}
	if kind == Layer {
		if done, err := b.whiteout(names); done || err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeLink {
		return b.link(names, h.Linkname)
	}
	n, err := newNode(h, global)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if !n.IsDir() {
			return fault.Errorf(fault.Invalid, "the root of the tree can't be anything but a directory")
		}
		setAttributes(b.root.node, n)
		return nil
	}
	if n.IsRegular() && n.Size > 0 {
		blob, err := b.spool.Add(ctx, tr, n.Size)
		if err != nil {
			return err
		}
		n.Content = blob
	}
	dir, base, err := b.parent(names, true)
	if err != nil {
		return err
	}
	return b.put(dir, base, n)
}

// account refuses an archive with too much in it before it takes memory.
func (b *Builder) account(h *tar.Header) error {
	n := len(h.Name) + len(h.Linkname)
	for k, v := range h.PAXRecords {
		n += len(k) + len(v)
	}
	b.metadata += int64(n)
	if b.metadata > b.limits.Metadata {
		return fault.Errorf(fault.Exhausted, "names, link targets and attributes have more than %d bytes in all; split the image or raise the limit", b.limits.Metadata)
	}
	return b.count()
}

func (b *Builder) count() error {
	if b.entries++; b.entries > b.limits.Entries {
		return fault.Errorf(fault.Exhausted, "more than %d entries in all; split the image or raise the limit", b.limits.Entries)
	}
	return nil
}

// put sets a name. Directories merge, everything else replaces.
func (b *Builder) put(dir *item, base string, n *tree.Node) error {
	b.touch(dir)
	old := dir.children[base]
	if old != nil && old.node.IsDir() && n.IsDir() {
		setAttributes(old.node, n)
		old.layer = b.layer
		return nil
	}
	if old != nil {
		b.remove(old)
	}
	it := &item{node: n, parent: dir, depth: dir.depth + 1, layer: b.layer}
	if n.IsDir() {
		it.children = make(map[string]*item)
		if it.depth > tree.MaxDepth {
			return fault.Errorf(fault.Invalid, "it is more than %d directories deep", tree.MaxDepth)
		}
	}
	dir.children[base] = it
	return nil
}

// touch marks a directory and those above as part of this archive.
func (b *Builder) touch(dir *item) {
	for ; dir != nil && dir.layer != b.layer; dir = dir.parent {
		dir.layer = b.layer
	}
}

// remove releases what an item that lost its name held.
func (b *Builder) remove(it *item) {
	b.lastDir = nil
	for _, c := range it.children {
		b.remove(c)
	}
	if it.node.IsDir() {
		return
	}
	if b.links[it.node] > 0 {
		b.links[it.node]--
		return
	}
	if blob, ok := it.node.Content.(*convert.Blob); ok {
		b.spool.Drop(blob)
	}
}

func (b *Builder) link(names []string, target string) error {
	if len(names) == 0 {
		return fault.Errorf(fault.Invalid, "the root of the tree can't be a hard link")
	}
	to, err := tree.Split(target)
	if err != nil {
		return fault.Errorf(fault.Of(err), "hard link: %w", err)
	}
	missing := fault.Errorf(fault.Invalid, "hard link to %q, which is not in the archive before it", target)
	if len(to) == 0 {
		return fault.Errorf(fault.Invalid, "hard link to %q, which is a directory", target)
	}
	from, base, err := b.parent(to, false)
	if err != nil && fault.Of(err) != fault.NotFound {
		return err
	}
	if err != nil || from.children[base] == nil {
		return missing
	}
	n := from.children[base].node
	if n.IsDir() {
		return fault.Errorf(fault.Invalid, "hard link to %q, which is a directory", target)
	}
	dir, base, err := b.parent(names, true)
	if err != nil {
		return err
	}
	if old := dir.children[base]; old != nil && old.node == n {
		b.touch(dir)
		old.layer = b.layer
		return nil
	}
	b.links[n]++
	return b.put(dir, base, n)
}

// Root is the tree, with sorted entries. The builder can be used further.
func (b *Builder) Root() *tree.Node { return b.root.freeze() }

func (it *item) freeze() *tree.Node {
	if !it.node.IsDir() {
		return it.node
	}
	it.node.Entries = nil
	if len(it.children) > 0 {
		it.node.Entries = make([]tree.Entry, 0, len(it.children))
	}
	for name, c := range maps.All(it.children) {
		it.node.Entries = append(it.node.Entries, tree.Entry{Name: name, Node: c.freeze()})
	}
	slices.SortFunc(it.node.Entries, func(a, b tree.Entry) int { return cmp.Compare(a.Name, b.Name) })
	return it.node
}

const (
	whPrefix = ".wh."
	whOpaque = ".wh..wh..opq"
	whMeta   = ".wh..wh."
)

// whiteout applies a whiteout; it reports whether the entry was one.
func (b *Builder) whiteout(names []string) (bool, error) {
	if len(names) == 0 {
		return false, nil
	}
	for _, n := range names[:len(names)-1] {
		if strings.HasPrefix(n, whPrefix) && !strings.HasPrefix(n, whMeta) {
			return true, fault.Errorf(fault.Invalid, "a whiteout is used as a directory")
		}
	}
	base := names[len(names)-1]
	if !strings.HasPrefix(base, whPrefix) {
		// Left-overs of a file system of old container engines.
		return strings.HasPrefix(names[0], whMeta), nil
	}
	hidden := base[len(whPrefix):]
	switch {
	case base == whOpaque:
	case strings.HasPrefix(base, whMeta):
		return true, nil
	case hidden == "" || hidden == "." || hidden == "..":
		return true, fault.Errorf(fault.Invalid, "a whiteout of %q would remove the directory it is in; the layer is damaged or hostile", hidden)
	}
	dir, _, err := b.parent(names, false)
	if fault.Of(err) == fault.NotFound {
		return true, nil // nothing to hide
	}
	if err != nil {
		return true, err
	}
	if base == whOpaque {
		b.hide(dir)
		return true, nil
	}
	it := dir.children[hidden]
	switch {
	case it == nil:
	case it.layer < b.layer:
		b.remove(it)
		delete(dir.children, hidden)
	case it.node.IsDir():
		b.hide(it)
	}
	return true, nil
}

// hide removes what earlier archives had below dir.
func (b *Builder) hide(dir *item) {
	if dir.opaque == b.layer {
		return
	}
	dir.opaque = b.layer
	for name, c := range dir.children {
		switch {
		case c.layer < b.layer:
			b.remove(c)
			delete(dir.children, name)
		case c.node.IsDir():
			b.hide(c)
		}
	}
}

// position counts the plain bytes, stops a stream that never ends, and tells a
// true end marker, which archive/tar does not demand.
type position struct {
	r       io.Reader
	n, left int64
	next    int64 // where the next header must start
	zeros   int   // leading zero bytes of the block there
}

// expect says that what the entry before holds was read.
func (p *position) expect() int64 {
	p.next, p.zeros = (p.n+511)/512*512, 0
	return p.next
}

func (p *position) Read(b []byte) (int, error) {
	if p.left <= 0 {
		return 0, fault.Errorf(fault.Exhausted, "the archive has more than %d bytes when decompressed; it is a bomb, or the limit must be raised", p.n)
	}
	if int64(len(b)) > p.left {
		b = b[:p.left]
	}
	n, err := p.r.Read(b)
	for i, c := range b[:n] {
		off := p.n + int64(i) - p.next
		if off >= 512 {
			break
		}
		if c == 0 && off == int64(p.zeros) {
			p.zeros++
		}
	}
	p.n += int64(n)
	p.left -= int64(n)
	return n, err
}
