package main

import (
	"context"
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

// sequential reads a file to its end and returns bytes per second.
func sequential(path string, buf []byte) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total int64
	took, err := timed(func() error {
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
func random(path string, n int, seed uint64) (float64, error) {
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
	took, err := timed(func() error {
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
		upper := b.path("upper")
		if err := os.MkdirAll(upper, 0o755); err != nil {
			return err
		}
		return b.mounted(ctx, id, func(rw string) error {
			return b.overlayReads(mnt, rw, files)
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
		if _, err := sequential(filepath.Join(dir, "big"), buf); err != nil {
			return err
		}
	}
	on := func(f func(dir string) (float64, error)) (func() (float64, error), func() (float64, error)) {
		return func() (float64, error) { return f(theirs) }, func() (float64, error) { return f(ours) }
	}
	p, o := on(func(dir string) (float64, error) { return timed(func() error { return statWalk(dir) }) })
	if err := b.compare("warm stat walk"+suffix, peer, atMost(1.0), millis, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) {
		t, err := timed(func() error { return openClose(dir, files) })
		return t / float64(len(files)), err
	})
	if err := b.compare("warm open+close"+suffix, peer, atMost(1.5), micros, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) { return timed(func() error { return readFiles(dir, files, buf) }) })
	if err := b.compare("warm small files"+suffix, peer, atMost(1.15), millis, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) { return sequential(filepath.Join(dir, "big"), buf) })
	if err := b.compare("warm sequential 1 GiB"+suffix, peer, atLeast(0.95), rate, p, o); err != nil {
		return err
	}
	p, o = on(func(dir string) (float64, error) { return random(filepath.Join(dir, "big"), 200000, 7) })
	return b.compare("warm random 4 KiB"+suffix, peer, atLeast(0.8), iops, p, o)
}

func (b *bench) overlayReads(ro, rw string, files []string) error {
	buf := make([]byte, 1<<20)
	if err := statWalk(rw); err != nil {
		return err
	}
	if err := readFiles(rw, files, buf); err != nil {
		return err
	}
	return b.compare("warm small files, writable overlay", "ours read-only", atMost(1.3), millis,
		func() (float64, error) { return timed(func() error { return readFiles(ro, files, buf) }) },
		func() (float64, error) { return timed(func() error { return readFiles(rw, files, buf) }) })
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
		_, err := sequential(filepath.Join(mnt, "big"), buf)
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
	p, o = both(func(dir string) (float64, error) { return sequential(filepath.Join(dir, "big"), buf) })
	if err := b.compare("cold sequential 1 GiB, verified", "native ext4", atLeast(0.5), rate, p, o); err != nil {
		return err
	}
	p, o = both(func(dir string) (float64, error) { return random(filepath.Join(dir, "big"), 10000, 7) })
	return b.compare("cold random 4 KiB, verified", "native ext4", atLeast(0.4), iops, p, o)
}
