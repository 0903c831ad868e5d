package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"zos.internal/flist"
	"zos.internal/internal/fault"
)

// checkedImages is how many checked images are remembered: the latest.
const checkedImages = 1024

// checked remembers the images whose metadata passed the canonical check: an
// empty file for each, in a directory that is the user's alone. Another user who
// could write there could have the kernel parse metadata of his own.
type checked struct {
	dir  string
	warn func(error)
}

func (a *app) checked() checked {
	dir := filepath.Join(a.dataDir(), fmt.Sprintf("checked-%d", flist.CheckVersion))
	return checked{dir, func(err error) { a.logger().Warn("the check of an image is not remembered", "error", err) }}
}

var _ flist.Checked = checked{}

// open is the directory, after a look at whose it is.
func (c checked) open() (fd int, err error) {
	fd, err = unix.Open(c.dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fault.Errorf(fault.Of(err), "open %s: %w", c.dir, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0) {
		err = fault.Errorf(fault.Denied, "use %s: it must belong to user %d alone, with mode 0700; remove it", c.dir, os.Geteuid())
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Has reports whether the image was checked; whatever is in the way, it wasn't.
func (c checked) Has(id flist.ID) bool {
	fd, err := c.open()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Faccessat(fd, id.String(), unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// Add remembers an image. That it can't is no error: it is checked again.
func (c checked) Add(id flist.ID) {
	if err := c.add(id); err != nil {
		c.warn(err)
	}
}

func (c checked) add(id flist.ID) error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	fd, err := c.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	f, err := unix.Openat(fd, id.String(), unix.O_CREAT|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fault.Errorf(fault.Of(err), "remember image %v in %s: %w", id, c.dir, err)
	}
	unix.Close(f)
	return pruneOldest(c.dir, checkedImages)
}
