package fl

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/flist/convert/fl/store"
)

// server serves the blocks of a fixture and records what was asked.
func server(t *testing.T, handler http.Handler) (url string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var log []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		log = append(log, r.Method+" "+r.URL.Path)
		mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		got := log
		log = nil
		return got
	}
}

func TestHTTPStore(t *testing.T) {
	f := sample(t)
	url, asked := server(t, http.StripPrefix("/base", http.FileServer(http.Dir(f.store))))
	res := read(t, f.file, ReadOptions{Stores: []string{url + "/base/"}})
	_, id, _ := sealByHand([]byte("zos\n"))
	name := store.ID(id).String()
	if got := fileBytes(t, res.Root, "etc/hostname"); got != "zos\n" {
		t.Errorf("hostname = %q", got)
	}
	if d := cmp.Diff([]string{"GET /base/" + name[:2] + "/" + name}, asked()); d != "" {
		t.Errorf("requests differ:\n%s", d)
	}

	// The old layout has the blocks flat.
	if err := os.Rename(filepath.Join(f.store, name[:2], name), filepath.Join(f.store, name)); err != nil {
		t.Fatal(err)
	}
	if got := fileBytes(t, res.Root, "etc/hostname"); got != "zos\n" {
		t.Errorf("hostname = %q", got)
	}
	if d := cmp.Diff([]string{"GET /base/" + name[:2] + "/" + name, "GET /base/" + name}, asked()); d != "" {
		t.Errorf("requests differ:\n%s", d)
	}
	res = read(t, f.file, ReadOptions{})
	if got := fileBytes(t, res.Root, "etc/hostname"); got != "zos\n" {
		t.Errorf("hostname from the flat directory = %q", got)
	}
}

// Files of several blocks are fetched ahead, and no block twice.
func TestReadAhead(t *testing.T) {
	f := newFixture(t)
	f.inode(1, 0, "/", 0o40755, 0)
	f.inode(2, 1, "f", 0o100644, 40)
	want := ""
	for i := range 10 {
		f.block(2, []byte(fmt.Sprintf("%04d", i)))
		want += fmt.Sprintf("%04d", i)
	}
	var waiting atomic.Int64
	all := make(chan struct{})
	files := http.FileServer(http.Dir(f.store))
	url, asked := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if waiting.Add(1) == readAhead {
			close(all) // as many as are wanted came before the first was answered
		}
		<-all
		files.ServeHTTP(w, r)
	}))
	res := read(t, f.file, ReadOptions{Stores: []string{url}})
	if got := fileBytes(t, res.Root, "f"); got != want {
		t.Errorf("content = %q, want %q", got, want)
	}
	if n := len(asked()); n != 10 {
		t.Errorf("%d requests, want 10", n)
	}
	// Closing early ends what is under way.
	r, err := res.Root.At("f").Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("Read after Close = %d, %v", n, err)
	}
}
