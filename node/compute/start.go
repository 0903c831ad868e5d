package compute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
)

// tweaks are for tests of this package: they loosen what a Spec can't.
type tweaks struct {
	config func(*specs.Spec)
	loose  bool // stage mounts without locks

	actions string // instead of seccompActions
	driver  string // instead of an installed runtime
}

// Container is a workload that this process started.
type Container struct {
	r    *Runtime
	lock *os.File
	copy sync.WaitGroup // streams that are copied
	done chan struct{}  // closed when the main process is gone and recorded
	exit Exit
	err  error // of recording the exit

	State State // as it was when the main process ran
}

// Start admits, prepares and starts a workload. It returns when the main
// process runs. An error leaves nothing behind and says which step failed:
// Invalid (the spec), Denied (admission), Conflict (the id is in use),
// Unsupported or Unavailable (this machine can't hold the level or limits).
func (r *Runtime) Start(ctx context.Context, spec Spec, stdio Stdio) (*Container, error) {
	s, err := spec.normal()
	if err != nil {
		return nil, err
	}
	if err := executables.Admit(s.Sealed, s.Executables); err != nil {
		return nil, fault.Errorf(fault.Of(err), "container %s: %w", s.ID, err)
	}
	user, err := lookup(s.RootFS, s.User)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "container %s: %w", s.ID, err)
	}
	driver, err := program(s.Driver)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "container %s: %w", s.ID, err)
	}
	if r.tweak.driver != "" {
		driver = r.tweak.driver
	}
	if err := ctx.Err(); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "container %s: %w", s.ID, err)
	}
	if err := r.holds(ctx, driver, s.Sealed); err != nil {
		return nil, fault.Errorf(fault.Of(err), "container %s: %w", s.ID, err)
	}
	// The main process is to be our child when the runtime program ends.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fault.Errorf(fault.Unsupported, "container %s: become a sub-reaper: %w", s.ID, err)
	}
	c, err := r.claim(s, driver)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx, s, user, driver, stdio); err != nil {
		cleanup := context.WithoutCancel(ctx)
		c.copy.Wait()
		return nil, errors.Join(fault.Errorf(fault.Of(err), "start container %s: %w", s.ID, err), c.discard(cleanup, driver))
	}
	return c, nil
}

// claim makes the state directory and holds its lock.
func (r *Runtime) claim(s Spec, driver string) (*Container, error) {
	dir := r.path(s.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return nil, fault.Errorf(fault.Unavailable, "container %s: %w", s.ID, err)
		}
		st, serr := r.State(s.ID)
		switch {
		case serr == nil && st.Phase == Exited:
			return nil, fault.Errorf(fault.Conflict, "container %s: it ran already and its record is kept; remove it, or take another id", s.ID)
		case serr == nil && st.Phase == Lost:
			return nil, fault.Errorf(fault.Conflict, "container %s: a lost one is in the way; clean up first", s.ID)
		}
		return nil, fault.Errorf(fault.Conflict, "container %s: the id is in use; take another one", s.ID)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fault.Errorf(fault.Unavailable, "container %s: lock its directory: %w", s.ID, err)
	}
	owner, err := processOf(os.Getpid())
	if err != nil {
		lock.Close()
		_ = os.RemoveAll(dir)
		return nil, fault.As(fault.Unavailable, err)
	}
	return &Container{r: r, lock: lock, done: make(chan struct{}), State: State{
		ID: s.ID, Name: s.Name, Driver: filepath.Base(driver), Phase: Preparing, BootID: bootID(), Owner: owner,
		RootFS: s.RootFS, Argv: s.Argv, Sealed: s.Sealed,
	}}, nil
}

