package mount_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/mount"
	"zos.internal/flist/mount/mounttest"
	"zos.internal/flist/tree"
)

func TestMain(m *testing.M) {
	if mounttest.Play(os.Args[1:]) {
		return
	}
	os.Exit(m.Run())
}

// bench is what one test mounts with; at its end nothing may be left.
type bench struct {
	mount.Host
	dir string
}

func newBench(t *testing.T, readTimeout time.Duration) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting with the kernel needs root")
	}
	for _, c := range mount.Probe(t.Context()) {
		if c.Mode == mount.FuseFile && !c.Works {
			t.Skipf("no file-backed EROFS on this machine: %s", c.Reason)
		}
	}
	dir := t.TempDir()
	h, err := mounttest.Host(filepath.Join(dir, "run"), readTimeout)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{h, dir}
	t.Cleanup(func() { b.leaks(t) })
	return b
}

// leaks unmounts what a failed test left, and fails if a good one left any.
func (b *bench) leaks(t *testing.T) {
	ctx := context.Background()
	infos, err := b.List()
	if err != nil {
		t.Error(err)
	}
	for _, i := range infos {
		if !t.Failed() {
			t.Errorf("%s is still mounted", i.Target)
		}
		unix.Unmount(i.Target, unix.MNT_DETACH)
		b.Unmount(ctx, i.Target)
	}
	if t.Failed() {
		if log, err := os.ReadFile(filepath.Join(b.RunDir, "keeper.log")); err == nil && len(log) > 0 {
			t.Logf("keeper's log:\n%s", log)
		}
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, b.dir) {
			t.Errorf("still mounted: %s", line)
			unix.Unmount(strings.Fields(line)[4], unix.MNT_DETACH)
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if f, err := os.ReadFile(l); err == nil && strings.Contains(string(f), b.dir) {
			t.Errorf("%s still holds %s", l, f)
		}
	}
	if st, err := (dataserver.Client{RunDir: b.RunDir}).Stat(ctx); err == nil {
		t.Errorf("the keeper still works: %+v", st)
		unix.Kill(st.Pid, unix.SIGKILL) // the data server follows
	}
}

func (b *bench) image(t *testing.T, root *tree.Node) (*mounttest.Image, string) {
	t.Helper()
	img, err := mounttest.Pack(root)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(b.dir, "data-")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(img.Data); err != nil {
		t.Fatal(err)
	}
	return img, f.Name()
}

func (b *bench) target(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(b.dir, "target ") // a space, as /proc escapes it
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// mount mounts img at a new directory.
func (b *bench) mount(t *testing.T, r mount.Request, img *mounttest.Image, spec mounttest.FileSpec) string {
	t.Helper()
	if r.ID == "" {
		r.ID = "sample"
	}
	r.Target, r.Meta, r.DeviceSize, r.Spec = b.target(t), img.Meta, int64(len(img.Data)), spec.JSON()
	m, err := b.Mount(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Mode != "" && r.Mode != mount.Auto && m.Mode != r.Mode {
		t.Fatalf("mounted as %s, want %s", m.Mode, r.Mode)
	}
	return r.Target
}

func (b *bench) unmount(t *testing.T, target string) {
	t.Helper()
	if err := b.Unmount(t.Context(), target); err != nil {
		t.Error(err)
	}
}
