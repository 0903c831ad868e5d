package cache

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// allocated is how many bytes of the disk a file takes.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

// forget drops the pages of f from the page cache.
func forget(t testing.TB, f *os.File) {
	t.Helper()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}
