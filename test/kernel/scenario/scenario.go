// Package scenario proves on the running kernel that images can be mounted,
// stacked, killed and resumed. It needs root and works below one directory;
// the same code runs on the development machine and as the only program of an
// emulated one.
//
// Each Row is one statement with its figure. Figures of an emulated machine
// compare only with one another.
//
//	for _, row := range scenario.Run(ctx, "/tmp/proof") { fmt.Println(row) }
package scenario

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/mount"
	"zos.internal/flist/mount/mounttest"
	"zos.internal/flist/tree"
	"zos.internal/internal/clock"
)

// Row is one result.
type Row struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Figure string `json:"figure"`
}

// String is the row as a line of a table.
func (r Row) String() string {
	state := "ok"
	if !r.OK {
		state = "FAILED"
	}
	return fmt.Sprintf("| %s | %s | %s |", r.Name, state, r.Figure)
}

// run is one run in progress.
type run struct {
	dir  string
	host mount.Host
	img  *mounttest.Image
	data string
	rows []Row
}

// Run runs all steps below dir, which it makes and removes. A step that fails
// is a row; the later ones run all the same.
func Run(ctx context.Context, dir string) []Row {
	r := &run{dir: dir}
	defer os.RemoveAll(dir)
	r.step("kernel", func() (string, error) { return release() })
	if !r.step("image with every kind of node", r.prepare) {
		return r.rows
	}
	r.step("fuse-file: mounted tree equals the image", func() (string, error) { return r.compareMode(ctx, mount.FuseFile) })
	r.step("loop: mounted tree equals the image", func() (string, error) { return r.compareMode(ctx, mount.Loop) })
	r.step("fuse-file: 100 mounts and unmounts", func() (string, error) { return r.mountTimes(ctx) })
	r.step("fuse-file: reads, cold and warm", func() (string, error) { return r.reads(ctx, mount.FuseFile) })
	r.step("loop: reads, cold and warm", func() (string, error) { return r.reads(ctx, mount.Loop) })
	r.step("writable overlay and an overlay upon it", func() (string, error) { return r.nested(ctx) })
	r.step("fuse-file: data server killed -9 five times under load", func() (string, error) { return r.killed(ctx, mount.FuseFile) })
	r.step("loop: data server killed -9 five times under load", func() (string, error) { return r.killed(ctx, mount.Loop) })
	r.step("a source that hangs gives EIO, others go on", func() (string, error) { return r.hanging(ctx) })
	r.step("nothing left", r.leaks)
	return r.rows
}

func (r *run) step(name string, f func() (string, error)) bool {
	figure, err := f()
	if err != nil {
		figure = strings.TrimSpace(figure + " " + err.Error())
	}
	r.rows = append(r.rows, Row{name, err == nil, figure})
	return err == nil
}

func release() (string, error) {
	var u unix.Utsname
	err := unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:]), err
}

func (r *run) prepare() (string, error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return "", err
	}
	root := mounttest.Sample(2)
	for i := range 8 {
		if err := root.Insert(fmt.Sprintf("large/%d", i), mounttest.File(uint64(1000+i), 4<<20)); err != nil {
			return "", err
		}
	}
	var err error
	if r.img, err = mounttest.Pack(root); err != nil {
		return "", err
	}
	r.data = filepath.Join(r.dir, "data")
	if err := os.WriteFile(r.data, r.img.Data, 0o600); err != nil {
		return "", err
	}
	r.host, err = mounttest.Host(filepath.Join(r.dir, "run"), 0)
	return fmt.Sprintf("%d KiB metadata, %d KiB data", len(r.img.Meta)>>10, len(r.img.Data)>>10), err
}

