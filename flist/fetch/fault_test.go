package fetch

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/internal/fault"
)

// hang answers when ctx ends.
func hang(ctx context.Context, _ []block.Name) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestHungSourceEndsAtTheDeadline(t *testing.T) {
	for _, withCache := range []bool{false, true} {
		im := oneFile(t, 2)
		synctest.Test(t, func(t *testing.T) {
			var ev events
			var c *cache.Cache
			if withCache {
				c = openCache(t)
			}
			src := im.source()
			src.gate = hang
			d := open(t, im, c, src, Options{OnEvent: ev.add, Deadline: 7 * time.Second})
			start := time.Now()
			err := d.ReadAt(t.Context(), make([]byte, 4096), 0)
			if took := time.Since(start); !errors.Is(err, fault.Unavailable) || took != 7*time.Second {
				t.Errorf("ReadAt = %v after %v, want Unavailable after 7s", err, took)
			}
			list := ev.of(Unreadable)
			if len(list) != 1 || list[0].Image != im.id() || list[0].Chunk != im.m.Chunks[0].Name {
				t.Errorf("events %+v, want one that names image and chunk", list)
			}
			// A reader that gives up earlier is not held.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := d.ReadAt(ctx, make([]byte, 4096), 1<<20); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ReadAt of a reader that gives up = %v", err)
			}
			// The device recovers by itself.
			src.mu.Lock()
			src.gate = nil
			src.mu.Unlock()
			time.Sleep(7 * time.Second) // until the request in the way ended
			readAll(t, d, im, 64<<10)
			if got := len(ev.of(Readable)); got == 0 {
				t.Error("no event says that the chunk came")
			}
			d.Close()
			if c != nil {
				c.Close()
			}
		})
	}
}

func TestSourceDownAndBack(t *testing.T) {
	im := oneFile(t, 1)
	var ev events
	src := im.source()
	src.set(fault.Errorf(fault.Unavailable, "connection refused"))
	d := open(t, im, openCache(t), src, Options{OnEvent: ev.add})
	p := make([]byte, 4096)
	for range 3 {
		if err := d.ReadAt(t.Context(), p, 0); !errors.Is(err, fault.Unavailable) {
			t.Fatalf("ReadAt = %v, want Unavailable", err)
		}
	}
	if n := len(ev.of(Unreadable)); n != 1 {
		t.Errorf("%d events for one chunk that stays away, want 1", n)
	}
	if s := d.Stats(); s.Failed != 3 {
		t.Errorf("%d reads failed, want 3", s.Failed)
	}
	src.set(nil)
	readAll(t, d, im, 100<<10)
}

func TestCloseEndsReads(t *testing.T) {
	im := oneFile(t, 1)
	src := im.source()
	entered := make(chan struct{}, 1)
	src.gate = func(ctx context.Context, n []block.Name) error {
		entered <- struct{}{}
		return hang(ctx, n)
	}
	d := open(t, im, nil, src, Options{})
	got := make(chan error)
	go func() { got <- d.ReadAt(context.Background(), make([]byte, 10), 0) }()
	<-entered
	d.Close()
	if err := <-got; !errors.Is(err, fault.Unavailable) {
		t.Errorf("ReadAt while the device is closed = %v, want Unavailable", err)
	}
	if err := d.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, fault.Unavailable) {
		t.Errorf("ReadAt after Close = %v, want Unavailable", err)
	}
}

func TestEqualMissesAreFetchedOnceAcrossDevices(t *testing.T) {
	im := oneFile(t, 4)
	c := openCache(t)
	s := NewScheduler(SchedulerOptions{})
	src := im.source()
	var devices []*Device
	for range 6 {
		devices = append(devices, open(t, im, c, src, Options{Scheduler: s}))
	}
	// One that has a Scheduler of its own shares through the cache.
	devices = append(devices, open(t, im, c, src, Options{}))
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() { readAll(t, d, im, 96<<10) })
	}
	wg.Wait()
	for n, times := range src.asked {
		if times != 1 {
			t.Errorf("chunk %v was fetched %d times, want once", n, times)
		}
	}
}

func TestFailureOfOneDeviceIsNotThatOfAnother(t *testing.T) {
	im := oneFile(t, 1)
	s := NewScheduler(SchedulerOptions{})
	bad, good := im.source(), im.source()
	entered := make(chan struct{}, 1)
	release := make(chan struct{})
	bad.gate = func(context.Context, []block.Name) error {
		entered <- struct{}{}
		<-release
		return fault.Unavailable
	}
	a, b := open(t, im, nil, bad, Options{Scheduler: s}), open(t, im, nil, good, Options{Scheduler: s})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.ReadAt(t.Context(), make([]byte, 100), 0); !errors.Is(err, fault.Unavailable) {
			t.Errorf("ReadAt from the bad source = %v", err)
		}
	})
	<-entered
	wg.Go(func() {
		p := make([]byte, 100)
		if err := b.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, im.bytes[:100]) {
			t.Errorf("ReadAt from the good source = %v", err)
		}
	})
	for b.Stats().Shared == 0 { // until it waits for the load of the other
		runtime.Gosched()
	}
	close(release)
	wg.Wait()
}

// fakeDir is a Bucket-backed hub: packs, places and mirrors.
type hub struct {
	im     *image
	places map[block.Name]block.Place
	pack   []byte
	name   block.Name
}

