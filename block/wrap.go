package block

import (
	"context"
	"io"
	"iter"
	"sync/atomic"

	"zos.internal/internal/fault"
)

// Limit is a Bucket that lets at most n operations run at a time; the others
// wait for their turn or for the end of their context. An operation lasts until
// it returns, a List until its iteration ends, so the body of a List must not
// call a Limit that is full.
type Limit struct {
	b     Bucket
	turns chan struct{}
}

var _ Bucket = (*Limit)(nil)

// NewLimit allows n operations on b at a time, at least one.
func NewLimit(b Bucket, n int) *Limit {
	return &Limit{b, make(chan struct{}, max(n, 1))}
}

func (l *Limit) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.Errorf(fault.Unavailable, "wait for a turn: %w", err)
	}
	select {
	case l.turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fault.Errorf(fault.Unavailable, "wait for a turn: %w", ctx.Err())
	}
}

func (l *Limit) leave() { <-l.turns }

// Read implements Bucket.
func (l *Limit) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	defer l.leave()
	return l.b.Read(ctx, key, off, size)
}

// Write implements Bucket.
func (l *Limit) Write(ctx context.Context, key string, r io.Reader) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.leave()
	return l.b.Write(ctx, key, r)
}

// Stat implements Bucket.
func (l *Limit) Stat(ctx context.Context, key string) (int64, error) {
	if err := l.enter(ctx); err != nil {
		return 0, err
	}
	defer l.leave()
	return l.b.Stat(ctx, key)
}

// List implements Bucket.
func (l *Limit) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := l.enter(ctx); err != nil {
			yield("", err)
			return
		}
		defer l.leave()
		l.b.List(ctx, prefix)(yield)
	}
}

// Delete implements Bucket.
func (l *Limit) Delete(ctx context.Context, key string) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.leave()
	return l.b.Delete(ctx, key)
}

// ReadOnly is a Bucket that refuses Write and Delete as Denied.
type ReadOnly struct{ Bucket }

var _ Bucket = ReadOnly{}

// Write is Denied.
func (ReadOnly) Write(ctx context.Context, key string, r io.Reader) error {
	return fault.Errorf(fault.Denied, "write %s: this store is read only; choose another one to write to", key)
}

// Delete is Denied.
func (ReadOnly) Delete(ctx context.Context, key string) error {
	return fault.Errorf(fault.Denied, "delete %s: this store is read only; choose another one to delete in", key)
}

// Counting is a Bucket that counts what is asked of another one. The counters
// may be read at any time.
type Counting struct {
	Bucket Bucket
	// Operations that were started.
	Reads, Writes, Stats, Lists, Deletes atomic.Int64
	// Operations that failed, NotFound included.
	Errors atomic.Int64
	// Bytes that were answered and that were taken.
	BytesRead, BytesWritten atomic.Int64
}

var _ Bucket = (*Counting)(nil)

// Requests is the number of operations of every sort.
func (c *Counting) Requests() int64 {
	return c.Reads.Load() + c.Writes.Load() + c.Stats.Load() + c.Lists.Load() + c.Deletes.Load()
}

func (c *Counting) note(err error) error {
	if err != nil {
		c.Errors.Add(1)
	}
	return err
}

// Read implements Bucket.
func (c *Counting) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	c.Reads.Add(1)
	b, err := c.Bucket.Read(ctx, key, off, size)
	c.BytesRead.Add(int64(len(b)))
	return b, c.note(err)
}

// Write implements Bucket.
func (c *Counting) Write(ctx context.Context, key string, r io.Reader) error {
	c.Writes.Add(1)
	var w io.Reader = &countingReader{r, &c.BytesWritten}
	if s, ok := r.(io.Seeker); ok {
		w = struct {
			io.Reader
			io.Seeker
		}{w, s}
	}
	return c.note(c.Bucket.Write(ctx, key, w))
}

// Stat implements Bucket.
func (c *Counting) Stat(ctx context.Context, key string) (int64, error) {
	c.Stats.Add(1)
	n, err := c.Bucket.Stat(ctx, key)
	return n, c.note(err)
}

// List implements Bucket.
func (c *Counting) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		c.Lists.Add(1)
		for key, err := range c.Bucket.List(ctx, prefix) {
			if !yield(key, c.note(err)) {
				return
			}
		}
	}
}

// Delete implements Bucket.
func (c *Counting) Delete(ctx context.Context, key string) error {
	c.Deletes.Add(1)
	return c.note(c.Bucket.Delete(ctx, key))
}

type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}
