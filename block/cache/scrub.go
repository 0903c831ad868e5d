package cache

import (
	"context"
	"time"

	"zos.internal/block"
)

// ScrubReport is what Scrub found.
type ScrubReport struct {
	Chunks int   // checked
	Bytes  int64 // read
	Bad    int   // dropped
}

// Scrub reads and checks every chunk on the disk, at most rate bytes a second
// (0: as fast as it can), and drops what is bad, with an event for each. It
// returns early when ctx ends. Sealed chunks are checked by a checksum, since
// the secret of their domain may not be here.
func (c *Cache) Scrub(ctx context.Context, rate int64) (ScrubReport, error) {
	var r ScrubReport
	i := uint32(0)
	for {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		var want []loading
		c.mu.Lock()
		top := c.idx.top
		for ; i < top && len(want) < 64; i++ {
			if e := c.idx.at(i); e.size() > 0 && e.slab != noSlab {
				want = append(want, loading{0, block.Name(e.key), c.slotOf(i)})
			}
		}
		c.mu.Unlock()
		if len(want) == 0 {
			return r, nil
		}
		for _, run := range plan(want) {
			before := r.Bytes
			c.scrubRun(run, &r)
			if rate <= 0 {
				continue
			}
			t := time.NewTimer(time.Duration(float64(r.Bytes-before) / float64(rate) * float64(time.Second)))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return r, ctx.Err()
			}
		}
	}
}

func (c *Cache) scrubRun(run []loading, r *ScrubReport) {
	first, last := run[0].s, run[len(run)-1].s
	n := (int(last.page)-int(first.page))*page + roundUp(last.size)
	b := c.bufs.get(n)
	defer b.release()
	if err := first.slab.readAt(b.mem[:n], int64(first.page)*page); err != nil {
		if len(run) == 1 {
			r.Bad++
			c.drop(&run[0], Lost, err)
			return
		}
		for i := range run {
			c.scrubRun(run[i:i+1], r)
		}
		return
	}
	r.Bytes += int64(n)
	for _, l := range run {
		at := (int(l.s.page) - int(first.page)) * page
		mem := b.mem[at : at+roundUp(l.s.size)]
		r.Chunks++
		if err := scrubSlot(&l.s, mem); err != nil {
			r.Bad++
			c.drop(&l, kindOf(mem), err)
		}
	}
}

func scrubSlot(s *slot, mem []byte) error {
	if !s.sealed {
		_, err := unslot(block.Domain{}, block.Name(s.key), mem, s.size, false)
		return err
	}
	if err := zeroRest(mem, s.size); err != nil {
		return err
	}
	_, err := unsum(mem[:s.size])
	return err
}
