package cache

import (
	"math/bits"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"
)

// buffer is page-aligned memory that several leases may share. It returns to
// its pool with the last of them.
type buffer struct {
	mem   []byte
	refs  atomic.Int32
	pool  *bufPool
	class int
}

func (b *buffer) retain() { b.refs.Add(1) }

func (b *buffer) release() {
	if n := b.refs.Add(-1); n == 0 {
		b.pool.classes[b.class].Put(b)
	} else if n < 0 {
		panic("cache: a lease was released twice")
	}
}

// bufPool has buffers of 4 KiB, 8 KiB … 8 MiB.
type bufPool struct {
	classes [12]sync.Pool
}

// get returns a buffer of at least n bytes with one reference.
func (p *bufPool) get(n int) *buffer {
	class := 0
	if n > page {
		class = bits.Len(uint(n-1)) - bits.Len(uint(page-1))
	}
	b, _ := p.classes[class].Get().(*buffer)
	if b == nil {
		size := page << class
		raw := make([]byte, size+page)
		skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) & (page - 1))
		b = &buffer{mem: raw[skip : skip+size : skip+size], pool: p, class: class}
	}
	b.refs.Store(1)
	return b
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
