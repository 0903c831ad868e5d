package flist

import (
	"context"
	"io"

	"golang.org/x/sync/errgroup"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/config"
	"zos.internal/flist/erofs"
	"zos.internal/flist/executables"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Image is an opened image: everything but the content, all of it checked.
type Image struct {
	ID        ID
	Root      *Root
	RootBytes []byte
	Domain    block.Domain
	Metadata  []byte     // EROFS image, canonical
	Tree      *tree.Node // decoded metadata; Content is nil, Offset is set. nil if OpenOptions.Checked had the image: see LoadTree
	MapBytes  []byte
	Map       *chunkmap.Map
	Config    *config.Config
	// Executables is nil when the builder did not record them.
	Executables []executables.Entry

	start *Start // parts that came with the root and were not used yet
}

// OpenOptions say how an image is opened.
type OpenOptions struct {
	// Domain opens a private image; the zero value opens public ones.
	Domain block.Domain
	// Checked remembers which images passed the canonical check. One that is in
	// it is opened without the check and without its Tree, since its id stands
	// for the same bytes; they are still compared with their hashes. nil checks
	// always.
	Checked Checked
}

// CheckVersion counts up whenever the checks that Checked stands for refuse more
// than before: those of erofs.Check and of the counts of the root.
const CheckVersion = 1

// Checked is a set of images that passed the checks of CheckVersion on this
// machine. Whoever can add to it can have the kernel parse what he likes, so it
// belongs to the user that mounts.
type Checked interface {
	Has(id ID) bool
	Add(id ID)
}

// Open fetches root, metadata, map, config and executables of an image and
// checks all of them: hashes, limits, canonical form, and that they fit each
// other. It reads no content. A private image needs the domain of its tenant
// (Denied otherwise); a missing part is NotFound.
func Open(ctx context.Context, from block.Bucket, id ID, opt OpenOptions) (*Image, error) {
	o := openStart(ctx, from, id, opt.Domain)
	if o == nil {
		var err error
		if o, err = openRoot(ctx, from, id); err != nil {
			return nil, fault.Errorf(fault.Of(err), "open image %v: %w", id, err)
		}
	}
	img := &Image{ID: id, Root: o.root, RootBytes: o.rootBytes, Domain: opt.Domain, start: o.start}
	if err := img.open(ctx, from, o.objects, opt.Checked); err != nil {
		return nil, fault.Errorf(fault.Of(err), "open image %v: %w", id, err)
	}
	return img, nil
}

func openRoot(ctx context.Context, from block.Bucket, id ID) (*opened, error) {
	b, err := from.Read(ctx, RootKey(id), 0, MaxRoot+1)
	if err != nil {
		return nil, err
	}
	if block.Sum(b) != id {
		return nil, fault.Errorf(fault.Invalid, "the root has another hash; fetch it from another source")
	}
	root, err := ParseRoot(b)
	if err != nil {
		return nil, err
	}
	return &opened{rootBytes: b, root: root}, nil
}

// OpenRoot reads the root of an image alone, with the checks of Open that it
// allows: its hash, its form, and that a private image belongs to the tenant.
func OpenRoot(ctx context.Context, from block.Bucket, id ID, dom block.Domain) (*Root, error) {
	o, err := openRoot(ctx, from, id)
	if err == nil {
		_, err = o.root.domain(dom)
	}
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "open image %v: %w", id, err)
	}
	return o.root, nil
}

// domain is the one that opens the image, if dom, the tenant's, does.
func (r *Root) domain(dom block.Domain) (block.Domain, error) {
	id := dom.ID()
	switch {
	case !r.Private():
		return block.Domain{}, nil
	case !dom.Private():
		return dom, fault.Errorf(fault.Denied, "it is private; give the tenant's secret with --tenant-key")
	case string(r.Domain) != string(id[:]):
		return dom, fault.Errorf(fault.Denied, "it belongs to another tenant than the given secret")
	}
	return dom, nil
}

