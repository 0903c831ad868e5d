package cache

import (
	"errors"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// diskKind is Exhausted for a full disk and Unavailable for the rest.
func diskKind(err error) fault.Kind {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, fault.Exhausted) {
		return fault.Exhausted
	}
	return fault.Unavailable
}

// commit makes what was written durable: first the slabs, then the records that
// name it. wmu is held.
func (c *Cache) commit() {
	c.mu.Lock()
	records := c.records
	c.records = nil
	c.mu.Unlock()
	var err error
	for s := range c.dirty {
		c.n.syncs.Add(1)
		if e := s.sync(); e != nil && err == nil {
			err = e
		}
	}
	clear(c.dirty)
	c.unsynced = 0
	if err == nil && (len(records) > 0 || c.log.damaged) {
		c.mu.Lock()
		live := int64(c.idx.live)
		c.mu.Unlock()
		if c.log.damaged || c.log.records+int64(len(records))/recordSize > 2*live+4096 {
			err = c.rewriteLog()
		} else {
			err = c.log.append(records)
		}
	}
	if err == nil {
		return
	}
	// The chunks stay usable until the cache is closed; the next commit writes
	// the whole index anew.
	c.log.damaged = true
	c.mu.Lock()
	first := c.broken == nil
	if first {
		c.broken = fault.Errorf(diskKind(err), "sync the cache %s: %w; new chunks may have to be fetched again after a restart", c.dir, err)
		c.retryAt = c.opt.Clock.Now().Add(retryDelay)
	}
	err = c.broken
	c.mu.Unlock()
	if first {
		c.event(Event{Kind: Unwritable, Slab: -1, Err: err})
	}
}

// rewriteLog writes an index file of just the chunks that are here. Every
// placed chunk is synced. wmu is held, so none is placed meanwhile; one that is
// dropped meanwhile has its record in c.records.
func (c *Cache) rewriteLog() error {
	i := uint32(0)
	err := c.log.rewrite(func(b []byte) []byte {
		c.mu.Lock()
		defer c.mu.Unlock()
		for ; i < c.idx.top && len(b) < 4096*recordSize; i++ {
			if e := c.idx.at(i); e.size() > 0 && e.slab != noSlab {
				b = record{kind: recordPut, sealed: e.sealed(), slab: e.slab, page: e.page, size: uint32(e.size()), key: e.key}.append(b)
			}
		}
		return b
	})
	if err == nil {
		c.log.damaged = false
	}
	return err
}
