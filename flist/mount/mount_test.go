package mount_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/mount"
	"zos.internal/flist/mount/mounttest"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

var modes = []mount.Mode{mount.FuseFile, mount.Loop, mount.Tree}

// TestConformance is what every mode must be like.
func TestConformance(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, 0)
			img, data := b.image(t, mounttest.Sample(1))
			target := b.mount(t, mount.Request{Mode: mode, Suid: true, Dev: true}, img, mounttest.FileSpec{Path: data})
			for _, p := range mounttest.Compare(img.Root, target, mounttest.Options{}) {
				t.Error(p)
			}
			refusesWrites(t, target)
			manyReaders(t, target, img)
			var fs unix.Statfs_t
			if err := unix.Statfs(target, &fs); err != nil || fs.Namelen != 255 || fs.Bsize != 4096 {
				t.Errorf("statfs = %+v, %v, want names of 255 and blocks of 4096", fs, err)
			}
			infos, err := b.List()
			want := mount.Info{ID: "sample", Target: target, Mode: mode}
			if err != nil || len(infos) != 1 || infos[0] != want {
				t.Errorf("List() = %+v, %v, want %+v", infos, err, want)
			}
			b.unmount(t, target)
			if es, err := os.ReadDir(target); err != nil || len(es) > 0 {
				t.Errorf("after the unmount: %d entries, %v", len(es), err)
			}
			if err := b.Unmount(t.Context(), target); fault.Of(err) != fault.NotFound {
				t.Errorf("unmount twice = %v, want not_found", err)
			}
		})
	}
}

func refusesWrites(t *testing.T, target string) {
	t.Helper()
	file := filepath.Join(target, "sizes", "4096")
	for what, f := range map[string]func() error{
		"create":   func() error { return os.WriteFile(filepath.Join(target, "new"), nil, 0o600) },
		"write":    func() error { _, err := os.OpenFile(file, os.O_WRONLY, 0); return err },
		"truncate": func() error { return os.Truncate(file, 0) },
		"mkdir":    func() error { return os.Mkdir(filepath.Join(target, "new"), 0o700) },
		"remove":   func() error { return os.Remove(file) },
		"rename":   func() error { return os.Rename(file, file+"x") },
		"link":     func() error { return os.Link(file, file+"x") },
		"chmod":    func() error { return os.Chmod(file, 0o777) },
		"setxattr": func() error { return unix.Setxattr(file, "user.x", []byte("y"), 0) },
	} {
		if err := f(); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s = %v, want EROFS", what, err)
		}
	}
}

func manyReaders(t *testing.T, target string, img *mounttest.Image) {
	t.Helper()
	want := mounttest.Sums(img.Root)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	res := make([]mounttest.LoadResult, 2)
	for i := range res {
		wg.Go(func() { res[i] = mounttest.Load(target, want, 8, stop) })
	}
	// A direct read beside them asks for aligned pages only.
	f, err := os.OpenFile(filepath.Join(target, "sizes", "1048576"), os.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		n, err := f.ReadAt(make([]byte, 1<<20)[:4096], 4096)
		if n != 4096 && !errors.Is(err, unix.EINVAL) {
			t.Errorf("direct read = %d, %v", n, err)
		}
		f.Close()
	}
	close(stop)
	wg.Wait()
	for _, r := range res {
		if r.Failed > 0 {
			t.Errorf("readers: %+v", r)
		}
	}
}

func TestEmptyImage(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, 0)
			root := tree.NewDir(0o755)
			if err := root.Insert("empty", &tree.Node{Mode: tree.Regular | 0o644}); err != nil {
				t.Fatal(err)
			}
			img, data := b.image(t, root)
			target := b.mount(t, mount.Request{Mode: mode}, img, mounttest.FileSpec{Path: data})
			for _, p := range mounttest.Compare(root, target, mounttest.Options{}) {
				t.Error(p)
			}
			b.unmount(t, target)
		})
	}
}

