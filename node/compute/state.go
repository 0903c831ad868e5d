package compute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// Phases of a workload.
const (
	Preparing = "preparing"
	Running   = "running"
	Exited    = "exited"
	Lost      = "lost" // its owner is dead or the machine was restarted; Clean removes it
)

// Process names a process of one boot: a pid alone is used again.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of /proc/PID/stat, clock ticks after boot
}

// State is what is known of a workload, read from its state directory.
type State struct {
	V         int       `json:"v"`
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Driver    string    `json:"driver"`
	Phase     string    `json:"phase"`
	BootID    string    `json:"boot_id"`
	Owner     Process   `json:"owner"` // the process that called Start
	Main      Process   `json:"main"`
	RootFS    string    `json:"rootfs"`
	Argv      []string  `json:"argv"`
	Sealed    Level     `json:"sealed"`
	UserNS    string    `json:"userns"` // "on", or why not
	IDBase    uint32    `json:"id_base,omitempty"`
	Room      string    `json:"room"` // where the runtime sees the state directory
	StartedAt time.Time `json:"started_at"`
	Exit      *Exit     `json:"exit,omitempty"`
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// processOf names the living process pid.
func processOf(pid int) (Process, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	// The name may hold blanks and parentheses: count from its end.
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return Process{}, fs.ErrNotExist
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	return Process{pid, start}, err
}

// alive reports whether p of this boot lives.
func (p Process) alive() bool {
	q, err := processOf(p.PID)
	return err == nil && p.PID > 0 && p == q
}

// open is a pidfd of p, or NotFound if it is gone.
func (p Process) open() (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == nil && !p.alive() { // checked after: the descriptor pins the pid
		unix.Close(fd)
		err = unix.ESRCH
	}
	if err != nil {
		return -1, fault.Errorf(fault.NotFound, "process %d: %w", p.PID, err)
	}
	return fd, nil
}

func (r *Runtime) path(id string, names ...string) string {
	return filepath.Join(append([]string{r.dir, id}, names...)...)
}

// save writes the state whole or not at all.
func (r *Runtime) save(st State) error {
	st.V = 1
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fault.As(fault.Internal, err)
	}
	return r.write(st.ID, "state.json", append(b, '\n'))
}

func (r *Runtime) write(id, name string, b []byte) error {
	p := r.path(id, name)
	f, err := os.OpenFile(p+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "write %s: %w", p, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(p+".new", p)
	}
	if err != nil {
		return fault.Errorf(fault.Unavailable, "write %s: %w", p, err)
	}
	return nil
}

// State reads what is known of the workload id. NotFound if there is none.
func (r *Runtime) State(id string) (State, error) {
	if !idForm.MatchString(id) {
		return State{}, fault.Errorf(fault.Invalid, "container %.40q: this is not an id", id)
	}
	b, err := os.ReadFile(r.path(id, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fault.Errorf(fault.NotFound, "container %s: there is none; list the running ones", id)
	}
	if err != nil {
		return State{}, fault.Errorf(fault.Unavailable, "container %s: %w", id, err)
	}
	var st State
	if err := json.Unmarshal(b, &st); err != nil || st.ID != id || st.V != 1 {
		return State{}, fault.Errorf(fault.Invalid, "container %s: its state file is damaged (%v); clean it up", id, err)
	}
	if st.Phase == Running || st.Phase == Preparing {
		if st.BootID != bootID() || !st.Owner.alive() {
			st.Phase = Lost
		}
	}
	return st, nil
}

// List is every workload of the state directory, by id. Damaged state files
// are left out; Clean removes them.
func (r *Runtime) List() ([]State, error) {
	ids, err := r.ids()
	if err != nil {
		return nil, err
	}
	var all []State
	for _, id := range ids {
		if st, err := r.State(id); err == nil {
			all = append(all, st)
		}
	}
	return all, nil
}

func (r *Runtime) ids() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "list containers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && idForm.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Signal sends a signal to the main process of a running workload.
func (r *Runtime) Signal(_ context.Context, id string, sig unix.Signal) error {
	st, err := r.State(id)
	if err != nil {
		return err
	}
	return st.signal(sig)
}

func (st State) signal(sig unix.Signal) error {
	if st.BootID != bootID() {
		return fault.Errorf(fault.NotFound, "container %s: it ran before the last restart of the machine", st.ID)
	}
	fd, err := st.Main.open()
	if err != nil {
		return fault.Errorf(fault.NotFound, "container %s: it does not run any more", st.ID)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fault.Errorf(fault.Unavailable, "container %s: send signal %d: %w", st.ID, sig, err)
	}
	return nil
}

// Stop asks the workload to end (SIGTERM) and kills it when the grace is over
// or ctx ends. It returns when the main process is gone; one that is gone
// already is not an error. The owner's Wait reports the reason.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	st, err := r.State(id)
	if err != nil {
		return err
	}
	return r.stop(ctx, st, grace)
}

