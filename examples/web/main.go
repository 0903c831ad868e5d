// Command web is the main job, end to end: it builds a Debian root file system
// with nginx, pushes it to a container registry as an OCI image, builds an
// image of ours from there, publishes it on a hub, starts nginx from it in a
// sealed container while the files are still on the hub, and compares that
// with pulling and unpacking the same image.
//
// Everything runs on this machine and on loopback. On a terminal it serves
// until Ctrl-C, else it ends by itself. It cleans up after itself, also what an
// earlier run that was killed left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"zos.internal/internal/clock"
	"zos.internal/internal/progress"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("web", flag.ContinueOnError)
	flags.SetOutput(stderr)
	zos := flags.String("zos", "bin/zos", "the zos program")
	dir := flags.String("dir", "/var/tmp/zos-example-web", "directory for everything; removed at the end")
	then := flags.String("then", "", "a program to run when the table is shown, before serving on")
	rootfs := flags.String("rootfs", "", "tar of a Debian root with nginx; empty: make one with mmdebstrap")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "error: mounting and containers need root; run: sudo make run")
		return 4
	}
	j := &job{stdout: stdout, stderr: stderr, clock: clock.System{}, dir: *dir, rootfs: *rootfs, then: *then}
	var err error
	if j.zos, err = filepath.Abs(*zos); err == nil {
		err = j.run(ctx)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "error:", err)
	if ctx.Err() != nil {
		return 130
	}
	return 1
}

// job is one run.
type job struct {
	stdout, stderr io.Writer
	clock          clock.Clock
	zos, dir       string
	rootfs         string
	then           string

	stops []func() error // undone in reverse order
}

// result is what the table shows.
type result struct {
	id                 string
	files              uint64
	imageBytes         int64 // unpacked
	ociBytes           int64 // layers as the registry serves them
	peerBytes          int64
	peerTime, lazyTime time.Duration
	fetched            int64
	requests           int64
	metadata           int64
	chunks, checked    int
	signers            int
	page               string
	mode               string
	served             string
}

func (j *job) say(format string, args ...any) { fmt.Fprintf(j.stderr, format+"\n", args...) }

func (j *job) run(ctx context.Context) (err error) {
	unlock, err := j.claim(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	defer func() { err = errors.Join(err, j.clean()) }()

	tar := j.rootfs
	if tar == "" {
		j.say("1/6 making a Debian root with nginx (mmdebstrap)")
		if tar, err = j.debian(ctx); err != nil {
			return err
		}
	}
	j.say("2/6 pushing it to a container registry as an OCI image")
	registry, err := j.startRegistry(ctx)
	if err != nil {
		return err
	}
	var r result
	ref := registry + "/web:1"
	if r.ociBytes, err = j.pushOCI(ctx, tar, ref); err != nil {
		return err
	}
	j.say("3/6 building the image from the registry, publishing it on a hub")
	hub, err := j.publish(ctx, ref, &r)
	if err != nil {
		return err
	}
	j.say("4/6 the usual way: pull, unpack, start")
	if err := j.pullUnpackStart(ctx, ref, &r); err != nil {
		return err
	}
	j.say("5/6 our way: start, and fetch what is touched")
	if err := j.lazyStart(ctx, hub, &r); err != nil {
		return err
	}
	j.say("6/6 checking every block of the image")
	if err := j.verify(ctx, hub, &r); err != nil {
		return err
	}
	j.table(&r)
	if j.then != "" {
		fmt.Fprintln(j.stdout)
		cmd := exec.CommandContext(ctx, j.then)
		cmd.Stdout, cmd.Stderr = j.stdout, j.stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 20 * time.Second
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", j.then, err)
		}
	}
	if f, ok := j.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(j.stdout, "\nserving http://%s/ until Ctrl-C; the hub's pages are at %s\n", r.served, hub.direct)
		<-ctx.Done()
	}
	return nil
}

func (j *job) table(r *result) {
	w := tabwriter.NewWriter(j.stdout, 0, 0, 2, ' ', 0)
	row := func(k, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", k, fmt.Sprintf(format, args...)) }
	row("image", "%s", r.id)
	row("files", "%d", r.files)
	row("bytes in the image", "%s (%s as OCI layers)", progress.Size(r.imageBytes), progress.Size(r.ociBytes))
	row("bytes fetched before the first answer", "%s in %d requests, %.1f %% of the image", progress.Size(r.fetched), r.requests, 100*float64(r.fetched)/float64(r.imageBytes))
	row("time to the first answer", "%d ms", r.lazyTime.Milliseconds())
	row("  pull, unpack and start of the same image", "%d ms (%s), %.1f times as long", r.peerTime.Milliseconds(), progress.Size(r.peerBytes), float64(r.peerTime)/float64(r.lazyTime))
	row("page", "%q", r.page)
	row("mounted by", "%s, sealed files", r.mode)
	row("verified", "%d signature, metadata and map before the mount, every block when it came in; afterwards %d of %d blocks", r.signers, r.checked, r.chunks)
	w.Flush()
}

// get asks for a page until it is answered.
func (j *job) get(ctx context.Context, url string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err == nil {
			b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				return strings.TrimSpace(string(b)), nil
			}
			last = fmt.Errorf("%s answered %s", url, resp.Status)
		} else {
			last = err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline.C:
			return "", fmt.Errorf("no page from %s within a minute: %w", url, last)
		case <-tick.C:
		}
	}
}
