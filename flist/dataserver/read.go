package dataserver

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// errInterrupted is the cause of a read that the process gave up.
var errInterrupted = errors.New("the process gave the read up")

// buffers for answers in two sizes: most reads are small.
var smallBuffers, largeBuffers = newPool(64 << 10), newPool(maxRead)

func newPool(n int) *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, n); return &b }}
}

func getBuffer(n int) (*[]byte, *sync.Pool) {
	pool := largeBuffers
	if n <= 64<<10 {
		pool = smallBuffers
	}
	return pool.Get().(*[]byte), pool
}

// read answers a READ: with bytes, or with EIO and an event, but always, and
// at the latest when the deadline passes, even if the Reader never returns.
func (s *server) read(ctx context.Context, h header, body []byte) {
	in, err := parseRead(body)
	slot, ok := s.table.Get(h.Node)
	if err != nil || !ok {
		s.reply(h.Unique, unix.EIO, nil)
		return
	}
	n := int64(0)
	if in.Offset < uint64(slot.Size) {
		n = min(int64(in.Size), maxRead, slot.Size-int64(in.Offset))
	}
	if n == 0 {
		s.reply(h.Unique, 0, nil)
		return
	}
	s.reads.Add(1)
	s.inflight.Add(1)
	defer s.inflight.Add(-1)

	ctx, stop := context.WithTimeout(ctx, s.opt.ReadTimeout)
	defer stop()
	ctx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	s.mu.Lock()
	s.cancels[h.Unique] = func() { interrupt(errInterrupted) }
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.cancels, h.Unique)
		s.mu.Unlock()
	}()

	d := s.device(slot)
	// Exactly one of the Reader's end and the deadline answers.
	var answered atomic.Bool
	answer := func(data []byte, err error) {
		if answered.Swap(true) {
			return
		}
		s.finish(ctx, h.Unique, slot, d, in, data, err)
	}
	defer context.AfterFunc(ctx, func() { answer(nil, context.Cause(ctx)) })()

	err = s.locked(ctx, d, n, func() error {
		r, err := d.reader(slot, s.open)
		if err != nil {
			return err
		}
		buf, pool := getBuffer(int(n))
		defer pool.Put(buf)
		if err := r.ReadAt(ctx, (*buf)[:n], int64(in.Offset)); err != nil {
			return err
		}
		answer((*buf)[:n], nil)
		return nil
	})
	if err != nil {
		answer(nil, err)
	}
}

// locked runs f while n bytes of memory are reserved for the slot.
func (s *server) locked(ctx context.Context, d *device, n int64, f func() error) error {
	if err := d.memory.Acquire(ctx, n); err != nil {
		return err
	}
	defer d.memory.Release(n)
	if err := s.memory.Acquire(ctx, n); err != nil {
		return err
	}
	defer s.memory.Release(n)
	return f()
}

func (s *server) finish(ctx context.Context, unique uint64, slot Slot, d *device, in readIn, data []byte, err error) {
	switch {
	case err == nil:
		s.bytes.Add(int64(len(data)))
		s.reply(unique, 0, data)
		return
	case context.Cause(ctx) == errInterrupted:
		s.reply(unique, unix.EINTR, nil)
		return
	case s.stopping.Load() && s.resend.Load():
		return // the successor answers it
	}
	s.errs.Add(1)
	s.reply(unique, unix.EIO, nil)
	kind := "read"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = "deadline"
	}
	// An image whose source is gone must not fill the log: lines 1, 2, 4, 8, …
	if n := d.errs.Add(1); n&(n-1) == 0 {
		s.opt.Log.Error("read failed", "failures", n, "image", slot.Name, "offset", in.Offset, "length", in.Size, "kind", kind, "error", err)
	}
	s.opt.OnEvent(Event{Kind: kind, Slot: slot.Num, Name: slot.Name, Offset: int64(in.Offset), Length: int(in.Size), Error: err.Error()})
}

func (s *server) device(slot Slot) *device {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.readers[slot.Num]
	if d == nil {
		d = &device{memory: semaphore.NewWeighted(s.opt.MaxMemory / 2)}
		s.readers[slot.Num] = d
	}
	return d
}

// reader opens the device at its first use. A failed open is tried again at
// the next read.
func (d *device) reader(slot Slot, open Opener) (Reader, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.r == nil {
		r, err := open(slot)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "open the data of image %s: %w", slot.Name, err)
		}
		d.r = r
	}
	return d.r, nil
}

// drop closes the Reader of a slot that is gone, which may take a while, and
// then calls done. run waits for it.
func (s *server) drop(num uint64, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return // closeReaders has it
	}
	d := s.readers[num]
	delete(s.readers, num)
	s.drops.Go(func() {
		if d != nil {
			d.close()
		}
		done()
	})
}

func (d *device) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, ok := d.r.(io.Closer); ok {
		c.Close()
	}
	d.r = nil
}

func (s *server) closeReaders() {
	s.mu.Lock()
	ds := s.readers
	s.readers = make(map[uint64]*device)
	s.ended = true
	s.mu.Unlock()
	for _, d := range ds {
		d.close()
	}
	s.drops.Wait()
}
