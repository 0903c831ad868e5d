package cache

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"zos.internal/block"
)

// battery is a closed cache of a few small chunks, public and sealed.
func battery(t *testing.T, dir string) (dom block.Domain, names []block.Name, chunks [][]byte) {
	t.Helper()
	dom = block.NewDomain([32]byte{5})
	c := open(t, dir, Options{SlabSize: 32 << 10})
	for i, n := range []int{4096, 700, 5000} {
		chunks = append(chunks, data(i, n))
		names = append(names, put(t, c, block.Domain{}, chunks[i])...)
	}
	chunks = append(chunks, data(9, 900))
	names = append(names, put(t, c, dom, chunks[3])...)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return dom, names, chunks
}

// heal reads every chunk through a Getter and reports wrong bytes. It returns
// how many were fetched again.
func heal(t *testing.T, c *Cache, dom block.Domain, names []block.Name, chunks [][]byte) int {
	t.Helper()
	src := &source{chunks: map[block.Name][]byte{}, asked: map[block.Name]int{}}
	for i, n := range names {
		src.chunks[n] = chunks[i]
	}
	n := 0
	for ch, err := range c.Getter(src, dom).Get(t.Context(), names) {
		if err != nil || !bytes.Equal(ch.Data, src.chunks[ch.Name]) {
			t.Fatalf("Get(%v) = %d bytes, %v, want the chunk", ch.Name, len(ch.Data), err)
		}
		n++
	}
	if n != len(names) {
		t.Fatalf("%d answers for %d names", n, len(names))
	}
	return len(src.asked)
}

