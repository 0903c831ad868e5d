package client_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

// pushed is a store that a hub filled with one image, named web.
func pushed(t *testing.T, store block.Bucket) (srv *httptest.Server, src block.Bucket, id flist.ID) {
	t.Helper()
	srv, _ = startHub(t, store, seedKey(1))
	src = block.OpenDir(t.TempDir())
	id = build(t, src, files(t, 12, 0, 1), flist.BuildOptions{})
	sig, err := flist.SignImage(nil, id, nil, seedKey(1))
	if err != nil {
		t.Fatal(err)
	}
	write(t, src, flist.SignaturesKey(id), sig)
	if _, err := open(t, client.Options{}, srv.URL).Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web"}); err != nil {
		t.Fatal(err)
	}
	return srv, src, id
}

// TestLyingMirror: a mirror that serves wrong bytes, of whatever sort and in
// whatever file, costs nothing but a second question; alone it makes the pull
// fail and nothing that is wrong becomes visible.
func TestLyingMirror(t *testing.T) {
	store := &block.Mem{}
	good, _, id := pushed(t, store)
	for _, damage := range append(block.Lies(), block.Fails) {
		for _, kind := range "roplsf" {
			t.Run(fmt.Sprintf("damage %d of %c", damage, kind), func(t *testing.T) {
				liar, err := hub.New(t.Context(), hub.Config{Store: &block.Faulty{Bucket: store, Plan: func(n int, op, key string) block.Damage {
					if rune(key[0]) != kind {
						return block.NoDamage
					}
					return block.Always(damage)(n, op, key)
				}}})
				if err != nil {
					t.Fatal(err)
				}
				bad := httptest.NewServer(liar)
				defer bad.Close()
				var mu sync.Mutex
				events := 0
				c := open(t, client.Options{OnEvent: func(block.Event) { mu.Lock(); events++; mu.Unlock() }}, bad.URL, good.URL)
				if p, err := c.Resolve(t.Context(), seedKey(1).Public().Address(), "web", ""); err != nil || p.ID != id {
					t.Errorf("Resolve = %v, %v", p.ID, err)
				}
				dst := &block.Mem{}
				if _, err := c.Pull(t.Context(), dst, id, client.PullOptions{}); err != nil {
					t.Fatal(err)
				}
				verify(t, dst, id, block.Domain{})
				if _, err := flist.Open(t.Context(), c, id, flist.OpenOptions{}); err != nil {
					t.Errorf("Open through the client = %v", err)
				}
				alone := open(t, client.Options{}, bad.URL)
				_, resolveErr := alone.Resolve(t.Context(), seedKey(1).Public().Address(), "web", "")
				only := &block.Mem{}
				_, pullErr := alone.Pull(t.Context(), only, id, client.PullOptions{})
				if kind == 'f' && resolveErr == nil || kind != 'f' && pullErr == nil && liesTell(damage, kind) {
					t.Errorf("alone the liar gets away with it: Resolve %v, Pull %v", resolveErr, pullErr)
				}
				mu.Lock()
				defer mu.Unlock()
				if events == 0 && liesTell(damage, kind) {
					t.Error("nobody heard of the liar")
				}
				if pullErr != nil {
					for k := range only.List(t.Context(), "r/") {
						t.Errorf("a failed pull left the image %s", k)
					}
				} else {
					verifyHints(t, only, id)
				}
			})
		}
	}
}

// liesTell reports whether that damage of a file of that kind can be noticed at
// all while an image is pulled: a locator is a hint, whose places are checked
// when the chunks are read, and files of one key can't be swapped.
func liesTell(d block.Damage, kind rune) bool {
	return kind != 'l' || d == block.Fails || d == block.Truncates
}

