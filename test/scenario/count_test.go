package scenario

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// content are the paths of a hub that answer with contents of files.
var content = []string{"/p/", "/c/", "/batch"}

// Commands that look at an image fetch nothing but its description.
func TestLookingFetchesNoContent(t *testing.T) {
	p := publish(t)
	m := newMachine(t)
	m.env = []string{"ZOS_HUB=" + p.hub.URL}
	write(t, p.m.path("tree", "other"), noise(8, 1<<20), 0o644)
	second := p.m.must("flist", "build", p.m.path("tree"), "-o", "name")
	p.hub.reset()
	for _, args := range [][]string{
		{"flist", "inspect", p.name}, {"flist", "ls", p.name}, {"flist", "diff", p.name, second}, {"flist", "verify", p.name},
		{"flist", "pull", "--metadata", p.name},
	} {
		m.must(args...)
		if n := p.hub.asked(content...); n > 0 {
			t.Errorf("zos %v asks for content %d times", args, n)
		}
	}
	if p.hub.asked("/") == 0 {
		t.Error("the hub was not asked at all: the test proves nothing")
	}
	if b := p.hub.bytes(); b > 64<<10 {
		t.Errorf("looking fetched %d bytes", b)
	}
	p.hub.reset()
	if got := m.must("flist", "cat", p.name, "etc/small"); got != "small" {
		t.Errorf("cat = %q", got)
	}
	if n, b := p.hub.asked(content...), p.hub.bytes(); n != 1 || b > 2<<20 {
		t.Errorf("cat of a small file asks for content %d times and fetches %d bytes", n, b)
	}
}

// Reading a file from its start to its end takes at most a request per MiB.
func TestSequentialRequests(t *testing.T) {
	needMounts(t)
	const size = 64 << 20
	pub := newMachine(t)
	want := noise(6, size)
	write(t, pub.path("tree", "big"), want, 0o644)
	owner := pub.must("key", "new", "-o", "name")
	pub.must("flist", "build", pub.path("tree"), "--name", "app")
	hub := newHub(t, pub.path("data", "images"))
	m := newMachine(t)
	m.env = []string{"ZOS_HUB=" + hub.URL}
	at := m.mountAt("mnt", owner+"/app")
	hub.reset()
	f, err := os.Open(filepath.Join(at, "big"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 128<<10)
	for off := 0; off < size; off += len(got) {
		if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, want[off:off+len(got)]) {
			t.Fatalf("wrong bytes at %d: %v", off, err)
		}
	}
	if n := hub.asked(content...); n == 0 || n > 64 {
		t.Errorf("%d requests for 64 MiB, want at most 64", n)
	}
	if b := hub.bytes(); b > size*101/100 {
		t.Errorf("%d bytes fetched for %d", b, size)
	}
}

// A start that was recorded needs few requests the next time, elsewhere.
func TestTraceSavesRequests(t *testing.T) {
	needMounts(t)
	pub := newMachine(t)
	const n = 200
	for i := range n {
		write(t, pub.path("tree", fmt.Sprintf("d%02d", i%40), fmt.Sprintf("f%03d", i)), noise(byte(i), 70<<10), 0o644)
	}
	owner := pub.must("key", "new", "-o", "name")
	pub.must("flist", "build", pub.path("tree"), "--name", "app")
	hub := newHub(t, pub.path("data", "images"))
	start := func(at string) {
		t.Helper()
		for i := range n {
			if d := i % 40; d > 6 && d < 20 || d > 22 {
				continue // a start touches two parts of the image
			}
			got, err := os.ReadFile(filepath.Join(at, fmt.Sprintf("d%02d", i%40), fmt.Sprintf("f%03d", i)))
			if err != nil || !bytes.Equal(got, noise(byte(i), 70<<10)) {
				t.Errorf("file %d: %v", i, err)
			}
		}
	}
	at := pub.path("mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	pub.must("flist", "mount", "app", at)
	start(at)
	pub.must("flist", "unmount", at)
	pub.await("the start is recorded", func() bool { return pub.run("flist", "trace", "publish", "app").code == 0 })

	m := newMachine(t)
	m.env = []string{"ZOS_HUB=" + hub.URL}
	hub.reset()
	at2 := m.mountAt("mnt", owner+"/app")
	start(at2)
	if n := hub.asked(content...); n == 0 || n > 8 {
		t.Errorf("%d requests for content, want at most 8", n)
	}
}
