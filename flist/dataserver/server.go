package dataserver

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// maxIdle is how many loops wait for the next request; others are busy.
const maxIdle = 4

// Serve answers the kernel's requests on fuseFD, a /dev/fuse descriptor, until
// ctx ends or the file system is unmounted; both return nil. Requests that are
// under way when ctx ends are left unanswered: a successor asks for them. On a
// kernel that can't send requests again Serve waits for them instead.
//
// The descriptor stays the caller's; it is switched to non-blocking mode.
func Serve(ctx context.Context, fuseFD int, table *Table, open Opener, opt Options) error {
	s, err := newServer(fuseFD, table, open, opt)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

type server struct {
	fd     int // a duplicate of the descriptor
	stop   int // an eventfd that ends the loops
	table  *Table
	open   Opener
	opt    Options
	resend atomic.Bool // the kernel can send requests again
	memory *semaphore.Weighted
	opened func(slot, handle uint64) // told before an OPEN is answered
	closed func(slot, handle uint64) // told before a RELEASE is answered

	mu      sync.Mutex
	readers map[uint64]*device
	cancels map[uint64]func() // of reads under way, by unique
	ended   bool              // nothing is dropped any more

	idle     atomic.Int64
	wg       sync.WaitGroup // loops
	drops    sync.WaitGroup // Readers that drop closes
	stopping atomic.Bool
	failed   atomic.Pointer[error]

	requests, reads, bytes, errs, resent, inflight atomic.Int64
}

// device is the Reader of one slot, opened at its first read.
type device struct {
	mu     sync.Mutex
	r      Reader
	memory *semaphore.Weighted
	errs   atomic.Int64
}

func newServer(fuseFD int, table *Table, open Opener, opt Options) (*server, error) {
	fd, err := unix.FcntlInt(uintptr(fuseFD), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "duplicate the FUSE descriptor %d: %w", fuseFD, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fault.Errorf(fault.Internal, "make the FUSE descriptor non-blocking: %w", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, fault.Errorf(fault.Internal, "make an eventfd: %w", err)
	}
	opt = opt.withDefaults()
	return &server{
		fd:      fd,
		stop:    stop,
		table:   table,
		open:    open,
		opt:     opt,
		memory:  semaphore.NewWeighted(opt.MaxMemory),
		opened:  func(uint64, uint64) {},
		closed:  func(uint64, uint64) {},
		readers: make(map[uint64]*device),
		cancels: make(map[uint64]func()),
	}, nil
}

func (s *server) run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.stopping.Store(true)
		_, _ = unix.Write(s.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		if s.resend.Load() {
			cancel()
		}
	})
	for range maxIdle {
		s.spawn(work)
	}
	s.wg.Wait()
	if !stop() {
		<-stopped
	}
	s.closeReaders()
	unix.Close(s.fd)
	unix.Close(s.stop)
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *server) stats() Stats {
	return Stats{
		Requests: s.requests.Load(), Reads: s.reads.Load(), Bytes: s.bytes.Load(),
		Errors: s.errs.Load(), Resent: s.resent.Load(), Inflight: s.inflight.Load(),
	}
}

func (s *server) spawn(ctx context.Context) {
	s.idle.Add(1)
	s.wg.Go(func() { s.loop(ctx) })
}

// loop waits for a request in a thread of its own and works on it, while other
// threads wait for the next one: a fast answer needs no other thread, and a slow
// one holds nothing up.
func (s *server) loop(ctx context.Context) {
	w, err := newWaiter(s.fd, s.stop)
	if err != nil {
		s.fail(fault.Errorf(fault.Of(err), "wait for requests of /dev/fuse: %w", err))
		return
	}
	defer w.close()
	buf := make([]byte, bufferLen)
	for {
		n, err := w.next(buf)
		if s.idle.Add(-1) == 0 && err == nil {
			s.spawn(ctx)
		}
		switch err {
		case nil:
			s.handle(ctx, buf[:n])
		case unix.ENODEV, errStopped:
			return // unmounted, or told to stop; the other loops see it too
		default:
			s.fail(fault.Errorf(fault.Internal, "read from /dev/fuse: %w", err))
			return
		}
		if s.idle.Add(1) > maxIdle {
			s.idle.Add(-1)
			return
		}
	}
}

