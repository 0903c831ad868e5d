package main

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"zos.internal/flist"
	"zos.internal/flist/executables"
	"zos.internal/flist/tree"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
	"zos.internal/internal/size"
	"zos.internal/node/compute"
	"zos.internal/node/network"
)

// runOptions are the flags of zos run.
type runOptions struct {
	name       string
	volumes    []string
	env        []string
	memory     string
	cpu        float64
	pids       int
	publish    []string
	rm         bool
	detach     bool
	sealed     string
	writable   []string
	workdir    string
	user       string
	hostname   string
	driver     string
	entrypoint string
	readyFD    int // of a detached run: says that the workload runs
}

func (a *app) runCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run IMAGE [-- COMMAND]",
		Short: "Run an image in a sealed container",
		Long: `Run an image in a sealed container: a read-only root whose files are fetched
and verified when they are touched, a network of its own, and at the level
"files" nothing executes that the image does not describe.`,
		Example: "  zos run web\n  zos run --publish 8080:80 --memory 256MiB --volume ./data:/data zos1…/web:1\n  zos run web -- /bin/sh -c 'echo hi'",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd.Context(), args[0], args[1:], &o)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(true)
	f.StringVar(&o.name, "name", "", "`name` of the container (default a random one)")
	f.StringArrayVar(&o.volumes, "volume", nil, "`SOURCE:TARGET[:ro]` directory or file of this machine; repeat for several")
	f.StringArrayVar(&o.env, "env", nil, "`KEY=VALUE`; KEY alone takes the value from here")
	f.StringVar(&o.memory, "memory", "", "limit such as `256MiB`")
	f.Float64Var(&o.cpu, "cpu", 0, "limit in `CPUs`, such as 0.5")
	f.IntVar(&o.pids, "pids", 0, "limit of processes (default 1024)")
	f.StringArrayVar(&o.publish, "publish", nil, "`[ADDRESS:]PORT:PORT[/udp]` to reach from this machine; the address is 127.0.0.1 unless you say otherwise")
	f.BoolVar(&o.rm, "rm", false, "forget the container and its log when it ends")
	f.BoolVar(&o.detach, "detach", false, "run in the background; see zos ps, logs, stop, rm")
	f.StringVar(&o.sealed, "sealed", "files", "level of the seal: off, files or strict")
	f.StringArrayVar(&o.writable, "writable", nil, "`directory` of the image to make writable (default those without programs)")
	f.StringVar(&o.workdir, "workdir", "", "working `directory`")
	f.StringVar(&o.user, "user", "", "`user[:group]` to run as")
	f.StringVar(&o.hostname, "hostname", "", "host `name` (default the container's name)")
	f.StringVar(&o.driver, "runtime", "", "crun or runc (default the first that is there)")
	f.StringVar(&o.entrypoint, "entrypoint", "", "`program` instead of the image's entrypoint")
	f.IntVar(&o.readyFD, "ready-fd", 0, "")
	_ = f.MarkHidden("ready-fd")
	return cmd
}

