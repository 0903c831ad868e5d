package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

func call(addr uintptr) uint64
func int80(nr uint64) uint64
func victim()
func victimAddr() uintptr

// jump runs the code in m.
func jump(m []byte) error {
	if call(uintptr(unsafe.Pointer(&m[0]))) == 42 {
		return ran
	}
	return strange("wrong answer")
}

const (
	rwx = unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC
	rx  = unix.PROT_READ | unix.PROT_EXEC
	rw  = unix.PROT_READ | unix.PROT_WRITE
)

// memory lists the attacks that need no file.
func memory() map[string]func() error {
	return map[string]func() error{
		"B1-memfd":         func() error { return memfd(0) },
		"B1-memfd-exec":    func() error { return memfd(unix.MFD_EXEC) },
		"B2-memfd-map":     memfdMap,
		"B2-memfd-loader":  memfdLoader,
		"B3-memfd-secret":  memfdSecret,
		"B4-zero":          zero,
		"B5-shm":           sysv,
		"C1-rwx":           anonymous,
		"C1-jit":           jit,
		"C2-mremap":        duplicate,
		"C3-proc-mem":      func() error { return procMem(os.Getpid(), page()) },
		"C4-own-text":      ownText,
		"C5-personality":   personality,
		"C7-ptrace":        ptrace,
		"C7-vm-write":      vmWrite,
		"C7-pidfd-getfd":   pidfdGetfd,
		"C7-sibling-mem":   siblingMem,
		"G1-personality":   func() error { return result(unix.SYS_PERSONALITY, 0xffffffff) },
		"G1-memory-strict": plainMemory,
	}
}

func memfd(flags int) error {
	fd, err := unix.MemfdCreate("x", flags)
	if err != nil {
		return err
	}
	b, err := os.ReadFile("/bin/attack")
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, b); err != nil {
		return err
	}
	return execveat(fd, unix.AT_EMPTY_PATH)
}

func memfdMap() error {
	fd, err := unix.MemfdCreate("x", unix.MFD_NOEXEC_SEAL)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, append(bytes.Clone(code), make([]byte, 4096)...)); err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, 4096, rx, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return jump(m)
}

func memfdLoader() error {
	fd, err := unix.MemfdCreate("x", unix.MFD_NOEXEC_SEAL)
	if err != nil {
		return err
	}
	b, err := os.ReadFile("/bin/cat")
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, b); err != nil {
		return err
	}
	unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	return runMark("/data/mark", "/lib64/ld-linux-x86-64.so.2", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), "/data/mark")
}

func memfdSecret() error {
	r, _, e := unix.Syscall(unix.SYS_MEMFD_SECRET, 0, 0, 0)
	if e != 0 {
		return e
	}
	if err := unix.Ftruncate(int(r), 4096); err != nil {
		return err
	}
	m, err := unix.Mmap(int(r), 0, 4096, rwx, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, code)
	return jump(m)
}

func zero() error {
	fd, err := unix.Open("/dev/zero", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, 4096, rwx, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, code)
	return jump(m)
}

func sysv() error {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o700)
	if err != nil {
		return err
	}
	defer unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	w, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return err
	}
	copy(w, code)
	const shmExec = 0o100000
	x, err := unix.SysvShmAttach(id, 0, shmExec|unix.SHM_RDONLY)
	if err != nil {
		return err
	}
	return jump(x)
}

func anonymous() error {
	m, err := unix.Mmap(-1, 0, 4096, rwx, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	copy(m, code)
	return jump(m)
}

// jit does what a just-in-time compiler does.
func jit() error {
	m, err := unix.Mmap(-1, 0, 4096, rw, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	copy(m, code)
	if err := unix.Mprotect(m, rx); err != nil {
		return err
	}
	return jump(m)
}

// plainMemory is what every program does and no level may refuse.
func plainMemory() error {
	m, err := unix.Mmap(-1, 0, 8192, rw, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if err := unix.Mprotect(m[:4096], unix.PROT_READ); err != nil {
		return err
	}
	fd, err := unix.Open("/bin/attack", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	_, err = unix.Mmap(fd, 0, 4096, rx, unix.MAP_PRIVATE)
	return err
}

// duplicate makes a second, writable mapping of executable shared memory.
func duplicate() error {
	m, err := unix.Mmap(-1, 0, 4096, rx, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	const mayMove = 1
	r, _, e := unix.Syscall6(unix.SYS_MREMAP, uintptr(unsafe.Pointer(&m[0])), 0, 4096, mayMove, 0, 0)
	if e != 0 {
		return e
	}
	if _, _, e := unix.Syscall(unix.SYS_MPROTECT, r, 4096, rw); e != 0 {
		return e
	}
	poke(r, code)
	return jump(m)
}

// poke writes to an address that Go did not give out. It goes through a
// pipe, so the kernel does the write.
func poke(addr uintptr, b []byte) {
	var p [2]int
	if unix.Pipe(p[:]) != nil {
		return
	}
	unix.Write(p[1], b)
	unix.Syscall(unix.SYS_READ, uintptr(p[0]), addr, uintptr(len(b)))
}

// page is the whole page of harmless code in the middle of victim.
func page() uintptr { return (victimAddr() + 4095) &^ 4095 }

func procMem(pid int, addr uintptr) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(code, int64(addr)); err != nil {
		return err
	}
	if pid == os.Getpid() && call(addr) != 42 {
		return strange("wrong answer")
	}
	return ran
}

func ownText() error {
	p := page()
	if _, _, e := unix.Syscall(unix.SYS_MPROTECT, p, 4096, rw); e != 0 {
		return e
	}
	poke(p, code)
	if _, _, e := unix.Syscall(unix.SYS_MPROTECT, p, 4096, rx); e != 0 {
		return e
	}
	if call(p) == 42 {
		return ran
	}
	return strange("wrong answer")
}

func personality() error {
	const readImpliesExec = 0x0400000
	return result(unix.SYS_PERSONALITY, readImpliesExec)
}

// sibling starts a process of the same workload.
func sibling() (*exec.Cmd, error) {
	cmd := exec.Command("/bin/attack", "sleep")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, err = out.Read(make([]byte, 64))
	return cmd, err
}

func withSibling(f func(pid int) error) error {
	cmd, err := sibling()
	if err != nil {
		return err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	return f(cmd.Process.Pid)
}

func ptrace() error {
	return withSibling(func(pid int) error {
		_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
		if e != 0 {
			return e
		}
		return ran
	})
}

func vmWrite() error {
	return withSibling(func(pid int) error {
		b := make([]byte, 8)
		local := []unix.Iovec{{Base: &b[0], Len: 8}}
		_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: page(), Len: 8}}, 0)
		return err
	})
}

func pidfdGetfd() error {
	return withSibling(func(pid int) error {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 1, 0)
		return err
	})
}

func siblingMem() error {
	return withSibling(func(pid int) error { return procMem(pid, page()) })
}
