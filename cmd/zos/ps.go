package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/internal/fault"
	"zos.internal/node/compute"
	"zos.internal/node/network"
)

// detach starts this program again in the background and waits until the
// workload runs.
func (a *app) detach(ctx context.Context, ref string, command []string, o *runOptions) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	name := first(o.name, "")
	if name == "" {
		if name, err = newRunID(); err != nil {
			return err
		}
	}
	argv := append(a.globalFlags(), "run", "--ready-fd", "3", "--name", name)
	argv = append(argv, o.flags()...)
	argv = append(argv, ref)
	if len(command) > 0 {
		argv = append(append(argv, "--"), command...)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.MkdirAll(a.runDir(), 0o700); err != nil {
		return err
	}
	errs, err := os.CreateTemp(a.runDir(), ".detach-*")
	if err != nil {
		return err
	}
	os.Remove(errs.Name())
	defer errs.Close()
	cmd := exec.Command(exe, argv...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return fault.Errorf(fault.Internal, "start in the background: %w", err)
	}
	w.Close()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	b, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err == nil && string(b) == "ready" {
		return a.print(map[string]string{"name": name}, table{columns: []string{""}, rows: [][]string{{name}}}, name)
	}
	state := cmd.Wait()
	said, _ := io.ReadAll(io.NewSectionReader(errs, 0, 64<<10))
	text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(said)), "error: "))
	var exit *exec.ExitError
	if errors.As(state, &exit) && text != "" {
		a.note("error: %s", text)
		return &exitError{exit.ExitCode()}
	}
	return fault.Errorf(fault.Internal, "start %s in the background: it ended at once: %v %s", ref, state, text)
}

// globalFlags repeats the flags of this invocation for a child.
func (a *app) globalFlags() []string {
	var out []string
	add := func(flag, v string) {
		if v != "" {
			out = append(out, flag+"="+v)
		}
	}
	for _, h := range a.hubs {
		add("--hub", h)
	}
	add("--store", a.store)
	add("--key", a.keyFile)
	add("--tenant-key", a.tenant)
	return out
}

// flags repeats the flags of a run for a child.
func (o *runOptions) flags() []string {
	var out []string
	add := func(flag, v string) {
		if v != "" {
			out = append(out, flag+"="+v)
		}
	}
	for flag, vs := range map[string][]string{"--volume": o.volumes, "--env": o.env, "--publish": o.publish, "--writable": o.writable} {
		for _, v := range vs {
			add(flag, v)
		}
	}
	add("--memory", o.memory)
	add("--sealed", o.sealed)
	add("--workdir", o.workdir)
	add("--user", o.user)
	add("--hostname", o.hostname)
	add("--runtime", o.driver)
	add("--entrypoint", o.entrypoint)
	if o.cpu > 0 {
		add("--cpu", fmt.Sprint(o.cpu))
	}
	if o.pids > 0 {
		add("--pids", fmt.Sprint(o.pids))
	}
	if o.rm {
		out = append(out, "--rm")
	}
	return out
}

// runLine is one line of ps.
type runLine struct {
	runRecord
	State string        `json:"state"` // running, ended, or what the runtime says
	Exit  *compute.Exit `json:"exit,omitempty"`
}

// records are the runs of this run directory, ended ones included.
func (a *app) records() ([]runRecord, error) {
	dirs, err := os.ReadDir(a.runsDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.Errorf(fault.Of(err), "list containers: %w", err)
	}
	var out []runRecord
	for _, d := range dirs {
		var r runRecord
		b, err := os.ReadFile(filepath.Join(a.runPath(d.Name()), "run.json"))
		if err == nil && json.Unmarshal(b, &r) == nil && r.ID == d.Name() {
			out = append(out, r)
		}
	}
	return out, nil
}

