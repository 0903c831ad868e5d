package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"strings"
	"sync"
	"time"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/tar"
	"zos.internal/internal/fault"
)

const (
	parallel = 3 // downloads at a time
	attempts = 3 // to read one layer from a registry
)

// apply makes the tree of the layers. remote sources are copied to a spool
// first, some layers at a time; local ones are read in place.
func apply(ctx context.Context, src source, im *image, remote bool, opts convert.Options) (*convert.Result, error) {
	spool, err := convert.NewSpool(opts.TempDir, opts.Limits)
	if err != nil {
		return nil, err
	}
	res := &convert.Result{Config: im.config, Platform: im.platform.String()}
	res.OnClose(spool)
	a := &applier{src: src, im: im, opts: opts, builder: tar.NewBuilder(spool, opts.Limits)}
	for _, l := range im.layers {
		a.total += max(l.Size, 0)
	}
	if remote {
		err = a.download(ctx)
	} else {
		err = a.local(ctx)
	}
	if err != nil {
		res.Close()
		return nil, err
	}
	res.Root = a.builder.Root()
	return res, nil
}

type applier struct {
	src     source
	im      *image
	opts    convert.Options
	builder *tar.Builder
	total   int64

	mu      sync.Mutex // progress of both phases
	fetched int64
	applied int64
}

func (a *applier) report(phase string, done *int64, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*done += n
	a.opts.Progress.Report(phase, *done, a.total)
}

// nameLayer says which layer an error is about.
func (a *applier) nameLayer(i int, err error) error {
	if err == nil {
		return nil
	}
	l := a.im.layers[i]
	id := l.Digest
	if id == "" {
		id = l.diffID
	}
	return fault.Errorf(fault.Of(err), "layer %d of %d (%s): %w", i+1, len(a.im.layers), id, err)
}

func (a *applier) checkLayer(l layer) error {
	if strings.Contains(l.MediaType, "encrypted") {
		return fault.Errorf(fault.Unsupported, "it is encrypted; decrypt the image first")
	}
	if l.Digest == "" {
		return nil
	}
	if l.Size < 0 {
		return fault.Errorf(fault.Invalid, "its size %d is negative", l.Size)
	}
	return checkDigest(l.Digest)
}

// local applies the layers while it reads them.
func (a *applier) local(ctx context.Context) error {
	for i, l := range a.im.layers {
		if err := a.checkLayer(l); err != nil {
			return a.nameLayer(i, err)
		}
		r, err := a.src.blob(ctx, l.descriptor)
		if err == nil {
			err = a.layer(ctx, l, r)
			r.Close()
		}
		if err != nil {
			return a.nameLayer(i, err)
		}
	}
	return nil
}

