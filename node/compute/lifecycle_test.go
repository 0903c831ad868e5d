package compute

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"zos.internal/internal/fault"
)

func TestLimits(t *testing.T) {
	c := needContainers(t)
	if !c.Limits {
		t.Skipf("this machine can't limit: %+v", c.Missing)
	}
	root := testRoot(t)
	addAttacker(t, root)
	eachDriver(t, func(t *testing.T, driver string) {
		r := runtimeFor(t)
		run := func(s Spec, args ...string) (Exit, string) {
			t.Helper()
			var out bytes.Buffer
			s.ID, s.RootFS, s.Driver, s.Argv = testID(t), root, driver, append([]string{attacker}, args...)
			exit, err := r.Run(t.Context(), s, Stdio{Out: &out, Err: &out})
			if err != nil {
				t.Fatal(err)
			}
			return exit, out.String()
		}
		if exit, out := run(Spec{Memory: 64 << 20}, "eat"); exit.Reason != "oom" || exit.Signal != 9 {
			t.Errorf("a workload over its memory: %+v %s; want oom", exit, out)
		}
		if exit, out := run(Spec{Pids: 20}, "forks"); exit.Code != 0 || out != "refused EAGAIN\n" {
			t.Errorf("a workload over its processes: %+v %q; want EAGAIN", exit, out)
		}
		// The quota is what the kernel was told: half a CPU.
		var out syncBuffer
		s := Spec{ID: testID(t), RootFS: root, Driver: driver, Argv: []string{attacker, "listen", ":80"}, CPUMilli: 500}
		w, err := r.Start(t.Context(), s, Stdio{Out: &out})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		got := ""
		for _, f := range []string{"/cpu/cpu.cfs_quota_us", "/cpu.max"} {
			dir, file := filepath.Split(f)
			if b, err := os.ReadFile(filepath.Join(cgroupRoot, dir, cgroupPath(s.ID), file)); err == nil {
				got, _, _ = strings.Cut(strings.TrimSpace(string(b)), " ")
			}
		}
		if got != "50000" {
			t.Errorf("quota %q of 100000, want 50000", got)
		}
	})
}