// runs are the records and what became of them.
func (a *app) runs(rt *compute.Runtime) ([]runLine, error) {
	records, err := a.records()
	if err != nil {
		return nil, err
	}
	out := []runLine{}
	for _, r := range records {
		l := runLine{runRecord: r, State: "ended"}
		if st, err := rt.State(r.ID); err == nil {
			l.State = st.Phase
		} else if a.runAlive(r.ID) {
			l.State = "starting"
		}
		if b, err := os.ReadFile(filepath.Join(a.runPath(r.ID), "exit.json")); err == nil {
			l.Exit = new(compute.Exit)
			if err := json.Unmarshal(b, l.Exit); err != nil {
				l.Exit = nil
			}
		}
		out = append(out, l)
	}
	return out, nil
}

func (a *app) psCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ps", Short: "List containers", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			rt, err := a.workloads()
			if err != nil {
				return err
			}
			runs, err := a.runs(rt)
			if err != nil {
				return err
			}
			t := table{columns: []string{"name", "state", "image", "ports", "started", "+id"}}
			var names []string
			for _, l := range runs {
				state := l.State
				if l.Exit != nil {
					state = fmt.Sprintf("%s (%d, %s)", state, l.Exit.Code, l.Exit.Reason)
				}
				t.rows = append(t.rows, []string{l.Name, state, l.Image, strings.Join(l.Publish, " "), l.Started.Local().Format(time.DateTime), l.ID})
				names = append(names, l.Name)
			}
			return a.print(runs, t, names...)
		},
	}
}

// find is the container with that name or id.
func (a *app) find(name string) (*compute.Runtime, runLine, error) {
	rt, err := a.workloads()
	if err != nil {
		return nil, runLine{}, err
	}
	runs, err := a.runs(rt)
	if err != nil {
		return nil, runLine{}, err
	}
	for _, l := range runs {
		if l.Name == name || l.ID == name {
			return rt, l, nil
		}
	}
	return nil, runLine{}, fault.Errorf(fault.NotFound, "no container is named %q; zos ps lists them", name)
}

func (a *app) stopCommand() *cobra.Command {
	grace := 10 * time.Second
	cmd := &cobra.Command{
		Use: "stop NAME", Short: "End a container", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rt, l, err := a.find(args[0])
			if err != nil {
				return err
			}
			if err := rt.Stop(cmd.Context(), l.ID, grace); err != nil && !errors.Is(err, fault.NotFound) {
				return err
			}
			return a.awaitEnd(cmd.Context(), l.ID)
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", grace, "`time` between asking and killing")
	return cmd
}

// awaitEnd waits until the zos that owns a run has taken everything away.
func (a *app) awaitEnd(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for a.runAlive(id) {
		select {
		case <-ctx.Done():
			return fault.Errorf(fault.Unavailable, "container %s ended, but its mounts are not away yet; look with zos ps", id)
		case <-tick.C:
		}
	}
	return nil
}

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Forget a container that ended, and its log", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, l, err := a.find(args[0])
			if err != nil {
				return err
			}
			if a.runAlive(l.ID) {
				return fault.Errorf(fault.Conflict, "container %s is running; stop it first", l.Name)
			}
			return a.forget(cmd.Context(), l.ID, false)
		},
	}
}

func (a *app) logsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logs NAME", Short: "Show what a detached container wrote, at least the last 8 MiB", Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, l, err := a.find(args[0])
			if err != nil {
				return err
			}
			err = copyLog(a.stdout, a.logPath(l.ID))
			if errors.Is(err, os.ErrNotExist) {
				return fault.Errorf(fault.NotFound, "container %s has no log: only detached containers have one", l.Name)
			}
			return err
		},
	}
}

func (a *app) cleanCommand() *cobra.Command {
	return &cobra.Command{
		Use: "clean", Short: "Take away what killed processes left: containers, networks, mounts", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			rt, err := a.workloads()
			if err != nil {
				return err
			}
			return a.sweep(cmd.Context(), rt)
		},
	}
}

// parsePublish reads [ADDRESS:]PORT:PORT[/udp].
func parsePublish(list []string) ([]network.Publish, error) {
	var out []network.Publish
	for _, s := range list {
		p, err := network.ParsePublish(s)
		if err != nil {
			return nil, err
		}
		if !p.Address.IsValid() {
			p.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // nobody else reaches it unless the user says so
		}
		out = append(out, p)
	}
	return out, nil
}
