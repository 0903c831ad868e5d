package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"zos.internal/flist/executables"
	"zos.internal/node/compute"
	"zos.internal/node/compute/guard"
)

// forks is how many programs a container starts in a round.
const forks = 100

// forker is a container whose shell starts programs when it is told to.
type forker struct {
	c    *compute.Container
	id   string
	tell *os.File
	said *bufio.Reader
}

func (x *containers) forker(ctx context.Context, level compute.Level) (*forker, error) {
	in, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	hear, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s := x.spec(level, "crun", "/bin/sh", "-c", "while read n; do while [ $n -gt 0 ]; do /bin/true; n=$((n-1)); done; echo done; done")
	c, err := x.rt.Start(ctx, s, compute.Stdio{In: in, Out: out, Err: os.Stderr})
	if err != nil {
		return nil, err
	}
	return &forker{c: c, id: s.ID, tell: tell, said: bufio.NewReader(hear)}, nil
}

// forks has the container start its programs.
func (f *forker) forks() error {
	if _, err := fmt.Fprintln(f.tell, forks); err != nil {
		return err
	}
	line, err := f.said.ReadString('\n')
	if err == nil && line != "done\n" {
		err = fmt.Errorf("the container says %q", line)
	}
	return err
}

// took is the mean time of a fork, an exec and a wait.
func (f *forker) took() (float64, error) {
	t, err := timed(f.forks)
	return t / forks, err
}

// worked is took in the processor time of the container.
func (f *forker) worked() (float64, error) {
	before, err := f.used()
	if err != nil {
		return 0, err
	}
	if err := f.forks(); err != nil {
		return 0, err
	}
	after, err := f.used()
	return (after - before) / forks, err
}

// used is the processor time of the container so far, in seconds.
func (f *forker) used() (float64, error) {
	for _, dir := range []string{"cpuacct", "cpu,cpuacct"} {
		if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, "zos-"+f.id, "cpuacct.usage")); err == nil {
			var ns float64
			_, err := fmt.Sscan(string(b), &ns)
			return ns / 1e9, err
		}
	}
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", "zos-"+f.id, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	var us float64
	_, err = fmt.Sscanf(string(b), "usage_usec %f", &us)
	return us / 1e6, err
}

func (f *forker) close() error {
	f.tell.Close()
	return f.c.Close()
}

func (x *containers) execs(ctx context.Context) error {
	var fs []*forker
	for _, level := range []compute.Level{compute.Off, compute.Files, compute.Files} {
		f, err := x.forker(ctx, level)
		if err != nil {
			return err
		}
		defer func() {
			if err := f.close(); err != nil {
				x.b.say("  %v", err)
			}
		}()
		fs = append(fs, f)
	}
	// One guard for all containers on the image: it comes and goes between the
	// sides of a round, and has said yes to both programs before.
	guarded := func(f func() (float64, error)) func() (float64, error) {
		return func() (float64, error) {
			g, err := x.guard(ctx)
			if err != nil {
				return 0, err
			}
			defer g.Close()
			if err := fs[1].forks(); err != nil {
				return 0, err
			}
			return f()
		}
	}
	for _, r := range []struct {
		name, peer   string
		m            must
		theirs, ours func() (float64, error)
	}{
		{"sealed files, no guard", "not sealed", atMost(1.05), fs[0].took, fs[1].took},
		{"processor time, sealed files, no guard", "not sealed", atMost(1.05), fs[0].worked, fs[1].worked},
		{"sealed files, guard", "no guard", atMost(1.05), fs[1].took, guarded(fs[1].took)},
		{"processor time, sealed files, guard", "no guard", atMost(1.05), fs[1].worked, guarded(fs[1].worked)},
		{"noise: another container of the same kind", "sealed files", must{}, fs[1].took, fs[2].took},
		{"processor time, noise as before", "sealed files", must{}, fs[1].worked, fs[2].worked},
	} {
		if err := x.b.compare("fork and exec, "+r.name, r.peer, r.m, micros, r.theirs, r.ours); err != nil {
			return err
		}
	}
	return nil
}

// guard starts the guard of the container "bench" as zos run does.
func (x *containers) guard(ctx context.Context) (*guard.Kept, error) {
	b, err := executables.Encode(x.record)
	if err == nil {
		err = os.WriteFile(x.b.path("run", "run", "bench", "executables"), b, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return guard.Keeper{
		Command: func() *exec.Cmd {
			cmd := exec.Command(x.b.zos, "guard", "bench")
			cmd.Env, cmd.Stderr = x.b.env("bench", ""), os.Stderr
			return cmd
		},
		Patience: 10 * time.Second, // the machine is busy
	}.Start(ctx)
}
