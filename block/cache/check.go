package cache

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

var errWrong = errors.New("its bytes do not have its name")

// unslot returns the plain bytes of a slot (whole pages) after all checks.
func unslot(dom block.Domain, n block.Name, mem []byte, size int, sealed bool) ([]byte, error) {
	if err := zeroRest(mem, size); err != nil {
		return nil, err
	}
	if !sealed {
		if block.Sum(mem[:size]) != n {
			return nil, errWrong
		}
		return mem[:size:size], nil
	}
	body, err := unsum(mem[:size])
	if err != nil {
		return nil, err
	}
	plain, err := dom.Open(n, block.Sealed, len(body)-block.SealOverhead, body)
	if err != nil {
		return nil, err
	}
	if dom.Name(plain) != n {
		return nil, errWrong
	}
	return plain, nil
}

// zeroRest checks the padding, so that every flipped bit of a slab is found.
func zeroRest(mem []byte, size int) error {
	for _, b := range mem[size:] {
		if b != 0 {
			return errors.New("the rest of its last page is not zero")
		}
	}
	return nil
}

// kindOf tells a slot that was never written from one with wrong bytes.
func kindOf(mem []byte) EventKind {
	for _, b := range mem {
		if b != 0 {
			return Damaged
		}
	}
	return Lost
}

// unsum checks and cuts the crc32c at the end of a sealed slot.
func unsum(b []byte) ([]byte, error) {
	if len(b) <= sealedExtra {
		return nil, errWrong
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli()) != le32(b[len(b)-4:]) {
		return nil, fmt.Errorf("the checksum of its sealed bytes is wrong")
	}
	return body, nil
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// drop forgets a chunk whose slot is bad and tells why, unless the slot was
// given up meanwhile, which explains the bad bytes.
func (c *Cache) drop(l *loading, kind EventKind, err error) {
	s := &l.s
	c.mu.Lock()
	if s.staged != nil {
		if e := c.idx.at(s.idx); e.key == s.key && e.size() == s.size {
			c.forget(s.idx)
		}
	} else {
		for !c.stillThere(s) {
			if !c.isAt(s) {
				c.mu.Unlock()
				return
			}
			// Another slot of the slab was given up; this one may have been too
			// and written again while it was read. Look once more.
			s.gen = s.slab.gen
			c.mu.Unlock()
			if kind, err = c.recheck(s, kind, err); err == nil {
				return
			}
			c.mu.Lock()
		}
		c.forget(s.idx)
	}
	c.mu.Unlock()
	if kind == Damaged {
		c.n.damaged.Add(1)
	} else {
		c.n.lost.Add(1)
	}
	e := Event{Kind: kind, Slab: -1, Chunks: 1}
	if !s.sealed {
		e.Name = block.Name(s.key)
	}
	if s.slab != nil {
		e.Slab = int(s.slab.id)
		if errors.Is(err, os.ErrNotExist) {
			e.Chunks += c.forgetSlab(s.slab)
		}
	}
	what := "a chunk"
	if !s.sealed {
		what = "chunk " + e.Name.String()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the slab is shorter than the index says")
	}
	e.Err = fault.Errorf(fault.Unavailable, "read %s from slab %d of the cache %s: %w; it was dropped and will be fetched again", what, e.Slab, c.dir, err)
	c.event(e)
}

// recheck reads a slot again that was bad for the given reason.
func (c *Cache) recheck(s *slot, kind EventKind, err error) (EventKind, error) {
	n := roundUp(s.size)
	b := c.bufs.get(n)
	defer b.release()
	if rerr := s.slab.readAt(b.mem[:n], int64(s.page)*page); rerr != nil {
		return Lost, rerr
	}
	if s.sealed {
		return kind, err // what was wrong may need the secret to see
	}
	return kindOf(b.mem[:n]), scrubSlot(s, b.mem[:n])
}

// forget removes an entry, remembers its pins and notes the drop for the index
// file. mu is held.
func (c *Cache) forget(i uint32) {
	e := c.idx.at(i)
	if n := e.pins(); n > 0 {
		c.pinned--
		if len(c.wanted) < maxWanted {
			c.wanted[e.key] = uint8(n)
		}
	}
	if e.slab != noSlab {
		s := c.slabs[e.slab]
		s.gen++
		s.used -= e.pages()
		c.used -= int64(e.pages()) * page
		c.records = record{kind: recordDrop, sealed: e.sealed(), key: e.key}.append(c.records)
	}
	c.idx.remove(i)
}

// forgetSlab removes every entry of a slab that is gone.
func (c *Cache) forgetSlab(s *slab) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for i := range c.idx.top {
		if e := c.idx.at(i); e.size() > 0 && e.slab == s.id {
			c.forget(i)
			n++
		}
	}
	return n
}
