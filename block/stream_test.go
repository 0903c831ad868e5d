package block_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"zos.internal/block"
	"zos.internal/block/storetest"
	"zos.internal/internal/fault"
)

// A chunk is handed out while the rest of its range is on its way.
func TestChunksComeBeforeTheEnd(t *testing.T) {
	mem := new(block.Mem)
	var plains [][]byte
	for i := range uint64(20) {
		plains = append(plains, storetest.Bytes(i, 64<<10))
	}
	names, places := packs(t, mem, block.Domain{}, plains, 1<<30)
	pack := places[names[0]].Pack
	whole, err := mem.Read(t.Context(), "p/"+pack.String(), 0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	half, requests := make(chan struct{}), 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		http.ServeContent(halfway{w, half}, r, "", time.Time{}, bytes.NewReader(whole))
	}))
	defer srv.Close()
	h, err := block.NewHTTP(srv.URL, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := block.NewPackGetter(block.NewMirrors(nil, block.Source{Name: "web", Bucket: h}), "p/", block.Domain{}, lookup(places))
	n := 0
	for c, err := range g.Get(t.Context(), names) {
		if err != nil {
			t.Fatal(err)
		}
		if want := plains[n]; !bytes.Equal(c.Data, want) {
			t.Fatalf("chunk %d is not the one in its place", n)
		}
		if n++; n == 5 { // the server waits in the middle until these are here
			close(half)
		}
	}
	if n != len(names) || requests != 1 {
		t.Errorf("%d chunks in %d requests, want %d in 1", n, requests, len(names))
	}
}

// halfway sends the second half of the body when go is closed.
type halfway struct {
	http.ResponseWriter
	on chan struct{}
}

func (h halfway) Write(b []byte) (int, error) { return h.ResponseWriter.Write(b) }

func (h halfway) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.CopyN(h.ResponseWriter, r, 8*64<<10)
	if err != nil {
		return n, err
	}
	h.ResponseWriter.(http.Flusher).Flush()
	<-h.on
	m, err := io.Copy(struct{ io.Writer }{h.ResponseWriter}, r)
	return n + m, err
}

// opener is a bucket whose answers fail or stall in the middle.
type opener struct {
	*block.Mem
	after int64 // bytes that come
	err   error // nil: nothing comes after them

	mu   sync.Mutex
	read []int64 // sizes that were asked for
}

func (o *opener) Open(ctx context.Context, key string, off, size int64) (io.ReadCloser, error) {
	b, err := o.Read(ctx, key, off, size)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.read = append(o.read, size)
	o.mu.Unlock()
	if int64(len(b)) <= o.after {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(b[:o.after]), &breaks{ctx, o.err})), nil
}

type breaks struct {
	ctx context.Context
	err error
}

func (b *breaks) Read([]byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	<-b.ctx.Done()
	return 0, fault.As(fault.Unavailable, b.ctx.Err())
}

// An answer that breaks off or stalls goes on at the next source, from where it
// was; alone it is an error that says so.
func TestAnswersThatStop(t *testing.T) {
	for name, broke := range map[string]error{"breaks off": fault.Errorf(fault.Unavailable, "the line is cut"), "stalls": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := new(block.Mem)
				var plains [][]byte
				for i := range uint64(10) {
					plains = append(plains, storetest.Bytes(i, 64<<10))
				}
				names, places := packs(t, mem, block.Domain{}, plains, 1<<30)
				first := &opener{Mem: mem, after: 3*64<<10 + 100, err: broke}
				second := &opener{Mem: mem, after: 1 << 30}
				var ev events
				m := block.NewMirrors(ev.add, block.Source{Name: "first", Bucket: first}, block.Source{Name: "second", Bucket: second})
				got := 0
				for c, err := range block.NewPackGetter(m, "p/", block.Domain{}, lookup(places)).Get(t.Context(), names) {
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(c.Data, plains[got]) {
						t.Fatalf("chunk %d is wrong", got)
					}
					got++
				}
				if got != len(names) || len(second.read) != 1 || second.read[0] != 7*64<<10 {
					t.Errorf("%d chunks, the second source was asked for %v bytes, want 10 and only the last 7 chunks", got, second.read)
				}
				if ev.count(block.SourceDown, "first") != 1 {
					t.Errorf("events %v, want that the first source is down", ev.all)
				}

				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				alone := block.NewMirrors(nil, block.Source{Name: "first", Bucket: first})
				failed := 0
				for _, err := range block.NewPackGetter(alone, "p/", block.Domain{}, lookup(places)).Get(ctx, names) {
					if err != nil {
						failed++
						if !errors.Is(err, fault.Unavailable) {
							t.Errorf("a source that stops = %v, want Unavailable", err)
						}
					}
				}
				if failed != 7 {
					t.Errorf("%d chunks failed, want 7", failed)
				}
			})
		})
	}
}

// pauses is a bucket whose answers stop for a while in the middle.
type pauses struct {
	*block.Mem
	after int64
	wait  time.Duration
	opens int
}

func (p *pauses) Open(ctx context.Context, key string, off, size int64) (io.ReadCloser, error) {
	b, err := p.Read(ctx, key, off, size)
	if err != nil {
		return nil, err
	}
	p.opens++
	n := min(p.after, int64(len(b)))
	return io.NopCloser(io.MultiReader(bytes.NewReader(b[:n]), &sleeps{ctx, p.wait}, bytes.NewReader(b[n:]))), nil
}

type sleeps struct {
	ctx context.Context
	d   time.Duration
}

func (s *sleeps) Read([]byte) (int, error) {
	select {
	case <-time.After(s.d):
		return 0, io.EOF
	case <-s.ctx.Done():
		return 0, fault.As(fault.Unavailable, s.ctx.Err())
	}
}

// The only source that has a pack may be slow: whoever else was asked in vain is
// no reason to give it up.
func TestASlowSourceIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := new(block.Mem)
		var plains [][]byte
		for i := range uint64(6) {
			plains = append(plains, storetest.Bytes(i, 64<<10))
		}
		names, places := packs(t, mem, block.Domain{}, plains, 1<<30)
		slow := &pauses{Mem: mem, after: 100 << 10, wait: 20 * time.Second}
		m := block.NewMirrors(nil, block.Source{Name: "empty", Bucket: new(block.Mem)}, block.Source{Name: "slow", Bucket: slow})
		n := 0
		for c, err := range block.NewPackGetter(m, "p/", block.Domain{}, lookup(places)).Get(t.Context(), names) {
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.Data, plains[n]) {
				t.Fatalf("chunk %d is wrong", n)
			}
			n++
		}
		if n != len(names) || slow.opens != 2 {
			t.Errorf("%d chunks in %d answers, want %d in 2", n, slow.opens, len(names))
		}
	})
}
