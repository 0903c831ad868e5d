package mount

import (
	"context"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"zos.internal/flist/erofs"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Capability tells whether a way to mount works on this machine.
type Capability struct {
	Name   string `json:"name"`
	Mode   Mode   `json:"mode,omitempty"` // "" if it isn't a mode: overlay, restart
	Works  bool   `json:"works"`
	Reason string `json:"reason"`           // how it was found out, or why not
	Remedy string `json:"remedy,omitempty"` // what to do when it doesn't work
}

// Probe tries each way on an empty image, in a directory that it removes. It
// starts no data server and leaves nothing.
func Probe(ctx context.Context) []Capability {
	var out []Capability
	add := func(name string, mode Mode, works, remedy string, err error) {
		c := Capability{Name: name, Mode: mode, Works: err == nil, Reason: works}
		if err != nil {
			c.Reason, c.Remedy = err.Error(), remedy
		}
		out = append(out, c)
	}
	p := prober{root: os.Geteuid() == 0}
	add("EROFS from files with a FUSE data file", FuseFile, "an empty image was mounted from ramfs",
		"run as root on Linux 6.12 or later with EROFS and FUSE (modprobe erofs fuse); until then the next mode is used",
		errJoinFirst(p.fuse(), p.try(func(meta, data, at string) error { return mountErofs(meta, data, at) })))
	add("EROFS from loop devices", Loop, "an empty image was mounted from loop devices",
		"run as root with EROFS and loop (modprobe erofs loop); until then the next mode is used",
		errJoinFirst(p.fuse(), p.try(mountLoop)))
	how := "root mounts FUSE itself"
	if !p.root {
		how = "fusermount3 mounts FUSE"
	}
	add("FUSE tree", Tree, how, "install fuse3, and give the user access to /dev/fuse", p.fuse())
	add("writable overlay", "", "an overlay on tmpfs was mounted", "run as root with overlayfs (modprobe overlay); images are mounted read-only until then", p.overlay())
	add("restart of the data server", "", "Linux 6.9 or later sends requests again", "use Linux 6.9 or later; until then images must be mounted anew after a crash of the data server", p.release(6, 9))
	return out
}

func errJoinFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

type prober struct{ root bool }

func (p prober) fuse() error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.Errorf(fault.Unsupported, "open /dev/fuse: %w", err)
	}
	unix.Close(fd)
	if !p.root {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			return fault.Errorf(fault.Unsupported, "a user without root needs fusermount3: %w", err)
		}
	}
	return nil
}

// try mounts an empty image with f and unmounts it.
func (p prober) try(f func(meta, data, at string) error) error {
	if !p.root {
		return fault.Errorf(fault.Denied, "mounting EROFS needs root")
	}
	if err := haveFilesystem("erofs"); err != nil {
		return err
	}
	image, err := erofs.Encode(tree.NewDir(0o755), 1)
	if err != nil {
		return err
	}
	return p.inRAM("ramfs", func(dir string) error {
		at := dir + "/at"
		if err := errJoinFirst(os.WriteFile(dir+"/meta", image, 0o600), os.WriteFile(dir+"/data", make([]byte, 4096), 0o600), os.Mkdir(at, 0o700)); err != nil {
			return fault.Errorf(fault.Of(err), "prepare an empty image: %w", err)
		}
		if err := f(dir+"/meta", dir+"/data", at); err != nil {
			return err
		}
		if err := unix.Unmount(at, 0); err != nil {
			return fault.Errorf(fault.Internal, "unmount the empty image: %w", err)
		}
		return nil
	})
}

func (p prober) overlay() error {
	if !p.root {
		return fault.Errorf(fault.Denied, "mounting an overlay needs root")
	}
	return p.inRAM("tmpfs", func(dir string) error {
		for _, d := range []string{"lower", "upper", "work", "at"} {
			if err := os.Mkdir(dir+"/"+d, 0o700); err != nil {
				return fault.As(fault.Internal, err)
			}
		}
		m, err := newMount("overlay", 0, [2]string{"lowerdir", dir + "/lower"}, [2]string{"upperdir", dir + "/upper"}, [2]string{"workdir", dir + "/work"})
		if err != nil {
			return err
		}
		unix.Close(m)
		return nil
	})
}

// inRAM calls f with a directory on a new file system in memory.
func (p prober) inRAM(fstype string, f func(dir string) error) error {
	dir, err := os.MkdirTemp("", "zos-probe-")
	if err != nil {
		return fault.Errorf(fault.Of(err), "make a directory: %w", err)
	}
	defer os.Remove(dir)
	m, err := newMount(fstype, 0, [2]string{"mode", "0700"})
	if err != nil {
		return err
	}
	defer unix.Close(m)
	if err := attach(m, dir); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	return f(dir)
}

// release reports a kernel that is older.
func (p prober) release(major, minor int) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fault.As(fault.Internal, err)
	}
	have := [2]int{}
	text, i := unix.ByteSliceToString(u.Release[:]), 0
	for _, c := range text {
		if c >= '0' && c <= '9' {
			have[i] = have[i]*10 + int(c-'0')
		} else if i++; i == 2 {
			break
		}
	}
	if have[0] > major || have[0] == major && have[1] >= minor {
		return nil
	}
	return fault.Errorf(fault.Unsupported, "this is Linux %s", text)
}
