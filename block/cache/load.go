package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"zos.internal/internal/fault"
)

// load reads the index file and drops what can't be true: records that are
// torn, slots that a later record took over or that lie outside their slab.
func (c *Cache) load() {
	c.log.path = filepath.Join(c.dir, "index")
	bad := 0
	err := c.log.each(func(r record, ok bool) {
		if !ok || c.idx.top >= 1<<28 {
			bad++
			return
		}
		i := c.idx.find(r.key, r.sealed)
		if i != noEntry {
			c.idx.remove(i)
		}
		if r.kind == recordDrop {
			return
		}
		e := entry{key: r.key, slab: r.slab, page: r.page, meta: r.size}
		if r.sealed {
			e.meta |= sealedBit
		}
		c.idx.add(e)
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.damaged = true
		c.event(Event{Kind: IndexFault, Slab: -1, Err: fault.Errorf(fault.Unavailable, "read the index of the cache %s: %w; chunks it does not name will be fetched again", c.dir, err)})
	}
	if bad > 0 {
		c.log.damaged = true // the next commit writes it anew
		c.n.refused.Add(int64(bad))
		c.event(Event{Kind: IndexFault, Slab: -1, Chunks: bad, Err: fault.Errorf(fault.Invalid, "read the index of the cache %s: %d records are torn or damaged; their chunks will be fetched again", c.dir, bad)})
	}
	c.resolveOverlaps()
	c.checkSlabs()
	_ = c.log.open()
}

// resolveOverlaps drops an entry of which a later record took pages. Entries
// freed during load are used again, so the order of records is only roughly
// that of numbers; a wrong guess costs a fetch.
func (c *Cache) resolveOverlaps() {
	order := make([]uint32, 0, c.idx.live)
	for i := range c.idx.top {
		if c.idx.at(i).size() > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b uint32) int {
		x, y := c.idx.at(a), c.idx.at(b)
		if x.slab != y.slab {
			return int(x.slab) - int(y.slab)
		}
		return int(x.page) - int(y.page)
	})
	last := uint32(noEntry)
	for _, i := range order {
		e := c.idx.at(i)
		if last != noEntry {
			p := c.idx.at(last)
			if p.slab == e.slab && int(p.page)+p.pages() > int(e.page) {
				if last > i {
					c.idx.remove(i)
					continue
				}
				c.idx.remove(last)
			}
		}
		last = i
	}
}

// checkSlabs compares the index with the files, removes slabs that nothing
// names and counts what is used.
func (c *Cache) checkSlabs() {
	ends := map[uint16]int64{} // size of each slab file
	files, err := filepath.Glob(filepath.Join(c.dir, "slab-*"))
	if err != nil {
		files = nil
	}
	for _, path := range files {
		var id uint16
		if n, _ := fmt.Sscanf(filepath.Base(path), "slab-%04x", &id); n != 1 || path != c.slabPath(id) || id == noSlab {
			continue
		}
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			ends[id] = fi.Size()
		}
	}
	lost := map[uint16]int{}
	for i := range c.idx.top {
		e := c.idx.at(i)
		if e.size() == 0 {
			continue
		}
		size, ok := ends[e.slab]
		end := int(e.page) + e.pages()
		if !ok || int64(end)*page > size || end > c.pages {
			lost[e.slab]++
			c.idx.remove(i)
			continue
		}
		s := c.slabs[e.slab]
		if s == nil {
			s = c.newSlab(e.slab)
			c.slabs[e.slab] = s
		}
		s.used += e.pages()
		c.used += int64(e.pages()) * page
	}
	for id, n := range lost {
		c.log.damaged = true
		c.n.lost.Add(int64(n))
		c.event(Event{Kind: Lost, Slab: int(id), Chunks: n, Err: fault.Errorf(fault.Unavailable, "open the cache %s: slab %d is missing or shorter than the index says; its %d chunks will be fetched again", c.dir, id, n)})
	}
	for id := range ends {
		if c.slabs[id] == nil {
			os.Remove(c.slabPath(id))
		}
	}
	c.resume()
}

// resume continues the slab with the highest number if its end is free.
func (c *Cache) resume() {
	var last *slab
	for _, s := range c.slabs {
		if last == nil || s.id > last.id {
			last = s
		}
	}
	if last == nil {
		return
	}
	runs := c.freeRuns(last)
	if n := len(runs); n > 0 && runs[n-1].at+runs[n-1].n == c.pages && runs[n-1].n >= c.pages/4 && last.grow() == nil {
		c.head, c.runs = last, runs[n-1:]
	}
}
