package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The same tree has the same id whoever builds it: with other umasks, numbers
// of processors, secrets of the machine, and however the tree was written.
func TestSameIdEverywhere(t *testing.T) {
	fill := func(m *machine, backwards bool) {
		t.Helper()
		const n = 60
		for k := range n {
			i := k
			if backwards {
				i = n - 1 - k
			}
			write(t, m.path("tree", fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i)), noise(byte(i), 1000*i), 0o640)
		}
		if out, err := exec.Command("find", m.path("tree"), "-exec", "touch", "-h", "-d", "@1700000000.123456789", "{}", "+").CombinedOutput(); err != nil {
			t.Fatalf("touch: %v\n%s", err, out)
		}
		m.must("key", "new")
	}
	var want string
	for i, env := range [][]string{{"GOMAXPROCS=1"}, {"GOMAXPROCS=7"}, {"TZ=Pacific/Auckland", "LC_ALL=C"}} {
		m := newMachine(t)
		fill(m, i == 1)
		m.env = env
		cmd := exec.Command("sh", "-c", fmt.Sprintf(`umask %03o && exec "$0" "$@"`, []int{0o77, 0o22, 0}[i]), built.zos, "flist", "build", m.path("tree"), "-o", "name")
		cmd.Env = m.environ()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("build: %v", err)
		}
		id := strings.TrimSpace(string(out))
		if want == "" {
			want = id
		}
		if id != want {
			t.Errorf("with %v the id is %s, want %s", env, id, want)
		}
		if os.Geteuid() != 0 {
			continue // owners can't be kept
		}
		// Through every format and back.
		for _, to := range []string{"tar", "dir", "oci"} {
			at := m.path("out." + to)
			m.must("flist", "export", id, "--to", to+":"+at)
			if again := m.must("flist", "build", to+":"+at, "-o", "name"); again != want {
				t.Errorf("back from %s the id is %s, want %s", to, again, want)
			}
		}
	}
}

// An image in the store that lost a pack lends its chunks to nobody.
func TestBuildBesideADamagedImage(t *testing.T) {
	m := newMachine(t)
	m.must("key", "new")
	write(t, m.path("tree", "big"), noise(1, 1<<20), 0o644)
	first := m.must("flist", "build", m.path("tree"), "-o", "name")
	packs, err := os.ReadDir(m.path("data", "images", "p"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("%d packs, %v", len(packs), err)
	}
	if err := os.Remove(m.path("data", "images", "p", packs[0].Name())); err != nil {
		t.Fatal(err)
	}
	write(t, m.path("tree", "small"), []byte("small"), 0o644)
	second := m.must("flist", "build", m.path("tree"), "-o", "name")
	m.must("flist", "verify", second, "--deep")
	if r := m.run("flist", "verify", first); r.code != 1 {
		t.Errorf("verify of an image without its pack: %v", r)
	}
	// Asked for by name it is an error.
	m.fails(3, "base", "flist", "build", m.path("tree"), "--base", first)
}
