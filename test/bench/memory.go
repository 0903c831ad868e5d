package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory measures what a read of 1 GiB leaves in the page cache, and the data
// server with 100 images.
func memory(ctx context.Context, b *bench) error {
	tree, err := b.tree()
	if err != nil {
		return err
	}
	id, err := b.image(ctx, "tree", tree)
	if err != nil {
		return err
	}
	// Fill the cache of chunks: the packs of the local store would count, too.
	err = b.mounted(ctx, id, func(mnt string) error {
		_, err := sequential(filepath.Join(mnt, "big"), make([]byte, 1<<20), timed)
		return err
	})
	if err != nil {
		return err
	}
	err = b.mounted(ctx, id, func(mnt string) error {
		st, err := os.Stat(filepath.Join(mnt, "big"))
		if err != nil {
			return err
		}
		if err := dropCaches(); err != nil {
			return err
		}
		before, err := meminfo("Cached")
		if err != nil {
			return err
		}
		if _, err := sequential(filepath.Join(mnt, "big"), make([]byte, 1<<20), timed); err != nil {
			return err
		}
		after, err := meminfo("Cached")
		if err != nil {
			return err
		}
		grown := float64(after - before)
		b.record("page cache after a read of 1 GiB", "size of the file", atMost(1.1), size(grown), size(float64(st.Size())), []float64{grown / float64(st.Size())})
		return nil
	})
	if err != nil {
		return err
	}
	return b.hundred(ctx)
}

// hundred mounts 100 different images of real files and looks at the server.
func (b *bench) hundred(ctx context.Context) (err error) {
	names, err := filepath.Glob(b.path("tree", "*", "*"))
	if err != nil {
		return err
	}
	var dirs []string
	for _, n := range names {
		if st, err := os.Stat(n); err == nil && st.IsDir() {
			dirs = append(dirs, n)
		}
	}
	var mounts []string
	defer func() {
		for _, m := range mounts {
			err = errors.Join(err, b.runZos(context.WithoutCancel(ctx), "bench", "", nil, "flist", "unmount", m), os.Remove(m))
		}
	}()
	chunks := 0
	for i := 0; len(mounts) < 100 && i < len(dirs); i++ {
		var built struct {
			ID     string
			Chunks int
		}
		if err := b.runZos(ctx, "bench", "", &built, "flist", "build", "dir:"+dirs[i], "--no-base"); err != nil {
			return err
		}
		mnt := b.path(fmt.Sprint("many-", i))
		if err := os.MkdirAll(mnt, 0o755); err != nil {
			return err
		}
		if err := b.runZos(ctx, "bench", "", nil, "flist", "mount", built.ID, mnt); err != nil {
			return err
		}
		mounts = append(mounts, mnt)
		chunks += built.Chunks
		files, err := smallFiles(mnt, 20)
		if err != nil {
			return err
		}
		if err := readFiles(mnt, files, make([]byte, 1<<20)); err != nil {
			return err
		}
	}
	if len(mounts) < 100 {
		return fmt.Errorf("the tree has only %d directories to make images of", len(mounts))
	}
	rss, err := serverRSS(b.zos)
	if err != nil {
		return err
	}
	b.absolute(fmt.Sprintf("data server with 100 images, %d chunks (MiB)", chunks), atMost(64), float64(rss)/(1<<20), size(float64(rss)))
	return nil
}

// meminfo is a line of /proc/meminfo in bytes.
func meminfo(key string) (int64, error) { return field("/proc/meminfo", key) }

func field(path, key string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		if k == key {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}

// serverRSS is the resident memory of the data server that the program at exe
// started.
func serverRSS(exe string) (int64, error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, l := range lines {
		b, err := os.ReadFile(l)
		if err == nil && string(b) == exe+"\x00flist\x00dataserver\x00" {
			return field(filepath.Join(filepath.Dir(l), "status"), "VmRSS")
		}
	}
	return 0, errors.New("no data server runs")
}
