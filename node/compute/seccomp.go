package compute

import (
	_ "embed"
	"encoding/json"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
)

// seccompData is the list of what a workload may call; everything else gets
// EPERM. The file is data so that a review reads one list. See
// docs/reference/seal.md for what each group is for.
//
//go:embed seccomp.json
var seccompData []byte

type seccompList struct {
	Common       []string             `json:"common"`        // allowed at every level
	CommonArgs   []specs.LinuxSyscall `json:"common_args"`   // allowed at every level, if the arguments match
	ENOSYS       []string             `json:"enosys"`        // as if the kernel didn't know them, at every level
	Off          []string             `json:"off"`           // allowed at off
	Files        []string             `json:"files"`         // allowed at files
	SealedENOSYS []string             `json:"sealed_enosys"` // as if the kernel didn't know them, at files and strict
	StrictArgs   []specs.LinuxSyscall `json:"strict_args"`   // allowed at strict, if the arguments match
}

// seccomp is the filter of a level. It exists for x86-64 only: files and
// strict name exact calls and argument bits of that architecture.
func seccomp(level Level) (*specs.LinuxSeccomp, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fault.Errorf(fault.Unsupported, "seal at %s: the call filter exists for x86-64 only and this machine is %s; run it on an x86-64 machine", level, runtime.GOARCH)
	}
	var l seccompList
	if err := json.Unmarshal(seccompData, &l); err != nil {
		return nil, fault.Errorf(fault.Internal, "read the embedded list of calls: %w", err)
	}
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	f := &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: &eperm,
		Architectures:   []specs.Arch{specs.ArchX86_64},
	}
	allow := func(names []string) {
		f.Syscalls = append(f.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow})
	}
	allowArgs := func(rules []specs.LinuxSyscall) {
		for _, r := range rules {
			r.Action = specs.ActAllow
			f.Syscalls = append(f.Syscalls, r)
		}
	}
	unknown := func(names []string) {
		f.Syscalls = append(f.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: &enosys})
	}
	allow(l.Common)
	allowArgs(l.CommonArgs)
	unknown(l.ENOSYS)
	switch level {
	case executables.Off:
		f.Architectures = append(f.Architectures, specs.ArchX86, specs.ArchX32)
		allow(l.Off)
	case executables.Files:
		allow(l.Files)
		unknown(l.SealedENOSYS)
	case executables.Strict:
		allowArgs(l.StrictArgs)
		unknown(l.SealedENOSYS)
	}
	return f, nil
}
