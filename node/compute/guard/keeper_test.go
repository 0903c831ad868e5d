package guard_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
	"zos.internal/node/compute/guard"
)

// kept is the guard that a Keeper starts. It doesn't return.
func kept(root, file string) {
	var record []executables.Entry
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &record)
	}
	if err == nil {
		err = guard.Serve(context.Background(), guard.Options{Root: root, Executables: record, Pings: os.Stdin, Pongs: os.Stdout})
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// keep keeps a guard of an image; ends receives how guards ended.
func keep(t *testing.T, root string, record []executables.Entry) (k *guard.Kept, ends <-chan error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "record")
	b, err := json.Marshal(record)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := make(chan error, 100)
	k, err = guard.Keeper{
		Command: func() *exec.Cmd {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "GUARD_TEST_ROOT="+root, "GUARD_TEST_RECORD="+file)
			cmd.Stderr = os.Stderr
			return cmd
		},
		Every: 10 * time.Millisecond, Patience: time.Second, OnEnd: func(err error) { c <- err },
	}.Start(t.Context())
	if errors.Is(err, fault.Unavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k, c
}

// next waits for the guard after the one with that pid.
func next(t *testing.T, k *guard.Kept, old int) int {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if pid := k.PID(); pid != 0 && pid != old {
			return pid
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("no other guard was started")
		}
	}
}

// A guard that is killed or hangs is replaced, and an exec that waits for a
// hung one goes on.
func TestKeeper(t *testing.T) {
	root, record := image(t)
	k, ends := keep(t, root, record)
	refused := func(when string) {
		t.Helper()
		if err := run(t, filepath.Join(root, "unlisted")); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s an unlisted file: %v, want EPERM", when, err)
		}
	}
	refused("at first")
	pid := k.PID()
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGTERM} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
		if sig == unix.SIGSTOP {
			// It waits for the stopped guard's answer, at most until that is killed.
			if err := run(t, filepath.Join(root, "unlisted")); err != nil && !errors.Is(err, unix.EPERM) {
				t.Errorf("while the guard hangs: %v", err)
			}
		}
		err := <-ends
		if hung := err != nil && strings.Contains(err.Error(), "did not answer"); hung != (sig == unix.SIGSTOP) || err == nil {
			t.Errorf("after %v the guard ended with %v", sig, err)
		}
		pid = next(t, k, pid)
		refused("after " + sig.String())
	}
	k.Close()
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the guard lives on after Close: %v", err)
	}
	if err := run(t, filepath.Join(root, "unlisted")); err != nil {
		t.Errorf("after Close: %v; the kernel lets it pass", err)
	}
}

// A guard that can't watch is an error at the start and leaves nothing.
// TestKeeperStartHangs: a guard that never says that it watches is killed, and
// doesn't keep its starter waiting.
func TestKeeperStartHangs(t *testing.T) {
	in, out, err := os.Pipe() // nobody writes, so cat waits
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	var made *exec.Cmd
	_, err = guard.Keeper{
		Command: func() *exec.Cmd {
			made = exec.Command("cat", "/proc/self/fd/3")
			made.ExtraFiles = []*os.File{in}
			return made
		},
		Startup: 50 * time.Millisecond,
	}.Start(t.Context())
	if !errors.Is(err, fault.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start of a guard that hangs = %v", err)
	}
	if made.ProcessState == nil || made.ProcessState.Success() {
		t.Errorf("the guard that hung is left as %v", made.ProcessState)
	}
}

func TestKeeperRefuses(t *testing.T) {
	for name, cmd := range map[string]func() *exec.Cmd{
		"no program":     func() *exec.Cmd { return exec.Command("/nowhere") },
		"ends at once":   func() *exec.Cmd { return exec.Command("/bin/true") },
		"says otherwise": func() *exec.Cmd { return exec.Command("/bin/sh", "-c", "echo something; cat") },
	} {
		if _, err := (guard.Keeper{Command: cmd}).Start(t.Context()); !errors.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
}
