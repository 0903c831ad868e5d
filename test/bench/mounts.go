package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// statWalk lists every directory and stats every name.
func statWalk(dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		n++
		return unix.Lstat(p, &st)
	})
	if err == nil && n < 60000 {
		err = fmt.Errorf("the walk saw only %d names", n)
	}
	return err
}

// smallFiles are the paths, below the tree, of at most most files under 64 KiB,
// spread over all of it.
func smallFiles(dir string, most int) ([]string, error) {
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		if i.Size() > 0 && i.Size() < 64<<10 {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			all = append(all, rel)
		}
		return nil
	})
	step := max(1, len(all)/most)
	var out []string
	for i := 0; i < len(all) && len(out) < most; i += step {
		out = append(out, all[i])
	}
	return out, err
}

func readFiles(dir string, files []string, buf []byte) error {
	for _, f := range files {
		fd, err := unix.Open(filepath.Join(dir, f), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", f, err)
		}
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				unix.Close(fd)
				return fmt.Errorf("read %s: %w", f, err)
			}
			if n == 0 {
				break
			}
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

func openClose(dir string, files []string) error {
	for _, f := range files {
		fd, err := unix.Open(filepath.Join(dir, f), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// stopwatch is timed or busy.
type stopwatch func(f func() error) (float64, error)

// sequential reads a file to its end and returns bytes per second.
func sequential(path string, buf []byte, watch stopwatch) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total int64
	took, err := watch(func() error {
		for {
			n, err := f.Read(buf)
			total += int64(n)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return float64(total) / took, err
}

// random reads 4 KiB at n random places and returns reads per second.
func random(path string, n int, seed uint64, watch stopwatch) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	r := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, 4096)
	took, err := watch(func() error {
		for range n {
			if _, err := f.ReadAt(buf, r.Int64N(st.Size()/4096)*4096); err != nil {
				return err
			}
		}
		return nil
	})
	return float64(n) / took, err
}

func warm(ctx context.Context, b *bench) error {
	tree, err := b.tree()
	if err != nil {
		return err
	}
	id, err := b.image(ctx, "tree", tree)
	if err != nil {
		return err
	}
	files, err := smallFiles(tree, 20000)
	if err != nil {
		return err
	}
	return b.mounted(ctx, id, func(mnt string) error {
		if err := b.warmReads("", "native ext4", tree, mnt, files); err != nil {
			return err
		}
		if err := b.perFile(ctx, id, mnt, files); err != nil {
			return err
		}
		upper := b.path("upper")
		if err := os.MkdirAll(upper, 0o755); err != nil {
			return err
		}
		return b.mounted(ctx, id, func(rw string) error {
			return b.overlayReads(tree, mnt, rw, files)
		}, "--rw", upper)
	})
}

func (b *bench) warmReads(suffix, peer, theirs, ours string, files []string) error {
	// What was written just now lies in memory in other pieces than what was read.
	if err := dropCaches(); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, dir := range []string{theirs, ours} { // into memory
		if err := statWalk(dir); err != nil {
			return err
		}
		if err := readFiles(dir, files, buf); err != nil {
			return err
		}
		if _, err := sequential(filepath.Join(dir, "big"), buf, timed); err != nil {
			return err
		}
	}
	on := func(f func(dir string) (float64, error)) (func() (float64, error), func() (float64, error)) {
		return func() (float64, error) { return f(theirs) }, func() (float64, error) { return f(ours) }
	}
	p, o := on(func(dir string) (float64, error) { return busy(func() error { return statWalk(dir) }) })
	if err := b.compare("warm stat walk"+suffix, peer, atMost(1.0), millis, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) {
		t, err := busy(func() error { return openClose(dir, files) })
		return t / float64(len(files)), err
	})
	if err := b.compare("warm open+close"+suffix, peer, atMost(1.5), micros, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) { return busy(func() error { return readFiles(dir, files, buf) }) })
	if err := b.compare("warm small files"+suffix, peer, atMost(1.15), millis, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) { return sequential(filepath.Join(dir, "big"), buf, busy) })
	if err := b.compare("warm sequential 1 GiB"+suffix, peer, atLeast(0.95), rate, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) { return random(filepath.Join(dir, "big"), 200000, 7, busy) })
	return b.compare("warm random 4 KiB"+suffix, peer, atLeast(0.8), iops, p, o)
}

