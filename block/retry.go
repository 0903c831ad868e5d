package block

import (
	"context"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"zos.internal/internal/fault"
)

// Retry is a Bucket that repeats what failed as Unavailable, with a wait that
// doubles and varies. Other errors are final. A Write is repeated only if its
// reader can seek to where it started; List goes on after the last key.
type Retry struct {
	Bucket Bucket
	// Tries is how often an operation is tried in all; 0 is 4.
	Tries int
	// Base is the wait before the second try, at most Max; 0 is 200 ms and 5 s.
	// A wait is between half of the doubled one and all of it.
	Base, Max time.Duration
	// Sleep waits; nil is a timer. It returns early with the error of ctx.
	Sleep func(ctx context.Context, d time.Duration) error
}

var _ Bucket = (*Retry)(nil)

// do repeats op until it succeeds, fails for good or again says no.
func (r *Retry) do(ctx context.Context, op func() error, again func() bool) error {
	tries, base, most := r.Tries, r.Base, r.Max
	if tries <= 0 {
		tries = 4
	}
	if base <= 0 {
		base = 200 * time.Millisecond
	}
	if most <= 0 {
		most = 5 * time.Second
	}
	sleep := r.Sleep
	if sleep == nil {
		sleep = sleepTimer
	}
	for wait := min(base, most); ; wait = min(2*wait, most) {
		err := op()
		tries--
		if err == nil || fault.Of(err) != fault.Unavailable || tries == 0 || ctx.Err() != nil {
			return err
		}
		if again != nil && !again() {
			return err
		}
		if sleep(ctx, wait/2+rand.N(wait/2+1)) != nil {
			return err
		}
	}
}

func sleepTimer(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Read implements Bucket.
func (r *Retry) Read(ctx context.Context, key string, off, size int64) (b []byte, err error) {
	err = r.do(ctx, func() (err error) {
		b, err = r.Bucket.Read(ctx, key, off, size)
		return err
	}, nil)
	return b, err
}

// Write implements Bucket.
func (r *Retry) Write(ctx context.Context, key string, src io.Reader) error {
	seeker, _ := src.(io.Seeker)
	var start int64
	if seeker != nil {
		var err error
		if start, err = seeker.Seek(0, io.SeekCurrent); err != nil {
			seeker = nil
		}
	}
	return r.do(ctx, func() error { return r.Bucket.Write(ctx, key, src) }, func() bool {
		if seeker == nil {
			return false
		}
		_, err := seeker.Seek(start, io.SeekStart)
		return err == nil
	})
}

// Stat implements Bucket.
func (r *Retry) Stat(ctx context.Context, key string) (n int64, err error) {
	err = r.do(ctx, func() (err error) {
		n, err = r.Bucket.Stat(ctx, key)
		return err
	}, nil)
	return n, err
}

// List implements Bucket.
func (r *Retry) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		last, stopped := "", false
		err := r.do(ctx, func() error {
			for key, err := range r.Bucket.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if key <= last {
					continue
				}
				last = key
				if !yield(key, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		}, nil)
		if err != nil && !stopped {
			yield("", err)
		}
	}
}

// Delete implements Bucket.
func (r *Retry) Delete(ctx context.Context, key string) error {
	return r.do(ctx, func() error { return r.Bucket.Delete(ctx, key) }, nil)
}
