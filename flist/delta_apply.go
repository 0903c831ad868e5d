package flist

import (
	"bytes"
	"context"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/internal/fault"
)

// DeltaReport says what Apply made. Sizes are bytes.
type DeltaReport struct {
	Chunks int   // of the image that the base lacks
	Moved  int64 // their plain size
	Shared int64 // plain size of the chunks that the base has
	Stored int64 // stored size of these
}

// Apply makes an image of its base, whose every chunk lies in the bucket: it
// writes the packs, the objects and the locator of the image, not its root,
// which is given. All bytes are checked against the root and the map before they
// are written; what does not fit is Invalid, and the caller fetches the image
// without the delta. What was written by then is used by that or collected.
func (d *Delta) Apply(ctx context.Context, to block.Bucket, rootBytes []byte, dom block.Domain) (DeltaReport, error) {
	var rep DeltaReport
	if err := d.apply(ctx, to, rootBytes, dom, &rep); err != nil {
		return rep, fault.Errorf(fault.Of(err), "apply delta from image %v to %v: %w", d.Base, d.ID, err)
	}
	return rep, nil
}

func (d *Delta) apply(ctx context.Context, to block.Bucket, rootBytes []byte, dom block.Domain, rep *DeltaReport) error {
	if block.Sum(rootBytes) != d.ID {
		return fault.Errorf(fault.Invalid, "the root is another image's")
	}
	root, err := ParseRoot(rootBytes)
	if err != nil {
		return err
	}
	old, err := Open(ctx, to, d.Base, OpenOptions{Domain: dom})
	if err != nil {
		return err
	}
	dom = old.Domain
	if !bytes.Equal(root.Domain, old.Root.Domain) {
		return fault.Errorf(fault.Invalid, "the base belongs to another domain")
	}
	head, frames, err := d.open(dom)
	if err != nil {
		return err
	}
	next := func(n uint64) []byte {
		f := frames[:n]
		frames = frames[n:]
		return f
	}
	refs := root.objects()
	if len(refs) != len(head.Objects) {
		return fault.Errorf(fault.Invalid, "it has %d objects, the image %d", len(head.Objects), len(refs))
	}
	var m *chunkmap.Map
	for i, n := range head.Objects {
		plain, err := d.object(ctx, to, dom, old, i, refs[i], next(n))
		if err != nil {
			return err
		}
		if i == 1 {
			if m, err = chunkmap.Parse(plain, root.DeviceBlocks*BlockSize); err != nil {
				return err
			}
		}
	}
	known, err := loadBases(ctx, to, BuildOptions{Bases: []ID{d.Base}, Domain: dom})
	if err != nil {
		return err
	}
	old.Tree, old.Metadata, old.MapBytes = nil, nil, nil // not needed from here on
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := newPacker(ctx, to, dom, 0, known)
	err = d.chunks(ctx, to, old, m, head.Sections, next, p, rep)
	if err != nil {
		cancel() // writes nothing more
	}
	loc, packErr := p.finish(m.Chunks, err != nil)
	if err == nil {
		err = packErr
	}
	if err != nil {
		return err
	}
	b, err := loc.Marshal()
	if err != nil {
		return err
	}
	return to.Write(ctx, LocatorKey(d.ID), bytes.NewReader(b))
}

// object makes object number i of the image, checks and stores it.
func (d *Delta) object(ctx context.Context, to block.Bucket, dom block.Domain, old *Image, i int, ref Ref, frame []byte) ([]byte, error) {
	var was []byte
	if olds := old.Root.objects(); i < len(olds) {
		if len(frame) == 0 && olds[i] != ref {
			return nil, fault.Errorf(fault.Invalid, "object %v is left out, but the base has another", ref.Name)
		}
		if olds[i].Size > deltaObject && len(frame) > 0 {
			return nil, fault.Errorf(fault.Invalid, "object %v of the base has more than %d bytes", olds[i].Name, deltaObject)
		}
		var err error
		if was, err = ReadObject(ctx, to, dom, olds[i]); err != nil {
			return nil, err
		}
	}
	if len(frame) == 0 {
		return was, nil // it is there: the base uses it
	}
	if ref.Size > deltaObject {
		return nil, fault.Errorf(fault.Invalid, "object %v has more than %d bytes", ref.Name, deltaObject)
	}
	plain, err := unsqueeze(frame, was, int(ref.Size))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "object %v: %w", ref.Name, err)
	}
	if dom.Name(plain) != ref.Name {
		return nil, fault.Errorf(fault.Invalid, "object %v: the bytes have another name", ref.Name)
	}
	_, stored, err := EncodeObject(dom, plain)
	if err != nil {
		return nil, err
	}
	return plain, to.Write(ctx, ObjectKey(ref.Name), bytes.NewReader(stored))
}

// chunks unpacks the sections and gives every chunk of the map to the packer, in
// the order of the map.
func (d *Delta) chunks(ctx context.Context, to block.Bucket, old *Image, m *chunkmap.Map,
	sections []deltaPart, next func(uint64) []byte, p *packer, rep *DeltaReport) error {
	reader, err := newChunkReader(ctx, to, old)
	if err != nil {
		return err
	}
	dom := old.Domain
	var lacking []chunkmap.Chunk
	for _, c := range m.Chunks {
		if at, ok := p.known[c.Name]; ok {
			rep.Shared += int64(c.Plain)
			rep.Stored += int64(at.stored)
			continue
		}
		lacking = append(lacking, c)
		rep.Moved += int64(c.Plain)
	}
	rep.Chunks = len(lacking)
	for _, s := range sections {
		if s.Chunks > uint64(len(lacking)) {
			return fault.Errorf(fault.Invalid, "it has more chunks than the image lacks")
		}
		chunks := lacking[:s.Chunks]
		lacking = lacking[s.Chunks:]
		refs, err := references(s.Runs, old.Map)
		if err != nil {
			return err
		}
		size := 0
		for _, c := range chunks {
			if size += int(c.Plain); size > deltaSection {
				return fault.Errorf(fault.Invalid, "a section has more than %d bytes", deltaSection)
			}
		}
		ref, err := reader.join(ctx, refs)
		if err != nil {
			return err
		}
		plain, err := unsqueeze(next(s.Length), ref, size)
		if err != nil {
			return err
		}
		for _, c := range chunks {
			b := plain[:c.Plain]
			plain = plain[c.Plain:]
			if dom.Name(b) != c.Name {
				return fault.Errorf(fault.Invalid, "chunk %v: the bytes have another name", c.Name)
			}
			if err := p.add(c.Name, b); err != nil {
				return err
			}
		}
	}
	if len(lacking) > 0 {
		return fault.Errorf(fault.Invalid, "%d chunks are missing", len(lacking))
	}
	return nil
}

// references are the chunks of the base in runs, which rise and have a bounded
// size.
func references(runs [][2]uint64, m *chunkmap.Map) ([]uint32, error) {
	var refs []uint32
	var size, end uint64
	for _, r := range runs {
		n := uint64(len(m.Chunks))
		if r[1] == 0 || r[0] < end || r[0] >= n || r[1] > n-r[0] {
			return nil, fault.Errorf(fault.Invalid, "a section refers to chunks %d to %d, the base has %d", r[0], r[0]+r[1], n)
		}
		end = r[0] + r[1]
		for i := r[0]; i < end; i++ {
			if size += uint64(m.Chunks[i].Plain); size > deltaSection {
				return nil, fault.Errorf(fault.Invalid, "a section refers to more than %d bytes", deltaSection)
			}
			refs = append(refs, uint32(i))
		}
	}
	return refs, nil
}
