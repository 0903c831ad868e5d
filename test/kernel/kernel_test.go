package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"zos.internal/flist/mount/mounttest"
	"zos.internal/test/kernel/scenario"
)

func TestMain(m *testing.M) {
	if mounttest.Play(os.Args[1:]) {
		return
	}
	os.Exit(m.Run())
}

// TestThisKernel runs the scenario on the machine that tests.
func TestThisKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting EROFS needs root")
	}
	// The data server's own tests say more about what is missing; here it is
	// enough that the kernel can do it at all.
	if known, err := os.ReadFile("/proc/filesystems"); err != nil || !bytes.Contains(known, []byte("\terofs\n")) {
		t.Skip("this kernel has no EROFS, or its module is not loaded")
	}
	report(t, scenario.Run(t.Context(), filepath.Join(t.TempDir(), "proof")))
}

// TestDebianKernel runs the scenario on the nodes' kernel in an emulator.
func TestDebianKernel(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no emulated machine")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("no qemu-system-x86_64; Debian's package is qemu-system-x86")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	k, err := Fetch(ctx, cacheDir(t), "fetch.sh")
	if err != nil {
		t.Skip(err)
	}
	guest := filepath.Join(t.TempDir(), "guest")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", guest, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	rd, err := k.Initramfs(guest, "fuse", "erofs", "overlay", "loop")
	if err != nil {
		t.Fatal(err)
	}
	var console bytes.Buffer
	if err := k.Boot(ctx, rd, &console); err != nil {
		t.Fatalf("%v\n%s", err, tail(console.String()))
	}
	var rows []scenario.Row
	done := false
	for sc := bufio.NewScanner(&console); sc.Scan(); {
		line := strings.TrimRight(sc.Text(), "\r")
		if text, ok := strings.CutPrefix(line, "row "); ok {
			var r scenario.Row
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatalf("row %q: %v", text, err)
			}
			rows = append(rows, r)
		} else if strings.Contains(line, "guest") || strings.HasPrefix(line, "log ") {
			t.Log(line)
			done = done || strings.Contains(line, "guest: done")
		}
	}
	if !done || len(rows) == 0 {
		t.Fatalf("the guest did not come to its end:\n%s", tail(console.String()))
	}
	report(t, rows)
}

func report(t *testing.T, rows []scenario.Row) {
	t.Helper()
	for _, r := range rows {
		t.Log(r)
		if !r.OK {
			t.Errorf("%s: %s", r.Name, r.Figure)
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

func cacheDir(t *testing.T) string {
	t.Helper()
	base := os.Getenv("ZOS_CACHE")
	if base == "" {
		var err error
		if base, err = os.UserCacheDir(); err != nil {
			t.Skipf("no cache directory for the kernel: %v; set ZOS_CACHE", err)
		}
		base = filepath.Join(base, "zos")
	}
	return filepath.Join(base, "kernel", "debian13")
}
