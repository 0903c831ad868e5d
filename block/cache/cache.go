// Package cache keeps the chunks that a machine has fetched on its disk, once
// for all images.
//
// Chunks lie in slabs (sparse files of 256 MiB) as plain bytes at multiples of
// 4 KiB; chunks of a private domain are sealed again, so that no private
// plaintext rests on the disk. An index file says which chunk is where.
//
// The cache guarantees that a caller gets right bytes or none: every chunk is
// checked against its name at its first read after Open, or with ReadPart each
// piece at every read, so the index is only a hint and a flipped bit, a torn
// record, a shortened or deleted slab or a full or read-only disk costs a fetch, is told through Options.OnEvent, and is never
// an error of a read. It is safe for concurrent use. One process owns a cache
// directory; a second one gets Conflict.
//
// It doesn't retry, choose sources or decide what is fetched ahead of time;
// Getter puts it in front of a block.Getter that does.
//
//	c, err := cache.Open(dir, cache.Options{MaxBytes: 20 << 30})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	chunks := c.Getter(remote, block.Domain{})
//	for chunk, err := range chunks.Get(ctx, names) { ... }
//
// The files are specified in docs/reference/cache.md.
package cache

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

const (
	page        = 4096      // slots start at multiples of it, and direct I/O needs it
	defaultSlab = 256 << 20 // bytes; 65,536 pages, so that a page number has 16 bits
	maxSlots    = 1 << 16   // pages of a slab
	stageBytes  = 1 << 20   // bytes collected before they are written
	maxStages   = 8         // stages in memory: the bound on bytes not yet written
	runBytes    = 512 << 10 // most bytes read by one direct read of neighbours
	readers     = 4         // reads under way for one Load
)

// Options tune a cache. The zero value is right for a node.
type Options struct {
	MaxBytes  int64 // most bytes of chunks on disk; 0: only FreeFloor limits
	FreeFloor int64 // bytes of the file system kept free; 0: 5 % of it, -1: none
	SlabSize  int64 // bytes of a slab, a multiple of 4096; 0: 256 MiB, the most

	FlushDelay time.Duration // the longest a chunk waits for others to be written with; 0: 50 ms
	SyncDelay  time.Duration // the longest written chunks wait for fdatasync and their index records; 0: 1 s
	SyncBytes  int64         // written bytes that cause one at once; 0: 64 MiB
	PutWait    time.Duration // how long a Getter waits for a slow disk; 0: 2 s

	Clock   clock.Clock // nil: the system's
	OnEvent func(Event) // called without locks held, from any goroutine; may be nil
}

// EventKind is what happened to a cache.
type EventKind string

// The kinds of events.
const (
	Damaged    EventKind = "damaged"    // a chunk's bytes were wrong; it was dropped
	Lost       EventKind = "lost"       // chunks were not where the index says; they were dropped
	IndexFault EventKind = "index"      // index records were unreadable; they were ignored
	Unwritable EventKind = "unwritable" // the disk takes no data; chunks are served but not kept
	Writable   EventKind = "writable"   // the disk takes data again
)

// Event tells an operator about a fault that the cache survived.
type Event struct {
	Kind   EventKind
	Name   block.Name // of the chunk, if it is one and public
	Slab   int        // number of the slab, or -1
	Chunks int        // how many chunks or records are concerned
	Err    error      // the reason
}

// Stats are the counters of a cache since Open, and its size now.
type Stats struct {
	Chunks     int   // in the cache
	Bytes      int64 // on disk, in whole pages
	Pinned     int   // chunks that are never evicted
	Slabs      int
	IndexBytes int64 // of memory for the index
	Direct     bool  // whether reads and writes bypass the page cache
	Writable   bool

	Hits, Misses, Puts, Evicted       int64
	Verified, Damaged, Lost           int64
	Groups                            int64 // pieces of chunks that were checked without the rest
	ReadCalls, ReadBytes, WriteCalls  int64
	WriteBytes, Syncs, RefusedRecords int64
}

// Cache is an open cache directory.
type Cache struct {
	dir     string
	opt     Options
	lock    *os.File // the directory, flocked
	bufs    bufPool
	slabMax int
	pages   int // of a slab
	floor   int64

	mu      sync.Mutex
	idx     index
	slabs   map[uint16]*slab
	used    int64 // bytes in placed slots
	pinned  int
	wanted  map[key]uint8 // pins of chunks that are not here (any more)
	records []byte        // index records not yet appended
	stages  [maxStages]*stage
	cur     *stage
	full    []*stage      // wait for the flusher
	room    chan struct{} // closed and replaced when a stage changes
	flights map[key]*flight
	closing bool
	stalled bool // a Put waited in vain; the next ones don't wait until a write succeeds
	retryAt time.Time
	broken  error // why the disk takes no data, nil if it does

	wmu      sync.Mutex // held by who changes files; taken before mu
	head     *slab
	runs     []pageRun // free pages of head
	log      indexLog
	dirty    map[*slab]struct{}
	unsynced int64
	hand     uint32
	noPunch  bool
	groups   groupFile
	sums     []byte // of a write, kept for the next

	kick chan struct{}
	quit chan struct{}
	done chan struct{}

	n counters
}

type counters struct {
	hits, misses, puts, evicted, verified, damaged, lost atomic.Int64
	readCalls, readBytes, writeCalls, writeBytes, syncs  atomic.Int64
	refused, groups                                      atomic.Int64
}

