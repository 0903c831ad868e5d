package dataserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// Files of a keeper in its run directory.
const (
	dataDir    = "data"         // the FUSE mount: one file per slot
	socketName = "control.sock" // JSON lines
	lockName   = "keeper.lock"  // held while a keeper lives
	stateName  = "slots.json"   // the slot table
	logName    = "keeper.log"   // of the keeper and its data servers
)

// fuseMagic is the type of a FUSE file system in statfs.
const fuseMagic = 0x65735546

// DataPath is the file that holds the data device of the slot name.
func DataPath(runDir, name string) string { return filepath.Join(runDir, dataDir, name) }

// KeepConfig says how a keeper works.
type KeepConfig struct {
	// RunDir is a directory of this keeper alone, on a file system that is not
	// served by it; made with mode 0700.
	RunDir string
	// Cmd starts the data server: a program that calls Child.
	Cmd []string
	// Env is added to the environment of the data server.
	Env []string
	Log *slog.Logger
	// Linger is how long a keeper without slots waits for the first; 30 s if
	// zero. After the last slot is removed a keeper ends at once.
	Linger time.Duration
	// Forever keeps the keeper alive without slots: PID 1 sets it.
	Forever bool
	// Ready is called when slots can be added.
	Ready func()
}

// Keep holds the FUSE descriptor and the slot table, and runs the data server.
// It returns nil when the last slot is gone or ctx ended, after the mount is
// gone and the data server has ended. A second keeper of one run directory is
// refused as Conflict.
func Keep(ctx context.Context, cfg KeepConfig) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Linger <= 0 {
		cfg.Linger = 30 * time.Second
	}
	if len(cfg.Cmd) == 0 {
		return fault.Errorf(fault.Invalid, "start the keeper: no data server command was given")
	}
	if err := prepareRunDir(cfg.RunDir); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/self/exe", &st); err == nil && (st.Type == unix.EROFS_SUPER_MAGIC_V1 || st.Type == fuseMagic) {
		cfg.Log.Warn("the keeper runs from an image: if it serves that image itself, a page fault will stop it for ever; start it from a disk or the initramfs")
	}
	left, err := inherited()
	if err != nil {
		return err
	}
	for {
		k := &keeper{cfg: cfg, ended: make(chan struct{}), up: make(chan struct{}), slots: make(map[string]*slotState), acks: make(map[uint64]chan error), next: rootNode + 1}
		if left != nil {
			err = k.adopt(left)
		} else {
			err = k.open(ctx)
		}
		if err != nil {
			return err
		}
		left, err = k.run(ctx)
		if err != nil || left == nil {
			return err
		}
		// The program is replaced; when that fails, this one goes on.
		err = left.exec()
		cfg.Log.Error("the new keeper did not start, the old one goes on", "error", err)
		cfg.Ready = nil
	}
}

type slotState struct {
	slot     Slot
	handles  map[uint64]bool
	removing bool
	unused   chan struct{} // closed when the slot is out of the table
	gone     chan struct{} // closed when the data server has closed its Reader, too
}

func newSlotState(slot Slot) *slotState {
	return &slotState{slot: slot, handles: make(map[uint64]bool), unused: make(chan struct{}), gone: make(chan struct{})}
}

type keeper struct {
	cfg    KeepConfig
	lock   *os.File
	fuse   *os.File
	listen *net.UnixListener

	mu       sync.Mutex
	params   Params
	next     uint64
	slots    map[string]*slotState
	acks     map[uint64]chan error // of slots that the data server opens
	closing  []*slotState          // the data server closes their Readers
	server   *conn                 // nil while no data server runs
	stopping bool                  // the data server was told to stop
	pid      int
	restarts int
	failures int64
	events   []Event
	statWait []chan Stats
	ending   bool
	handover []string      // the program that takes over, if any
	ended    chan struct{} // closed when the keeper shall end
	up       chan struct{} // closed when the first data server is ready
	isUp     bool

	clients sync.WaitGroup
}

func prepareRunDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Errorf(fault.Of(err), "make the run directory %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fault.Errorf(fault.Internal, "look at the run directory %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return fault.Errorf(fault.Denied, "use the run directory %s: it must be a directory of user %d with mode 0700; remove it or name another", dir, os.Geteuid())
	}
	return nil
}