// verifyHints checks that an image whose locator may be wrong gives no wrong
// bytes: each chunk is right or an error.
func verifyHints(t *testing.T, from block.Bucket, id flist.ID) {
	t.Helper()
	img, err := flist.Open(t.Context(), from, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	loc, err := flist.ReadLocator(t.Context(), from, img)
	if err != nil {
		return
	}
	var names []block.Name
	for _, c := range img.Map.Chunks {
		names = append(names, c.Name)
	}
	for c, err := range img.Getter(block.NewMirrors(nil, block.Source{Name: "x", Bucket: from}), loc).Get(t.Context(), names) {
		if err == nil && block.Sum(c.Data) != c.Name {
			t.Errorf("chunk %v has wrong bytes", c.Name)
		}
	}
}

// TestPullGoesOn: what was received before an interruption isn't fetched again.
func TestPullGoesOn(t *testing.T) {
	srv, _, id := pushed(t, &block.Mem{})
	dst := &block.Mem{}
	fails := &block.Faulty{Bucket: dst, Plan: func(_ int, op, key string) block.Damage {
		if op == "write" && key[0] == 'o' {
			return block.Fails
		}
		return block.NoDamage
	}}
	c := open(t, client.Options{}, srv.URL)
	if _, err := c.Pull(t.Context(), fails, id, client.PullOptions{}); fault.Of(err) != fault.Unavailable {
		t.Fatalf("Pull into a store that fails = %v, want unavailable", err)
	}
	rep, err := c.Pull(t.Context(), dst, id, client.PullOptions{})
	if err != nil || rep.Packs != 0 || rep.Skipped == 0 {
		t.Errorf("second Pull = %+v, %v, want no pack fetched again", rep, err)
	}
	verify(t, dst, id, block.Domain{})
}

// line is a connection to a hub that breaks uploads. The handler's lock makes
// it safe to change between pushes.
type line struct {
	next    http.Handler
	mu      sync.Mutex
	half    int // uploads to break in the middle
	through int // uploads to let through before all others break
}

func (l *line) set(half, through int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.half, l.through = half, through
}

func (l *line) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	breaks, half := false, false
	if r.Method == http.MethodPut {
		l.mu.Lock()
		half = l.half > 0
		l.half--
		if !half {
			l.through--
		}
		breaks = half || l.through < 0
		l.mu.Unlock()
	}
	if half {
		io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	}
	if breaks {
		panic(http.ErrAbortHandler)
	}
	l.next.ServeHTTP(w, r)
}

func TestPushIsRepeatedAndGoesOn(t *testing.T) {
	const all = 1 << 30
	_, hubCounts := startHub(t, &block.Mem{}, seedKey(1))
	broken := &line{next: hubCounts}
	srv := httptest.NewServer(broken)
	t.Cleanup(srv.Close)
	src := block.OpenDir(t.TempDir())
	id := build(t, src, files(t, 300, 0, 1), flist.BuildOptions{}) // two packs
	c := open(t, client.Options{Retry: block.Retry{Tries: 2, Base: 1, Max: 1}, Parallel: 1}, srv.URL)
	broken.set(1, all)
	var most int64
	rep, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web", Progress: func(done, total int64) { most = max(most, done-total) }})
	if err != nil || rep.Packs != 2 {
		t.Fatalf("Push with one broken upload = %+v, %v, want success", rep, err)
	}
	if most > 0 {
		t.Errorf("progress went %d bytes beyond the total", most)
	}
	// A second image whose first pack arrives before everything breaks.
	id = build(t, src, files(t, 300, 0, 2), flist.BuildOptions{})
	before := hubCounts.get("PUT p")
	broken.set(0, 1)
	if _, err = c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web"}); fault.Of(err) != fault.Unavailable {
		t.Fatalf("Push over a broken line = %v, want unavailable", err)
	}
	broken.set(0, all)
	again, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web"})
	if err != nil || again.Packs != 1 || again.Seq != 2 {
		t.Errorf("Push after the interruption = %+v, %v, want only the second pack", again, err)
	}
	if got := hubCounts.get("PUT p") - before; got != 2 {
		t.Errorf("%d packs were uploaded in both tries, want 2", got)
	}
	dst := &block.Mem{}
	if _, err := open(t, client.Options{}, srv.URL).Pull(t.Context(), dst, id, client.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	verify(t, dst, id, block.Domain{})
}

// TestPushSendsOnlyWhatLacks: two images that were built apart share most of
// their chunks but no pack. The second push sends the other chunks only.
func TestPushSendsOnlyWhatLacks(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{7})} {
		t.Run(name, func(t *testing.T) {
			srv, n := startHub(t, &block.Mem{}, seedKey(1))
			c := open(t, client.Options{}, srv.URL)
			push := func(seed uint64) (flist.ID, client.Report) {
				src := block.OpenDir(t.TempDir())
				id := build(t, src, files(t, 40, 36, seed), flist.BuildOptions{Domain: dom})
				rep, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web", Domain: dom})
				if err != nil {
					t.Fatal(err)
				}
				return id, rep
			}
			_, first := push(1)
			second, rep := push(2)
			if rep.Packs != 1 || rep.Repacked == 0 || rep.Sent*5 > first.Sent {
				t.Errorf("the second push = %+v, want a tenth of the %d bytes of the first", rep, first.Sent)
			}
			t.Logf("first push %d bytes, second %d, skipped %d", first.Sent, rep.Sent, rep.Skipped)
			if got := n.get("PUT p"); got != 2 {
				t.Errorf("%d packs were uploaded, want 2", got)
			}
			dst := &block.Mem{}
			if _, err := c.Pull(t.Context(), dst, second, client.PullOptions{Domain: dom}); err != nil {
				t.Fatal(err)
			}
			verify(t, dst, second, dom)
		})
	}
}

