package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// log is what the keeper and its data servers wrote.
func (m *machine) log() string {
	b, err := os.ReadFile(m.path("run", "flist", "keeper.log"))
	if err != nil {
		return ""
	}
	return string(b)
}

// cacheOn mounts a tmpfs as the machine's cache until the test ends.
func (m *machine) cacheOn(options string) {
	m.t.Helper()
	at := m.path("cache")
	if err := os.Mkdir(at, 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
		m.t.Skipf("no tmpfs can be mounted: %v", err)
	}
	m.t.Cleanup(func() {
		m.await("the data server lets the cache go", func() bool { return syscall.Unmount(at, 0) == nil })
	})
}

// A full or read-only cache disk slows reads and breaks none.
func TestCacheDiskFullOrReadOnly(t *testing.T) {
	needMounts(t)
	p := publish(t)
	for _, options := range []string{"size=1m", "size=64k", "ro"} {
		t.Run(options, func(t *testing.T) {
			m := newMachine(t)
			m.env = []string{"ZOS_HUB=" + p.hub.URL}
			m.cacheOn(options)
			at := m.mountAt("mnt", p.name)
			for range 2 {
				readBoth(t, at, p.want, false)
				os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)
			}
			if log := m.log(); !strings.Contains(log, "not cached") && !strings.Contains(log, "cache unwritable") {
				t.Errorf("nobody is told about the cache:\n%s", log)
			}
		})
	}
}

// Bytes that changed on the cache disk are noticed, fetched again and reported.
func TestCacheFlips(t *testing.T) {
	needMounts(t)
	p := publish(t)
	m, at := p.mounted(t, p.hub.URL)
	readBoth(t, at, p.want, false)
	m.must("flist", "pull", "--metadata", p.name)
	m.must("flist", "unmount", at)
	m.await("the data server ended", func() bool { return len(m.processes("dataserver")) == 0 })
	slabs, err := filepath.Glob(m.path("cache", "chunks", "*"))
	if err != nil || len(slabs) == 0 {
		t.Fatalf("no slabs: %v", err)
	}
	flipped := 0
	for _, s := range slabs {
		b, err := os.ReadFile(s)
		if err != nil || len(b) < 1<<20 {
			continue
		}
		i := strings.Index(string(b), string(p.want[1<<20:1<<20+64]))
		if i < 0 {
			continue
		}
		f, err := os.OpenFile(s, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{b[i] ^ 1}, int64(i)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		flipped++
	}
	if flipped == 0 {
		t.Fatal("the content is not in a slab: the test proves nothing")
	}
	// The hub is gone: the one chunk can't be had, and is not made up.
	p.hub.set("gone", "")
	m.must("flist", "mount", p.id, at)
	readBoth(t, at, p.want, true)
	if log := m.log(); !strings.Contains(log, "cache damaged") {
		t.Errorf("nobody is told about the flipped byte:\n%s", log)
	}
	m.must("flist", "unmount", at)
	p.hub.set("", "")
	p.hub.reset()
	m.must("flist", "mount", p.name, at)
	readBoth(t, at, p.want, false)
	if n := p.hub.asked(content...); n != 1 {
		t.Errorf("%d requests for one chunk", n)
	}
}

// A pinned image starts without its hub.
func TestPinned(t *testing.T) {
	needMounts(t)
	p := publish(t)
	m := newMachine(t)
	m.env = []string{"ZOS_HUB=" + p.hub.URL}
	m.must("flist", "cache", "pin", p.name)
	p.hub.set("gone", "")
	at := m.mountAt("mnt", p.name)
	readBoth(t, at, p.want, false)
	p.hub.set("", "")
}
