package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"lukechampine.com/blake3"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// data is n bytes that depend on seed and don't compress.
func data(seed, n int) []byte {
	h := blake3.New(32, nil)
	binary.Write(h, binary.LittleEndian, uint64(seed))
	b := make([]byte, n)
	h.XOF().Read(b)
	return b
}

type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) add(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, ev)
}

func (e *events) count(kind EventKind) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.list {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

func (e *events) clear() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = nil
}

func open(t testing.TB, dir string, opt Options) *Cache {
	t.Helper()
	if opt.FreeFloor == 0 {
		opt.FreeFloor = -1
	}
	c, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func put(t testing.TB, c *Cache, dom block.Domain, chunks ...[]byte) (names []block.Name) {
	t.Helper()
	for _, b := range chunks {
		n := dom.Name(b)
		if err := c.Put(t.Context(), dom, n, b); err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
	}
	return names
}

// wantAll reads every chunk whole and in two parts and reports what is wrong.
func wantAll(t testing.TB, c *Cache, dom block.Domain, names []block.Name, chunks [][]byte) {
	t.Helper()
	for i, n := range names {
		got, err := c.Get(t.Context(), dom, n)
		if err != nil || !bytes.Equal(got, chunks[i]) {
			t.Errorf("Get(chunk %d) = %d bytes, %v, want its %d bytes", i, len(got), err, len(chunks[i]))
		}
		off := len(chunks[i]) / 3
		p := make([]byte, len(chunks[i])-off)
		if ok, err := c.ReadAt(t.Context(), dom, n, p, off); !ok || err != nil || !bytes.Equal(p, chunks[i][off:]) {
			t.Errorf("ReadAt(chunk %d, from %d) = %v, %v, want its bytes", i, off, ok, err)
		}
	}
}

func sizes() [][]byte {
	var out [][]byte
	for i, n := range []int{1, 100, page - 1, page, page + 1, 64<<10 + 7, 256 << 10, 1<<20 + 1, block.MaxPlain} {
		out = append(out, data(i, n))
	}
	return out
}

func domains() map[string]block.Domain {
	return map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{1})}
}

func TestChunksComeBack(t *testing.T) {
	for name, dom := range domains() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, dir, Options{SlabSize: 16 << 20})
			chunks := sizes()
			names := put(t, c, dom, chunks...)
			wantAll(t, c, dom, names, chunks) // some from memory
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			wantAll(t, c, dom, names, chunks) // from the disk
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = open(t, dir, Options{SlabSize: 16 << 20})
			if s := c.Stat(); s.Chunks != len(chunks) || s.Verified != 0 {
				t.Errorf("after Open: %d chunks, %d verified, want %d and 0", s.Chunks, s.Verified, len(chunks))
			}
			wantAll(t, c, dom, names, chunks)
			if s := c.Stat(); dom.Private() == (s.Verified == int64(len(chunks))) {
				t.Errorf("verified %d times for %d chunks read twice", s.Verified, len(chunks))
			}
			if _, err := c.ReadAt(t.Context(), dom, names[1], make([]byte, 10), 95); !errors.Is(err, fault.Invalid) {
				t.Errorf("ReadAt behind the end = %v, want Invalid", err)
			}
			if ok, err := c.ReadAt(t.Context(), dom, block.Name{1}, make([]byte, 1), 0); ok || err != nil {
				t.Errorf("ReadAt of a chunk that is not there = %v, %v, want a miss", ok, err)
			}
		})
	}
}

func TestPrivateChunksRestSealed(t *testing.T) {
	dir := t.TempDir()
	dom := block.NewDomain([32]byte{7})
	c := open(t, dir, Options{SlabSize: 1 << 20})
	plain := bytes.Repeat([]byte("secret of a tenant "), 1000)
	n := put(t, c, dom, plain)[0]
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files(t, dir) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("secret of a")) || bytes.Contains(b, n[:]) {
			t.Errorf("%s holds plaintext or the name of a private chunk", f)
		}
	}
	for who, other := range map[string]block.Domain{"public": {}, "tenant": block.NewDomain([32]byte{8})} {
		if _, err := c.Get(t.Context(), other, n); !errors.Is(err, fault.NotFound) {
			t.Errorf("Get in the domain of another %s = %v, want NotFound", who, err)
		}
	}
	wantAll(t, c, dom, []block.Name{n}, [][]byte{plain})
	// A public chunk of a private image is one copy for everybody.
	shared := data(1, 5000)
	put(t, c, block.Domain{}, shared)
	wantAll(t, c, dom, []block.Name{block.Sum(shared)}, [][]byte{shared})
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"slab-*", "index"} {
		fs, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fs...)
	}
	return out
}

