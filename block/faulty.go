package block

import (
	"bytes"
	"context"
	"io"
	"iter"
	"sync"
	"time"

	"zos.internal/internal/fault"
)

// Damage is what a Faulty bucket does to one operation.
type Damage int

// The sorts of damage. Those that need bytes do nothing to an answer without
// any.
const (
	NoDamage  Damage = iota
	Fails            // the operation fails as Unavailable
	Truncates        // the last byte, or half of the bytes, are missing
	Flips            // one bit is wrong
	Swaps            // the bytes are those of another key, or of another place
	Doubles          // the bytes are there twice, cut to the length asked for
	IsStale          // the bytes are what was there before the last Write, or zeros
	TooMuch          // more bytes than were asked for
	Breaks           // fails after N bytes: a Write that took them, a Read that lost them
)

// Lies are the sorts of damage that answer wrong bytes without an error.
func Lies() []Damage { return []Damage{Truncates, Flips, Swaps, Doubles, IsStale, TooMuch} }

// Faulty is a Bucket for tests that damages the operations of another one. Plan
// says what happens to the n-th operation, counted from 0; it is called by one
// goroutine at a time. The zero Plan damages nothing.
type Faulty struct {
	Bucket Bucket
	Plan   func(n int, op, key string) Damage
	// Delay waits before every operation; it ends with the context.
	Delay time.Duration
	// N is the number of bytes after which Breaks breaks.
	N int64
	// Seed moves the byte that Flips hits and the place that Swaps takes.
	Seed int64

	mu    sync.Mutex
	count int
	stale map[string][]byte
}

var _ Bucket = (*Faulty)(nil)

// Always damages every Read alike.
func Always(d Damage) func(int, string, string) Damage {
	return func(_ int, op, _ string) Damage {
		if op == "read" {
			return d
		}
		return NoDamage
	}
}

func (f *Faulty) next(ctx context.Context, op, key string) (Damage, error) {
	if f.Delay > 0 {
		if err := sleepTimer(ctx, f.Delay); err != nil {
			return 0, fault.Errorf(fault.Unavailable, "%s %s: %w", op, key, err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := NoDamage
	if f.Plan != nil {
		d = f.Plan(f.count, op, key)
	}
	f.count++
	if d == Fails {
		return d, fault.Errorf(fault.Unavailable, "%s %s: made to fail", op, key)
	}
	return d, nil
}

// Count is the number of operations so far.
func (f *Faulty) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// Read implements Bucket, damaged.
func (f *Faulty) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	d, err := f.next(ctx, "read", key)
	if err != nil {
		return nil, err
	}
	b, err := f.Bucket.Read(ctx, key, off, size)
	if err != nil || len(b) == 0 {
		return b, err
	}
	n := int64(len(b))
	switch d {
	case Truncates:
		if f.Seed%2 == 0 {
			return b[:n-1], nil
		}
		return b[:n/2], nil
	case Flips:
		b[f.Seed%n] ^= 1 << (f.Seed % 8)
	case Swaps:
		return f.swapped(ctx, key, off, b)
	case Doubles:
		copy(b[n/2:], bytes.Clone(b[:n-n/2]))
		b[n-1]++ // differs even if the halves were equal
	case IsStale:
		f.mu.Lock()
		old := f.stale[key]
		f.mu.Unlock()
		if int64(len(old)) < off+n {
			return make([]byte, n), nil
		}
		return bytes.Clone(old[off : off+n]), nil
	case TooMuch:
		return append(b, make([]byte, size-n+1+f.Seed)...), nil
	case Breaks:
		return nil, fault.Errorf(fault.Unavailable, "read %s: made to break after %d bytes", key, f.N)
	}
	return b, nil
}

// swapped is as many bytes as b of another key, or of the same key at another
// place, that are not b.
func (f *Faulty) swapped(ctx context.Context, key string, off int64, b []byte) ([]byte, error) {
	for other, err := range f.Bucket.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		shift := off
		if other == key {
			shift = off + 1 + f.Seed
		}
		o, err := f.Bucket.Read(ctx, other, shift, int64(len(b)))
		if err == nil && len(o) == len(b) && !bytes.Equal(o, b) {
			return o, nil
		}
	}
	b[0]++
	return b, nil
}

// Write implements Bucket. A Write that Breaks takes N bytes and fails; the
// bucket below sees a reader that fails.
func (f *Faulty) Write(ctx context.Context, key string, r io.Reader) error {
	d, err := f.next(ctx, "write", key)
	if err != nil {
		return err
	}
	if d == Breaks {
		broken := fault.Errorf(fault.Unavailable, "write %s: made to break after %d bytes", key, f.N)
		r = io.MultiReader(io.LimitReader(r, f.N), errReader{broken})
	}
	if size, err := f.Bucket.Stat(ctx, key); err == nil {
		if old, err := f.Bucket.Read(ctx, key, 0, size); err == nil {
			f.mu.Lock()
			if f.stale == nil {
				f.stale = map[string][]byte{}
			}
			f.stale[key] = old
			f.mu.Unlock()
		}
	}
	return f.Bucket.Write(ctx, key, r)
}

// Stat implements Bucket.
func (f *Faulty) Stat(ctx context.Context, key string) (int64, error) {
	if _, err := f.next(ctx, "stat", key); err != nil {
		return 0, err
	}
	return f.Bucket.Stat(ctx, key)
}

// List implements Bucket. A List that Breaks fails after N keys.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		d, err := f.next(ctx, "list", prefix)
		if err != nil {
			yield("", err)
			return
		}
		left := f.N
		for key, err := range f.Bucket.List(ctx, prefix) {
			if d == Breaks && left == 0 {
				yield("", fault.Errorf(fault.Unavailable, "list %q: made to break after %d keys", prefix, f.N))
				return
			}
			left--
			if !yield(key, err) {
				return
			}
		}
	}
}

// Delete implements Bucket.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	if _, err := f.next(ctx, "delete", key); err != nil {
		return err
	}
	return f.Bucket.Delete(ctx, key)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
