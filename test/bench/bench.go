package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/clock"
)

// bench is one run of the program.
type bench struct {
	dir    string
	zos    string
	rounds int
	lines  *regexp.Regexp // which lines of the table are measured, nil: all
	stderr io.Writer

	group   string
	results []result
}

// result is a line of the table. ratio is ours to the peer's.
type result struct {
	name, peer, ours, theirs, ratio, spread, must string
	ok                                            *bool
}

func (r result) verdict() string {
	switch {
	case r.ok == nil:
		return ""
	case *r.ok:
		return "met"
	}
	return "MISSED"
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.stderr, format+"\n", args...) }

// must is a bound on a ratio.
type must struct {
	most, least float64
}

func atMost(x float64) must  { return must{most: x} }
func atLeast(x float64) must { return must{least: x} }

func (m must) String() string {
	switch {
	case m.most > 0:
		return fmt.Sprintf("≤ %.4g", m.most)
	case m.least > 0:
		return fmt.Sprintf("≥ %.4g", m.least)
	}
	return ""
}

func (m must) met(x float64) *bool {
	ok := true
	switch {
	case m.most > 0:
		ok = x <= m.most
	case m.least > 0:
		ok = x >= m.least
	default:
		return nil
	}
	return &ok
}

// wanted reports whether a line is to be measured.
func (b *bench) wanted(name string) bool { return b.lines == nil || b.lines.MatchString(name) }

