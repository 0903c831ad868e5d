package mount

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// mountLoop mounts EROFS from two read-only loop devices, which the kernel
// frees when the mount goes.
func mountLoop(meta, data, target string) error {
	m, err := openLoop(meta)
	if err != nil {
		return err
	}
	defer m.Close()
	d, err := openLoop(data)
	if err != nil {
		return err
	}
	defer d.Close()
	return mountErofs(m.Name(), d.Name(), target)
}

// openLoop binds a free loop device to the file. The device is freed when its
// last user closes it, so the caller keeps it open until the mount is made.
func openLoop(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "open %s: %w", path, err)
	}
	defer f.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fault.Errorf(fault.Unsupported, "open /dev/loop-control: %w; load the kernel's loop module or use another mount mode", err)
	}
	defer ctl.Close()
	for range 64 { // another process may take the free one first
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fault.Errorf(fault.Unsupported, "find a free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, fault.Errorf(fault.Unsupported, "open a loop device: %w", err)
		}
		cfg := unix.LoopConfig{Fd: uint32(f.Fd())}
		cfg.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == unix.EINVAL { // this file can't do direct I/O
			cfg.Info.Flags &^= unix.LO_FLAGS_DIRECT_IO
			err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		}
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if err != unix.EBUSY {
			return nil, fault.Errorf(fault.Unsupported, "bind %s to %s: %w", dev.Name(), path, err)
		}
	}
	return nil, fault.Errorf(fault.Exhausted, "bind a loop device: others took each free one; try again")
}
