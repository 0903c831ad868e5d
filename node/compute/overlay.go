package compute

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// overlay stages a writable layer over a directory of the image. The layer
// lies on the state directory's file system, or in memory where that can't
// hold one. noexec must be on the overlay itself: on the layer it is ignored.
func (g *stage) overlay(target string, n int) (string, error) {
	lower, err := g.open(target, unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return "", fault.Errorf(fault.Invalid, "open the directory in the image: %w; it must be a directory, not a link", err)
	}
	defer unix.Close(lower)
	staged := filepath.Join(g.dir, "m", "w"+strconv.Itoa(n))
	return staged, g.overlayAt(lower, staged, filepath.Join(g.dir, "w", strconv.Itoa(n)))
}

func (g *stage) overlayAt(lower int, staged, layer string) error {
	if err := os.MkdirAll(staged, 0o700); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	if err := os.MkdirAll(layer, 0o700); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	err := g.mountOverlay(lower, staged, layer)
	if errors.Is(err, unix.EINVAL) {
		if terr := unix.Mount("tmpfs", layer, "tmpfs", 0, "mode=0700"); terr != nil {
			return fault.Errorf(fault.Unavailable, "make a layer in memory: %w", terr)
		}
		err = g.mountOverlay(lower, staged, layer)
	}
	if err != nil {
		return fault.Errorf(fault.Unavailable, "mount the overlay: %w", err)
	}
	return nil
}

func (g *stage) mountOverlay(lower int, staged, layer string) error {
	var st unix.Stat_t
	if err := unix.Fstat(lower, &st); err != nil {
		return err
	}
	var fds [2]int
	for i, name := range []string{"upper", "work"} {
		p := filepath.Join(layer, name)
		if err := os.MkdirAll(p, 0o755); err != nil {
			return err
		}
		if i == 0 { // the merged directory looks like the image's
			if err := os.Chown(p, int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
			if err := unix.Chmod(p, st.Mode&0o7777); err != nil {
				return err
			}
		}
		fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if g.spec.Sealed != Off {
		flags |= unix.MS_NOEXEC
	}
	// Descriptors instead of paths: a path may hold a comma or a colon.
	data := fmt.Sprintf("lowerdir=/proc/self/fd/%d,upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d", lower, fds[0], fds[1])
	return unix.Mount("overlay", staged, "overlay", flags, data)
}

// writableRoot puts a layer over the whole root (level off only).
func (g *stage) writableRoot(rootfs string) error {
	fd, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	defer unix.Close(fd)
	return g.overlayAt(fd, rootfs, filepath.Join(g.dir, "w", "root"))
}
