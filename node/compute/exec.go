package compute

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// ExecSpec is a further process of a running workload. Fields not set are
// those of the workload's main process.
type ExecSpec struct {
	Argv []string
	Env  []string // added
	Cwd  string
}

// Exec runs a process in a running workload and waits for it. The process has
// the same user, capabilities, filter and mounts as the main one.
func (r *Runtime) Exec(ctx context.Context, id string, e ExecSpec, stdio Stdio) (Exit, error) {
	st, err := r.State(id)
	if err != nil {
		return Exit{}, err
	}
	if st.Phase != Running || !st.Main.alive() {
		return Exit{}, fault.Errorf(fault.Conflict, "container %s: it does not run; start it first", id)
	}
	if len(e.Argv) == 0 || len(e.Argv) > maxArgs || len(e.Env) > maxArgs || e.Cwd != "" && !cleanAbs(e.Cwd) {
		return Exit{}, fault.Errorf(fault.Invalid, "container %s: exec needs a command, at most %d arguments and an absolute directory", id, maxArgs)
	}
	driver, err := program(st.Driver)
	if err != nil {
		return Exit{}, err
	}
	b, err := os.ReadFile(r.path(id, "bundle", "config.json"))
	if err != nil {
		return Exit{}, fault.Errorf(fault.Unavailable, "container %s: exec: %w", id, err)
	}
	var conf specs.Spec
	if err := json.Unmarshal(b, &conf); err != nil || conf.Process == nil {
		return Exit{}, fault.Errorf(fault.Invalid, "container %s: exec: its configuration is damaged: %v", id, err)
	}
	p := conf.Process
	p.Args, p.Env = e.Argv, append(p.Env, e.Env...)
	if e.Cwd != "" {
		p.Cwd = e.Cwd
	}
	return r.exec(ctx, st, driver, p, stdio)
}

func (r *Runtime) exec(ctx context.Context, st State, driver string, p *specs.Process, stdio Stdio) (Exit, error) {
	fail := func(err error) (Exit, error) {
		return Exit{}, fault.Errorf(fault.Unavailable, "container %s: exec: %w", st.ID, err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp(r.path(st.ID), "exec-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	process, log, pid := filepath.Join(dir, "process.json"), filepath.Join(dir, "log"), filepath.Join(dir, "pid")
	if err := os.WriteFile(process, b, 0o600); err != nil {
		return fail(err)
	}
	c := &Container{r: r, State: st}
	s, err := c.open(stdio)
	if err != nil {
		return Exit{}, err
	}
	defer s.close()
	err = inRoom(func() error {
		// runc starts in the root directory that it knows from the start.
		if err := unix.Mount(r.path(st.ID), st.Room, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, driver, "--root", r.path(st.ID, "oci"), "--log", log, "exec", "--pid-file", pid, "--process", process, st.ID)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = s.files[0], s.files[1], s.files[2]
		// The end of the caller ends the process, not only the runtime.
		cmd.Cancel = func() error {
			if n, err := readPID(pid); err == nil {
				_ = unix.Kill(n, unix.SIGKILL)
			}
			return cmd.Process.Kill()
		}
		return cmd.Run()
	})
	s.close()
	c.copy.Wait()
	if !st.Main.alive() {
		// The workload ended meanwhile; the runtime may have made its cgroup
		// again after it was removed.
		if rerr := removeCgroup(st.ID); rerr != nil {
			return fail(rerr)
		}
	}
	if cerr := ctx.Err(); cerr != nil {
		return fail(cerr)
	}
	e := Exit{Reason: "exited", At: r.clock.Now()}
	var exit *exec.ExitError
	switch {
	case err == nil:
	case !errors.As(err, &exit):
		return fail(err)
	default:
		if _, perr := readPID(pid); perr != nil { // it never started
			return fail(errors.New(filepath.Base(driver) + ": exit " + strconv.Itoa(exit.ExitCode()) + ": " + tail(log)))
		}
		e.Code = exit.ExitCode()
	}
	return e, nil
}