// download copies the layers to a spool, checks them there and applies each as
// soon as it and those before it are there.
func (a *applier) download(ctx context.Context) error {
	spool, err := convert.NewSpool(a.opts.TempDir, a.opts.Limits)
	if err != nil {
		return err
	}
	defer spool.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type got struct {
		blob *convert.Blob
		err  error
	}
	ready := make([]chan got, len(a.im.layers))
	for i := range ready {
		ready[i] = make(chan got, 1)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait
	next := make(chan int, len(ready))
	for i := range ready {
		next <- i
	}
	close(next)
	for range min(parallel, len(ready)) {
		wg.Go(func() {
			for i := range next {
				blob, err := a.fetch(ctx, spool, a.im.layers[i])
				ready[i] <- got{blob, err}
				if err != nil {
					cancel()
				}
			}
		})
	}
	for i, l := range a.im.layers {
		g := <-ready[i]
		if g.err == nil {
			var r io.ReadCloser
			if r, g.err = g.blob.Open(); g.err == nil {
				g.err = a.layer(ctx, l, r)
				r.Close()
			}
			spool.Drop(g.blob)
		}
		if g.err == nil {
			continue
		}
		// The cause is the error of the layer that failed first, not that
		// others were then cancelled.
		cancel()
		first, at := g.err, i
		for j := i + 1; j < len(ready) && isCancel(first); j++ {
			if h := <-ready[j]; h.err != nil && !isCancel(h.err) {
				first, at = h.err, j
			}
		}
		return a.nameLayer(at, first)
	}
	return nil
}

// fetch copies one layer to the spool. A stream that breaks is tried again.
func (a *applier) fetch(ctx context.Context, spool *convert.Spool, l layer) (*convert.Blob, error) {
	if err := a.checkLayer(l); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		blob, n, err := a.fetchOnce(ctx, spool, l)
		if err == nil {
			return blob, nil
		}
		a.report("download", &a.fetched, -n)
		if try == attempts || ctx.Err() != nil || fault.Of(err) != fault.Unavailable {
			return nil, err
		}
		select {
		case <-time.After(time.Duration(try) * 300 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (a *applier) fetchOnce(ctx context.Context, spool *convert.Spool, l layer) (*convert.Blob, int64, error) {
	r, err := a.src.blob(ctx, l.descriptor)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	c := newCheck(r, func(n int64) { a.report("download", &a.fetched, n) })
	blob, err := spool.Add(ctx, c, l.Size)
	if err != nil {
		if fault.Of(err) == fault.Invalid && c.n < l.Size { // it ended early: perhaps the connection did
			err = fault.As(fault.Unavailable, err)
		}
		return nil, c.n, err
	}
	if err := c.verify(l.descriptor); err != nil {
		return nil, c.n, err
	}
	return blob, c.n, nil
}

// layer applies the bytes of one layer and checks what it was not checked for
// before: its digest, its size and the digest of its plain bytes.
func (a *applier) layer(ctx context.Context, l layer, r io.Reader) error {
	c := newCheck(r, func(n int64) { a.report("apply", &a.applied, n) })
	diff := sha256.New()
	err := func() error {
		plain, _, err := tar.Decompress(c)
		if err != nil {
			return err
		}
		defer plain.Close()
		return a.builder.Apply(ctx, io.TeeReader(plain, diff), tar.Layer)
	}()
	if err != nil && ctx.Err() != nil {
		return err
	}
	// Damaged bytes are better called so than by what they did to the decoder.
	if l.Digest != "" && (err == nil || fault.Of(err) == fault.Invalid) {
		if bad := c.verify(l.descriptor); bad != nil {
			return bad
		}
	}
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(diff.Sum(nil)); got != l.diffID {
		return fault.Errorf(fault.Invalid, "its plain bytes have the digest %s where the configuration says %s; the image is damaged or forged", got, l.diffID)
	}
	return nil
}

// check hashes and counts a stream.
type check struct {
	r      io.Reader
	sum    hash.Hash
	n      int64
	told   int64
	report func(n int64)
}

func newCheck(r io.Reader, report func(int64)) *check {
	return &check{r: r, sum: sha256.New(), report: report}
}

func (c *check) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.n += int64(n)
	if c.n-c.told >= 512<<10 || err != nil {
		c.report(c.n - c.told)
		c.told = c.n
	}
	return n, err
}

// verify reads what is left, at most one byte too much, and compares.
func (c *check) verify(d descriptor) error {
	if _, err := io.Copy(io.Discard, io.LimitReader(c, d.Size-c.n+1)); err != nil {
		return fault.Errorf(fault.Of(err), "read its rest: %w", err)
	}
	if c.n != c.told {
		c.report(c.n - c.told)
		c.told = c.n
	}
	if c.n != d.Size {
		return fault.Errorf(fault.Invalid, "it has %d bytes or more where the manifest says %d; the source is damaged or lies", c.n, d.Size)
	}
	if got := "sha256:" + hex.EncodeToString(c.sum.Sum(nil)); got != d.Digest {
		return fault.Errorf(fault.Invalid, "its bytes have the digest %s; the source is damaged or lies", got)
	}
	return nil
}