// Kill ends the workload at once.
func (r *Runtime) Kill(ctx context.Context, id string) error { return r.Stop(ctx, id, 0) }

func (r *Runtime) stop(ctx context.Context, st State, grace time.Duration) error {
	if st.BootID != bootID() {
		return nil
	}
	fd, err := st.Main.open()
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	wish := "stopped"
	if grace <= 0 {
		wish = "killed"
	}
	// The wish is on disk before the signal, so that the owner tells a stop
	// from a crash. A first wish stays.
	if _, err := os.Stat(r.path(st.ID, "wish")); err != nil {
		if err := r.write(st.ID, "wish", []byte(wish)); err != nil {
			return err
		}
	}
	if grace > 0 {
		_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
		graceful, cancel := context.WithTimeout(ctx, grace)
		gone := waitPidfd(graceful, fd)
		cancel()
		if gone {
			return nil
		}
		if err := r.write(st.ID, "wish", []byte("killed")); err != nil {
			r.log.Warn("write the reason of a kill", "id", st.ID, "err", err)
		}
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fault.Errorf(fault.Unavailable, "container %s: kill: %w", st.ID, err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if !waitPidfd(last, fd) {
		return fault.Errorf(fault.Unavailable, "container %s: it did not end 10 s after a kill; it waits for a device or file system, look at dmesg", st.ID)
	}
	return nil
}

// waitPidfd waits until the process is gone (true) or ctx ends (false).
func waitPidfd(ctx context.Context, fd int) bool {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false
	}
	defer unix.Close(wake)
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-done
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false
		case fds[0].Revents != 0:
			return true
		case fds[1].Revents != 0:
			return false
		}
	}
}

// Remove forgets a workload that ended: its record, and what a lost owner
// left behind. A running one with a living owner is a Conflict.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	st, err := r.State(id)
	if err == nil && (st.Phase == Running || st.Phase == Preparing) {
		return fault.Errorf(fault.Conflict, "container %s: it runs; stop it first", id)
	}
	if err != nil && !errors.Is(err, fault.Invalid) || !idForm.MatchString(id) {
		return err
	}
	return r.remove(ctx, id, st)
}

func (r *Runtime) remove(ctx context.Context, id string, st State) error {
	if st.ID == id {
		if err := r.stop(ctx, st, 0); err != nil {
			return err
		}
	}
	if err := removeCgroup(id); err != nil {
		return fault.Errorf(fault.Unavailable, "container %s: %w", id, err)
	}
	// A dying owner may still write into the directory.
	var err error
	for range 10 {
		if err = os.RemoveAll(r.path(id)); err == nil {
			return nil
		}
	}
	return fault.Errorf(fault.Unavailable, "container %s: remove its state: %w", id, err)
}

// Clean ends and removes every workload whose owner is dead, and returns
// their ids. Workloads that ended in order and wait for Remove are kept.
func (r *Runtime) Clean(ctx context.Context) ([]string, error) {
	ids, err := r.ids()
	if err != nil {
		return nil, err
	}
	var cleaned []string
	var errs []error
	for _, id := range ids {
		st, err := r.State(id)
		if err == nil && st.Phase != Lost {
			continue
		}
		if errors.Is(err, fault.NotFound) && r.claimed(id) {
			continue // it is being made this very moment
		}
		if err := r.remove(ctx, id, st); err != nil {
			errs = append(errs, err)
			continue
		}
		cleaned = append(cleaned, id)
	}
	return cleaned, errors.Join(errs...)
}

// claimed reports whether a living process holds the directory's lock.
func (r *Runtime) claimed(id string) bool {
	f, err := os.Open(r.path(id, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
