package fl

import (
	"context"
	"sync"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/fl/store"
	"zos.internal/internal/fault"
)

// defaultWorkers is how many blocks are fetched or copied at once.
const defaultWorkers = 4

// use is where a block is used first.
type use struct {
	in *inode
	i  int
}

// unique lists every block once, in the order of the inodes, with its first
// use.
func (m *metadata) unique() (blocks []store.Block, first map[store.Block]use) {
	first = make(map[store.Block]use)
	for _, in := range m.inodes {
		for i, b := range in.blocks {
			if _, ok := first[b]; !ok {
				first[b] = use{in, i}
				blocks = append(blocks, b)
			}
		}
	}
	return blocks, first
}

// each calls f for every block in several goroutines until one returns an
// error; that error is the result. done is called after each, one at a time.
func each(ctx context.Context, blocks []store.Block, workers int, f func(ctx context.Context, b store.Block) error, done func(n int)) error {
	if workers <= 0 {
		workers = defaultWorkers
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	next, finished := 0, 0
	for range min(workers, len(blocks)) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(blocks) || ctx.Err() != nil {
					mu.Unlock()
					return
				}
				b := blocks[next]
				next++
				mu.Unlock()
				if err := f(ctx, b); err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				finished++
				done(finished)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return fault.As(fault.Of(context.Cause(ctx)), context.Cause(ctx))
	}
	return nil
}

// verify fetches every block and reports each that is not right, and each
// file whose blocks don't have its size.
func (m *metadata) verify(ctx context.Context, img *image, workers int, progress convert.Progress, c *checker) error {
	type result struct {
		size int64
		err  error
	}
	blocks, _ := m.unique()
	results := make(map[store.Block]result, len(blocks))
	var mu sync.Mutex
	err := each(ctx, blocks, workers, func(ctx context.Context, b store.Block) error {
		plain, err := img.router.Open(ctx, b)
		if ctx.Err() != nil {
			return fault.As(fault.Unavailable, ctx.Err())
		}
		mu.Lock()
		defer mu.Unlock()
		results[b] = result{int64(len(plain)), err}
		return nil
	}, func(n int) { progress.Report("verify", int64(n), int64(len(blocks))) })
	if err != nil {
		return err
	}
	for _, in := range m.inodes {
		var sum int64
		whole := true
		for i, b := range in.blocks {
			r := results[b]
			sum += r.size
			if r.err == nil {
				continue
			}
			whole = false
			if n, _ := img.router.Candidates(b.ID[0]); n == 0 {
				continue // said already
			}
			if err := c.badBlock(img.blockFault(in, i, r.err)); err != nil {
				return err
			}
		}
		if in.node.IsRegular() && whole && sum != in.node.Size {
			if err := c.badBlock(sumFault(img.file, in, len(in.blocks)-1, sum)); err != nil {
				return err
			}
		}
	}
	return nil
}
