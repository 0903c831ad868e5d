package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// places where a workload may write.
var places = map[string]string{"volume": "/data", "overlay": "/srv", "tmp": "/tmp", "shm": "/dev/shm"}

// attacks lists every attack by its row in the battery.
func attacks() map[string]func() error {
	all := map[string]func() error{
		"A2-dev":        func() error { return dropRun("/dev") },
		"A2-mqueue":     func() error { return dropRun("/dev/mqueue") },
		"A2-proc":       func() error { return dropRun("/proc") },
		"A2-sys":        func() error { return dropRun("/sys") },
		"A3-loader":     loader,
		"A4-preload":    preload,
		"A4-libpath":    libpath,
		"A4-audit":      audit,
		"A4-gconv":      gconv,
		"A6-pkey":       func() error { return protect(unix.PROT_READ, unix.MAP_PRIVATE, true) },
		"A6-private":    func() error { return protect(unix.PROT_READ, unix.MAP_PRIVATE, false) },
		"A6-shared":     func() error { return protect(unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, false) },
		"A7-execveat":   func() error { return byDescriptor(unix.O_RDONLY, true) },
		"A7-opath":      func() error { return byDescriptor(unix.O_PATH, true) },
		"A7-procfd":     func() error { return byDescriptor(unix.O_RDONLY, false) },
		"A7-procroot":   procRoot,
		"A7-tmpfile":    tmpfile,
		"A7-unlinked":   unlinked,
		"A8-script":     script,
		"A9-device":     func() error { return opened("/data/null-from-outside") },
		"A9-mknod":      func() error { return unix.Mknod("/data/mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))) },
		"A9-suid":       func() error { return run("/data/suid-from-outside") },
		"A10-swap":      swapped,
		"A11-create":    func() error { return os.WriteFile("/bin/new", nil, 0o755) },
		"A11-write":     func() error { return opened("/bin/libextra.so") },
		"A11-rename":    func() error { return os.Rename("/bin/victim", "/bin/victim.renamed") },
		"A11-truncate":  func() error { return os.Truncate("/etc/group", 0) },
		"A12-copied-up": copiedUp,
		"D1-shell":      shell,
		"D2-check":      execveCheck,
		"G1-symlink":    symlink,
		"G1-script":     func() error { return run("/bin/script") },
		"G1-library":    imageLibrary,
		"G1-mkfifo":     func() error { return unix.Mkfifo("/data/fifo", 0o600) },
		"G1-image":      func() error { return run("/bin/attack") },
	}
	for name, dir := range places {
		all["A1-"+name] = func() error { return dropRun(dir) }
		all["A5-"+name] = func() error { return mapFile(dir) }
	}
	for name, f := range memory() {
		all[name] = f
	}
	for name, f := range escapes() {
		all[name] = f
	}
	return all
}

func dropRun(dir string) error {
	p := filepath.Join(dir, "dropped")
	if err := drop("/bin/attack", p); err != nil {
		return err
	}
	return run(p)
}

// loader asks the dynamic loader of the image to run a dropped program.
func loader() error {
	if err := drop("/bin/cat", "/data/cat"); err != nil {
		return err
	}
	return runMark("/data/mark", "/lib64/ld-linux-x86-64.so.2", "/data/cat", "/data/mark")
}

// runMark runs a program that prints the mark from a file.
func runMark(mark, path string, args ...string) error {
	if err := os.WriteFile(mark, []byte("payload-ran\n"), 0o644); err != nil {
		return err
	}
	return run(path, args...)
}

// there renames a file and, if that worked, back: later rows need it.
func there(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return os.Rename(to, from)
}

// preload and libpath see whether a dropped library is mapped.
func preload() error {
	if err := drop(library("libc.so.6"), "/data/libdropped.so"); err != nil {
		return err
	}
	return mapped("/data/libdropped.so", "LD_PRELOAD=/data/libdropped.so")
}

func libpath() error {
	if err := os.MkdirAll("/data/lib", 0o755); err != nil {
		return err
	}
	if err := drop(library("libc.so.6"), "/data/lib/libc.so.6"); err != nil {
		return err
	}
	return mapped("/data/lib/libc.so.6", "LD_LIBRARY_PATH=/data/lib")
}

func imageLibrary() error {
	return mapped("/bin/libextra.so", "LD_PRELOAD=/bin/libextra.so")
}

// mapped reports whether a process that env prepares has lib mapped as code.
// The loader's complaint names the file too, so only stdout counts.
func mapped(lib, env string) error {
	cmd := exec.Command("/bin/cat", "/proc/self/maps")
	cmd.Env = []string{env}
	out, _ := cmd.Output()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, lib) && strings.Contains(line, "r-xp") {
			return ran
		}
	}
	return strange("not loaded")
}

