package scenario

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// appImage builds an image of the test program on the machine.
func appImage(t *testing.T, m *machine) string {
	t.Helper()
	b, err := os.ReadFile(built.app)
	if err != nil {
		t.Fatal(err)
	}
	write(t, m.path("app", "app"), b, 0o755)
	write(t, m.path("app", "data", "greeting"), []byte("hello\n"), 0o644)
	for _, d := range []string{"dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(m.path("app", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.must("key", "new")
	return m.must("flist", "build", m.path("app"), "--name", "app", "--entrypoint", "/app", "-o", "name")
}

// answer is what a published port says.
func answer(addr string) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return ""
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// cgroups are those of the machine's containers.
func cgroups(m *machine) (out []string) {
	runs, _ := os.ReadDir(m.path("run", "run"))
	for _, r := range runs {
		if !r.IsDir() {
			continue
		}
		for _, pattern := range []string{"/sys/fs/cgroup/zos-", "/sys/fs/cgroup/*/zos-", "/sys/fs/cgroup/*/*/zos-"} {
			found, _ := filepath.Glob(pattern + r.Name())
			out = append(out, found...)
		}
	}
	return out
}

// running reports whether a process with that argument runs.
func running(arg string) bool {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		if b, err := os.ReadFile(d); err == nil && strings.HasPrefix(string(b), "/app\x00") && strings.Contains(string(b), arg) {
			return true
		}
	}
	return false
}

// A zos run that is killed, in the foreground or detached, leaves what the next
// zos takes away: the container, its network and its mounts.
func TestKillRun(t *testing.T) {
	needContainers(t)
	m := newMachine(t)
	appImage(t, m)
	for _, detached := range []bool{false, true} {
		for _, cure := range []string{"clean", "run"} {
			addr := freeAddr(t)
			_, port, _ := strings.Cut(addr, ":")
			text := "marker-" + port
			args := []string{"run", "--name", "victim", "--publish", port + ":80"}
			serve := []string{"app", "--", "serve", "80=" + text}
			if detached {
				m.must(append(append(args, "--detach"), serve...)...)
			} else {
				cmd := m.command(append(args, serve...)...)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "serving\n" {
					t.Fatalf("the container says %q, %v", line, err)
				}
				defer func() { io.Copy(io.Discard, out); cmd.Wait() }()
			}
			m.await("the container answers", func() bool { return answer(addr) == text })
			links, tables := m.networks()
			if len(links) != 1 {
				t.Fatalf("the networks are %v %v", links, tables)
			}
			groups := cgroups(m)
			if len(groups) == 0 {
				t.Fatal("the container has no cgroup: the test proves nothing")
			}
			victims := m.processes("victim")
			if len(victims) != 1 {
				t.Fatalf("%d processes of the run", len(victims))
			}
			syscall.Kill(victims[0], syscall.SIGKILL)
			m.await("zos is gone", func() bool { return len(m.processes("victim")) == 0 })
			if cure == "clean" {
				m.must("clean")
			} else if out := m.must("run", "app", "--", "say", "next"); out != "next" {
				t.Errorf("the next run says %q", out)
			}
			if running(text) {
				t.Errorf("detached %v, %s: the container runs on", detached, cure)
			}
			gone(t, links, tables)
			for _, g := range groups {
				if _, err := os.Stat(g); err == nil {
					t.Errorf("the cgroup %s is left", g)
				}
			}
			m.idle()
			if out := m.must("ps", "-o", "name"); out != "" {
				t.Errorf("ps still shows %q", out)
			}
			if d, _ := os.ReadDir(m.path("run", "w")); len(d) > 0 {
				t.Errorf("the runtime still has %v", d)
			}
		}
	}
}

// What runs is the id that was resolved, although the tag moves meanwhile.
func TestTagMoves(t *testing.T) {
	needMounts(t)
	p := publish(t)
	m, at := p.mounted(t, p.hub.URL)
	write(t, p.m.path("tree", "big"), noise(7, bigFile), 0o644)
	p.m.must("flist", "build", p.m.path("tree"), "--name", "app:1")
	readBoth(t, at, p.want, false)
	if out := m.must("flist", "mount", "-o", "json"); !strings.Contains(out, p.id) {
		t.Errorf("the mount shows %s, want %s", out, p.id)
	}
	second := m.path("mnt2")
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	m.must("flist", "mount", p.name, second)
	readBoth(t, second, noise(7, bigFile), false)
	readBoth(t, at, p.want, false)
	m.must("flist", "unmount", second)
}

// Several starts at a time don't take each other's directories away.
func TestRunsAtTheSameTime(t *testing.T) {
	needContainers(t)
	m := newMachine(t)
	appImage(t, m)
	results := make(chan result)
	const n = 6
	for range n {
		go func() { results <- m.run("run", "app", "--", "cat", "/data/greeting") }()
	}
	for range n {
		if r := <-results; r.code != 0 || r.stdout != "hello\n" {
			t.Errorf("a run beside others: %v", r)
		}
	}
}
