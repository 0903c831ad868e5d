package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/mount"
	"zos.internal/flist/mount/mounttest"
	"zos.internal/internal/fault"
)

// restartable skips where a killed data server can't be followed by another.
func restartable(t *testing.T) {
	t.Helper()
	for _, c := range mount.Probe(t.Context()) {
		if c.Name == "restart of the data server" && !c.Works {
			t.Skip(c.Reason)
		}
	}
}

func (b *bench) client() dataserver.Client { return dataserver.Client{RunDir: b.RunDir} }

func (b *bench) await(t *testing.T, ok func(dataserver.Status) bool) dataserver.Status {
	t.Helper()
	st, err := mounttest.Await(t.Context(), b.RunDir, ok)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (b *bench) reader(t *testing.T, img *mounttest.Image, target string, attr *syscall.SysProcAttr) *mounttest.Reader {
	t.Helper()
	p, err := mounttest.StartReader(img, filepath.Join(b.dir, "sums"), target, attr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() }) // has an effect after a failure only
	return p
}

// TestServerKilled: no reader notices, whether it reads or maps.
func TestServerKilled(t *testing.T) {
	for _, mode := range []mount.Mode{mount.FuseFile, mount.Loop} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, 0)
			restartable(t)
			img, data := b.image(t, mounttest.Sample(1))
			target := b.mount(t, mount.Request{Mode: mode}, img, mounttest.FileSpec{Path: data, DelayMs: 5})
			p := b.reader(t, img, target, nil)
			var resent int64
			for range 4 {
				st := b.await(t, func(st dataserver.Status) bool { return st.Stats.Inflight > 0 && st.Stats.Reads > 50 })
				if err := unix.Kill(st.ServerPid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				next := b.await(t, func(n dataserver.Status) bool { return n.Restarts > st.Restarts && n.Stats.Reads > 50 })
				resent += next.Stats.Resent
			}
			// An upgrade is a restart that is asked for.
			if err := b.client().Upgrade(t.Context(), nil); err != nil {
				t.Error(err)
			}
			b.await(t, func(n dataserver.Status) bool { return n.Restarts == 5 && n.Stats.Reads > 50 })
			if err := b.client().Upgrade(t.Context(), []string{"/nowhere"}); fault.Of(err) != fault.Invalid {
				t.Errorf("upgrade to a program that is not there = %v, want invalid", err)
			}
			res, err := p.Stop()
			if err != nil || res.Failed > 0 || res.Mapped == 0 {
				t.Errorf("the reader saw %+v, %v", res, err)
			}
			if resent == 0 {
				t.Error("no request was sent again: nothing was proved")
			}
			st := b.await(t, func(dataserver.Status) bool { return true })
			if st.Failures > 0 || len(st.Slots) != 1 || st.Slots[0].Handles != 1 {
				t.Errorf("status after the restarts: %+v", st)
			}
			t.Logf("%+v, %d requests sent again", res, resent)
			b.unmount(t, target)
		})
	}
}

