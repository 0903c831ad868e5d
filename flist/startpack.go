package flist

import (
	"bytes"
	"context"
	"io"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/fetch"
	"zos.internal/internal/fault"
)

// maxLaid is the most stored bytes that are laid out for a start.
const maxLaid = 256 << 20

// StartPacks copies the chunks of a trace into packs of their own, in the order
// of the trace and as they are stored, so that whoever plays the trace reads
// each of them with one request, from any file server. It costs the hub these
// bytes a second time.
//
// chunks are those of the image's map and sealed says that it is private. read
// returns the stored bytes of chunk i; put takes each pack. The result is loc with
// the new places; moved is false, and nothing was put, if the chunks already lie
// like that.
func StartPacks(ctx context.Context, loc block.Locator, chunks []chunkmap.Chunk, sealed bool, t fetch.Trace,
	read func(ctx context.Context, i int) ([]byte, error),
	put func(ctx context.Context, p block.PackRef, body io.ReadSeeker) error) (out block.Locator, moved bool, err error) {
	if len(chunks) != len(loc.Where) {
		return loc, false, fault.Errorf(fault.Invalid, "make start packs: the locator has %d places and the map %d chunks", len(loc.Where), len(chunks))
	}
	var order []int
	var size int64
	ranges, end := int64(0), block.Location{}
	for _, r := range t.Runs {
		for i := int(r.First); i < int(r.First)+int(r.Count) && i < len(chunks); i++ {
			w := loc.Where[i]
			if w.Stored == 0 || size+int64(w.Stored) > maxLaid {
				continue
			}
			if w.Pack != end.Pack || w.Off != end.Off || len(order) == 0 {
				ranges++
			}
			end = block.Location{Pack: w.Pack, Off: w.Off + uint64(w.Stored)}
			order, size = append(order, i), size+int64(w.Stored)
		}
	}
	if ranges <= 1+size/(block.PackTarget/2) {
		return loc, false, nil
	}
	places := make(map[int]place, len(order))
	byName := make(map[block.Name][]int)
	var buf bytes.Buffer
	w := block.NewPackWriter(&buf)
	flush := func() error {
		name, n, entries, err := w.Close()
		if err != nil {
			return err
		}
		ref := block.PackRef{Name: name, Size: n}
		for _, e := range entries {
			for _, i := range byName[e.Name] {
				places[i] = place{ref, uint64(e.Off), uint32(e.Stored)}
			}
		}
		if err := put(ctx, ref, bytes.NewReader(buf.Bytes())); err != nil {
			return err
		}
		buf.Reset()
		clear(byName)
		w = block.NewPackWriter(&buf)
		return nil
	}
	for _, i := range order {
		b, err := read(ctx, i)
		if err != nil {
			return loc, false, err
		}
		c := chunks[i]
		if err := w.Add(c.Name, block.DeriveEnc(int(c.Plain), len(b), sealed), int(c.Plain), b); err != nil {
			return loc, false, err
		}
		byName[c.Name] = append(byName[c.Name], i)
		if w.Full() {
			if err := flush(); err != nil {
				return loc, false, err
			}
		}
	}
	if w.Len() > 0 {
		if err := flush(); err != nil {
			return loc, false, err
		}
	}
	return relocated(loc, places), true, nil
}

// LayStart lays out the content of an image in a bucket for its trace, see
// StartPacks, and makes its start file. An image whose packs lie elsewhere is
// left as it is, but for the start file.
func LayStart(ctx context.Context, store block.Bucket, img *Image, t fetch.Trace) error {
	fail := func(err error) error {
		return fault.Errorf(fault.Of(err), "lay out image %v for its start: %w", img.ID, err)
	}
	loc, err := ReadLocator(ctx, store, img)
	if fault.Of(err) == fault.NotFound {
		return nil // the image is elsewhere altogether
	}
	if err != nil {
		return fail(err)
	}
	loc, moved, err := StartPacks(ctx, loc, img.Map.Chunks, img.Root.Private(), t, StoredReader(loc, store), func(ctx context.Context, p block.PackRef, body io.ReadSeeker) error {
		return store.Write(ctx, PackPrefix+p.Name.String(), body)
	})
	if err != nil && fault.Of(err) != fault.NotFound {
		return fail(err)
	}
	if moved {
		b, err := loc.Marshal()
		if err == nil {
			err = store.Write(ctx, LocatorKey(img.ID), bytes.NewReader(b))
		}
		if err != nil {
			return fail(err)
		}
	}
	b, err := MakeStart(ctx, store, img.ID)
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	if err == nil {
		err = store.Write(ctx, StartKey(img.ID), bytes.NewReader(b))
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// StoredReader reads the stored bytes of the chunks that loc places in packs of
// from.
func StoredReader(loc block.Locator, from block.Bucket) func(ctx context.Context, i int) ([]byte, error) {
	return func(ctx context.Context, i int) ([]byte, error) {
		w := loc.Where[i]
		if w.Stored == 0 {
			return nil, fault.Errorf(fault.NotFound, "chunk %d is in no pack", i)
		}
		key := PackPrefix + loc.Packs[w.Pack].Name.String()
		b, err := from.Read(ctx, key, int64(w.Off), int64(w.Stored))
		if err == nil && len(b) != int(w.Stored) {
			err = fault.Errorf(fault.Invalid, "%s ends inside chunk %d; build or pull the image again", key, i)
		}
		return b, err
	}
}

// relocated is loc with other places for some chunks, without packs that have no
// chunk any more.
func relocated(loc block.Locator, places map[int]place) block.Locator {
	out := block.Locator{Where: make([]block.Location, len(loc.Where))}
	index := make(map[block.Name]uint32)
	for i, w := range loc.Where {
		if w.Stored == 0 {
			continue
		}
		p, ok := places[i]
		if !ok {
			p = place{loc.Packs[w.Pack], w.Off, w.Stored}
		}
		n, ok := index[p.pack.Name]
		if !ok {
			n = uint32(len(out.Packs))
			index[p.pack.Name] = n
			out.Packs = append(out.Packs, p.pack)
		}
		out.Where[i] = block.Location{Pack: n, Off: p.off, Stored: p.stored}
	}
	return out
}
