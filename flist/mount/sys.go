package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// newMount makes a mount that is nowhere yet. Each option is a pair of key and
// value; a key without a value is a flag. The kernel's own words are part of
// the error. The caller closes the descriptor.
func newMount(fstype string, attrs int, options ...[2]string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, kernelError(fmt.Sprintf("use the file system %s", fstype), err, -1)
	}
	defer unix.Close(fs)
	for _, o := range options {
		if o[1] == "" {
			err = unix.FsconfigSetFlag(fs, o[0])
		} else {
			err = unix.FsconfigSetString(fs, o[0], o[1])
		}
		if err != nil {
			return -1, kernelError(fmt.Sprintf("mount %s: option %s=%s", fstype, o[0], o[1]), err, fs)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, kernelError("mount "+fstype, err, fs)
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, kernelError("mount "+fstype, err, fs)
	}
	return m, nil
}

// kernelError adds what the kernel wrote to the descriptor of a new file
// system, and the kind: a machine that can't do it is Unsupported.
func kernelError(what string, err error, fs int) error {
	kind := fault.Internal
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		kind = fault.Denied
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTBLK), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		kind = fault.Unsupported
	case errors.Is(err, unix.ENOENT):
		kind = fault.NotFound
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		kind = fault.Exhausted
	}
	var words []string
	for buf := make([]byte, 1024); fs >= 0 && len(words) < 8; {
		n, err := unix.Read(fs, buf)
		if err != nil || n == 0 {
			break
		}
		words = append(words, string(bytes.TrimSpace(buf[:n])))
	}
	if len(words) > 0 {
		return fault.Errorf(kind, "%s: %w (the kernel says: %s)", what, err, strings.Join(words, "; "))
	}
	return fault.Errorf(kind, "%s: %w", what, err)
}

func attach(m int, target string) error {
	if err := unix.MoveMount(m, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return kernelError("mount at "+target, err, -1)
	}
	return nil
}

// mountErofs mounts the metadata file with the data file as its device.
func mountErofs(meta, data, target string) error {
	m, err := newMount("erofs", unix.MOUNT_ATTR_RDONLY, [2]string{"source", meta}, [2]string{"device", data}, [2]string{"ro", ""})
	if err != nil {
		return err
	}
	defer unix.Close(m)
	if err := attach(m, target); err != nil {
		return err
	}
	unix.Mount("", target, "", unix.MS_PRIVATE, "")
	return nil
}

// cloneMount makes what is mounted at from appear at target, with attributes.
func cloneMount(from, target string, attrs uint64) error {
	m, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return kernelError("clone the mount "+from, err, -1)
	}
	defer unix.Close(m)
	if err := unix.MountSetattr(m, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs}); err != nil {
		return kernelError("set the flags of "+target, err, -1)
	}
	return attach(m, target)
}

// overlay mounts a writable overlay of lower at the target of r.
func overlay(runDir, lower string, r *Request) error {
	upper := r.ReadWriteUpper
	if upper == TmpfsUpper {
		dir, err := os.MkdirTemp(runDir, "upper-")
		if err != nil {
			return fault.Errorf(fault.Of(err), "make a directory for the changes: %w", err)
		}
		defer os.Remove(dir)
		opts := [][2]string{{"source", "zos-upper"}, {"mode", "0700"}}
		if r.UpperSize > 0 {
			opts = append(opts, [2]string{"size", fmt.Sprint(r.UpperSize)})
		}
		m, err := newMount("tmpfs", 0, opts...)
		if err != nil {
			return err
		}
		defer unix.Close(m)
		if err := attach(m, dir); err != nil {
			return err
		}
		// The overlay keeps a mount of its own of it, and nobody else should.
		defer unix.Unmount(dir, unix.MNT_DETACH)
		upper = dir
	}
	upper, err := filepath.Abs(upper)
	if err != nil {
		return fault.As(fault.Internal, err)
	}
	for _, d := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(upper, d), 0o755); err != nil {
			return fault.Errorf(fault.Of(err), "make a directory for the changes: %w", err)
		}
	}
	// The root of the tree shows the upper directory's own attributes.
	if err := copyRootAttributes(lower, filepath.Join(upper, "upper")); err != nil {
		return err
	}
	m, err := newMount("overlay", int(r.attrs()),
		[2]string{"source", "zos:" + r.ID},
		[2]string{"lowerdir", escapeColons(lower)},
		[2]string{"upperdir", escapeColons(filepath.Join(upper, "upper"))},
		[2]string{"workdir", escapeColons(filepath.Join(upper, "work"))})
	if err != nil {
		return err
	}
	defer unix.Close(m)
	return attach(m, r.Target)
}

// copyRootAttributes gives a fresh upper directory mode, owner and time of the
// image's root.
func copyRootAttributes(from, to string) error {
	if names, err := os.ReadDir(to); err != nil || len(names) > 0 {
		return err // used before: it says what the root is
	}
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return fault.Errorf(fault.Internal, "look at the image's root: %w", err)
	}
	err := errors.Join(unix.Chown(to, int(st.Uid), int(st.Gid)), unix.Chmod(to, st.Mode&0o7777),
		unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Mtim, st.Mtim}, 0))
	if err != nil {
		return fault.Errorf(fault.Of(err), "prepare the upper directory %s: %w", to, err)
	}
	return nil
}

// escapeColons: overlayfs takes a colon for a separator and a backslash for
// the mark before one.
func escapeColons(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(path)
}

// raiseReadahead lets the kernel read far ahead in the data of the EROFS at
// dir: it costs one request of the data server instead of many. before are the
// erofsDevices of before the mount. Where /sys is read-only it stays small.
func raiseReadahead(dir string, before []string) {
	now, _ := filepath.Glob(erofsDevices)
	now = slices.DeleteFunc(now, func(dev string) bool { return slices.Contains(before, dev) })
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil { // of a loop device
		now = append(now, fmt.Sprintf("/sys/class/bdi/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	}
	for _, dev := range now {
		os.WriteFile(filepath.Join(dev, "read_ahead_kb"), []byte("1024"), 0)
	}
}

// erofsDevices is where the kernel keeps the read-ahead of each EROFS from
// files, under the name of the type and a counter.
const erofsDevices = "/sys/class/bdi/erofs-*"

func haveFilesystem(name string) error {
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fault.Errorf(fault.Of(err), "ask which file systems the kernel has: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == name {
			return nil
		}
	}
	// The kernel loads the module when the file system is asked for.
	fs, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fault.Errorf(fault.Unsupported, "this kernel has no %s: %w; load its module (modprobe %s) or use another mount mode", name, err, name)
	}
	unix.Close(fs)
	return nil
}

// lockImage makes sure that one process at a time works on an image. Locks are
// bytes of one file, so they leave nothing behind and end with their process.
func (h Host) lockImage(ctx context.Context, id string) (unlock func(), err error) {
	if err := os.MkdirAll(h.RunDir, 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "make the run directory: %w", err)
	}
	path := filepath.Join(h.RunDir, "mount.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "open %s: %w", path, err)
	}
	sum := fnv.New32a()
	sum.Write([]byte(id))
	place := int64(sum.Sum32())
	if id == "" { // may be held together with any other
		place = 1 << 32
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: place, Len: 1}
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EAGAIN && err != unix.EACCES && err != unix.EINTR {
			f.Close()
			return nil, fault.Errorf(fault.Internal, "lock image %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fault.Errorf(fault.Unavailable, "wait for another mount or unmount of image %s: %w", id, ctx.Err())
		case <-tick.C:
		}
	}
}
