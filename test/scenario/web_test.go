package scenario

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nginxRoot makes a tar of the smallest root in which the machine's own nginx
// runs.
func nginxRoot(t *testing.T, m *machine) string {
	t.Helper()
	const nginx = "/usr/sbin/nginx"
	out, err := exec.Command("ldd", nginx).Output()
	if err != nil {
		t.Skip("nginx is not installed here")
	}
	root := m.path("root")
	add := func(from string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, from), b, 0o755)
	}
	add(nginx)
	for _, lib := range regexp.MustCompile(`/\S+\.so[.0-9]*`).FindAllString(string(out), -1) {
		add(lib)
	}
	if libs, _ := filepath.Glob("/lib/*-linux-gnu/libnss_files.so.2"); len(libs) > 0 {
		add(libs[0])
	}
	write(t, filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:/bin/false\nwww-data:x:33:33::/:/bin/false\n"), 0o644)
	write(t, filepath.Join(root, "etc/group"), []byte("root:x:0:\nwww-data:x:33:\n"), 0o644)
	write(t, filepath.Join(root, "etc/nginx/mime.types"), []byte("types { text/html html; }\n"), 0o644)
	for _, d := range []string{"run", "tmp", "dev", "proc", "sys", "var/log/nginx", "var/lib/nginx", "srv/web", "etc/nginx/sites-enabled"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/nginx/sites-enabled/default"), nil, 0o644)
	tar := m.path("rootfs.tar")
	if b, err := exec.Command("tar", "-C", root, "-cf", tar, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, b)
	}
	return tar
}

// The main job: once, again after a kill -9 while its container runs, and twice
// in a row.
func TestMainJobKilled(t *testing.T) {
	needContainers(t)
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skip("docker-registry is not installed")
	}
	m := newMachine(t)
	rootfs := nginxRoot(t, m)
	web := m.path("web")
	cmd := exec.Command("go", "build", "-o", web, "zos.internal/examples/web")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	dir := m.path("job")
	start := func() (*exec.Cmd, *bytes.Buffer) {
		t.Helper()
		cmd := exec.Command(web, "-zos", built.zos, "-dir", dir, "-rootfs", rootfs)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &out
	}
	nothing := func() {
		t.Helper()
		for _, p := range m.mounts() {
			t.Errorf("a mount is left: %s", p)
		}
		if out, err := exec.Command("pgrep", "-f", dir).Output(); err == nil {
			t.Errorf("processes are left: %s", out)
		}
		for _, p := range []string{dir, dir + ".lock"} {
			if _, err := os.Lstat(p); err == nil {
				t.Errorf("%s is left", p)
			}
		}
	}
	succeed := func() {
		t.Helper()
		cmd, out := start()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
		defer stop()
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "hello from a sealed container") {
			t.Fatalf("the main job: %v\n%s", err, out)
		}
		nothing()
	}
	// Killed at the peer's container and at ours.
	for _, file := range []string{"user-data", "container.pid"} {
		cmd, out := start()
		m.await(file+" is there", func() bool {
			_, err := os.Stat(filepath.Join(dir, file))
			return err == nil || cmd.ProcessState != nil
		})
		cmd.Process.Kill()
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("it ended before it was killed: %v\n%s", err, out)
		}
		succeed()
	}
	succeed()
}
