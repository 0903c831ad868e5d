package compute

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
)

// levels of a table test, with the drivers of this machine.
func eachDriver(t *testing.T, f func(t *testing.T, driver string)) {
	c := needContainers(t)
	for _, p := range c.Runtimes {
		t.Run(filepath.Base(p), func(t *testing.T) { f(t, filepath.Base(p)) })
	}
}

// idPrefix marks the workloads of this test process.
func idPrefix() string { return "t" + strconv.Itoa(os.Getpid()) + "x" }

func testID(t testing.TB) string {
	id := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, t.Name())
	prefix := idPrefix()
	return prefix + id[max(0, len(id)-(MaxName-len(prefix))):]
}

// sh runs a shell command in a container and returns its output.
func sh(t *testing.T, r *Runtime, s Spec, script string) (Exit, string) {
	t.Helper()
	var out bytes.Buffer
	if s.ID == "" {
		s.ID = testID(t)
	}
	s.Argv = []string{"/bin/sh", "-c", script}
	if s.Sealed == Strict && s.Executables == nil {
		// These tests look at the locks; a shell is how they look.
		s.Executables = []executables.Entry{}
	}
	exit, err := r.Run(t.Context(), s, Stdio{Out: &out, Err: &out})
	if err != nil {
		t.Fatalf("Run(%q): %v", script, err)
	}
	return exit, out.String()
}

func TestRun(t *testing.T) {
	root := testRoot(t)
	eachDriver(t, func(t *testing.T, driver string) {
		for _, level := range []Level{Off, Files, Strict} {
			for _, userns := range []string{"on", "off"} {
				t.Run(string(level)+" userns "+userns, func(t *testing.T) {
					r := runtimeFor(t)
					s := Spec{RootFS: root, Driver: driver, Sealed: level, UserNS: userns, Hostname: "box", Env: []string{"A=b"}}
					exit, out := sh(t, r, s, `echo out $A $(id -u); cat /etc/hostname; cat /proc/mounts; ls -l /dev; exit 7`)
					checkMounts(t, level, userns, out)
					if exit.Code != 7 || exit.Reason != "exited" || !strings.HasPrefix(out, "out b 0\nbox\n") {
						t.Errorf("exit %+v, output %q", exit, out)
					}
				})
			}
		}
	})
}

func TestAdmission(t *testing.T) {
	needContainers(t)
	root := testRoot(t)
	r := runtimeFor(t)
	s := Spec{ID: testID(t), RootFS: root, Argv: []string{"/bin/true"}, Sealed: Strict}
	if _, err := r.Run(t.Context(), s, Stdio{}); !errors.Is(err, fault.Denied) {
		t.Errorf("strict without a record: %v, want denied", err)
	}
	s.Executables = record(t, root)
	if _, err := r.Run(t.Context(), s, Stdio{}); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "interpreter") {
		t.Errorf("strict with a shell: %v, want denied", err)
	}
	if err := os.Remove(filepath.Join(root, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	s.Executables = record(t, root)
	if exit, err := r.Run(t.Context(), s, Stdio{}); err != nil || exit.Code != 0 {
		t.Errorf("strict without a shell: %+v, %v; want it to run", exit, err)
	}
}

// checkMounts looks for a mount in /proc/mounts that the level forbids.
func checkMounts(t *testing.T, level Level, userns, proc string) {
	t.Helper()
	n := 0
	for line := range strings.Lines(proc) {
		f := strings.Fields(line)
		if len(f) != 6 || !strings.HasPrefix(f[1], "/") {
			continue
		}
		n++
		has := func(o string) bool { return slices.Contains(strings.Split(f[3], ","), o) }
		if f[1] == "/" || strings.HasPrefix(f[1], "/etc/") {
			if !has("ro") || userns == "on" && (!has("nosuid") || !has("nodev")) {
				t.Errorf("root: %s", line)
			}
			continue
		}
		if f[2] == "devtmpfs" && has("ro") && strings.HasPrefix(f[1], "/proc/") {
			continue // the null device over a masked file
		}
		if strings.HasPrefix(f[1], "/sys") && !has("ro") {
			t.Errorf("/sys is writable: %s", line)
		}
		// proc and sysfs never execute, whatever their flags say.
		if level != Off && !has("noexec") && f[2] != "proc" && f[2] != "sysfs" && !(f[2] == "tmpfs" && has("ro")) {
			t.Errorf("a mount that executes: %s", line)
		}
		if level == Strict && f[1] == "/proc" && !has("ro") {
			t.Errorf("/proc is writable: %s", line)
		}
	}
	if n < 8 {
		t.Errorf("only %d mounts were seen: %s", n, proc)
	}
}
