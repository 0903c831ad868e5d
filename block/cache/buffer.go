package cache

import (
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// buffer is page-aligned memory that several leases may share. It returns to
// its pool with the last of them.
type buffer struct {
	mem   []byte
	refs  atomic.Int32
	pool  *bufPool
	arena *arena
	class int
}

// arena is a mapping that is cut into buffers of one class.
type arena struct {
	mem   []byte // what is mapped
	bytes int    // of buffers
	class int
	out   int // buffers in use
}

func (b *buffer) retain() { b.refs.Add(1) }

func (b *buffer) release() {
	if n := b.refs.Add(-1); n == 0 {
		b.pool.put(b)
	} else if n < 0 {
		panic("cache: a lease was released twice")
	}
}

// bufPool has buffers of 4 KiB, 8 KiB … 8 MiB, cut from arenas that are mapped
// and kept for the next use: on the heap, the collector would let as much again
// of them pile up, and direct I/O is faster into huge pages. Of arenas that
// nobody uses idleBytes are kept.
type bufPool struct {
	mu     sync.Mutex
	free   [12][]*buffer
	arenas map[*arena]struct{}
	unused []*arena // without a buffer in use, the longest first
	idle   int      // bytes of these
	out    int      // buffers in use
	closed bool     // unmap the arenas when none is
}

const (
	hugePage   = 2 << 20
	arenaBytes = hugePage
	idleBytes  = 6 << 20
	hugeFrom   = 128 << 10 // bytes of a buffer
)

// get returns a buffer of at least n bytes with one reference. Its bytes are
// anything.
func (p *bufPool) get(n int) *buffer {
	class := 0
	if n > page {
		class = bits.Len(uint(n-1)) - bits.Len(uint(page-1))
	}
	p.mu.Lock()
	if len(p.free[class]) == 0 {
		p.grow(class)
	}
	l := len(p.free[class]) - 1
	b := p.free[class][l]
	p.free[class] = p.free[class][:l]
	p.out++
	if b.arena.out++; b.arena.out == 1 {
		p.use(b.arena)
	}
	p.mu.Unlock()
	b.refs.Store(1)
	return b
}

// grow maps an arena and cuts it. mu is held.
func (p *bufPool) grow(class int) {
	size := page << class
	total := max(arenaBytes, size)
	mem, err := unix.Mmap(-1, 0, total+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic("cache: out of memory for a buffer: " + err.Error())
	}
	a := &arena{mem: mem, bytes: total, class: class}
	if p.arenas == nil {
		p.arenas = map[*arena]struct{}{}
	}
	p.arenas[a] = struct{}{}
	p.rest(a)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(mem))) & (hugePage - 1))
	mem = mem[skip : skip+total]
	advice := unix.MADV_HUGEPAGE
	if size < hugeFrom {
		advice = unix.MADV_NOHUGEPAGE // just what is touched takes memory
	}
	_ = unix.Madvise(mem, advice) // a kernel without them works too
	for at := total - size; at >= 0; at -= size {
		p.free[class] = append(p.free[class], &buffer{mem: mem[at : at+size : at+size], pool: p, arena: a, class: class})
	}
}

func (p *bufPool) put(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free[b.class] = append(p.free[b.class], b)
	p.out--
	if b.arena.out--; b.arena.out == 0 {
		p.rest(b.arena)
		for p.idle > idleBytes && len(p.unused) > 1 {
			p.giveBack(p.unused[0])
		}
	}
	p.unmap()
}

// rest notes that nobody uses an arena any more, use that somebody does. mu is
// held.
func (p *bufPool) rest(a *arena) {
	p.unused = append(p.unused, a)
	p.idle += a.bytes
}

func (p *bufPool) use(a *arena) {
	i := slices.Index(p.unused, a)
	p.unused = slices.Delete(p.unused, i, i+1)
	p.idle -= a.bytes
}

// giveBack unmaps an arena that nobody uses. mu is held.
func (p *bufPool) giveBack(a *arena) {
	p.use(a)
	p.free[a.class] = slices.DeleteFunc(p.free[a.class], func(b *buffer) bool { return b.arena == a })
	delete(p.arenas, a)
	_ = unix.Munmap(a.mem)
}

// close gives the memory back as soon as nobody uses it.
func (p *bufPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.unmap()
}

// unmap is part of put and close. mu is held.
func (p *bufPool) unmap() {
	if !p.closed || p.out > 0 {
		return
	}
	for a := range p.arenas {
		_ = unix.Munmap(a.mem)
	}
	p.arenas, p.unused, p.idle = nil, nil, 0
	clear(p.free[:])
}

// Lease is the plain bytes of one chunk, checked, in memory that the cache
// reuses after Release. Data is nil in the Lease of a miss.
type Lease struct {
	Data []byte
	buf  *buffer
}

// Release gives the memory back. Data must not be used afterwards. Releasing
// the Lease of a miss is allowed.
func (l Lease) Release() {
	if l.buf != nil {
		l.buf.release()
	}
}

func roundUp(n int) int { return (n + page - 1) &^ (page - 1) }

func itoa(n int) string { return strconv.Itoa(n) }
