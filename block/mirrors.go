package block

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// EventKind says what an Event reports.
type EventKind string

// The kinds of events of a read.
const (
	WrongBytes EventKind = "wrong_bytes" // a source served bytes that are not the content; it was demoted
	WrongPlace EventKind = "wrong_place" // all sources agree on bytes that are not the chunk: the locator is wrong
	SourceDown EventKind = "source_down" // a source failed and another was asked
	Hedged     EventKind = "hedged"      // a source was slow and another was asked as well
)

// Event reports what an operator would want to know about a read that still
// may have succeeded. Chunk is zero where the event is about a whole key.
type Event struct {
	Kind   EventKind
	Source string
	Key    string
	Chunk  Name
	Err    error
}

// Source is one bucket of several that hold the same files, with the name that
// events use.
type Source struct {
	Name   string
	Bucket Bucket
	// Near says that asking it costs no round trip, as of a directory of this
	// machine.
	Near bool
}

// HedgeAfter is how long a read waits for the first source before it asks the
// second one too, until enough reads were made to know their 95th percentile.
const HedgeAfter = 500 * time.Millisecond

const (
	hedgeMin    = 50 * time.Millisecond
	hedgeMax    = 5 * time.Second
	hedgePerMiB = 100 * time.Millisecond // a large range takes longer on a slow line
	downFor     = 30 * time.Second
	latencies   = 64
	enough      = 20 // latencies to trust the percentile
)

// Mirrors reads from the first of several sources that answers. A source that
// fails is asked last for 30 seconds; one that served wrong bytes is asked
// after all that did not. A source that is slow is hedged: the next one is asked
// too and the first answer counts.
//
// As a Bucket it is read only. Read does not check bytes; ReadChecked does. A
// read that lost the race is cancelled and ends on its own.
type Mirrors struct {
	sources []Source
	onEvent func(Event)
	clock   clock.Clock

	mu    sync.Mutex
	state []sourceState
	took  []time.Duration // ring of the latest successful reads
	next  int
}

type sourceState struct {
	strikes   int
	downUntil time.Time
}

var _ Bucket = (*Mirrors)(nil)

// NewMirrors reads from sources in the given order of preference. onEvent may be
// nil; it is called by several goroutines and must not block.
func NewMirrors(onEvent func(Event), sources ...Source) *Mirrors {
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	return &Mirrors{
		sources: sources,
		onEvent: onEvent,
		clock:   clock.System{},
		state:   make([]sourceState, len(sources)),
	}
}

// Near are the sources that cost no round trip, Far the others; nil if there are
// none. What they learn about sources is their own.
func (m *Mirrors) Near() *Mirrors { return m.only(true) }

// Far is the rest of Near.
func (m *Mirrors) Far() *Mirrors { return m.only(false) }