// open completes img with the objects that are there and those in from.
func (img *Image) open(ctx context.Context, from block.Bucket, have map[block.Name][]byte, checked Checked) error {
	root := img.Root
	dom, err := root.domain(img.Domain)
	if err != nil {
		return err
	}
	img.Domain = dom
	var mapBytes, configBytes, execBytes []byte
	parts := []struct {
		ref *Ref
		to  *[]byte
	}{{&root.Metadata, &img.Metadata}, {&root.Map, &mapBytes}, {&root.Config, &configBytes}, {root.Executables, &execBytes}}
	// At once, because each of them is a round trip.
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range parts {
		if p.ref == nil {
			continue
		}
		if b, ok := have[p.ref.Name]; ok && uint64(len(b)) == p.ref.Size {
			*p.to = b
			continue
		}
		g.Go(func() (err error) {
			*p.to, err = ReadObject(gctx, from, dom, *p.ref)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if checked == nil || !checked.Has(img.ID) {
		if err := img.checkTree(); err != nil {
			return err
		}
		if checked != nil {
			checked.Add(img.ID)
		}
	}
	img.MapBytes = mapBytes
	if img.Map, err = chunkmap.Parse(img.MapBytes, root.DeviceBlocks*BlockSize); err != nil {
		return err
	}
	if img.Config, err = config.Parse(configBytes); err != nil {
		return err
	}
	if root.Executables != nil {
		if img.Executables, err = executables.Parse(execBytes); err != nil {
			return err
		}
	}
	return nil
}

// LoadTree decodes Tree if Open left it out.
func (img *Image) LoadTree() error {
	if img.Tree != nil {
		return nil
	}
	root, _, err := erofs.Decode(img.Metadata)
	if err != nil {
		return fault.Errorf(fault.Of(err), "read the tree of image %v: %w", img.ID, err)
	}
	img.Tree = root
	return nil
}

// checkTree is the canonical check of the metadata; it compares the counts of the
// root with the tree and keeps every file inside the device.
func (img *Image) checkTree() error {
	root, blocks, err := erofs.Check(img.Metadata)
	if err != nil {
		return err
	}
	if blocks != img.Root.DeviceBlocks {
		return fault.Errorf(fault.Invalid, "the metadata has a device of %d blocks, the root of %d", blocks, img.Root.DeviceBlocks)
	}
	img.Tree = root
	size := int64(img.Root.DeviceBlocks) * BlockSize
	var entries, content uint64
	seen := make(map[*tree.Node]bool)
	for path, n := range img.Tree.Walk() {
		entries++
		if !n.IsRegular() || n.Size == 0 {
			continue
		}
		if n.Offset < 0 || n.Size > size || n.Offset > size-n.Size {
			return fault.Errorf(fault.Invalid, "%q lies outside of the data device", path)
		}
		if !seen[n] {
			seen[n] = true
			content += uint64(n.Size)
		}
	}
	if entries != img.Root.Entries || content != img.Root.Content {
		return fault.Errorf(fault.Invalid, "the tree has %d entries and %d bytes, the root promises %d and %d",
			entries, content, img.Root.Entries, img.Root.Content)
	}
	return nil
}

// DeviceSize is the size of the data device in bytes.
func (img *Image) DeviceSize() int64 { return int64(img.Root.DeviceBlocks) * BlockSize }

// Device reads ranges of an image's data device; flist/fetch implements it.
type Device interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Attach gives every regular file of the tree a Content that reads from dev,
// so that the tree can be exported or read like one from a source.
func (img *Image) Attach(ctx context.Context, dev Device) {
	for _, n := range img.Tree.Walk() {
		if n.IsRegular() && n.Size > 0 && n.Content == nil {
			n.Content = deviceContent{ctx, dev, n.Offset, n.Size}
		}
	}
}

// deviceContent keeps the context of the operation that attached it: the tree's
// Content interface has none.
type deviceContent struct {
	ctx       context.Context
	dev       Device
	off, size int64
}

func (c deviceContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(deviceReader{c.ctx, c.dev}, c.off, c.size)), nil
}

type deviceReader struct {
	ctx context.Context
	dev Device
}

func (r deviceReader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.dev.ReadAt(r.ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// View is the chunk map as flist/fetch reads it.
func (img *Image) View() (*chunkmap.View, error) {
	return chunkmap.NewView(img.MapBytes, uint64(img.DeviceSize()))
}
