package mount

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// List returns the targets of this run directory, in the order of mounting.
func (h Host) List() ([]Info, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	_, targets := mounts.images(h.RunDir)
	var out []Info
	for _, t := range targets {
		out = append(out, Info{ID: t.image, Target: t.target, Mode: t.base.mode(), Writable: t.writable})
	}
	return out, nil
}

// Unmount takes an image away from its target; with the last target the image
// goes. A target in use is a Conflict; one without an image is NotFound.
func (h Host) Unmount(ctx context.Context, target string) error {
	abs, err := filepath.Abs(target)
	if err != nil {
		return fault.As(fault.Invalid, err)
	}
	// The target itself may be dead, so only what leads to it is resolved.
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(dir, filepath.Base(abs))
	}
	find := func() (*imageMount, error) {
		mounts, err := readMounts()
		if err != nil {
			return nil, err
		}
		top := mounts.at(abs)
		_, targets := mounts.images(h.RunDir)
		for i := range targets {
			if top != nil && targets[i].id == top.id {
				return &targets[i], nil
			}
		}
		return nil, fault.Errorf(fault.NotFound, "unmount %s: no image of %s is mounted there; zos flist mount lists them", target, h.RunDir)
	}
	t, err := find()
	if err != nil {
		return err
	}
	unlock, err := h.lockImage(ctx, t.image)
	if err != nil {
		return err
	}
	defer unlock()
	if cleaned, err := h.Clean(ctx); err != nil || slices.Contains(cleaned, abs) {
		return err
	}
	if t, err = find(); err != nil {
		return err
	}
	if err := unmountTarget(t); err != nil {
		return err
	}
	h.log().Info("image unmounted", "image", t.image, "target", abs)
	if t.mode() == Tree && t.base.target == t.target {
		h.awaitTree(ctx, t.image, t.target) // a user without root has a process for each target
	}
	return h.release(ctx, t.image)
}

func unmountTarget(t *imageMount) error {
	if os.Geteuid() != 0 {
		out, err := exec.Command("fusermount3", "-u", "--", t.target).CombinedOutput()
		if err != nil {
			return fault.Errorf(fault.Conflict, "unmount %s: fusermount3: %s: %w", t.target, out, err)
		}
		return nil
	}
	err := unix.Unmount(t.target, unix.UMOUNT_NOFOLLOW)
	switch err {
	case nil:
		return nil
	case unix.EBUSY:
		return fault.Errorf(fault.Conflict, "unmount %s: it is in use; end the processes that work in it (fuser -m %s lists them)", t.target, t.target)
	}
	return fault.Errorf(fault.Of(err), "unmount %s: %w", t.target, err)
}

// release lets the shared mount go if no target of this mount namespace shows
// it. Other namespaces may: the data server serves them until the kernel
// closes the image's data.
func (h Host) release(ctx context.Context, id string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	bases, targets := mounts.images(h.RunDir)
	base, ok := bases[id]
	if !ok || slices.ContainsFunc(targets, func(t imageMount) bool { return t.image == id }) {
		return nil
	}
	return h.dropBase(ctx, id, base.mode())
}

func (h Host) dropBase(ctx context.Context, id string, mode Mode) error {
	base := h.base(id)
	if err := unix.Unmount(base, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
		return fault.Errorf(fault.Of(err), "unmount %s: %w", base, err)
	}
	os.Remove(base)
	if mode == Tree {
		h.awaitTree(ctx, id, base)
	} else {
		if err := h.client().Remove(ctx, id); err != nil && fault.Of(err) != fault.NotFound {
			return err
		}
	}
	h.dropMeta(ctx)
	return nil
}

// dropMeta unmounts the ramfs when no image is mounted any more.
func (h Host) dropMeta(ctx context.Context) {
	unlock, err := h.lockImage(ctx, "")
	if err != nil {
		return
	}
	defer unlock()
	mounts, err := readMounts()
	if err != nil {
		return
	}
	if bases, _ := mounts.images(h.RunDir); len(bases) == 0 && mounts.at(filepath.Join(h.RunDir, "meta")) != nil {
		// A container may still hold an image of it: its memory goes with that.
		unix.Unmount(filepath.Join(h.RunDir, "meta"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}

// Clean takes away what a killed keeper left: mounts whose data nobody can
// serve any more, and with them the targets. It returns the targets. While a
// keeper works, and when nothing is left, it does nothing.
func (h Host) Clean(ctx context.Context) ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	bases, targets := mounts.images(h.RunDir)
	dead := func(m mountEntry) bool { return m.mode() == FuseFile || m.mode() == Loop }
	any := false
	for _, b := range bases {
		any = any || dead(b)
	}
	data := filepath.Join(h.RunDir, "data")
	if !any && mounts.at(data) == nil {
		return nil, nil
	}
	if dead, err := h.keeperDead(ctx); err != nil || !dead {
		return nil, err
	}
	// The connection goes first: then nothing can wait for an answer.
	for unix.Unmount(data, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	var gone []string
	for _, t := range slices.Backward(targets) {
		if dead(t.base) && unix.Unmount(t.target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
			gone = append(gone, t.target)
		}
	}
	for id, b := range bases {
		if dead(b) {
			unix.Unmount(b.target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			os.Remove(h.base(id))
		}
	}
	h.dropMeta(ctx)
	h.log().Warn("mounts of a killed data server were taken away; mount the images again", "targets", gone)
	return gone, nil
}

// keeperDead reports that no keeper works. One that starts or ends answers
// nobody but holds its lock: that is waited for.
func (h Host) keeperDead(ctx context.Context) (bool, error) {
	path := filepath.Join(h.RunDir, "keeper.lock")
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if h.client().Ping(ctx) == nil {
			return false, nil
		}
		free, err := lockFree(path)
		if err != nil || free {
			return free, err
		}
		select {
		case <-ctx.Done():
			return false, fault.Errorf(fault.Unavailable, "ask the keeper in %s: it lives (%s is locked) but does not answer; end it, or try again", h.RunDir, path)
		case <-tick.C:
		}
	}
}

// lockFree reports whether nobody holds the lock of a file.
func lockFree(path string) (bool, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return true, nil
	}
	if err != nil {
		return false, fault.Errorf(fault.Of(err), "open %s: %w", path, err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	return err == nil, nil
}