func TestPutRefusesWrongBytes(t *testing.T) {
	for name, dom := range domains() {
		c := open(t, t.TempDir(), Options{SlabSize: 1 << 20})
		if err := c.Put(t.Context(), dom, dom.Name([]byte("a")), []byte("b")); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Put of other bytes = %v, want Invalid", name, err)
		}
		if err := c.Put(t.Context(), dom, dom.Name(nil), nil); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Put of nothing = %v, want Invalid", name, err)
		}
	}
	c := open(t, t.TempDir(), Options{SlabSize: page})
	big := data(1, page+1)
	if err := c.Put(t.Context(), block.Domain{}, block.Sum(big), big); !errors.Is(err, fault.Exhausted) {
		t.Errorf("Put of a chunk larger than a slab = %v, want Exhausted", err)
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	_, err := Open(dir, Options{})
	if !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), fmt.Sprint("pid ", os.Getpid())) {
		t.Errorf("second Open = %v, want Conflict naming process %d", err, os.Getpid())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
}

func TestWritesAreGrouped(t *testing.T) {
	c := open(t, t.TempDir(), Options{SlabSize: 64 << 20, SyncDelay: 1 << 40, FlushDelay: 1 << 40})
	for i := range 256 {
		put(t, c, block.Domain{}, data(i, 64<<10))
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	s := c.Stat()
	if s.WriteCalls != 16 || s.Syncs != 1 {
		t.Errorf("16 MiB of chunks made %d writes and %d syncs of slabs, want 16 and 1", s.WriteCalls, s.Syncs)
	}
	if s.WriteBytes != 16<<20 {
		t.Errorf("wrote %d bytes, want %d", s.WriteBytes, 16<<20)
	}
}

func TestNeighboursAreReadTogether(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{SlabSize: 64 << 20})
	var names []block.Name
	for i := range 64 {
		names = append(names, put(t, c, block.Domain{}, data(i, 60<<10))...)
	}
	c.Close()
	c = open(t, dir, Options{SlabSize: 64 << 20})
	for _, l := range c.Load(t.Context(), block.Domain{}, names) {
		if l.Data == nil {
			t.Error("Load missed a chunk")
		}
		l.Release()
	}
	if s := c.Stat(); s.ReadCalls != 8 || s.ReadBytes != 64*60<<10 {
		t.Errorf("Load of 64 neighbours made %d reads of %d bytes, want 8 of %d", s.ReadCalls, s.ReadBytes, 64*60<<10)
	}
}

