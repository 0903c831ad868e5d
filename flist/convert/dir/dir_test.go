package dir

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/internal/treetest"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to set owners and make devices")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func scan(t testing.TB, path string, opts convert.Options) *convert.Result {
	t.Helper()
	res, err := Read(t.Context(), path, opts)
	must(t, err)
	t.Cleanup(func() { res.Close() })
	return res
}

// features are what ext4, btrfs and tmpfs hold.
func features() treetest.Features {
	return treetest.Features{
		Devices: true, Sockets: true, Owners: true, MinTime: math.MinInt32 + 1, MaxTime: 1 << 33, MaxTarget: 4000,
		Xattrs: []string{"trusted.a", "trusted.b\xff", "security.zos"}, UserXattrs: []string{"user.a", "user.\n"},
	}
}

func TestRoundTrip(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	if err := unix.Setxattr(base, "trusted.probe", nil, 0); err != nil {
		t.Skipf("trusted attributes: %v", err)
	}
	i := 0
	rapid.Check(t, func(rt *rapid.T) {
		want := treetest.Draw(rt, features())
		i++
		target := filepath.Join(base, fmt.Sprint(i))
		report, err := Write(context.Background(), target, want, convert.WriteOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		if len(report.Skipped) > 0 || report.Owners > 0 {
			rt.Fatalf("left out: %+v", report)
		}
		res, err := Read(context.Background(), target, convert.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer res.Close()
		if d := treetest.Diff(want, res.Root); d != "" {
			rt.Fatalf("tree differs:\n%s", d)
		}
		if err := os.RemoveAll(target); err != nil {
			rt.Fatal(err)
		}
	})
	if left, _ := os.ReadDir(base); len(left) > 0 {
		t.Errorf("%d names are left beside the targets", len(left))
	}
}

// Attributes with a meaning for the kernel.
func TestCapabilitiesAndACLs(t *testing.T) {
	needRoot(t)
	entry := func(tag, perm uint16, id uint32) string {
		return string([]byte{byte(tag), 0, byte(perm), 0, byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)})
	}
	acl := "\x02\x00\x00\x00" + entry(1, 7, math.MaxUint32) + entry(2, 5, 1000) + entry(4, 5, math.MaxUint32) + entry(16, 5, math.MaxUint32) + entry(32, 0, math.MaxUint32)
	root := tree.NewDir(0o755)
	root.Xattrs = []tree.Xattr{{Name: "system.posix_acl_default", Value: acl}}
	root.Set("ping", &tree.Node{Mode: tree.Regular | 0o4750, UID: 5, GID: 6, Size: 3, Content: tree.Bytes("elf"), Xattrs: []tree.Xattr{
		{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{Name: "system.posix_acl_access", Value: acl},
	}})
	root.Set("sub", tree.NewDir(0o2770))
	target := filepath.Join(t.TempDir(), "x")
	report, err := Write(t.Context(), target, root, convert.WriteOptions{})
	must(t, err)
	if len(report.Skipped) > 0 {
		t.Skipf("the file system can't hold them: %v", report.Skipped)
	}
	if d := treetest.Diff(root, scan(t, target, convert.Options{}).Root); d != "" {
		t.Error(d)
	}
}

func TestDeepAndLongPaths(t *testing.T) {
	root := tree.NewDir(0o755)
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 60) + "file"
	n := &tree.Node{Mode: tree.Regular | 0o644, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Size: 2, Content: tree.Bytes("hi")}
	must(t, root.Insert(deep, n))
	must(t, root.Insert(strings.TrimSuffix(deep, "file")+"hard", n))
	target := filepath.Join(t.TempDir(), "x")
	_, err := Write(t.Context(), target, root, convert.WriteOptions{})
	must(t, err)
	res := scan(t, target, convert.Options{})
	got := res.Root.At(deep)
	if got == nil {
		t.Fatal("the file is gone")
	}
	if b, err := got.ReadAll(10); err != nil || string(b) != "hi" {
		t.Errorf("content = %q, %v", b, err)
	}
	if got != res.Root.At(strings.TrimSuffix(deep, "file")+"hard") {
		t.Error("the hard link became a copy")
	}
}

func TestManyInOneDirectory(t *testing.T) {
	base := treetest.Dir(t)
	const n = 100_000
	fd, err := unix.Open(base, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	for i := range n {
		must(t, unix.Mknodat(fd, fmt.Sprintf("%06d", (i*7919)%n), unix.S_IFREG|0o644, 0))
	}
	var last int64
	res := scan(t, base, convert.Options{Progress: func(_ string, done, _ int64) { last = done }})
	if got := len(res.Root.Entries); got != n || last != n {
		t.Errorf("%d entries, progress %d, want %d", got, last, n)
	}
	if _, err := Read(t.Context(), base, convert.Options{Limits: convert.Limits{Entries: n - 1}}); fault.Of(err) != fault.Exhausted {
		t.Errorf("over the limit: %v, want exhausted", err)
	}
}

func TestSparse(t *testing.T) {
	base := t.TempDir()
	f, err := os.Create(filepath.Join(base, "big"))
	must(t, err)
	const size = 3<<30 + 5
	must(t, f.Truncate(size))
	_, err = f.WriteAt([]byte("data"), 1<<30+4094)
	must(t, err)
	must(t, f.Close())
	res := scan(t, base, convert.Options{})
	target := filepath.Join(t.TempDir(), "x")
	report, err := Write(t.Context(), target, res.Root, convert.WriteOptions{})
	must(t, err)
	if report.Bytes != size {
		t.Errorf("%d bytes written, want %d", report.Bytes, int64(size))
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(target, "big"), &st))
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("the copy has %d bytes, %d on disk", st.Size, st.Blocks*512)
	}
	g, err := os.Open(filepath.Join(target, "big"))
	must(t, err)
	defer g.Close()
	b := make([]byte, 8)
	if _, err := g.ReadAt(b, 1<<30+4092); err != nil || string(b) != "\x00\x00data\x00\x00" {
		t.Errorf("content = %q, %v", b, err)
	}
}

