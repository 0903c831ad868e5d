package main

import (
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func result(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); e != 0 {
		return e
	}
	return ran
}

// escapes lists the attacks on the container itself.
func escapes() map[string]func() error {
	call := func(nr uintptr, args ...uintptr) func() error {
		return func() error { return result(nr, args...) }
	}
	at := ^uintptr(99) // AT_FDCWD
	return map[string]func() error{
		"D3-binfmt":       func() error { return unix.Mount("binfmt_misc", "/tmp", "binfmt_misc", 0, "") },
		"E1-unshare":      func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		"E1-unshare-user": call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"E1-clone":        func() error { return cloned(unix.CLONE_NEWUTS) },
		"E1-clone-user":   func() error { return cloned(unix.CLONE_NEWUSER) },
		"E1-clone3":       clone3,
		"E2-remount":      func() error { return unix.Mount("", "/data", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"E2-bind":         func() error { return undone(unix.Mount("/bin", "/tmp", "", unix.MS_BIND, "")) },
		"E2-tmpfs":        func() error { return undone(unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "")) },
		"E2-fsopen":       func() error { _, err := unix.Fsopen("tmpfs", 0); return err },
		"E2-open-tree":    func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/data", unix.OPEN_TREE_CLONE); return err },
		"E2-mount-setattr": func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/data", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NOEXEC})
		},
		"E2-setns":        setns,
		"E2-chroot":       func() error { return unix.Chroot("/data") },
		"E2-pivot-root":   pivotRoot,
		"E2-umount":       func() error { return unix.Unmount("/data", unix.MNT_DETACH) },
		"E2-move-mount":   func() error { return unix.MoveMount(unix.AT_FDCWD, "/dev/shm", unix.AT_FDCWD, "/var/tmp", 0) },
		"E3-int80":        func() error { return forked(func() { int80(20) }) },
		"E3-x32":          func() error { return forked(func() { unix.RawSyscall(unix.SYS_GETPID|0x40000000, 0, 0, 0) }) },
		"E4-io-uring":     call(unix.SYS_IO_URING_SETUP),
		"E4-bpf":          call(unix.SYS_BPF, 99),
		"E4-perf":         call(unix.SYS_PERF_EVENT_OPEN),
		"E4-userfaultfd":  call(unix.SYS_USERFAULTFD, 99),
		"E4-init-module":  call(unix.SYS_INIT_MODULE),
		"E4-finit-module": call(unix.SYS_FINIT_MODULE, ^uintptr(0)),
		"E4-kexec":        call(unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0), ^uintptr(0)),
		"E4-handle":       call(unix.SYS_OPEN_BY_HANDLE_AT, at),
		"E4-keyctl":       call(unix.SYS_KEYCTL),
		"E4-add-key":      call(unix.SYS_ADD_KEY),
		"E5-memfd-noexec": func() error { return writable("/proc/sys/vm/memfd_noexec") },
		"E5-core-pattern": func() error { return writable("/proc/sys/kernel/core_pattern") },
		"E5-modprobe":     func() error { return writable("/proc/sys/kernel/modprobe") },
		"E5-uevent":       func() error { return writable("/sys/kernel/uevent_helper") },
		"E5-sysrq":        func() error { return writable("/proc/sysrq-trigger") },
		"E6-exe":          func() error { return opened("/proc/self/exe") },
		"E6-descriptors":  descriptors,
	}
}

// undone takes the mount on /tmp away again, which later rows need as it was.
func undone(err error) error {
	if err == nil {
		err = unix.Unmount("/tmp", unix.MNT_DETACH)
	}
	return err
}

// pivotRoot works on a copy of the mounts where it may have one, so that the
// rows after it find their files.
func pivotRoot() error {
	runtime.LockOSThread()
	_ = unix.Unshare(unix.CLONE_NEWNS)
	return unix.PivotRoot("/data", "/data")
}

// moveMount moves the mount at /data away and back.
func moveMount() error {
	if err := unix.MoveMount(unix.AT_FDCWD, "/data", unix.AT_FDCWD, "/tmp", 0); err != nil {
		return err
	}
	return unix.MoveMount(unix.AT_FDCWD, "/tmp", unix.AT_FDCWD, "/data", 0)
}

func writable(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// cloned makes a process in new name spaces, which ends at once.
func cloned(flags uintptr) error {
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return ran
}

// forked runs f in a process of one thread: the filter's answer to a foreign
// call ends the thread, and the other threads of a Go program would go on.
func forked(f func()) error {
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	if pid == 0 {
		f()
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(int(pid), &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	if ws.Signaled() {
		return strange(unix.SignalName(ws.Signal()))
	}
	return ran
}

func clone3() error {
	args := struct{ flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64 }{exitSignal: uint64(unix.SIGCHLD)}
	pid, _, e := unix.RawSyscall(435, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if e != 0 {
		return e
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return ran
}

func setns() error {
	fd, err := unix.Open("/proc/self/ns/uts", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return unix.Setns(fd, unix.CLONE_NEWUTS)
}

// descriptors looks for files that the runtime left open. It asks for those
// of the container's first process, which did not come from this program.
func descriptors() error {
	entries, err := os.ReadDir("/proc/1/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil || n <= 2 {
			continue
		}
		link, _ := os.Readlink("/proc/1/fd/" + e.Name())
		// What Go's own runtime and the pipes to children need.
		if link == "anon_inode:[eventpoll]" || link == "anon_inode:[eventfd]" || link == "anon_inode:[pidfd]" || len(link) > 5 && link[:5] == "pipe:" || link == "/dev/null" {
			continue
		}
		return strange("left " + link)
	}
	return strange("none")
}