// mount mounts the sample at a new directory; done unmounts it.
func (r *run) mount(ctx context.Context, req mount.Request, spec mounttest.FileSpec) (target string, done func() error, err error) {
	if target, err = os.MkdirTemp(r.dir, "mnt-"); err != nil {
		return "", nil, err
	}
	spec.Path = r.data
	req.Meta, req.DeviceSize, req.Target, req.Spec, req.Suid, req.Dev = r.img.Meta, int64(len(r.img.Data)), target, spec.JSON(), true, true
	if req.ID == "" {
		req.ID = "sample"
	}
	if _, err := r.host.Mount(ctx, req); err != nil {
		os.Remove(target)
		return "", nil, err
	}
	return target, func() error {
		if err := r.host.Unmount(ctx, target); err != nil {
			return err
		}
		return os.Remove(target)
	}, nil
}

func (r *run) compareMode(ctx context.Context, mode mount.Mode) (string, error) {
	target, done, err := r.mount(ctx, mount.Request{Mode: mode}, mounttest.FileSpec{})
	if err != nil {
		return "", err
	}
	defer done()
	if ps := mounttest.Compare(r.img.Root, target, mounttest.Options{}); len(ps) > 0 {
		return "", fmt.Errorf("%d differences: %s", len(ps), strings.Join(ps[:min(3, len(ps))], "; "))
	}
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !isErrno(err, unix.EROFS) {
		return "", fmt.Errorf("writing gave %v instead of EROFS", err)
	}
	n := 0
	for range r.img.Root.Walk() {
		n++
	}
	return fmt.Sprintf("%d names, all stat fields, attributes, contents, mappings", n), done()
}

func (r *run) mountTimes(ctx context.Context) (string, error) {
	target, done, err := r.mount(ctx, mount.Request{ID: "held"}, mounttest.FileSpec{}) // keeps the keeper
	if err != nil {
		return "", err
	}
	defer done()
	var mounting, unmounting time.Duration
	for range 100 {
		t0 := clock.System{}.Now()
		_, undo, err := r.mount(ctx, mount.Request{Mode: mount.FuseFile}, mounttest.FileSpec{})
		if err != nil {
			return "", err
		}
		t1 := clock.System{}.Now()
		if err := undo(); err != nil {
			return "", err
		}
		mounting += t1.Sub(t0)
		unmounting += clock.Since(clock.System{}, t1)
	}
	_ = target
	return fmt.Sprintf("%v a mount, %v an unmount", (mounting / 100).Round(time.Microsecond), (unmounting / 100).Round(time.Microsecond)), done()
}

func (r *run) reads(ctx context.Context, mode mount.Mode) (string, error) {
	target, done, err := r.mount(ctx, mount.Request{Mode: mode}, mounttest.FileSpec{})
	if err != nil {
		return "", err
	}
	defer done()
	pass := func() (time.Duration, int64, error) {
		t0 := clock.System{}.Now()
		var n int64
		for i := range 8 {
			f, err := os.Open(filepath.Join(target, "large", fmt.Sprint(i)))
			if err != nil {
				return 0, 0, err
			}
			k, err := io.Copy(io.Discard, struct{ io.Reader }{f})
			f.Close()
			if err != nil {
				return 0, 0, err
			}
			n += k
		}
		return clock.Since(clock.System{}, t0), n, nil
	}
	cold, n, err := pass()
	if err != nil {
		return "", err
	}
	warm, _, err := pass()
	if err != nil {
		return "", err
	}
	st, err := dataserver.Client{RunDir: r.host.RunDir}.Stat(ctx)
	if err != nil {
		return "", err
	}
	mbs := func(d time.Duration) float64 { return float64(n) / 1e6 / d.Seconds() }
	return fmt.Sprintf("%.0f MB/s cold in %d requests, %.0f MB/s warm", mbs(cold), st.Stats.Reads, mbs(warm)), done()
}

func isErrno(err error, want unix.Errno) bool {
	for e := err; e != nil; {
		if e == error(want) {
			return true
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		e = u.Unwrap()
	}
	return false
}

// small is a little image of its own, for steps that break it.
func small(seed uint64) (*mounttest.Image, error) {
	root := tree.NewDir(0o755)
	if err := root.Insert("first", mounttest.File(seed, 64<<10)); err != nil {
		return nil, err
	}
	if err := root.Insert("second", mounttest.File(seed+1, 64<<10)); err != nil {
		return nil, err
	}
	return mounttest.Pack(root)
}