func (a *app) run(ctx context.Context, ref string, command []string, o *runOptions) (err error) {
	spec, err := o.spec()
	if err != nil {
		return err
	}
	ports, err := parsePublish(o.publish)
	if err != nil {
		return err
	}
	rt, err := a.workloads()
	if err != nil {
		return err
	}
	if err := a.sweep(ctx, rt); err != nil {
		return err
	}
	if o.detach {
		return a.detach(ctx, ref, command, o)
	}
	if o.readyFD > 0 {
		unix.CloseOnExec(o.readyFD) // whoever waits must not wait for our children
	}
	imageID, _, err := a.resolve(ctx, ref)
	if err != nil {
		return err
	}
	img, m, err := a.openToMount(ctx, imageID)
	if err != nil {
		return err
	}
	if err := a.fill(&spec, img, command, o); err != nil {
		return err
	}
	rec := runRecord{ID: spec.ID, Name: spec.Name, Image: ref, ImageID: img.ID.String(), Publish: o.publish, Started: a.clock.Now(), Keep: !o.rm && o.readyFD > 0}
	dir, release, err := a.claimRun(rec)
	if err != nil {
		return err
	}
	defer release()
	// What is undone at the end is undone although ctx is over by then.
	after := context.WithoutCancel(ctx)
	keep := false
	defer func() { err = errors.Join(err, a.forget(after, spec.ID, keep)) }()
	if err := os.MkdirAll(a.rootPath(spec.ID), 0o755); err != nil {
		return err
	}
	if _, err := a.mountImage(ctx, img, m, a.rootPath(spec.ID), mountOptions{mode: "auto", suid: spec.Sealed == compute.Off}); err != nil {
		return err
	}
	spec.RootFS = a.rootPath(spec.ID)
	stopGuard, err := a.startGuard(ctx, spec, img)
	if err != nil {
		return err
	}
	defer stopGuard()
	net, err := network.Attach(ctx, network.Options{ID: spec.ID, Dir: a.networkOptions(), Publish: ports, Log: a.logger()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	spec.NetNS = net.NetNS()
	stdio, done, err := a.stdio(spec.ID, o)
	if err != nil {
		return err
	}
	defer done()
	c, err := rt.Start(ctx, spec, stdio)
	if err != nil {
		return err
	}
	keep = rec.Keep
	o.ready(nil)
	exit, err := c.Wait(ctx)
	if err != nil {
		// Interrupted: the workload gets ten seconds.
		if exit, err = c.Stop(after, 10*time.Second); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	if err := c.Close(); err != nil {
		return err
	}
	if keep {
		if b, err := json.Marshal(exit); err == nil {
			err = atomicfile.Write(filepath.Join(dir, "exit.json"), b, 0o600)
			if err != nil {
				return err
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return &exitError{exitInterrupted}
	case exit.Reason == "oom":
		return fault.Errorf(fault.Exhausted, "container %s: out of memory at its limit of %s; give it more with --memory", spec.Name, o.memory)
	case exit.Code != 0:
		return &exitError{exit.Code}
	}
	return nil
}

// spec checks the flags.
func (o *runOptions) spec() (compute.Spec, error) {
	var s compute.Spec
	id, err := newRunID()
	if err != nil {
		return s, err
	}
	s.ID, s.Name = id, first(o.name, id)
	if o.name != "" {
		if err := flist.CheckName(o.name); err != nil {
			return s, err
		}
	}
	if s.Sealed, err = executables.ParseLevel(o.sealed); err != nil {
		return s, err
	}
	if o.memory != "" {
		if s.Memory, err = size.Parse(o.memory); err != nil {
			return s, fault.Errorf(fault.Invalid, "--memory: %w", err)
		}
	}
	if o.cpu < 0 || o.cpu > 4096 {
		return s, fault.Errorf(fault.Invalid, "--cpu %v is not a number of CPUs", o.cpu)
	}
	s.CPUMilli, s.Pids, s.Hostname, s.Driver = int(o.cpu*1000), o.pids, o.hostname, o.driver
	for _, v := range o.volumes {
		m, err := parseVolume(v)
		if err != nil {
			return s, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	return s, nil
}

func newRunID() (string, error) {
	b := make([]byte, 10)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(b)), nil
}

func parseVolume(s string) (compute.Mount, error) {
	bad := fault.Errorf(fault.Invalid, "the volume %q is not SOURCE:TARGET[:ro]", s)
	f := strings.Split(s, ":")
	if len(f) < 2 || len(f) > 3 || f[0] == "" || !strings.HasPrefix(f[1], "/") || len(f) == 3 && f[2] != "ro" && f[2] != "rw" {
		return compute.Mount{}, bad
	}
	src, err := filepath.Abs(f[0])
	if err != nil {
		return compute.Mount{}, err
	}
	if _, err := os.Stat(src); err != nil {
		return compute.Mount{}, fault.Errorf(fault.Of(err), "volume %s: %w; make it first", s, err)
	}
	return compute.Mount{Source: src, Target: filepath.Clean(f[1]), ReadOnly: len(f) == 3 && f[2] == "ro"}, nil
}

// fill takes over what the image says where the flags say nothing.
func (a *app) fill(s *compute.Spec, img *flist.Image, command []string, o *runOptions) error {
	c := img.Config
	s.Executables = img.Executables
	s.Env = slices.Clone(c.Env)
	for _, e := range o.env {
		if !strings.Contains(e, "=") {
			e += "=" + a.getenv(e)
		}
		s.Env = append(s.Env, e)
	}
	s.Cwd, s.User = first(o.workdir, c.Workdir), first(o.user, c.User)
	// As in every container tool: a command replaces the image's, and comes
	// after its entrypoint.
	entrypoint, cmd := c.Entrypoint, c.Cmd
	if o.entrypoint != "" {
		entrypoint, cmd = []string{o.entrypoint}, nil
	}
	if len(command) > 0 {
		cmd = command
	}
	s.Argv = slices.Concat(entrypoint, cmd)
	if len(s.Argv) == 0 {
		return fault.Errorf(fault.Invalid, "the image names no command; say what to run: zos run IMAGE -- COMMAND")
	}
	s.WritableDirs = o.writable
	if len(o.writable) == 0 && s.Sealed != compute.Off {
		if err := img.LoadTree(); err != nil {
			return err
		}
		s.WritableDirs = writableDirs(img)
	}
	s.WritableRoot = s.Sealed == compute.Off
	return nil
}

// writableDirs are the top-level directories in which the image has no program
// or library, and so nothing that could be replaced.
func writableDirs(img *flist.Image) []string {
	has := make(map[string]bool)
	for _, e := range img.Executables {
		if e.Kind == executables.Script {
			continue
		}
		top, _, _ := strings.Cut(e.Path, "/")
		has[top] = true
	}
	var out []string
	for _, e := range img.Tree.Entries {
		switch e.Name {
		case "dev", "proc", "sys", "boot", "lost+found":
			continue
		}
		if e.Node.Type() == tree.Directory && !has[e.Name] {
			out = append(out, "/"+e.Name)
		}
	}
	return out
}

// stdio is where the workload reads and writes.
func (a *app) stdio(id string, o *runOptions) (compute.Stdio, func(), error) {
	if o.readyFD == 0 {
		return compute.Stdio{In: a.stdin, Out: a.stdout, Err: a.stderr}, func() {}, nil
	}
	l, err := openLog(a.logPath(id), maxLog)
	if err != nil {
		return compute.Stdio{}, nil, err
	}
	return compute.Stdio{Out: l, Err: l}, func() { l.Close() }, nil
}

// ready tells the zos that waits for a detached run how it went.
func (o *runOptions) ready(err error) {
	if o.readyFD == 0 {
		return
	}
	f := os.NewFile(uintptr(o.readyFD), "ready")
	if f == nil {
		return
	}
	if err != nil {
		fmt.Fprint(f, err)
	} else {
		fmt.Fprint(f, "ready")
	}
	f.Close()
}
