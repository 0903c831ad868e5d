package client

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// PullOptions say what is copied.
type PullOptions struct {
	// MetadataOnly leaves the packs where they are.
	MetadataOnly bool
	// Domain opens a private image. Without it the objects of a private image
	// are copied as they are: only its tenant can check them.
	Domain block.Domain
	// Progress is called with the bytes of packs received so far and in all, one
	// call at a time.
	Progress func(done, total int64)
}

// PullReport says what a pull moved. Sizes are bytes on the wire.
type PullReport struct {
	ID        flist.ID `json:"id"`
	Packs     int      `json:"packs"`     // received
	Received  int64    `json:"received"`  // packs, objects, locator and root
	Skipped   int64    `json:"skipped"`   // packs and objects that were there
	Unchecked int      `json:"unchecked"` // objects that only the tenant can check
	// Base is the image that it was made of by a delta, if so.
	Base *flist.ID `json:"base,omitempty"`
}

// Pull copies the image id into to. Every root, object, pack and signature is
// checked before it is stored, and comes from another mirror if one serves
// wrong bytes. The root is stored after all that it names; after an
// interruption the same call goes on where it was. A whole copy gets a start file
// too, made here.
func (c *Client) Pull(ctx context.Context, to block.Bucket, id flist.ID, opt PullOptions) (PullReport, error) {
	rep := PullReport{ID: id}
	if err := c.pull(ctx, to, id, opt, &rep); err != nil {
		return rep, fault.Errorf(fault.Of(err), "pull image %v: %w", id, err)
	}
	if !opt.MetadataOnly {
		// A directory that images are pulled into may be served as a mirror.
		b, err := flist.MakeStart(ctx, to, id)
		if err == nil {
			err = to.Write(ctx, flist.StartKey(id), bytes.NewReader(b))
		}
		if err != nil {
			return rep, fault.Errorf(fault.Of(err), "pull image %v: %w", id, err)
		}
	}
	return rep, nil
}

func (c *Client) pull(ctx context.Context, to block.Bucket, id flist.ID, opt PullOptions, rep *PullReport) error {
	rootBytes, err := c.Read(ctx, flist.RootKey(id), 0, flist.MaxRoot+1)
	if err != nil {
		return err
	}
	root, err := flist.ParseRoot(rootBytes)
	if err != nil {
		return err
	}
	if root.Private() && opt.Domain.Private() {
		if d := opt.Domain.ID(); string(d[:]) != string(root.Domain) {
			return fault.Errorf(fault.Denied, "it belongs to another tenant than the given secret")
		}
	}
	if !opt.MetadataOnly && (!root.Private() || opt.Domain.Private()) {
		if ok, err := c.pullDelta(ctx, to, id, rootBytes, opt.Domain, rep); err != nil {
			return err
		} else if ok {
			return c.pullRest(ctx, to, id, rootBytes, rep)
		}
	}
	objects := map[string][]byte{}
	refs := []flist.Ref{root.Metadata, root.Map, root.Config}
	if root.Executables != nil {
		refs = append(refs, *root.Executables)
	}
	for _, ref := range refs {
		b, err := c.pullObject(ctx, to, root, ref, opt.Domain, rep)
		if err != nil {
			return err
		}
		if b != nil {
			objects[flist.ObjectKey(ref.Name)] = b
		}
	}
	locBytes, loc, err := c.pullLocator(ctx, id)
	if err != nil {
		return err
	}
	if !opt.MetadataOnly {
		if err := c.pullPacks(ctx, to, loc, opt.Progress, rep); err != nil {
			return err
		}
	}
	write := func(key string, b []byte) error {
		rep.Received += int64(len(b))
		return to.Write(ctx, key, bytes.NewReader(b))
	}
	for key, b := range objects {
		if err := write(key, b); err != nil {
			return err
		}
	}
	if err := write(flist.LocatorKey(id), locBytes); err != nil {
		return err
	}
	return c.pullRest(ctx, to, id, rootBytes, rep)
}

