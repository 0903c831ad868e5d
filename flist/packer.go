package flist

import (
	"bytes"
	"context"
	"runtime"
	"sync"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/internal/fault"
)

// place is where a chunk is stored.
type place struct {
	pack   block.PackRef
	off    uint64
	stored uint32
}

// loadBases indexes the chunks that the base images have in their packs.
func loadBases(ctx context.Context, from block.Bucket, opt BuildOptions) (map[block.Name]place, error) {
	known := make(map[block.Name]place)
	packs := make(map[block.Name]bool)
	for _, id := range opt.Bases {
		if err := loadBase(ctx, from, id, opt.Domain, known, packs); err != nil {
			return nil, fault.Errorf(fault.Of(err), "build image: open its base %v: %w", id, err)
		}
	}
	for _, id := range opt.Near {
		// What is not whole lends nothing.
		if err := loadBase(ctx, from, id, opt.Domain, known, packs); err != nil && ctx.Err() != nil {
			return nil, fault.Errorf(fault.Unavailable, "build image: %w", ctx.Err())
		}
	}
	return known, nil
}

// loadBase adds the chunks of an image to known. It reads the map and the
// locator only; packs remembers which ones are there.
func loadBase(ctx context.Context, from block.Bucket, id ID, dom block.Domain, known map[block.Name]place, packs map[block.Name]bool) error {
	b, err := from.Read(ctx, RootKey(id), 0, MaxRoot+1)
	if err != nil {
		return err
	}
	if block.Sum(b) != id {
		return fault.Errorf(fault.Invalid, "the root has another hash; fetch it from another source")
	}
	root, err := ParseRoot(b)
	if err != nil {
		return err
	}
	if root.Private() != dom.Private() {
		return nil // its chunks have other names
	}
	if own := dom.ID(); root.Private() && string(root.Domain) != string(own[:]) {
		return fault.Errorf(fault.Denied, "it belongs to another tenant than the given secret")
	}
	plain, err := ReadObject(ctx, from, dom, root.Map)
	if err != nil {
		return err
	}
	m, err := chunkmap.Parse(plain, root.DeviceBlocks*BlockSize)
	if err != nil {
		return err
	}
	loc, err := ReadLocator(ctx, from, &Image{ID: id, Map: m})
	if err != nil {
		return err
	}
	for _, p := range loc.Packs {
		if packs[p.Name] {
			continue
		}
		size, err := from.Stat(ctx, PackPrefix+p.Name.String())
		if err != nil {
			return err
		}
		if size != p.Size {
			return fault.Errorf(fault.Invalid, "pack %v has %d bytes, the locator says %d", p.Name, size, p.Size)
		}
		packs[p.Name] = true
	}
	for i, c := range m.Chunks {
		if w := loc.Where[i]; w.Stored != 0 {
			known[c.Name] = place{loc.Packs[w.Pack], w.Off, w.Stored}
		}
	}
	return nil
}

// ReadLocator fetches the list of packs that hold the chunks of img.
func ReadLocator(ctx context.Context, from block.Bucket, img *Image) (block.Locator, error) {
	b, err := from.Read(ctx, LocatorKey(img.ID), 0, MaxObject)
	if err != nil {
		return block.Locator{}, fault.Errorf(fault.Of(err), "read locator of image %v: %w", img.ID, err)
	}
	return block.ParseLocator(b, len(img.Map.Chunks))
}

// packer encodes chunks in parallel and writes packs in the order of add. At
// most a few megabytes are under way.
type packer struct {
	ctx   context.Context
	to    block.Bucket
	dom   block.Domain
	known map[block.Name]place
	where map[block.Name]place // of the new chunks; only the collector writes it

	work  chan *job
	order chan *job
	wg    sync.WaitGroup
	sink  chan struct{} // closed when the collector ended
	err   error         // of the collector; read after sink is closed
	fail  chan struct{} // closed at the first error

	packs     []block.PackRef
	packed    int64
	newChunks int
	reused    int64
}

