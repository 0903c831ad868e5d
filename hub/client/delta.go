package client

import (
	"bytes"
	"context"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/internal/fault"
)

// deltaHead is how much of a delta is fetched before it is known whether its
// base is here, in bytes. Most deltas are smaller.
const deltaHead = 64 << 10

// delta publishes the difference from the version that the name has now, if that
// is in the source, too. It is a hint that saves clients bytes: nothing that goes
// wrong with it is worth a failure of the push.
func (p *push) delta(ctx context.Context) error {
	if p.root.Private() && !p.opt.Domain.Private() {
		return nil
	}
	now, err := p.c.resolve(ctx, p.opt.Key.Public().Address(), p.opt.Name, "")
	if err != nil || now.ID == p.id {
		return ctx.Err()
	}
	if b, err := p.c.mirrors.Read(ctx, flist.DeltaKey(p.id), 0, deltaHead); err == nil {
		if d, err := flist.ParseDelta(b); err == nil && d.Base == now.ID {
			return nil // another push of the same image
		}
	}
	b, err := flist.MakeDelta(ctx, p.from, p.id, now.ID, p.opt.Domain)
	if err != nil {
		return ctx.Err()
	}
	if err := p.up.put(ctx, flist.DeltaKey(p.id), bytes.NewReader(b)); err != nil {
		return ctx.Err() // a hub that is older, or full
	}
	p.rep.Delta = int64(len(b))
	return nil
}

// pullDelta makes the image of an older one that is in to, with all its packs,
// and the published difference. It is false if that is not possible, and then
// nothing is lost but the bytes of the delta.
func (c *Client) pullDelta(ctx context.Context, to block.Bucket, id flist.ID, root []byte, dom block.Domain, rep *PullReport) (bool, error) {
	if !anyRoot(ctx, to) {
		return false, nil // a first pull asks for nothing that can't help
	}
	if _, err := to.Stat(ctx, flist.RootKey(id)); err == nil {
		return false, nil // what is missing of it is fetched
	}
	if r, err := flist.ParseRoot(root); err != nil || !r.Private() {
		dom = block.Domain{}
	}
	d, err := c.readDelta(ctx, to, id, dom, rep)
	if err != nil {
		return false, ctx.Err()
	}
	made, err := d.Apply(ctx, to, root, dom)
	if err != nil {
		return false, ctx.Err()
	}
	rep.Skipped = made.Stored
	rep.Base = &d.Base
	return true, nil
}

func anyRoot(ctx context.Context, b block.Bucket) bool {
	for _, err := range b.List(ctx, "r/") {
		return err == nil
	}
	return false
}

// readDelta is the delta of an image, if it is from one that is in to.
func (c *Client) readDelta(ctx context.Context, to block.Bucket, id flist.ID, dom block.Domain, rep *PullReport) (*flist.Delta, error) {
	key := flist.DeltaKey(id)
	b, err := c.mirrors.Read(ctx, key, 0, deltaHead)
	if err != nil {
		return nil, err
	}
	rep.Received += int64(len(b))
	d, err := flist.ParseDelta(b)
	if err != nil {
		return nil, err
	}
	if d.ID != id {
		return nil, fault.Errorf(fault.Invalid, "the delta is of image %v", d.ID)
	}
	if err := d.Check(ctx, to, dom); err != nil {
		return nil, err
	}
	if len(b) == deltaHead {
		rest, err := c.mirrors.Read(ctx, key, deltaHead, flist.MaxDelta)
		if err != nil && fault.Of(err) != fault.NotFound {
			return nil, err
		}
		rep.Received += int64(len(rest))
		b = append(b, rest...)
	}
	return flist.ParseDelta(b)
}