// Open opens the cache in dir, which it creates with mode 0700. Whatever the
// index says about missing or shortened slabs is forgotten. A directory that
// another process uses is Conflict and says which; a read-only one is served
// from but not written to.
func Open(dir string, opt Options) (*Cache, error) {
	if opt.SlabSize == 0 {
		opt.SlabSize = defaultSlab
	}
	if opt.SlabSize < page || opt.SlabSize > defaultSlab || opt.SlabSize%page != 0 {
		return nil, fault.Errorf(fault.Invalid, "open cache %s: a slab of %d bytes; use a multiple of %d up to %d", dir, opt.SlabSize, page, defaultSlab)
	}
	setDefault(&opt.FlushDelay, 50*time.Millisecond)
	setDefault(&opt.SyncDelay, time.Second)
	setDefault(&opt.PutWait, 2*time.Second)
	setDefault(&opt.SyncBytes, 64<<20)
	if opt.Clock == nil {
		opt.Clock = clock.System{}
	}
	c := &Cache{
		dir: dir, opt: opt, pages: int(opt.SlabSize / page),
		slabs: map[uint16]*slab{}, wanted: map[key]uint8{}, flights: map[key]*flight{},
		dirty: map[*slab]struct{}{}, room: make(chan struct{}),
		kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	c.idx.init()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "open cache: %w", err)
	}
	if err := c.acquire(); err != nil {
		return nil, err
	}
	if err := c.limits(); err != nil {
		c.lock.Close()
		return nil, err
	}
	c.groups.path = c.groupPath()
	c.load()
	c.loadPins()
	go c.flusher()
	return c, nil
}

func setDefault[T int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// acquire locks the directory itself, so that it works on a read-only disk, and
// leaves a note for whom the lock refuses.
func (c *Cache) acquire() error {
	f, err := os.Open(c.dir)
	if err != nil {
		return fault.Errorf(fault.Of(err), "open cache: %w", err)
	}
	note := filepath.Join(c.dir, "owner")
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		who, _ := os.ReadFile(note)
		if len(who) == 0 || len(who) > 256 {
			who = []byte("another process")
		}
		return fault.Errorf(fault.Conflict, "open cache %s: %s uses it; stop that or choose another directory", c.dir, strings.TrimSpace(string(who)))
	}
	c.lock = f
	exe, _ := os.Executable()
	_ = os.WriteFile(note, []byte(filepath.Base(exe)+" (pid "+itoa(os.Getpid())+")\n"), 0o600)
	return nil
}

func (c *Cache) limits() error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(c.lock.Fd()), &st); err != nil {
		return fault.Errorf(fault.Unavailable, "open cache %s: ask for the size of its file system: %w", c.dir, err)
	}
	total := int64(st.Blocks) * st.Bsize
	switch {
	case c.opt.FreeFloor == 0:
		c.floor = total / 20
	case c.opt.FreeFloor > 0:
		c.floor = c.opt.FreeFloor
	}
	max := total
	if c.opt.MaxBytes > 0 {
		max = min(max, c.opt.MaxBytes)
	}
	// Twice as many slabs as needed, so that half of their pages are free when
	// one has to be chosen again.
	c.slabMax = int(min(2*(max/c.opt.SlabSize)+2, noSlab-1))
	return nil
}

// Close writes and syncs what was put and releases the directory. Reads that
// are under way end first or miss.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return nil
	}
	c.closing = true
	c.wake()
	c.mu.Unlock()
	err := c.Flush()
	close(c.quit)
	<-c.done
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.slabs {
		s.close()
	}
	c.log.close()
	c.groups.close()
	c.lock.Close()
	c.bufs.close()
	return err
}

// Stat counts.
func (c *Cache) Stat() Stats {
	c.mu.Lock()
	s := Stats{
		Chunks: c.idx.live, Bytes: c.used, Pinned: c.pinned, Slabs: len(c.slabs),
		IndexBytes: c.idx.bytes(), Direct: true, Writable: c.broken == nil,
	}
	for _, sl := range c.slabs {
		s.Direct = s.Direct && !sl.buffered.Load()
	}
	c.mu.Unlock()
	n := &c.n
	s.Hits, s.Misses, s.Puts, s.Evicted = n.hits.Load(), n.misses.Load(), n.puts.Load(), n.evicted.Load()
	s.Verified, s.Damaged, s.Lost = n.verified.Load(), n.damaged.Load(), n.lost.Load()
	s.Groups = n.groups.Load()
	s.ReadCalls, s.ReadBytes = n.readCalls.Load(), n.readBytes.Load()
	s.WriteCalls, s.WriteBytes = n.writeCalls.Load(), n.writeBytes.Load()
	s.Syncs, s.RefusedRecords = n.syncs.Load(), n.refused.Load()
	return s
}

// Distrust makes every chunk be checked again at its next read, as after Open.
func (c *Cache) Distrust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.idx.top {
		c.idx.at(i).meta &^= verifiedBit
	}
}

func (c *Cache) event(e Event) {
	if c.opt.OnEvent != nil {
		c.opt.OnEvent(e)
	}
}

// wake tells who waits for a stage to look again. mu is held.
func (c *Cache) wake() {
	close(c.room)
	c.room = make(chan struct{})
}
