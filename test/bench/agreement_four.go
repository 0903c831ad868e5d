package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"zos.internal/chain/client"
	"zos.internal/test/chain/federation"
)

// fourValidators measures four validators in network namespaces of this machine.
func fourValidators(ctx context.Context, b *bench) error {
	if err := federation.Supported(); err != nil {
		b.say("  four validators: skipped: %v", err)
		return nil
	}
	f, err := federation.New(federation.Options{Dir: b.path("four"), Zos: b.zos, Validators: 4})
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Start(ctx); err != nil {
		return err
	}
	var clients []*client.Client
	for _, m := range f.Members {
		clients = append(clients, m.Client)
	}
	load, err := federation.NewLoad(ctx, f.Founder, 60, clients...)
	if err != nil {
		return err
	}
	var took []float64
	for range 20 * b.rounds {
		s, err := timed(func() error { return load.One(ctx) })
		if err != nil {
			return err
		}
		took = append(took, s)
	}
	b.times("submit to committed, four validators", took, 1, 2.5)
	var per []float64
	for range b.rounds {
		n := 0
		s, err := timed(func() (err error) { n, err = load.Burst(ctx, 4); return err })
		if err != nil {
			return err
		}
		per = append(per, float64(n)/s)
	}
	b.absolute("contract transactions a second, four validators", atLeast(500), median(per), fmt.Sprintf("%.0f (%.0f–%.0f)", median(per), slices.Min(per), slices.Max(per)))
	return nil
}

// idleChain measures what a chain costs that has nothing to do.
func idleChain(ctx context.Context, b *bench) error {
	cmd := exec.CommandContext(ctx, b.zos, "chain", "start", "--dev", "--data", b.path("idle"), "--listen", "127.0.0.1:0")
	cmd.Env = b.env("idle", "")
	log, err := os.Create(b.path("idle.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := wait(ctx, 10*time.Second); err != nil { // for the first blocks and what follows a start
		return err
	}
	const span = 30
	before, err := processorNanos(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("the idle chain: %w", err)
	}
	if err := wait(ctx, span*time.Second); err != nil {
		return err
	}
	after, err := processorNanos(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("the idle chain: %w", err)
	}
	share := float64(after-before) / 1e9 / span * 100
	b.absolute("processor of an idle chain", atMost(0.5), share, fmt.Sprintf("%.2f %% of one", share))
	anonymous, all, err := residentSize(cmd.Process.Pid)
	if err != nil {
		return err
	}
	b.absolute("memory of an idle chain", atMost(64), all/(1<<20), fmt.Sprintf("%s, %s of it anonymous", size(all), size(anonymous)))
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// processorNanos is the time that all threads of a process have run.
func processorNanos(pid int) (int64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	var sum int64
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that ended
		}
		text, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// residentSize is the memory of a process in bytes: its own, and with the pages
// of its program.
func residentSize(pid int) (anonymous, all float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseFloat(f[1], 64) // lines that we don't ask for have no number
		switch f[0] {
		case "RssAnon:":
			anonymous = n * 1024
		case "VmRSS:":
			all = n * 1024
		}
	}
	return anonymous, all, nil
}
