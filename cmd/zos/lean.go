package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// lean gives back what only the start of the program needed: garbage of the
// initialisation of packages that this process never calls, and the pages of the
// program's file, which the kernel reads again when one is touched. It is for
// processes that stay beside everybody's workloads. What can't be given back
// stays.
func lean() error {
	debug.FreeOSMemory()
	// A page that is touched again shall not bring 2 MiB along.
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// "start-end perms offset device inode path"; only what is never written
		// is the same in the file.
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[5] != exe || len(f[1]) < 2 || f[1][1] != '-' {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &start, &end); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return lines.Err()
}

func (a *app) lean() {
	if err := lean(); err != nil {
		a.logger().Warn("memory of the start is kept", "error", err)
	}
}