// open takes the lock, mounts FUSE and listens; nothing is left when it fails.
func (k *keeper) open(ctx context.Context) (err error) {
	dir := k.cfg.RunDir
	if k.lock, err = takeLock(ctx, filepath.Join(dir, lockName)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0) // best effort; needs root
	data := filepath.Join(dir, dataDir)
	detach(data) // of a keeper that was killed
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fault.Errorf(fault.Of(err), "make the mount point %s: %w", data, err)
	}
	if k.fuse, k.params, err = mountFuse(ctx, data); err != nil {
		return err
	}
	if !k.params.Resend {
		k.cfg.Log.Warn("this kernel cannot send requests again: images must be mounted anew when the data server dies", "fuse_minor", k.params.Minor)
	}
	sock := filepath.Join(dir, socketName)
	os.Remove(sock)
	if k.listen, err = net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"}); err != nil {
		return fault.Errorf(fault.Internal, "listen on %s: %w", sock, err)
	}
	return k.persist()
}

func (k *keeper) close() {
	if k.listen != nil {
		k.listen.Close()
	}
	if k.fuse != nil {
		detach(filepath.Join(k.cfg.RunDir, dataDir))
		k.fuse.Close()
	}
	os.Remove(filepath.Join(k.cfg.RunDir, stateName))
	k.lock.Close()
}

func detach(dir string) {
	for unix.Unmount(dir, unix.MNT_DETACH) == nil {
	}
}

// takeLock waits for a keeper that is about to end.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "open %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return f, nil
		} else if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fault.Errorf(fault.Internal, "lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fault.Errorf(fault.Conflict, "start the keeper: another one holds %s; use it, or end it first", path)
		case <-tick.C:
		}
	}
}

// mountFuse mounts a new FUSE file system at dir and answers its INIT.
func mountFuse(ctx context.Context, dir string) (*os.File, Params, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, Params{}, fault.Errorf(fault.Unsupported, "open /dev/fuse: %w; load the kernel's fuse module or use another mount mode", err)
	}
	f := os.NewFile(uintptr(fd), "/dev/fuse")
	fail := func(err error) (*os.File, Params, error) {
		detach(dir)
		f.Close()
		return nil, Params{}, err
	}
	opts := mountOptions(fd)
	if err := unix.Mount("zos-flist", dir, "fuse.zos-data", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		return fail(fault.Errorf(fault.Of(err), "mount the data server at %s: %w; this needs root", dir, err))
	}
	unix.Mount("", dir, "", unix.MS_PRIVATE, "") // its file systems keep it in use, wherever they are seen
	// The kernel has queued INIT already, so this never waits long.
	buf := make([]byte, bufferLen)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return fail(fault.Errorf(fault.Internal, "read FUSE's first request: %w", err))
		}
		h, body, err := parseRequest(buf[:n])
		if err != nil {
			return fail(err)
		}
		if h.Opcode != opInit {
			return fail(fault.Errorf(fault.Internal, "FUSE's first request has the code %d instead of INIT", h.Opcode))
		}
		p, err := parseInit(body)
		if err != nil {
			return fail(err)
		}
		out := initOut(p)
		if _, err := unix.Writev(fd, [][]byte{outHeader(h.Unique, 0, len(out)), out}); err != nil {
			return fail(fault.Errorf(fault.Internal, "answer FUSE's INIT: %w", err))
		}
		return f, p, nil
	}
}

// run serves clients and keeps a data server alive until the keeper shall end,
// and closes everything, or until another program shall take over: then it
// returns what that needs.
func (k *keeper) run(ctx context.Context) (left *legacy, err error) {
	defer func() {
		if left == nil {
			k.close()
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error
	supervised := make(chan struct{})
	go func() {
		defer close(supervised)
		defer cancel()
		failed = k.supervise(ctx)
	}()
	select {
	case <-k.up:
	case <-supervised: // it doesn't start
		return nil, failed
	}
	k.clients.Go(func() { k.accept(ctx) })
	linger := time.AfterFunc(k.cfg.Linger, k.endIfUnused)
	defer linger.Stop()
	if k.cfg.Ready != nil {
		k.cfg.Ready()
	}
	select {
	case <-ctx.Done():
	case <-k.ended:
	}
	k.mu.Lock()
	k.ending = true
	program := k.handover
	k.mu.Unlock()
	if program != nil {
		if left, err = k.leave(program); err != nil {
			return nil, err
		}
	}
	cancel()
	k.listen.Close()
	<-supervised
	k.clients.Wait()
	if left != nil {
		return left, k.persist() // the handles that were opened meanwhile
	}
	if errors.Is(failed, context.Canceled) {
		failed = nil
	}
	return nil, failed
}

// endIfUnused ends a keeper that has no slots.
func (k *keeper) endIfUnused() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.slots) == 0 && !k.ending && !k.cfg.Forever {
		k.ending = true
		close(k.ended)
	}
}
