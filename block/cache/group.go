package cache

import (
	"context"
	"encoding/binary"
	"math/bits"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	"lukechampine.com/blake3/guts"

	"zos.internal/block"
)

// The name of a chunk is the root of a hash tree. groups keeps a level of that
// tree for each public chunk, so that a reader of one page checks the 16 KiB
// around it against the name instead of the whole chunk. Nothing in the file is
// trusted: the sums have to give the name, too.
const (
	groupBytes  = guts.MaxSIMD * guts.ChunkSize // hashed at once
	sumBytes    = 32
	groupStride = maxSlots * sumBytes // bytes of the file for a slab
	aheadBytes  = 128 << 10
	groupsName  = "groups"
)

type cv = [8]uint32

type group = [groupBytes]byte

// groupCount is how many groups a chunk of n bytes has.
func groupCount(n int) int { return (n + groupBytes - 1) / groupBytes }

// groupSum is the chaining value of group i, the first n bytes of g.
func groupSum(g *group, n, i int) cv {
	return guts.ChainingValue(guts.CompressBuffer(g, n, &guts.IV, uint64(i)*guts.MaxSIMD, 0))
}

// appendGroupSums appends the sums of the groups of plain, which is page-aligned
// or followed by as much memory as fills its last group.
func appendGroupSums(b, plain []byte) []byte {
	for i := 0; len(plain) > 0; i++ {
		var sum cv
		if len(plain) >= groupBytes {
			sum = groupSum((*group)(plain), groupBytes, i)
			plain = plain[groupBytes:]
		} else {
			var last group
			sum = groupSum(&last, copy(last[:], plain), i)
			plain = nil
		}
		for _, w := range sum {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
	}
	return b
}

func sumAt(sums []byte, i int) (s cv) {
	b := sums[i*sumBytes:][:sumBytes]
	for j := range s {
		s[j] = binary.LittleEndian.Uint32(b[4*j:])
	}
	return s
}

// rootOf is the name of a chunk of n groups, at least two, with these sums.
func rootOf(sums []byte, n int) (name block.Name) {
	mid := 1 << (bits.Len(uint(n-1)) - 1)
	root := guts.ChainingValue(guts.ParentNode(subtree(sums, 0, mid), subtree(sums, mid, n), &guts.IV, guts.FlagRoot))
	for i, w := range root {
		binary.LittleEndian.PutUint32(name[4*i:], w)
	}
	return name
}

func subtree(sums []byte, from, to int) cv {
	if to-from == 1 {
		return sumAt(sums, from)
	}
	mid := from + 1<<(bits.Len(uint(to-from-1))-1)
	return guts.ChainingValue(guts.ParentNode(subtree(sums, from, mid), subtree(sums, mid, to), &guts.IV, 0))
}

// groupFile is the file of the sums. Those of a chunk lie at the place of its
// first page. It is read and written through the page cache; what can't be had
// costs the read of a whole chunk.
type groupFile struct {
	path string

	mu     sync.Mutex
	file   *os.File
	failed bool            // don't try again
	asked  map[uint16]bool // slabs whose sums the kernel was asked to read
}

func (g *groupFile) open() *os.File {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.file == nil && !g.failed {
		f, err := os.OpenFile(g.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			f, err = os.Open(g.path)
		}
		if err != nil {
			g.failed = true
			return nil
		}
		g.file = f
	}
	return g.file
}

func (g *groupFile) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed = true
	if g.file != nil {
		g.file.Close()
		g.file = nil
	}
}

// forget gives the blocks of a slab's sums back to the file system.
func (g *groupFile) forget(slab uint16) {
	if f := g.open(); f != nil {
		_ = punch(f, groupPlace(slab, 0), groupStride)
	}
}

