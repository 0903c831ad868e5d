package client

import (
	"bytes"
	"context"
	"io"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/chunkmap"
	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// startPacks lays out the image on the hub for its trace, if the source has one
// and the hub's places are scattered. It is worth nothing but time, so a hub
// that refuses it is left as it is.
func (p *push) startPacks(ctx context.Context) error {
	if p.names == nil {
		return nil // only the tenant knows which chunk is where
	}
	b, err := p.from.Read(ctx, flist.TraceKey(p.id), 0, protocol.MaxTrace+1)
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	t, _, err := flist.OpenTrace(b, p.id)
	if err != nil {
		return err
	}
	hub := p.c.sources[0].Bucket
	if b, err = hub.Read(ctx, flist.LocatorKey(p.id), 0, protocol.MaxLocator+1); err != nil {
		return err
	}
	loc, err := block.ParseLocator(b, len(p.names))
	if err != nil {
		return err
	}
	chunks := make([]chunkmap.Chunk, len(p.names))
	for i := range chunks {
		chunks[i] = chunkmap.Chunk{Name: p.names[i], Plain: p.plain[i]}
	}
	local, remote := flist.StoredReader(p.loc, p.from), flist.StoredReader(loc, hub)
	read := func(ctx context.Context, i int) ([]byte, error) {
		b, err := local(ctx, i)
		if fault.Of(err) == fault.NotFound { // the source has the metadata only
			b, err = remote(ctx, i)
		}
		return b, err
	}
	loc, moved, err := flist.StartPacks(ctx, loc, chunks, p.root.Private(), t, read, func(ctx context.Context, q block.PackRef, body io.ReadSeeker) error {
		return p.up.put(ctx, flist.PackPrefix+q.Name.String(), body)
	})
	if err == nil && moved {
		if b, err = loc.Marshal(); err == nil {
			err = p.up.put(ctx, flist.LocatorKey(p.id), bytes.NewReader(b))
		}
	}
	switch fault.Of(err) {
	case fault.Denied, fault.Exhausted: // another publisher's image, or no room
		return nil
	}
	return err
}
