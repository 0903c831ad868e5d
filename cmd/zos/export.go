package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"zos.internal/flist"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/dir"
	"zos.internal/flist/convert/tar"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// exportTar writes a tar that appears at path when it is whole. A path that is
// no regular file, such as a pipe, is written to.
func (a *app) exportTar(ctx context.Context, img *flist.Image, path string, w convert.WriteOptions) error {
	if path == "-" {
		return tar.Write(ctx, a.stdout, img.Tree, w)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return fault.Errorf(fault.Of(err), "export: %w", err)
		}
		return errors.Join(tar.Write(ctx, f, img.Tree, w), f.Close())
	}
	f, name, err := nameless(path)
	if err != nil {
		return fault.Errorf(fault.Of(err), "export: %w; choose another target", err)
	}
	defer f.Close()
	if name != "" {
		defer os.Remove(name)
	}
	if err := tar.Write(ctx, f, img.Tree, w); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Chmod(0o644)); err != nil {
		return fault.Errorf(fault.Of(err), "export to %s: %w", path, err)
	}
	if name == "" {
		// The file can't get a name that is taken, so it gets one for an instant.
		name = filepath.Join(dirOf(path), fmt.Sprintf(".export-%d", os.Getpid()))
		os.Remove(name)
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
			return fault.Errorf(fault.Of(err), "export to %s: %w", path, err)
		}
		defer os.Remove(name)
	}
	if err := os.Rename(name, path); err != nil {
		return fault.Errorf(fault.Of(err), "export: %w", err)
	}
	return nil
}

// nameless makes a file beside path that vanishes if this process dies, or
// where the file system has no such files a temporary one with a name.
func nameless(path string) (f *os.File, name string, err error) {
	fd, err := unix.Open(dirOf(path), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), path), "", nil
	}
	if f, err = os.CreateTemp(dirOf(path), ".export-*"); err != nil {
		return nil, "", err
	}
	return f, f.Name(), nil
}

// writeDir writes a tree as a directory and says what could not be kept.
func (a *app) writeDir(ctx context.Context, path string, root *tree.Node, w convert.WriteOptions) (lost int, err error) {
	rep, err := dir.Write(ctx, path, root, w)
	if err != nil {
		return 0, err
	}
	for _, s := range rep.Skipped {
		a.note("not kept: %s: %s", printable(s.Path), s.Reason)
	}
	if rep.Owners > 0 {
		a.note("not kept: the owners of %d files; run it as root", rep.Owners)
	}
	return len(rep.Skipped) + rep.Owners, nil
}