// compare runs both sides in turn, the order changing each round, and records
// the median of the ratios of a round and their spread. Both return a figure in
// the same unit; show formats it.
func (b *bench) compare(name, peer string, m must, show func(float64) string, theirs, ours func() (float64, error)) error {
	if !b.wanted(name) {
		return nil
	}
	var rs, xs, ys []float64
	for i := range b.rounds {
		var x, y float64
		var err error
		if i%2 == 0 {
			x, err = theirs()
			if err == nil {
				y, err = ours()
			}
		} else {
			y, err = ours()
			if err == nil {
				x, err = theirs()
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rs, xs, ys = append(rs, y/x), append(xs, x), append(ys, y)
	}
	b.record(name, peer, m, show(median(ys)), show(median(xs)), rs)
	return nil
}

func (b *bench) record(name, peer string, m must, ours, theirs string, ratios []float64) {
	r := median(ratios)
	res := result{name: name, peer: peer, ours: ours, theirs: theirs, ratio: fmt.Sprintf("%.3g", r),
		spread: fmt.Sprintf("%.3g–%.3g", slices.Min(ratios), slices.Max(ratios)), must: m.String(), ok: m.met(r)}
	b.results = append(b.results, res)
	b.say("  %-46s %s (%s) %s %s", name, res.ratio, res.spread, res.must, res.verdict())
}

// absolute records a figure that has no peer.
func (b *bench) absolute(name string, m must, x float64, shown string) {
	res := result{name: name, peer: "absolute", ours: shown, must: m.String(), ok: m.met(x)}
	b.results = append(b.results, res)
	b.say("  %-46s %s %s %s", name, shown, res.must, res.verdict())
}

func median(xs []float64) float64 {
	s := slices.Clone(xs)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func millis(x float64) string { return fmt.Sprintf("%.1f ms", x*1000) }
func micros(x float64) string { return fmt.Sprintf("%.2f µs", x*1e6) }
func rate(x float64) string   { return fmt.Sprintf("%.0f MB/s", x/1e6) }
func iops(x float64) string   { return fmt.Sprintf("%.1f k/s", x/1000) }
func size(x float64) string   { return fmt.Sprintf("%.1f MiB", x/(1<<20)) }

// timed is how long f takes, in seconds.
func timed(f func() error) (float64, error) {
	begin := clock.System{}.Now()
	err := f()
	return clock.Since(clock.System{}, begin).Seconds(), err
}

// machine says when and where this ran.
func machine() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return fmt.Sprintf("Measured %s, %d processors, Linux %s, %s.", clock.System{}.Now().UTC().Format(time.DateOnly), runtime.NumCPU(),
		unix.ByteSliceToString(u.Release[:]), runtime.Version())
}

// env keeps what zos does below the bench's directory.
func (b *bench) env(who, hub string) []string {
	return append(os.Environ(), "ZOS_DATA="+b.path(who+"-data"), "ZOS_CACHE="+b.path(who+"-cache"), "ZOS_RUN="+b.path("run"),
		"ZOS_CONFIG=/dev/null", "ZOS_HUB="+hub, "ZOS_KEY=", "ZOS_TENANT_KEY=", "ZOS_CONTEXT=")
}

func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// run runs zos and decodes its JSON output into out, if not nil.
func (b *bench) runZos(ctx context.Context, who, hub string, out any, args ...string) error {
	cmd := exec.CommandContext(ctx, b.zos, append(args, "-o", "json")...)
	cmd.Env = b.env(who, hub)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("zos %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(stdout.Bytes(), out)
}

// tree is the real tree that mounts are measured on: Go's source and module
// cache, Debian's /usr/share and /usr/lib; at least 60,000 files, and one file
// of 1 GiB.
func (b *bench) tree() (string, error) {
	dir := b.path("tree")
	if _, err := os.Stat(b.path("tree.done")); err == nil {
		return dir, nil
	}
	b.say("  copying the tree")
	out, err := exec.Command("go", "env", "GOROOT", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its directories: %w", err)
	}
	for i, src := range append(strings.Fields(string(out)), "/usr/share", "/usr/lib") {
		dst := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(dst, 0o755); err != nil {
			return "", err
		}
		// What can't be copied is skipped; the count below decides.
		if out, err := exec.Command("cp", "-a", "--", src+"/.", dst).CombinedOutput(); err != nil {
			b.say("  copy %s: %v: %.200s", src, err, out)
		}
	}
	files := 0
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files++
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if files < 60000 {
		return "", fmt.Errorf("the tree has only %d files, 60000 are needed; fill the module cache first, for example with go mod download in several modules", files)
	}
	if err := bigFile(filepath.Join(dir, "big"), dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(b.path("tree.done"), nil, 0o600)
}

// bigFile makes 1 GiB of the files of a tree, one after the other.
func bigFile(path, from string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	left := int64(1 << 30)
	for left > 0 {
		err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
			if err != nil || left == 0 {
				return err
			}
			if !d.Type().IsRegular() || p == path {
				return nil
			}
			in, err := os.Open(p)
			if err != nil {
				return err
			}
			defer in.Close()
			n, err := io.Copy(out, io.LimitReader(in, left))
			left -= n
			return err
		})
		if err != nil {
			return err
		}
	}
	return out.Sync()
}

// image builds an image of a directory into the store of "bench" and returns
// its id.
func (b *bench) image(ctx context.Context, name, dir string) (string, error) {
	// An image of the kept tree is not built again.
	note := b.path("image-" + name)
	if id, err := os.ReadFile(note); err == nil && strings.HasPrefix(dir, b.path("tree")) {
		return string(id), nil
	}
	var built struct{ ID string }
	if err := b.runZos(ctx, "bench", "", &built, "flist", "build", "dir:"+dir, "--name", name, "--no-base"); err != nil {
		return "", err
	}
	return built.ID, os.WriteFile(note, []byte(built.ID), 0o600)
}

// mounted mounts an image of the store for as long as f runs.
func (b *bench) mounted(ctx context.Context, id string, f func(dir string) error, args ...string) (err error) {
	dir, err := os.MkdirTemp(b.dir, "mnt-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := b.runZos(ctx, "bench", "", nil, append([]string{"flist", "mount", id, dir}, args...)...); err != nil {
		return err
	}
	defer func() {
		if uerr := b.runZos(context.WithoutCancel(ctx), "bench", "", nil, "flist", "unmount", dir); err == nil {
			err = uerr
		}
	}()
	return f(dir)
}

// dropCaches empties the kernel's page, dentry and inode caches.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200)
}
