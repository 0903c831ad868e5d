package compute

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

// What can never run is refused before anything is written (row E7).
func TestSpecRefusals(t *testing.T) {
	root, vol := t.TempDir(), t.TempDir()
	good := Spec{ID: "a", RootFS: root, Argv: []string{"/bin/app"}}
	if _, err := good.normal(); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	mounts := func(ms ...Mount) func(*Spec) { return func(s *Spec) { s.Mounts = ms } }
	tests := []struct {
		name   string
		change func(*Spec)
		says   string
	}{
		{"no id", func(s *Spec) { s.ID = "" }, "id"},
		{"path as id", func(s *Spec) { s.ID = "../x" }, "id"},
		{"long id", func(s *Spec) { s.ID = strings.Repeat("a", 37) }, "id"},
		{"level", func(s *Spec) { s.Sealed = "loose" }, "off, files or strict"},
		{"relative root", func(s *Spec) { s.RootFS = "root" }, "absolute"},
		{"no root", func(s *Spec) { s.RootFS = "/nowhere/at/all" }, "mount the image first"},
		{"no command", func(s *Spec) { s.Argv = nil }, "no command"},
		{"zero byte", func(s *Spec) { s.Argv = []string{"a\x00b"} }, "zero byte"},
		{"environment", func(s *Spec) { s.Env = []string{"=x"} }, "KEY=VALUE"},
		{"cwd", func(s *Spec) { s.Cwd = "/a/../b" }, "clean"},
		{"memory", func(s *Spec) { s.Memory = 1000 }, "4 MiB"},
		{"cpu", func(s *Spec) { s.CPUMilli = 1 }, "CPU"},
		{"pids", func(s *Spec) { s.Pids = -1 }, "processes"},
		{"driver", func(s *Spec) { s.Driver = "/tmp/evil" }, "crun or runc"},
		{"user namespace", func(s *Spec) { s.UserNS = "maybe" }, "auto, on or off"},
		{"network", func(s *Spec) { s.NetNS = "x" }, "absolute"},
		{"host name", func(s *Spec) { s.Hostname = "a\nb" }, "host name"},
		{"writable root", func(s *Spec) { s.WritableRoot = true }, "list writable directories, or set sealed: off"},
		{"mount over /proc", mounts(Mount{Source: vol, Target: "/proc/sys"}), "the runtime makes itself"},
		{"mount over /dev", mounts(Mount{Source: vol, Target: "/dev"}), "the runtime makes itself"},
		{"mount over the root", mounts(Mount{Source: vol, Target: "/"}), "below the root"},
		{"mount that leaves", mounts(Mount{Source: vol, Target: "/a/../../b"}), "clean"},
		{"mount of nothing", mounts(Mount{Source: "/nowhere/at/all", Target: "/a"}), "make the directory first"},
		{"mount over another", mounts(Mount{Source: vol, Target: "/a"}, Mount{Source: vol, Target: "/a"}), "two mounts"},
		{"relative source", mounts(Mount{Source: "x", Target: "/a"}), "absolute"},
		{"writable twice", func(s *Spec) { s.WritableDirs = []string{"/a", "/a/b"} }, "in one another"},
		{"too many mounts", func(s *Spec) { s.WritableDirs = make([]string, 200) }, "more than"},
	}
	for _, tt := range tests {
		s := good
		tt.change(&s)
		if _, err := s.normal(); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want invalid with %q", tt.name, err, tt.says)
		}
	}
	left, err := os.ReadDir(root)
	if err != nil || len(left) != 0 {
		t.Errorf("something was written: %v", left)
	}
}

func TestLookup(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/:\nweb:x:33:34::/:\nbad:x:-1:0::/:\nshort:x\n",
		"group":  "www:x:34:\nssl:x:50:web,other\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for user, want := range map[string]identity{
		"": {}, "root": {}, "0": {}, "web": {33, 34, []uint32{50}}, "33": {33, 34, []uint32{50}}, "77": {uid: 77},
		"web:ssl": {uid: 33, gid: 50}, "web:7": {uid: 33, gid: 7}, "5:6": {uid: 5, gid: 6},
	} {
		got, err := lookup(root, user)
		if err != nil || got.uid != want.uid || got.gid != want.gid || len(got.groups) != len(want.groups) {
			t.Errorf("lookup(%q) = %+v, %v; want %+v", user, got, err, want)
		}
	}
	for _, user := range []string{"nobody", "bad", "short", "web:nogroup", "4294967296", "-1", "web:"} {
		if got, err := lookup(root, user); !errors.Is(err, fault.Invalid) {
			t.Errorf("lookup(%q) = %+v, %v; want invalid", user, got, err)
		}
	}
	// A link out of the image is not followed.
	if err := os.Remove(filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(root, "daemon"); err == nil {
		t.Errorf("lookup through a link out of the image = %+v", got)
	}
}

// The list names no call twice with different answers, and what the reference
// promises is in it.
func TestSeccompList(t *testing.T) {
	for _, level := range []Level{Off, Files, Strict} {
		f, err := seccomp(level)
		if err != nil {
			t.Skip(err)
		}
		plain := make(map[string]string)
		for _, s := range f.Syscalls {
			for _, n := range s.Names {
				if len(s.Args) > 0 {
					continue
				}
				if plain[n] != "" {
					t.Errorf("%s: %s is listed twice", level, n)
				}
				plain[n] = string(s.Action)
			}
		}
		for _, s := range f.Syscalls {
			for _, n := range s.Names {
				if len(s.Args) > 0 && plain[n] != "" {
					t.Errorf("%s: %s is allowed with and without conditions", level, n)
				}
			}
		}
		for _, n := range []string{"unshare", "mount", "bpf", "setns", "io_uring_setup", "open_by_handle_at", "init_module", "keyctl", "kexec_load"} {
			if plain[n] == "SCMP_ACT_ALLOW" {
				t.Errorf("%s: %s is allowed", level, n)
			}
		}
		if level != Off && (len(f.Architectures) != 1 || plain["memfd_create"] != "SCMP_ACT_ERRNO" || plain["ptrace"] != "") {
			t.Errorf("%s: %v memfd %q ptrace %q", level, f.Architectures, plain["memfd_create"], plain["ptrace"])
		}
	}
}
