package fetch

import (
	"context"
	"errors"
	"slices"
	"sync"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/internal/fault"
)

// part is the piece of one chunk that a read needs.
type part struct {
	name  block.Name
	plain int
	in    int
	dst   []byte
	e     *entry
	done  bool
	alone bool // the chunk is a piece of one file
}

func (p *part) end() bool { return p.in+len(p.dst) == p.plain }

func (d *Device) key(n block.Name) key { return key{d.opt.Domain.ID(), n} }

// ReadAt fills p with the bytes of the device from off. Bytes outside Size are
// Invalid. A chunk that can't be had is an error of the kind of its cause,
// Unavailable when the deadline passed; p is undefined then.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return fault.Errorf(fault.Invalid, "read image %s: %d bytes from %d are outside of its %d bytes", d.opt.Image, len(p), off, d.size)
	}
	if err := d.ctx.Err(); err != nil {
		return fault.Errorf(fault.Unavailable, "read image %s: its device is closed", d.opt.Image)
	}
	if len(p) == 0 {
		return nil
	}
	d.n.reads.Add(1)
	d.n.readBytes.Add(int64(len(p)))
	var few [8]part
	parts := d.cut(few[:0], p, off)
	missing := d.fromMemory(parts)
	sp, first := d.follow(off, int64(len(p)))
	if missing > 0 && d.cache != nil {
		var err error
		if missing, err = d.fromDisk(ctx, parts, first); err != nil {
			return err
		}
	}
	if missing > 0 && (first || sp.local || d.hasTrace.Load()) && d.lacks(parts) {
		sp = d.lack(off+int64(len(p)), sp)
	}
	if missing == 0 && sp.from == sp.to {
		return nil
	}
	return d.load(ctx, parts, missing, sp)
}

// lacks reports whether a source has to be asked for a part.
func (d *Device) lacks(parts []part) bool {
	return d.cache == nil || slices.ContainsFunc(parts, func(p part) bool {
		return !p.done && !d.cache.Has(d.opt.Domain, p.name) && !d.expected(p.name)
	})
}

// cut finds the parts of a read and writes its zeros.
func (d *Device) cut(parts []part, p []byte, off int64) []part {
	at := uint64(off)
	end := at + uint64(len(p))
	for i := d.view.Find(at); i < d.view.Extents() && at < end; i++ {
		x := d.view.Extent(i)
		if x.Off >= end {
			break
		}
		if x.Off > at {
			clear(p[at-uint64(off) : x.Off-uint64(off)])
			at = x.Off
		}
		to := min(x.End(), end)
		dst := p[at-uint64(off) : to-uint64(off)]
		if x.Chunk == zeros {
			clear(dst)
		} else {
			c := d.view.Chunk(int(x.Chunk))
			parts = append(parts, part{name: c.Name, plain: int(c.Plain), in: int(x.In) + int(at-x.Off), dst: dst, alone: x.Len == c.Plain})
			d.record(x.Chunk)
		}
		at = to
	}
	clear(p[at-uint64(off):])
	return parts
}

// fromMemory answers parts whose chunks are loaded and counts the others.
func (d *Device) fromMemory(parts []part) (missing int) {
	s := d.sched
	s.mu.Lock()
	for i := range parts {
		if e := s.entries[d.key(parts[i].name)]; e != nil && e.loaded {
			s.hold(e)
			parts[i].e = e
		}
	}
	s.mu.Unlock()
	for i := range parts {
		p := &parts[i]
		if p.e == nil {
			missing++
			continue
		}
		if p.in+len(p.dst) <= len(p.e.data) {
			copy(p.dst, p.e.data[p.in:])
			p.done = true
			d.n.memory.Add(1)
		} else {
			missing++
		}
		s.done(p.e, p.end())
		p.e = nil
	}
	return missing
}

// partBytes is the longest read of a chunk that is not followed by more of it.
const partBytes = 16 << 10

