package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/mount"
	"zos.internal/flist/mount/mounttest"
)

// TestTreeLog: the failed reads of the tree mode are in a log while the image is
// mounted, a few lines of many, and nothing is left of it.
func TestTreeLog(t *testing.T) {
	b := newBench(t, 0)
	img, data := b.image(t, mounttest.Sample(4))
	target := b.mount(t, mount.Request{Mode: mount.Tree}, img, mounttest.FileSpec{Path: data, FailFrom: 1 << 20})
	second := b.mount(t, mount.Request{Mode: mount.Tree}, img, mounttest.FileSpec{Path: data})
	late := filepath.Join(target, "sizes", fmt.Sprint(3<<20+5)) // lies behind the first MiB
	for range 20 {
		if _, err := os.ReadFile(late); !errors.Is(err, unix.EIO) {
			t.Fatalf("read = %v, want EIO", err)
		}
	}
	log := b.TreeLog("sample", filepath.Join(b.RunDir, "img", "sample"))
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "read failed"); n < 2 || n > 9 || !strings.Contains(string(text), "failed as the test asks") {
		t.Errorf("%d lines of failed reads, want some of many with their cause:\n%s", n, text)
	}
	b.unmount(t, target)
	if _, err := os.Stat(log); err != nil {
		t.Errorf("the log of an image that is mounted elsewhere: %v", err)
	}
	b.unmount(t, second)
	if left, err := os.ReadDir(filepath.Join(b.RunDir, "tree")); err != nil || len(left) > 0 {
		t.Errorf("left of the logs: %v, %v", left, err)
	}

	// What failed to start leaves none, either.
	_, err = b.Mount(t.Context(), mount.Request{ID: "bad", Mode: mount.Tree, Target: b.target(t), Meta: img.Meta, DeviceSize: int64(len(img.Data)),
		Spec: mounttest.FileSpec{RefuseOpen: true}.JSON()})
	if err == nil || !strings.Contains(err.Error(), "refused as the test asks") {
		t.Errorf("Mount() = %v, want the cause", err)
	}
	if left, err := os.ReadDir(filepath.Join(b.RunDir, "tree")); err != nil || len(left) > 0 {
		t.Errorf("left of a log: %v, %v", left, err)
	}
}

// TestUnmountWaits: what the Reader leaves when it is closed, such as the
// recorded start, is there when the unmount returns.
func TestUnmountWaits(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, 0)
			img, data := b.image(t, mounttest.Sample(4))
			pipe := filepath.Join(b.dir, "pipe")
			if err := unix.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			target := b.mount(t, mount.Request{Mode: mode}, img, mounttest.FileSpec{Path: data, ClosePipe: pipe})
			if _, err := os.ReadFile(filepath.Join(target, "owner")); err != nil {
				t.Error(err)
			}
			done := make(chan error, 1)
			go func() { done <- b.Unmount(t.Context(), target) }()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			// The pipe can be opened for writing once Close reads it.
			fd, err := unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			for err != nil {
				select {
				case err := <-done:
					t.Fatalf("Unmount() = %v before the Reader was closed", err)
				case <-tick.C:
				}
				fd, err = unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			}
			for range 200 { // time enough for an unmount that doesn't wait
				if _, err := b.List(); err != nil {
					t.Error(err)
				}
			}
			select {
			case err := <-done:
				t.Errorf("Unmount() = %v while the Reader was being closed", err)
			default:
			}
			unix.Close(fd)
			if err := <-done; err != nil {
				t.Errorf("Unmount() = %v", err)
			}
			if _, err := os.Stat(pipe + ".closed"); err != nil {
				t.Errorf("the Reader was not closed: %v", err)
			}
		})
	}
}