func TestSharedMount(t *testing.T) {
	b := newBench(t, 0)
	img, data := b.image(t, mounttest.Sample(2))
	spec := mounttest.FileSpec{Path: data}
	var targets []string
	for i := range 3 {
		targets = append(targets, b.mount(t, mount.Request{Mode: mount.FuseFile, NoExec: i == 1}, img, spec))
	}
	rw := b.mount(t, mount.Request{ReadWriteUpper: mount.TmpfsUpper}, img, spec)
	st, err := dataserver.Client{RunDir: b.RunDir}.Stat(t.Context())
	if err != nil || len(st.Slots) != 1 || st.Slots[0].Handles != 1 {
		t.Errorf("four targets have the slots %+v, %v, want one with one handle", st.Slots, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(targets[1], &fs); err != nil || fs.Flags&unix.ST_NOEXEC == 0 || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags of a noexec target: %x, %v", fs.Flags, err)
	}
	if err := unix.Statfs(targets[0], &fs); err != nil || fs.Flags&unix.ST_NOEXEC != 0 {
		t.Errorf("flags of its neighbour: %x, %v", fs.Flags, err)
	}
	r := mount.Request{ID: "sample", Mode: mount.Loop, Meta: img.Meta, DeviceSize: int64(len(img.Data)), Target: b.target(t), Spec: spec.JSON()}
	if _, err := b.Mount(t.Context(), r); fault.Of(err) != fault.Conflict {
		t.Errorf("mount in another mode = %v, want conflict", err)
	}
	for _, target := range append(targets, rw) {
		if ps := mounttest.Compare(img.Root, target, mounttest.Options{Upper: true}); len(ps) > 0 {
			t.Errorf("%s: %v", target, ps[:1])
		}
		b.unmount(t, target)
	}
}

func TestWritable(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, 0)
			img, data := b.image(t, mounttest.Sample(3))
			upper := filepath.Join(b.dir, "upper, with:odd\\name")
			if err := os.Mkdir(upper, 0o700); err != nil {
				t.Fatal(err)
			}
			r := mount.Request{Mode: mode, ReadWriteUpper: upper}
			target := b.mount(t, r, img, mounttest.FileSpec{Path: data})
			if ps := mounttest.Compare(img.Root, target, mounttest.Options{Upper: true}); len(ps) > 0 {
				t.Errorf("through the overlay: %v", ps)
			}
			r.Target, r.Meta, r.DeviceSize, r.ID = b.target(t), img.Meta, int64(len(img.Data)), "sample"
			if _, err := b.Mount(t.Context(), r); fault.Of(err) != fault.Conflict {
				t.Errorf("a second overlay with the same upper = %v, want conflict", err)
			}
			r.Target, r.ReadWriteUpper = target, ""
			if _, err := b.Mount(t.Context(), r); fault.Of(err) != fault.Conflict {
				t.Errorf("a second mount at the same target = %v, want conflict", err)
			}
			r.ReadWriteUpper = upper
			file := filepath.Join(target, "sizes", "65537")
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString("more"); err != nil {
				t.Error(err)
			}
			if err := errors.Join(f.Close(), os.Remove(filepath.Join(target, "owner"))); err != nil {
				t.Error(err)
			}
			b.unmount(t, target)
			// The changes are in the directory, the image is as it was.
			target = b.mount(t, r, img, mounttest.FileSpec{Path: data})
			if got, err := os.ReadFile(filepath.Join(target, "sizes", "65537")); err != nil || len(got) != 65537+4 || string(got[65537:]) != "more" {
				t.Errorf("after mounting again: %d bytes, %v", len(got), err)
			}
			if _, err := os.Lstat(filepath.Join(target, "owner")); !os.IsNotExist(err) {
				t.Errorf("the removed file: %v", err)
			}
			plain := b.mount(t, mount.Request{}, img, mounttest.FileSpec{Path: data})
			if ps := mounttest.Compare(img.Root, plain, mounttest.Options{}); len(ps) > 0 && mode != mount.FuseFile {
				t.Errorf("the image below: %v", ps[:1])
			}
			b.unmount(t, target)
			b.unmount(t, plain)
		})
	}
}