func (m *Mirrors) only(near bool) *Mirrors {
	var some []Source
	for _, s := range m.sources {
		if s.Near == near {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return &Mirrors{sources: some, onEvent: m.onEvent, clock: m.clock, state: make([]sourceState, len(some))}
}

// order is the sources to ask, best first, without those in skip.
func (m *Mirrors) order(skip []bool) []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	var is []int
	for i := range m.sources {
		if skip == nil || !skip[i] {
			is = append(is, i)
		}
	}
	down := func(i int) int {
		if now.Before(m.state[i].downUntil) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(is, func(a, b int) int {
		return cmp.Or(cmp.Compare(m.state[a].strikes, m.state[b].strikes), cmp.Compare(down(a), down(b)))
	})
	return is
}

// blame demotes a source that served wrong bytes.
func (m *Mirrors) blame(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state[i].strikes++
}

func (m *Mirrors) failed(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state[i].downUntil = m.clock.Now().Add(downFor)
}

func (m *Mirrors) worked(i int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state[i].downUntil = time.Time{}
	if len(m.took) < latencies {
		m.took = append(m.took, took)
		return
	}
	m.took[m.next] = took
	m.next = (m.next + 1) % latencies
}

// patience is how long to wait for size bytes before a second source is asked.
func (m *Mirrors) patience(size int64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.took) < enough {
		return HedgeAfter + time.Duration(size>>20)*hedgePerMiB
	}
	s := slices.Sorted(slices.Values(m.took))
	return min(max(s[len(s)*95/100], hedgeMin), hedgeMax)
}

// race asks the sources until one answers and returns which one it was. The
// error is of the kind that leaves most hope: Unavailable before Invalid before
// others before NotFound.
func race[T any](ctx context.Context, m *Mirrors, key string, size int64, skip []bool, ask func(context.Context, Bucket) (T, error)) (T, int, error) {
	return raceFor(ctx, m, key, size, skip, ask, func(T) {})
}

// raceFor is race for answers that hold something: drop gives those back that
// came too late.
func raceFor[T any](ctx context.Context, m *Mirrors, key string, size int64, skip []bool, ask func(context.Context, Bucket) (T, error), drop func(T)) (T, int, error) {
	type answer struct {
		v   T
		i   int
		err error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, -1, fault.Errorf(fault.Unavailable, "read %s: %w", key, err)
	}
	order := m.order(skip)
	if len(order) == 0 {
		return none, -1, fault.Errorf(fault.NotFound, "read %s: no source is left to ask", key)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(order))
	started, running := 0, 0
	defer func() {
		if running == 0 {
			return
		}
		go func(n int) { // they were cancelled and end soon
			for range n {
				if a := <-answers; a.err == nil {
					drop(a.v)
				}
			}
		}(running)
	}()
	start := func() {
		i := order[started]
		started++
		running++
		go func() {
			begin := m.clock.Now()
			v, err := ask(ctx, m.sources[i].Bucket)
			if err == nil {
				m.worked(i, clock.Since(m.clock, begin))
			}
			answers <- answer{v, i, err}
		}()
	}
	patience := m.patience(size)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	start()
	var worst error
	for {
		select {
		case <-ctx.Done():
			return none, -1, fault.Errorf(fault.Unavailable, "read %s: %w", key, ctx.Err())
		case <-timer.C:
			if started < len(order) {
				m.onEvent(Event{Kind: Hedged, Source: m.sources[order[started-1]].Name, Key: key,
					Err: fault.Errorf(fault.Unavailable, "no answer after %v", patience)})
				start()
				timer.Reset(patience)
			}
		case a := <-answers:
			running--
			if a.err == nil {
				return a.v, a.i, nil
			}
			if ctx.Err() != nil {
				return none, -1, fault.Errorf(fault.Unavailable, "read %s: %w", key, ctx.Err())
			}
			m.note(key, a.i, a.err)
			if worst == nil || hope(a.err) > hope(worst) {
				worst = a.err
			}
			if started < len(order) {
				start()
				timer.Reset(patience)
			} else if running == 0 {
				return none, -1, fmt.Errorf("ask %d sources: %w", len(order), worst)
			}
		}
	}
}

// note reports and remembers the failure of a source.
func (m *Mirrors) note(key string, i int, err error) {
	switch fault.Of(err) {
	case fault.NotFound:
		return
	case fault.Invalid:
		m.blame(i)
		m.onEvent(Event{Kind: WrongBytes, Source: m.sources[i].Name, Key: key, Err: err})
	default:
		m.failed(i)
		m.onEvent(Event{Kind: SourceDown, Source: m.sources[i].Name, Key: key, Err: err})
	}
}

func hope(err error) int {
	switch fault.Of(err) {
	case fault.Unavailable:
		return 4
	case fault.Invalid:
		return 3
	case fault.NotFound:
		return 1
	}
	return 2
}

func (m *Mirrors) read(ctx context.Context, key string, off, size int64, skip []bool) ([]byte, int, error) {
	return race(ctx, m, key, size, skip, func(ctx context.Context, b Bucket) ([]byte, error) {
		p, err := b.Read(ctx, key, off, size)
		if err == nil && int64(len(p)) > size {
			err = fault.Errorf(fault.Invalid, "read %s: %d bytes instead of %d", key, len(p), size)
		}
		return p, err
	})
}

// Read implements Bucket.
func (m *Mirrors) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	if err := checkRange(key, off, size); err != nil {
		return nil, err
	}
	b, _, err := m.read(ctx, key, off, size, nil)
	return b, err
}

// ReadChecked reads like Read and returns the first answer that check accepts.
// A source whose answer it refuses is demoted and reported, and the next one is
// asked. It is how files with a name or a signature are read.
func (m *Mirrors) ReadChecked(ctx context.Context, key string, off, size int64, check func([]byte) error) ([]byte, error) {
	if err := checkRange(key, off, size); err != nil {
		return nil, err
	}
	skip := make([]bool, len(m.sources))
	var wrong error
	for {
		b, i, err := m.read(ctx, key, off, size, skip)
		if err != nil {
			if wrong != nil && hope(wrong) > hope(err) {
				err = wrong
			}
			return nil, err
		}
		if err = check(b); err == nil {
			return b, nil
		}
		wrong = fault.Errorf(fault.Invalid, "read %s from %s: wrong bytes: %w", key, m.sources[i].Name, err)
		m.note(key, i, wrong)
		skip[i] = true
	}
}

// Stat implements Bucket.
func (m *Mirrors) Stat(ctx context.Context, key string) (int64, error) {
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	n, _, err := race(ctx, m, key, 0, nil, func(ctx context.Context, b Bucket) (int64, error) { return b.Stat(ctx, key) })
	return n, err
}

// List implements Bucket. When a source fails in the middle the next one goes on
// after the last key.
func (m *Mirrors) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := CheckPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		last := ""
		var worst error
		for _, i := range m.order(nil) {
			var failed error
			for key, err := range m.sources[i].Bucket.List(ctx, prefix) {
				if err != nil {
					failed = err
					break
				}
				if key <= last {
					continue
				}
				last = key
				if !yield(key, nil) {
					return
				}
			}
			if failed == nil {
				return
			}
			m.note(prefix, i, failed)
			if worst == nil || hope(failed) > hope(worst) {
				worst = failed
			}
		}
		if worst == nil {
			worst = fault.Errorf(fault.NotFound, "list %q: there is no source", prefix)
		}
		yield("", worst)
	}
}

// Write is Unsupported: publish to one bucket and let the others copy it.
func (m *Mirrors) Write(ctx context.Context, key string, r io.Reader) error {
	return fault.Errorf(fault.Unsupported, "write %s: mirrors are read only; write to one of them", key)
}

// Delete is Unsupported.
func (m *Mirrors) Delete(ctx context.Context, key string) error {
	return fault.Errorf(fault.Unsupported, "delete %s: mirrors are read only; delete in each of them", key)
}
