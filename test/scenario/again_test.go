package scenario

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The second run of an image asks the hub only what its name means, and nothing
// when it is named by its id. Kept files that are damaged are fetched again.
func TestSecondRunAsksForThePointer(t *testing.T) {
	needContainers(t)
	p := newMachine(t)
	id := appImage(t, p)
	hub := newHub(t, p.path("data", "images"))
	owner := p.must("key", "show", "-o", "name")
	p.must("flist", "tag", id, "app:1")
	m := newMachine(t)
	m.env = []string{"ZOS_HUB=" + hub.URL}
	run := func(ref string) []string {
		t.Helper()
		hub.reset()
		if out := m.must("run", ref, "--", "cat", "/data/greeting"); out != "hello" {
			t.Fatalf("the container says %q", out)
		}
		hub.mu.Lock()
		defer hub.mu.Unlock()
		return slices.Clone(hub.log)
	}
	// What the first program didn't read to its end may still be fetched by the
	// next one: contents are not what is kept here.
	metadata := func(ref string) []string {
		t.Helper()
		return slices.DeleteFunc(run(ref), func(path string) bool { return strings.HasPrefix(path, "/p/") })
	}
	name := owner + "/app:1"
	if asked := run(name); len(asked) < 3 || hub.asked("/p/", "/c/", "/batch") == 0 {
		t.Fatalf("the first run asked for %q: the test proves nothing", asked)
	}
	pointer := []string{"/g/" + owner + "/app/1"}
	for range 2 {
		if asked := metadata(name); !slices.Equal(asked, pointer) {
			t.Errorf("the next run asked for %q, want %q", asked, pointer)
		}
	}
	if asked := metadata(id); len(asked) > 0 {
		t.Errorf("the run of the id asked for %q", asked)
	}
	// It is no image of the local store.
	if out := m.must("flist", "ls", "-o", "name"); out != "" {
		t.Errorf("flist ls shows %q", out)
	}

	dir := m.path("cache", "metadata", id)
	n := 0
	for rel := range files(t, dir) {
		if strings.HasPrefix(rel, "t/") || strings.HasPrefix(rel, "s/") {
			continue // hints: TestDamagedHints
		}
		n++
		b, err := os.ReadFile(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]byte{b[:len(b)/2], append([]byte{b[0] ^ 1}, b[1:]...)}[n%2:][:1] {
			write(t, filepath.Join(dir, rel), bad, 0o644)
			if asked := run(id); len(asked) == 0 {
				t.Errorf("nothing was fetched for a damaged %s", rel)
			}
			if asked := metadata(id); len(asked) > 0 {
				t.Errorf("after %s was fetched again a run asked for %q", rel, asked)
			}
		}
	}
	if n < 4 {
		t.Errorf("only %d files are kept", n)
	}
}
