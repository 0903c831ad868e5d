package fetch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"sync"
	"testing"

	"lukechampine.com/blake3"
	"pgregory.net/rapid"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist/chunkmap"
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

// image is a device in memory with its map and chunks.
type image struct {
	m      chunkmap.Map
	view   *chunkmap.View
	bytes  []byte
	chunks map[block.Name][]byte
	dom    block.Domain
}

// add places a file of the given chunks at the next page.
func (im *image) add(chunks ...[]byte) {
	im.bytes = append(im.bytes, make([]byte, -len(im.bytes)&4095)...)
	for _, c := range chunks {
		n := im.dom.Name(c)
		i := -1
		for k, x := range im.m.Chunks {
			if x.Name == n {
				i = k
			}
		}
		if i < 0 {
			i = len(im.m.Chunks)
			im.m.Chunks = append(im.m.Chunks, chunkmap.Chunk{Name: n, Plain: uint32(len(c))})
			im.chunks[n] = c
		}
		im.m.Extents = append(im.m.Extents, chunkmap.Extent{Off: uint64(len(im.bytes)), Len: uint32(len(c)), Chunk: uint32(i)})
		im.bytes = append(im.bytes, c...)
	}
}

func newImage(t testing.TB, dom block.Domain, files ...[][]byte) *image {
	t.Helper()
	im := &image{chunks: map[block.Name][]byte{}, dom: dom}
	for _, f := range files {
		im.add(f...)
	}
	im.bytes = append(im.bytes, make([]byte, -len(im.bytes)&4095+8192)...)
	v, err := chunkmap.NewView(im.m.Encode(), uint64(len(im.bytes)))
	if err != nil {
		t.Fatal(err)
	}
	im.view = v
	return im
}

// oneFile is an image of one file of mib MiB in chunks of 64 KiB.
func oneFile(t testing.TB, mib int) *image {
	var f [][]byte
	for i := range mib * 16 {
		f = append(f, data(i, 64<<10))
	}
	return newImage(t, block.Domain{}, f)
}

func (im *image) id() string { return block.Sum(im.m.Encode()).String() }

// source is a Getter of an image's chunks that counts what it is asked.
type source struct {
	im *image

	mu    sync.Mutex
	calls [][]block.Name
	asked map[block.Name]int
	err   error
	gate  func(ctx context.Context, names []block.Name) error // called before the answers
}

func (im *image) source() *source { return &source{im: im, asked: map[block.Name]int{}} }

