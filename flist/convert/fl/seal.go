package fl

import (
	"context"
	"sync"

	"golang.org/x/crypto/blake2b"

	"zos.internal/flist/convert/fl/store"
)

// maxSeen bounds the blocks of one run that are remembered, so that equal
// files are sealed and stored once: about 100 MiB of memory.
const maxSeen = 1 << 19

// sealers encrypt blocks and put them into the stores, several at once. The
// blocks come back in the order they were given. All methods but the workers'
// own are called from one goroutine.
type sealers struct {
	workers int
	router  *store.Router
	ctx     context.Context
	cancel  context.CancelFunc
	jobs    chan *sealed
	queue   []*sealed
	free    chan []byte
	wg      sync.WaitGroup

	mu     sync.Mutex
	seen   map[store.Key]*once
	blocks int64
	bytes  int64
}

type sealed struct {
	ino   int64
	path  string
	plain []byte
	b     store.Block
	err   error
	done  chan struct{}
}

func newSealers(ctx context.Context, r *store.Router, workers int) *sealers {
	if workers <= 0 {
		workers = 2
	}
	s := &sealers{workers: workers, router: r, jobs: make(chan *sealed, 2*workers), free: make(chan []byte, 2*workers), seen: make(map[store.Key]*once)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	for range workers {
		s.wg.Go(func() {
			for j := range s.jobs {
				j.b, j.err = s.store(j.plain)
				s.free <- j.plain[:BlockSize]
				close(j.done)
			}
		})
	}
	return s
}

// buffer is a block to fill, of BlockSize bytes. Its owner gives it back by
// seal.
func (s *sealers) buffer() []byte {
	select {
	case b := <-s.free:
		return b
	default:
		return make([]byte, BlockSize)
	}
}

// seal starts a block. At most 2*workers may be pending.
func (s *sealers) seal(ino int64, path string, plain []byte) {
	j := &sealed{ino: ino, path: path, plain: plain, done: make(chan struct{})}
	s.queue = append(s.queue, j)
	s.jobs <- j
}

func (s *sealers) pending() int { return len(s.queue) }

// next waits for the oldest block.
func (s *sealers) next() *sealed {
	j := s.queue[0]
	s.queue = s.queue[1:]
	<-j.done
	return j
}

// close ends the workers; blocks that are pending are given up.
func (s *sealers) close() {
	s.cancel()
	close(s.jobs)
	s.wg.Wait()
}

// written counts what went into a store that did not have it.
func (s *sealers) written() (blocks, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocks, s.bytes
}

// once is a block that one worker stores and others wait for.
type once struct {
	id   store.ID
	err  error
	done chan struct{}
}

func (s *sealers) store(plain []byte) (store.Block, error) {
	if err := s.ctx.Err(); err != nil {
		return store.Block{}, err
	}
	key := store.Key(blake2b.Sum256(plain))
	s.mu.Lock()
	o := s.seen[key]
	if o != nil {
		s.mu.Unlock()
		<-o.done
		return store.Block{ID: o.id, Key: key}, o.err
	}
	o = &once{done: make(chan struct{})}
	defer close(o.done)
	if len(s.seen) < maxSeen {
		s.seen[key] = o
	}
	s.mu.Unlock()

	var b store.Block
	var stored []byte
	if stored, b, o.err = store.Seal(plain); o.err != nil {
		return b, o.err
	}
	var wrote bool
	wrote, o.err = s.router.Put(s.ctx, b.ID, stored)
	o.id = b.ID
	if wrote {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.blocks++
		s.bytes += int64(len(stored))
	}
	return b, o.err
}
