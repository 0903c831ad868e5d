package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"zos.internal/block"
	"zos.internal/hub"
	"zos.internal/test/debian"
)

// start measures the first start of a Debian root on a machine that has nothing
// of it: pull and unpack of a tar.gz over a slow line against a mount over the
// same line. The time goes from nothing to the end of the program.
func start(ctx context.Context, b *bench) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	root, err := b.debian(ctx)
	if err != nil {
		return err
	}
	var built struct{ ID string }
	if err := b.runZos(ctx, "hub", "", &built, "flist", "build", "tar:"+root); err != nil {
		return err
	}
	locator, err := os.ReadFile(b.path("hub-data", "images", "l", built.ID))
	if err != nil {
		return err
	}
	packed := root + ".gz"
	if out, err := exec.CommandContext(ctx, "sh", "-c", "gzip -6 < "+root+" > "+packed).CombinedOutput(); err != nil {
		return fmt.Errorf("gzip: %w: %s", err, out)
	}
	h, err := hub.New(ctx, hub.Config{Store: block.OpenDir(b.path("hub-data", "images"))})
	if err != nil {
		return err
	}
	requests := &counter{next: h}
	mux := http.NewServeMux()
	mux.Handle("/", requests)
	mux.HandleFunc("GET /root.tar.gz", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, packed) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	defer func() {
		server.Close()
		<-done
	}()

	script := func(dir string) error {
		out, err := exec.CommandContext(ctx, "chroot", dir, "/usr/sbin/nginx", "-v").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "nginx version") {
			err = fmt.Errorf("the program said %q", out)
		}
		return err
	}
	files := func(dir string) error {
		list, err := smallFiles(dir, 3000)
		if err != nil {
			return err
		}
		return readFiles(dir, list, make([]byte, 1<<20))
	}
	everything := func(dir string) error {
		buf := make([]byte, 1<<20)
		return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			return readFiles(dir, []string{rel}, buf)
		})
	}
	type job struct {
		name  string
		run   func(dir string) error
		trace bool
		must  must
	}
	for _, l := range links() {
		addr, err := l.serve(ctx, ln.Addr().String())
		if err != nil {
			return err
		}
		url := "http://" + addr
		for _, j := range []job{
			{"one program", script, false, atLeast(8)},
			{"one program, trace", script, true, atLeast(8)},
			{"3000 small files, trace", files, true, atLeast(3)},
			{"every file, no trace", everything, false, atLeast(0.9)},
		} {
			if err := b.trace(ctx, built.ID, locator, j.run, j.trace); err != nil {
				return err
			}
			var asked int64
			err := b.compare("first start, "+j.name+", "+l.name+" (times faster)", "pull, unpack, run", j.must, seconds,
				func() (float64, error) {
					t, err := b.pull(ctx, url+"/root.tar.gz", j.run)
					return 1 / t, err
				},
				func() (float64, error) {
					before := requests.n.Load()
					t, err := b.lazy(ctx, url, built.ID, j.run)
					asked = requests.n.Load() - before
					return 1 / t, err
				})
			if err != nil {
				return err
			}
			b.results[len(b.results)-1].ours += fmt.Sprintf(", %d requests", asked)
		}
	}
	return nil
}

// seconds shows the time whose inverse was compared.
func seconds(x float64) string { return fmt.Sprintf("%.2f s", 1/x) }

// trace publishes what a run reads as the image's only trace, or takes it away,
// with the layout that was made for it.
func (b *bench) trace(ctx context.Context, id string, locator []byte, run func(string) error, want bool) error {
	images := b.path("hub-data", "images")
	err := errors.Join(os.RemoveAll(filepath.Join(images, "t")), os.RemoveAll(filepath.Join(images, "b")),
		os.WriteFile(filepath.Join(images, "l", id), locator, 0o644), os.RemoveAll(b.path("hub-data", "starts")))
	if err != nil || !want {
		return err
	}
	if err := b.at(ctx, "hub", "", id, run); err != nil {
		return err
	}
	// The data server keeps the start after the mount is gone.
	for range 200 {
		if kept, err := os.ReadDir(b.path("hub-data", "starts", id)); err == nil && len(kept) > 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return b.runZos(ctx, "hub", "", nil, "flist", "trace", "publish", id)
}

// at mounts an image as who, lets run use it, and takes it away.
func (b *bench) at(ctx context.Context, who, url, id string, run func(string) error) (err error) {
	dir, err := os.MkdirTemp(b.dir, "mnt-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := b.runZos(ctx, who, url, nil, "flist", "mount", id, dir); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.runZos(context.WithoutCancel(ctx), who, url, nil, "flist", "unmount", dir))
	}()
	return run(dir)
}

// lazy is our first start: an empty store and cache, a hub behind the line.
func (b *bench) lazy(ctx context.Context, url, id string, run func(string) error) (took float64, err error) {
	defer func() {
		err = errors.Join(err, os.RemoveAll(b.path("user-data")), os.RemoveAll(b.path("user-cache")))
	}()
	began := false
	total, err := timed(func() error {
		return b.at(ctx, "user", url, id, func(dir string) error {
			began = true
			return run(dir)
		})
	})
	if err == nil && !began {
		err = errors.New("the image was not mounted")
	}
	return total, err
}

// pull is the peer's first start: the archive is unpacked while it comes in.
func (b *bench) pull(ctx context.Context, url string, run func(string) error) (took float64, err error) {
	dir := b.path("unpacked")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	return timed(func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		tar := exec.CommandContext(ctx, "tar", "--extract", "--gzip", "--numeric-owner", "--same-permissions", "--directory", dir)
		tar.Stdin = io.Reader(resp.Body)
		if out, err := tar.CombinedOutput(); err != nil {
			return fmt.Errorf("unpack: %w: %s", err, out)
		}
		return run(dir)
	})
}

// debian is the tar of a Debian root with nginx, made with the machine's own
// package sources.
func (b *bench) debian(ctx context.Context) (string, error) {
	path := b.path("debian.tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	b.say("  making a Debian root (mmdebstrap)")
	sources, suite, err := debian.Sources(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--variant=minbase", "--include=nginx-light", "--mode=root", suite, path, "-")
	cmd.Stdin = strings.NewReader(sources)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("mmdebstrap: %w: %s", err, log.String())
	}
	return path, nil
}
