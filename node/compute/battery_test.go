package compute

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"zos.internal/flist/executables"
)

// attacker is the path of the attack program in test images.
const attacker = "/bin/attack"

// row is what an attack must answer. Alternatives are separated by "|"; "*" is
// anything that is not an answer of the sealed levels.
type row struct {
	control, files, strict string
}

const ran = "ran"

// rows are those of the attack battery in docs/reference/seal.md.
func rows() map[string]row {
	same := func(s string) row { return row{ran, s, s} }
	declared := func(strict string) row { return row{ran, ran, strict} }
	kernel := func(s string) row { return row{"*", s, s} }     // the control's answer depends on the kernel
	never := func(s string) row { return row{"*|" + s, s, s} } // can't be made even without a seal
	refused := "EACCES|EPERM|ENOENT|EROFS|EINVAL"
	return map[string]row{
		"A1-volume": same("EACCES"), "A1-overlay": same("EACCES"), "A1-tmp": same("EACCES"), "A1-shm": same("EACCES"),
		"A2-dev": same("EACCES"), "A2-mqueue": never(refused), "A2-proc": never(refused), "A2-sys": never(refused),
		"A3-loader":  same("exit_127"),
		"A4-preload": same("not_loaded"), "A4-libpath": same("not_loaded"),
		"A4-audit": same("not_loaded"), "A4-gconv": same("not_loaded"),
		"A5-volume": same("EPERM"), "A5-overlay": same("EPERM"), "A5-tmp": same("EPERM"), "A5-shm": same("EPERM"),
		"A6-private": {ran, "EACCES", "EPERM"}, "A6-shared": {ran, "EACCES", "EPERM"}, "A6-pkey": {ran, "EACCES", "EPERM"},
		"A7-execveat": same("EACCES"), "A7-opath": same("EACCES"), "A7-procfd": same("EACCES"), "A7-procroot": same("EACCES"),
		"A7-tmpfile": same("EACCES"), "A7-unlinked": same("EACCES"),
		"A8-script": same("EACCES"),
		"A9-device": same("EACCES"), "A9-mknod": same("EPERM"), "A9-suid": same("EACCES"),
		"A10-swap":   same("EACCES"),
		"A11-create": same("EROFS"), "A11-write": same("EROFS"), "A11-rename": same("EROFS"), "A11-truncate": same("EROFS"),
		"A12-copied-up": same("EACCES"),
		"B1-memfd":      same("ENOSYS"), "B1-memfd-exec": same("ENOSYS"), "B2-memfd-map": same("ENOSYS"), "B2-memfd-loader": same("ENOSYS"),
		"B3-memfd-secret": kernel("ENOSYS"), "B4-zero": same("EPERM"), "B5-shm": declared("EPERM"),
		"C1-rwx": declared("EPERM"), "C1-jit": declared("EPERM"), "C2-mremap": declared("EPERM"), "C3-proc-mem": declared("EROFS"),
		"C4-own-text": declared("EPERM"), "C5-personality": same("EPERM"),
		"C7-ptrace": same("EPERM"), "C7-vm-write": same("EPERM"), "C7-pidfd-getfd": same("EPERM"), "C7-sibling-mem": declared("EROFS"),
		"D1-shell":   declared(ran),                                       // at strict the image is refused; TestAdmission
		"D2-check":   {ran + "|EINVAL", "EACCES|EINVAL", "EACCES|EINVAL"}, // EINVAL: kernels before 6.14
		"D3-binfmt":  kernel("EPERM"),
		"E1-unshare": same("EPERM"), "E1-unshare-user": kernel("EPERM"), "E1-clone": same("EPERM"), "E1-clone-user": same("EPERM"), "E1-clone3": same("ENOSYS"),
		"E2-remount": same("EPERM"), "E2-bind": same("EPERM"), "E2-tmpfs": same("EPERM"), "E2-fsopen": same("EPERM"), "E2-open-tree": same("EPERM"),
		"E2-mount-setattr": same("EPERM"), "E2-setns": same("EPERM"), "E2-chroot": same("EPERM"), "E2-pivot-root": kernel("EPERM"),
		"E2-umount": same("EPERM"), "E2-move-mount": same("EPERM"),
		"E3-int80": same("SIGSYS"), "E3-x32": kernel("SIGSYS"),
		"E4-io-uring": kernel("EPERM"), "E4-bpf": kernel("EPERM"), "E4-perf": kernel("EPERM"), "E4-userfaultfd": kernel("EPERM"),
		"E4-init-module": kernel("EPERM"), "E4-finit-module": kernel("EPERM"), "E4-kexec": kernel("EPERM"), "E4-handle": kernel("EPERM"),
		"E4-keyctl": kernel("EPERM"), "E4-add-key": kernel("EPERM"),
		"E5-memfd-noexec": kernel("EROFS|EACCES"), "E5-core-pattern": same("EROFS|EACCES"), "E5-modprobe": never("EROFS|ENOENT|EACCES"),
		"E5-uevent": never("EROFS|ENOENT|EACCES"), "E5-sysrq": never("EROFS|ENOENT|EACCES"),
		"E6-exe": never("EROFS|ETXTBSY"), "E6-descriptors": never("none"),
		"G1-image": same(ran), "G1-symlink": same(ran), "G1-script": same(ran), "G1-library": same(ran), "G1-mkfifo": same(ran),
		"G1-personality": same(ran), "G1-memory-strict": same(ran),
	}
}