// start runs every step up to a running main process.
func (c *Container) start(ctx context.Context, s Spec, user identity, driver string, stdio Stdio) error {
	dir := c.r.path(s.ID)
	for _, d := range []string{"bundle/rootfs", "m", "w", "oci"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return fault.As(fault.Unavailable, err)
		}
	}
	// The workload passes through here in its own user namespace; on the host
	// the directory above is closed.
	for _, d := range []string{"", "m", "w", "bundle", "bundle/rootfs"} {
		if err := os.Chmod(filepath.Join(dir, d), 0o711); err != nil {
			return fault.As(fault.Unavailable, err)
		}
	}
	if err := c.r.save(c.State); err != nil {
		return err
	}
	streams, err := c.open(stdio)
	if err != nil {
		return err
	}
	defer streams.close()
	err = inRoom(func() error {
		base := uint32(0)
		if s.UserNS != "off" {
			base = c.r.idBase(s.ID)
		}
		g, err := c.stage(s, base)
		if err != nil {
			return err
		}
		c.State.IDBase = g.plan.idBase
		conf, err := config(s, user, g.plan)
		if err != nil {
			return err
		}
		if c.r.tweak.config != nil {
			c.r.tweak.config(conf)
		}
		b, err := json.MarshalIndent(conf, "", " ")
		if err != nil {
			return fault.As(fault.Internal, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bundle", "config.json"), b, 0o600); err != nil {
			return fault.As(fault.Unavailable, err)
		}
		return c.launch(ctx, driver, filepath.Join(g.dir, "bundle"), streams)
	})
	streams.close() // the copies of the workload stay open
	if err != nil {
		return err
	}
	pid, err := readPID(filepath.Join(dir, "pid"))
	if err != nil {
		return err
	}
	main, err := processOf(pid)
	if err != nil { // it ended already; the pid is ours until it is reaped
		main = Process{PID: pid}
	}
	c.State.Main, c.State.Phase, c.State.StartedAt = main, Running, c.r.clock.Now()
	if err := c.r.save(c.State); err != nil {
		return err
	}
	go c.reap(driver)
	return nil
}

// stage prepares the mounts, with a user namespace if base is not 0. In mode
// "auto" it goes on without one where a file system can't map ids, and the
// state says so.
func (c *Container) stage(s Spec, base uint32) (*stage, error) {
	g := &stage{spec: s, user: -1, loose: c.r.tweak.loose}
	switch {
	case base == 0:
		c.State.UserNS = "off"
	default:
		err := mappable(s, base, g)
		if err != nil && s.UserNS == "on" {
			return nil, err
		}
		if c.State.UserNS = "on"; err != nil {
			c.State.UserNS = "off: " + err.Error()
		}
	}
	if g.user >= 0 {
		defer unix.Close(g.user)
	}
	if err := g.settle(c.r.path(s.ID)); err != nil {
		return nil, err
	}
	c.State.Room = g.dir
	return g, g.prepare()
}

// mappable makes the user namespace and tries it on every source.
func mappable(s Spec, base uint32, g *stage) error {
	ns, err := userNamespace(base)
	if err != nil {
		return err
	}
	sources := []string{s.RootFS}
	for _, m := range s.Mounts {
		sources = append(sources, m.Source)
	}
	for _, src := range sources {
		fd, err := unix.OpenTree(unix.AT_FDCWD, src, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err == nil {
			err = setattrFD(fd, 0, ns)
			unix.Close(fd)
		}
		if err != nil {
			unix.Close(ns)
			return fault.Errorf(fault.Unsupported, "map user ids of %s: %w; keep it on ext4, xfs, btrfs or an image, or set the user namespace off", src, err)
		}
	}
	g.user, g.plan.idBase = ns, base
	return nil
}

// idBase chooses a range of host ids that no other workload here has.
func (r *Runtime) idBase(id string) uint32 {
	used := make(map[uint32]bool)
	all, _ := r.List()
	for _, st := range all {
		used[st.IDBase] = true
	}
	const slots, first = 30_000, 1 << 24
	slot := crc32.ChecksumIEEE([]byte(id)) % slots
	for range slots {
		if base := first + slot*idRange; !used[base] {
			return base
		}
		slot = (slot + 1) % slots
	}
	return 0
}

// launch calls the runtime program in the room and waits until it has started
// the main process.
func (c *Container) launch(ctx context.Context, driver, bundle string, s *streams) error {
	dir := c.r.path(c.State.ID)
	log := filepath.Join(dir, "runtime.log")
	cmd := exec.CommandContext(ctx, driver, "--root", filepath.Join(dir, "oci"), "--log", log,
		"run", "--detach", "--pid-file", filepath.Join(dir, "pid"), "--bundle", bundle, c.State.ID)
	cmd.Dir = bundle
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.files[0], s.files[1], s.files[2]
	if err := cmd.Run(); err != nil {
		return fault.Errorf(fault.Unavailable, "%s: %w: %s", filepath.Base(driver), err, tail(log))
	}
	return nil
}

// tail is the last 2 KiB of the runtime's log, on one line.
func tail(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return "no log"
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 2048 {
		_, _ = f.Seek(-2048, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, 2048))
	return strings.Join(strings.Fields(string(bytes.ToValidUTF8(b, []byte("?")))), " ")
}

func readPID(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, fault.Errorf(fault.Unavailable, "the runtime wrote no process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 2 {
		return 0, fault.Errorf(fault.Unavailable, "the runtime wrote the process id %.20q", b)
	}
	return pid, nil
}

// reap waits for the main process and records its end.
func (c *Container) reap(driver string) {
	defer close(c.done)
	ws, err := waitMain(c.State.Main.PID)
	if err != nil {
		c.err = fault.Errorf(fault.Internal, "container %s: wait for process %d: %w", c.State.ID, c.State.Main.PID, err)
	}
	e := Exit{Code: ws.ExitStatus(), Reason: "exited", At: c.r.clock.Now()}
	if ws.Signaled() {
		e.Signal, e.Code, e.Reason = int(ws.Signal()), 128+int(ws.Signal()), "signalled"
	}
	if wish, err := os.ReadFile(c.r.path(c.State.ID, "wish")); err == nil && slices.Contains([]string{"stopped", "killed"}, string(wish)) {
		e.Reason = string(wish)
	} else if oomKilled(c.State.ID) && e.Code != 0 {
		e.Reason = "oom"
	}
	c.exit, c.State.Exit, c.State.Phase = e, &e, Exited
	// The main process was the first of its process namespace: with it went every
	// other one, and the runtime program would only remove its files and the
	// cgroup, at the price of a second start of it.
	c.err = errors.Join(c.err, c.r.save(c.State), os.RemoveAll(c.r.path(c.State.ID, "oci")), c.endRuntime(driver))
	// The workload's end closes its ends of the pipes.
	c.copy.Wait()
}

// waitMain reaps the main process. The runtime may still have a helper
// between us and it when it returns, so that it becomes our child a moment
// later than we ask.
func waitMain(pid int) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	for try := 0; ; {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case err == nil:
			return ws, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD) && try < 2000 && unix.Kill(pid, 0) == nil:
			try++
			<-time.After(time.Millisecond)
		default:
			return ws, err
		}
	}
}

