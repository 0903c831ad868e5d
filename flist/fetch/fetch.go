// Package fetch is the device behind a lazily mounted image: it makes the bytes
// of the device out of chunks that are on the disk or still at a source.
//
// A Device reads from the node's cache, asks for all chunks that a read lacks
// together with the ones behind them in one call, and reads ahead of streams.
// A Scheduler is shared by all devices of a machine: chunks that several want
// are loaded once, recently loaded ones stay in a small memory, and what a
// reader waits for goes before read-ahead, a trace, and the idle fill of a
// whole image.
//
// A reader gets right bytes or an error: chunks come checked from the cache and
// from the Getter. A read that isn't answered within the deadline fails with
// Unavailable and an Event; the next one tries again, so a device recovers when
// its sources do. The package doesn't speak FUSE and knows no hub.
//
//	s := fetch.NewScheduler(fetch.SchedulerOptions{})
//	d, err := fetch.New(view, size, nodeCache, source, fetch.Options{Image: id, Scheduler: s})
//	if err != nil {
//		return err
//	}
//	defer d.Close()
//	go d.Prefetch(ctx, trace)
//	err = d.ReadAt(ctx, p, off)
package fetch

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist/chunkmap"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Options describe a device. Only Image has no useful zero value.
type Options struct {
	Image     string // the image's id, for events
	Domain    block.Domain
	Scheduler *Scheduler // nil: one of its own

	Deadline time.Duration // of every read and every request; 0: 60 s
	Ahead    int64         // first read-ahead in bytes; 0: 512 KiB
	MaxAhead int64         // most read-ahead of a sequential stream; 0: 4 MiB
	Streams  int           // requests at a time of Prefetch and FillAll, 1 to 4; 0: 2
	Budget   int64         // most plain bytes of one Prefetch; 0: 256 MiB

	Clock   clock.Clock // nil: the system's
	OnEvent func(Event) // called without locks held, from any goroutine; may be nil
}

// EventKind is what happened to a device.
type EventKind string

// The kinds of events.
const (
	Unreadable EventKind = "unreadable" // a read failed, because a chunk could not be had
	Readable   EventKind = "readable"   // a chunk came from a source again
)

// Event tells an operator why a workload saw an error, and when that is over.
type Event struct {
	Kind  EventKind
	Image string
	Chunk block.Name
	Err   error
}

// Stats are the counters of a device since New. Requests are calls of the
// Getter; Bytes are plain bytes that came from it.
type Stats struct {
	Reads, ReadBytes int64

	MemoryHits int64 // chunk reads answered from memory
	CacheHits  int64 // chunk reads answered from the cache disk
	Shared     int64 // chunk reads that joined a load under way
	Failed     int64 // reads that failed

	DemandRequests, AheadRequests, TraceRequests, FillRequests int64
	DemandBytes, AheadBytes, TraceBytes, FillBytes             int64
}

// Device is the data device of one image. It is safe for concurrent use.
type Device struct {
	view   *chunkmap.View
	size   int64
	cache  *cache.Cache
	source block.Getter // through the cache, if there is one
	sched  *Scheduler
	opt    Options

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	streams [8]stream
	tick    uint64
	failing map[block.Name]struct{}
	rec     *recorder

	traced bool                    // a trace was brought in
	coming map[block.Name]struct{} // by a trace

	recording, hasTrace atomic.Bool

	n struct {
		reads, readBytes, memory, disk, shared, failed atomic.Int64
		requests, bytes                                [classes]atomic.Int64
	}
}

// New returns the device of size bytes that view describes. c may be nil:
// nothing is kept then. source may be nil: only the cache is read then.
func New(view *chunkmap.View, size int64, c *cache.Cache, source block.Getter, opt Options) (*Device, error) {
	if size < 0 || uint64(size) < view.DeviceBytes() {
		return nil, fault.Errorf(fault.Invalid, "open the device of image %s: its map is of %d bytes, the device has %d", opt.Image, view.DeviceBytes(), size)
	}
	setDefault(&opt.Deadline, time.Minute)
	setDefault(&opt.Ahead, 512<<10)
	setDefault(&opt.MaxAhead, 4<<20)
	setDefault(&opt.Budget, 256<<20)
	if opt.Streams < 1 || opt.Streams > 4 {
		opt.Streams = 2
	}
	if opt.Scheduler == nil {
		opt.Scheduler = NewScheduler(SchedulerOptions{})
	}
	if opt.Clock == nil {
		opt.Clock = clock.System{}
	}
	if source == nil {
		source = nowhere{}
	}
	if c != nil {
		source = c.Getter(source, opt.Domain)
	}
	opt.MaxAhead = min(opt.MaxAhead, opt.Scheduler.opt.MemoryBytes/4)
	opt.Ahead = min(opt.Ahead, opt.MaxAhead)
	d := &Device{view: view, size: size, cache: c, source: source, sched: opt.Scheduler, opt: opt, failing: map[block.Name]struct{}{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

func setDefault[T int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Size is the size of the device in bytes.
func (d *Device) Size() int64 { return d.size }

// Close ends what is under way and waits for it. Reads fail from now on. The
// view may be closed afterwards.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.wg.Wait()
	return nil
}

// spawn runs f unless the device is closed. Close waits for it.
func (d *Device) spawn(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.wg.Go(f)
	return true
}

// Stats counts.
func (d *Device) Stats() Stats {
	n := &d.n
	return Stats{
		Reads: n.reads.Load(), ReadBytes: n.readBytes.Load(),
		MemoryHits: n.memory.Load(), CacheHits: n.disk.Load(), Shared: n.shared.Load(), Failed: n.failed.Load(),
		DemandRequests: n.requests[demand].Load(), AheadRequests: n.requests[ahead].Load(),
		TraceRequests: n.requests[trace].Load(), FillRequests: n.requests[fill].Load(),
		DemandBytes: n.bytes[demand].Load(), AheadBytes: n.bytes[ahead].Load(),
		TraceBytes: n.bytes[trace].Load(), FillBytes: n.bytes[fill].Load(),
	}
}

// maxFailing bounds the memory for chunks that could not be had.
const maxFailing = 1024

// failed counts a failed read and tells of a chunk that was not failing before.
func (d *Device) failed(n block.Name, err error) {
	d.n.failed.Add(1)
	d.mu.Lock()
	_, known := d.failing[n]
	if !known && len(d.failing) < maxFailing {
		d.failing[n] = struct{}{}
	}
	d.mu.Unlock()
	if !known {
		d.event(Event{Kind: Unreadable, Chunk: n, Err: err})
	}
}

// came notes that a chunk came from a source.
func (d *Device) came(n block.Name) {
	d.mu.Lock()
	_, failing := d.failing[n]
	delete(d.failing, n)
	d.mu.Unlock()
	if failing {
		d.event(Event{Kind: Readable, Chunk: n})
	}
}

func (d *Device) event(e Event) {
	e.Image = d.opt.Image
	if d.opt.OnEvent != nil {
		d.opt.OnEvent(e)
	}
}

// nowhere is the source of a device that has none.
type nowhere struct{}

var _ block.Getter = nowhere{}

func (nowhere) Get(_ context.Context, names []block.Name) iter.Seq2[block.Chunk, error] {
	return func(yield func(block.Chunk, error) bool) {
		for _, n := range names {
			if !yield(block.Chunk{Name: n}, fault.Errorf(fault.Unavailable, "get chunk %v: it is not in the cache and the image has no source", n)) {
				return
			}
		}
	}
}
