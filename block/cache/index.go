package cache

import (
	"hash/maphash"
	"unsafe"

	"zos.internal/block"
)

// key is the name of a chunk; in a private domain mixed with the domain's id,
// so that equal names of two domains are two entries.
type key [32]byte

func keyOf(dom block.Domain, n block.Name) key {
	k := key(n)
	if dom.Private() {
		for i, b := range dom.ID() {
			k[i] ^= b
		}
	}
	return k
}

const (
	noSlab  = 0xFFFF     // entry.slab of a chunk that is still in a stage
	noEntry = 0xFFFFFFFF // end of a chain

	sizeMask    = 1<<23 - 1
	refBit      = 1 << 23
	verifiedBit = 1 << 24
	sealedBit   = 1 << 25
	pinShift    = 26
	maxPins     = 63 // sticks there
)

// entry is one chunk: 44 bytes. meta holds the size in bytes in the slot (0:
// the entry is free), flags and the number of pins. In a stage, page is the
// number of the stage in the upper 4 bits and the page in it below.
type entry struct {
	key  key
	next uint32
	slab uint16
	page uint16
	meta uint32
}

func (e *entry) size() int    { return int(e.meta & sizeMask) }
func (e *entry) pages() int   { return (e.size() + page - 1) / page }
func (e *entry) sealed() bool { return e.meta&sealedBit != 0 }
func (e *entry) pins() int    { return int(e.meta >> pinShift) }

func (e *entry) addPin() {
	if e.pins() < maxPins {
		e.meta += 1 << pinShift
	}
}

func (e *entry) dropPin() {
	if n := e.pins(); n > 0 && n < maxPins {
		e.meta -= 1 << pinShift
	}
}

const leafEntries = 2048 // 11 pages of 8 KiB: nothing is lost to a size class

type leaf [leafEntries]entry

// index finds entries by key: chained hashing over entries that never move.
// Two to four entries share a chain, so it needs at most 46 bytes a chunk.
type index struct {
	leaves []*leaf
	heads  []uint32
	free   uint32 // chain of free entries
	top    uint32 // entries ever used
	live   int
	seed   maphash.Seed
}

func (x *index) init() {
	x.seed = maphash.MakeSeed()
	x.free = noEntry
	x.heads = newHeads(16)
}

func newHeads(n int) []uint32 {
	h := make([]uint32, n)
	for i := range h {
		h[i] = noEntry
	}
	return h
}

func (x *index) at(i uint32) *entry { return &x.leaves[i/leafEntries][i%leafEntries] }

func (x *index) chain(k *key) *uint32 {
	h := maphash.Bytes(x.seed, k[:])
	return &x.heads[h&uint64(len(x.heads)-1)]
}

// find is the number of the entry of k that is sealed or not, or noEntry.
func (x *index) find(k key, sealed bool) uint32 {
	for i := *x.chain(&k); i != noEntry; {
		e := x.at(i)
		if e.key == k && e.sealed() == sealed {
			return i
		}
		i = e.next
	}
	return noEntry
}

// add makes an entry; the caller has looked that there is none.
func (x *index) add(e entry) uint32 {
	i := x.free
	if i != noEntry {
		x.free = x.at(i).next
	} else {
		if int(x.top) == len(x.leaves)*leafEntries {
			x.leaves = append(x.leaves, new(leaf))
		}
		i = x.top
		x.top++
	}
	x.live++
	if x.live > 4*len(x.heads) {
		x.grow()
	}
	head := x.chain(&e.key)
	e.next, *head = *head, i
	*x.at(i) = e
	return i
}

func (x *index) grow() {
	old := x.heads
	x.heads = newHeads(2 * len(old))
	for _, i := range old {
		for i != noEntry {
			e := x.at(i)
			next := e.next
			head := x.chain(&e.key)
			e.next, *head = *head, i
			i = next
		}
	}
}

func (x *index) remove(i uint32) {
	e := x.at(i)
	for p := x.chain(&e.key); *p != noEntry; p = &x.at(*p).next {
		if *p == i {
			*p = e.next
			break
		}
	}
	*e = entry{next: x.free}
	x.free = i
	x.live--
}

// bytes is the memory of the index.
func (x *index) bytes() int64 {
	return int64(len(x.leaves))*int64(unsafe.Sizeof(leaf{})) + int64(cap(x.heads))*4 + int64(cap(x.leaves))*8
}
