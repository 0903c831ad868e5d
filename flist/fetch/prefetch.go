package fetch

import (
	"context"
	"sync"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// Sizes of background requests in plain bytes. Those of a trace are large: its
// chunks come one after the other, in the order in which they will be read, and
// who can't wait for one asks for it apart. Two streams keep a line busy with
// few requests.
const (
	traceFirst = 4 << 20
	traceBatch = 64 << 20
	fillBatch  = 8 << 20
)

// Prefetch brings the chunks of a trace into the cache, in order, in few
// requests, until all are there or Options.Budget plain bytes were asked for.
// Chunks that can't be had are left to the readers that want them. It returns
// when it is done: nil, Unsupported without a cache, Invalid for the trace of
// another image, Exhausted when the disk takes no data, or the error of ctx.
func (d *Device) Prefetch(ctx context.Context, t Trace) error {
	if t.Image.String() != d.opt.Image {
		return fault.Errorf(fault.Invalid, "prefetch for image %s: the trace is of image %v; record one of this image", d.opt.Image, t.Image)
	}
	if d.cache == nil {
		return d.noCache()
	}
	d.mu.Lock()
	d.traced = true
	if d.coming == nil {
		d.coming = make(map[block.Name]struct{})
	}
	d.mu.Unlock()
	d.hasTrace.Store(true)
	_, err := d.bring(ctx, trace, d.opt.Budget, func(yield func(int) bool) {
		for _, r := range t.Runs {
			for i := int(r.First); i < int(r.First)+int(r.Count) && i < d.view.Chunks(); i++ {
				if !yield(i) {
					return
				}
			}
		}
	})
	return err
}

func (d *Device) noCache() error {
	return fault.Errorf(fault.Unsupported, "prefetch image %s: there is no cache to keep it in; open one", d.opt.Image)
}

// FillAll brings every chunk of the image into the cache, after everything that
// is more urgent. Unavailable says how many could not be had; calling it again
// continues. The other errors are those of Prefetch.
func (d *Device) FillAll(ctx context.Context) error {
	missing, err := d.bring(ctx, fill, 1<<62, func(yield func(int) bool) {
		for i := range d.view.Chunks() {
			if !yield(i) {
				return
			}
		}
	})
	if err == nil && missing > 0 {
		err = fault.Errorf(fault.Unavailable, "fill image %s: %d of %d chunks could not be had; try again when its sources answer", d.opt.Image, missing, d.view.Chunks())
	}
	return err
}

// bring asks for the chunks that are not in the cache, in batches, on some
// streams, and counts those that did not come.
func (d *Device) bring(ctx context.Context, c class, budget int64, chunks func(func(int) bool)) (missing int, err error) {
	if d.cache == nil {
		return 0, d.noCache()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	batches := make(chan []block.Name)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range d.opt.Streams {
		work := func() {
			defer wg.Done()
			for names := range batches {
				n, e := d.bringBatch(ctx, c, names)
				mu.Lock()
				missing += n
				if e != nil && err == nil {
					err = e
					cancel()
				}
				mu.Unlock()
			}
		}
		wg.Add(1)
		if !d.spawn(work) {
			wg.Done()
			err = fault.Errorf(fault.Unavailable, "prefetch image %s: its device is closed", d.opt.Image)
			cancel()
			break
		}
	}
	limit, most := int64(traceFirst), int64(traceBatch)
	if c == fill {
		limit, most = fillBatch, fillBatch
	}
	var names []block.Name
	size := int64(0)
	send := func() bool {
		if len(names) == 0 {
			return ctx.Err() == nil
		}
		if c == trace {
			d.expect(names, true)
		}
		select {
		case batches <- names:
		case <-ctx.Done():
			if c == trace {
				d.expect(names, false)
			}
			return false
		}
		names, size, limit = nil, 0, min(4*limit, most)
		return true
	}
	for i := range chunks {
		ch := d.view.Chunk(i)
		plain := int64(ch.Plain)
		if budget < plain || ctx.Err() != nil {
			break
		}
		if d.cache.Has(d.opt.Domain, ch.Name) {
			continue
		}
		if size+plain > limit && !send() {
			break
		}
		names = append(names, ch.Name)
		size += plain
		budget -= plain
	}
	send()
	close(batches)
	wg.Wait()
	if err == nil && ctx.Err() != nil {
		err = fault.Errorf(fault.Unavailable, "prefetch image %s: %w", d.opt.Image, ctx.Err())
	}
	return missing, err
}

// expect notes that a trace will bring chunks, or that it did or gave up.
func (d *Device) expect(names []block.Name, coming bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range names {
		if coming {
			d.coming[n] = struct{}{}
		} else {
			delete(d.coming, n)
		}
	}
}

// expected reports whether a trace will bring a chunk.
func (d *Device) expected(n block.Name) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.coming[n]
	return ok
}

// bringBatch asks the source for names in one call, when it is its turn.
func (d *Device) bringBatch(ctx context.Context, c class, names []block.Name) (missing int, err error) {
	if c == trace {
		defer d.expect(names, false)
	}
	if err := d.sched.acquire(ctx, c); err != nil {
		return len(names), err
	}
	defer d.sched.release(c)
	ctx, cancel := context.WithTimeout(ctx, d.opt.Deadline)
	defer cancel()
	d.n.requests[c].Add(1)
	got := 0
	for ch, err := range d.source.Get(ctx, names) {
		if err == nil {
			got++
			d.n.bytes[c].Add(int64(len(ch.Data)))
			d.came(ch.Name)
		}
	}
	if got > 0 && !d.cache.Stat().Writable {
		return 0, fault.Errorf(fault.Exhausted, "prefetch image %s: the disk of the cache takes no data; free space there", d.opt.Image)
	}
	return len(names) - got, nil
}
