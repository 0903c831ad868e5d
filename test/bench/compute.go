package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/executables"
	"zos.internal/internal/thread"
	"zos.internal/node/compute"
)

const (
	lives = 2 // containers in a round
	turns = 5 // rounds of this group for each that was asked for: they are short, so that both sides see the same load
)

// computing measures starts and whole lives of containers on a mounted image,
// and programs that start inside containers.
func computing(ctx context.Context, b *bench) error {
	root := b.path("container")
	if err := smallRoot(root); err != nil {
		return err
	}
	id, err := b.image(ctx, "container", root)
	if err != nil {
		return err
	}
	name, err := block.ParseName(id)
	if err != nil {
		return err
	}
	img, err := flist.Open(ctx, block.OpenDir(b.path("bench-data", "images")), name, flist.OpenOptions{})
	if err != nil {
		return err
	}
	// Where `zos guard` looks for the container "bench".
	at := b.path("run", "run", "bench", "rootfs")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := b.runZos(ctx, "bench", "", nil, "flist", "mount", "--suid", id, at); err != nil {
		return err
	}
	defer func() {
		if err := b.runZos(context.WithoutCancel(ctx), "bench", "", nil, "flist", "unmount", at); err != nil {
			b.say("  %v", err)
		}
	}()
	for p := at; len(p) >= len(b.dir); p = filepath.Dir(p) {
		// A peer's user ids pass through here.
		if err := os.Chmod(p, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
			return err
		}
	}
	// In memory, as on a node: each state that is kept is synced.
	state, err := os.MkdirTemp("/run", "zos-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	rt, err := compute.New(compute.Options{Dir: filepath.Join(state, "w")})
	if err != nil {
		return err
	}
	defer func(n int) { b.rounds = n }(b.rounds)
	b.rounds *= turns
	x := &containers{b: b, rt: rt, dir: state, root: at, record: img.Executables}
	if err := x.starts(ctx); err != nil {
		return err
	}
	return x.execs(ctx)
}

type containers struct {
	b      *bench
	rt     *compute.Runtime
	dir    string // of states, in memory
	root   string
	record []executables.Entry
	n      int
}

func (x *containers) spec(level compute.Level, driver string, argv ...string) compute.Spec {
	x.n++
	return compute.Spec{ID: fmt.Sprintf("bench-%d-%d", os.Getpid(), x.n), RootFS: x.root, Executables: x.record, Sealed: level, Driver: driver, Argv: argv}
}

// worked is the processor time, in seconds, of this process and of the children
// that ended while f ran.
func worked(f func() error) (float64, error) {
	now := func() (total float64, err error) {
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var u unix.Rusage
			if err := unix.Getrusage(who, &u); err != nil {
				return 0, err
			}
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		}
		return total, nil
	}
	before, err := now()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := now()
	return after - before, err
}

// waiting is a program that runs until it is killed.
func waiting() []string { return []string{"/bin/sh", "-c", "while :; do read x; done"} }

// start is the mean time until the main process of a container runs.
func (x *containers) start(ctx context.Context, level compute.Level, driver string) func() (float64, error) {
	return func() (total float64, err error) {
		in, out, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		defer out.Close()
		defer in.Close()
		for range lives {
			var c *compute.Container
			t, err := timed(func() (err error) {
				c, err = x.rt.Start(ctx, x.spec(level, driver, waiting()...), compute.Stdio{In: in})
				return err
			})
			if err == nil {
				err = c.Close()
			}
			if err != nil {
				return 0, err
			}
			total += t
		}
		return total / lives, nil
	}
}

// life is the mean processor time of a container from nothing to nothing left,
// which other load on the machine hardly changes.
func (x *containers) life(ctx context.Context, level compute.Level, driver string) func() (float64, error) {
	return func() (float64, error) {
		t, err := worked(func() error {
			for range lives {
				exit, err := x.rt.Run(ctx, x.spec(level, driver, "/bin/true"), compute.Stdio{})
				if err != nil || exit.Code != 0 {
					return fmt.Errorf("the container ended with %+v: %w", exit, err)
				}
			}
			return nil
		})
		return t / lives, err
	}
}

// peer is a runtime program alone, with the bundle that our engine makes, but
// for the user namespace, whose ids only our mounts map.
type peer struct {
	x              *containers
	driver, bundle string
	conf           specs.Spec
}

func (x *containers) peer(ctx context.Context, driver string) (*peer, error) {
	p := &peer{x: x, driver: driver, bundle: filepath.Join(x.dir, "bundle-"+driver)}
	if err := os.MkdirAll(p.bundle, 0o755); err != nil {
		return nil, err
	}
	s := x.spec(compute.Files, driver, waiting()...)
	s.UserNS = "off"
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	defer out.Close()
	c, err := x.rt.Start(ctx, s, compute.Stdio{In: in})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(x.dir, "w", s.ID, "bundle", "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &p.conf)
	}
	if err == nil {
		err = keepFiles(&p.conf, filepath.Join(x.dir, "w", s.ID), p.bundle)
	}
	p.conf.Root.Path = x.root
	p.conf.Linux.CgroupsPath += "-plain"
	return p, errors.Join(err, c.Close())
}

