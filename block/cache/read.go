package cache

import (
	"context"
	"slices"
	"sync"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// slot is what a reader knows about an entry when it leaves the lock. The entry
// may be evicted and its pages used again meanwhile; see stillThere.
type slot struct {
	idx      uint32
	key      key
	slab     *slab
	page     uint16
	size     int
	sealed   bool
	verified bool
	gen      uint32
	staged   *buffer // set: the bytes are here, retained
	stageOff int
}

func (s *slot) plain() int {
	if s.sealed {
		return s.size - sealedExtra
	}
	return s.size
}

// sealedExtra is what a sealed slot has more than the plain bytes: nonce, tag
// and a crc32c that lets Scrub find damage without the secret.
const sealedExtra = block.SealOverhead + 4

// look finds a chunk and marks it as used. A private domain also sees public
// chunks, because an image may hold both. mu is held.
func (c *Cache) look(dom block.Domain, n block.Name) (s slot, ok bool) {
	private := dom.Private()
	i := c.idx.find(keyOf(dom, n), private)
	if i == noEntry && private {
		i = c.idx.find(key(n), false)
	}
	if i == noEntry {
		return s, false
	}
	e := c.idx.at(i)
	e.meta |= refBit
	return c.slotOf(i), true
}

// find is look for callers that don't hold mu.
func (c *Cache) find(ctx context.Context, dom block.Domain, n block.Name) (s slot, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return s, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok = c.look(dom, n)
	return s, ok, nil
}

func (c *Cache) slotOf(i uint32) slot {
	e := c.idx.at(i)
	s := slot{idx: i, key: e.key, page: e.page, size: e.size(), sealed: e.sealed(), verified: e.meta&verifiedBit != 0}
	if e.slab == noSlab {
		st := c.stages[e.page>>stageShift]
		st.buf.retain()
		s.staged, s.stageOff = st.buf, int(e.page&stagePageMask)*page
		return s
	}
	s.slab = c.slabs[e.slab]
	s.gen = s.slab.gen
	return s
}

// stillThere reports whether the entry kept its place since the slot was looked
// up, so that what was read from it is what was put. mu is held.
func (c *Cache) stillThere(s *slot) bool { return s.slab.gen == s.gen && c.isAt(s) }

// isAt reports whether the entry is (again) that of s. mu is held.
func (c *Cache) isAt(s *slot) bool {
	e := c.idx.at(s.idx)
	return c.slabs[s.slab.id] == s.slab && e.size() == s.size && e.key == s.key && e.sealed() == s.sealed && e.slab == s.slab.id && e.page == s.page
}

// Has reports whether a chunk is in the cache, unread and so unverified.
func (c *Cache) Has(dom block.Domain, n block.Name) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.has(dom, n)
}

func (c *Cache) has(dom block.Domain, n block.Name) bool {
	if c.idx.find(keyOf(dom, n), dom.Private()) != noEntry {
		return true
	}
	return dom.Private() && c.idx.find(key(n), false) != noEntry
}

// Get returns the plain bytes of a chunk, which are the caller's, or NotFound.
func (c *Cache) Get(ctx context.Context, dom block.Domain, n block.Name) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := c.Load(ctx, dom, []block.Name{n})[0]
	defer l.Release()
	if l.Data == nil {
		return nil, fault.Errorf(fault.NotFound, "get chunk %v: it is not in the cache %s; fetch it from a source", n, c.dir)
	}
	return slices.Clone(l.Data), nil
}

// ReadAt fills p with the bytes of a chunk from off. ok is false when the cache
// has no right bytes of the chunk; an error says that the chunk is shorter than
// off and p, or that ctx ended. The first read of a chunk after Open reads and
// checks it whole, later ones read just the pages under p.
func (c *Cache) ReadAt(ctx context.Context, dom block.Domain, n block.Name, p []byte, off int) (ok bool, err error) {
	return c.readAt(ctx, dom, n, p, off, true)
}

