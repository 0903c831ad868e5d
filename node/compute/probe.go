package compute

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// Reason says what this machine lacks and what to do about it.
type Reason struct {
	What   string // the thing that is missing
	Why    string // what was seen
	Remedy string // what an operator can do
}

// Caps is what this machine can do.
type Caps struct {
	Available bool     // containers can run
	Runtimes  []string // paths of runtime programs, in the order they are taken
	Version   string   // first line of the first one's --version
	Cgroup    string   // "v2", "v1", "hybrid" or ""
	Limits    bool     // memory, cpu and pids limits hold
	UserNS    bool     // own user id ranges
	IDMap     bool     // an image root can be shown through an id-mapped mount
	Seccomp   bool
	Overlay   bool    // directories can be made writable
	Fanotify  bool    // the guard can watch execs
	Sealed    []Level // levels that hold
	Missing   []Reason
}

// programs that run containers, best first.
var drivers = []string{"crun", "runc"}

// program finds a runtime; "" takes the first that is installed.
func program(name string) (string, error) {
	names := drivers
	if name != "" {
		names = []string{name}
	}
	for _, n := range names {
		for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"} {
			p := filepath.Join(dir, n)
			if unix.Access(p, unix.X_OK) == nil {
				return p, nil
			}
		}
	}
	return "", fault.Errorf(fault.Unavailable, "find %s: not installed; install it (Debian: apt-get install crun)", strings.Join(names, " or "))
}

// Probe looks at the machine. It changes nothing; what it tries it does in
// private namespaces. An error is only ctx's end.
func Probe(ctx context.Context) (Caps, error) {
	var c Caps
	miss := func(what, why, remedy string) { c.Missing = append(c.Missing, Reason{what, why, remedy}) }
	root := os.Geteuid() == 0
	if !root {
		miss("root", "the process has another user id", "run it with sudo")
	}
	for _, d := range drivers {
		if p, err := program(d); err == nil {
			c.Runtimes = append(c.Runtimes, p)
		}
	}
	if len(c.Runtimes) == 0 {
		miss("OCI runtime", "neither crun nor runc is installed", "apt-get install crun")
	} else {
		out, err := exec.CommandContext(ctx, c.Runtimes[0], "--version").Output()
		if err != nil {
			miss("OCI runtime", c.Runtimes[0]+" --version: "+err.Error(), "reinstall it, or install runc")
		}
		c.Version, _, _ = strings.Cut(string(out), "\n")
	}
	c.Cgroup = cgroupMode()
	if c.Cgroup == "" {
		miss("cgroups", "nothing is mounted at "+cgroupRoot, "mount -t cgroup2 none "+cgroupRoot)
	}
	c.Limits = limits(c.Cgroup)
	if c.Cgroup != "" && !c.Limits {
		miss("limits", "the memory, cpu or pids controller can't be used", "run on the host or in a container with its own cgroup")
	}
	c.Seccomp = kernelFilters(seccompActions)
	if !c.Seccomp {
		miss("seccomp", "the kernel has no call filters", "use a kernel with CONFIG_SECCOMP_FILTER")
	}
	if len(c.Runtimes) > 0 && c.Version != "" {
		if err := runtimeFilters(ctx, c.Runtimes[0]); err != nil {
			c.Seccomp = false
			miss("seccomp", err.Error(), "install the distribution's crun or runc")
		}
	}
	if root {
		probeMounts(&c, miss)
		c.Fanotify = probeFanotify(miss)
	}
	if err := ctx.Err(); err != nil {
		return c, fault.Errorf(fault.Unavailable, "probe the machine: %w", err)
	}
	c.Available = root && len(c.Runtimes) > 0 && c.Version != "" && c.Cgroup != ""
	if c.Available {
		c.Sealed = append(c.Sealed, Off)
		switch {
		case runtime.GOARCH != "amd64":
			c.Available, c.Sealed = false, nil
			miss("x86-64", "the call filter is for x86-64 and this machine is "+runtime.GOARCH, "use an x86-64 machine")
		case c.Seccomp:
			c.Sealed = append(c.Sealed, Files, Strict)
		}
	}
	return c, nil
}

