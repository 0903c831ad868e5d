package fl

import (
	"container/list"
	"context"
	"sync"

	"zos.internal/flist/convert/fl/store"
	"zos.internal/internal/fault"
)

// blockCacheSize bounds the plain bytes that a Device keeps in memory. What is
// being read comes on top.
const blockCacheSize = 32 << 20

// blockCache keeps the blocks that were used last. Equal misses share one
// fetch. Its users must not write into the blocks.
type blockCache struct {
	wg     sync.WaitGroup
	mu     sync.Mutex
	closed bool
	size   int
	items  map[store.Block]*cached
	order  *list.List // of *cached, the oldest first
}

type cached struct {
	b     store.Block
	done  chan struct{}
	plain []byte
	err   error
	at    *list.Element // once it is in order
}

func (c *blockCache) init() {
	c.items = make(map[store.Block]*cached)
	c.order = list.New()
}

// close waits for what is under way; the caller has ended its context.
func (c *blockCache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
}

// get is the plain bytes of a block, checked. The fetch goes on when ctx ends,
// for the others who wait for it and for the next reader.
func (c *blockCache) get(ctx context.Context, img *image, b store.Block) ([]byte, error) {
	it := c.start(img, b)
	if it == nil {
		return nil, fault.Errorf(fault.Unavailable, "the device is closed")
	}
	select {
	case <-it.done:
		return it.plain, it.err
	case <-ctx.Done():
		return nil, fault.As(fault.Unavailable, ctx.Err())
	}
}

// ahead starts a fetch that nobody waits for yet.
func (c *blockCache) ahead(img *image, b store.Block) { c.start(img, b) }

func (c *blockCache) start(img *image, b store.Block) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it := c.items[b]; it != nil {
		if it.at != nil {
			c.order.MoveToBack(it.at)
		}
		return it
	}
	if c.closed {
		return nil
	}
	it := &cached{b: b, done: make(chan struct{})}
	c.items[b] = it
	c.wg.Go(func() {
		it.plain, it.err = img.router.Open(img.ctx, b)
		close(it.done)
		c.mu.Lock()
		defer c.mu.Unlock()
		if it.err != nil {
			delete(c.items, b) // the next reader tries again
			return
		}
		it.at = c.order.PushBack(it)
		for c.size += len(it.plain); c.size > blockCacheSize; {
			old := c.order.Remove(c.order.Front()).(*cached)
			delete(c.items, old.b)
			c.size -= len(old.plain)
		}
	})
	return it
}
