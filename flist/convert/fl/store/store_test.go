package store

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

// openHTTP is OpenHTTP without the pause between tries.
func openHTTP(t *testing.T, url string) *HTTP {
	t.Helper()
	s, err := OpenHTTP(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	h := s.(*HTTP)
	h.pause = 0
	t.Cleanup(func() { h.Close() })
	return h
}

func TestHTTPStoreFailures(t *testing.T) {
	answers := make(chan int, 10)
	url, asked := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch code := <-answers; code {
		case 1: // more than any block
			w.Write(make([]byte, maxStored+1))
		case 2: // ends early
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("x"))
		case 3:
			w.Header().Set("Content-Length", "1099511627776")
		default:
			w.WriteHeader(code)
			w.Write([]byte("answer"))
		}
	}))
	h := openHTTP(t, strings.Replace(url, "//", "//me:secret@", 1))
	for name, tt := range map[string]struct {
		answers []int
		kind    fault.Kind
		want    string
	}{
		"not there":            {[]int{404, 404}, fault.NotFound, "404"},
		"denied":               {[]int{403}, fault.Denied, "403"},
		"works at third":       {[]int{503, 429, 200}, "", ""},
		"never works":          {[]int{500, 502, 503}, fault.Unavailable, "503"},
		"found flat, at third": {[]int{404, 500, 2, 200}, "", ""},
		"too long":             {[]int{1}, "", ""}, // the id check refuses it
		"says it is too long":  {[]int{3}, fault.Invalid, "1099511627776"},
	} {
		asked()
		for _, a := range tt.answers {
			answers <- a
		}
		b, err := h.Get(t.Context(), ID{1})
		if fault.Of(err) != tt.kind || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Get = %d bytes, %v (%s), want %q with %q", name, len(b), err, fault.Of(err), tt.kind, tt.want)
		}
		if n := len(asked()); n != len(tt.answers) {
			t.Errorf("%s: %d requests, want %d", name, n, len(tt.answers))
		}
		if int64(len(b)) > maxStored+1 || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s: %d bytes, error %v", name, len(b), err)
		}
	}
	if err := (Block{}).check(make([]byte, maxStored+1)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a body over the limit = %v", err)
	}
	for _, bad := range []string{"http://", "ftp://x/", "http://\x00/", "http://u:secret@h:bad/"} {
		if _, err := OpenHTTP(t.Context(), bad); !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("OpenHTTP(%q) = %v, want invalid", bad, err)
		}
	}
}

func TestDirStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b%20c")
	s, err := OpenDir(t.Context(), "dir://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	d := s.(*Dir)
	stored, b, err := Seal([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(t.Context()); err != nil {
		t.Errorf("Flush before the first Put = %v", err)
	}
	if _, err := d.Get(t.Context(), b.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("Get = %v, want not found", err)
	}
	put := func(want bool) {
		t.Helper()
		if got, err := d.Put(t.Context(), b.ID, stored); err != nil || got != want {
			t.Errorf("Put = %v, %v, want %v", got, err, want)
		}
		if got, err := d.Get(t.Context(), b.ID); err != nil || string(got) != string(stored) {
			t.Errorf("Get = %q, %v", got, err)
		}
	}
	put(true)
	put(false)
	// What a killed packer left is made whole.
	path := filepath.Join(dir, b.ID.String()[:2], b.ID.String())
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	put(true)
	if err := d.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	es, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(es) != 1 {
		t.Errorf("the directory has %v (%v), want one block", es, err)
	}
	if _, err := OpenDir(t.Context(), "dir://relative"); !errors.Is(err, fault.Invalid) {
		t.Errorf("OpenDir of a relative path = %v", err)
	}
}

func TestBlockBorders(t *testing.T) {
	for _, n := range []int{1, BlockSize, MaxBlock} {
		plain := pattern(n, n)
		stored, b, err := Seal([]byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.Open(stored)
		if err != nil || string(got) != plain {
			t.Errorf("Open(Seal(%d bytes)) = %d bytes, %v", n, len(got), err)
		}
	}
	for _, n := range []int{0, MaxBlock + 1} {
		if _, _, err := Seal(make([]byte, n)); !errors.Is(err, fault.Invalid) {
			t.Errorf("Seal(%d bytes) = %v, want invalid", n, err)
		}
	}
}

// Every single flipped bit of a stored block is found.
func TestEveryFlipIsFound(t *testing.T) {
	stored, id, key := sealByHand([]byte("hello, hello, hello\n"))
	for i := range len(stored) * 8 {
		c := append([]byte(nil), stored...)
		c[i/8] ^= 1 << (i % 8)
		if _, err := (Block{id, key}).Open(c); !errors.Is(err, fault.Invalid) {
			t.Errorf("bit %d: Open = %v, want invalid", i, err)
		}
	}
	for i := range len(key) * 8 {
		k := key
		k[i/8] ^= 1 << (i % 8)
		if _, err := (Block{id, k}).Open(append([]byte(nil), stored...)); !errors.Is(err, fault.Invalid) {
			t.Errorf("bit %d of the key: Open = %v, want invalid", i, err)
		}
	}
}