// A source that changes is noticed, whatever it changes to.
func TestChangedSource(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(t *testing.T, path string)
		kind   fault.Kind
	}{
		"removed":   {func(t *testing.T, p string) { must(t, os.Remove(p)) }, fault.Conflict},
		"grown":     {func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("longer than before"), 0o644)) }, fault.Conflict},
		"truncated": {func(t *testing.T, p string) { must(t, os.Truncate(p, 1)) }, fault.Conflict},
		"same size": {func(t *testing.T, p string) {
			must(t, os.WriteFile(p, []byte("HELLO"), 0o644))
			must(t, os.Chtimes(p, time.Unix(9, 9), time.Unix(9, 9)))
		}, fault.Conflict},
		"replaced": {func(t *testing.T, p string) {
			must(t, os.Rename(p, p+".old"))
			must(t, os.WriteFile(p, []byte("hello"), 0o644))
			must(t, os.Chtimes(p, time.Unix(5, 5), time.Unix(5, 5)))
		}, fault.Conflict},
		"symlink":   {func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, os.Symlink("/etc/passwd", p)) }, fault.Conflict},
		"fifo":      {func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, unix.Mkfifo(p, 0o644)) }, fault.Conflict},
		"socket":    {func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, unix.Mknod(p, unix.S_IFSOCK|0o644, 0)) }, fault.Conflict},
		"directory": {func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, os.Mkdir(p, 0o755)) }, fault.Conflict},
		"parent symlink": {func(t *testing.T, p string) {
			d := filepath.Dir(p)
			must(t, os.Rename(d, d+".old"))
			must(t, os.Symlink(d+".old", d))
		}, fault.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			p := filepath.Join(base, "d", "file")
			must(t, os.Mkdir(filepath.Dir(p), 0o755))
			must(t, os.WriteFile(p, []byte("hello"), 0o644))
			must(t, os.Chtimes(p, time.Unix(5, 5), time.Unix(5, 5)))
			res := scan(t, base, convert.Options{})
			n := res.Root.At("d/file")
			if b, err := n.ReadAll(10); err != nil || string(b) != "hello" {
				t.Fatalf("before: %q, %v", b, err)
			}
			tt.change(t, p)
			_, err := n.ReadAll(10)
			if fault.Of(err) != tt.kind || !strings.Contains(err.Error(), "d/file") {
				t.Errorf("after: %v, want %s naming d/file", err, tt.kind)
			}
			target := filepath.Join(t.TempDir(), "x")
			if _, err := Write(t.Context(), target, res.Root, convert.WriteOptions{}); fault.Of(err) != tt.kind {
				t.Errorf("Write = %v, want %s", err, tt.kind)
			}
			if left, _ := os.ReadDir(filepath.Dir(target)); len(left) > 0 {
				t.Errorf("an export that could not end left %v", left)
			}
		})
	}
}

// The file changes while it is being read.
func TestChangedWhileReading(t *testing.T) {
	base := t.TempDir()
	p := filepath.Join(base, "file")
	must(t, os.WriteFile(p, make([]byte, 100), 0o644))
	res := scan(t, base, convert.Options{})
	r, err := res.Root.At("file").Content.Open()
	must(t, err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 50))
	must(t, err)
	must(t, os.WriteFile(p, make([]byte, 200), 0o644))
	if _, err := io.ReadAll(r); fault.Of(err) != fault.Conflict {
		t.Errorf("read on = %v, want conflict", err)
	}
}

