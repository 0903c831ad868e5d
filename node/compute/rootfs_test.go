package compute

import (
	"context"
	"debug/elf"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/flist/executables"
)

// needContainers skips where no container can run and says why.
func needContainers(tb testing.TB) Caps {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	c, err := Probe(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if !c.Available || len(c.Sealed) < 3 || !c.IDMap {
		tb.Skipf("this machine can't run sealed containers with own user ids: %+v", c.Missing)
	}
	return c
}

// testRoot makes a root directory from this machine's own programs: a shell,
// a few tools, and the libraries they name.
func testRoot(tb testing.TB, programs ...string) string {
	tb.Helper()
	root := filepath.Join(tb.TempDir(), "root")
	for _, d := range []string{"bin", "etc", "tmp", "run", "var/tmp", "proc", "sys", "dev", "data", "srv"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	for _, d := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(root, d), 0o777|os.ModeSticky); err != nil {
			tb.Fatal(err)
		}
	}
	// The directories above must let other user ids through to the root.
	for p := filepath.Dir(root); p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\nuser:x:1000:1001::/:/bin/sh\n"), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nstaff:x:50:user\nuser:x:1001:\n"), 0o644); err != nil {
		tb.Fatal(err)
	}
	for _, p := range append([]string{"sh", "cat", "ls", "true", "id"}, programs...) {
		src := p
		if !filepath.IsAbs(p) {
			src = filepath.Join("/bin", p)
			if _, err := os.Stat(src); err != nil {
				src = filepath.Join("/usr/bin", p)
			}
		}
		real, err := filepath.EvalSymlinks(src)
		if err != nil {
			tb.Skipf("this machine has no %s to make a root directory from", p)
		}
		copyFile(tb, real, filepath.Join(root, "bin", filepath.Base(p)))
		copyLibs(tb, real, root)
	}
	return root
}

// copyLibs copies the dynamic loader and the libraries that file needs.
func copyLibs(tb testing.TB, file, root string) {
	tb.Helper()
	f, err := elf.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if s := f.Section(".interp"); s != nil {
		b, err := s.Data()
		if err != nil {
			tb.Fatal(err)
		}
		ld := strings.TrimRight(string(b), "\x00")
		copyFile(tb, ld, filepath.Join(root, ld))
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		tb.Fatal(err)
	}
	for _, l := range libs {
		src := library(tb, l)
		dst := filepath.Join(root, src)
		if _, err := os.Stat(dst); err == nil {
			continue
		}
		copyFile(tb, src, dst)
		copyLibs(tb, src, root)
	}
}

// library finds a shared library of this machine.
func library(tb testing.TB, name string) string {
	tb.Helper()
	for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	tb.Skipf("this machine has no %s to make a root directory from", name)
	return ""
}

func copyFile(tb testing.TB, src, dst string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		tb.Fatal(err)
	}
	in, err := os.Open(src)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		tb.Fatal(err)
	}
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
}

// record scans a root directory as an image builder does.
func record(tb testing.TB, root string) []executables.Entry {
	tb.Helper()
	entries := []executables.Entry{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		e, ok, err := executables.File(rel, f, st.Size())
		if ok {
			entries = append(entries, e)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return entries
}

// runtimeFor makes a Runtime with its own directory and checks at the end
// that nothing of its workloads is left.
func runtimeFor(tb testing.TB) *Runtime {
	tb.Helper()
	r, err := New(Options{Dir: filepath.Join(tb.TempDir(), "state")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ids, err := r.ids()
		if err != nil {
			tb.Error(err)
		}
		if len(ids) > 0 {
			tb.Errorf("workloads are left: %v", ids)
		}
		_, _ = r.Clean(context.Background())
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			tb.Error(err)
		}
		if strings.Contains(string(mounts), r.dir) {
			tb.Errorf("mounts below %s are left", r.dir)
		}
		checkLeaks(tb)
	})
	return r
}

// checkLeaks looks for cgroups and processes of this test process's
// workloads.
func checkLeaks(tb testing.TB) {
	tb.Helper()
	for _, pattern := range []string{cgroupRoot + "/zos-" + idPrefix() + "*", cgroupRoot + "/*/zos-" + idPrefix() + "*"} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			tb.Errorf("cgroups are left: %v %v", left, err)
		}
	}
}

func writeJSON(tb testing.TB, path string, v any) {
	tb.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
}