// ReadVerified is ReadAt that takes a chunk which was not read before for a
// miss, for callers that load such chunks in parallel.
func (c *Cache) ReadVerified(ctx context.Context, dom block.Domain, n block.Name, p []byte, off int) (ok bool, err error) {
	return c.readAt(ctx, dom, n, p, off, false)
}

func (c *Cache) readAt(ctx context.Context, dom block.Domain, n block.Name, p []byte, off int, whole bool) (bool, error) {
	s, ok, err := c.find(ctx, dom, n)
	if err != nil {
		return false, err
	}
	if !ok {
		if whole {
			c.n.misses.Add(1)
		}
		return false, nil
	}
	if off < 0 || off+len(p) > s.plain() {
		if s.staged != nil {
			s.staged.release()
		}
		if !s.verified {
			// The size is only the index's word for it.
			l := c.Load(ctx, dom, []block.Name{n})[0]
			defer l.Release()
			if l.Data == nil || len(l.Data) != s.plain() {
				return false, nil
			}
		}
		return false, fault.Errorf(fault.Invalid, "read chunk %v: %d bytes from %d of a chunk of %d; the map doesn't fit its chunks", n, len(p), off, s.plain())
	}
	if s.staged == nil && s.verified && !s.sealed && c.readRange(&s, p, off) {
		c.n.hits.Add(1)
		return true, nil
	}
	if s.staged == nil && !whole {
		return false, nil
	}
	if s.staged != nil {
		s.staged.release()
	}
	l := c.Load(ctx, dom, []block.Name{n})[0]
	defer l.Release()
	if l.Data == nil || off+len(p) > len(l.Data) {
		return false, nil
	}
	copy(p, l.Data[off:])
	return true, nil
}

// readRange reads just the pages under p; false means to read the whole chunk.
func (c *Cache) readRange(s *slot, p []byte, off int) bool {
	from := off &^ (page - 1)
	n := roundUp(off + len(p) - from)
	b := c.bufs.get(n)
	defer b.release()
	c.n.readCalls.Add(1)
	c.n.readBytes.Add(int64(n))
	if s.slab.readAt(b.mem[:n], int64(s.page)*page+int64(from)) != nil {
		return false
	}
	c.mu.Lock()
	same := c.stillThere(s)
	c.mu.Unlock()
	if !same {
		return false
	}
	copy(p, b.mem[off-from:n])
	return true
}

// Load reads chunks whole and in parallel, neighbours on the disk with one
// direct read, and returns one Lease for each name, without Data for a miss.
// The caller releases every Lease.
func (c *Cache) Load(ctx context.Context, dom block.Domain, names []block.Name) []Lease {
	got := make([]Lease, len(names))
	c.LoadEach(ctx, dom, names, func(i int, l Lease) { got[i] = l })
	return got
}

// LoadEach is Load that hands out each Lease when it is ready: it calls each
// once for every name, with its place in names, from several goroutines and in
// any order, about that of the disk. It returns when all are handed out.
func (c *Cache) LoadEach(ctx context.Context, dom block.Domain, names []block.Name, each func(i int, l Lease)) {
	want := make([]loading, 0, len(names))
	var missing []int
	c.mu.Lock()
	for i, n := range names {
		if s, ok := c.look(dom, n); ok {
			want = append(want, loading{i, n, s})
		} else {
			missing = append(missing, i)
		}
	}
	c.mu.Unlock()
	out := func(i int, l Lease) {
		if l.Data != nil {
			c.n.hits.Add(1)
		} else {
			c.n.misses.Add(1)
		}
		each(i, l)
	}
	for _, i := range missing {
		out(i, Lease{})
	}
	runs := plan(want)
	if len(runs) == 1 {
		c.loadRun(dom, runs[0], out)
		return
	}
	var wg sync.WaitGroup
	next := make(chan []loading)
	for range min(readers, len(runs)) {
		wg.Go(func() {
			for run := range next {
				c.loadRun(dom, run, out)
			}
		})
	}
	for _, run := range runs {
		if ctx.Err() != nil {
			giveUp(run, out)
			continue
		}
		next <- run
	}
	close(next)
	wg.Wait()
}

