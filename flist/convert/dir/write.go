package dir

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Report says what Write did and could not do.
type Report struct {
	Entries int               // names made
	Bytes   int64             // of contents
	Owners  int               // names whose owner could not be set
	Skipped []convert.Skipped // what else could not be made or set, in the order of the tree
}

// Write makes the tree at target, which must not exist or be an empty
// directory. After an error nothing of it is visible there. What the system
// doesn't permit or the file system can't hold is left out and reported; a
// set-user-id bit is never kept on a file whose owner could not be set.
func Write(ctx context.Context, target string, root *tree.Node, opts convert.WriteOptions) (*Report, error) {
	if err := root.Check(); err != nil {
		return nil, fault.Errorf(fault.Of(err), "write the directory %q: %w", target, err)
	}
	target, err := checkTarget(target)
	if err != nil {
		return nil, err
	}
	tmp, f, err := makePartial(target)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "write the directory %q: %w", target, err)
	}
	defer f.Close()
	e := &exporter{
		opts: opts, root: int(f.Fd()), report: new(Report),
		first: make(map[*tree.Node]string), links: root.Links(), total: convert.TotalBytes(root),
	}
	if err := e.export(ctx, tmp, root); err != nil {
		discard(tmp)
		return nil, fault.Errorf(fault.Of(err), "write the directory %q: %w", target, err)
	}
	if err := unix.Rename(tmp, target); err != nil {
		discard(tmp)
		switch {
		case errors.Is(err, unix.EBUSY):
			return nil, fault.Errorf(fault.Conflict, "write the directory %q: it is a mount point; name a new directory below it", target)
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTDIR):
			return nil, fault.Errorf(fault.Conflict, "write the directory %q: something else appeared there meanwhile; name another one", target)
		}
		return nil, fault.Errorf(fault.Of(err), "write the directory %q: %w", target, err)
	}
	opts.Progress.Report("write", e.total, e.total)
	return e.report, nil
}

// checkTarget makes target absolute with a real parent and refuses what must
// not be written over.
func checkTarget(target string) (string, error) {
	abs, err := filepath.Abs(target)
	if target == "" || err != nil || abs == "/" {
		return "", fault.Errorf(fault.Invalid, "write the directory %q: name a new directory", target)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", fault.Errorf(fault.Of(err), "write the directory %q: its parent: %w; make it first", target, err)
	}
	abs = filepath.Join(parent, filepath.Base(abs))
	st, err := os.Lstat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return abs, nil
	case err != nil:
		return "", fault.Errorf(fault.Of(err), "write the directory: %w", err)
	case !st.IsDir():
		return "", fault.Errorf(fault.Conflict, "write the directory %q: there is something that is not a directory; name another one", target)
	}
	names, err := os.ReadDir(abs)
	if err != nil {
		return "", fault.Errorf(fault.Of(err), "write the directory: %w", err)
	}
	if len(names) > 0 {
		return "", fault.Errorf(fault.Conflict, "write the directory %q: it is not empty; empty it or name a new one", target)
	}
	return abs, nil
}

// makePartial makes the hidden directory beside the target and locks it. What
// an export that died left there is removed.
func makePartial(target string) (string, *os.File, error) {
	parent, base := filepath.Split(target)
	prefix := "." + base[:min(len(base), 200)] + ".zos-partial-"
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", nil, err
	}
	for _, x := range entries {
		if !strings.HasPrefix(x.Name(), prefix) || !x.IsDir() {
			continue
		}
		old := filepath.Join(parent, x.Name())
		f, err := os.Open(old)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			discard(old)
		}
		f.Close()
	}
	var random [8]byte
	rand.Read(random[:])
	tmp := filepath.Join(parent, prefix+hex.EncodeToString(random[:]))
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return "", nil, err
	}
	fd, err := unix.Open(tmp, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		os.Remove(tmp)
		return "", nil, err
	}
	f := os.NewFile(uintptr(fd), tmp)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENOLCK) {
		f.Close()
		os.Remove(tmp)
		return "", nil, err
	}
	return tmp, f, nil
}

