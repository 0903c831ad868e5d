package scenario

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"zos.internal/block"
	"zos.internal/hub"
)

// badHub is a real hub behind something that damages the answers on demand.
type badHub struct {
	*httptest.Server
	inner http.Handler

	mu   sync.Mutex
	mode string        // "" is honest
	only string        // damage only paths with this prefix
	next chan struct{} // closed when the mode changes
	log  []string
	sent int64
}

// newHub serves the store of a machine that built images.
func newHub(t *testing.T, store string) *badHub {
	t.Helper()
	s, err := hub.New(t.Context(), hub.Config{Store: block.OpenDir(store)})
	if err != nil {
		t.Fatal(err)
	}
	h := newBadHub(t, s)
	t.Cleanup(func() {
		h.end()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// newBadHub damages the answers of a server.
func newBadHub(t *testing.T, inner http.Handler) *badHub {
	h := &badHub{inner: inner, next: make(chan struct{})}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.end)
	return h
}

// end closes the server; twice is fine.
func (h *badHub) end() {
	h.set("gone", "") // ends what drips
	h.Server.CloseClientConnections()
	h.Server.Close()
}

func (h *badHub) set(mode, only string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mode, h.only = mode, only
	close(h.next)
	h.next = make(chan struct{})
}

// reset forgets what was counted.
func (h *badHub) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log, h.sent = nil, 0
}

// asked is how often paths with one of the prefixes were asked for.
func (h *badHub) asked(prefixes ...string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.log {
		for _, x := range prefixes {
			if strings.HasPrefix(p, x) {
				n++
			}
		}
	}
	return n
}

func (h *badHub) bytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sent
}

func (h *badHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	mode, changed := h.mode, h.next
	if h.only != "" && !strings.HasPrefix(r.URL.Path, h.only) {
		mode = ""
	}
	if r.Method != http.MethodHead { // asks for no bytes
		h.log = append(h.log, r.URL.Path)
	}
	h.mu.Unlock()
	if mode == "gone" {
		panic(http.ErrAbortHandler)
	}
	rec := httptest.NewRecorder()
	h.inner.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	switch mode {
	case "flip":
		if len(body) > 0 {
			body[len(body)/2] ^= 0x10
		}
	case "truncate":
		body = body[:len(body)/2]
	case "swap": // other valid bytes of the same length
		if rg := r.Header.Get("Range"); rg != "" && len(body) > 0 {
			other := r.Clone(r.Context())
			other.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", 0, len(body)-1))
			if strings.HasPrefix(rg, "bytes=0-") {
				other.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", 1000, 999+len(body)))
			}
			rec2 := httptest.NewRecorder()
			h.inner.ServeHTTP(rec2, other)
			if b := rec2.Body.Bytes(); len(b) == len(body) {
				body = b
			}
		}
	}
	for k, v := range rec.Header() {
		if mode != "" && http.CanonicalHeaderKey(k) == "Content-Length" {
			continue
		}
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	if mode == "hang" {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-changed:
		}
		panic(http.ErrAbortHandler)
	}
	if mode == "drip" {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range body {
			if _, err := w.Write(body[i : i+1]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-changed:
				panic(http.ErrAbortHandler)
			case <-tick.C:
			}
		}
		return
	}
	n, _ := w.Write(body)
	h.mu.Lock()
	h.sent += int64(n)
	h.mu.Unlock()
}
