package block

import (
	"context"
	"io"
	"sync"
	"time"

	"zos.internal/internal/fault"
)

// Opener is a Bucket that hands out a range while it arrives.
type Opener interface {
	// Open is Read whose bytes come one after the other: the reader ends with
	// io.EOF after what Read would have returned, or with the error of Read. Its
	// Read is not for several goroutines; ctx ends it, and so does Close.
	Open(ctx context.Context, key string, off, size int64) (io.ReadCloser, error)
}

// pieceBytes is the longest single Read of a bucket that is no Opener.
const pieceBytes = 8 << 20

// pieces reads a range of a bucket that is no Opener. The first piece is read
// when it is made, so that an error is seen where Open returns it.
type pieces struct {
	ctx    context.Context // of the read that it serves
	bucket Bucket
	key    string
	off    int64
	size   int64 // after buf
	buf    []byte
	err    error
}

func openRange(ctx context.Context, b Bucket, key string, off, size int64) (io.ReadCloser, error) {
	if o, ok := b.(Opener); ok {
		return o.Open(ctx, key, off, size)
	}
	p := &pieces{ctx: ctx, bucket: b, key: key, off: off, size: size}
	if p.fill(); p.err != nil && p.err != io.EOF {
		return nil, p.err
	}
	return p, nil
}

func (p *pieces) fill() {
	n := min(p.size, pieceBytes)
	p.buf, p.err = p.bucket.Read(p.ctx, p.key, p.off, n)
	got := int64(len(p.buf))
	switch {
	case p.err != nil:
	case got > n:
		p.buf, p.err = nil, fault.Errorf(fault.Invalid, "read %s: %d bytes instead of %d", p.key, got, n)
	case got < n || n == p.size:
		p.err = io.EOF // after what is in buf
	}
	p.off, p.size = p.off+got, p.size-got
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.buf) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		p.fill()
	}
	n := copy(b, p.buf)
	p.buf = p.buf[n:]
	return n, nil
}

func (p *pieces) Close() error {
	p.buf, p.err = nil, io.EOF
	return nil
}

// open asks the sources for a range until one starts to answer. Where another
// source is left to ask, an answer that stalls ends with errStalled, unless
// patient says to wait as long as the source itself does.
func (m *Mirrors) open(ctx context.Context, key string, off, size int64, skip []bool, patient bool) (io.ReadCloser, int, error) {
	r, i, err := raceFor(ctx, m, key, size, skip, func(race context.Context, b Bucket) (io.ReadCloser, error) {
		// The answer is read after the race, which then must not end it.
		own, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(race, cancel)
		r, err := openRange(own, b, key, off, size)
		if err != nil {
			cancel()
			return nil, err
		}
		if !stop() {
			r.Close()
			return nil, fault.Errorf(fault.Unavailable, "read %s: another source was faster", key)
		}
		return &stream{r: r, cancel: cancel, key: key}, nil
	}, func(r io.ReadCloser) { r.Close() })
	if err != nil {
		return nil, i, err
	}
	left := 0
	for k := range m.sources {
		if k != i && (skip == nil || !skip[k]) {
			left++
		}
	}
	if s := r.(*stream); left > 0 && !patient {
		s.patience = max(m.patience(0), HedgeAfter)
		s.timer = time.AfterFunc(s.patience, s.stalled)
	}
	return r, i, nil
}

// errStalled says that a source stopped in the middle of an answer and may go on.
const errStalled = fault.Kind("stalled")

// stream is an answer under way.
type stream struct {
	r        io.ReadCloser
	cancel   context.CancelFunc
	key      string
	patience time.Duration
	timer    *time.Timer // nil: it may take as long as the source allows

	mu    sync.Mutex
	stall bool
}

func (s *stream) stalled() {
	s.mu.Lock()
	s.stall = true
	s.mu.Unlock()
	s.cancel()
}

// Read waits at most patience for the next bytes.
func (s *stream) Read(b []byte) (int, error) {
	if s.timer != nil {
		s.timer.Reset(s.patience)
	}
	n, err := s.r.Read(b)
	if s.timer != nil {
		s.timer.Stop() // the time of who reads doesn't count
	}
	if err != nil && err != io.EOF {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.stall {
			err = fault.Errorf(fault.Unavailable, "read %s: nothing came for %v: %w", s.key, s.patience, errStalled)
		}
	}
	return n, err
}

func (s *stream) Close() error {
	if s.timer != nil {
		s.timer.Stop()
	}
	defer s.cancel()
	return s.r.Close()
}