type job struct {
	name   block.Name
	plain  []byte
	enc    byte
	stored []byte
	done   chan struct{}
}

func newPacker(ctx context.Context, to block.Bucket, dom block.Domain, workers int, known map[block.Name]place) *packer {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	p := &packer{ctx: ctx, to: to, dom: dom, known: known, where: make(map[block.Name]place),
		work: make(chan *job, 64), order: make(chan *job, 64), sink: make(chan struct{}), fail: make(chan struct{})}
	for range workers {
		p.wg.Go(p.encode)
	}
	go p.collect()
	return p
}

// add takes a chunk that was not added before. It copies b.
func (p *packer) add(name block.Name, b []byte) error {
	if _, ok := p.known[name]; ok {
		p.reused += int64(len(b))
		return nil
	}
	p.newChunks++
	j := &job{name: name, plain: bytes.Clone(b), done: make(chan struct{})}
	select {
	case p.work <- j:
	case <-p.fail:
		return p.failed()
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	select {
	case p.order <- j:
		return nil
	case <-p.fail:
		return p.failed()
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *packer) failed() error {
	<-p.sink
	return p.err
}

func (p *packer) encode() {
	enc := block.NewEncoder(block.Zstd)
	for j := range p.work {
		e, body := enc.Encode(j.plain)
		if p.dom.Private() {
			j.enc, j.stored = e|block.Sealed, p.dom.Seal(j.name, e|block.Sealed, len(j.plain), body)
		} else {
			j.enc, j.stored = e, bytes.Clone(body)
		}
		close(j.done)
	}
}

// collect writes encoded chunks into packs, in order.
func (p *packer) collect() {
	defer close(p.sink)
	stop := func(err error) {
		p.err = err
		close(p.fail)
	}
	var buf bytes.Buffer
	w := block.NewPackWriter(&buf)
	flush := func() error {
		if w.Len() == 0 {
			return nil
		}
		name, size, entries, err := w.Close()
		if err != nil {
			return err
		}
		if err := p.to.Write(p.ctx, PackPrefix+name.String(), bytes.NewReader(buf.Bytes())); err != nil {
			return err
		}
		ref := block.PackRef{Name: name, Size: size}
		p.packs = append(p.packs, ref)
		p.packed += size
		for _, e := range entries {
			p.where[e.Name] = place{ref, uint64(e.Off), uint32(e.Stored)}
		}
		buf.Reset()
		w = block.NewPackWriter(&buf)
		return nil
	}
	for j := range p.order {
		select {
		case <-j.done:
		case <-p.ctx.Done():
			stop(p.ctx.Err())
			return
		}
		if err := w.Add(j.name, j.enc, len(j.plain), j.stored); err != nil {
			stop(err)
			return
		}
		if w.Full() {
			if err := flush(); err != nil {
				stop(err)
				return
			}
		}
	}
	if p.ctx.Err() != nil {
		return
	}
	if err := flush(); err != nil {
		stop(err)
	}
}

// finish waits for everything under way and returns the locator of the chunks.
func (p *packer) finish(chunks []chunkmap.Chunk, aborted bool) (block.Locator, error) {
	close(p.work)
	p.wg.Wait()
	close(p.order)
	<-p.sink
	if p.err != nil || aborted {
		return block.Locator{}, p.err
	}
	var loc block.Locator
	index := make(map[block.Name]uint32)
	for _, c := range chunks {
		at, ok := p.where[c.Name]
		if !ok {
			at = p.known[c.Name]
		}
		i, ok := index[at.pack.Name]
		if !ok {
			i = uint32(len(loc.Packs))
			index[at.pack.Name] = i
			loc.Packs = append(loc.Packs, at.pack)
		}
		loc.Where = append(loc.Where, block.Location{Pack: i, Off: at.off, Stored: at.stored})
	}
	return loc, nil
}