// fromDisk answers parts whose chunks were read from the cache before and need
// no check again. Of a chunk of a large file that a reader comes to by chance it
// reads and checks only what is around the part.
func (d *Device) fromDisk(ctx context.Context, parts []part, first bool) (missing int, err error) {
	for i := range parts {
		p := &parts[i]
		if p.done {
			continue
		}
		if first && p.alone && len(p.dst) <= partBytes {
			p.done, err = d.cache.ReadPart(ctx, d.opt.Domain, p.name, p.dst, p.in)
		} else {
			p.done, err = d.cache.ReadVerified(ctx, d.opt.Domain, p.name, p.dst, p.in)
		}
		if err != nil {
			return 0, fault.Errorf(fault.Of(err), "read image %s: %w", d.opt.Image, err)
		}
		if p.done {
			d.n.disk.Add(1)
		} else {
			missing++
		}
	}
	return missing, nil
}

// maxTries is how often a read asks again for a chunk whose load was not its own.
const maxTries = 8

// load loads what parts lack and what sp says, and waits for the parts.
func (d *Device) load(ctx context.Context, parts []part, missing int, sp span) error {
	reader := ctx
	if missing > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.opt.Deadline)
		defer cancel()
	}
	own := d.want(parts)
	more := d.wantAhead(sp)
	if d.allHere(own) {
		// The disk answers sooner than another goroutine wakes up.
		d.start(nil, more)
		own, more = d.loadLocal(d.ctx, own), nil
	}
	d.start(own, more)
	var failure error
	for i := range parts {
		p := &parts[i]
		if p.done {
			continue
		}
		err := failure
		for try := 0; err == nil && !p.done; try++ {
			if p.e == nil {
				d.start(d.want(parts[i:i+1]), nil)
			}
			var again bool
			if again, err = d.await(ctx, p); again && try < maxTries && ctx.Err() == nil && d.ctx.Err() == nil {
				err = nil
			}
			d.sched.done(p.e, p.end())
			p.e = nil
		}
		if p.e != nil {
			d.sched.done(p.e, false)
			p.e = nil
		}
		if err != nil && failure == nil {
			failure = fault.Errorf(fault.Of(err), "read image %s: %w", d.opt.Image, err)
			if reader.Err() == nil && d.ctx.Err() == nil {
				d.failed(p.name, failure)
			}
		}
	}
	return failure
}

// await waits for the entry of p and copies from it. again says that the error
// was not the answer to this device's own demand.
func (d *Device) await(ctx context.Context, p *part) (again bool, err error) {
	select {
	case <-p.e.done:
	case <-ctx.Done():
		return false, fault.Errorf(fault.Unavailable, "wait for chunk %v: %w; its sources don't answer", p.name, ctx.Err())
	}
	if p.e.err != nil {
		return p.e.again || p.e.dev != d, p.e.err
	}
	if p.in+len(p.dst) > len(p.e.data) {
		return false, fault.Errorf(fault.Invalid, "chunk %v has %d bytes, the map says %d; build the image again", p.name, len(p.e.data), p.plain)
	}
	copy(p.dst, p.e.data[p.in:])
	p.done = true
	return false, nil
}

// want holds the entry of each part that is not done and returns those that this
// call started and has to load.
func (d *Device) want(parts []part) (own []*entry) {
	s := d.sched
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range parts {
		p := &parts[i]
		if p.done || p.e != nil {
			continue
		}
		k := d.key(p.name)
		if p.e = s.take(k); p.e == nil {
			own = append(own, s.start(d, k, p.plain))
			p.e = s.take(k)
		} else if !slices.Contains(own, p.e) {
			d.n.shared.Add(1)
		}
	}
	return own
}