// TestFailedMountLeavesNothing: whatever goes wrong, it is as before.
func TestFailedMountLeavesNothing(t *testing.T) {
	b := newBench(t, 0)
	img, data := b.image(t, mounttest.Sample(4))
	good := mount.Request{ID: "x", Meta: img.Meta, DeviceSize: int64(len(img.Data)), Target: b.target(t), Spec: mounttest.FileSpec{Path: data}.JSON()}
	for name, spoil := range map[string]func(*mount.Request){
		"no target":         func(r *mount.Request) { r.Target += "/none" },
		"target is a file":  func(r *mount.Request) { r.Target = data },
		"id is a path":      func(r *mount.Request) { r.ID = "../x" },
		"unknown mode":      func(r *mount.Request) { r.Mode = "magic" },
		"metadata is noise": func(r *mount.Request) { r.Meta = make([]byte, 8192) },
		"source is refused": func(r *mount.Request) { r.Spec = mounttest.FileSpec{RefuseOpen: true}.JSON() },
		"upper is a file":   func(r *mount.Request) { r.ReadWriteUpper = data },
		"upper on an image": func(r *mount.Request) { r.ReadWriteUpper = "/proc" },
	} {
		for _, mode := range modes {
			r := good
			r.Mode = mode
			spoil(&r)
			if m, err := b.Mount(t.Context(), r); err == nil {
				t.Errorf("%s: mounted as %+v", name, m)
				b.unmount(t, r.Target)
			}
			if infos, err := b.List(); err != nil || len(infos) > 0 {
				t.Errorf("%s, %s: left %+v, %v", name, mode, infos, err)
			}
		}
	}
	if es, err := filepath.Glob(filepath.Join(b.RunDir, "img", "*")); err != nil || len(es) > 0 {
		t.Errorf("left in the run directory: %v, %v", es, err)
	}
}

func TestConcurrentMounts(t *testing.T) {
	b := newBench(t, 0)
	img, data := b.image(t, mounttest.Sample(5))
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 4 {
		target := b.target(t)
		wg.Go(func() {
			for range 5 {
				r := mount.Request{ID: fmt.Sprint("img", i%2), Meta: img.Meta, DeviceSize: int64(len(img.Data)), Target: target, Spec: mounttest.FileSpec{Path: data}.JSON()}
				if _, err := b.Mount(t.Context(), r); err != nil {
					errs <- err
					return
				}
				f, err := os.Open(filepath.Join(target, "sizes", "1048576"))
				if err == nil {
					_, err = io.Copy(io.Discard, f)
					f.Close()
				}
				if err := errors.Join(err, b.Unmount(t.Context(), target)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// TestUser mounts without root.
func TestUser(t *testing.T) {
	b := newBench(t, 0)
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("a user without root needs fusermount3, of Debian's package fuse3")
	}
	_, data := b.image(t, mounttest.UserSample())
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// The user must reach the program, the data and a directory to work in.
	dir := filepath.Join(b.dir, "user")
	prog := filepath.Join(b.dir, "prog")
	if err := errors.Join(os.WriteFile(prog, exe, 0o755), os.Chmod(data, 0o644), os.Mkdir(dir, 0o700), os.Chown(dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	for d := b.dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), prog, "private", "user", dir, data)
	cmd.Env = append(os.Environ(), mounttest.RoleVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSequentialRequests: reading ahead makes one request of a megabyte.
func TestSequentialRequests(t *testing.T) {
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(b), " /sys rw") {
		t.Skip("/sys is not writable: the kernel reads ahead 128 KiB only")
	}
	b := newBench(t, 0)
	root := tree.NewDir(0o755)
	const size = 64
	if err := root.Insert("file", mounttest.File(1, size<<20)); err != nil {
		t.Fatal(err)
	}
	img, data := b.image(t, root)
	target := b.mount(t, mount.Request{Mode: mount.FuseFile}, img, mounttest.FileSpec{Path: data})
	f, err := os.Open(filepath.Join(target, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{f}); n != size<<20 || err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	st := b.await(t, func(dataserver.Status) bool { return true })
	if st.Stats.Reads > size+8 || st.Stats.Bytes > size<<20+1<<20 {
		t.Errorf("reading %d MiB made %d requests of %d bytes, want about one for each MiB and nothing twice", size, st.Stats.Reads, st.Stats.Bytes)
	}
	f.Close()
	b.unmount(t, target)
}

// TestMountAgain: an image that is mounted needs no metadata for another target.
func TestMountAgain(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, 0)
			img, data := b.image(t, mounttest.Sample(1))
			again := mount.Request{ID: "sample", DeviceSize: int64(len(img.Data)), Target: b.target(t)}
			if _, err := b.Mount(t.Context(), again); fault.Of(err) != fault.NotFound {
				t.Errorf("Mount() without metadata = %v, want not_found", err)
			}
			first := b.mount(t, mount.Request{Mode: mode}, img, mounttest.FileSpec{Path: data})
			if m, err := b.Mount(t.Context(), again); err != nil || mode == mount.FuseFile && m.Mode != mode {
				t.Fatalf("Mount() again = %+v, %v", m, err)
			}
			b.unmount(t, first)
			for _, p := range mounttest.Compare(img.Root, again.Target, mounttest.Options{}) {
				t.Error(p)
			}
			b.unmount(t, again.Target)
		})
	}
}