// life is containers.life without us, start is its start.
func (p *peer) life(ctx context.Context) func() (float64, error) {
	return func() (float64, error) {
		return p.each([]string{"/bin/true"}, func(id string) (float64, error) {
			return worked(func() error { return p.call(ctx, nil, "run", "--bundle", p.bundle, id) })
		})
	}
}

func (p *peer) start(ctx context.Context) func() (float64, error) {
	return func() (float64, error) {
		in, out, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		defer out.Close()
		defer in.Close()
		return p.each(waiting(), func(id string) (float64, error) {
			t, err := timed(func() error {
				return p.call(ctx, in, "run", "--detach", "--pid-file", filepath.Join(p.bundle, "pid"), "--bundle", p.bundle, id)
			})
			return t, errors.Join(err, p.call(context.WithoutCancel(ctx), nil, "delete", "--force", id))
		})
	}
}

// each runs f for some containers where the runtime works, and returns the mean.
func (p *peer) each(argv []string, f func(id string) (float64, error)) (total float64, err error) {
	p.conf.Process.Args = argv
	text, err := json.Marshal(p.conf)
	if err == nil {
		err = os.WriteFile(filepath.Join(p.bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		return 0, err
	}
	err = thread.Discard(func() error {
		if err := plainGroups(); err != nil {
			return err
		}
		for i := range lives {
			t, err := f(fmt.Sprintf("bench-%d-plain-%d", os.Getpid(), i))
			if err != nil {
				return err
			}
			total += t
		}
		return nil
	})
	return total / lives, err
}

func (p *peer) call(ctx context.Context, in *os.File, args ...string) error {
	cmd := exec.CommandContext(ctx, p.driver, append([]string{"--root", filepath.Join(p.x.dir, "state-"+p.driver), "--log", filepath.Join(p.bundle, "log")}, args...)...)
	if in != nil {
		cmd.Stdin = in
	}
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(p.bundle, "log"))
		return fmt.Errorf("%s %s: %w: %.500s", p.driver, args[0], err, log)
	}
	return nil
}

// keepFiles copies the files that the engine made for a container beside the
// bundle, which mounts them.
func keepFiles(conf *specs.Spec, state, bundle string) error {
	for i, m := range conf.Mounts {
		if m.Type != "bind" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(state, "m", filepath.Base(m.Source)))
		if err != nil {
			return fmt.Errorf("the bundle mounts %s: %w", m.Destination, err)
		}
		conf.Mounts[i].Source = filepath.Join(bundle, filepath.Base(m.Source))
		if err := os.WriteFile(conf.Mounts[i].Source, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// plainGroups hides a tree of control groups v2 beside one of v1 from this
// thread and its children: crun gives up on a machine with both.
func plainGroups() error {
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err != nil {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Unmount(unified, unix.MNT_DETACH)
}

func (x *containers) starts(ctx context.Context) error {
	start, life := x.start(ctx, compute.Files, "crun"), x.life(ctx, compute.Files, "crun")
	for driver, m := range map[string]must{"crun": atMost(1.5), "runc": atMost(0.5)} {
		if _, err := exec.LookPath(driver); err != nil {
			x.b.say("  without %s, which is not installed", driver)
			continue
		}
		p, err := x.peer(ctx, driver)
		if err != nil {
			return err
		}
		if err := x.b.compare("container start, sealed files, crun", "plain "+driver+", same bundle", m, millis, p.start(ctx), start); err != nil {
			return err
		}
		if err := x.b.compare("container life, processor time", "plain "+driver+", same bundle", m, millis, p.life(ctx), life); err != nil {
			return err
		}
	}
	// The admission of strict refuses an image with a shell, so the image is
	// said to have no programs.
	y := *x
	y.record, y.n = []executables.Entry{}, x.n+1_000_000
	for _, level := range []compute.Level{compute.Files, compute.Strict} {
		if err := x.b.compare("container start, sealed "+string(level), "not sealed", atMost(1.1), millis, y.start(ctx, compute.Off, "crun"), y.start(ctx, level, "crun")); err != nil {
			return err
		}
		if err := x.b.compare("container life, processor time, sealed "+string(level), "not sealed", atMost(1.1), millis, y.life(ctx, compute.Off, "crun"), y.life(ctx, level, "crun")); err != nil {
			return err
		}
	}
	return nil
}

// smallRoot makes a root directory of this machine's shell and true.
func smallRoot(root string) error {
	for _, d := range []string{"bin", "etc", "tmp", "run", "var/tmp", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range []string{"etc/hostname", "etc/hosts", "etc/resolv.conf"} { // a plain runtime mounts on them
		if err := os.WriteFile(filepath.Join(root, f), nil, 0o644); err != nil {
			return err
		}
	}
	for _, p := range []string{"/bin/sh", "/bin/true"} {
		out, err := exec.Command("ldd", p).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", p, err)
		}
		files := []string{p}
		for _, w := range strings.Fields(string(out)) {
			if strings.HasPrefix(w, "/") {
				files = append(files, w)
			}
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			to := filepath.Join(root, f)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(to, b, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}