// pullRest stores what comes last: signatures, trace and the root.
func (c *Client) pullRest(ctx context.Context, to block.Bucket, id flist.ID, root []byte, rep *PullReport) error {
	files, err := c.pullExtras(ctx, id)
	if err != nil {
		return err
	}
	for key, b := range files {
		rep.Received += int64(len(b))
		if err := to.Write(ctx, key, bytes.NewReader(b)); err != nil {
			return err
		}
	}
	rep.Received += int64(len(root))
	return to.Write(ctx, flist.RootKey(id), bytes.NewReader(root))
}

// pullExtras fetches signatures and trace, where there are any. A trace is a
// hint: one that can't be used is not worth a failure.
func (c *Client) pullExtras(ctx context.Context, id flist.ID) (map[string][]byte, error) {
	extras := make(map[string][]byte)
	b, err := c.Read(ctx, flist.SignaturesKey(id), 0, flist.MaxSignatures+1)
	switch {
	case err == nil:
		extras[flist.SignaturesKey(id)] = b
	case fault.Of(err) != fault.NotFound:
		return nil, err
	}
	b, err = c.mirrors.ReadChecked(ctx, flist.TraceKey(id), 0, protocol.MaxTrace+1, func(b []byte) error {
		_, _, err := flist.OpenTrace(b, id)
		return err
	})
	if err == nil {
		extras[flist.TraceKey(id)] = b
	}
	return extras, ctx.Err()
}

// pullObject is the stored form of an object, checked; nil if to has it.
func (c *Client) pullObject(ctx context.Context, to block.Bucket, root *flist.Root, ref flist.Ref, dom block.Domain, rep *PullReport) ([]byte, error) {
	key := flist.ObjectKey(ref.Name)
	check := func(b []byte) error { _, err := flist.DecodeObject(dom, ref, b); return err }
	switch {
	case !root.Private():
		dom = block.Domain{}
	case !dom.Private():
		check = func([]byte) error { return nil }
		rep.Unchecked++
	}
	limit := int64(ref.Size+ref.Size/64) + 4096
	if b, err := to.Read(ctx, key, 0, limit); err == nil && check(b) == nil {
		rep.Skipped += int64(len(b))
		return nil, nil
	}
	return c.mirrors.ReadChecked(ctx, key, 0, limit, check)
}

func (c *Client) pullLocator(ctx context.Context, id flist.ID) (b []byte, l block.Locator, err error) {
	b, err = c.mirrors.ReadChecked(ctx, flist.LocatorKey(id), 0, protocol.MaxLocator+1, func(b []byte) error {
		var err error
		l, err = protocol.ParseLocator(b)
		return err
	})
	return b, l, err
}

func (c *Client) pullPacks(ctx context.Context, to block.Bucket, loc block.Locator, progress func(done, total int64), rep *PullReport) error {
	var want []block.PackRef
	var total int64
	for _, p := range loc.Packs {
		size, err := to.Stat(ctx, flist.PackPrefix+p.Name.String())
		if err == nil && size == p.Size {
			rep.Skipped += size
			continue
		}
		if err != nil && fault.Of(err) != fault.NotFound {
			return err
		}
		want = append(want, p)
		total += p.Size
	}
	var done atomic.Int64
	var one sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.opt.Parallel)
	for _, p := range want {
		g.Go(func() error {
			key := flist.PackPrefix + p.Name.String()
			b, err := c.mirrors.ReadChecked(gctx, key, 0, p.Size, func(b []byte) error {
				if got := block.Sum(b); got != p.Name {
					return fault.Errorf(fault.Invalid, "the bytes have the name %v", got)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if err := to.Write(gctx, key, bytes.NewReader(b)); err != nil {
				return err
			}
			one.Lock()
			defer one.Unlock()
			d := done.Add(p.Size)
			if progress != nil {
				progress(d, total)
			}
			return nil
		})
	}
	err := g.Wait()
	rep.Received += done.Load()
	if err == nil {
		rep.Packs = len(want)
	}
	return err
}
