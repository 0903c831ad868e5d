// Package compute runs sealed containers on the local machine.
//
// It takes a root directory that is already there (a mounted image) and a
// Spec, and runs one workload in it under an OCI runtime that it calls as a
// program: crun, else runc. The root is read-only, every other mount is
// noexec, and a call filter closes the ways around that, so at the default
// level no file that the image does not describe becomes a process or a
// mapped library (docs/reference/seal.md).
//
// It guarantees: a level that the machine can't hold is refused and never
// weakened; a failed start leaves nothing behind; mounts live in a private
// mount namespace and vanish with the workload even if this process is
// killed; what survives such a death is found and ended by Clean.
//
// It doesn't pull or mount images, make networks (package network), restart
// anything, or keep logs: standard input and outputs are the caller's files.
// The process that calls Start owns the workload and becomes a child
// sub-reaper; Stop, Kill, State and List work from any process of root.
//
//	r, err := compute.New(compute.Options{Dir: "/run/zos/run"})
//	exit, err := r.Run(ctx, compute.Spec{ID: "web", RootFS: root, Argv: []string{"/bin/app"}}, compute.Stdio{Out: os.Stdout})
package compute

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"zos.internal/flist/executables"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Level is how tightly a workload is sealed: off, files (default) or strict.
type Level = executables.Level

// The levels, as in the record that admits an image.
const (
	Off    = executables.Off
	Files  = executables.Files
	Strict = executables.Strict
)

// Mount shows a directory or file of the host in the workload. It is always
// nosuid and nodev; at files and strict also noexec.
type Mount struct {
	Source   string // absolute path on the host
	Target   string // absolute, clean path in the workload; not "/"
	ReadOnly bool
}

// Spec says what to run. Fields not set have the stated default.
type Spec struct {
	ID   string // names the state directory and the cgroup: [a-z0-9-], at most 36
	Name string // for people; the ID if empty

	RootFS      string              // absolute path of the mounted image
	Executables []executables.Entry // the image's record for admission; nil if it has none

	Argv     []string
	Env      []string // KEY=VALUE; PATH is added if missing
	Cwd      string   // "/" if empty
	User     string   // name, uid, name:group or uid:gid, looked up in the image; "" is root
	Hostname string   // the Name if empty

	Memory   int64 // bytes; 0 is no limit, else at least 4 MiB
	CPUMilli int   // thousandths of a CPU; 0 is no limit, else at least 10
	Pids     int   // 0 is 1024

	Mounts       []Mount
	WritableDirs []string // directories of the image that get a writable, noexec layer
	WritableRoot bool     // the whole root is writable: only with Sealed off

	Sealed Level
	UserNS string // "auto" (default), "on", "off": own range of user ids
	NetNS  string // path of a network namespace; "" is an own one without a network
	Resolv string // content of /etc/resolv.conf; "" leaves the image's
	Hosts  string // lines added to the generated /etc/hosts

	Driver string // "crun", "runc"; "" takes the first that is there
}

// Stdio holds the standard streams. A nil stream is /dev/null. An *os.File is
// handed to the workload itself; anything else is copied through a pipe.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit is how a workload ended.
type Exit struct {
	Code   int       `json:"code"`             // exit code; 128 + signal if a signal ended it
	Signal int       `json:"signal,omitempty"` // the signal, 0 if none
	Reason string    `json:"reason"`           // exited, signalled, oom, stopped, killed
	At     time.Time `json:"at"`
}

// Options configure a Runtime.
type Options struct {
	Dir   string       // state directory, made with mode 0700; best below /run
	Log   *slog.Logger // nil discards
	Clock clock.Clock  // nil is the system clock
}

// Runtime starts and finds workloads. Several may share one directory.
type Runtime struct {
	dir   string
	log   *slog.Logger
	clock clock.Clock
	tweak tweaks

	filters sync.Map // paths of runtimes that are known to install call filters
}

// New makes a Runtime. It needs root.
func New(o Options) (*Runtime, error) {
	if !filepath.IsAbs(o.Dir) {
		return nil, fault.Errorf(fault.Invalid, "open the state directory %q: the path is not absolute", o.Dir)
	}
	if os.Geteuid() != 0 {
		return nil, fault.Errorf(fault.Denied, "open the state directory %q: workloads need root; run it with sudo", o.Dir)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "make the state directory: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	return &Runtime{dir: filepath.Clean(o.Dir), log: o.Log, clock: o.Clock}, nil
}

// Run starts a workload, waits for its end and removes what it left. If ctx
// ends first the workload is stopped with ten seconds of grace, and the error
// is ctx's beside the Exit.
func (r *Runtime) Run(ctx context.Context, spec Spec, stdio Stdio) (Exit, error) {
	c, err := r.Start(ctx, spec, stdio)
	if err != nil {
		return Exit{}, err
	}
	exit, err := c.Wait(ctx)
	if err != nil {
		// The caller is going away; the workload goes with it.
		after := context.WithoutCancel(ctx)
		stopped, serr := c.Stop(after, 10*time.Second)
		if serr != nil {
			return stopped, serr
		}
		exit = stopped
	}
	if cerr := c.Close(); cerr != nil && err == nil {
		err = cerr
	}
	return exit, err
}