// addAttacker builds the attack program into a root directory, with the files
// that its rows look for.
func addAttacker(t *testing.T, root string) {
	t.Helper()
	// A machine without the go command, such as a guest, is given the program.
	if made := os.Getenv("COMPUTE_TEST_ATTACK"); made != "" {
		copyFile(t, made, filepath.Join(root, attacker))
	} else {
		if _, err := exec.LookPath("go"); err != nil {
			t.Skip("needs the go command to build the attack program")
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(root, attacker), ".")
		cmd.Dir = filepath.Join("testdata", "attack")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the attack program: %v\n%s", err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/script"), []byte("#!/bin/sh\necho payload-ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "/bin/true", filepath.Join(root, "bin/victim"))
	copyFile(t, filepath.Join(root, attacker), filepath.Join(root, "srv/tool"))
	copyFile(t, library(t, "libc.so.6"), filepath.Join(root, "bin/libextra.so"))
}

// loosen makes the configuration of the control: what a runtime would do
// without a seal, with every capability.
func loosen(c *specs.Spec) {
	c.Linux.Seccomp, c.Linux.MaskedPaths, c.Linux.ReadonlyPaths = nil, nil, nil
	c.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	c.Process.NoNewPrivileges = false
	caps := append(slices.Clone(offCaps), "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_BOOT", "CAP_DAC_READ_SEARCH")
	c.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	for i := range c.Mounts {
		c.Mounts[i].Options = slices.DeleteFunc(c.Mounts[i].Options, func(o string) bool {
			return o == "noexec" || o == "nosuid" || o == "nodev" || o == "ro"
		})
	}
}

// volume makes a directory of the host with what the rows expect from outside
// and swaps its files until the test ends.
func volume(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	for p := dir; p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(dir, "null-from-outside"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"suid-from-outside", "a", "swap"} {
		copyFile(t, filepath.Join(root, attacker), filepath.Join(dir, f))
	}
	if err := os.Chmod(filepath.Join(dir, "suid-from-outside"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(dir, "swap"), unix.RENAME_EXCHANGE)
			<-time.After(100 * time.Microsecond)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return dir
}

func TestBattery(t *testing.T) {
	root := testRoot(t, "iconv")
	eachDriver(t, func(t *testing.T, driver string) {
		addAttacker(t, root)
		for _, run := range []batteryRun{
			{"control", Off, "off", "", false},
			{"files", Files, "on", "", false},
			{"files without user namespace", Files, "off", "", false},
			{"files as a user", Files, "on", "user", false},
			{"files by exec", Files, "on", "", true},
			{"strict", Strict, "on", "", false},
			{"strict without user namespace", Strict, "off", "", false},
			{"strict by exec", Strict, "on", "", true},
		} {
			t.Run(run.name, func(t *testing.T) { run.judge(t, driver, root) })
		}
	})
}

// batteryRun is a way to run the battery. At the level off it is the control:
// every attack must work.
type batteryRun struct {
	name   string
	level  Level
	userns string
	user   string
	exec   bool
}

// judge runs every attack in a container on root and judges the answers.
func (run batteryRun) judge(t *testing.T, driver, root string) {
	t.Helper()
	r := runtimeFor(t)
	s := Spec{
		ID: testID(t), RootFS: root, Driver: driver, Sealed: run.level, UserNS: run.userns, User: run.user,
		Mounts: []Mount{{Source: volume(t, root), Target: "/data"}},
		// The locks are what is tested; admission would refuse the shell.
		Executables: []executables.Entry{},
	}
	if run.level == Off {
		s.WritableRoot = true
		r.tweak = tweaks{config: loosen, loose: true}
	} else {
		s.WritableDirs = []string{"/srv"}
	}
	judge(t, run.level, run.user != "", battery(t, r, s, run.exec))
}

// battery runs every attack and returns the answers.
func battery(t *testing.T, r *Runtime, s Spec, byExec bool) map[string]string {
	t.Helper()
	var out bytes.Buffer
	if byExec {
		s.Argv = []string{attacker, "sleep"}
		c, err := r.Start(t.Context(), s, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		if exit, err := r.Exec(t.Context(), s.ID, ExecSpec{Argv: []string{attacker, "battery"}}, Stdio{Out: &out, Err: &out}); err != nil || exit.Code != 0 {
			t.Fatalf("Exec: %+v, %v\n%s", exit, err, out.String())
		}
	} else {
		s.Argv = []string{attacker, "battery"}
		if exit, err := r.Run(t.Context(), s, Stdio{Out: &out, Err: &out}); err != nil || exit.Code != 0 {
			t.Fatalf("Run: %+v, %v\n%s", exit, err, out.String())
		}
	}
	got := make(map[string]string)
	for line := range strings.Lines(out.String()) {
		name, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[name] = answer
	}
	return got
}

func judge(t *testing.T, level Level, user bool, got map[string]string) {
	t.Helper()
	for name, want := range rows() {
		answer, seen := got[name]
		expect := want.files
		switch {
		case level == Off:
			expect = want.control
		case level == Strict:
			expect = want.strict
		}
		fine := slices.Contains(strings.Split(expect, "|"), answer)
		if strings.HasPrefix(expect, "*") && !slices.Contains(strings.Split(want.files+"|"+want.strict, "|"), answer) {
			fine = answer != ""
		}
		// A user without rights is refused for that already.
		if user && expect != ran && slices.Contains([]string{"EACCES", "EPERM", "EROFS"}, answer) {
			fine = true
		}
		if !seen || !fine {
			t.Errorf("%s: %q, want %s", name, answer, expect)
		}
		delete(got, name)
	}
	for name, answer := range got {
		t.Errorf("%s: %q is no row of the table", name, answer)
	}
}

// syncBuffer is a buffer that a test can wait on.
type syncBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	wake chan struct{}
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.buf.Write(p)
	if b.wake != nil {
		close(b.wake)
		b.wake = nil
	}
	return n, err
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// waitFor returns when the text was written.
func (b *syncBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		b.mu.Lock()
		if strings.Contains(b.buf.String(), text) {
			b.mu.Unlock()
			return
		}
		wake := make(chan struct{})
		b.wake = wake
		b.mu.Unlock()
		select {
		case <-wake:
		case <-limit:
			t.Fatalf("%q did not come, only %q", text, b.String())
		}
	}
}
