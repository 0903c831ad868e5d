package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A log keeps the end of what was written, in order, and never more than two
// parts.
func TestRunLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := openLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for i := range 200 {
		line := fmt.Sprintf("line %d\n", i)
		all.WriteString(line)
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	long := strings.Repeat("x", 250)
	all.WriteString(long)
	if n, err := l.Write([]byte(long)); n != 250 || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := copyLog(&got, path); err != nil {
		t.Fatal(err)
	}
	if got.Len() <= 100 || got.Len() > 200 || !strings.HasSuffix(all.String(), got.String()) {
		t.Errorf("%d bytes are kept: %q", got.Len(), got.String())
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, %v, want 2", len(files), err)
	}
	if err := copyLog(&got, path+"nothing"); !os.IsNotExist(err) {
		t.Errorf("copyLog of no log = %v", err)
	}
}
