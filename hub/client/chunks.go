package client

import (
	"context"
	"io"
	"iter"

	"zos.internal/block"
	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// Chunks reads chunks by name through the hub's /batch: one request for many
// small chunks that are scattered over packs, and no locator. Mirrors that are
// plain file servers don't have it.
type Chunks struct {
	c   *Client
	dom block.Domain
	dec block.Decoder
}

var _ block.Getter = (*Chunks)(nil)

// Chunks is a Getter of the chunks of dom at the hub.
func (c *Client) Chunks(dom block.Domain) *Chunks { return &Chunks{c: c, dom: dom} }

// batchNames bounds one request, so that an answer stays below 64 MiB for
// chunks of images.
const batchNames = 256

// Get implements block.Getter.
func (g *Chunks) Get(ctx context.Context, names []block.Name) iter.Seq2[block.Chunk, error] {
	return func(yield func(block.Chunk, error) bool) {
		seen := make(map[block.Name]bool, len(names))
		var rest []block.Name
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				rest = append(rest, n)
			}
		}
		for len(rest) > 0 {
			n := min(len(rest), batchNames)
			if !g.batch(ctx, rest[:n], yield) {
				return
			}
			rest = rest[n:]
		}
	}
}

// batch answers each of names once.
func (g *Chunks) batch(ctx context.Context, names []block.Name, yield func(block.Chunk, error) bool) bool {
	pending := make(map[block.Name]bool, len(names))
	for _, n := range names {
		pending[n] = true
	}
	err := g.read(ctx, names, func(rec block.Record) (bool, error) {
		if !pending[rec.Name] {
			return false, fault.Errorf(fault.Invalid, "the hub answered chunk %v, which was not asked for or is there already", rec.Name)
		}
		delete(pending, rec.Name)
		data, err := rec.Open(g.dom, &g.dec)
		if err != nil {
			return yield(block.Chunk{Name: rec.Name}, err), nil
		}
		return yield(block.Chunk{Name: rec.Name, Data: data}, nil), nil
	})
	if err == errStopped {
		return false
	}
	if err == nil {
		err = fault.Errorf(fault.Invalid, "the hub left it out of its answer")
	}
	for _, n := range names {
		if pending[n] && !yield(block.Chunk{Name: n}, fault.Errorf(fault.Of(err), "read chunk %v: %w", n, err)) {
			return false
		}
	}
	return true
}

const errStopped = fault.Kind("stopped")

func (g *Chunks) read(ctx context.Context, names []block.Name, got func(block.Record) (bool, error)) error {
	resp, cancel, err := g.c.do(ctx, "batch", protocol.Query{Names: names})
	if err != nil {
		return err
	}
	defer cancel()
	defer resp.Body.Close()
	for range names {
		rec, err := block.ReadRecord(resp.Body)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fault.Errorf(fault.Unavailable, "read batch: %w", err)
		}
		more, err := got(rec)
		if err != nil {
			return err
		}
		if !more {
			return errStopped
		}
	}
	return nil
}