// overlayReads measures what a writable overlay adds to ours, and to ext4: the
// file system below makes no difference to what the kernel does in overlayfs.
func (b *bench) overlayReads(tree, ro, rw string, files []string) error {
	peer, gone, err := b.overlayOf(tree)
	if err != nil {
		return err
	}
	defer gone()
	buf := make([]byte, 1<<20)
	for _, dir := range []string{tree, ro, peer, rw} {
		if err := statWalk(dir); err != nil {
			return err
		}
		if err := readFiles(dir, files, buf); err != nil {
			return err
		}
	}
	read := func(dir string) func() (float64, error) {
		return func() (float64, error) { return busy(func() error { return readFiles(dir, files, buf) }) }
	}
	open := func(dir string) func() (float64, error) {
		return func() (float64, error) {
			t, err := busy(func() error { return openClose(dir, files) })
			return t / float64(len(files)), err
		}
	}
	return errors.Join(
		b.compare("warm small files, writable overlay", "ours read-only", atMost(1.3), millis, read(ro), read(rw)),
		b.compare("warm small files, overlay on ext4", "native ext4", must{}, millis, read(tree), read(peer)),
		b.compare("warm small files, writable overlay", "overlay on ext4", atMost(1.15), millis, read(peer), read(rw)),
		b.compare("warm open+close, overlay on ext4", "native ext4", must{}, micros, open(tree), open(peer)),
		b.compare("warm open+close, writable overlay", "overlay on ext4", atMost(1.5), micros, open(peer), open(rw)),
	)
}

// overlayOf mounts a writable overlay of a directory.
func (b *bench) overlayOf(lower string) (dir string, gone func(), err error) {
	for _, d := range []string{"peer-upper", "peer-work", "peer-rw"} {
		if err := os.MkdirAll(b.path(d), 0o755); err != nil {
			return "", nil, err
		}
	}
	dir = b.path("peer-rw")
	opts := "lowerdir=" + lower + ",upperdir=" + b.path("peer-upper") + ",workdir=" + b.path("peer-work")
	if err := unix.Mount("overlay", dir, "overlay", 0, opts); err != nil {
		return "", nil, fmt.Errorf("mount an overlay of %s: %w", lower, err)
	}
	return dir, func() { unix.Unmount(dir, unix.MNT_DETACH) }, nil
}

// busy is how long f keeps this process's processor, in seconds: what comes from
// memory needs nothing else, and other work of the machine doesn't count.
func busy(f func() error) (float64, error) {
	used := func() float64 {
		var r unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &r) // can't fail
		return float64(r.Utime.Sec+r.Stime.Sec) + float64(r.Utime.Usec+r.Stime.Usec)/1e6
	}
	begin := used()
	err := f()
	return used() - begin, err
}

// cold drops the kernel's caches before each measurement and mounts anew, so
// that a new data server verifies every chunk again.
func cold(ctx context.Context, b *bench) error {
	tree, err := b.tree()
	if err != nil {
		return err
	}
	id, err := b.image(ctx, "tree", tree)
	if err != nil {
		return err
	}
	files, err := smallFiles(tree, 20000)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	// Fill the cache of chunks once.
	err = b.mounted(ctx, id, func(mnt string) error {
		if err := readFiles(mnt, files, buf); err != nil {
			return err
		}
		_, err := sequential(filepath.Join(mnt, "big"), buf, timed)
		return err
	})
	if err != nil {
		return err
	}
	both := func(f func(dir string) (float64, error)) (func() (float64, error), func() (float64, error)) {
		return func() (float64, error) {
				if err := dropCaches(); err != nil {
					return 0, err
				}
				return f(tree)
			}, func() (x float64, err error) {
				err = b.mounted(ctx, id, func(mnt string) error {
					if err := dropCaches(); err != nil {
						return err
					}
					x, err = f(mnt)
					return err
				})
				return x, err
			}
	}
	p, o := both(func(dir string) (float64, error) { return timed(func() error { return statWalk(dir) }) })
	if err := b.compare("cold stat walk", "native ext4", atMost(1.0), millis, p, o); err != nil {
		return err
	}
	p, o = both(func(dir string) (float64, error) { return timed(func() error { return readFiles(dir, files, buf) }) })
	if err := b.compare("cold small files, verified", "native ext4", atMost(1.5), millis, p, o); err != nil {
		return err
	}
	p, o = both(func(dir string) (float64, error) { return sequential(filepath.Join(dir, "big"), buf, timed) })
	if err := b.compare("cold sequential 1 GiB, verified", "native ext4", atLeast(0.5), rate, p, o); err != nil {
		return err
	}
	p, o = both(func(dir string) (float64, error) { return random(filepath.Join(dir, "big"), 10000, 7, timed) })
	if err := b.compare("cold random 4 KiB, verified", "native ext4", atLeast(0.4), iops, p, o); err != nil {
		return err
	}
	if err := b.kills(ctx, id); err != nil {
		return err
	}
	return b.mountTimes(ctx)
}