// TestTwoPublishersAtOnce push the same image under their own names.
func TestTwoPublishersAtOnce(t *testing.T) {
	srv, _ := startHub(t, &block.Mem{}, seedKey(1), seedKey(2))
	var wg sync.WaitGroup
	for n := range byte(2) {
		src := block.OpenDir(t.TempDir())
		id := build(t, src, files(t, 30, 0, 1), flist.BuildOptions{})
		c := open(t, client.Options{}, srv.URL)
		wg.Go(func() {
			if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(n + 1), Name: "web"}); err != nil {
				t.Error(err)
			}
			if p, err := c.Resolve(t.Context(), seedKey(n+1).Public().Address(), "web", ""); err != nil || p.ID != id {
				t.Errorf("Resolve = %v, %v", p.ID, err)
			}
		})
	}
	wg.Wait()
}

// TestHostileHub: answers that are no answers make errors of bounded size.
func TestHostileHub(t *testing.T) {
	src := &block.Mem{}
	id := build(t, src, files(t, 2, 0, 1), flist.BuildOptions{})
	endless := func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1<<20)
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"endless":  endless,
		"empty":    func(w http.ResponseWriter, r *http.Request) {},
		"garbage":  func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(strings.Repeat("garbage", 1000))) },
		"all ones": func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("\xff")) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusTemporaryRedirect)
		},
		"long error": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(400)
			w.Write([]byte(`{"kind":"invalid","detail":"` + strings.Repeat("x\\u001b", 10000) + `"}`))
		},
	} {
		srv := httptest.NewServer(h)
		c := open(t, client.Options{Retry: block.Retry{Tries: 1}}, srv.URL)
		_, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "x"})
		if err == nil || len(err.Error()) > 3000 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: Push = %.200v, want a short clean error", name, err)
		}
		if _, err := c.Pull(t.Context(), &block.Mem{}, id, client.PullOptions{}); err == nil {
			t.Errorf("%s: Pull succeeded", name)
		}
		if _, err := c.Resolve(t.Context(), seedKey(1).Public().Address(), "x", ""); err == nil {
			t.Errorf("%s: Resolve succeeded", name)
		}
		n := 0
		for _, err := range c.Chunks(block.Domain{}).Get(t.Context(), []block.Name{id}) {
			if err == nil {
				t.Errorf("%s: a chunk was answered", name)
			}
			n++
		}
		if n != 1 {
			t.Errorf("%s: %d answers for a chunk, want 1", name, n)
		}
		srv.CloseClientConnections()
		srv.Close()
	}
}

func TestBadArguments(t *testing.T) {
	if _, err := client.New(nil, client.Options{}); fault.Of(err) != fault.Invalid {
		t.Errorf("New without an address = %v, want invalid", err)
	}
	if _, err := client.New([]string{"ftp://x"}, client.Options{}); fault.Of(err) != fault.Invalid {
		t.Errorf("New(ftp) = %v, want invalid", err)
	}
	c := open(t, client.Options{}, "http://"+freePort(t))
	src := &block.Mem{}
	id := build(t, src, files(t, 1, 0, 1), flist.BuildOptions{})
	for name, tt := range map[string]struct {
		opt  client.PushOptions
		want fault.Kind
	}{
		"no key":   {client.PushOptions{Name: "x"}, fault.Denied},
		"bad name": {client.PushOptions{Key: seedKey(1), Name: "../x"}, fault.Invalid},
		"only tag": {client.PushOptions{Key: seedKey(1), Tag: "x"}, fault.Invalid},
		"no hub":   {client.PushOptions{Key: seedKey(1), Name: "x"}, fault.Unavailable},
	} {
		if _, err := c.Push(t.Context(), src, id, tt.opt); fault.Of(err) != tt.want {
			t.Errorf("%s: Push = %v, want %s", name, err, tt.want)
		}
	}
	if _, err := c.Push(t.Context(), src, block.Sum(nil), client.PushOptions{Key: seedKey(1)}); !errors.Is(err, fault.NotFound) {
		t.Errorf("Push of an image that isn't there = %v, want not found", err)
	}
}
