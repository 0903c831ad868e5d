package cache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// mountTmpfs mounts a small file system for a test.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=0700"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	dir := mountTmpfs(t, "5m")
	var ev events
	c := open(t, filepath.Join(dir, "cache"), Options{SlabSize: 1 << 20, OnEvent: ev.add})
	// Others fill the disk; the cache can give up only what it has.
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var names []block.Name
	var chunks [][]byte
	for i := range 60 {
		chunks = append(chunks, data(i, 60<<10))
		names = append(names, block.Sum(chunks[i]))
	}
	heal(t, c, block.Domain{}, names, chunks)
	if err := c.Flush(); err != nil {
		t.Errorf("Flush = %v: giving up old chunks makes room for new ones", err)
	}
	for range 3 {
		heal(t, c, block.Domain{}, names, chunks)
	}
	if s := c.Stat(); s.Evicted == 0 || s.Chunks == 0 {
		t.Errorf("%d evicted, %d kept, want both", s.Evicted, s.Chunks)
	}
	// Now there is no room at all: pinned, and full.
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(other, 2<<20-64<<10); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pin("all", block.Domain{}, names); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(other, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, page))
	}
	heal(t, c, block.Domain{}, names, chunks)
	if err := c.Flush(); !errors.Is(err, fault.Exhausted) || ev.count(Unwritable) != 1 {
		t.Errorf("Flush on a full disk = %v, %d events, want Exhausted and 1", err, ev.count(Unwritable))
	}
	heal(t, c, block.Domain{}, names, chunks)
}

func TestDiskComesBack(t *testing.T) {
	dir := mountTmpfs(t, "1m")
	synctest.Test(t, func(t *testing.T) {
		var ev events
		c := open(t, filepath.Join(dir, "cache"), Options{SlabSize: 1 << 20, OnEvent: ev.add})
		other := filepath.Join(dir, "other")
		f, err := os.Create(other)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, page))
		}
		f.Close()
		chunk := data(1, 50000)
		names := []block.Name{block.Sum(chunk)}
		heal(t, c, block.Domain{}, names, [][]byte{chunk})
		time.Sleep(time.Second) // until it was tried to write
		if s := c.Stat(); s.Writable {
			t.Error("a full disk is called writable")
		}
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retryDelay)
		heal(t, c, block.Domain{}, names, [][]byte{chunk})
		time.Sleep(time.Second)
		if s := c.Stat(); !s.Writable || s.Chunks != 1 || ev.count(Writable) != 1 {
			t.Errorf("after the disk came back: %+v, events %v", s, ev.list)
		}
		c.Close()
	})
}

func TestReadOnlyDisk(t *testing.T) {
	dir := mountTmpfs(t, "4m")
	sub := filepath.Join(dir, "cache")
	dom, names, chunks := battery(t, sub)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skipf("no read-only remount here: %v", err)
	}
	var ev events
	c := open(t, sub, Options{SlabSize: 32 << 10, OnEvent: ev.add})
	if n := heal(t, c, dom, names, chunks); n != 0 {
		t.Errorf("%d chunks fetched although they can be read", n)
	}
	more := data(100, 3000)
	heal(t, c, dom, []block.Name{block.Sum(more)}, [][]byte{more})
	if err := c.Flush(); err == nil || ev.count(Unwritable) != 1 {
		t.Errorf("Flush on a read-only disk = %v, events %v, want an error and one", err, ev.list)
	}
	heal(t, c, dom, append(names, block.Sum(more)), append(chunks, more))
}
