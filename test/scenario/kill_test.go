package scenario

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// killed runs a command several times and kills it at different points, checks
// after each kill, and at last lets it end.
func killed(t *testing.T, m *machine, after func(), args ...string) {
	t.Helper()
	kills := 0
	for _, lines := range []int{0, 1, 2, 4, 8} {
		met := m.killAt(lines, args...)
		after()
		if !met {
			break
		}
		kills++
	}
	if kills < 2 {
		t.Errorf("only %d of 5 kills met zos %s at work", kills, strings.Join(args, " "))
	}
	m.must(args...)
}

// no writes of a killed process are left in a store.
func noScraps(t *testing.T, store string) {
	t.Helper()
	if d, _ := os.ReadDir(filepath.Join(store, ".tmp")); len(d) > 0 {
		t.Errorf("%d files are left in %s/.tmp", len(d), store)
	}
}

func TestKillBuildPushPullExport(t *testing.T) {
	m := newMachine(t)
	for i := range byte(4) {
		write(t, m.path("tree", fmt.Sprintf("f%d", i)), noise(i, 12<<20), 0o644)
	}
	owner := m.must("key", "new", "-o", "name")
	store := m.path("data", "images")
	// What is visible after a kill is whole.
	nothing := func() {
		t.Helper()
		if out := m.must("flist", "ls", "-o", "name"); out != "" {
			m.must("flist", "verify", strings.Fields(out)[0], "--deep") // it was killed after the work
		}
	}
	killed(t, m, nothing, "flist", "build", m.path("tree"), "--platform", "linux/amd64", "--name", "app")
	id := m.must("flist", "inspect", "app", "-o", "name")
	m.must("flist", "verify", "app", "--deep")
	noScraps(t, store)

	// Push; the hub is a process of its own that is killed as well.
	write(t, m.path("publishers"), []byte(owner+" me unlimited\n"), 0o600)
	addr := freeAddr(t)
	serve := func() *exec.Cmd {
		t.Helper()
		cmd := m.command("hub", "serve", "--listen", addr, "--dir", m.path("hub"), "--publishers", m.path("publishers"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		m.await("the hub listens", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		return cmd
	}
	hub := serve()
	var once sync.Once
	end := func() {
		once.Do(func() {
			hub.Process.Signal(syscall.SIGTERM)
			hub.Wait()
			if code := hub.ProcessState.ExitCode(); code != 0 && code != 130 {
				t.Errorf("the hub ends with %d", code)
			}
		})
	}
	defer end()
	m.env = []string{"ZOS_HUB=http://" + addr}
	user := newMachine(t)
	user.env = m.env
	unpublished := func() {
		t.Helper()
		r := user.run("flist", "inspect", owner+"/app")
		if r.code == 0 {
			user.must("flist", "verify", owner+"/app", "--deep")
		} else if r.code != 3 {
			t.Fatalf("after a killed push: %v", r)
		}
	}
	killed(t, m, unpublished, "flist", "push", "app", "app")

	// The hub dies under a push: an error, nothing visible; then it goes on.
	m.must("flist", "build", m.path("tree"), "--name", "app2", "--label", "a=b")
	write(t, m.path("tree", "f9"), noise(9, 12<<20), 0o644)
	m.must("flist", "build", m.path("tree"), "--name", "app2")
	cmd := m.command("--progress", "json", "flist", "push", "app2", "app2")
	r, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Read(make([]byte, 64)) // it is at work
	hub.Process.Kill()
	hub.Wait()
	cmd.Process.Kill() // it would try again for a while
	io.Copy(io.Discard, r)
	cmd.Wait()
	hub = serve()
	if r := user.run("flist", "inspect", owner+"/app2"); r.code != 3 && r.code != 0 {
		t.Errorf("after the hub was killed: %v", r)
	}
	m.must("flist", "push", "app2", "app2")
	user.must("flist", "inspect", owner+"/app2")

	// Pull, and what was pulled is whole.
	empty := func() {
		t.Helper()
		if out := user.must("flist", "ls", "-o", "name"); out != "" {
			user.must("flist", "verify", strings.Fields(out)[0], "--deep")
		}
	}
	killed(t, user, empty, "flist", "pull", owner+"/app")
	noScraps(t, user.path("data", "images"))
	end()
	user.env = nil
	user.must("flist", "verify", id, "--deep")

	// Export: all or nothing at the target, and after success nothing beside it.
	for _, to := range []string{"tar:out.tar", "dir:out", "oci:layout"} {
		_, path, _ := strings.Cut(to, ":")
		at := user.path("export", path)
		if err := os.MkdirAll(user.path("export"), 0o755); err != nil {
			t.Fatal(err)
		}
		scheme, _, _ := strings.Cut(to, ":")
		killed(t, user, func() {
			t.Helper()
			if _, err := os.Lstat(at); err == nil { // it was killed after the work
				if again := user.must("flist", "build", scheme+":"+at, "--platform", "linux/amd64", "-o", "name"); again != id {
					t.Errorf("a killed export left a wrong %s", to)
				}
				os.RemoveAll(at)
			}
		}, "flist", "export", id, "--to", scheme+":"+at)
		if d, _ := os.ReadDir(user.path("export")); len(d) != 1 {
			for _, e := range d {
				t.Errorf("after export --to %s there is %s", to, e.Name())
			}
		}
		os.RemoveAll(user.path("export"))
	}
}

// The data server may die at any time: readers wait, none sees an error. When
// the keeper dies too, reads fail until the image is mounted again; nothing of
// it is left then.
func TestKillDataServerAndKeeper(t *testing.T) {
	needMounts(t)
	p := publish(t)
	m, at := p.mounted(t, p.hub.URL)
	done := make(chan error, 4)
	for range 4 {
		go func() {
			for range 20 {
				b, err := os.ReadFile(filepath.Join(at, "big"))
				if err == nil && string(b) != string(p.want) {
					err = fmt.Errorf("wrong bytes")
				}
				if err != nil {
					done <- err
					return
				}
				os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) // reads go to the server again
			}
			done <- nil
		}()
	}
	for range 3 {
		m.await("a data server runs", func() bool { return len(m.processes("dataserver")) == 1 })
		m.kill("dataserver")
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Errorf("a read while the data server was killed: %v", err)
		}
	}
	if t.Failed() {
		return
	}
	m.await("a data server runs", func() bool { return len(m.processes("dataserver")) == 1 })
	m.kill("keeper")
	m.await("the data server ended too", func() bool { return len(m.processes("dataserver")) == 0 })
	m.must("clean")
	if mounts := m.mounts(); len(mounts) > 0 {
		t.Errorf("zos clean leaves %v", mounts)
	}
	m.must("flist", "mount", p.name, at)
	readBoth(t, at, p.want, false)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
