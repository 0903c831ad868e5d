package block_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"zos.internal/block"
	"zos.internal/block/storetest"
	"zos.internal/internal/fault"
)

func serve(t testing.TB, h http.Handler) *block.HTTP {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	b, err := block.NewHTTP(s.URL+"/base/", s.Client().Transport, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func files(m map[string][]byte) http.Handler {
	return http.StripPrefix("/base/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := m[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}))
}

func TestHTTP(t *testing.T) {
	storetest.ReadBucket(t, func(t *testing.T, m map[string][]byte) block.Bucket { return serve(t, files(m)) })
	t.Run("Getter", func(t *testing.T) {
		storetest.Getter(t, func(t *testing.T, plains [][]byte) (block.Getter, []block.Name) {
			mem := new(block.Mem)
			names, places := packs(t, mem, block.Domain{}, plains, 100000)
			m := map[string][]byte{}
			for key, err := range mem.List(t.Context(), "") {
				if err != nil {
					t.Fatal(err)
				}
				m[key], _ = mem.Read(t.Context(), key, 0, 1<<30)
			}
			b := serve(t, files(m))
			return block.NewPackGetter(block.NewMirrors(nil, block.Source{Name: "web", Bucket: b}), "p/", block.Domain{}, lookup(places)), names
		})
	})
}

// Answers that are not exactly what was asked for.
func TestHTTPRefusesOddServers(t *testing.T) {
	answer := func(status int, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for _, tt := range []struct {
		name string
		h    http.Handler
		want fault.Kind
	}{
		{"other start", answer(206, "xxxx", "Content-Range", "bytes 3-6/100"), fault.Invalid},
		{"longer range", answer(206, "xxxxxxxx", "Content-Range", "bytes 2-9/100"), fault.Invalid},
		{"shorter range", answer(206, "xx", "Content-Range", "bytes 2-3/100"), fault.Invalid},
		{"more bytes than the range", answer(206, "xxxxxx", "Content-Range", "bytes 2-5/100"), fault.Invalid},
		{"fewer bytes than the range", answer(206, "xxx", "Content-Range", "bytes 2-5/100"), fault.Unavailable},
		{"no range", answer(206, "xxxx"), fault.Invalid},
		{"nonsense", answer(206, "xxxx", "Content-Range", "bytes 2-x/100"), fault.Invalid},
		{"negative", answer(206, "xxxx", "Content-Range", "bytes -2-5/100"), fault.Invalid},
		{"range past its end", answer(206, "xxxx", "Content-Range", "bytes 2-5/5"), fault.Invalid},
		{"the whole file", answer(200, "0123456789"), fault.Unsupported},
		{"compressed", answer(206, "xxxx", "Content-Range", "bytes 2-5/100", "Content-Encoding", "gzip"), fault.Invalid},
		{"unsatisfiable but there", answer(416, "", "Content-Range", "bytes */100"), fault.Invalid},
		{"forbidden", answer(403, ""), fault.Denied},
		{"broken", answer(500, ""), fault.Unavailable},
		{"busy", answer(429, ""), fault.Unavailable},
		{"gone", answer(410, ""), fault.NotFound},
		{"empty", answer(204, ""), fault.Invalid},
		{"redirect to another host", http.RedirectHandler("http://elsewhere.invalid/x", http.StatusFound), fault.Denied},
		{"redirect for ever", http.RedirectHandler("/base/k", http.StatusFound), fault.Invalid},
		{"breaks off", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-5/100")
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(206)
			_, _ = w.Write([]byte("xx"))
		}), fault.Unavailable},
	} {
		b, err := serve(t, tt.h).Read(t.Context(), "k", 2, 4)
		if fault.Of(err) != tt.want || b != nil {
			t.Errorf("%s: Read = %q, %v (%q), want %q", tt.name, b, err, fault.Of(err), tt.want)
		}
	}
}

// A server without ranges still serves whole files, of known length or not.
func TestHTTPWithoutRanges(t *testing.T) {
	for _, flush := range []bool{false, true} {
		b := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "0123456789")
			if flush {
				w.(http.Flusher).Flush()
			}
		}))
		for _, size := range []int64{4, 10, 100} {
			got, err := b.Read(t.Context(), "k", 0, size)
			if want := "0123456789"[:min(size, 10)]; err != nil || string(got) != want {
				t.Errorf("Read of %d bytes = %q, %v, want %q", size, got, err, want)
			}
		}
	}
}

// A server that never answers costs the deadline and no more.
func TestHTTPDeadline(t *testing.T) {
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-stop }))
	defer s.Close()
	defer close(stop)
	b, err := block.NewHTTP(s.URL, nil, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(t.Context(), "k", 0, 1); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Read = %v, want unavailable", err)
	}
}

func TestNewHTTPAddresses(t *testing.T) {
	for _, bad := range []string{"", "ftp://x", "x", "http://", "http://x/?q", "http://x/#f", "http://x y"} {
		if _, err := block.NewHTTP(bad, nil, 0); !errors.Is(err, fault.Invalid) {
			t.Errorf("NewHTTP(%q) = %v, want invalid", bad, err)
		}
	}
}

func TestHTTPIsReadOnly(t *testing.T) {
	b := serve(t, files(nil))
	if err := b.Write(t.Context(), "k", bytes.NewReader(nil)); !errors.Is(err, fault.Unsupported) {
		t.Errorf("Write = %v, want unsupported", err)
	}
	if err := b.Delete(t.Context(), "k"); !errors.Is(err, fault.Unsupported) {
		t.Errorf("Delete = %v, want unsupported", err)
	}
}

// A large answer has more time than a small one, a server that drips does not
// have for ever. The times are those of the bubble.
func TestHTTPSlowAnswers(t *testing.T) {
	const size = 8 << 20 // 60 + 16 seconds
	for _, tt := range []struct {
		total time.Duration
		want  fault.Kind
	}{
		{70 * time.Second, ""},
		{80 * time.Second, fault.Unavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			b, err := block.NewHTTP("http://host", dripping{size, tt.total}, 0)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.Read(t.Context(), "k", 0, size)
			if fault.Of(err) != tt.want || err == nil && len(got) != size {
				t.Errorf("Read of an answer that takes %v = %d bytes, %v, want %q", tt.total, len(got), err, tt.want)
			}
		})
	}
}

// dripping answers size bytes in eight pieces over a time.
type dripping struct {
	size  int64
	total time.Duration
}

func (d dripping) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	go func() {
		for range 8 {
			select {
			case <-time.After(d.total / 8):
			case <-r.Context().Done():
				pw.CloseWithError(r.Context().Err())
				return
			}
			if _, err := pw.Write(make([]byte, d.size/8)); err != nil {
				return
			}
		}
		pw.Close()
	}()
	h := http.Header{}
	h.Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", d.size-1, d.size))
	return &http.Response{StatusCode: 206, Header: h, Body: pr, ContentLength: d.size, Request: r}, nil
}

// TestHTTPCutOff: an answer of no announced length that breaks off is no end of
// the file.
func TestHTTPCutOff(t *testing.T) {
	b := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	if got, err := b.Read(t.Context(), "r/x", 0, 100); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Read of an answer that broke off = %q, %v; want Unavailable", got, err)
	}
}
