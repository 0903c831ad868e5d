package compute

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"zos.internal/flist/executables"
	"zos.internal/node/compute/guard"
)

// TestMain makes the test program a guard when it is asked to.
func TestMain(m *testing.M) {
	root := os.Getenv("COMPUTE_TEST_GUARD")
	if root == "" {
		os.Exit(m.Run())
	}
	var record []executables.Entry
	err := json.NewDecoder(bufio.NewReader(io.LimitReader(os.Stdin, 16<<20))).Decode(&record)
	if err == nil {
		err = guard.Serve(context.Background(), guard.Options{Root: root, Executables: record, Audit: os.Stdout, Ready: func() { os.Stderr.WriteString("ready\n") }})
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
	}
	os.Exit(1)
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
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "COMPUTE_TEST_GUARD="+root)
		var audit bytes.Buffer
		cmd.Stdout = &audit
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
		end := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
		defer func() { end() }()
		if err := json.NewEncoder(in).Encode(listed); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(errs).ReadString('\n'); line != "ready\n" {
			t.Skipf("no guard: %q %v", line, err)
		}
		r := runtimeFor(t)
		s := Spec{RootFS: root, Driver: driver, UserNS: "auto", Executables: listed}
		exit, out := sh(t, r, s, "/bin/cat /etc/hostname; /bin/ls /")
		if exit.Code != 126 || !strings.Contains(out, "not permitted") {
			t.Errorf("with the guard: %+v %q, want the unlisted program refused", exit, out)
		}
		end()
		end = func() {}
		for _, want := range []string{`"path":"/bin/cat"`, `"path":"/bin/sh"`, `"verdict":"allow"`, `/bin/ls"`, `"verdict":"deny"`} {
			if !strings.Contains(audit.String(), want) {
				t.Errorf("the audit has no %s: %s", want, audit.String())
			}
		}
		// Killed: the kernel lets it pass, and the other locks hold (TestBattery
		// runs without a guard).
		if exit, out := sh(t, r, s, "/bin/ls /"); exit.Code != 0 {
			t.Errorf("without the guard: %+v %q", exit, out)
		}
	})
}