func (s *source) Get(ctx context.Context, names []block.Name) iter.Seq2[block.Chunk, error] {
	return func(yield func(block.Chunk, error) bool) {
		s.mu.Lock()
		s.calls = append(s.calls, names)
		for _, n := range names {
			s.asked[n]++
		}
		fail, gate := s.err, s.gate
		s.mu.Unlock()
		if gate != nil {
			if err := gate(ctx, names); err != nil {
				fail = err
			}
		}
		for _, n := range names {
			ch, err := block.Chunk{Name: n}, fail
			if b := s.im.chunks[n]; err == nil && b != nil {
				ch.Data = bytes.Clone(b)
			} else if err == nil {
				err = fault.NotFound
			}
			if !yield(ch, err) {
				return
			}
		}
	}
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func (s *source) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
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

func (e *events) of(kind EventKind) (out []Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.list {
		if ev.Kind == kind {
			out = append(out, ev)
		}
	}
	return out
}

func openCache(t testing.TB) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir(), cache.Options{SlabSize: 64 << 20, FreeFloor: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func open(t testing.TB, im *image, c *cache.Cache, src block.Getter, opt Options) *Device {
	t.Helper()
	opt.Image, opt.Domain = im.id(), im.dom
	d, err := New(im.view, int64(len(im.bytes)), c, src, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// readAll reads the device in steps and reports wrong bytes.
func readAll(t testing.TB, d *Device, im *image, step int) {
	t.Helper()
	p := make([]byte, step)
	for off := 0; off < len(im.bytes); off += step {
		q := p[:min(step, len(im.bytes)-off)]
		if err := d.ReadAt(t.Context(), q, int64(off)); err != nil {
			t.Fatalf("ReadAt(%d) = %v", off, err)
		}
		if !bytes.Equal(q, im.bytes[off:off+len(q)]) {
			t.Fatalf("ReadAt(%d) gives wrong bytes", off)
		}
	}
}

func mixed(t testing.TB, dom block.Domain) *image {
	shared := data(7, 3000)
	return newImage(t, dom,
		[][]byte{data(1, 1)}, [][]byte{data(2, 4096), shared}, [][]byte{shared},
		[][]byte{data(3, 200<<10), data(4, 17), shared, data(5, 64<<10)}, [][]byte{data(6, 5000)})
}

func TestAnyReadGivesTheBytes(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{3})} {
		t.Run(name, func(t *testing.T) {
			im := mixed(t, dom)
			for what, c := range map[string]*cache.Cache{"cache": openCache(t), "no cache": nil} {
				d := open(t, im, c, im.source(), Options{Scheduler: NewScheduler(SchedulerOptions{MemoryBytes: 300 << 10})})
				rapid.Check(t, func(t *rapid.T) {
					off := rapid.IntRange(0, len(im.bytes)).Draw(t, "off")
					p := bytes.Repeat([]byte{0xAA}, rapid.IntRange(0, len(im.bytes)-off).Draw(t, "n"))
					if err := d.ReadAt(context.Background(), p, int64(off)); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(p, im.bytes[off:off+len(p)]) {
						t.Fatalf("%s: ReadAt(%d bytes from %d) gives wrong bytes", what, len(p), off)
					}
				})
			}
		})
	}
}

func TestOutsideIsInvalid(t *testing.T) {
	im := mixed(t, block.Domain{})
	d := open(t, im, nil, im.source(), Options{})
	size := int64(len(im.bytes))
	for _, at := range []struct{ n, off int64 }{{1, size}, {2, size - 1}, {1, -1}, {1, 1 << 62}} {
		if err := d.ReadAt(t.Context(), make([]byte, at.n), at.off); !errors.Is(err, fault.Invalid) {
			t.Errorf("ReadAt(%d bytes from %d) = %v, want Invalid", at.n, at.off, err)
		}
	}
	if err := d.ReadAt(t.Context(), nil, size); err != nil {
		t.Errorf("ReadAt of nothing at the end = %v", err)
	}
	if _, err := New(im.view, size-1, nil, nil, Options{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("New of a device smaller than its map = %v, want Invalid", err)
	}
}

func TestSequentialReadMakesFewRequests(t *testing.T) {
	im := oneFile(t, 64)
	for _, step := range []int{4 << 10, 128 << 10, 1 << 20} {
		src := im.source()
		d := open(t, im, openCache(t), src, Options{})
		readAll(t, d, im, step)
		t.Logf("steps of %d KiB: %d requests for 64 MiB; %+v", step>>10, src.count(), d.Stats())
		if n := src.count(); n > 24 {
			t.Errorf("%d requests for 64 MiB in steps of %d bytes, want at most 24", n, step)
		}
		for n, times := range src.asked {
			if times != 1 {
				t.Errorf("chunk %v was asked for %d times, want once", n, times)
			}
		}
	}
}

func TestSecondReadNeedsNoSource(t *testing.T) {
	im := oneFile(t, 8)
	c := openCache(t)
	src := im.source()
	readAll(t, open(t, im, c, src, Options{}), im, 128<<10)
	before := src.count()
	d := open(t, im, c, src, Options{}) // with an empty memory
	readAll(t, d, im, 128<<10)
	readAll(t, open(t, im, c, nil, Options{}), im, 64<<10)
	if src.count() != before {
		t.Errorf("%d requests for what is in the cache, want none", src.count()-before)
	}
}

func TestRandomReadOfTheCacheDoesNotReadAhead(t *testing.T) {
	im := oneFile(t, 16)
	c := openCache(t)
	readAll(t, open(t, im, c, im.source(), Options{}), im, 1<<20)
	src := im.source()
	d := open(t, im, c, src, Options{})
	p := make([]byte, 4096)
	for i := range 20 {
		if err := d.ReadAt(t.Context(), p, int64(i*7919%200)<<16); err != nil {
			t.Fatal(err)
		}
	}
	if s := d.Stats(); s.CacheHits > 20+5 || src.count() > 0 {
		t.Errorf("20 random reads read %d chunks and made %d requests, want about 20 and 0", s.CacheHits, src.count())
	}
}

func TestWarmReadsAllocateLittle(t *testing.T) {
	im := oneFile(t, 1)
	c := openCache(t)
	d := open(t, im, c, im.source(), Options{})
	readAll(t, d, im, 128<<10)
	p := make([]byte, 16<<10)
	if n := testing.AllocsPerRun(100, func() {
		if err := d.ReadAt(t.Context(), p, 300<<10); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("a read from memory allocates %v times, want at most 2", n)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	fresh := open(t, im, c, nil, Options{Scheduler: NewScheduler(SchedulerOptions{MemoryBytes: 1})})
	readAll(t, fresh, im, 64<<10)
	if n := testing.AllocsPerRun(100, func() {
		if err := fresh.ReadAt(t.Context(), p, 300<<10); err != nil {
			t.Fatal(err)
		}
	}); n > 4 {
		t.Errorf("a read from the cache allocates %v times, want at most 4", n)
	}
}
