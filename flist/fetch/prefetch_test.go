package fetch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

func (im *image) trace(runs ...Run) Trace {
	id, err := block.ParseName(im.id())
	if err != nil {
		panic(err)
	}
	return Trace{Image: id, Runs: runs}
}

func run(first, count int) Run { return Run{First: uint32(first), Count: uint32(count)} }

func TestStartWithATraceMakesFewRequests(t *testing.T) {
	im := oneFile(t, 40)
	h := newHub(t, im)
	b := &bucket{h: h}
	d := open(t, im, openCache(t), h.getter(b), Options{})
	// 24 MiB in two places, as a start reads them.
	tr := im.trace(run(100, 200), run(400, 184))
	if err := d.Prefetch(t.Context(), tr); err != nil {
		t.Fatal(err)
	}
	t.Logf("a trace of 24 MiB: %d requests, %+v", b.reads, d.Stats())
	if b.reads > 8 {
		t.Errorf("a trace of 24 MiB made %d requests, want at most 8", b.reads)
	}
	before := b.reads
	p := make([]byte, 64<<10)
	for _, r := range tr.Runs {
		for i := range r.Count {
			if err := d.ReadAt(t.Context(), p, int64(r.First+i)<<16); err != nil {
				t.Fatal(err)
			}
		}
	}
	if extra := b.reads - before; extra > 0 {
		t.Errorf("the start made %d more requests, want none", extra)
	}
	// Who leaves the trace is read ahead of again.
	for off := 584 << 16; off < 640<<16; off += len(p) {
		if err := d.ReadAt(t.Context(), p, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if extra := b.reads - before; extra > 4 {
		t.Errorf("3.5 MiB behind the trace made %d requests, want at most 4", extra)
	}
}

func TestPrefetchKeepsItsBudget(t *testing.T) {
	im := oneFile(t, 16)
	src := im.source()
	d := open(t, im, openCache(t), src, Options{Budget: 3<<20 + 1})
	if err := d.Prefetch(t.Context(), im.trace(run(0, 1<<30))); err != nil {
		t.Fatal(err)
	}
	if got := d.Stats().TraceBytes; got != 3<<20 {
		t.Errorf("prefetched %d bytes, want %d", got, 3<<20)
	}
	if err := d.Prefetch(t.Context(), Trace{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Prefetch of the trace of another image = %v, want Invalid", err)
	}
	none := open(t, im, nil, src, Options{})
	if err := none.Prefetch(t.Context(), im.trace(run(0, 1))); !errors.Is(err, fault.Unsupported) {
		t.Errorf("Prefetch without a cache = %v, want Unsupported", err)
	}
}

func TestFillAllMakesTheSourceUnneeded(t *testing.T) {
	im := mixed(t, block.NewDomain([32]byte{9}))
	c := openCache(t)
	src := im.source()
	src.set(fault.Unavailable)
	d := open(t, im, c, src, Options{})
	if err := d.FillAll(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("FillAll without a source = %v, want Unavailable", err)
	}
	src.set(nil)
	if err := d.FillAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := src.count()
	if err := d.FillAll(t.Context()); err != nil || src.count() != n {
		t.Errorf("FillAll of a full cache = %v and %d requests, want none", err, src.count()-n)
	}
	readAll(t, open(t, im, c, nil, Options{}), im, 5000)
}

// The order in which requests start, when there is one place and all kinds wait.
func TestDemandOvertakesPrefetch(t *testing.T) {
	im := oneFile(t, 64)
	synctest.Test(t, func(t *testing.T) {
		c := openCache(t)
		src := im.source()
		s := NewScheduler(SchedulerOptions{Parallel: 1})
		d := open(t, im, c, src, Options{Scheduler: s, Ahead: 64 << 10})
		src.gate = func(ctx context.Context, _ []block.Name) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { d.FillAll(ctx) })
		time.Sleep(500 * time.Millisecond) // the first of many fills is under way
		wg.Go(func() { d.Prefetch(ctx, im.trace(run(500, 100))) })
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		if err := d.ReadAt(ctx, make([]byte, 4096), 1000<<16); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("the reader waited %v, want for the request under way and its own", took)
		}
		time.Sleep(5 * time.Second)
		cancel()
		wg.Wait()
		first := func(n int) int { // the place of the call that asked for chunk n
			return slices.IndexFunc(src.calls, func(names []block.Name) bool {
				return slices.Contains(names, im.m.Chunks[n].Name)
			})
		}
		if got := []int{first(0), first(1000), first(500), first(130)}; !slices.IsSorted(got) || got[1] != 1 {
			t.Errorf("fill, read, trace, next fill were requests %v, want them in this order, the read as the second", got)
		}
		d.Close()
		c.Close()
	})
}

func TestPrefetchPausesWhileAReaderWaits(t *testing.T) {
	s := NewScheduler(SchedulerOptions{Parallel: 8})
	start := func(c class) bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.mu.Lock()
		ok := s.may(c)
		s.mu.Unlock()
		if ok {
			return s.acquire(context.WithoutCancel(ctx), c) == nil
		}
		return false
	}
	if !start(demand) {
		t.Fatal("a demand may not start")
	}
	if start(fill) {
		t.Error("a fill starts while a reader waits")
	}
	if !start(trace) || start(trace) {
		t.Error("want one trace request while a reader waits, so that it can be sped up, and no second")
	}
	s.release(demand)
	if !start(trace) || start(fill) {
		t.Error("want a second trace request without readers, and no fill before the trace is over")
	}
	s.release(trace)
	s.release(trace)
	n := 0
	for start(fill) {
		n++
	}
	if n != 7 {
		t.Errorf("%d fills at a time of 8 places, want 7", n)
	}
	if !start(demand) || start(demand) {
		t.Error("want just one place left for a reader")
	}
}

func TestSchedulerForgetsWhoGivesUp(t *testing.T) {
	s := NewScheduler(SchedulerOptions{Parallel: 1})
	if err := s.acquire(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.acquire(ctx, demand); !errors.Is(err, fault.Unavailable) {
		t.Errorf("acquire of who gave up = %v, want Unavailable", err)
	}
	s.release(fill)
	if err := s.acquire(t.Context(), trace); err != nil {
		t.Error(err)
	}
}

func TestRecordedTraceIsTheOrderOfFirstAccess(t *testing.T) {
	im := oneFile(t, 8)
	synctest.Test(t, func(t *testing.T) {
		d := open(t, im, nil, im.source(), Options{})
		read := func(chunk, n int) {
			t.Helper()
			if err := d.ReadAt(t.Context(), make([]byte, n<<16), int64(chunk)<<16); err != nil {
				t.Fatal(err)
			}
		}
		read(1, 1) // before the recording
		d.Record()
		read(10, 3)
		read(11, 4)
		read(2, 2)
		read(15, 1)
		if _, over := d.Recorded(); over {
			t.Error("over at once")
		}
		time.Sleep(RecordTime)
		read(30, 1)
		got, over := d.Recorded()
		want := im.trace(run(10, 5), run(2, 2), run(15, 1))
		if diff := cmp.Diff(want, got); diff != "" || !over {
			t.Errorf("over %v\n%s", over, diff)
		}
		d.Close()
	})
}
