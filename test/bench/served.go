package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/dataserver"
	"zos.internal/flist/lazy"
	"zos.internal/flist/mount"
)

// perFile compares with a FUSE file system that answers for each file, which is
// how other lazy images are mounted and our own last resort.
func (b *bench) perFile(ctx context.Context, id, ours string, files []string) (err error) {
	if !b.wanted("warm (times faster)") {
		return nil
	}
	dir := b.path("per-file")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// An image has one mode in a run directory, so this one has its own.
	other := "ZOS_RUN=" + b.path("run-per-file")
	if err := b.runZosWith(ctx, []string{other}, "flist", "mount", id, dir, "--mode", "tree"); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.runZosWith(context.WithoutCancel(ctx), []string{other}, "flist", "unmount", dir), os.Remove(dir))
	}()
	buf := make([]byte, 1<<20)
	for _, d := range []string{dir, ours} { // into memory
		if err := readFiles(d, files, buf); err != nil {
			return err
		}
	}
	// Rates, so that the ratio says how many times faster ours is.
	row := func(name string, f func(dir string) error) error {
		return b.compare(name, "per-file FUSE", atLeast(8), perSecond,
			func() (float64, error) {
				t, err := timed(func() error { return f(dir) })
				return float64(len(files)) / t, err
			},
			func() (float64, error) {
				t, err := timed(func() error { return f(ours) })
				return float64(len(files)) / t, err
			})
	}
	if err := row("warm open+close (times faster)", func(d string) error { return openClose(d, files) }); err != nil {
		return err
	}
	return row("warm small files (times faster)", func(d string) error { return readFiles(d, files, buf) })
}

func (b *bench) runZosWith(ctx context.Context, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, b.zos, args...)
	cmd.Env = append(b.env("bench", ""), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("zos %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func perSecond(x float64) string { return fmt.Sprintf("%.1f k files/s", x/1000) }

// mountTimes measures the check of an image that is here, and the command that
// mounts a checked one while the data server runs. What every command takes to
// start is measured beside it and shown, but is no part of the mount.
func (b *bench) mountTimes(ctx context.Context) error {
	if !b.wanted("first check and mount") {
		return nil
	}
	id, err := b.image(ctx, "part", b.path("tree", "3"))
	if err != nil {
		return err
	}
	name, err := block.ParseName(id)
	if err != nil {
		return err
	}
	store := b.path("bench-data", "images")
	m := block.NewMirrors(nil, block.Source{Name: store, Bucket: block.OpenDir(store), Near: true})
	var checks, mounts, starts []float64
	var img *flist.Image
	for range 2*b.rounds + 1 {
		check, err := timed(func() (err error) {
			img, err = flist.Open(ctx, m, flist.ID(name), flist.OpenOptions{})
			return err
		})
		if err != nil {
			return err
		}
		checks = append(checks, check)
	}
	// The run directory is in memory, as it is without ZOS_RUN. A mount under
	// another name keeps the data server.
	memory, err := os.MkdirTemp("/run", "zos-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(memory)
	env := []string{"ZOS_RUN=" + memory}
	run := filepath.Join(memory, "flist")
	h := mount.Host{RunDir: run, Keeper: []string{b.zos, "flist", "keeper", run}, Env: append(b.env("bench", ""), env...)}
	spec, err := lazy.Prepare(ctx, img, m, b.path("keeps-the-server"), lazy.Spec{Sources: []string{store}})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	keeps, dir := b.path("mnt-keeps"), b.path("mnt-command")
	for _, d := range []string{keeps, dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if _, err := h.Mount(ctx, mount.Request{ID: "keeps-the-server", Meta: img.Metadata, DeviceSize: img.DeviceSize(), Target: keeps, Spec: raw}); err != nil {
		return err
	}
	defer h.Unmount(context.WithoutCancel(ctx), keeps)
	for i := range 2*b.rounds + 1 {
		took, err := timed(func() error { return b.runZosWith(ctx, env, "flist", "mount", id, dir) })
		if err == nil {
			err = h.Unmount(ctx, dir)
		}
		if err != nil {
			return err
		}
		start, err := timed(func() error { return b.runZosWith(ctx, env, "version") })
		if err != nil {
			return err
		}
		if i > 0 { // the first one checks
			mounts, starts = append(mounts, took), append(starts, start)
		}
	}
	b.absolute(fmt.Sprintf("first check of an image of %d entries (s)", img.Root.Entries), atMost(1), median(checks), spreadOf(checks, millis))
	net := max(0, median(mounts)-median(starts))
	b.absolute(fmt.Sprintf("zos flist mount, %d entries, checked (s)", img.Root.Entries), atMost(0.02), net,
		fmt.Sprintf("%s, with the start of the program %s", millis(net), spreadOf(mounts, millis)))
	return nil
}

func spreadOf(xs []float64, show func(float64) string) string {
	return fmt.Sprintf("%s (%s–%s)", show(median(xs)), show(slices.Min(xs)), show(slices.Max(xs)))
}

// kills reads at random while the data server is killed again and again, and
// records the longest read around each kill. Each round mounts anew, since a
// keeper starts a data server that dies all the time later and later.
func (b *bench) kills(ctx context.Context, id string) error {
	if !b.wanted("kill of the data server") {
		return nil
	}
	var pauses []float64
	failed, reads := 0, 0
	for round := range b.rounds {
		err := b.mounted(ctx, id, func(mnt string) error {
			if err := dropCaches(); err != nil {
				return err
			}
			return b.killed(ctx, filepath.Join(mnt, "big"), uint64(round), func(pause float64, n, bad int) {
				pauses = append(pauses, pause)
				reads, failed = reads+n, failed+bad
			})
		})
		if err != nil {
			return err
		}
	}
	slices.Sort(pauses)
	p99 := pauses[(len(pauses)*99+99)/100-1]
	b.absolute(fmt.Sprintf("failed reads of %d around %d kills of the data server", reads, len(pauses)), must{}, 0, fmt.Sprint(failed))
	none := failed == 0
	b.results[len(b.results)-1].ok = &none
	b.absolute("longest read at a kill of the data server, p99 (s)", atMost(0.2), p99, fmt.Sprintf("%s (median %s)", millis(p99), millis(median(pauses))))
	return nil
}

// killed kills the data server a few times while path is read.
func (b *bench) killed(ctx context.Context, path string, seed uint64, each func(pause float64, reads, failed int)) error {
	const times, around = 7, 200
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 11))
	buf := make([]byte, 4096)
	read := func() (longest float64, failed int) {
		for range around {
			t, err := timed(func() error {
				_, err := f.ReadAt(buf, r.Int64N(st.Size()/4096)*4096)
				return err
			})
			if err != nil {
				failed++
			}
			longest = max(longest, t)
		}
		return longest, failed
	}
	read()
	c := dataserver.Client{RunDir: filepath.Join(b.path("run"), "flist")}
	for range times {
		s, err := c.Stat(ctx)
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() { done <- unix.Kill(s.ServerPid, unix.SIGKILL) }()
		pause, failed := read()
		if err := <-done; err != nil {
			return fmt.Errorf("kill the data server %d: %w", s.ServerPid, err)
		}
		each(pause, around, failed)
	}
	s, err := c.Stat(ctx)
	if err == nil && s.Restarts < times {
		err = fmt.Errorf("the data server was started again %d times after %d kills", s.Restarts, times)
	}
	return err
}