func giveUp(run []loading, out func(int, Lease)) {
	for _, l := range run {
		if l.s.staged != nil {
			l.s.staged.release()
		}
		out(l.i, Lease{})
	}
}

// loading is one chunk of a Load: its place in the result, its name, its slot.
type loading struct {
	i    int
	name block.Name
	s    slot
}

// plan groups chunks that lie side by side in a slab, each staged chunk alone.
func plan(want []loading) [][]loading {
	slices.SortFunc(want, func(a, b loading) int {
		switch {
		case a.s.staged != nil || b.s.staged != nil:
			if (a.s.staged != nil) == (b.s.staged != nil) {
				return a.i - b.i
			}
			if a.s.staged != nil {
				return -1
			}
			return 1
		case a.s.slab != b.s.slab:
			return int(a.s.slab.id) - int(b.s.slab.id)
		}
		return int(a.s.page) - int(b.s.page)
	})
	var runs [][]loading
	for len(want) > 0 {
		n := 1
		if first := want[0].s; first.staged == nil {
			for n < len(want) && want[n].s.slab == first.slab &&
				int(want[n].s.page) == int(want[n-1].s.page)+roundUp(want[n-1].s.size)/page &&
				(int(want[n].s.page)-int(first.page))*page+roundUp(want[n].s.size) <= runBytes {
				n++
			}
		}
		runs = append(runs, want[:n])
		want = want[n:]
	}
	return runs
}

func (c *Cache) loadRun(dom block.Domain, run []loading, out func(int, Lease)) {
	if s := run[0].s; s.staged != nil {
		mem := s.staged.mem[s.stageOff : s.stageOff+roundUp(s.size)]
		c.finish(dom, run[0], mem, s.staged, s.verified, out)
		s.staged.release()
		return
	}
	first, last := run[0].s, run[len(run)-1].s
	n := (int(last.page)-int(first.page))*page + roundUp(last.size)
	b := c.bufs.get(n)
	defer b.release()
	c.n.readCalls.Add(1)
	c.n.readBytes.Add(int64(n))
	if err := first.slab.readAt(b.mem[:n], int64(first.page)*page); err != nil {
		if len(run) > 1 {
			for i := range run {
				c.loadRun(dom, run[i:i+1], out)
			}
			return
		}
		c.drop(&run[0], Lost, err)
		out(run[0].i, Lease{})
		return
	}
	c.mu.Lock()
	trusted := make([]bool, len(run))
	for i := range run {
		trusted[i] = run[i].s.verified && c.stillThere(&run[i].s)
	}
	c.mu.Unlock()
	for i, l := range run {
		at := (int(l.s.page) - int(first.page)) * page
		c.finish(dom, l, b.mem[at:at+roundUp(l.s.size)], b, trusted[i], out)
	}
}

// finish turns the bytes of a slot into the Lease of its chunk or drops it.
func (c *Cache) finish(dom block.Domain, l loading, mem []byte, b *buffer, trusted bool, out func(int, Lease)) {
	s := &l.s
	if trusted && !s.sealed {
		b.retain()
		out(l.i, Lease{mem[:s.size], b})
		return
	}
	plain, err := unslot(dom, l.name, mem, s.size, s.sealed)
	if err != nil {
		c.drop(&l, kindOf(mem), err)
		out(l.i, Lease{})
		return
	}
	if s.staged == nil {
		c.n.verified.Add(1)
		c.mu.Lock()
		if c.stillThere(s) {
			c.idx.at(s.idx).meta |= verifiedBit
		}
		c.mu.Unlock()
	}
	if s.sealed {
		out(l.i, Lease{Data: plain})
		return
	}
	b.retain()
	out(l.i, Lease{plain, b})
}
