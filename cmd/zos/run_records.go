package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
	"zos.internal/node/compute"
	"zos.internal/node/network"
)

// runRecord is what other zos processes need to know about a run.
type runRecord struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Image   string    `json:"image"`
	ImageID string    `json:"image_id"`
	Publish []string  `json:"publish"`
	Started time.Time `json:"started"`
	Keep    bool      `json:"keep"` // stays in ps after its end until zos rm
}

// workloads is the runtime of this user's run directory.
func (a *app) workloads() (*compute.Runtime, error) {
	return compute.New(compute.Options{Dir: filepath.Join(a.runDir(), "w"), Log: a.logger(), Clock: a.clock})
}

func (a *app) runsDir() string           { return filepath.Join(a.runDir(), "run") }
func (a *app) runPath(id string) string  { return filepath.Join(a.runsDir(), id) }
func (a *app) networkOptions() string    { return filepath.Join(a.runDir(), "net") }
func (a *app) logPath(id string) string  { return filepath.Join(a.runPath(id), "log") }
func (a *app) rootPath(id string) string { return filepath.Join(a.runPath(id), "rootfs") }

// claimRun makes the directory of a run, with its record, and locks it for the
// life of this process: a lock that is free marks what a killed zos left. A name
// that another container has is a Conflict.
func (a *app) claimRun(rec runRecord) (string, func(), error) {
	unlock, err := a.lockRuns()
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	records, err := a.records()
	if err != nil {
		return "", nil, err
	}
	for _, r := range records {
		if r.Name == rec.Name {
			return "", nil, fault.Errorf(fault.Conflict, "a container is named %s already; stop it, remove it with zos rm, or choose another --name", rec.Name)
		}
	}
	dir := a.runPath(rec.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, fault.Errorf(fault.Of(err), "start a container: %w", err)
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = errors.Join(unix.Flock(int(lock.Fd()), unix.LOCK_EX), atomicfile.Write(filepath.Join(dir, "run.json"), b, 0o600))
	}
	if err != nil {
		return "", nil, errors.Join(fault.Errorf(fault.Of(err), "start a container: %w", err), os.RemoveAll(dir))
	}
	return dir, func() { lock.Close() }, nil
}

// lockRuns is held while runs are added or the dead ones are removed, so that
// neither takes a directory that the other just made.
func (a *app) lockRuns() (func(), error) { return lockFile(a.runsDir(), ".lock", unix.LOCK_EX) }

// lockFile waits for a lock on a file in dir, which is made if needed.
func lockFile(dir, name string, how int) (func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "lock %s: %w", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "lock %s: %w", dir, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fault.Errorf(fault.Of(err), "lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// forget takes away the mount of a run, and its record unless it is kept.
func (a *app) forget(ctx context.Context, id string, keep bool) error {
	err := a.unmountImage(ctx, a.rootPath(id))
	if errors.Is(err, fault.NotFound) {
		err = nil
	}
	if err != nil || keep {
		return err
	}
	return os.RemoveAll(a.runPath(id))
}

// sweep removes what runs left whose zos was killed: workloads, networks,
// mounts and records.
func (a *app) sweep(ctx context.Context, rt *compute.Runtime) error {
	if _, err := rt.Clean(ctx); err != nil {
		return err
	}
	if _, err := network.Clean(ctx, a.networkOptions()); err != nil {
		return err
	}
	if err := a.sweepRuns(ctx); err != nil {
		return err
	}
	h, err := a.host()
	if err != nil {
		return err
	}
	_, err = h.Clean(ctx)
	return err
}

// sweepRuns removes the runs whose zos is gone, but keeps the log and the end of
// those that ended by themselves.
func (a *app) sweepRuns(ctx context.Context) error {
	unlock, err := a.lockRuns()
	if err != nil {
		return err
	}
	defer unlock()
	dirs, err := os.ReadDir(a.runsDir())
	if err != nil {
		return err
	}
	for _, d := range dirs {
		id := d.Name()
		if !d.IsDir() || a.runAlive(id) {
			continue
		}
		_, err := os.Stat(filepath.Join(a.runPath(id), "exit.json"))
		if err := a.forget(ctx, id, err == nil); err != nil {
			return err
		}
	}
	return nil
}

// runAlive reports whether the zos that started a run lives.
func (a *app) runAlive(id string) bool {
	f, err := os.Open(filepath.Join(a.runPath(id), "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