func TestStopAndKill(t *testing.T) {
	root := testRoot(t)
	eachDriver(t, func(t *testing.T, driver string) {
		r := runtimeFor(t)
		start := func(script string) (*Container, *syncBuffer) {
			t.Helper()
			var out syncBuffer
			c, err := r.Start(t.Context(), Spec{ID: testID(t), RootFS: root, Driver: driver, Argv: []string{"/bin/sh", "-c", script}}, Stdio{Out: &out, Err: &out})
			if err != nil {
				t.Fatal(err)
			}
			out.waitFor(t, "ready")
			return c, &out
		}
		c, out := start(`trap "echo bye; exit 3" TERM; echo ready; cat /dev/zero > /dev/null & wait`)
		st, err := r.State(c.State.ID)
		if err != nil || st.Phase != Running || st.Main.PID == 0 || st.UserNS == "" {
			t.Errorf("State = %+v, %v", st, err)
		}
		if err := r.Remove(t.Context(), c.State.ID); !errors.Is(err, fault.Conflict) {
			t.Errorf("Remove of a running one: %v, want a conflict", err)
		}
		if _, err := r.Start(t.Context(), Spec{ID: c.State.ID, RootFS: root, Argv: []string{"/bin/true"}}, Stdio{}); !errors.Is(err, fault.Conflict) {
			t.Errorf("the same id again: %v, want a conflict", err)
		}
		// As another process does it: through the directory.
		if err := r.Stop(t.Context(), c.State.ID, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if exit, err := c.Wait(t.Context()); err != nil || exit.Code != 3 || exit.Reason != "stopped" || !strings.Contains(out.String(), "bye") {
			t.Errorf("after a stop: %+v, %v, %q", exit, err, out)
		}
		if st, err := r.State(c.State.ID); err != nil || st.Phase != Exited || st.Exit.Code != 3 {
			t.Errorf("State after the end = %+v, %v", st, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		// Deaf to TERM: killed when the grace is over.
		c, _ = start(`trap "" TERM; echo ready; cat /dev/zero > /dev/null`)
		if exit, err := c.Stop(t.Context(), 50*time.Millisecond); err != nil || exit.Signal != 9 || exit.Reason != "killed" {
			t.Errorf("a deaf one: %+v, %v", exit, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.State(c.State.ID); !errors.Is(err, fault.NotFound) {
			t.Errorf("State after Close: %v, want not found", err)
		}
	})
}

// A killed owner: its workload is ended and everything of it removed.
func TestClean(t *testing.T) {
	root := testRoot(t)
	eachDriver(t, func(t *testing.T, driver string) {
		r := runtimeFor(t)
		var out syncBuffer
		c, err := r.Start(t.Context(), Spec{ID: testID(t), RootFS: root, Driver: driver, Argv: []string{"/bin/sh", "-c", "echo ready; cat /dev/zero > /dev/null"}, WritableDirs: []string{"/data"}}, Stdio{Out: &out})
		if err != nil {
			t.Fatal(err)
		}
		out.waitFor(t, "ready")
		if ids, err := r.Clean(t.Context()); err != nil || len(ids) != 0 {
			t.Errorf("Clean beside a living owner = %v, %v", ids, err)
		}
		st := c.State
		st.Owner.Start++ // another process has its number now
		if err := r.save(st); err != nil {
			t.Fatal(err)
		}
		if got, err := r.State(st.ID); err != nil || got.Phase != Lost {
			t.Errorf("State = %+v, %v; want lost", got, err)
		}
		if ids, err := r.Clean(t.Context()); err != nil || !cmp.Equal(ids, []string{st.ID}) {
			t.Errorf("Clean = %v, %v", ids, err)
		}
		if st.Main.alive() {
			t.Error("the workload lives on")
		}
		if _, err := os.Stat(r.path(st.ID)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("its directory is left: %v", err)
		}
		<-c.done
		c.lock.Close()
	})
}

// Other states of the directory that a crash or a restart leaves.
func TestStateDamage(t *testing.T) {
	needContainers(t)
	r := runtimeFor(t)
	write := func(id, text string) {
		t.Helper()
		if err := os.MkdirAll(r.path(id), 0o700); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(r.path(id, "state.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("empty", "")
	write("torn", `{"v":1,"id":"to`)
	write("copied", `{"v":1,"id":"another","phase":"exited"}`)
	// Another boot: the pid is this test's own and must not be signalled.
	me, err := processOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	write("reboot", "")
	if err := r.save(State{ID: "reboot", Phase: Running, BootID: "of another boot", Owner: me, Main: me}); err != nil {
		t.Fatal(err)
	}
	write("ended", "")
	if err := r.save(State{ID: "ended", Phase: Exited, Exit: &Exit{Code: 4}}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"torn", "copied"} {
		if _, err := r.State(id); !errors.Is(err, fault.Invalid) {
			t.Errorf("State(%s): %v, want invalid", id, err)
		}
	}
	if ids, err := r.Clean(t.Context()); err != nil || !cmp.Equal(ids, []string{"copied", "empty", "reboot", "torn"}) {
		t.Errorf("Clean = %v, %v", ids, err)
	}
	all, err := r.List()
	if err != nil || len(all) != 1 || all[0].Exit.Code != 4 {
		t.Errorf("List = %+v, %v; want the ended one", all, err)
	}
	if err := r.Remove(t.Context(), "ended"); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"", "..", "../x", "A", "a/b"} {
		if _, err := r.State(id); !errors.Is(err, fault.Invalid) {
			t.Errorf("State(%q): %v, want invalid", id, err)
		}
		if err := r.Remove(t.Context(), id); err == nil {
			t.Errorf("Remove(%q) worked", id)
		}
	}
}

// An image that is one static program and nothing else, with a volume, a
// file and a writable directory where it has no directories at all.
func TestScratchImage(t *testing.T) {
	eachDriver(t, func(t *testing.T, driver string) {
		full := testRoot(t)
		addAttacker(t, full)
		root := filepath.Join(t.TempDir(), "scratch")
		copyFile(t, filepath.Join(full, attacker), filepath.Join(root, attacker))
		before := tree(t, root)
		vol := volume(t, full)
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, userns := range []string{"on", "off"} {
			r := runtimeFor(t)
			var out bytes.Buffer
			s := Spec{ID: testID(t), RootFS: root, Driver: driver, UserNS: userns, Argv: []string{attacker, "do", "A1-volume"}, Mounts: []Mount{
				{Source: vol, Target: "/data"}, {Source: file, Target: "/opt/app/conf/file", ReadOnly: true}, {Source: vol, Target: "/opt/app/more"},
			}}
			exit, err := r.Run(t.Context(), s, Stdio{Out: &out, Err: &out})
			if err != nil || exit.Code != 0 || out.String() != "EACCES\n" {
				t.Errorf("userns %s: %+v, %v, %q", userns, exit, err, out.String())
			}
		}
		if diff := cmp.Diff(before, tree(t, root)); diff != "" {
			t.Errorf("the image changed (-before +after):\n%s", diff)
		}
	})
}

func tree(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		all = append(all, p+" "+d.Type().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Writable directories keep the image's content and give changes only to the
// workload.
func TestWritableDirs(t *testing.T) {
	root := testRoot(t)
	if err := os.WriteFile(filepath.Join(root, "data/old"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	eachDriver(t, func(t *testing.T, driver string) {
		for _, userns := range []string{"on", "off"} {
			r := runtimeFor(t)
			s := Spec{RootFS: root, Driver: driver, UserNS: userns, WritableDirs: []string{"/data"}}
			exit, out := sh(t, r, s, `cat /data/old && echo new > /data/new && echo changed > /data/old && cat /data/old /data/new && ls -ln /data; id -u; echo x > /etc/x`)
			if exit.Code == 0 || !strings.HasPrefix(out, "oldchanged\nnew\n") || !strings.Contains(out, "Read-only") {
				t.Errorf("userns %s: %+v %q", userns, exit, out)
			}
			if strings.Contains(out, "65534") {
				t.Errorf("userns %s: files belong to nobody: %s", userns, out)
			}
		}
		if b, err := os.ReadFile(filepath.Join(root, "data/old")); err != nil || string(b) != "old" {
			t.Errorf("the image changed: %q, %v", b, err)
		}
		if _, err := os.Stat(filepath.Join(root, "data/new")); err == nil {
			t.Error("a new file is in the image")
		}
	})
}

// A start that fails says why and leaves nothing.
func TestStartFails(t *testing.T) {
	root := testRoot(t)
	eachDriver(t, func(t *testing.T, driver string) {
		r := runtimeFor(t)
		s := Spec{ID: testID(t), RootFS: root, Driver: driver, Argv: []string{"/bin/nothing"}}
		if _, err := r.Run(t.Context(), s, Stdio{}); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "/bin/nothing") {
			t.Errorf("a missing program: %v", err)
		}
		s.NetNS = "/proc/self/ns/nothing"
		if _, err := r.Run(t.Context(), s, Stdio{}); err == nil {
			t.Error("a missing network namespace was accepted")
		}
	})
}

// A machine that can't hold a level refuses it (row F6) and still runs
// containers without a seal.
func TestLevelNotHeld(t *testing.T) {
	needContainers(t)
	root := testRoot(t)
	without := filepath.Join(t.TempDir(), "actions")
	if err := os.WriteFile(without, []byte("trace allow\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	unfiltered := filepath.Join(t.TempDir(), "crun")
	if err := os.WriteFile(unfiltered, []byte("#!/bin/sh\necho crun version 1 +CAP\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tweak := range map[string]tweaks{"kernel": {actions: without}, "runtime": {driver: unfiltered}} {
		r := runtimeFor(t)
		r.tweak = tweak
		s := Spec{ID: testID(t), RootFS: root, Argv: []string{"/bin/true"}}
		_, err := r.Run(t.Context(), s, Stdio{})
		if k := fault.Of(err); k != fault.Unavailable && k != fault.Unsupported {
			t.Errorf("%s without filters: %v, want a refusal", name, err)
		}
		if name == "kernel" {
			s.Sealed = Off
			if exit, err := r.Run(t.Context(), s, Stdio{}); err != nil || exit.Code != 0 {
				t.Errorf("%s at off: %+v, %v", name, exit, err)
			}
		}
	}
}
