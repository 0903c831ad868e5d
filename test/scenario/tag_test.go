package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Row F2 of the seal: a tag that moves on the hub under a running container
// changes nothing for it, not even for files that it never touched; the next
// run gets the new image; a pointer that goes back is refused.
func TestTagMovesUnderRun(t *testing.T) {
	needContainers(t)
	p := newMachine(t)
	// Large enough to be fetched on its own, after the start.
	old, fresh := noise(1, 300<<10), noise(2, 300<<10)
	write(t, p.path("app", "data", "text"), old, 0o644)
	first := appImage(t, p)
	hub := newHub(t, p.path("data", "images"))
	owner := p.must("key", "show", "-o", "name")
	name := owner + "/app:1"
	p.must("flist", "tag", first, "app:1")
	pointer := filepath.Join(p.path("data", "images"), "g", owner, "app", "1")
	before, err := os.ReadFile(pointer)
	if err != nil {
		t.Fatal(err)
	}

	m := newMachine(t)
	m.env = []string{"ZOS_HUB=" + hub.URL}
	addr := freeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	m.must("run", "--name", "old", "--detach", "--publish", port+":80", name, "--", "files", "80=/data/text")
	stop := func() {
		if r := m.run("stop", "old"); r.code != 0 {
			t.Errorf("stop: %v", r)
		}
		m.must("rm", "old")
	}
	defer stop()
	if hub.asked("/p/", "/c/", "/batch") == 0 {
		t.Error("the start fetched nothing from the hub: the test proves nothing")
	}

	// The tag moves before the container reads the file for the first time.
	write(t, p.path("app", "data", "text"), fresh, 0o644)
	second := p.must("flist", "build", p.path("app"), "--name", "app:1", "--entrypoint", "/app", "-o", "name")
	if second == first {
		t.Fatal("another tree has the same id")
	}
	m.await("the container answers", func() bool { return answer(addr) != "" })
	if answer(addr) != strings.TrimSpace(string(old)) {
		t.Error("the running container sees other files than those of its image")
	}
	if r := m.run("run", name, "--", "cat", "/data/text"); r.code != 0 || r.stdout != string(fresh) {
		t.Errorf("the next run has not the new image: exit %d, %d bytes\n%s", r.code, len(r.stdout), r.stderr)
	}
	if answer(addr) != strings.TrimSpace(string(old)) {
		t.Error("the next run changed the files of the one before")
	}
	if r := m.run("run", first, "--", "cat", "/data/text"); r.code != 0 || r.stdout != string(old) {
		t.Errorf("the id of the first image runs another one: exit %d, %d bytes\n%s", r.code, len(r.stdout), r.stderr)
	}

	// Back to the first image with its own old signature.
	write(t, pointer, before, 0o644)
	m.fails(4, "older", "run", name, "--", "cat", "/data/text")
	if out := m.must("ps", "-o", "json"); !strings.Contains(out, first) || strings.Contains(out, second) {
		t.Errorf("ps shows %s, want only %s", out, first)
	}
}
