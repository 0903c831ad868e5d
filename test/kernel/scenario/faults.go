package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/mount"
	"zos.internal/flist/mount/mounttest"
	"zos.internal/internal/clock"
)

// nested writes through an overlay upon an overlay upon the image.
func (r *run) nested(ctx context.Context) (string, error) {
	target, done, err := r.mount(ctx, mount.Request{ReadWriteUpper: mount.TmpfsUpper}, mounttest.FileSpec{})
	if err != nil {
		return "", err
	}
	defer done()
	if ps := mounttest.Compare(r.img.Root, target, mounttest.Options{Upper: true}); len(ps) > 0 {
		return "", fmt.Errorf("below the overlay: %s", ps[0])
	}
	if err := os.WriteFile(filepath.Join(target, "sizes", "4096"), []byte("outer"), 0o644); err != nil {
		return "", err
	}
	second := filepath.Join(r.dir, "second")
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.MkdirAll(filepath.Join(second, d), 0o755); err != nil {
			return "", err
		}
	}
	// Overlays don't stack their upper directory on ramfs or overlayfs: a tmpfs.
	if err := unix.Mount("tmpfs", second, "tmpfs", 0, ""); err != nil {
		return "", err
	}
	defer unix.Unmount(second, unix.MNT_DETACH)
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.MkdirAll(filepath.Join(second, d), 0o755); err != nil {
			return "", err
		}
	}
	merged := filepath.Join(second, "merged")
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", target, filepath.Join(second, "upper"), filepath.Join(second, "work"))
	if err := unix.Mount("overlay", merged, "overlay", 0, opts); err != nil {
		return "", fmt.Errorf("overlay upon the overlay: %w", err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	inner := func(name string) string { return filepath.Join(merged, name) }
	if b, err := os.ReadFile(inner("sizes/4096")); err != nil || string(b) != "outer" {
		return "", fmt.Errorf("the outer change reads as %q (%w)", b, err)
	}
	want, err := r.img.Root.At("sizes/65537").ReadAll(1 << 20)
	if err != nil {
		return "", err
	}
	if b, err := os.ReadFile(inner("sizes/65537")); err != nil || !bytes.Equal(b, want) {
		return "", fmt.Errorf("the image's content differs two overlays above (%w)", err)
	}
	f, err := os.OpenFile(inner("sizes/65537"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString("inner")
	if err = errors.Join(err, f.Close(), os.Remove(inner("sizes/1")), os.Rename(inner("sizes/4097"), inner("moved"))); err != nil {
		return "", err
	}
	if b, err := os.ReadFile(inner("sizes/65537")); err != nil || string(b) != string(want)+"inner" {
		return "", fmt.Errorf("the inner change reads as %d bytes (%w)", len(b), err)
	}
	for name, there := range map[string]bool{"sizes/1": true, "sizes/4097": true, "moved": false} {
		if _, err := os.Lstat(filepath.Join(target, name)); (err == nil) != there {
			return "", fmt.Errorf("a change of the inner overlay shows in the outer one at %s", name)
		}
	}
	unix.Unmount(merged, 0)
	unix.Unmount(second, 0)
	return "copy-up, append, remove and rename stay in their layer", done()
}

// killed reads everything while the data server is killed.
func (r *run) killed(ctx context.Context, mode mount.Mode) (string, error) {
	target, done, err := r.mount(ctx, mount.Request{Mode: mode}, mounttest.FileSpec{DelayMs: 2})
	if err != nil {
		return "", err
	}
	defer done()
	c := dataserver.Client{RunDir: r.host.RunDir}
	p, err := mounttest.StartReader(r.img, filepath.Join(r.dir, "sums.json"), target, nil)
	if err != nil {
		return "", err
	}
	var inflight, resent int64
	var gaps []string
	for range 5 {
		st, err := mounttest.Await(ctx, r.host.RunDir, func(st dataserver.Status) bool {
			return st.ServerPid != 0 && st.Stats.Inflight > 0 && st.Stats.Reads > 20
		})
		if err != nil {
			return "", errors.Join(err, p.Kill())
		}
		inflight += st.Stats.Inflight
		t0 := clock.System{}.Now()
		if err := unix.Kill(st.ServerPid, unix.SIGKILL); err != nil {
			return "", err
		}
		next, err := mounttest.Await(ctx, r.host.RunDir, func(n dataserver.Status) bool { return n.Restarts > st.Restarts && n.Stats.Reads > 0 })
		if err != nil {
			return "", errors.Join(err, p.Kill())
		}
		gaps = append(gaps, clock.Since(clock.System{}, t0).Round(100*time.Microsecond).String())
		resent += next.Stats.Resent
	}
	if err := c.Upgrade(ctx, nil); err != nil {
		return "", err
	}
	if _, err := mounttest.Await(ctx, r.host.RunDir, func(n dataserver.Status) bool { return n.Restarts >= 6 && n.Stats.Reads > 150 }); err != nil {
		return "", err
	}
	res, err := p.Stop()
	if err != nil {
		return "", err
	}
	figure := fmt.Sprintf("%d files read, %d of them mapped, %d failed; about %d reads under way at the kills, %d sent again; answering again after %s", res.Files, res.Mapped, res.Failed, inflight, resent, strings.Join(gaps, " "))
	if res.Failed > 0 {
		return figure, errors.New(res.First)
	}
	return figure, done()
}

// hanging has a source that never answers beside one that does.
func (r *run) hanging(ctx context.Context) (string, error) {
	img, err := small(77)
	if err != nil {
		return "", err
	}
	h, err := mounttest.Host(filepath.Join(r.dir, "run-hang"), 500*time.Millisecond)
	if err != nil {
		return "", err
	}
	data := filepath.Join(r.dir, "small")
	if err := os.WriteFile(data, img.Data, 0o600); err != nil {
		return "", err
	}
	targets := make([]string, 2)
	for i, spec := range []mounttest.FileSpec{{HangFrom: 64<<10 + 1}, {}} {
		spec.Path = data
		targets[i] = filepath.Join(r.dir, fmt.Sprintf("hang-%d", i))
		if err := os.Mkdir(targets[i], 0o700); err != nil {
			return "", err
		}
		_, err := h.Mount(ctx, mount.Request{ID: fmt.Sprintf("image%d", i), Meta: img.Meta, DeviceSize: int64(len(img.Data)), Target: targets[i], Spec: spec.JSON()})
		if err != nil {
			return "", err
		}
		defer h.Unmount(ctx, targets[i])
	}
	hung := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(targets[0], "second"))
		hung <- err
	}()
	for _, path := range []string{filepath.Join(targets[0], "first"), filepath.Join(targets[1], "second")} {
		if _, err := os.ReadFile(path); err != nil {
			return "", fmt.Errorf("beside the source that hangs: %w", err)
		}
	}
	if err := <-hung; !isErrno(err, unix.EIO) {
		return "", fmt.Errorf("a read of a source that hangs gave %v instead of EIO", err)
	}
	st, err := dataserver.Client{RunDir: h.RunDir}.Stat(ctx)
	if err != nil {
		return "", err
	}
	if len(st.Events) == 0 || st.Events[0].Kind != "deadline" {
		return "", fmt.Errorf("no event says so: %+v", st.Events)
	}
	return fmt.Sprintf("EIO after the deadline, %d events", st.Failures), errors.Join(h.Unmount(ctx, targets[0]), h.Unmount(ctx, targets[1]))
}

// leaks looks for mounts and loop devices of this run.
func (r *run) leaks() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, r.dir) {
			return "", fmt.Errorf("still mounted: %s", line)
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, l := range loops {
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), r.dir) {
			return "", fmt.Errorf("%s still holds %s", l, b)
		}
	}
	return "no mount, no loop device", nil
}
