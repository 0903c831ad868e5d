package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"zos.internal/examples/workdir"
)

// claim takes the job's directory and removes what an earlier run that was
// killed left there: its processes, containers, mounts and files.
func (j *job) claim(ctx context.Context) (func(), error) {
	unlock, err := workdir.Claim(j.dir, func() error {
		j.say("cleaning what an earlier run left in %s", j.dir)
		return j.clean()
	})
	if err != nil {
		return nil, err
	}
	return unlock, ctx.Err()
}

// process is written to a file before anything is done with the process, so
// that the next run can end it. The start time keeps a used-again pid safe.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" {
		return ""
	}
	return f[19]
}

func (p process) alive() bool { return p.PID > 1 && p.Start != "" && startTime(p.PID) == p.Start }

// start runs a server in the background until clean.
func (j *job) start(_ context.Context, env []string, what string, argv ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(j.dir, what+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C ends it by way of clean, in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", what, err)
	}
	b, err := json.Marshal(process{cmd.Process.Pid, startTime(cmd.Process.Pid)})
	if err == nil {
		err = os.WriteFile(filepath.Join(j.dir, what+".pid"), b, 0o600)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	j.onClean(func() error { return stop(cmd.Process.Pid, done) })
	return cmd, err
}

func (j *job) onClean(f func() error) { j.stops = append(j.stops, f) }

// stop ends a child: politely, and after ten seconds for certain.
func stop(pid int, done <-chan struct{}) error {
	syscall.Kill(pid, syscall.SIGTERM)
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	syscall.Kill(pid, syscall.SIGKILL)
	<-done
	return fmt.Errorf("process %d did not end on SIGTERM", pid)
}

// clean undoes everything that this or an earlier run did.
func (j *job) clean() error {
	var errs []error
	for i := len(j.stops) - 1; i >= 0; i-- {
		errs = append(errs, j.stops[i]())
	}
	j.stops = nil
	files, err := filepath.Glob(filepath.Join(j.dir, "*.pid"))
	errs = append(errs, err)
	for _, f := range files {
		var p process
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &p) == nil && p.alive() {
			errs = append(errs, endStranger(p))
		}
	}
	// Containers and mounts are the kernel's: ask zos to take away what has no
	// owner any more.
	if _, err := os.Stat(filepath.Join(j.dir, "run")); err == nil {
		if out, err := j.zosCommand(context.Background(), "", "clean"); err != nil {
			errs = append(errs, fmt.Errorf("zos clean: %w\n%s", err, tail(out)))
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil && bytes.Contains(mounts, []byte(" "+j.dir+"/")) {
		errs = append(errs, fmt.Errorf("something is still mounted below %s; nothing there was removed", j.dir))
		return errors.Join(errs...)
	}
	errs = append(errs, os.RemoveAll(j.dir))
	return errors.Join(errs...)
}

// endStranger ends a process that an earlier run started.
func endStranger(p process) error {
	syscall.Kill(p.PID, syscall.SIGTERM)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; p.alive(); i++ {
		if i == 200 {
			syscall.Kill(p.PID, syscall.SIGKILL)
		}
		if i == 400 {
			return fmt.Errorf("process %d of an earlier run can't be ended", p.PID)
		}
		<-tick.C
	}
	return nil
}

// command runs a program to its end and returns its output.
func (j *job) command(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = stdin
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd.CombinedOutput()
}

// zosEnv keeps everything that zos does below the job's directory. who tells
// the publisher from the one who runs the image.
func (j *job) zosEnv(who, hub string) []string {
	return []string{
		"ZOS_DATA=" + filepath.Join(j.dir, who+"data"), "ZOS_CACHE=" + filepath.Join(j.dir, who+"cache"),
		"ZOS_RUN=" + filepath.Join(j.dir, "run"), "ZOS_CONFIG=/dev/null", "ZOS_HUB=" + hub,
		"ZOS_KEY=", "ZOS_TENANT_KEY=", "ZOS_CONTEXT=",
	}
}

// zosCommand runs zos and returns its standard output, with standard error in
// front of it when it failed.
func (j *job) zosCommand(ctx context.Context, hub string, args ...string) ([]byte, error) {
	return j.zosAs(ctx, "user-", hub, args...)
}

func (j *job) zosAs(ctx context.Context, who, hub string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, j.zos, args...)
	cmd.Env = append(os.Environ(), j.zosEnv(who, hub)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return append(stderr.Bytes(), stdout.Bytes()...), fmt.Errorf("zos %s: %w: %s", strings.Join(args, " "), err, tail(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// freeAddr is an address of loopback that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return "127.0.0.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}