func newHub(t *testing.T, im *image) *hub {
	t.Helper()
	var b bytes.Buffer
	w := block.NewPackWriter(&b)
	for _, c := range im.m.Chunks {
		if err := w.Add(c.Name, block.Raw, int(c.Plain), im.chunks[c.Name]); err != nil {
			t.Fatal(err)
		}
	}
	name, _, entries, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return &hub{im: im, places: block.PlacesIn(name, entries), pack: b.Bytes(), name: name}
}

// bucket has the pack; damage may change what is read.
type bucket struct {
	block.Bucket
	h      *hub
	damage func(off int64, b []byte) []byte

	mu    sync.Mutex
	reads int
	bytes int64
}

func (b *bucket) Read(_ context.Context, key string, off, size int64) ([]byte, error) {
	b.mu.Lock()
	b.reads++
	b.mu.Unlock()
	if key != "p/"+b.h.name.String() {
		return nil, fault.NotFound
	}
	end := min(off+size, int64(len(b.h.pack)))
	out := bytes.Clone(b.h.pack[min(off, end):end])
	if b.damage != nil {
		out = b.damage(off, out)
	}
	b.mu.Lock()
	b.bytes += int64(len(out))
	b.mu.Unlock()
	return out, nil
}

func (h *hub) getter(buckets ...*bucket) block.Getter {
	var sources []block.Source
	for i, b := range buckets {
		sources = append(sources, block.Source{Name: string(rune('a' + i)), Bucket: b})
	}
	return block.NewPackGetter(block.NewMirrors(nil, sources...), "p/", h.im.dom, func(n block.Name) (block.Place, bool) {
		p, ok := h.places[n]
		return p, ok
	})
}

func TestRequestsToAHub(t *testing.T) {
	im := oneFile(t, 32)
	h := newHub(t, im)
	b := &bucket{h: h}
	d := open(t, im, openCache(t), h.getter(b), Options{})
	readAll(t, d, im, 128<<10)
	t.Logf("32 MiB in order: %d requests, %d bytes", b.reads, b.bytes)
	if b.reads > 16 || b.bytes > 33<<20 {
		t.Errorf("32 MiB in order made %d requests of %d bytes, want at most 16 and hardly more", b.reads, b.bytes)
	}
}

func TestLyingSourcesNeverGiveWrongBytes(t *testing.T) {
	flip := func(off int64, b []byte) []byte {
		for i := range b {
			if (off+int64(i))%50000 == 17 {
				b[i] ^= 1
			}
		}
		return b
	}
	for what, damage := range map[string]func(int64, []byte) []byte{
		"flips":     flip,
		"truncates": func(_ int64, b []byte) []byte { return b[:len(b)*2/3] },
		"empty":     func(int64, []byte) []byte { return nil },
		"other":     func(_ int64, b []byte) []byte { return data(1, len(b)) },
	} {
		t.Run(what, func(t *testing.T) {
			im := oneFile(t, 4)
			h := newHub(t, im)
			var ev events
			alone := open(t, im, openCache(t), h.getter(&bucket{h: h, damage: damage}), Options{OnEvent: ev.add})
			p := make([]byte, 128<<10)
			failed := 0
			for off := 0; off < 4<<20; off += len(p) {
				if err := alone.ReadAt(t.Context(), p, int64(off)); err != nil {
					failed++
				} else if !bytes.Equal(p, im.bytes[off:off+len(p)]) {
					t.Fatalf("wrong bytes at %d", off)
				}
			}
			if failed == 0 || len(ev.of(Unreadable)) == 0 {
				t.Errorf("%d reads failed, %d events, want some: the damage was not noticed", failed, len(ev.list))
			}
			// With an honest mirror nobody notices.
			both := open(t, im, openCache(t), h.getter(&bucket{h: h, damage: damage}, &bucket{h: h}), Options{})
			readAll(t, both, im, 128<<10)
		})
	}
}

func TestDamagedCacheIsHealedFromTheSource(t *testing.T) {
	im := oneFile(t, 2)
	dir := t.TempDir()
	var damaged int
	opt := cache.Options{SlabSize: 16 << 20, FreeFloor: -1, OnEvent: func(e cache.Event) {
		if e.Kind == cache.Damaged {
			damaged++
		}
	}}
	c, err := cache.Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, open(t, im, c, im.source(), Options{}), im, 128<<10)
	c.Close()
	slabs, err := filepath.Glob(filepath.Join(dir, "slab-*"))
	if err != nil || len(slabs) != 1 {
		t.Fatalf("slabs %v, %v", slabs, err)
	}
	b, err := os.ReadFile(slabs[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := 100; at < 2<<20; at += 300 << 10 {
		b[at] ^= 0x80
	}
	if err := os.WriteFile(slabs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = cache.Open(dir, opt); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	src := im.source()
	readAll(t, open(t, im, c, src, Options{}), im, 128<<10)
	if want := (2<<20 - 100 + 300<<10 - 1) / (300 << 10); damaged != want || len(src.asked) != want {
		t.Errorf("%d chunks found damaged, %d fetched again, want %d", damaged, len(src.asked), want)
	}
}

func TestReaderThatGoesAwayIsNoFault(t *testing.T) {
	im := oneFile(t, 1)
	var ev events
	src := im.source()
	entered := make(chan struct{}, 1)
	src.gate = func(ctx context.Context, n []block.Name) error {
		entered <- struct{}{}
		return hang(ctx, n)
	}
	d := open(t, im, nil, src, Options{OnEvent: ev.add})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	if err := d.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadAt of a reader that went away = %v", err)
	}
	d.Close()
	if len(ev.list) > 0 || d.Stats().Failed > 0 {
		t.Errorf("events %v, %d failed, want none", ev.list, d.Stats().Failed)
	}
}
