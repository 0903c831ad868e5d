package cache

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// source is a Getter that counts and can be told to fail.
type source struct {
	mu     sync.Mutex
	chunks map[block.Name][]byte
	calls  int
	asked  map[block.Name]int
	hold   chan struct{} // Get waits for it, if set
	err    error
}

func newSource(chunks ...[]byte) (*source, []block.Name) {
	s := &source{chunks: map[block.Name][]byte{}, asked: map[block.Name]int{}}
	var names []block.Name
	for _, b := range chunks {
		names = append(names, block.Sum(b))
		s.chunks[block.Sum(b)] = b
	}
	return s, names
}

func (s *source) Get(ctx context.Context, names []block.Name) iter.Seq2[block.Chunk, error] {
	return func(yield func(block.Chunk, error) bool) {
		s.mu.Lock()
		s.calls++
		for _, n := range names {
			s.asked[n]++
		}
		hold, fail := s.hold, s.err
		s.mu.Unlock()
		if hold != nil {
			select {
			case <-hold:
			case <-ctx.Done():
				fail = ctx.Err()
			}
		}
		for _, n := range names {
			b, err := s.chunks[n], fail
			if err == nil && b == nil {
				err = fault.NotFound
			}
			c := block.Chunk{Name: n}
			if err == nil {
				c.Data = bytes.Clone(b)
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

func TestGetterFetchesEqualMissesOnce(t *testing.T) {
	c := open(t, t.TempDir(), Options{SlabSize: 4 << 20})
	var chunks [][]byte
	for i := range 40 {
		chunks = append(chunks, data(i, 20000))
	}
	src, names := newSource(chunks...)
	src.hold = make(chan struct{})
	var wg sync.WaitGroup
	var got atomic.Int64
	for range 8 {
		wg.Go(func() {
			for ch, err := range c.Getter(src, block.Domain{}).Get(t.Context(), names) {
				if err != nil || block.Sum(ch.Data) != ch.Name {
					t.Errorf("Get(%v) = %v", ch.Name, err)
				}
				got.Add(1)
			}
		})
	}
	close(src.hold)
	wg.Wait()
	if got.Load() != 8*40 {
		t.Errorf("%d answers, want %d", got.Load(), 8*40)
	}
	for n, times := range src.asked {
		if times != 1 {
			t.Errorf("chunk %v was fetched %d times, want once", n, times)
		}
	}
	if src.calls > 8 {
		t.Errorf("%d calls, want at most one for each Getter", src.calls)
	}
}

func TestGetterAnswersEveryNameOnce(t *testing.T) {
	c := open(t, t.TempDir(), Options{SlabSize: 4 << 20})
	src, names := newSource(data(1, 10), data(2, 10))
	g := c.Getter(src, block.Domain{})
	answers := map[block.Name]int{}
	for ch, err := range g.Get(t.Context(), []block.Name{names[0], {9}, names[1], names[0]}) {
		answers[ch.Name]++
		if (err != nil) != (ch.Name == block.Name{9}) || err != nil && !errors.Is(err, fault.NotFound) {
			t.Errorf("Get(%v) = %v", ch.Name, err)
		}
	}
	for n, times := range answers {
		if times != 1 {
			t.Errorf("%v was answered %d times", n, times)
		}
	}
	if len(answers) != 3 {
		t.Errorf("%d answers, want 3", len(answers))
	}
	// Stopping early leaves nothing behind that the next one waits for.
	for range g.Get(t.Context(), []block.Name{names[0], {8}, {7}}) {
		break
	}
	for range g.Get(t.Context(), []block.Name{{7}, {8}}) {
		break
	}
	if len(c.flights) != 0 {
		t.Errorf("%d fetches are left behind", len(c.flights))
	}
}

func TestGetterAsksItsOwnSourceWhenAnotherFails(t *testing.T) {
	c := open(t, t.TempDir(), Options{SlabSize: 4 << 20})
	good, names := newSource(data(1, 1000))
	bad := &source{asked: map[block.Name]int{}, hold: make(chan struct{}), err: fault.Unavailable}
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		close(started)
		for _, err := range c.Getter(bad, block.Domain{}).Get(t.Context(), names) {
			if !errors.Is(err, fault.Unavailable) {
				t.Errorf("Get from the bad source = %v", err)
			}
		}
	})
	<-started
	for { // until the bad source has the flight
		bad.mu.Lock()
		n := bad.calls
		bad.mu.Unlock()
		if n > 0 {
			break
		}
		runtime.Gosched()
	}
	wg.Go(func() {
		for ch, err := range c.Getter(good, block.Domain{}).Get(t.Context(), names) {
			if err != nil || !bytes.Equal(ch.Data, data(1, 1000)) {
				t.Errorf("Get from the good source = %v", err)
			}
		}
	})
	close(bad.hold)
	wg.Wait()
}

// Who wants a chunk that comes late in a long call asks for it; who wants one
// that comes soon waits.
func TestGetterDoesNotWaitForTheEndOfALongCall(t *testing.T) {
	var chunks [][]byte
	for i := range 100 {
		chunks = append(chunks, bytes.Repeat([]byte{byte(i), 1}, 100))
	}
	slow, names := newSource(chunks...)
	slow.hold = make(chan struct{})
	fast, _ := newSource(chunks...)
	c := open(t, t.TempDir(), Options{})
	var wg sync.WaitGroup
	wg.Go(func() {
		n := 0
		for ch, err := range c.Getter(slow, block.Domain{}).Get(t.Context(), names) {
			if err != nil || !bytes.Equal(ch.Data, slow.chunks[ch.Name]) {
				t.Errorf("the long call got %v, %v", ch.Name, err)
			}
			n++
		}
		if n != len(names) {
			t.Errorf("the long call got %d of %d chunks", n, len(names))
		}
	})
	for { // until the long call has begun
		slow.mu.Lock()
		n := slow.calls
		slow.mu.Unlock()
		if n > 0 {
			break
		}
		runtime.Gosched()
	}
	late, soon := names[90], names[joinAhead]
	for ch, err := range c.Getter(fast, block.Domain{}).Get(t.Context(), []block.Name{late}) {
		if err != nil || ch.Name != late {
			t.Errorf("the late chunk = %v, %v", ch.Name, err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ch, err := range c.Getter(fast, block.Domain{}).Get(t.Context(), []block.Name{soon}) {
			if err != nil || ch.Name != soon {
				t.Errorf("the chunk that comes soon = %v, %v", ch.Name, err)
			}
		}
	}()
	waiting := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		f := c.flights[keyOf(block.Domain{}, soon)]
		return f != nil && f.waiters > 0
	}
	for !waiting() {
		runtime.Gosched()
	}
	close(slow.hold)
	<-done
	wg.Wait()
	fast.mu.Lock()
	defer fast.mu.Unlock()
	if fast.asked[late] != 1 || fast.asked[soon] != 0 {
		t.Errorf("asked for the late chunk %d times and for the next one %d times, want 1 and 0", fast.asked[late], fast.asked[soon])
	}
}
