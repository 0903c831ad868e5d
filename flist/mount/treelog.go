package mount

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// TreeLog is the file with what the process says that serves a tree of an image
// at dir: its failed reads among it, as those of the other modes are in
// keeper.log. It goes with the mount. With root all targets share the process
// whose dir is img/ID of the run directory.
func (h Host) TreeLog(id, dir string) string {
	sum := fnv.New64a()
	sum.Write([]byte(dir))
	return filepath.Join(h.RunDir, "tree", id, fmt.Sprintf("%016x.log", sum.Sum64()))
}

// treeWait is how long an unmount waits for the process of a tree to end: it
// leaves its recorded start.
const treeWait = 10 * time.Second

// awaitTree waits for the end of the process that served the tree at dir, and
// takes its log away. The caller holds the image's lock.
func (h Host) awaitTree(ctx context.Context, id, dir string) {
	ctx, cancel := context.WithTimeout(ctx, treeWait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	log := h.TreeLog(id, dir)
	for {
		if free, err := lockFree(log); err != nil || free {
			break
		}
		select {
		case <-ctx.Done():
			h.log().Warn("the process that serves the tree goes on: another mount namespace or an open file may use it, or it still writes down the start", "image", id, "log", log)
			return
		case <-tick.C:
		}
	}
	h.dropTreeLogs(id)
}

// dropTreeLogs removes the logs of an image that no process writes to. The
// caller holds the image's lock, so none is starting.
func (h Host) dropTreeLogs(id string) {
	dir := filepath.Dir(h.TreeLog(id, ""))
	logs, err := os.ReadDir(dir)
	if err != nil {
		return // there are none
	}
	for _, l := range logs {
		path := filepath.Join(dir, l.Name())
		if free, err := lockFree(path); err == nil && free {
			os.Remove(path)
		}
	}
	os.Remove(dir) // if it is empty
}

// lockLog holds the lock of a log for the life of this process.
func lockLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "serve a tree: open its log: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.Errorf(fault.Conflict, "serve a tree: lock its log %s: %w; another process serves it", path, err)
	}
	return f, nil
}
