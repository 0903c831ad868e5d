// Package dir reads a directory into a file tree and writes trees into
// directories.
//
// Read takes everything lstat and listxattr show: modes, owners, times in
// nanoseconds, attributes with capabilities and ACLs, hard links, devices,
// FIFOs, sockets, names of any bytes. Contents stay where they are and are
// opened again when they are needed; a file that was changed, replaced or
// removed in between is an error that names it, never a mixture. Symlinks are
// never followed below the directory.
//
// Write makes the directory under a name that nobody sees and renames it at
// the end, so that an interrupted export leaves nothing at the target; the next
// one removes what it left. What the caller may not do (owners and devices as
// a user, attributes the file system can't hold) is left out and reported.
//
//	res, err := dir.Read(ctx, "/srv/root", convert.Options{OneFileSystem: true})
//	if err != nil {
//		return err
//	}
//	defer res.Close()
//	report, err := dir.Write(ctx, "/srv/copy", res.Root, convert.WriteOptions{})
package dir

import (
	"cmp"
	"context"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"zos.internal/flist/convert"
	"zos.internal/internal/fault"
)

var _ convert.Opener = Read

// Read scans the directory at path, which may itself be a symlink to one.
// Limits.Bytes and Limits.Free don't apply, since nothing is copied. The
// progress has the phase "scan" and counts entries.
func Read(ctx context.Context, path string, opts convert.Options) (*convert.Result, error) {
	excl, err := convert.NewExcluder(opts.Exclude)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read the directory: %w", err)
	}
	res := &convert.Result{Source: "dir"}
	res.OnClose(f)
	s := &scanner{root: f, opts: opts, limits: opts.Limits.WithDefaults(), excl: excl}
	root, err := s.scan(ctx)
	if err != nil {
		res.Close()
		return nil, fault.Errorf(fault.Of(err), "directory %q: %w", path, err)
	}
	res.Root, res.Skipped = root, s.skipped
	slices.SortFunc(res.Skipped, func(a, b convert.Skipped) int { return cmp.Compare(a.Path, b.Path) })
	opts.Exclude = nil // done on the way
	return convert.Finish(res, opts)
}