// endRuntime removes what the runtime keeps: its record and the cgroup.
func (c *Container) endRuntime(driver string) error {
	root := c.r.path(c.State.ID, "oci")
	if entries, err := os.ReadDir(root); err == nil && len(entries) > 0 {
		err := inRoom(func() error {
			cmd := exec.Command(driver, "--root", root, "--log", c.r.path(c.State.ID, "runtime.log"), "delete", "--force", c.State.ID)
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
			return cmd.Run()
		})
		if err != nil {
			c.r.log.Warn("the runtime did not delete its record", "id", c.State.ID, "err", err, "log", tail(c.r.path(c.State.ID, "runtime.log")))
		}
	}
	return removeCgroup(c.State.ID)
}

// discard removes a workload that did not start.
func (c *Container) discard(ctx context.Context, driver string) error {
	if pid, err := readPID(c.r.path(c.State.ID, "pid")); err == nil && c.State.Main.PID == 0 {
		if p, err := processOf(pid); err == nil {
			c.State.Main = p
			_ = c.State.signal(unix.SIGKILL)
		}
		_, _ = waitMain(pid)
	}
	err := c.endRuntime(driver)
	return errors.Join(err, os.RemoveAll(c.r.path(c.State.ID)), c.lock.Close())
}

// Wait waits for the end of the workload and of its output. If ctx ends first
// the workload goes on and the error is ctx's.
func (c *Container) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-c.done:
		return c.exit, c.err
	case <-ctx.Done():
		return Exit{}, fault.Errorf(fault.Unavailable, "container %s: wait for its end: %w", c.State.ID, context.Cause(ctx))
	}
}

// Stop ends the workload as Runtime.Stop does and returns how it ended.
func (c *Container) Stop(ctx context.Context, grace time.Duration) (Exit, error) {
	if err := c.r.stop(ctx, c.State, grace); err != nil {
		return Exit{}, err
	}
	<-c.done
	return c.exit, c.err
}

// Signal sends a signal to the main process.
func (c *Container) Signal(sig unix.Signal) error { return c.State.signal(sig) }

// Close kills the workload if it still runs and removes its record and
// writable layers.
func (c *Container) Close() error {
	_, err := c.Stop(context.Background(), 0)
	err = errors.Join(err, os.RemoveAll(c.r.path(c.State.ID)), c.lock.Close())
	if err != nil {
		return fault.Errorf(fault.Unavailable, "container %s: clean up: %w", c.State.ID, err)
	}
	return nil
}