// seccompActions lists what a filter of this kernel may answer.
const seccompActions = "/proc/sys/kernel/seccomp/actions_avail"

// kernelFilters reports whether the kernel knows the answers that the filter
// gives.
func kernelFilters(file string) bool {
	b, err := os.ReadFile(file)
	return err == nil && strings.Contains(string(b), "errno") && strings.Contains(string(b), "kill_thread")
}

// runtimeFilters reports a runtime that was built without call filters: it
// would start the workload without one and say nothing.
func runtimeFilters(ctx context.Context, driver string) error {
	out, err := exec.CommandContext(ctx, driver, "--version").Output()
	if err != nil {
		return fault.Errorf(fault.Unavailable, "%s --version: %w", driver, err)
	}
	if s := strings.ToLower(string(out)); !strings.Contains(s, "+seccomp") && !strings.Contains(s, "libseccomp") {
		return fault.Errorf(fault.Unsupported, "%s was built without call filters", driver)
	}
	return nil
}

// holds refuses a level that this machine can't hold.
func (r *Runtime) holds(ctx context.Context, driver string, level Level) error {
	if level == Off {
		return nil
	}
	actions := seccompActions
	if r.tweak.actions != "" {
		actions = r.tweak.actions
	}
	if !kernelFilters(actions) {
		return fault.Errorf(fault.Unavailable, "seal at %s: the kernel has no call filters; use a kernel with CONFIG_SECCOMP_FILTER, or set sealed: off", level)
	}
	if _, known := r.filters.Load(driver); known {
		return nil
	}
	if err := runtimeFilters(ctx, driver); err != nil {
		return fault.Errorf(fault.Of(err), "seal at %s: %w; install the distribution's crun or runc, or set sealed: off", level, err)
	}
	r.filters.Store(driver, true)
	return nil
}

// limits reports whether the controllers are there.
func limits(mode string) bool {
	switch mode {
	case "v2":
		b, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
		if err != nil {
			return false
		}
		have := strings.Fields(string(b))
		for _, want := range []string{"cpu", "memory", "pids"} {
			found := false
			for _, h := range have {
				found = found || h == want
			}
			if !found {
				return false
			}
		}
		return true
	case "v1", "hybrid":
		for _, want := range []string{"cpu", "memory", "pids"} {
			if unix.Access(filepath.Join(cgroupRoot, want, "cgroup.procs"), unix.W_OK) != nil {
				return false
			}
		}
		return true
	}
	return false
}

// probeMounts tries id mapping and overlays in a private mount namespace.
func probeMounts(c *Caps, miss func(what, why, remedy string)) {
	var idmap, user, overlay error
	err := inRoom(func() error {
		ns, err := userNamespace(1 << 24)
		if user = err; err == nil {
			defer unix.Close(ns)
			fd, err := unix.OpenTree(unix.AT_FDCWD, "/usr", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err == nil {
				err = setattrFD(fd, 0, ns)
				unix.Close(fd)
			}
			idmap = err
		}
		if err := unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""); err != nil {
			return err
		}
		for _, d := range []string{"l", "u", "w", "m"} {
			if err := os.Mkdir("/mnt/"+d, 0o700); err != nil {
				return err
			}
		}
		overlay = unix.Mount("overlay", "/mnt/m", "overlay", unix.MS_NOEXEC, "lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w")
		return nil
	})
	if err != nil {
		miss("mounts", err.Error(), "run on the host, or in a privileged container")
		return
	}
	c.UserNS, c.IDMap, c.Overlay = user == nil, user == nil && idmap == nil, overlay == nil
	if user != nil {
		miss("user namespaces", user.Error(), "set user.max_user_namespaces to 10000; until then workloads use the machine's user ids")
	} else if idmap != nil {
		miss("id-mapped mounts", "of /usr: "+idmap.Error(), "use a newer kernel or another file system; until then workloads use the machine's user ids")
	}
	if overlay != nil {
		miss("overlay", overlay.Error(), "modprobe overlay; until then only volumes are writable")
	}
}

func probeFanotify(miss func(what, why, remedy string)) bool {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	if err != nil {
		miss("fanotify", err.Error(), "use a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS; the other locks of the seal hold without it")
		return false
	}
	unix.Close(fd)
	return true
}
