package fetch

import (
	"context"
	"sync"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/internal/fault"
)

// class is how urgent a request is; lower is more urgent.
type class int

const (
	demand class = iota // a reader waits
	ahead               // a reader will probably want it next
	trace               // an earlier start of the image wanted it
	fill                // the rest of the image, for when the source is gone
	classes
)

// SchedulerOptions tune a Scheduler.
type SchedulerOptions struct {
	Parallel    int   // requests at a time; 0: 8
	MemoryBytes int64 // of recently loaded chunks; 0: 16 MiB
}

// Scheduler is shared by the devices of a machine. The most urgent request goes
// first. Requests of traces and fills leave one place free; while a reader waits
// for a source, at most one of a trace and none of a fill is started.
type Scheduler struct {
	opt SchedulerOptions

	mu      sync.Mutex
	running [classes]int
	queue   [classes][]*ticket

	entries map[key]*entry
	lru     entry // ring of what may be forgotten; next is the first to go
	bytes   int64
}

// NewScheduler returns a Scheduler.
func NewScheduler(opt SchedulerOptions) *Scheduler {
	if opt.Parallel <= 0 {
		opt.Parallel = 8
	}
	if opt.MemoryBytes <= 0 {
		opt.MemoryBytes = 16 << 20
	}
	s := &Scheduler{opt: opt, entries: map[key]*entry{}}
	s.lru.prev, s.lru.next = &s.lru, &s.lru
	return s
}

type ticket struct {
	turn chan struct{} // closed when it may go
}

// acquire waits for a place for a request of class c. The caller releases it.
func (s *Scheduler) acquire(ctx context.Context, c class) error {
	t := &ticket{make(chan struct{})}
	s.mu.Lock()
	s.queue[c] = append(s.queue[c], t)
	s.dispatch()
	s.mu.Unlock()
	select {
	case <-t.turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-t.turn: // at the same moment
		s.running[c]--
	default:
		for i, q := range s.queue[c] {
			if q == t {
				s.queue[c] = append(s.queue[c][:i:i], s.queue[c][i+1:]...)
				break
			}
		}
	}
	s.dispatch()
	return fault.Errorf(fault.Unavailable, "wait for a place among %d requests: %w", s.opt.Parallel, ctx.Err())
}

func (s *Scheduler) release(c class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[c]--
	s.dispatch()
}

// dispatch starts what may start. mu is held.
func (s *Scheduler) dispatch() {
	for c := range classes {
		for len(s.queue[c]) > 0 {
			if !s.may(c) {
				return // nothing less urgent overtakes
			}
			t := s.queue[c][0]
			s.queue[c] = s.queue[c][1:]
			s.running[c]++
			close(t.turn)
		}
	}
}

// may reports whether a request of class c may start. mu is held.
func (s *Scheduler) may(c class) bool {
	background := s.running[trace] + s.running[fill]
	total := s.running[demand] + s.running[ahead] + background
	if total >= s.opt.Parallel {
		return false
	}
	if c <= ahead {
		return true
	}
	if background > 0 && total >= s.opt.Parallel-1 {
		return false
	}
	if s.running[demand] > 0 {
		return c == trace && background == 0
	}
	return c == trace || s.running[trace] == 0
}

// key tells chunks of different domains apart.
type key struct {
	domain [16]byte
	name   block.Name
}

// entry is a chunk in memory, or one that is being loaded. It may be forgotten
// when it is loaded and nobody uses it.
type entry struct {
	key   key
	plain int // bytes, as the map says
	refs  int
	done  chan struct{}

	// Set before done is closed.
	data  []byte
	lease cache.Lease
	err   error
	again bool // the error says nothing about the source

	dev        *Device // that loads it
	loaded     bool
	gone       bool // not in entries any more
	prev, next *entry
}

// take finds an entry and holds it. mu is held.
func (s *Scheduler) take(k key) *entry {
	e := s.entries[k]
	if e != nil {
		s.hold(e)
	}
	return e
}

func (s *Scheduler) hold(e *entry) {
	e.refs++
	if e.next != nil {
		e.unlink()
	}
}

func (e *entry) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}

// start makes an entry that is being loaded, held by its loader. mu is held.
func (s *Scheduler) start(d *Device, k key, plain int) *entry {
	e := &entry{key: k, plain: plain, refs: 1, done: make(chan struct{}), dev: d}
	s.entries[k] = e
	return e
}

// loaded ends the load of e with data, which l holds if it is the cache's.
func (s *Scheduler) loaded(e *entry, data []byte, l cache.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.data, e.lease, e.loaded, e.dev = data, l, true, nil
	s.bytes += int64(len(data))
	close(e.done)
	s.drop(e, false)
}

// failed ends the load of e with an error. Who waits sees it, nobody else.
func (s *Scheduler) failed(e *entry, err error, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.err, e.again = err, again
	delete(s.entries, e.key)
	e.gone = true
	close(e.done)
	e.refs--
}

// done gives e back. used says that its last byte was read, so that it goes
// before those that were read ahead.
func (s *Scheduler) done(e *entry, used bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(e, used)
}

// drop is done with mu held.
func (s *Scheduler) drop(e *entry, used bool) {
	e.refs--
	if e.refs > 0 || !e.loaded || e.gone {
		return
	}
	at := s.lru.prev
	if used {
		at = &s.lru
	}
	e.prev, e.next = at, at.next
	at.next.prev, at.next = e, e
	for s.bytes > s.opt.MemoryBytes && s.lru.next != &s.lru {
		old := s.lru.next
		old.unlink()
		delete(s.entries, old.key)
		old.gone = true
		s.bytes -= int64(len(old.data))
		old.lease.Release()
		old.data = nil
	}
}