func TestExcludeAndFileSystems(t *testing.T) {
	base := t.TempDir()
	for _, p := range []string{"a/keep.txt", "a/drop.o", "var/cache/x/y", "var/log/z"} {
		must(t, os.MkdirAll(filepath.Join(base, filepath.Dir(p)), 0o755))
		must(t, os.WriteFile(filepath.Join(base, p), nil, 0o644))
	}
	paths := func(res *convert.Result) string {
		var ps []string
		for p := range res.Root.Walk() {
			ps = append(ps, p)
		}
		return strings.Join(ps, " ")
	}
	got := paths(scan(t, base, convert.Options{Exclude: []string{"*.o", "/var/cache"}}))
	if want := " a a/keep.txt var var/log var/log/z"; got != want {
		t.Errorf("with exclude: %q, want %q", got, want)
	}
	if _, err := Read(t.Context(), base, convert.Options{Exclude: []string{"[a"}}); fault.Of(err) != fault.Invalid {
		t.Errorf("bad pattern: %v", err)
	}
	needRoot(t)
	mnt := filepath.Join(base, "var/cache")
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(mnt, unix.MNT_DETACH) })
	must(t, os.WriteFile(filepath.Join(mnt, "inside"), nil, 0o644))
	if got := paths(scan(t, base, convert.Options{OneFileSystem: true})); !strings.Contains(got, "var/cache") || strings.Contains(got, "inside") {
		t.Errorf("one file system: %q", got)
	}
	if got := paths(scan(t, base, convert.Options{})); !strings.Contains(got, "inside") {
		t.Errorf("all file systems: %q", got)
	}
	// A mount point can't be replaced.
	must(t, os.Remove(filepath.Join(mnt, "inside")))
	if _, err := Write(t.Context(), mnt, tree.NewDir(0o755), convert.WriteOptions{}); fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), "mount point") {
		t.Errorf("write to a mount point: %v", err)
	}
}

