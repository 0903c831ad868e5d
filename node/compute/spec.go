package compute

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
)

// Limits of a Spec.
const (
	MaxName  = 36
	maxArgs  = 1024      // arguments, and environment entries
	maxText  = 128 << 10 // bytes of one of them
	maxMount = 128
	minMem   = 4 << 20
)

var idForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,34}[a-z0-9])?$`)

// Paths that the runtime mounts itself; nothing else may be mounted on them.
var reserved = []string{"/proc", "/sys", "/dev"}

// normal fills the defaults and refuses what can never run, before anything
// is written.
func (s Spec) normal() (Spec, error) {
	bad := func(format string, args ...any) (Spec, error) {
		return Spec{}, fault.Errorf(fault.Invalid, "container %.40q: "+format, append([]any{s.ID}, args...)...)
	}
	level, err := executables.ParseLevel(string(s.Sealed))
	if err != nil {
		return bad("%w", err)
	}
	s.Sealed = level
	if !idForm.MatchString(s.ID) {
		return bad("the id must have 1 to %d of a-z, 0-9 and inner dashes", MaxName)
	}
	if s.Name == "" {
		s.Name = s.ID
	}
	if s.Hostname == "" {
		s.Hostname = s.Name
	}
	if len(s.Hostname) > 64 || strings.ContainsAny(s.Hostname, "/ \t\n\x00") {
		return bad("the host name %.70q must have at most 64 characters without blanks", s.Hostname)
	}
	if !filepath.IsAbs(s.RootFS) {
		return bad("the root directory %.80q is not an absolute path", s.RootFS)
	}
	if st, err := os.Stat(s.RootFS); err != nil {
		return bad("the root directory: %w; mount the image first", err)
	} else if !st.IsDir() {
		return bad("the root %q is not a directory", s.RootFS)
	}
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return bad("there is no command; the image has none, so give one after --")
	}
	if len(s.Argv) > maxArgs || len(s.Env) > maxArgs {
		return bad("more than %d arguments or environment entries", maxArgs)
	}
	for _, a := range slices.Concat(s.Argv, s.Env) {
		if len(a) > maxText || strings.IndexByte(a, 0) >= 0 {
			return bad("an argument or environment entry has a zero byte or more than %d bytes", maxText)
		}
	}
	for _, e := range s.Env {
		if i := strings.IndexByte(e, '='); i <= 0 {
			return bad("the environment entry %.40q is not KEY=VALUE", e)
		}
	}
	if !slices.ContainsFunc(s.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		s.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.Env...)
	}
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	if !cleanAbs(s.Cwd) {
		return bad("the working directory %.80q is not an absolute, clean path", s.Cwd)
	}
	switch {
	case s.Memory != 0 && s.Memory < minMem:
		return bad("the memory limit of %d bytes is below the least of 4 MiB", s.Memory)
	case s.CPUMilli != 0 && (s.CPUMilli < 10 || s.CPUMilli > 1_000_000):
		return bad("%d thousandths of a CPU are not between 10 and 1000000", s.CPUMilli)
	case s.Pids < 0 || s.Pids > 4<<20:
		return bad("the limit of %d processes is out of range", s.Pids)
	}
	if s.Pids == 0 {
		s.Pids = 1024
	}
	switch s.UserNS {
	case "":
		s.UserNS = "auto"
	case "auto", "on", "off":
	default:
		return bad("user namespace %.20q is not auto, on or off", s.UserNS)
	}
	switch s.Driver {
	case "", "crun", "runc":
	default:
		return bad("the driver %.20q is not known; use crun or runc", s.Driver)
	}
	if s.NetNS != "" && !filepath.IsAbs(s.NetNS) {
		return bad("the network namespace %.80q is not an absolute path", s.NetNS)
	}
	if s.WritableRoot && s.Sealed != Off {
		return bad("sealed %s needs a read-only root; list writable directories, or set sealed: off", s.Sealed)
	}
	if err := s.targets(); err != nil {
		return bad("%w", err)
	}
	return s, nil
}

// targets checks mounts and writable directories against one another.
func (s Spec) targets() error {
	if len(s.Mounts)+len(s.WritableDirs) > maxMount {
		return fault.Errorf(fault.Invalid, "more than %d mounts", maxMount)
	}
	seen := make(map[string]bool)
	for _, t := range s.WritableDirs {
		if err := target(t, seen); err != nil {
			return err
		}
		for other := range seen {
			if other != t && (below(t, other) || below(other, t)) {
				return fault.Errorf(fault.Invalid, "the writable directories %q and %q lie in one another; keep the outer one", t, other)
			}
		}
	}
	for _, m := range s.Mounts {
		if err := target(m.Target, seen); err != nil {
			return err
		}
		if !cleanAbs(m.Source) {
			return fault.Errorf(fault.Invalid, "the mount source %.80q is not an absolute, clean path", m.Source)
		}
		if _, err := os.Stat(m.Source); err != nil {
			return fault.Errorf(fault.Invalid, "the mount source: %w; make the directory first", err)
		}
	}
	return nil
}

func target(t string, seen map[string]bool) error {
	if !cleanAbs(t) || t == "/" {
		return fault.Errorf(fault.Invalid, "the mount target %.80q is not an absolute, clean path below the root", t)
	}
	for _, r := range reserved {
		if t == r || below(t, r) {
			return fault.Errorf(fault.Invalid, "the mount target %.80q lies in %s, which the runtime makes itself", t, r)
		}
	}
	if seen[t] {
		return fault.Errorf(fault.Invalid, "two mounts have the target %.80q", t)
	}
	seen[t] = true
	return nil
}

func cleanAbs(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && strings.IndexByte(p, 0) < 0 && len(p) < 4096
}

// below reports whether p lies under dir (both clean and absolute).
func below(p, dir string) bool {
	return dir == "/" && p != "/" || strings.HasPrefix(p, dir+"/")
}
