// Package kernel boots Debian 13's kernel, the one of the nodes, in an
// emulator with one Go program as its whole user space, so that what depends
// on the kernel is proved on that kernel and not only on the developer's.
//
// It needs qemu-system-x86_64 and apt; it needs neither KVM nor root, and
// installs nothing. The kernel is kept below the user's cache directory, or
// below ZOS_CACHE.
//
//	k, err := kernel.Fetch(ctx, cacheDir, fetchScript)
//	initramfs, err := k.Initramfs(guest, "erofs", "overlay", "loop")
//	err = k.Boot(ctx, initramfs, os.Stdout)
package kernel

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"

	"zos.internal/internal/fault"
)

// Kernel is a fetched kernel: vmlinuz and modules in a directory.
type Kernel struct {
	Dir     string
	Version string
}

// Fetch downloads the kernel unless dir has it. script is fetch.sh of this
// directory. Unavailable says why it can't be had.
func Fetch(ctx context.Context, dir, script string) (*Kernel, error) {
	out, err := exec.CommandContext(ctx, "sh", script, dir).CombinedOutput()
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "fetch Debian's kernel: %w: %s", err, bytes.TrimSpace(out))
	}
	v, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read the kernel's version: %w", err)
	}
	return &Kernel{dir, strings.TrimSpace(string(v))}, nil
}

// Initramfs packs the program at init and the named modules with all they
// depend on. A module that the kernel has built in may be named.
func (k *Kernel) Initramfs(init string, modules ...string) ([]byte, error) {
	program, err := os.ReadFile(init)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read the guest program: %w", err)
	}
	var a archive
	for _, d := range []string{"dev", "modules", "proc", "run", "sys", "tmp"} {
		a.add(d, 0o040755, nil)
	}
	a.add("init", 0o100755, program)
	loaded, err := k.order(modules)
	if err != nil {
		return nil, err
	}
	for i, m := range loaded {
		// The guest loads them in the order of their names.
		a.add(fmt.Sprintf("modules/%02d-%s.ko", i, m.name), 0o100644, m.bytes)
	}
	return a.bytes(), nil
}

type module struct {
	name  string
	bytes []byte
}

// order returns modules so that each comes after those it depends on.
func (k *Kernel) order(names []string) ([]module, error) {
	var out []module
	var visit func(name string, path []string) error
	visit = func(name string, path []string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if slices.ContainsFunc(out, func(m module) bool { return m.name == name }) {
			return nil
		}
		if slices.Contains(path, name) {
			return fault.Errorf(fault.Invalid, "order the kernel's modules: %s depends on itself", name)
		}
		b, err := k.module(name)
		if err != nil || b == nil {
			return err
		}
		deps, err := depends(b)
		if err != nil {
			return fault.Errorf(fault.Of(err), "read module %s: %w", name, err)
		}
		for _, d := range deps {
			if err := visit(d, append(path, name)); err != nil {
				return err
			}
		}
		out = append(out, module{name, b})
		return nil
	}
	for _, n := range names {
		if err := visit(n, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// module is the uncompressed module, or nil if there is no file of it: then it
// is part of the kernel.
func (k *Kernel) module(name string) ([]byte, error) {
	files, err := os.ReadDir(filepath.Join(k.Dir, "modules"))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "list the kernel's modules: %w", err)
	}
	for _, f := range files {
		base, ext, _ := strings.Cut(f.Name(), ".")
		if strings.ReplaceAll(base, "-", "_") != name {
			continue
		}
		b, err := os.ReadFile(filepath.Join(k.Dir, "modules", f.Name()))
		if err != nil || ext == "ko" {
			return b, err
		}
		r, err := xz.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "unpack module %s: %w", name, err)
		}
		b, err = io.ReadAll(r)
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "unpack module %s: %w", name, err)
		}
		return b, nil
	}
	return nil, nil
}

// depends reads the names that a module says it needs.
func depends(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fault.Errorf(fault.Invalid, "it has no .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// Boot runs the kernel with the initramfs until it switches off; what the
// console shows goes to w. Emulated without KVM a boot takes some 10 s.
func (k *Kernel) Boot(ctx context.Context, initramfs []byte, w io.Writer) error {
	dir, err := os.MkdirTemp("", "zos-kernel-")
	if err != nil {
		return fault.Errorf(fault.Of(err), "make a directory for the machine: %w", err)
	}
	defer os.RemoveAll(dir)
	rd := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(rd, initramfs, 0o600); err != nil {
		return fault.Errorf(fault.Of(err), "write the initramfs: %w", err)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024",
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio",
		"-kernel", filepath.Join(k.Dir, "vmlinuz"), "-initrd", rd,
		"-append", "console=ttyS0 quiet panic=-1 loglevel=4")
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Run(); err != nil {
		return fault.Errorf(fault.Internal, "run the emulated machine: %w", err)
	}
	return nil
}

// archive is a cpio archive in the kernel's format "newc".
type archive struct {
	buf bytes.Buffer
	ino int
}

func (a *archive) add(name string, mode uint32, data []byte) {
	a.ino++
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.buf.WriteString(name + "\x00")
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *archive) pad() { a.buf.Write(make([]byte, -a.buf.Len()&3)) }

func (a *archive) bytes() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}