// discard removes a partial export, also one with directories that its owner
// may not enter.
func discard(tmp string) {
	if os.RemoveAll(tmp) == nil {
		return
	}
	_ = filepath.WalkDir(tmp, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(tmp) // what is left is hidden; the next export tries again
}

type exporter struct {
	opts   convert.WriteOptions
	root   int
	report *Report
	first  map[*tree.Node]string // first name of nodes with several
	links  map[*tree.Node]int
	done   int64
	total  int64
	buf    []byte
}

func (e *exporter) export(ctx context.Context, tmp string, root *tree.Node) error {
	e.buf = make([]byte, 256<<10)
	if err := e.entries(ctx, e.root, "", root); err != nil {
		return err
	}
	if err := e.finish(e.root, unix.AT_FDCWD, tmp, "", root); err != nil {
		return err
	}
	if err := unix.Syncfs(e.root); err != nil {
		return pathError("sync", "", err)
	}
	return nil
}

// skip notes that something could not be done; an error that isn't about what
// is permitted or possible comes back.
func (e *exporter) skip(op, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL):
		e.report.Skipped = append(e.report.Skipped, convert.Skipped{Path: path, Reason: op + ": " + err.Error()})
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fault.Errorf(fault.Exhausted, "%w; free space or name another disk", pathError(op, path, err))
	}
	return pathError(op, path, err)
}

// entries makes what the directory n holds in the open directory fd.
func (e *exporter) entries(ctx context.Context, fd int, path string, n *tree.Node) error {
	for _, x := range n.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := x.Name
		if path != "" {
			p = path + "/" + x.Name
		}
		if err := e.entry(ctx, fd, p, x.Name, x.Node); err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) entry(ctx context.Context, fd int, path, name string, n *tree.Node) error {
	e.report.Entries++
	if e.links[n] > 1 {
		if first, ok := e.first[n]; ok {
			return e.link(fd, path, name, first)
		}
	}
	made, err := true, error(nil)
	switch n.Type() {
	case tree.Directory:
		return e.directory(ctx, fd, path, name, n)
	case tree.Regular:
		err = e.regular(ctx, fd, path, name, n)
	case tree.Symlink:
		err = unix.Symlinkat(n.Target, fd, name)
	default:
		if err = unix.Mknodat(fd, name, n.Type()|0o600, int(unix.Mkdev(n.Major, n.Minor))); err != nil {
			made = false
			err = e.skip("mknod", path, err)
		}
	}
	if err != nil {
		return e.failed(path, err)
	}
	if !made {
		e.report.Entries--
		return nil
	}
	if e.links[n] > 1 {
		e.first[n] = path
	}
	if n.IsRegular() {
		return nil
	}
	return e.finish(-1, fd, name, path, n)
}

// failed gives an error of a system call its path.
func (e *exporter) failed(path string, err error) error {
	var errno unix.Errno
	var pe *os.PathError
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fault.Errorf(fault.Exhausted, "%q: %w; free space or name another disk", path, err)
	case errors.As(err, &errno) && !errors.As(err, &pe):
		return pathError("write", path, err)
	}
	return fault.Errorf(fault.Of(err), "%q: %w", path, err)
}

func (e *exporter) directory(ctx context.Context, fd int, path, name string, n *tree.Node) error {
	if err := unix.Mkdirat(fd, name, 0o700); err != nil {
		return e.failed(path, err)
	}
	sub, err := retry(func() (int, error) {
		return unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return e.failed(path, err)
	}
	defer unix.Close(sub)
	if err := e.entries(ctx, sub, path, n); err != nil {
		return err
	}
	return e.finish(sub, fd, name, path, n)
}

// link gives a file that exists one more name.
func (e *exporter) link(fd int, path, name, first string) error {
	dir, base := filepath.Split(first)
	from, err := openBeneath(e.root, strings.TrimSuffix(dir, "/"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return e.failed(path, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, base, fd, name, 0); err != nil {
		return e.failed(path, err)
	}
	return nil
}