// wantAhead starts entries for the chunks of sp that nobody has or loads.
func (d *Device) wantAhead(sp span) (own []*entry) {
	if sp.from >= sp.to {
		return nil
	}
	s := d.sched
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range d.view.Range(uint64(sp.from), uint64(sp.to)) {
		if x.Chunk == zeros {
			continue
		}
		c := d.view.Chunk(int(x.Chunk))
		if k := d.key(c.Name); s.entries[k] == nil && (!sp.local || d.cache.Has(d.opt.Domain, c.Name)) {
			own = append(own, s.start(d, k, int(c.Plain)))
		}
	}
	return own
}

// allHere reports whether the cache has the chunks of all entries.
func (d *Device) allHere(entries []*entry) bool {
	return d.cache != nil && !slices.ContainsFunc(entries, func(e *entry) bool {
		return !d.cache.Has(d.opt.Domain, e.key.name)
	})
}

// start loads entries in the background: need because a reader waits for them,
// more because one will.
func (d *Device) start(need, more []*entry) {
	if len(need)+len(more) == 0 {
		return
	}
	if !d.spawn(func() { d.run(need, more) }) {
		d.abandon(slices.Concat(need, more), errors.New("the device is closed"))
	}
}

func (d *Device) abandon(entries []*entry, err error) {
	for _, e := range entries {
		d.sched.failed(e, fault.Errorf(fault.Unavailable, "load chunk %v: %w", e.key.name, err), true)
	}
}

func (d *Device) run(need, more []*entry) {
	ctx, cancel := context.WithTimeout(d.ctx, d.opt.Deadline)
	defer cancel()
	need = d.loadLocal(ctx, need)
	var here []*entry
	if d.cache != nil {
		more = slices.DeleteFunc(more, func(e *entry) bool {
			has := d.cache.Has(d.opt.Domain, e.key.name)
			if has {
				here = append(here, e)
			}
			return has
		})
	}
	c := demand
	if len(need) == 0 {
		c = ahead
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		d.request(ctx, c, need, more)
	}()
	d.abandon(d.loadLocal(ctx, here), errors.New("it left the cache"))
	<-finished
}

// loadLocal loads entries from the cache disk and returns those it lacks.
func (d *Device) loadLocal(ctx context.Context, entries []*entry) (missing []*entry) {
	if d.cache == nil || len(entries) == 0 {
		return entries
	}
	names := make([]block.Name, len(entries))
	for i, e := range entries {
		names[i] = e.key.name
	}
	var mu sync.Mutex
	d.cache.LoadEach(ctx, d.opt.Domain, names, func(i int, l cache.Lease) {
		if l.Data == nil {
			mu.Lock()
			missing = append(missing, entries[i])
			mu.Unlock()
			return
		}
		d.n.disk.Add(1)
		d.sched.loaded(entries[i], l.Data, l)
	})
	return missing
}

// request asks the source for entries in one call.
func (d *Device) request(ctx context.Context, c class, need, more []*entry) {
	all := slices.Concat(need, more)
	if len(all) == 0 {
		return
	}
	if err := d.sched.acquire(ctx, c); err != nil {
		d.abandon(all, err)
		return
	}
	defer d.sched.release(c)
	open := make(map[block.Name]*entry, len(all))
	names := make([]block.Name, len(all))
	class := make(map[block.Name]class, len(all))
	for i, e := range all {
		names[i], open[e.key.name] = e.key.name, e
		class[e.key.name] = ahead
		if i < len(need) {
			class[e.key.name] = demand
		}
	}
	d.n.requests[c].Add(1)
	for ch, err := range d.source.Get(ctx, names) {
		e := open[ch.Name]
		if e == nil {
			continue
		}
		delete(open, ch.Name)
		if err != nil {
			d.sched.failed(e, err, ctx.Err() != nil || class[ch.Name] == ahead)
			continue
		}
		d.n.bytes[class[ch.Name]].Add(int64(len(ch.Data)))
		d.came(ch.Name)
		d.sched.loaded(e, ch.Data, cache.Lease{})
	}
	for _, e := range open {
		err := ctx.Err()
		if err == nil {
			err = errors.New("the source did not answer")
		}
		d.abandon([]*entry{e}, err)
	}
}