func TestTargets(t *testing.T) {
	base := t.TempDir()
	root := tree.NewDir(0o751)
	root.Set("f", &tree.Node{Mode: tree.Regular | 0o600, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
	must(t, os.Mkdir(filepath.Join(base, "full"), 0o755))
	must(t, os.WriteFile(filepath.Join(base, "full", "x"), nil, 0o644))
	must(t, os.Symlink("full", filepath.Join(base, "link")))
	must(t, os.WriteFile(filepath.Join(base, "file"), nil, 0o644))
	for name, kind := range map[string]fault.Kind{
		"full": fault.Conflict, "link": fault.Conflict, "file": fault.Conflict, "no/parent": fault.NotFound, "file/x": fault.NotFound,
	} {
		_, err := Write(t.Context(), filepath.Join(base, name), root, convert.WriteOptions{})
		if got := fault.Of(err); got != kind && !(name == "file/x" && err != nil) {
			t.Errorf("%s: %v, want %s", name, err, kind)
		}
	}
	for _, bad := range []string{"", "/"} {
		if _, err := Write(t.Context(), bad, root, convert.WriteOptions{}); fault.Of(err) != fault.Invalid {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
	must(t, os.Mkdir(filepath.Join(base, "empty"), 0o700))
	for _, name := range []string{"empty", "new"} {
		_, err := Write(t.Context(), filepath.Join(base, name), root, convert.WriteOptions{})
		must(t, err)
		st, err := os.Stat(filepath.Join(base, name))
		must(t, err)
		if st.Mode().Perm() != 0o751 {
			t.Errorf("%s: mode %v", name, st.Mode())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, filepath.Join(base, "cancelled"), root, convert.WriteOptions{}); fault.Of(err) != fault.Unavailable {
		t.Errorf("cancelled: %v", err)
	}
	// What a killed export left goes with the next one, one that runs stays.
	must(t, os.MkdirAll(filepath.Join(base, ".next.zos-partial-dead/sub"), 0o755))
	busy, f, err := makePartial(filepath.Join(base, "next"))
	must(t, err)
	defer f.Close()
	_, err = Write(t.Context(), filepath.Join(base, "next"), root, convert.WriteOptions{})
	must(t, err)
	var left []string
	entries, _ := os.ReadDir(base)
	for _, x := range entries {
		left = append(left, x.Name())
	}
	if want := []string{filepath.Base(busy), "empty", "file", "full", "link", "new", "next"}; !slices.Equal(left, want) {
		t.Errorf("left = %q, want %q", left, want)
	}
}

// A user gets what a user may have, and is told the rest. Run as root, the
// test runs itself again as nobody.
func TestAsUser(t *testing.T) {
	base := os.Getenv("ZOS_TEST_USER_DIR")
	if base == "" && os.Geteuid() == 0 {
		base, err := os.MkdirTemp("", "zos-user-")
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(base) })
		must(t, os.Chown(base, 65534, 65534))
		self, err := os.Open("/proc/self/exe")
		must(t, err)
		defer self.Close()
		cmd := exec.Command("/proc/self/fd/3", "-test.run=^TestAsUser$", "-test.v")
		cmd.Dir = base
		cmd.ExtraFiles = []*os.File{self}
		cmd.Env = append(os.Environ(), "ZOS_TEST_USER_DIR="+base, "TMPDIR="+base)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestAsUser") {
			t.Errorf("as nobody: %v\n%s", err, out)
		}
		return
	}
	if base == "" {
		base = t.TempDir()
	}
	me := uint32(os.Geteuid())
	root := tree.NewDir(0o755)
	root.Set("mine", &tree.Node{Mode: tree.Regular | 0o4755, UID: me, GID: uint32(os.Getegid())})
	root.Set("suid", &tree.Node{Mode: tree.Regular | 0o4755, UID: me + 1})
	root.Set("dev", &tree.Node{Mode: tree.Char | 0o644, Major: 8, Minor: 1, UID: me})
	root.Set("closed", &tree.Node{Mode: tree.Directory, UID: me, Entries: []tree.Entry{{Name: "x", Node: &tree.Node{Mode: tree.Regular, UID: me, Size: 1, Content: tree.Bytes("x")}}}})
	root.Set("cap", &tree.Node{Mode: tree.Regular | 0o755, UID: me, Xattrs: []tree.Xattr{{Name: "trusted.x", Value: "1"}}})
	target := filepath.Join(base, "out")
	report, err := Write(t.Context(), target, root, convert.WriteOptions{})
	must(t, err)
	var said []string
	for _, s := range report.Skipped {
		said = append(said, s.Path)
	}
	if want := []string{"cap", "dev", "suid"}; !slices.Equal(said, want) || report.Owners < 2 {
		t.Errorf("report = %+v, want %q and the owners", report, want)
	}
	if st, err := os.Stat(filepath.Join(target, "suid")); err != nil || st.Mode()&os.ModeSetuid != 0 {
		t.Errorf("suid: %v, %v: the bit must go with the owner", st, err)
	}
	if st, err := os.Stat(filepath.Join(target, "mine")); err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Errorf("mine: %v, %v: the bit must stay", st, err)
	}
	// Reading it back: the closed directory and file stop the scan or are listed.
	if _, err := Read(t.Context(), target, convert.Options{}); fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Read = %v, want denied naming closed", err)
	}
	must(t, os.Chmod(filepath.Join(target, "mine"), 0))
	res, err := Read(t.Context(), target, convert.Options{SkipUnreadable: true})
	must(t, err)
	defer res.Close()
	if len(res.Skipped) != 2 || res.Skipped[0].Path != "closed" || res.Skipped[1].Path != "mine" || res.Root.At("mine") != nil {
		t.Errorf("skipped = %+v", res.Skipped)
	}
	// An export that ends early can be removed in spite of closed directories.
	root.Set("zzz", &tree.Node{Mode: tree.Regular, UID: me, Size: 5, Content: tree.Bytes("x")})
	if _, err := Write(t.Context(), target+"2", root, convert.WriteOptions{}); fault.Of(err) != fault.Conflict {
		t.Errorf("short content: %v, want conflict", err)
	}
	if entries, _ := os.ReadDir(base); len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
	must(t, os.Chmod(filepath.Join(target, "closed"), 0o755))
}

func TestRefusals(t *testing.T) {
	base := t.TempDir()
	if _, err := Read(t.Context(), filepath.Join(base, "no"), convert.Options{}); fault.Of(err) != fault.NotFound {
		t.Errorf("missing: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(base, "f"), nil, 0o644))
	if _, err := Read(t.Context(), filepath.Join(base, "f"), convert.Options{}); err == nil {
		t.Error("a file was read as a directory")
	}
	if _, err := Write(t.Context(), filepath.Join(base, "x"), &tree.Node{Mode: tree.Regular}, convert.WriteOptions{}); fault.Of(err) != fault.Invalid {
		t.Errorf("a file as a tree: %v", err)
	}
	root := tree.NewDir(0o755)
	root.Set("f", &tree.Node{Mode: tree.Regular | 0o600, Size: 1})
	if _, err := Write(t.Context(), filepath.Join(base, "x"), root, convert.WriteOptions{}); fault.Of(err) != fault.Internal {
		t.Errorf("no contents: %v", err)
	}
	contents := convert.Contents(func(n *tree.Node) (io.ReadCloser, error) { return tree.Bytes("y").Open() })
	_, err := Write(t.Context(), filepath.Join(base, "x"), root, convert.WriteOptions{Contents: contents})
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(base, "x/f")); err != nil || string(b) != "y" {
		t.Errorf("content = %q, %v", b, err)
	}
}