// ahead asks the kernel for all sums of a slab at its first use: whoever reads at
// random would else wait for the disk twice, again and again.
func (g *groupFile) ahead(f *os.File, slab uint16) {
	g.mu.Lock()
	asked := g.asked[slab]
	if !asked {
		if g.asked == nil {
			g.asked = map[uint16]bool{}
		}
		g.asked[slab] = true
	}
	g.mu.Unlock()
	if asked {
		return
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		for at := int64(0); at < groupStride; at += aheadBytes { // the kernel does no more at once
			if unix.Fadvise(int(fd), groupPlace(slab, 0)+at, aheadBytes, unix.FADV_WILLNEED) != nil {
				return
			}
		}
	})
}

func groupPlace(slab uint16, page int) int64 {
	return int64(slab)*groupStride + int64(page)*sumBytes
}

// withSums is what n bytes of slots take of the disk with their sums.
func withSums(n int64) int64 { return n + n/(page/sumBytes) + 2*page }

// writeGroups writes the sums of what was just written.
func (c *Cache) writeGroups(w writtenRun) {
	f := c.groups.open()
	if f == nil {
		return
	}
	first, any := w.items[0].page, false
	c.sums = c.sums[:0]
	for _, it := range w.items {
		p := it.page - first
		if it.sealed || groupCount(it.size) < 2 {
			continue
		}
		any = true
		for len(c.sums) < p*sumBytes {
			c.sums = append(c.sums, 0)
		}
		c.sums = appendGroupSums(c.sums, w.mem[p*page:][:it.size])
	}
	if any {
		// What isn't written is noticed by who reads it.
		_, _ = f.WriteAt(c.sums, groupPlace(w.slab.id, w.at))
	}
}

// ReadPart is ReadVerified that takes no chunk for a miss only because it was
// not read before: it reads the 16 KiB groups under p and checks those against
// the name. It doesn't note the chunk as read, so it is for readers that come
// to a chunk once. Chunks of private domains and of one group are a miss.
func (c *Cache) ReadPart(ctx context.Context, dom block.Domain, n block.Name, p []byte, off int) (ok bool, err error) {
	s, ok, err := c.find(ctx, dom, n)
	if err != nil {
		return false, err
	}
	if !ok {
		return false, nil
	}
	if s.staged != nil {
		s.staged.release()
		return false, nil
	}
	count := groupCount(s.size)
	if s.sealed || count < 2 || len(p) == 0 || off < 0 || off+len(p) > s.size {
		return false, nil
	}
	if s.verified {
		ok = c.readRange(&s, p, off)
	} else {
		ok = c.readGroups(&s, n, count, p, off)
	}
	if ok {
		c.n.hits.Add(1)
	}
	return ok, nil
}

// readGroups fills p from off of the chunk n with the groups under it.
func (c *Cache) readGroups(s *slot, n block.Name, count int, p []byte, off int) bool {
	f := c.groups.open()
	if f == nil {
		return false
	}
	from, to := off/groupBytes, (off+len(p)-1)/groupBytes
	size := min((to+1)*groupBytes, s.size) - from*groupBytes
	c.groups.ahead(f, s.slab.id)
	whole := roundUp(size)
	// One buffer, of a size that others use, too: each size has its arenas.
	b := c.bufs.get(max((to-from+1)*groupBytes+count*sumBytes, 64<<10))
	defer b.release()
	sums := b.mem[(to-from+1)*groupBytes:][:count*sumBytes]
	if _, err := f.ReadAt(sums, groupPlace(s.slab.id, int(s.page))); err != nil {
		return false
	}
	if rootOf(sums, count) != n {
		return false
	}
	c.n.readCalls.Add(1)
	c.n.readBytes.Add(int64(whole))
	if s.slab.readAt(b.mem[:whole], int64(s.page)*page+int64(from)*groupBytes) != nil {
		return false
	}
	if zeroRest(b.mem[:whole], size) != nil {
		return false
	}
	for i := from; i <= to; i++ {
		at := (i - from) * groupBytes
		if groupSum((*group)(b.mem[at:]), min(size-at, groupBytes), i) != sumAt(sums, i) {
			return false
		}
	}
	c.n.groups.Add(int64(to - from + 1))
	copy(p, b.mem[off-from*groupBytes:size])
	return true
}

func (c *Cache) groupPath() string { return filepath.Join(c.dir, groupsName) }
