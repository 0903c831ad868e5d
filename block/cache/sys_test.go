package cache

import (
	"os"
	"syscall"
	"testing"
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