// fail ends the server with an error.
func (s *server) fail(err error) {
	if s.failed.CompareAndSwap(nil, &err) {
		_, _ = unix.Write(s.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// handle answers one request. Nothing in it may panic, whatever the bytes are.
func (s *server) handle(ctx context.Context, msg []byte) {
	h, body, err := parseRequest(msg)
	if err != nil {
		s.opt.Log.Error("fuse request refused", "error", err)
		return
	}
	s.requests.Add(1)
	if h.Unique&uniqueResend != 0 {
		s.resent.Add(1)
	}
	switch h.Opcode {
	case opForget, opBatchForget: // have no answer; node ids are slot numbers and hold nothing
	case opInterrupt:
		if u, err := parseUint64("interrupt", body); err == nil {
			s.interrupt(u)
		}
	case opRead:
		s.read(ctx, h, body)
	default:
		out, errno := s.answer(h, body)
		s.reply(h.Unique, errno, out)
	}
}

// answer handles what needs no data.
func (s *server) answer(h header, body []byte) ([]byte, unix.Errno) {
	root := h.Node == rootNode
	slot, ok := s.table.Get(h.Node)
	switch h.Opcode {
	case opInit:
		p, err := parseInit(body)
		if err != nil {
			s.opt.Log.Error("fuse init refused", "error", err)
			return nil, unix.EPROTO
		}
		s.resend.Store(p.Resend)
		return initOut(p), 0
	case opDestroy, opReleasedir:
		return nil, 0
	case opStatfs:
		return statfsOut(s.table.Slots()), 0
	case opLookup:
		name, err := parseName(body)
		if err != nil {
			return nil, unix.EINVAL
		}
		found, ok := s.table.Lookup(name)
		if !root || !ok {
			return nil, unix.ENOENT
		}
		return entryOut(&found), 0
	case opGetattr:
		if root {
			return attrOut(nil), 0
		}
		if !ok {
			return nil, unix.ENOENT
		}
		return attrOut(&slot), 0
	case opOpendir:
		if !root {
			return nil, unix.ENOTDIR
		}
		return openOut(0, 0), 0
	case opReaddir:
		in, err := parseRead(body)
		if err != nil || !root {
			return nil, unix.EINVAL
		}
		return direntsOut(s.table.Slots(), in.Offset, in.Size), 0
	case opOpen:
		if len(body) < 4 {
			return nil, unix.EINVAL
		}
		if body[0]&unix.O_ACCMODE != unix.O_RDONLY {
			return nil, unix.EROFS
		}
		if !ok {
			return nil, unix.ENOENT
		}
		// A request that is sent again keeps its number, so its handle is the
		// same and is counted once.
		handle := h.Unique &^ uniqueResend
		s.opened(slot.Num, handle)
		return openOut(handle, fopenDirectIO), 0
	case opRelease:
		if handle, err := parseUint64("release", body); err == nil {
			s.closed(h.Node, handle)
		}
		return nil, 0
	}
	return nil, unix.ENOSYS
}

// reply sends an answer without copying its parts together. ENOENT means that
// nobody waits for it any more.
func (s *server) reply(unique uint64, errno unix.Errno, body []byte) {
	if errno != 0 {
		body = nil
	}
	head := outHeader(unique, errno, len(body))
	var err error
	if len(body) == 0 {
		_, err = unix.Write(s.fd, head)
	} else {
		_, err = unix.Writev(s.fd, [][]byte{head, body})
	}
	if err != nil && err != unix.ENOENT && err != unix.ENODEV {
		s.opt.Log.Error("fuse answer not taken", "unique", unique, "error", err)
	}
}

func (s *server) interrupt(unique uint64) {
	s.mu.Lock()
	cancel := s.cancels[unique]
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
