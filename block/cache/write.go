package cache

import (
	"context"
	"hash/crc32"
	"time"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

const (
	stageShift    = 12
	stagePageMask = 1<<stageShift - 1
	retryDelay    = 10 * time.Second // before a disk that took no data is tried again
	maxWanted     = 1 << 16
)

// stage collects chunks in memory until they are written with one call.
type stage struct {
	n       int // its number
	buf     *buffer
	pages   int // reserved
	max     int
	writers int // still copying
	closed  bool
	items   []item
}

// item is a chunk of a stage.
type item struct {
	idx    uint32
	key    key
	page   int
	size   int
	place  int // page in the slab, once written
	sealed bool
}

// Put keeps a chunk, after checking plain against n (Invalid if it is wrong).
// It returns when the bytes are in memory and can be read; they are on disk
// after Flush. A chunk that is here already is fine. Unavailable or Exhausted
// say that the disk takes no data now; the chunk is just not kept.
func (c *Cache) Put(ctx context.Context, dom block.Domain, n block.Name, plain []byte) error {
	public := block.Sum(plain) == n
	if !public && (!dom.Private() || dom.Name(plain) != n) {
		return fault.Errorf(fault.Invalid, "keep chunk %v: %w; fetch it from another source", n, errWrong)
	}
	return c.put(ctx, dom, n, plain, !public)
}

// put is Put of a checked chunk.
func (c *Cache) put(ctx context.Context, dom block.Domain, n block.Name, plain []byte, seal bool) error {
	size := len(plain)
	if size == 0 || size > block.MaxPlain {
		return fault.Errorf(fault.Invalid, "keep chunk %v: it has %d bytes, want 1 to %d", n, size, block.MaxPlain)
	}
	k := key(n)
	if seal {
		k = keyOf(dom, n)
		size += sealedExtra
	}
	pages := roundUp(size) / page
	if pages > c.pages {
		return fault.Errorf(fault.Exhausted, "keep chunk %v: %d bytes don't fit a slab of %d; use larger slabs", n, size, c.opt.SlabSize)
	}
	st, at, err := c.reserve(ctx, k, seal, pages)
	if st == nil {
		return err
	}
	mem := st.buf.mem[at*page : (at+pages)*page]
	if seal {
		body := dom.Seal(n, block.Sealed, len(plain), plain)
		copy(mem, body)
		le32put(mem[len(body):], crc32.Checksum(body, castagnoli()))
	} else {
		copy(mem, plain)
	}
	clear(mem[size:])
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idx.find(k, seal) == noEntry {
		e := entry{key: k, slab: noSlab, page: uint16(st.n<<stageShift | at), meta: uint32(size)}
		if seal {
			e.meta |= sealedBit
		}
		if pins := c.wanted[k]; pins > 0 {
			delete(c.wanted, k)
			e.meta |= uint32(min(pins, maxPins)) << pinShift
			c.pinned++
		}
		st.items = append(st.items, item{idx: c.idx.add(e), key: k, page: at, size: size, sealed: seal})
		c.n.puts.Add(1)
	}
	st.writers--
	if st.closed && st.writers == 0 {
		c.full = append(c.full, st)
		c.poke()
	}
	c.wake()
	return nil
}

func le32put(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

// reserve finds pages in a stage. A nil stage without error says that the chunk
// is here already.
func (c *Cache) reserve(ctx context.Context, k key, sealed bool, pages int) (*stage, int, error) {
	c.mu.Lock()
	for {
		if c.closing {
			c.mu.Unlock()
			return nil, 0, fault.Errorf(fault.Unavailable, "keep a chunk: the cache %s is closed", c.dir)
		}
		if c.idx.find(k, sealed) != noEntry {
			c.mu.Unlock()
			return nil, 0, nil
		}
		if c.broken != nil && c.opt.Clock.Now().Before(c.retryAt) {
			err := c.broken
			c.mu.Unlock()
			return nil, 0, err
		}
		if c.cur != nil && c.cur.pages+pages > c.cur.max {
			c.closeStage()
		}
		if c.cur == nil {
			c.openStage(pages)
		}
		if st := c.cur; st != nil {
			at := st.pages
			st.pages += pages
			st.writers++
			c.mu.Unlock()
			return st, at, nil
		}
		if c.stalled {
			c.mu.Unlock()
			return nil, 0, fault.Errorf(fault.Unavailable, "keep a chunk: the disk of the cache %s is too slow", c.dir)
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return nil, 0, fault.Errorf(fault.Unavailable, "keep a chunk: wait for the disk of the cache %s: %w", c.dir, ctx.Err())
		}
		c.mu.Lock()
	}
}

// openStage makes a stage current if fewer than the most are in use. mu is held.
func (c *Cache) openStage(pages int) {
	for n, st := range c.stages {
		if st != nil {
			continue
		}
		st = &stage{n: n, max: max(pages, min(stageBytes/page, c.pages))}
		st.buf = c.bufs.get(st.max * page)
		c.stages[n], c.cur = st, st
		c.poke()
		return
	}
}

// closeStage hands the current stage to the flusher. mu is held.
func (c *Cache) closeStage() {
	st := c.cur
	c.cur = nil
	st.closed = true
	if st.writers == 0 {
		c.full = append(c.full, st)
		c.poke()
	}
}

func (c *Cache) poke() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// flusher writes stages when they are full or old, and syncs in groups.
func (c *Cache) flusher() {
	defer close(c.done)
	var flushAt, syncAt <-chan time.Time
	for {
		select {
		case <-c.quit:
			return
		case <-c.kick:
		case <-flushAt:
			flushAt = nil
			c.mu.Lock()
			if c.cur != nil && c.cur.writers == 0 {
				c.closeStage()
			}
			c.mu.Unlock()
		case <-syncAt:
			syncAt = nil
			c.wmu.Lock()
			c.commit()
			c.wmu.Unlock()
		}
		c.wmu.Lock()
		c.writeFull()
		if c.unsynced >= c.opt.SyncBytes {
			c.commit()
		}
		c.mu.Lock()
		staged, records := c.cur != nil, c.unsynced > 0 || len(c.records) > 0
		c.mu.Unlock()
		c.wmu.Unlock()
		if staged && flushAt == nil {
			flushAt = time.After(c.opt.FlushDelay)
		}
		if records && syncAt == nil {
			syncAt = time.After(c.opt.SyncDelay)
		}
	}
}

// writeFull writes the stages that wait. wmu is held.
func (c *Cache) writeFull() {
	for {
		c.mu.Lock()
		if len(c.full) == 0 {
			c.mu.Unlock()
			return
		}
		st := c.full[0]
		c.full = c.full[1:]
		c.mu.Unlock()
		err := c.write(st)
		if diskKind(err) == fault.Exhausted {
			// Give up as much and try once more: who else fills the disk
			// may have been faster than the look at its free space.
			_ = c.evict(withSums(int64(st.pages) * page)) // less may do, for what is not placed yet
			err = c.write(st)
		}
		c.settle(st, err)
	}
}

// writtenRun is neighbours that were written from page at of a slab.
type writtenRun struct {
	items []item
	slab  *slab
	at    int
	mem   []byte
}

// write places the items of a stage that have no place yet and writes them,
// neighbours together. wmu is held.
func (c *Cache) write(st *stage) error {
	if err := c.makeRoom(int64(st.pages) * page); err != nil {
		return err
	}
	var written []writtenRun
	for i := 0; i < len(st.items); {
		it := &st.items[i]
		if it.place != 0 {
			i++
			continue
		}
		s, at, err := c.allocate(roundUp(it.size) / page)
		if err != nil {
			return err
		}
		end, to := i+1, at+roundUp(it.size)/page
		for end < len(st.items) {
			next := &st.items[end]
			pages := roundUp(next.size) / page
			if next.page-it.page != to-at || !c.extend(to, pages) {
				break
			}
			end, to = end+1, to+pages
		}
		mem := st.buf.mem[it.page*page:][:(to-at)*page]
		c.n.writeCalls.Add(1)
		c.n.writeBytes.Add(int64(len(mem)))
		if err := s.writeAt(mem, int64(at)*page); err != nil {
			return err
		}
		c.dirty[s] = struct{}{}
		c.unsynced += int64(len(mem))
		c.place(st, s, i, end, at)
		written = append(written, writtenRun{st.items[i:end], s, at, mem})
		i = end
	}
	for _, w := range written { // last, since a full disk may take the chunks only
		c.writeGroups(w)
	}
	return nil
}

// place moves the entries of items i to end, which are written from page at of
// s, from the stage to the slab. place of an item is its page + 1.
func (c *Cache) place(st *stage, s *slab, i, end, at int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := st.items[i].page
	for ; i < end; i++ {
		it := &st.items[i]
		p := at + it.page - first
		it.place = p + 1
		e := c.idx.at(it.idx)
		if e.size() != it.size || e.key != it.key || e.slab != noSlab || int(e.page) != st.n<<stageShift|it.page {
			continue
		}
		e.slab, e.page = s.id, uint16(p)
		s.used += e.pages()
		c.used += int64(e.pages()) * page
		c.records = record{kind: recordPut, sealed: e.sealed(), slab: s.id, page: e.page, size: uint32(it.size), key: it.key}.append(c.records)
	}
}

// settle frees a stage. What could not be written is forgotten, and the disk is
// left alone for a while.
func (c *Cache) settle(st *stage, err error) {
	c.mu.Lock()
	var ev *Event
	lost := 0
	if err != nil {
		for i := range st.items {
			it := &st.items[i]
			if e := c.idx.at(it.idx); it.place == 0 && e.key == it.key && e.slab == noSlab && e.size() == it.size {
				c.forget(it.idx)
				lost++
			}
		}
		c.retryAt = c.opt.Clock.Now().Add(retryDelay)
		err = fault.Errorf(diskKind(err), "write to the cache %s: %w; chunks are served but not kept until it takes data again", c.dir, err)
		if c.broken == nil {
			ev = &Event{Kind: Unwritable, Slab: -1, Chunks: lost, Err: err}
		}
		c.broken = err
	} else if c.broken != nil {
		c.broken = nil
		ev = &Event{Kind: Writable, Slab: -1}
	}
	c.stalled = false
	c.stages[st.n] = nil
	c.wake()
	c.mu.Unlock()
	st.buf.release()
	if ev != nil {
		c.event(*ev)
	}
}

// Flush writes everything that was put, syncs it and appends its index records.
// The error is why the disk takes no data, if it doesn't.
func (c *Cache) Flush() error {
	for {
		c.mu.Lock()
		if c.cur != nil {
			c.closeStage()
		}
		copying := false
		for _, st := range c.stages {
			copying = copying || st != nil && st.writers > 0
		}
		room := c.room
		c.mu.Unlock()
		if !copying {
			break
		}
		<-room
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.writeFull()
	c.commit()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}
