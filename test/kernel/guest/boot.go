package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/test/kernel/scenario"
)

// boot does what PID 1 must and ends the machine, whatever happens.
func boot() {
	defer unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	defer func() {
		if p := recover(); p != nil {
			fmt.Println("guest panics:", p)
		}
	}()
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			fmt.Println("guest:", m.dir, err)
		}
	}
	// The order of loading is the order of the names.
	mods, _ := filepath.Glob("/modules/*.ko")
	for _, path := range mods {
		if err := load(path); err != nil {
			fmt.Println("guest: module", filepath.Base(path), err)
		}
	}
	for _, row := range scenario.Run(context.Background(), "/tmp/proof") {
		b, err := json.Marshal(row)
		if err != nil {
			b = []byte(err.Error())
		}
		fmt.Printf("\nrow %s\n", b)
	}
	// What the kernel complained about belongs to the proof.
	if n, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil); err == nil && n > 0 {
		buf := make([]byte, n)
		if n, err = unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf); err == nil {
			for line := range strings.Lines(string(buf[:n])) {
				if strings.Contains(line, "mounted with root inode") {
					continue
				}
				for _, word := range []string{"WARNING:", "BUG:", "Oops", "erofs", "fuse", "overlayfs"} {
					if strings.Contains(line, word) {
						fmt.Print("log ", line)
						break
					}
				}
			}
		}
	}
	fmt.Println("guest: done")
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err == unix.EEXIST {
		return nil
	}
	return err
}
