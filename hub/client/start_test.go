package client_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist"
	"zos.internal/flist/fetch"
	"zos.internal/flist/lazy"
	"zos.internal/hub/client"
)

// published is an image of n files with a scattered trace of most of them, on a
// hub whose store is dir, named "web".
func published(t *testing.T, store block.Bucket, n int) (id flist.ID, hubURL string) {
	t.Helper()
	key := seedKey(1)
	srv, _ := startHub(t, store, key)
	src := block.OpenDir(t.TempDir())
	id = build(t, src, files(t, n, 0, 1), flist.BuildOptions{})
	img, err := flist.Open(t.Context(), src, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := flist.SignImage(nil, id, nil, key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, src, flist.SignaturesKey(id), sig)
	tr := fetch.Trace{Image: id}
	chunks := len(img.Map.Chunks)
	for step := range 3 { // there and back, so that no two of it are neighbours
		for i := chunks - 1 - step; i >= 0; i -= 4 {
			tr.Runs = append(tr.Runs, fetch.Run{First: uint32(i), Count: 1})
		}
	}
	signed, err := flist.SignTrace(tr, key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, src, flist.TraceKey(id), signed)
	if _, err := open(t, client.Options{}, srv.URL).Push(t.Context(), src, id, client.PushOptions{Key: key, Name: "web"}); err != nil {
		t.Fatal(err)
	}
	return id, srv.URL
}

// counting is a proxy that counts requests and the bytes of their answers.
type counting struct {
	counts
	bytes int64
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.counts.ServeHTTP(sized{w, c}, r)
}

func (c *counting) all() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.n {
		n += x
	}
	return n
}

type sized struct {
	http.ResponseWriter
	c *counting
}

func (s sized) Write(b []byte) (int, error) {
	s.c.mu.Lock()
	s.c.bytes += int64(len(b))
	s.c.mu.Unlock()
	return s.ResponseWriter.Write(b)
}

// firstStart resolves a name, opens and prepares the image and plays its trace
// into an empty cache, as a first mount does. It returns the device.
func firstStart(t *testing.T, urls ...string) *fetch.Device {
	t.Helper()
	c := open(t, client.Options{}, urls...)
	p, err := c.Resolve(t.Context(), seedKey(1).Public().Address(), "web", "")
	if err != nil {
		t.Fatal(err)
	}
	img, err := flist.Open(t.Context(), c.Mirrors(), p.ID, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := lazy.Prepare(t.Context(), img, c.Mirrors(), dir, lazy.Spec{Sources: urls}); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tr, err := fetch.ParseTrace(read("trace"))
	if err != nil {
		t.Fatal(err)
	}
	loc, err := block.ParseLocator(read("locator"), len(img.Map.Chunks))
	if err != nil {
		t.Fatal(err)
	}
	view, err := img.View()
	if err != nil {
		t.Fatal(err)
	}
	chunks, err := cache.Open(t.TempDir(), cache.Options{FreeFloor: -1})
	if err != nil {
		t.Fatal(err)
	}
	d, err := fetch.New(view, img.DeviceSize(), chunks, img.Getter(c.Mirrors(), loc), fetch.Options{Image: p.ID.String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		chunks.Close()
	})
	if err := d.Prefetch(context.WithoutCancel(t.Context()), tr); err != nil {
		t.Fatal(err)
	}
	if got := d.Stats().TraceBytes; got < img.DeviceSize()/2 {
		t.Errorf("the trace brought %d bytes of %d", got, img.DeviceSize())
	}
	return d
}

// TestFirstStartRequests: a first start by name with a published trace takes a
// handful of requests, from the hub and from plain file servers over a copy of
// its files, and no more bytes than it uses.
func TestFirstStartRequests(t *testing.T) {
	dir := t.TempDir()
	store := block.OpenDir(dir)
	id, hubURL := published(t, store, 150)
	size := func(key string) int64 {
		n, err := store.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	files := http.FileServer(http.Dir(dir))
	for name, serve := range map[string]func(t *testing.T) http.Handler{
		"hub":    func(t *testing.T) http.Handler { return forward(t, hubURL) },
		"static": func(t *testing.T) http.Handler { return files },
		"nginx":  func(t *testing.T) http.Handler { return forward(t, startNginx(t, dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			n := &counting{counts: counts{next: serve(t)}}
			srv := httptest.NewServer(n)
			t.Cleanup(srv.Close)
			d := firstStart(t, srv.URL)
			t.Logf("%d requests %v, %d bytes for %d of content", n.all(), n.n, n.bytes, d.Stats().TraceBytes)
			if n.all() > 5 || n.get("GET b") != 1 || n.get("GET f") != 1 {
				t.Errorf("%d requests %v, want at most 5: the name, the start file and its packs", n.all(), n.n)
			}
			// Chunks of these files shrink little: they are most of it.
			if most := d.Stats().TraceBytes + size(flist.StartKey(id)) + 4096; n.bytes > most {
				t.Errorf("%d bytes, want at most %d", n.bytes, most)
			}
		})
	}
}

// TestFirstStartFromAnOldMirror: without a start file the same start needs more
// requests and works.
func TestFirstStartFromAnOldMirror(t *testing.T) {
	dir := t.TempDir()
	id, _ := published(t, block.OpenDir(dir), 30)
	if err := os.Remove(filepath.Join(dir, flist.StartKey(id))); err != nil {
		t.Fatal(err)
	}
	n := &counting{counts: counts{next: http.FileServer(http.Dir(dir))}}
	srv := httptest.NewServer(n)
	t.Cleanup(srv.Close)
	firstStart(t, srv.URL)
	if n.get("GET o") != 4 || n.get("GET r") != 1 || n.get("GET t") != 1 {
		t.Errorf("requests %v, want the parts of the start file one by one", n.n)
	}
}

// forward passes requests on, so that they can be counted.
func forward(t *testing.T, to string) http.Handler {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := r.Clone(r.Context())
		req.RequestURI = ""
		var err error
		if req.URL, err = r.URL.Parse(to + r.URL.Path); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
}