// TestKeeperReplaced: the new program has the old one's mounts.
func TestKeeperReplaced(t *testing.T) {
	b := newBench(t, 0)
	restartable(t)
	img, data := b.image(t, mounttest.Sample(1))
	target := b.mount(t, mount.Request{Mode: mount.FuseFile}, img, mounttest.FileSpec{Path: data, DelayMs: 5})
	p := b.reader(t, img, target, nil)
	before := b.await(t, func(st dataserver.Status) bool { return st.Stats.Reads > 50 })
	for range 3 {
		if err := b.client().Handover(t.Context(), b.Keeper); err != nil {
			t.Fatal(err)
		}
		st := b.await(t, func(st dataserver.Status) bool { return st.Stats.Reads > 50 })
		if st.Pid != before.Pid || st.ServerPid == before.ServerPid || len(st.Slots) != 1 || st.Slots[0].Handles != 1 {
			t.Errorf("status after a handover: %+v, before: %+v", st, before)
		}
		before = st
	}
	rubbish := filepath.Join(b.dir, "rubbish")
	if err := os.WriteFile(rubbish, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.client().Handover(t.Context(), []string{"/nowhere"}); fault.Of(err) != fault.Invalid {
		t.Errorf("handover to nothing = %v, want invalid", err)
	}
	// This one is noticed too late to refuse: the old one must go on.
	if err := b.client().Handover(t.Context(), []string{rubbish}); err != nil {
		t.Errorf("handover to rubbish: %v", err)
	}
	b.await(t, func(st dataserver.Status) bool { return st.Stats.Reads > 50 && st.ServerPid != before.ServerPid })
	if res, err := p.Stop(); err != nil || res.Failed > 0 || res.Mapped == 0 {
		t.Errorf("the reader saw %+v, %v", res, err)
	}
	b.unmount(t, target)
}

// TestOtherNamespace: a container keeps an image that is unmounted here.
func TestOtherNamespace(t *testing.T) {
	b := newBench(t, 0)
	img, data := b.image(t, mounttest.Sample(2))
	target := b.mount(t, mount.Request{Mode: mount.FuseFile}, img, mounttest.FileSpec{Path: data})
	p := b.reader(t, img, target, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	b.unmount(t, target)
	st := b.await(t, func(st dataserver.Status) bool { return st.Stats.Reads > 100 })
	if len(st.Slots) != 1 || !st.Slots[0].Removing || st.Slots[0].Handles != 1 {
		t.Errorf("slots while a container reads: %+v", st.Slots)
	}
	// Here it can be mounted again meanwhile.
	target = b.mount(t, mount.Request{Mode: mount.FuseFile}, img, mounttest.FileSpec{Path: data})
	if ps := mounttest.Compare(img.Root, target, mounttest.Options{}); len(ps) > 0 {
		t.Error(ps[0])
	}
	b.unmount(t, target)
	before := b.await(t, func(dataserver.Status) bool { return true }).Stats.Reads
	b.await(t, func(st dataserver.Status) bool { return st.Stats.Reads > before+100 })
	if res, err := p.Stop(); err != nil || res.Failed > 0 {
		t.Errorf("the container saw %+v, %v", res, err)
	}
	// With the container the slot goes, and the keeper with its last slot.
	_, err := mounttest.Await(t.Context(), b.RunDir, func(dataserver.Status) bool { return false })
	if fault.Of(err) != fault.Unavailable {
		t.Errorf("the keeper after the container's end: %v, want that it is gone", err)
	}
	if gone, err := b.Clean(t.Context()); err != nil || len(gone) > 0 { // waits for its end
		t.Errorf("Clean() = %v, %v", gone, err)
	}
}

// TestKeeperKilled: its mounts are dead, and the next call takes them away.
func TestKeeperKilled(t *testing.T) {
	b := newBench(t, 0)
	img, data := b.image(t, mounttest.Sample(3))
	spec := mounttest.FileSpec{Path: data}
	kill := func() {
		t.Helper()
		st := b.await(t, func(st dataserver.Status) bool { return st.ServerPid != 0 })
		server, err := unix.PidfdOpen(st.ServerPid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(server)
		if err := unix.Kill(st.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// The data server notices that it is alone and ends, too.
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(server), Events: unix.POLLIN}}, 10000); n != 1 {
			t.Fatalf("the data server lives without its keeper: %v", err)
		}
	}
	first := b.mount(t, mount.Request{Mode: mount.FuseFile}, img, spec)
	over := b.mount(t, mount.Request{ReadWriteUpper: mount.TmpfsUpper}, img, spec)
	kill()
	if _, err := os.ReadFile(filepath.Join(first, "sizes", "1048576")); err == nil {
		t.Error("a mount without its keeper can be read")
	} else if !errors.Is(err, unix.EIO) {
		t.Errorf("a read without the keeper = %v, want EIO", err)
	}
	second := b.mount(t, mount.Request{Mode: mount.FuseFile}, img, spec)
	if ps := mounttest.Compare(img.Root, second, mounttest.Options{}); len(ps) > 0 {
		t.Error(ps[0])
	}
	for _, dir := range []string{first, over} {
		if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
			t.Errorf("the dead mount at %s: %d entries, %v", dir, len(es), err)
		}
	}
	kill()
	b.unmount(t, second) // cleans, too
	loop := b.mount(t, mount.Request{Mode: mount.Loop}, img, spec)
	kill()
	if gone, err := b.Clean(t.Context()); err != nil || len(gone) != 1 || gone[0] != loop {
		t.Errorf("Clean() = %v, %v, want %s", gone, err, loop)
	}
}

// TestFailingSource: EIO and an event, never a hang, and others go on.
func TestFailingSource(t *testing.T) {
	for name, spec := range map[string]mounttest.FileSpec{
		"read":     {FailFrom: 1 << 20},
		"deadline": {HangFrom: 1 << 20},
		"deaf":     {HangFrom: 1 << 20, Deaf: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 300*time.Millisecond)
			img, data := b.image(t, mounttest.Sample(4))
			spec.Path = data
			bad := b.mount(t, mount.Request{ID: "bad", Mode: mount.FuseFile}, img, spec)
			good := b.mount(t, mount.Request{ID: "good", Mode: mount.FuseFile}, img, mounttest.FileSpec{Path: data})
			late := filepath.Join(bad, "sizes", fmt.Sprint(3<<20+5)) // lies behind the first MiB
			if _, err := os.ReadFile(late); !errors.Is(err, unix.EIO) {
				t.Errorf("read = %v, want EIO", err)
			}
			if ps := mounttest.Compare(img.Root, good, mounttest.Options{}); len(ps) > 0 {
				t.Errorf("the image beside it: %v", ps[0])
			}
			st := b.await(t, func(st dataserver.Status) bool { return len(st.Events) > 0 })
			want := "deadline"
			if name == "read" {
				want = "read"
			}
			if e := st.Events[0]; e.Kind != want || e.Name != "bad" || e.Error == "" || st.Failures == 0 {
				t.Errorf("event = %+v, want kind %s of bad", e, want)
			}
			b.unmount(t, bad)
			b.unmount(t, good)
		})
	}
}