func TestIndexMemory(t *testing.T) {
	var x index
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // twice, to empty the pools of other tests
	runtime.ReadMemStats(&before)
	x.init()
	const n = 1 << 20
	for i := range n {
		var k key
		binary.LittleEndian.PutUint64(k[:], uint64(i))
		x.add(entry{key: k, meta: 1})
		if i >= 1<<16 && i%1000 == 0 {
			if per := float64(x.bytes()) / float64(x.live); per > 48 {
				t.Errorf("%d chunks need %.1f bytes each, want at most 48", x.live, per)
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%.2f bytes of heap a chunk, %.2f counted", per, float64(x.bytes())/n)
	if per > 48 {
		t.Errorf("%d chunks need %.1f bytes of heap each, want at most 48", n, per)
	}
	runtime.KeepAlive(&x)
}

func TestEvictionKeepsTheCapAndPins(t *testing.T) {
	dir := t.TempDir()
	opt := Options{SlabSize: 1 << 20, MaxBytes: 4 << 20}
	c := open(t, dir, opt)
	pinned := put(t, c, block.Domain{}, data(1, 64<<10), data(2, 64<<10))
	if missing, err := c.Pin("image", block.Domain{}, append(pinned, block.Name{1})); missing != 1 || err != nil {
		t.Fatalf("Pin = %d missing, %v, want 1", missing, err)
	}
	hot := put(t, c, block.Domain{}, data(3, 64<<10))
	evicted := int64(0)
	for i := range 1000 {
		put(t, c, block.Domain{}, data(100+i, 10000+i*50))
		if i%10 == 0 {
			if _, err := c.Get(t.Context(), block.Domain{}, hot[0]); err != nil {
				t.Errorf("a chunk in use was evicted after %d others: %v", i, err)
				hot = put(t, c, block.Domain{}, data(3, 64<<10))
			}
		}
		if i%200 == 199 {
			if err := c.Flush(); err != nil { // what isn't written evicts nothing
				t.Fatal(err)
			}
			evicted += c.Stat().Evicted
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = open(t, dir, opt)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	s := c.Stat()
	if s.Bytes > opt.MaxBytes || s.Bytes < opt.MaxBytes/2 {
		t.Errorf("%d bytes are kept, want at most and about %d", s.Bytes, opt.MaxBytes)
	}
	if evicted < 500 || s.Pinned != 2 {
		t.Errorf("%d evicted, %d pinned, want most and 2", evicted, s.Pinned)
	}
	wantAll(t, c, block.Domain{}, pinned, [][]byte{data(1, 64<<10), data(2, 64<<10)})
	if n := len(files(t, dir)); n > 2*4+2+1 {
		t.Errorf("%d files, want at most two slabs for each needed one", n)
	}
	disk := int64(0)
	for _, f := range files(t, dir) {
		disk += allocated(t, f)
	}
	if disk > opt.MaxBytes+opt.MaxBytes/4 {
		t.Errorf("the files take %d bytes of the disk, want about %d: holes are not punched", disk, opt.MaxBytes)
	}
	if err := c.Unpin("image"); err != nil {
		t.Fatal(err)
	}
	if s := c.Stat(); s.Pinned != 0 || len(c.PinSets()) != 0 {
		t.Errorf("after Unpin: %d pinned, sets %v", s.Pinned, c.PinSets())
	}
}

func TestEverythingPinnedIsExhaustedNotWrong(t *testing.T) {
	var ev events
	c := open(t, t.TempDir(), Options{SlabSize: 256 << 10, MaxBytes: 512 << 10, OnEvent: ev.add})
	var names []block.Name
	var chunks [][]byte
	for i := range 8 {
		chunks = append(chunks, data(i, 64<<10))
		names = append(names, put(t, c, block.Domain{}, chunks[i])...)
	}
	if _, err := c.Pin("all", block.Domain{}, names); err != nil {
		t.Fatal(err)
	}
	more := put(t, c, block.Domain{}, data(99, 64<<10))
	if err := c.Flush(); !errors.Is(err, fault.Exhausted) {
		t.Errorf("Flush of a chunk too much = %v, want Exhausted", err)
	}
	if c.Has(block.Domain{}, more[0]) || ev.count(Unwritable) != 1 {
		t.Errorf("the chunk is there: %v; events %v", c.Has(block.Domain{}, more[0]), ev.list)
	}
	wantAll(t, c, block.Domain{}, names, chunks)
}

func TestSlotThatWasGivenUpIsNotTrusted(t *testing.T) {
	c := open(t, t.TempDir(), Options{SlabSize: 64 << 10, MaxBytes: 64 << 10})
	keep, chunk := data(1, 100), data(2, 5000)
	names := put(t, c, block.Domain{}, keep, chunk)
	if _, err := c.Pin("keep", block.Domain{}, names[:1]); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	wantAll(t, c, block.Domain{}, names, [][]byte{keep, chunk})
	c.mu.Lock()
	s, ok := c.look(block.Domain{}, names[1])
	c.mu.Unlock()
	p := make([]byte, 10)
	if !ok || !s.verified || !c.readRange(&s, p, 0) {
		t.Fatalf("readRange of a chunk that is there: %+v", s)
	}
	c.wmu.Lock()
	_ = c.evict(64 << 10)
	c.wmu.Unlock()
	if c.readRange(&s, p, 0) {
		t.Error("a slot that was evicted between look and read is trusted")
	}
	if !bytes.Equal(put(t, c, block.Domain{}, chunk)[0][:], names[1][:]) || c.Flush() != nil {
		t.Fatal("put it again")
	}
	if c.readRange(&s, p, 0) {
		t.Error("a slot that was evicted and written again between look and read is trusted")
	}
}

func TestMemoryIsGivenBack(t *testing.T) {
	c := open(t, t.TempDir(), Options{SlabSize: 4 << 20})
	chunk := data(1, 100000)
	names := put(t, c, block.Domain{}, chunk)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		for _, l := range c.Load(t.Context(), block.Domain{}, names) {
			l.Release()
		}
	}
	if n := len(c.bufs.arenas); n > 2 {
		t.Errorf("%d arenas for one chunk and one stage, want at most 2", n)
	}
	l := c.Load(t.Context(), block.Domain{}, names)[0]
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(l.Data, chunk) {
		t.Error("a lease loses its bytes when the cache is closed")
	}
	l.Release()
	if len(c.bufs.arenas) != 0 || c.bufs.out != 0 {
		t.Errorf("%d arenas and %d buffers are left after Close", len(c.bufs.arenas), c.bufs.out)
	}
}
