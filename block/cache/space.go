package cache

import (
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

const evictBytes = 32 << 20

// pageRun is n pages from page at.
type pageRun struct{ at, n int }

// makeRoom evicts until n bytes more respect the cap and the floor. wmu is held.
func (c *Cache) makeRoom(n int64) error {
	need := int64(0)
	if c.opt.MaxBytes > 0 {
		c.mu.Lock()
		need = c.used + n - c.opt.MaxBytes
		c.mu.Unlock()
	}
	if c.floor > 0 {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(c.lock.Fd()), &st); err != nil {
			return err
		}
		short := c.floor + withSums(n) - int64(st.Bavail)*st.Bsize
		if short > 0 && c.noPunch {
			return fault.Errorf(fault.Exhausted, "the file system has less than %d bytes free and gives none back from files", c.floor)
		}
		need = max(need, short)
	}
	if need <= 0 {
		return nil
	}
	return c.evict(need)
}

// evict gives up chunks that were not used lately and are not pinned, at least
// need bytes of them, or else all and Exhausted. It takes some more than needed,
// because it writes the index before their pages can be used again: after a
// crash a record must not name pages of another chunk. wmu is held.
func (c *Cache) evict(need int64) error {
	freed := map[*slab][]pageRun{}
	got := int64(0)
	c.mu.Lock()
	some := max(need, min(c.used/64, evictBytes))
	for steps := 2 * int64(c.idx.top); got < some && steps > 0; steps-- {
		if c.hand >= c.idx.top {
			c.hand = 0
		}
		i := c.hand
		c.hand++
		e := c.idx.at(i)
		if e.size() == 0 || e.slab == noSlab || e.pins() > 0 {
			continue
		}
		if e.meta&refBit != 0 {
			e.meta &^= refBit
			continue
		}
		s := c.slabs[e.slab]
		freed[s] = append(freed[s], pageRun{int(e.page), e.pages()})
		got += int64(e.pages()) * page
		c.forget(i)
		c.n.evicted.Add(1)
	}
	c.mu.Unlock()
	c.commit()
	for s, runs := range freed {
		c.release(s, runs)
	}
	if got < need {
		return fault.Errorf(fault.Exhausted, "no room for %d bytes: what is left is pinned, or other files fill the disk; unpin images, raise the cap or free space", need)
	}
	return nil
}

// release punches holes, or removes a slab in which nothing is left. wmu is held.
func (c *Cache) release(s *slab, runs []pageRun) {
	c.mu.Lock()
	empty := s.used == 0
	if empty {
		delete(c.slabs, s.id)
	}
	c.mu.Unlock()
	if empty {
		if c.head == s {
			c.head, c.runs = nil, nil
		}
		delete(c.dirty, s)
		s.close()
		os.Remove(s.path)
		c.groups.forget(s.id)
		return
	}
	slices.SortFunc(runs, func(a, b pageRun) int { return a.at - b.at })
	for i := 0; i < len(runs) && !c.noPunch; {
		r := runs[i]
		for i++; i < len(runs) && runs[i].at == r.at+r.n; i++ {
			r.n += runs[i].n
		}
		err := s.punch(int64(r.at)*page, int64(r.n)*page)
		c.noPunch = errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
	}
}

// allocate takes pages side by side. wmu is held.
func (c *Cache) allocate(pages int) (*slab, int, error) {
	for range 2 {
		for i := range c.runs {
			if r := &c.runs[i]; r.n >= pages {
				at := r.at
				r.at, r.n = r.at+pages, r.n-pages
				if i > 0 {
					// What lies before is too small for this one; look here first
					// from now on, and at the rest when the slab is chosen again.
					c.runs = c.runs[i:]
				}
				return c.head, at, nil
			}
		}
		if err := c.chooseHead(pages); err != nil {
			return nil, 0, err
		}
	}
	return nil, 0, fault.Errorf(fault.Exhausted, "no room for %d pages side by side in any slab", pages)
}

// extend takes the pages from page at of the head, if they are the next free
// ones. wmu is held.
func (c *Cache) extend(at, pages int) bool {
	if len(c.runs) == 0 || c.runs[0].at != at || c.runs[0].n < pages {
		return false
	}
	c.runs[0].at += pages
	c.runs[0].n -= pages
	return true
}

// chooseHead finds a slab with pages free pages side by side: a new one while
// there may be more, else one of the emptiest, else the emptiest after giving
// up what is in it. wmu is held.
func (c *Cache) chooseHead(pages int) error {
	c.mu.Lock()
	var all []*slab
	id, more := uint16(0), len(c.slabs) < c.slabMax
	for _, s := range c.slabs {
		all = append(all, s)
	}
	for more && c.slabs[id] != nil {
		id++
	}
	slices.SortFunc(all, func(a, b *slab) int { return a.used - b.used })
	c.mu.Unlock()
	if more {
		s := c.newSlab(id)
		if err := s.grow(); err != nil {
			s.close()
			return err
		}
		c.mu.Lock()
		c.slabs[id] = s
		c.mu.Unlock()
		c.head, c.runs = s, []pageRun{{0, c.pages}}
		return nil
	}
	fits := func(r pageRun) bool { return r.n >= pages }
	for _, s := range all[:min(4, len(all))] {
		if runs := c.freeRuns(s); s != c.head && slices.ContainsFunc(runs, fits) && s.grow() == nil {
			c.head, c.runs = s, runs
			return nil
		}
	}
	for _, s := range all {
		c.empty(s)
		if runs := c.freeRuns(s); slices.ContainsFunc(runs, fits) {
			c.head, c.runs = s, runs
			return s.grow()
		}
	}
	return fault.Errorf(fault.Exhausted, "no room for %d pages side by side: the slabs are full of pinned chunks; unpin images or raise the cap", pages)
}

// freeRuns lists the pages of s that no entry has. wmu is held.
func (c *Cache) freeRuns(s *slab) []pageRun {
	taken := make([]uint64, (c.pages+63)/64)
	c.mu.Lock()
	for i := range c.idx.top {
		if e := c.idx.at(i); e.size() > 0 && e.slab == s.id {
			for p := int(e.page); p < min(int(e.page)+e.pages(), c.pages); p++ {
				taken[p/64] |= 1 << (p % 64)
			}
		}
	}
	c.mu.Unlock()
	var runs []pageRun
	for p := 0; p < c.pages; p++ {
		if taken[p/64]>>(p%64)&1 == 1 {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1].at+runs[n-1].n == p {
			runs[n-1].n++
		} else {
			runs = append(runs, pageRun{p, 1})
		}
	}
	return runs
}

// empty gives up every chunk of s that is not pinned. wmu is held.
func (c *Cache) empty(s *slab) {
	var runs []pageRun
	c.mu.Lock()
	for i := range c.idx.top {
		if e := c.idx.at(i); e.size() > 0 && e.slab == s.id && e.pins() == 0 {
			runs = append(runs, pageRun{int(e.page), e.pages()})
			c.forget(i)
			c.n.evicted.Add(1)
		}
	}
	keep := s.used > 0
	c.mu.Unlock()
	c.commit()
	if keep {
		c.release(s, runs)
	}
}

// GC applies the cap and the floor now, removes slabs in which nothing is left
// and writes the index file anew.
func (c *Cache) GC(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	err := c.makeRoom(0)
	c.mu.Lock()
	var unused []*slab
	for _, s := range c.slabs {
		if s.used == 0 && s != c.head {
			unused = append(unused, s)
		}
	}
	c.mu.Unlock()
	for _, s := range unused {
		c.release(s, nil)
	}
	c.log.damaged = true
	c.commit()
	return err
}
