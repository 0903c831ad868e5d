package compute

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/executables"
	"zos.internal/node/compute/guard"
)

// TestMain makes the test program a guard, or a process of a mount, when it is
// asked to.
func TestMain(m *testing.M) {
	var err error
	switch root := os.Getenv("COMPUTE_TEST_GUARD"); {
	case root != "":
		err = watch(root, os.Getenv("COMPUTE_TEST_RECORD"), os.Getenv("COMPUTE_TEST_AUDIT"))
	case os.Getenv("COMPUTE_TEST_MOUNT") != "" && len(os.Args) > 1:
		err = play(os.Args[1:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// watch is the process of a guard.
func watch(root, file, out string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var record []executables.Entry
	if err := json.Unmarshal(b, &record); err != nil {
		return err
	}
	audit, err := os.OpenFile(out, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return guard.Serve(context.Background(), guard.Options{Root: root, Executables: record, Audit: audit, Pings: os.Stdin, Pongs: os.Stdout})
}

// guarded is a root directory that a guard watches.
type guarded struct {
	kept *guard.Kept
	ends chan error // how each guard ended
	file string     // of the audit
}

// keepGuard keeps a guard of a file system until the test ends.
func keepGuard(t *testing.T, root string, record []executables.Entry) *guarded {
	t.Helper()
	dir := t.TempDir()
	g := &guarded{ends: make(chan error, 10_000), file: filepath.Join(dir, "audit")}
	writeJSON(t, filepath.Join(dir, "record"), record)
	var err error
	g.kept, err = guard.Keeper{
		Command: func() *exec.Cmd {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "COMPUTE_TEST_GUARD="+root, "COMPUTE_TEST_RECORD="+filepath.Join(dir, "record"), "COMPUTE_TEST_AUDIT="+g.file)
			cmd.Stderr = os.Stderr
			return cmd
		},
		// One that hangs holds up the battery: sooner than on a node.
		Every: 10 * time.Millisecond, Patience: 500 * time.Millisecond,
		OnEnd: func(err error) { g.ends <- err },
	}.Start(t.Context())
	if err != nil {
		t.Skipf("no guard: %v", err)
	}
	t.Cleanup(g.kept.Close)
	return g
}

// audit is what the guards wrote.
func (g *guarded) audit(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(g.file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// next waits for the guard after the one with that pid.
func (g *guarded) next(t *testing.T, old int) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if pid := g.kept.PID(); pid != 0 && pid != old {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("no other guard was started")
		}
	}
}

// attack kills each guard as soon as it watches, and stops every fourth
// instead, until the function that it returns is called, which says how often.
func (g *guarded) attack(t *testing.T) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	n, last := 0, 0
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if pid := g.kept.PID(); pid != 0 && pid != last {
				sig := unix.SIGKILL
				if n%4 == 3 {
					sig = unix.SIGSTOP
				}
				if unix.Kill(pid, sig) == nil {
					last = pid
					n++
				}
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	end := sync.OnceValue(func() int {
		cancel()
		wg.Wait()
		return n
	})
	t.Cleanup(func() { end() })
	return end
}

// Row F3: a program that is in the image but not in its record does not start
// in a container, and both verdicts are in the audit.
func TestGuarded(t *testing.T) {
	eachDriver(t, func(t *testing.T, driver string) {
		root := filepath.Join(t.TempDir(), "image")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=0755"); err != nil {
			t.Skipf("no mounts: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		if err := os.CopyFS(root, os.DirFS(testRoot(t))); err != nil {
			t.Fatal(err)
		}
		listed := slices.DeleteFunc(record(t, root), func(e executables.Entry) bool { return e.Path == "bin/ls" })
		g := keepGuard(t, root, listed)
		r := runtimeFor(t)
		s := Spec{RootFS: root, Driver: driver, UserNS: "auto", Executables: listed}
		exit, out := sh(t, r, s, "/bin/cat /etc/hostname; /bin/ls /")
		if exit.Code != 126 || !strings.Contains(out, "not permitted") {
			t.Errorf("with the guard: %+v %q, want the unlisted program refused", exit, out)
		}
		g.kept.Close()
		audit := g.audit(t)
		for _, want := range []string{`"path":"/bin/cat"`, `"path":"/bin/sh"`, `"verdict":"allow"`, `/bin/ls"`, `"verdict":"deny"`} {
			if !strings.Contains(audit, want) {
				t.Errorf("the audit has no %s: %s", want, audit)
			}
		}
		// Gone: the kernel lets it pass, and the other locks hold (TestBattery runs
		// without a guard).
		if exit, out := sh(t, r, s, "/bin/ls /"); exit.Code != 0 {
			t.Errorf("without the guard: %+v %q", exit, out)
		}
	})
}