func TestEveryFlippedByteOfASlabIsFoundAndHealed(t *testing.T) {
	dir := t.TempDir()
	dom, names, chunks := battery(t, dir)
	path := filepath.Join(dir, "slab-0000")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var ev events
	c := open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
	// The pages in use: 1 + 1 + 2 + 1. Behind them the slab is a hole.
	const used = 5 * page
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := range used {
		// Each byte is flipped where the chunks lie when nothing was healed yet:
		// reading finds it, and the healed copy goes elsewhere. So look at the
		// chunk alone, without the index, like the first read does.
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		found := 0
		c.mu.Lock()
		for i := range c.idx.top {
			s := c.slotOf(i)
			mem := bad[int(s.page)*page:][:roundUp(s.size)]
			n := names[3]
			if !s.sealed {
				n = block.Name(s.key)
			}
			if _, err := unslot(dom, n, mem, s.size, s.sealed); err != nil {
				found++
			}
			if s.sealed && scrubSlot(&s, mem) != nil {
				found++
			}
		}
		c.mu.Unlock()
		want := 1
		if at >= 4*page {
			want = 2 // by the read and by the scrub, which has no secret
		}
		if found != want {
			t.Fatalf("byte %d flipped: found %d times, want %d", at, found, want)
		}
	}
	// Some of them for real, with healing.
	for at := 0; at < used; at += 211 {
		c.Close()
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		restoreIndex(t, dir, names, chunks, dom)
		if _, err := f.WriteAt([]byte{good[at] ^ 0x10}, int64(at)); err != nil {
			t.Fatal(err)
		}
		ev.clear()
		c = open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
		if n := heal(t, c, dom, names, chunks); n != 1 || ev.count(Damaged) != 1 {
			t.Fatalf("byte %d flipped: %d chunks fetched again, %d events, want 1 and 1", at, n, ev.count(Damaged))
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		c.Distrust()
		if n := heal(t, c, dom, names, chunks); n != 0 {
			t.Fatalf("byte %d flipped: %d chunks fetched again after healing", at, n)
		}
	}
}

// restoreIndex writes the index of a battery.
func restoreIndex(t *testing.T, dir string, names []block.Name, chunks [][]byte, dom block.Domain) {
	t.Helper()
	var b []byte
	at := 0
	for i, n := range names {
		r := record{kind: recordPut, page: uint16(at), size: uint32(len(chunks[i])), key: key(n)}
		if i == 3 {
			r.sealed, r.key, r.size = true, keyOf(dom, n), r.size+sealedExtra
		}
		b = r.append(b)
		at += roundUp(int(r.size)) / page
	}
	if err := os.WriteFile(filepath.Join(dir, "index"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEveryFlippedByteOfTheIndexIsFoundAndHealed(t *testing.T) {
	dir := t.TempDir()
	dom, names, chunks := battery(t, dir)
	index, slab := filepath.Join(dir, "index"), filepath.Join(dir, "slab-0000")
	good, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	goodSlab, err := os.ReadFile(slab)
	if err != nil {
		t.Fatal(err)
	}
	if len(good) != 4*recordSize {
		t.Fatalf("the index has %d bytes, want %d", len(good), 4*recordSize)
	}
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		if err := errors.Join(os.WriteFile(index, bad, 0o600), os.WriteFile(slab, goodSlab, 0o600)); err != nil {
			t.Fatal(err)
		}
		var ev events
		c := open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
		if n := heal(t, c, dom, names, chunks); n != 1 || ev.count(IndexFault) != 1 {
			t.Fatalf("byte %d of the index flipped: %d chunks fetched again, events %v, want 1 and one", at, n, ev.list)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		ev.clear()
		c = open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
		if n := heal(t, c, dom, names, chunks); n != 0 || len(ev.list) != 0 {
			t.Fatalf("byte %d of the index flipped: after healing %d chunks fetched, events %v", at, n, ev.list)
		}
		c.Close()
	}
}

func TestTornAndForgedIndex(t *testing.T) {
	dir := t.TempDir()
	dom, names, chunks := battery(t, dir)
	index := filepath.Join(dir, "index")
	good, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(r record) []byte { return append(bytes.Clone(good), r.append(nil)...) }
	for what, b := range map[string][]byte{
		"cut":            good[:len(good)-7],
		"missing":        nil,
		"garbage":        data(1, 1000),
		"too large":      forged(record{kind: recordPut, slab: 0, page: 6, size: 1 << 20, key: key(names[0])}),
		"no such slab":   forged(record{kind: recordPut, slab: 77, size: 10, key: key(names[0])}),
		"other chunk":    forged(record{kind: recordPut, page: 1, size: 700, key: key(names[0])}),
		"overlap":        forged(record{kind: recordPut, page: 3, size: 4000, key: key{1}}),
		"wrong size":     forged(record{kind: recordPut, page: 0, size: 4095, key: key(names[0])}),
		"name of nobody": forged(record{kind: recordPut, page: 0, size: 4096, key: key{2}}),
	} {
		if err := os.WriteFile(index, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t, dir, Options{SlabSize: 32 << 10})
		heal(t, c, dom, names, chunks)
		if err := c.Close(); err != nil {
			t.Fatal(what, err)
		}
		c = open(t, dir, Options{SlabSize: 32 << 10})
		if n := heal(t, c, dom, names, chunks); n != 0 {
			t.Errorf("%s: %d chunks fetched again after healing", what, n)
		}
		c.Close()
		battery(t, dir)
	}
}

func TestDeletedAndTruncatedSlabs(t *testing.T) {
	for what, harm := range map[string]func(string) error{
		"deleted":   os.Remove,
		"truncated": func(p string) error { return os.Truncate(p, 2*page) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
	} {
		for _, when := range []string{"closed", "open"} {
			t.Run(what+" while "+when, func(t *testing.T) {
				dir := t.TempDir()
				dom, names, chunks := battery(t, dir)
				slab := filepath.Join(dir, "slab-0000")
				var ev events
				var c *Cache
				if when == "open" {
					c = open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
				}
				if err := harm(slab); err != nil {
					t.Fatal(err)
				}
				if c == nil {
					c = open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
				}
				// An open file that was deleted still has the bytes.
				if n := heal(t, c, dom, names, chunks); n == 0 && what+when != "deletedopen" {
					t.Error("nothing was fetched again")
				} else if n > 0 && ev.count(Lost) == 0 {
					t.Errorf("no event, want one of the kind Lost: %v", ev.list)
				}
				c.Close()
				c = open(t, dir, Options{SlabSize: 32 << 10})
				heal(t, c, dom, names, chunks)
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				if n := heal(t, c, dom, names, chunks); n != 0 {
					t.Errorf("%d chunks fetched again after healing", n)
				}
			})
		}
	}
}

func TestScrubFindsWhatReadersTrust(t *testing.T) {
	dir := t.TempDir()
	dom, names, chunks := battery(t, dir)
	var ev events
	c := open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
	wantAll(t, c, block.Domain{}, names[:3], chunks[:3])
	r, err := c.Scrub(t.Context(), 0)
	if err != nil || r.Chunks != 4 || r.Bad != 0 || r.Bytes != 5*page {
		t.Errorf("Scrub = %+v, %v, want 4 good chunks in %d bytes", r, err, 5*page)
	}
	f, err := os.OpenFile(filepath.Join(dir, "slab-0000"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{page + 5, 4*page + 20} { // a public and the sealed chunk
		if _, err := f.WriteAt([]byte{0xEE}, at); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = c.Scrub(t.Context(), 0); err != nil || r.Bad != 2 || ev.count(Damaged) != 2 {
		t.Errorf("Scrub = %+v, %v, %d events, want 2 bad chunks", r, err, ev.count(Damaged))
	}
	if n := heal(t, c, dom, names, chunks); n != 2 {
		t.Errorf("%d chunks fetched again, want 2", n)
	}
}

func TestScrubKeepsItsRate(t *testing.T) {
	dir := t.TempDir()
	battery(t, dir)
	synctest.Test(t, func(t *testing.T) {
		c := open(t, dir, Options{SlabSize: 32 << 10})
		start := time.Now()
		if _, err := c.Scrub(t.Context(), page); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("Scrub of 5 pages at one a second took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Scrub(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Scrub that is ended = %v", err)
		}
		c.Close()
	})
}

// TestReadersAndEviction lets readers, writers, eviction, scrubs and pins meet.
func TestReadersAndEviction(t *testing.T) {
	var ev events
	c := open(t, t.TempDir(), Options{SlabSize: 512 << 10, MaxBytes: 1 << 20, OnEvent: ev.add})
	const n = 200
	src := &source{chunks: map[block.Name][]byte{}, asked: map[block.Name]int{}}
	var names []block.Name
	for i := range n {
		b := data(i, 5000+i*150)
		names = append(names, block.Sum(b))
		src.chunks[names[i]] = b
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			g := c.Getter(src, block.Domain{})
			for range 150 {
				name := names[r.IntN(n)]
				want := src.chunks[name]
				off := r.IntN(len(want))
				p := make([]byte, r.IntN(len(want)-off)+1)
				ok, err := c.ReadAt(t.Context(), block.Domain{}, name, p, off)
				if err != nil || ok && !bytes.Equal(p, want[off:off+len(p)]) {
					t.Errorf("ReadAt = %v, %v: wrong bytes", ok, err)
				}
				if !ok {
					for ch, err := range g.Get(t.Context(), []block.Name{name}) {
						if err != nil || !bytes.Equal(ch.Data, want) {
							t.Errorf("Get = %v", err)
						}
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 5 {
			if _, err := c.Scrub(t.Context(), 0); err != nil {
				t.Error(err)
			}
			set := "set" + strconv.Itoa(i)
			if _, err := c.Pin(set, block.Domain{}, names[i*4:i*4+3]); err != nil {
				t.Error(err)
			}
			if err := c.GC(t.Context()); err != nil {
				t.Error(err)
			}
			if err := c.Unpin(set); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if len(ev.list) > 0 {
		t.Errorf("events on a healthy disk: %v", ev.list)
	}
	if s := c.Stat(); s.Bytes > 1<<20 || s.Pinned != 0 || s.Evicted == 0 {
		t.Errorf("in the end %+v", s)
	}
}

func TestFirstReadChecksTheWholeChunk(t *testing.T) {
	dir := t.TempDir()
	_, names, chunks := battery(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, "slab-0000"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The last byte of the chunk in pages 2 and 3 is wrong, its first page right.
	if _, err := f.WriteAt([]byte{chunks[2][4999] ^ 1}, 2*page+4999); err != nil {
		t.Fatal(err)
	}
	var ev events
	c := open(t, dir, Options{SlabSize: 32 << 10, OnEvent: ev.add})
	p := make([]byte, 10)
	if ok, err := c.ReadVerified(t.Context(), block.Domain{}, names[0], p, 0); ok || err != nil {
		t.Errorf("ReadVerified of a chunk that was not read before = %v, %v, want a miss", ok, err)
	}
	if ok, err := c.ReadAt(t.Context(), block.Domain{}, names[2], p, 0); ok || err != nil || ev.count(Damaged) != 1 {
		t.Errorf("ReadAt of a damaged chunk = %v, %v, events %v, want a miss and one", ok, err, ev.list)
	}
	if ok, err := c.ReadAt(t.Context(), block.Domain{}, names[0], p, 4086); !ok || err != nil || !bytes.Equal(p, chunks[0][4086:]) {
		t.Errorf("ReadAt of a good chunk = %v, %v, want its last bytes", ok, err)
	}
	before := c.Stat()
	if ok, err := c.ReadVerified(t.Context(), block.Domain{}, names[0], p, 5); !ok || err != nil || !bytes.Equal(p, chunks[0][5:15]) {
		t.Errorf("ReadVerified after the first read = %v, %v, want its bytes", ok, err)
	}
	if s := c.Stat(); s.Verified != before.Verified || s.ReadBytes-before.ReadBytes != page {
		t.Errorf("the second read checked %d chunks and read %d bytes, want 0 and %d", s.Verified-before.Verified, s.ReadBytes-before.ReadBytes, page)
	}
}

// TestCrashBetweenSyncs opens what is on the disk while the cache writes and
// evicts: no record names bytes that are not there.
func TestCrashBetweenSyncs(t *testing.T) {
	opt := Options{SlabSize: 256 << 10, MaxBytes: 1 << 20, SyncDelay: 1 << 40, SyncBytes: 1 << 40}
	dir := t.TempDir()
	c := open(t, dir, opt)
	found := 0
	for i := range 400 {
		put(t, c, block.Domain{}, data(i, 20000))
		if i%20 != 19 {
			continue
		}
		c.wmu.Lock() // nothing is written while the files are copied
		snap := filepath.Join(t.TempDir(), "snap")
		if err := os.CopyFS(snap, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		c.wmu.Unlock()
		var ev events
		after := open(t, snap, Options{SlabSize: 256 << 10, OnEvent: ev.add})
		r, err := after.Scrub(t.Context(), 0)
		if err != nil || r.Bad > 0 || len(ev.list) > 0 {
			t.Fatalf("after %d chunks: %+v, %v, events %v", i+1, r, err, ev.list)
		}
		found += r.Chunks
		after.Close()
	}
	if found == 0 {
		t.Error("no chunk was ever found after a crash")
	}
}
