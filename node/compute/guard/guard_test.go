package guard_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
	"zos.internal/node/compute/guard"
)

// image mounts a file system of its own with copies of the test program: one
// that the record lists, one that it doesn't, and another name of the first.
func image(t *testing.T) (root string, record []executables.Entry) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root = filepath.Join(t.TempDir(), "image")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=0755"); err != nil {
		t.Skipf("no mounts: %v", err)
	}
	t.Cleanup(func() {
		// Detached: a container that starts beside this test holds a copy of the
		// mounts for a moment.
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	self, err := exec.LookPath("true")
	if err != nil {
		t.Skip("needs the program true")
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"listed", "unlisted"} {
		if err := os.WriteFile(filepath.Join(root, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "listed"), filepath.Join(root, "other-name")); err != nil {
		t.Fatal(err)
	}
	e, ok, err := executables.File("listed", bytes.NewReader(b), int64(len(b)))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	return root, []executables.Entry{e}
}

// TestMain makes the test program a guard when it is asked to: a guard must
// not share a process with what it guards, since a Go process waits for its
// execs with a part of its scheduler.
func TestMain(m *testing.M) {
	root := os.Getenv("GUARD_TEST_ROOT")
	if root == "" {
		os.Exit(m.Run())
	}
	if file := os.Getenv("GUARD_TEST_RECORD"); file != "" {
		kept(root, file)
	}
	var record []executables.Entry
	in := bufio.NewReader(os.Stdin)
	err := json.NewDecoder(io.LimitReader(in, 1<<20)).Decode(&record)
	if err == nil {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // ends when the test is done
			cancel()
		}()
		err = guard.Serve(ctx, guard.Options{
			Root: root, Executables: record, Instance: "i1", Audit: os.Stdout,
			Ready: func() { os.Stderr.WriteString("ready\n") },
		})
	}
	if err != nil {
		os.Stderr.WriteString(string(fault.Of(err)) + ": " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs a guard until stop is called; kill ends it with SIGKILL.
func serve(t *testing.T, root string, record []executables.Entry, audit io.Writer) (stop func(kill bool)) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "GUARD_TEST_ROOT="+root)
	cmd.Stdout = audit
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func(kill bool) {
		once.Do(func() {
			if kill {
				_ = cmd.Process.Kill()
			}
			in.Close()
			if err := cmd.Wait(); err != nil && !kill {
				t.Errorf("the guard ended with %v", err)
			}
		})
	}
	t.Cleanup(func() { stop(true) })
	if err := json.NewEncoder(in).Encode(record); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(errs).ReadString('\n')
	if err != nil || line != "ready\n" {
		stop(true)
		if strings.HasPrefix(line, string(fault.Unavailable)) {
			t.Skip(line)
		}
		t.Fatalf("the guard says %q, %v", line, err)
	}
	return stop
}

func run(t *testing.T, path string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, path).Run()
}

func TestGuard(t *testing.T) {
	root, record := image(t)
	for _, name := range []string{"listed", "unlisted"} { // the control
		if err := run(t, filepath.Join(root, name)); err != nil {
			t.Fatalf("without a guard %s: %v", name, err)
		}
	}
	var audit bytes.Buffer
	stop := serve(t, root, record, &audit)
	for range 3 {
		if err := run(t, filepath.Join(root, "listed")); err != nil {
			t.Errorf("a listed file: %v", err)
		}
		if err := run(t, filepath.Join(root, "other-name")); err != nil {
			t.Errorf("another name of it: %v", err)
		}
		if err := run(t, filepath.Join(root, "unlisted")); !errors.Is(err, unix.EPERM) {
			t.Errorf("an unlisted file: %v, want EPERM", err)
		}
	}
	// What is not on the image is none of the guard's business.
	if err := run(t, "/bin/true"); err != nil {
		t.Errorf("a program of the host: %v", err)
	}
	stop(false)
	var got []guard.Record
	for line := range bytes.Lines(audit.Bytes()) {
		var r guard.Record
		if err := json.Unmarshal(line, &r); err != nil || r.PID == 0 || r.Time.IsZero() {
			t.Errorf("incomplete record: %s %v", line, err)
		}
		r.PID, r.Time = 0, time.Time{}
		got = append(got, r)
	}
	want := []guard.Record{
		{Instance: "i1", Path: "/listed", Hash: record[0].Hash.String(), Kind: "dynamic", Verdict: "allow"},
		{Instance: "i1", Path: "/unlisted", Verdict: "deny"},
	}
	if record[0].Kind == executables.Static {
		want[0].Kind = "static"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("audit (-want +got):\n%s", diff)
	}
	if err := run(t, filepath.Join(root, "unlisted")); err != nil {
		t.Errorf("after the guard: %v; the kernel lets it pass", err)
	}
}

// Without a record the guard refuses nothing and records everything.
func TestGuardRecordsOnly(t *testing.T) {
	root, _ := image(t)
	var audit bytes.Buffer
	stop := serve(t, root, nil, &audit)
	if err := run(t, filepath.Join(root, "unlisted")); err != nil {
		t.Error(err)
	}
	stop(false)
	var r guard.Record
	if err := json.Unmarshal(audit.Bytes(), &r); err != nil || r.Verdict != "allow" || r.Path != "/unlisted" {
		t.Errorf("audit %q, %v", audit.String(), err)
	}
}

// A guard that comes and goes during a storm of execs stops none and lets no
// exec hang.
func TestGuardComesAndGoes(t *testing.T) {
	root, record := image(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	execs := make([]int, 3)
	for i := range execs {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := run(t, filepath.Join(root, "listed")); err != nil && ctx.Err() == nil {
					t.Errorf("exec %d: %v", execs[i], err)
					return
				}
				execs[i]++
			}
		})
	}
	for i := range 10 {
		stop := serve(t, root, record, nil)
		if err := run(t, filepath.Join(root, "unlisted")); !errors.Is(err, unix.EPERM) {
			t.Errorf("an unlisted file during the storm: %v, want EPERM", err)
		}
		stop(i%2 == 0) // killed, or ended in order
	}
	cancel()
	wg.Wait()
	for i, n := range execs {
		if n == 0 {
			t.Errorf("worker %d ran nothing", i)
		}
	}
}

func TestGuardRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, root := range []string{"relative", "/", dir, filepath.Join(dir, "missing")} {
		if err := guard.Serve(t.Context(), guard.Options{Root: root}); !errors.Is(err, fault.Invalid) {
			t.Errorf("Serve(%q) = %v, want invalid", root, err)
		}
	}
	root, _ := image(t)
	for _, path := range []string{"missing", "../x", "."} {
		if err := guard.Serve(t.Context(), guard.Options{Root: root, Executables: []executables.Entry{{Path: path}}}); !errors.Is(err, fault.Invalid) {
			t.Errorf("a record with %q: %v, want invalid", path, err)
		}
	}
}
