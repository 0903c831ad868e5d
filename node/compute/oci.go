package compute

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Capabilities that remain in the bounding set. None of them makes code out
// of data or reaches another name space.
var (
	sealedCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"}
	offCaps    = append(slices.Clone(sealedCaps), "CAP_AUDIT_WRITE", "CAP_FSETID", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETPCAP")
)

// Parts of /proc and /sys that show or change the host.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// scratch are directories that get an empty tmpfs where the image has them.
var scratch = []string{"/run", "/tmp", "/var/tmp"}

// mountPlan is what the room prepared: where things lie on the host, in
// absolute paths of the private mount namespace.
type mountPlan struct {
	binds   []Mount  // staged sources, in the order of their targets
	scratch []string // targets of tmpfs mounts
	sys     string   // a staged /sys; "" lets the runtime mount one
	idBase  uint32   // first host id of the user namespace; 0 is none
}

// config makes the OCI configuration. It is a pure function of its arguments.
func config(s Spec, u identity, plan mountPlan) (*specs.Spec, error) {
	filter, err := seccomp(s.Sealed)
	if err != nil {
		return nil, err
	}
	sealed := s.Sealed != Off
	caps := sealedCaps
	if !sealed {
		caps = offCaps
	}
	active := caps
	if u.uid != 0 {
		active = []string{}
	}
	c := &specs.Spec{
		Version: "1.0.0", // what every runtime since 2017 takes; nothing newer is used
		Process: &specs.Process{
			User: specs.User{UID: u.uid, GID: u.gid, AdditionalGids: u.groups},
			Args: s.Argv, Env: s.Env, Cwd: s.Cwd,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: active, Permitted: active},
			NoNewPrivileges: true,
		},
		// The staged root is read-only already, but without a user namespace
		// crun mounts it again with what is said here.
		Root:     &specs.Root{Path: "rootfs", Readonly: !s.WritableRoot},
		Hostname: s.Hostname,
		Mounts:   mounts(s, plan),
		Linux: &specs.Linux{
			CgroupsPath:   cgroupPath(s.ID),
			Resources:     resources(s),
			Seccomp:       filter,
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: s.NetNS},
			},
		},
	}
	if plan.idBase != 0 {
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: plan.idBase, Size: idRange}}
		c.Linux.UIDMappings, c.Linux.GIDMappings = ids, ids
		c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	return c, nil
}

// resources are the limits of the cgroup. No device but the runtime's own
// defaults can be opened.
func resources(s Spec) *specs.LinuxResources {
	pids := int64(s.Pids)
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Pids:    &specs.LinuxPids{Limit: pids},
	}
	if s.Memory != 0 {
		r.Memory = &specs.LinuxMemory{Limit: &s.Memory}
	}
	if s.CPUMilli != 0 {
		period := uint64(100_000)
		quota := int64(s.CPUMilli) * 100
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return r
}

// mounts lists every mount of the workload but the root, outer ones first.
func mounts(s Spec, plan mountPlan) []specs.Mount {
	sealed := s.Sealed != Off
	flags := func(more ...string) []string {
		fs := append([]string{"nosuid"}, more...)
		if sealed && !slices.Contains(fs, "noexec") {
			fs = append(fs, "noexec")
		}
		return fs
	}
	// /proc, /sys, /dev/pts and /dev/mqueue never hold a program, so they are
	// noexec at every level.
	proc := []string{"nosuid", "noexec", "nodev"}
	if s.Sealed == Strict {
		proc = append(proc, "ro")
	}
	var ms []specs.Mount
	add := func(target, kind, source string, options []string) {
		ms = append(ms, specs.Mount{Destination: target, Type: kind, Source: source, Options: options})
	}
	for _, t := range plan.scratch {
		add(t, "tmpfs", "tmpfs", flags("nodev", "mode=1777"))
	}
	for _, b := range plan.binds {
		options := flags("bind", "nodev")
		if b.ReadOnly {
			options = append(options, "ro")
		}
		add(b.Target, "bind", b.Source, options)
	}
	slices.SortStableFunc(ms, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	own := ms
	ms = nil
	add("/proc", "proc", "proc", proc)
	add("/dev", "tmpfs", "tmpfs", flags("strictatime", "mode=755", "size=65536k"))
	add("/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"})
	add("/dev/shm", "tmpfs", "shm", flags("nodev", "mode=1777", fmt.Sprintf("size=%d", shmSize(s))))
	add("/dev/mqueue", "mqueue", "mqueue", []string{"nosuid", "noexec", "nodev"})
	if plan.sys != "" {
		add("/sys", "bind", plan.sys, []string{"bind", "nosuid", "noexec", "nodev", "ro"})
	} else {
		add("/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", "ro"})
	}
	return append(ms, own...)
}

// shmSize is half of the memory limit, at most 64 MiB.
func shmSize(s Spec) int64 {
	const most = 64 << 20
	if s.Memory == 0 {
		return most
	}
	return min(most, s.Memory/2)
}
