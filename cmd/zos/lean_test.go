package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// fileMemory is how much of this process's memory is pages of files, in KiB.
func fileMemory(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("the kernel doesn't tell RssFile")
	return 0
}

// TestLean: the pages of the program are given back, and the program runs on.
func TestLean(t *testing.T) {
	before := fileMemory(t)
	if err := lean(); err != nil {
		t.Fatal(err)
	}
	if after := fileMemory(t); after > before/2 {
		t.Errorf("%d KiB of pages of files before, %d after", before, after)
	}
}
