package flist_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/fetch"
	"zos.internal/internal/fault"
)

// site serves a directory as any static file server does and counts the GETs by
// the first letter of the key.
type site struct {
	*httptest.Server
	mu sync.Mutex
	n  map[byte]int
}

func serveDir(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{n: make(map[byte]int)}
	files := http.FileServer(http.Dir(dir))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.n[r.URL.Path[1]]++
		s.mu.Unlock()
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) count() (all int, starts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.n {
		all += n
	}
	return all, s.n['b']
}

func (s *site) source(t *testing.T) block.Source {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	h, err := block.NewHTTP(s.URL, tr, 0)
	if err != nil {
		t.Fatal(err)
	}
	return block.Source{Name: s.URL, Bucket: h}
}

// signed is a published image with signatures, a trace and its start file.
func signed(t *testing.T, dir string) (flist.ID, *flist.Image) {
	t.Helper()
	store := block.OpenDir(dir)
	id := build(t, store, sample(), flist.BuildOptions{}).ID
	img, err := flist.Open(t.Context(), store, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string, b []byte, err error) {
		if err == nil {
			err = store.Write(t.Context(), key, bytes.NewReader(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := flist.SignImage(nil, id, nil, alice)
	put(flist.SignaturesKey(id), b, err)
	n := uint32(len(img.Map.Chunks))
	tr := fetch.Trace{Image: id}
	for i := uint32(0); i < n; i += 3 { // scattered, and from the end
		tr.Runs = append(tr.Runs, fetch.Run{First: n - 1 - i, Count: 1})
	}
	b, err = flist.SignTrace(tr, alice)
	put(flist.TraceKey(id), b, err)
	b, err = flist.MakeStart(t.Context(), store, id)
	put(flist.StartKey(id), b, err)
	return id, img
}

func TestStartFile(t *testing.T) {
	dir := t.TempDir()
	id, img := signed(t, dir)
	b, err := os.ReadFile(filepath.Join(dir, flist.StartKey(id)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := flist.ParseStart(b)
	if err != nil || s.ID != id {
		t.Fatalf("ParseStart = %+v, %v", s, err)
	}
	for _, key := range []string{flist.RootKey(id), flist.SignaturesKey(id), flist.TraceKey(id), flist.LocatorKey(id),
		flist.ObjectKey(img.Root.Metadata.Name), flist.ObjectKey(img.Root.Map.Name), flist.ObjectKey(img.Root.Config.Name), flist.ObjectKey(img.Root.Executables.Name)} {
		want, err := os.ReadFile(filepath.Join(dir, key))
		if err != nil || !bytes.Equal(s.Parts[key], want) {
			t.Errorf("part %s has %d bytes, the file %d, %v", key, len(s.Parts[key]), len(want), err)
		}
	}
	if again, err := s.Encode(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("it encodes to %d other bytes, %v", len(again), err)
	}

	// What is absent is said to be; what doesn't fit is left out.
	if err := os.Remove(filepath.Join(dir, flist.TraceKey(id))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, flist.LocatorKey(id)), make([]byte, flist.MaxStart), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err = flist.MakeStart(t.Context(), block.OpenDir(dir), id); err != nil || len(b) > flist.MaxStart {
		t.Fatalf("MakeStart = %d bytes, %v", len(b), err)
	}
	if s, err = flist.ParseStart(b); err != nil {
		t.Fatal(err)
	}
	if p, ok := s.Parts[flist.TraceKey(id)]; !ok || len(p) > 0 {
		t.Errorf("an absent trace is %d bytes, %v", len(p), ok)
	}
	if _, ok := s.Parts[flist.LocatorKey(id)]; ok {
		t.Error("a locator that doesn't fit is in it")
	}
	if _, ok := s.Parts[flist.ObjectKey(img.Root.Metadata.Name)]; !ok {
		t.Error("the metadata is not in it though it fits")
	}
}

// A first open is one request to a static file server, and what came with it
// needs none.
func TestOpenIsOneRequest(t *testing.T) {
	dir := t.TempDir()
	id, want := signed(t, dir)
	s := serveDir(t, dir)
	m := block.NewMirrors(nil, block.Source{Name: "local", Bucket: block.OpenDir(t.TempDir()), Near: true}, s.source(t))
	img, err := flist.Open(t.Context(), m, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(img.Metadata, want.Metadata) || !bytes.Equal(img.MapBytes, want.MapBytes) || len(img.Executables) != len(want.Executables) {
		t.Error("the image is not the one that was built")
	}
	for _, key := range []string{flist.LocatorKey(id), flist.TraceKey(id), flist.SignaturesKey(id)} {
		if b, err := img.ReadPart(t.Context(), m, key, flist.MaxObject); err != nil || len(b) == 0 {
			t.Errorf("ReadPart(%s) = %d bytes, %v", key, len(b), err)
		}
	}
	if n, _ := s.count(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	// A second read asks for what is there now.
	if _, err := img.ReadPart(t.Context(), m, flist.LocatorKey(id), flist.MaxObject); err != nil {
		t.Error(err)
	}
	if n, _ := s.count(); n != 2 {
		t.Errorf("%d requests after the locator was asked for again, want 2", n)
	}

	// Without a start file everything comes by itself.
	if err := os.Remove(filepath.Join(dir, flist.StartKey(id))); err != nil {
		t.Fatal(err)
	}
	old := serveDir(t, dir)
	if _, err := flist.Open(t.Context(), block.NewMirrors(nil, old.source(t)), id, flist.OpenOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, _ := old.count(); n != 6 {
		t.Errorf("%d requests without a start file, want 6: it, the root and four objects", n)
	}

	// What the machine has is not asked for.
	far := serveDir(t, dir)
	m = block.NewMirrors(nil, block.Source{Name: "local", Bucket: block.OpenDir(dir), Near: true}, far.source(t))
	if _, err := flist.Open(t.Context(), m, id, flist.OpenOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, _ := far.count(); n != 0 {
		t.Errorf("%d requests for an image that is here, want none", n)
	}
}

// damages are start files that a broken or hostile server may have.
func damages(t *testing.T, good, other []byte, id flist.ID) map[string][]byte {
	t.Helper()
	out := map[string][]byte{
		"empty": nil, "another image's": other, "cut in the header": good[:20], "cut in a part": good[:len(good)-100],
		"too much": append(slices.Clone(good), 0), "too large": append(slices.Clone(good), make([]byte, flist.MaxStart)...),
		"no start file": bytes.Repeat([]byte("x"), 500),
	}
	lie := slices.Clone(good)
	binary.LittleEndian.PutUint32(lie[4:], 1<<31)
	out["a header of 2 GiB"] = lie
	s, err := flist.ParseStart(good)
	if err != nil {
		t.Fatal(err)
	}
	for key, b := range s.Parts {
		if len(b) == 0 {
			continue
		}
		i := bytes.Index(good, b)
		bent := slices.Clone(good)
		bent[i+len(b)/2] ^= 1
		out["a flipped bit in "+key[:2]] = bent
		if key[0] == 'o' {
			_, stored, err := flist.EncodeObject(block.Domain{}, bytes.Repeat([]byte("other "), 100))
			if err != nil {
				t.Fatal(err)
			}
			s.Parts[key] = stored
			swapped, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			out["another object as "+key[:8]] = swapped
			s.Parts[key] = b
		}
	}
	return out
}

// Whatever a server says is the start file, the image is right: from the next
// source, or piece by piece.
func TestStartFileLies(t *testing.T) {
	dir := t.TempDir()
	id, want := signed(t, dir)
	store := block.OpenDir(dir)
	good, err := store.Read(t.Context(), flist.StartKey(id), 0, flist.MaxStart)
	if err != nil {
		t.Fatal(err)
	}
	otherID := build(t, store, smallTree(), flist.BuildOptions{}).ID
	other, err := flist.MakeStart(t.Context(), store, otherID)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range damages(t, good, other, id) {
		t.Run(name, func(t *testing.T) {
			lying := lyingStart{store, flist.StartKey(id), b}
			for _, sources := range [][]block.Source{
				{{Name: "liar", Bucket: lying}},
				{{Name: "liar", Bucket: lying}, {Name: "honest", Bucket: store}},
			} {
				var blamed int
				m := block.NewMirrors(func(e block.Event) {
					if e.Kind == block.WrongBytes && e.Source == "liar" {
						blamed++
					}
				}, sources...)
				img, err := flist.Open(t.Context(), m, id, flist.OpenOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(img.Metadata, want.Metadata) || !bytes.Equal(img.MapBytes, want.MapBytes) || img.Config == nil {
					t.Error("wrong bytes")
				}
				// The locator has no name; its reader checks it against the map.
				if blamed == 0 && name != "a flipped bit in l/" {
					t.Error("nobody was blamed")
				}
			}
		})
	}
}

type lyingStart struct {
	*block.Dir
	key   string
	bytes []byte
}

func (l lyingStart) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	if key == l.key {
		b := l.bytes[min(off, int64(len(l.bytes))):]
		return b[:min(size, int64(len(b)))], nil
	}
	return l.Dir.Read(ctx, key, off, size)
}

func FuzzStart(f *testing.F) {
	root := sampleRoot()
	b, id, err := root.Encode()
	if err != nil {
		f.Fatal(err)
	}
	s := &flist.Start{ID: id, Root: root, Parts: map[string][]byte{
		flist.RootKey(id): b, flist.TraceKey(id): nil, flist.LocatorKey(id): []byte("locator"), flist.ObjectKey(root.Map.Name): []byte("map"),
	}}
	if b, err = s.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := flist.ParseStart(b)
		if err != nil {
			return
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which encodes to %x, %v", b, again, err)
		}
	})
}

// TestStartPacks: the chunks of a trace lie in its order in packs that hold
// nothing else, everything is where the locator says, and doing it again changes
// nothing.
func TestStartPacks(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{3})} {
		t.Run(name, func(t *testing.T) {
			store := &block.Mem{}
			id := build(t, store, sample(), flist.BuildOptions{Domain: dom}).ID
			img, err := flist.Open(t.Context(), store, id, flist.OpenOptions{Domain: dom})
			if err != nil {
				t.Fatal(err)
			}
			want := memDevice(t, store, img)
			n := len(img.Map.Chunks)
			tr := fetch.Trace{Image: id}
			for i := n - 1; i >= 0; i -= 2 {
				tr.Runs = append(tr.Runs, fetch.Run{First: uint32(i), Count: 1})
			}
			if err := flist.LayStart(t.Context(), store, img, tr); err != nil {
				t.Fatal(err)
			}
			loc, err := flist.ReadLocator(t.Context(), store, img)
			if err != nil {
				t.Fatal(err)
			}
			var end block.Location
			for k, r := range tr.Runs {
				w := loc.Where[r.First]
				if k > 0 && (w.Pack != end.Pack || w.Off != end.Off) {
					t.Fatalf("chunk %d of the trace is at %+v, the one before ends at %+v", k, w, end)
				}
				end = block.Location{Pack: w.Pack, Off: w.Off + uint64(w.Stored)}
			}
			if !bytes.Equal(memDevice(t, store, img), want) {
				t.Error("the device has other bytes")
			}
			rep, err := flist.Verify(t.Context(), block.NewMirrors(nil, block.Source{Name: "mem", Bucket: store}), id, flist.VerifyOptions{Deep: true, Domain: dom})
			if err != nil || len(rep.Problems) > 0 {
				t.Errorf("Verify = %+v, %v", rep, err)
			}
			_, moved, err := flist.StartPacks(t.Context(), loc, img.Map.Chunks, dom.Private(), tr, flist.StoredReader(loc, store), nil)
			if err != nil || moved {
				t.Errorf("a second time = moved %v, %v, want nothing to do", moved, err)
			}
		})
	}
	// Without packs there is nothing to lay out, and that is no error.
	store := &block.Mem{}
	id := build(t, store, sample(), flist.BuildOptions{}).ID
	img, err := flist.Open(t.Context(), store, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key := range store.List(t.Context(), flist.PackPrefix) {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	tr := fetch.Trace{Image: id, Runs: []fetch.Run{{First: 5, Count: 1}, {First: 0, Count: 1}, {First: 3, Count: 1}}}
	if err := flist.LayStart(t.Context(), store, img, tr); err != nil {
		t.Errorf("LayStart without packs = %v", err)
	}
	if err := flist.LayStart(t.Context(), &block.Mem{}, img, tr); err != nil {
		t.Errorf("LayStart of an image that is elsewhere = %v", err)
	}
	if _, err := flist.MakeStart(t.Context(), &block.Mem{}, id); fault.Of(err) != fault.NotFound {
		t.Errorf("MakeStart of an absent image = %v, want not found", err)
	}
}
