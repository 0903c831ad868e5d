// Package scenario attacks the real program: it kills it, lies to it, fills its
// disk, and looks at what is served and what is left.
//
// Each test works on machines of its own: directories for the data, the cache
// and the runs of one imagined host. A machine is checked for leaks when its
// test ends: mounts, processes, network interfaces, tables and files.
//
//	m := newMachine(t)
//	m.must("flist", "build", tree, "--name", "app")
package scenario

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// zos and app are the programs under test and in containers, built once.
type programs struct{ zos, app string }

var built programs // set by TestMain before any test runs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "zos-scenario-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		built = programs{filepath.Join(dir, "zos"), filepath.Join(dir, "app")}
		for out, pkg := range map[string]string{built.zos: "zos.internal/cmd/zos", built.app: "../../cmd/zos/testdata/app"} {
			cmd := exec.Command("go", "build", "-o", out, pkg)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if b, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, b)
				return 1
			}
		}
		return m.Run()
	}())
}

// machine is one imagined host.
type machine struct {
	t   *testing.T
	dir string
	env []string // added to every command
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "zos-sc-") // a disk, and a short path for sockets
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir}
	if err := os.Mkdir(m.path("tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.check)
	return m
}

func (m *machine) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

func (m *machine) environ() []string {
	env := append(os.Environ(),
		"ZOS_DATA="+m.path("data"), "ZOS_CACHE="+m.path("cache"), "ZOS_RUN="+m.path("run"), "ZOS_CONFIG=/dev/null",
		"ZOS_HUB=", "ZOS_KEY=", "ZOS_TENANT_KEY=", "ZOS_CONTEXT=", "HOME="+m.dir, "TMPDIR="+m.path("tmp"))
	return append(env, m.env...)
}

func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(built.zos, args...)
	cmd.Env = m.environ()
	cmd.Dir = m.dir
	return cmd
}

type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// run runs zos to its end; two minutes are a hang.
func (m *machine) run(args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := m.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	cmd.Wait()
	if ctx.Err() != nil {
		m.t.Fatalf("zos %s hangs\n%s", strings.Join(args, " "), errs.String())
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must is run for what has to work; it returns standard output, trimmed.
func (m *machine) must(args ...string) string {
	m.t.Helper()
	r := m.run(args...)
	if r.code != 0 {
		m.t.Fatalf("zos %s: %v", strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.stdout)
}

// fails is run for what has to be refused with a code and a phrase.
func (m *machine) fails(code int, phrase string, args ...string) {
	m.t.Helper()
	r := m.run(args...)
	if r.code != code || !strings.Contains(r.stderr, phrase) || r.stdout != "" || strings.Contains(r.stderr, "panic") {
		m.t.Errorf("zos %s: %v\nwant exit %d, nothing on stdout, %q on stderr", strings.Join(args, " "), r, code, phrase)
	}
}

// killAt runs zos with progress on stderr and kills it after so many lines of
// it. It reports whether it was still running.
func (m *machine) killAt(lines int, args ...string) bool {
	m.t.Helper()
	cmd := m.command(append([]string{"--progress", "json"}, args...)...)
	r, err := cmd.StderrPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	seen := 0
	b := make([]byte, 4096)
	for seen < lines {
		n, err := r.Read(b)
		seen += bytes.Count(b[:n], []byte("\n"))
		if err != nil {
			break
		}
	}
	cmd.Process.Kill()
	io.Copy(io.Discard, r)
	cmd.Wait()
	return cmd.ProcessState.ExitCode() == -1
}

// processes are the pids of this machine's zos whose command line has word.
func (m *machine) processes(word string) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(d + "/environ")
		if err != nil || !bytes.Contains(env, []byte("ZOS_RUN="+m.path("run")+"\x00")) {
			continue
		}
		line, _ := os.ReadFile(d + "/cmdline")
		if len(line) > 0 && bytes.Contains(line, []byte(word)) {
			out = append(out, pid)
		}
	}
	return out
}

// kill ends the one process with word in its command line, and waits for it.
func (m *machine) kill(word string) {
	m.t.Helper()
	pids := m.processes(word)
	if len(pids) != 1 {
		m.t.Fatalf("%d processes match %q, want 1", len(pids), word)
	}
	syscall.Kill(pids[0], syscall.SIGKILL)
	m.await(word+" is gone", func() bool { return !slices.Contains(m.processes(word), pids[0]) })
}

// await waits until ok, at most half a minute.
func (m *machine) await(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			m.t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// mounts are the mount points below the machine's directory.
func (m *machine) mounts() []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], m.dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

// networks are the interfaces and tables of the machine's containers.
func (m *machine) networks() (links, tables []string) {
	files, _ := filepath.Glob(m.path("run", "net", "*"))
	for _, f := range files {
		var r struct{ Link, Table string }
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &r) == nil && r.Link != "" {
			links, tables = append(links, r.Link), append(tables, r.Table)
		}
	}
	return links, tables
}

// gone reports what is left of networks.
func gone(t *testing.T, links, tables []string) {
	t.Helper()
	for _, l := range links {
		if _, err := os.Stat("/sys/class/net/" + l); err == nil {
			t.Errorf("the interface %s is left", l)
		}
	}
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return // no nftables here: then there are no tables
	}
	for _, tb := range tables {
		if strings.Contains(string(out)+"\n", " "+tb+"\n") {
			t.Errorf("the table %s is left", tb)
		}
	}
}

// idle fails the test if anything of the machine is mounted or running.
func (m *machine) idle() {
	m.t.Helper()
	for _, p := range m.mounts() {
		m.t.Errorf("a mount is left: %s", p)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < 500 && len(m.processes("")) > 0; i++ {
		<-tick.C // a keeper ends by itself after its last mount
	}
	for _, pid := range m.processes("") {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		m.t.Errorf("a process is left: %d %q", pid, line)
	}
	links, tables := m.networks()
	if len(links)+len(tables) > 0 {
		m.t.Errorf("networks are left: %v %v", links, tables)
	}
	if d, _ := os.ReadDir(m.path("tmp")); len(d) > 0 {
		m.t.Errorf("a temporary file is left: %s", d[0].Name())
	}
}

// check is the leak check; it takes away what it finds.
func (m *machine) check() {
	m.idle()
	for _, pid := range m.processes("") {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, p := range slices.Backward(m.mounts()) {
		syscall.Unmount(p, syscall.MNT_DETACH)
	}
	if len(m.mounts()) > 0 {
		m.t.Errorf("still mounted: %v; %s is kept", m.mounts(), m.dir)
		return
	}
	if err := os.RemoveAll(m.dir); err != nil {
		m.t.Error(err)
	}
}

// noise is size bytes that don't compress, the same for the same seed.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func write(t *testing.T, path string, b []byte, perm fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, perm); err != nil {
		t.Fatal(err)
	}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// files are the regular files below dir by path.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[rel] = sum(b)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return out
}

func needMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("mounting needs /dev/fuse")
	}
}

func needContainers(t *testing.T) {
	t.Helper()
	needMounts(t)
	if _, err := exec.LookPath("crun"); err != nil {
		t.Skip("containers need crun")
	}
}