func library(name string) string {
	for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return "/nowhere"
}

// code returns 42.
var code = []byte{0xb8, 42, 0, 0, 0, 0xc3}

// dropCode writes a page of code to a file and opens it.
func dropCode(dir string) (int, error) {
	page := make([]byte, 4096)
	copy(page, code)
	p := filepath.Join(dir, "code")
	if err := os.WriteFile(p, page, 0o755); err != nil {
		return -1, err
	}
	return unix.Open(p, unix.O_RDWR, 0)
}

func mapFile(dir string) error {
	fd, err := dropCode(dir)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return jump(m)
}

// protect makes a mapping of a dropped file executable afterwards.
func protect(prot, flags int, pkey bool) error {
	fd, err := dropCode("/data")
	if err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, 4096, prot, flags)
	if err != nil {
		return err
	}
	if pkey {
		_, _, e := unix.Syscall6(unix.SYS_PKEY_MPROTECT, uintptr(unsafe.Pointer(&m[0])), 4096, unix.PROT_READ|unix.PROT_EXEC, ^uintptr(0), 0, 0)
		if e != 0 {
			return e
		}
	} else if err := unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return err
	}
	return jump(m)
}

// exec replaces this process; the payload prints the word for us.
func execve(path string) error {
	return unix.Exec(path, []string{"attack", "do", "G1-image"}, nil)
}

func execveat(fd, flags int) error {
	argv := []*byte{cstr("attack"), cstr("do"), cstr("G1-image"), nil}
	envv := []*byte{nil}
	empty := cstr("")
	_, _, e := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(empty)), uintptr(unsafe.Pointer(&argv[0])),
		uintptr(unsafe.Pointer(&envv[0])), uintptr(flags), 0)
	if e != 0 {
		return e
	}
	return ran
}

func cstr(s string) *byte {
	b, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func byDescriptor(flag int, at bool) error {
	if err := drop("/bin/attack", "/data/dropped"); err != nil {
		return err
	}
	fd, err := unix.Open("/data/dropped", flag, 0)
	if err != nil {
		return err
	}
	if at {
		return execveat(fd, unix.AT_EMPTY_PATH)
	}
	return execve(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func procRoot() error {
	if err := drop("/bin/attack", "/data/dropped"); err != nil {
		return err
	}
	return execve("/proc/self/root/data/dropped")
}

func tmpfile() error {
	fd, err := unix.Open("/data", unix.O_TMPFILE|unix.O_RDWR, 0o755)
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
	// A program that is open for writing can't run: open it again.
	ro, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	unix.Close(fd)
	return execveat(ro, unix.AT_EMPTY_PATH)
}

func unlinked() error {
	if err := drop("/bin/attack", "/data/gone"); err != nil {
		return err
	}
	fd, err := unix.Open("/data/gone", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err := os.Remove("/data/gone"); err != nil {
		return err
	}
	return execveat(fd, unix.AT_EMPTY_PATH)
}

func script() error {
	if err := os.WriteFile("/data/script", []byte("#!/bin/sh\necho payload-ran\n"), 0o755); err != nil {
		return err
	}
	return run("/data/script")
}

func shell() error {
	if err := os.WriteFile("/data/script", []byte("echo payload-ran\n"), 0o644); err != nil {
		return err
	}
	return run("/bin/sh", "/data/script")
}

// execveCheck asks as a well-behaved interpreter does.
func execveCheck() error {
	if err := os.WriteFile("/data/checked", []byte("#!/bin/sh\n"), 0o755); err != nil {
		return err
	}
	fd, err := unix.Open("/data/checked", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	const atExecveCheck = 0x10000
	return execveat(fd, unix.AT_EMPTY_PATH|atExecveCheck)
}

func opened(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// swapped runs a file that somebody outside exchanges all the time. It
// reports the first result that is not a refusal.
func swapped() error {
	var err error
	for range 40 {
		if err = run("/data/swap"); err == ran || !strings.Contains(word(err), "EACCES") {
			return err
		}
	}
	return err
}

func copiedUp() error {
	f, err := os.OpenFile("/srv/tool", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte{0}); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return run("/srv/tool")
}

func symlink() error {
	os.Remove("/data/link")
	if err := os.Symlink("/bin/attack", "/data/link"); err != nil {
		return err
	}
	return run("/data/link")
}
