package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"zos.internal/block"
)

// TestKilledWriter kills a process that fills a cache, at random points, and
// opens what it left.
func TestKilledWriter(t *testing.T) {
	if dir := os.Getenv("ZOS_CACHE_TEST_DIR"); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kept := 0
	for round := range 8 {
		cmd := exec.Command(exe, "-test.run=^TestKilledWriter$")
		cmd.Env = append(os.Environ(), "ZOS_CACHE_TEST_DIR="+dir, fmt.Sprint("ZOS_CACHE_TEST_SEED=", round*10000))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Kill it after some of the lines that it prints, one a flush.
		lines := 2 + rand.IntN(6)
		buf := make([]byte, 1)
		for lines > 0 {
			if _, err := out.Read(buf); err != nil {
				t.Fatalf("the writer ended by itself: %v", err)
			}
			if buf[0] == '\n' {
				lines--
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		var ev events
		c := open(t, dir, Options{SlabSize: 1 << 20, MaxBytes: 3 << 20, OnEvent: ev.add})
		r, err := c.Scrub(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if r.Bad != 0 || ev.count(Damaged)+ev.count(Lost) > 0 {
			t.Errorf("round %d: %+v after a kill, events %v, want no record without its bytes", round, r, ev.list)
		}
		kept = r.Chunks
		s := c.Stat()
		if s.Chunks != r.Chunks || s.Bytes > 3<<20 {
			t.Errorf("round %d: %+v, scrubbed %d", round, s, r.Chunks)
		}
		c.Close()
	}
	if kept == 0 {
		t.Error("nothing survived")
	}
}

func writeUntilKilled(t *testing.T, dir string) {
	seed, err := strconv.Atoi(os.Getenv("ZOS_CACHE_TEST_SEED"))
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, dir, Options{SlabSize: 1 << 20, MaxBytes: 3 << 20, SyncDelay: time.Millisecond, FlushDelay: time.Millisecond})
	for i := 0; i < 9000; i++ {
		put(t, c, block.Domain{}, data(seed+i, 3000+i%70000))
		if i%10 == 9 {
			fmt.Println(strings.Repeat("x", 3))
		}
		if i%40 == 39 {
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(record{kind: recordPut, slab: 3, page: 9, size: 70000, key: key{1}}.append(nil))
	f.Add(record{kind: recordDrop, sealed: true, key: key{1}}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := parseRecord(b)
		if ok && !bytes.Equal(r.append(nil), b) {
			t.Errorf("parseRecord takes %x, which append doesn't write", b)
		}
	})
}

func FuzzPins(f *testing.F) {
	f.Add([]byte("ZOSPINS1\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if pins, err := parsePins(b); err == nil && !bytes.Equal(encodePins(pins), b) {
			t.Errorf("parsePins takes %x, which encodePins doesn't write", b)
		}
	})
}
