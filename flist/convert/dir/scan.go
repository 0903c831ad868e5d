package dir

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// batch is how many names one worker looks at before another may help.
const batch = 1024

// scanner walks a directory with several workers. Each task is a directory to
// list or a part of its names to look at.
type scanner struct {
	root   *os.File
	opts   convert.Options
	limits convert.Limits
	excl   *convert.Excluder
	dev    uint64
	checks bool // look whether files can be read

	mu       sync.Mutex
	wake     *sync.Cond
	tasks    []func() error
	running  int
	err      error
	links    map[inode]*tree.Node
	skipped  []convert.Skipped
	entries  int
	told     int
	metadata int64
}

type inode struct{ dev, ino uint64 }

// folder is a directory of the source; files keep it to find themselves again.
type folder struct {
	parent *folder
	name   string
	node   *tree.Node
}

func (f *folder) path() string {
	if f.parent == nil {
		return ""
	}
	return f.parent.child(f.name)
}

func (f *folder) child(name string) string {
	if p := f.path(); p != "" {
		return p + "/" + name
	}
	return name
}

func (f *folder) names(last string) []string {
	var ns []string
	if f.parent != nil {
		ns = f.parent.names(f.name)
	}
	return append(ns, last)
}

func (s *scanner) scan(ctx context.Context) (*tree.Node, error) {
	s.wake = sync.NewCond(&s.mu)
	s.links = make(map[inode]*tree.Node)
	s.checks = os.Geteuid() != 0
	var st unix.Stat_t
	if err := unix.Fstat(int(s.root.Fd()), &st); err != nil {
		return nil, fault.Errorf(fault.Of(err), "look at it: %w", err)
	}
	s.dev = st.Dev
	node := attributes(&st)
	xs, err := readXattrs(procPath(int(s.root.Fd()), "."))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read its attributes: %w", err)
	}
	node.Xattrs = xs
	root := &folder{node: node}
	s.push(func() error { return s.list(ctx, root) })
	var wg sync.WaitGroup
	for range min(2*runtime.GOMAXPROCS(0), 16) {
		wg.Go(func() { s.work(ctx) })
	}
	wg.Wait()
	s.opts.Progress.Report("scan", int64(s.entries), 0)
	return node, s.err
}

func (s *scanner) push(task func() error) {
	s.mu.Lock()
	s.tasks = append(s.tasks, task)
	s.mu.Unlock()
	s.wake.Signal()
}

// work runs tasks until none is left or one had an error.
func (s *scanner) work(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.tasks) == 0 && s.running > 0 && s.err == nil {
			s.wake.Wait()
		}
		if len(s.tasks) == 0 || s.err != nil {
			s.wake.Broadcast()
			return
		}
		task := s.tasks[len(s.tasks)-1]
		s.tasks = s.tasks[:len(s.tasks)-1]
		s.running++
		s.mu.Unlock()
		err := ctx.Err()
		if err == nil {
			err = task()
		}
		s.mu.Lock()
		s.running--
		if err != nil && s.err == nil {
			s.err = err
		}
	}
}

// list reads the names of a directory and hands them out.
func (s *scanner) list(ctx context.Context, dir *folder) error {
	fd, err := openBeneath(int(s.root.Fd()), dir.path(), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return s.unreadable(dir.path(), "open", err)
	}
	f := os.NewFile(uintptr(fd), dir.path())
	var names []string
	for {
		more, err := f.Readdirnames(16 << 10)
		names = append(names, more...)
		if err == io.EOF {
			break
		}
		if err != nil {
			f.Close()
			return s.unreadable(dir.path(), "list", errors.Unwrap(err))
		}
		if len(names) > s.limits.Entries {
			f.Close()
			return s.tooMany()
		}
	}
	slices.Sort(names)
	job := &listing{s: s, dir: dir, f: f, entries: make([]tree.Entry, len(names))}
	job.parts = (len(names) + batch - 1) / batch
	if job.parts == 0 {
		return f.Close()
	}
	for i, at := 0, 0; at < len(names); i, at = i+1, at+batch {
		lo, hi := at, min(at+batch, len(names))
		part := func() error { return job.look(ctx, names[lo:hi], job.entries[lo:hi]) }
		if hi == len(names) {
			return part()
		}
		s.push(part)
	}
	return nil
}

// listing is a directory whose names are looked at in parts.
type listing struct {
	s       *scanner
	dir     *folder
	f       *os.File
	entries []tree.Entry

	mu    sync.Mutex
	parts int
}

// look fills the entries of some names. The last part finishes the directory.
func (l *listing) look(ctx context.Context, names []string, out []tree.Entry) error {
	for i, name := range names {
		if l.s.excl.Active() && l.s.excl.Match(l.dir.names(name)) {
			continue
		}
		n, err := l.s.entry(ctx, l, name)
		if err != nil {
			return err
		}
		out[i] = tree.Entry{Name: name, Node: n}
	}
	l.mu.Lock()
	l.parts--
	last := l.parts == 0
	l.mu.Unlock()
	if !last {
		return nil
	}
	l.dir.node.Entries = slices.DeleteFunc(l.entries, func(e tree.Entry) bool { return e.Node == nil })
	return l.f.Close()
}

// entry is the inode of one name; nil if it is left out.
func (s *scanner) entry(ctx context.Context, l *listing, name string) (*tree.Node, error) {
	fd := int(l.f.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, s.unreadable(l.dir.child(name), "lstat", err)
	}
	if err := s.account(len(name)); err != nil {
		return nil, err
	}
	shared := st.Nlink > 1 && st.Mode&tree.TypeMask != tree.Directory
	if shared {
		s.mu.Lock()
		n := s.links[inode{st.Dev, st.Ino}]
		s.mu.Unlock()
		if n != nil {
			return n, nil
		}
	}
	n := attributes(&st)
	switch n.Type() {
	case tree.Symlink:
		target, err := readlink(fd, name)
		if err != nil {
			return nil, s.unreadable(l.dir.child(name), "readlink", err)
		}
		n.Target = target
	case tree.Regular:
		if s.checks {
			if err := unix.Faccessat(fd, name, unix.R_OK, unix.AT_EACCESS); err != nil {
				return nil, s.unreadable(l.dir.child(name), "open", err)
			}
		}
		if n.Size > 0 {
			n.Content = &file{root: s.root, dir: l.dir, name: name, stamp: stampOf(&st)}
		}
	}
	xs, err := readXattrs(procPath(fd, name))
	if err != nil {
		return nil, s.unreadable(l.dir.child(name), "listxattr", err)
	}
	n.Xattrs = xs
	if len(xs) > 0 || n.Target != "" {
		sum := len(n.Target)
		for _, x := range xs {
			sum += len(x.Name) + len(x.Value)
		}
		if err := s.accountBytes(sum); err != nil {
			return nil, err
		}
	}
	if shared {
		s.mu.Lock()
		defer s.mu.Unlock()
		if first := s.links[inode{st.Dev, st.Ino}]; first != nil {
			return first, nil
		}
		s.links[inode{st.Dev, st.Ino}] = n
	}
	if n.IsDir() && (!s.opts.OneFileSystem || st.Dev == s.dev) {
		sub := &folder{parent: l.dir, name: name, node: n}
		s.push(func() error { return s.list(ctx, sub) })
	}
	return n, nil
}

func readlink(fd int, name string) (string, error) {
	for size := 256; size <= 2*tree.MaxTarget+2; size *= 2 {
		buf := make([]byte, size)
		k, err := unix.Readlinkat(fd, name, buf)
		if err != nil || k < size {
			return string(buf[:max(k, 0)]), err
		}
	}
	return "", unix.ENAMETOOLONG
}

// attributes are the fields lstat has.
func attributes(st *unix.Stat_t) *tree.Node {
	n := &tree.Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}
	switch n.Type() {
	case tree.Regular:
		n.Size = st.Size
	case tree.Char, tree.Block:
		n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return n
}

func (s *scanner) account(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries++
	s.metadata += int64(n)
	if s.entries > s.limits.Entries {
		return s.tooMany()
	}
	if s.entries-s.told >= 4096 {
		s.told = s.entries
		s.opts.Progress.Report("scan", int64(s.entries), 0)
	}
	return nil
}

func (s *scanner) accountBytes(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.metadata += int64(n); s.metadata > s.limits.Metadata {
		return fault.Errorf(fault.Exhausted, "names, link targets and attributes have more than %d bytes in all; split the image or raise the limit", s.limits.Metadata)
	}
	return nil
}

func (s *scanner) tooMany() error {
	return fault.Errorf(fault.Exhausted, "more than %d entries in all; split the image or raise the limit", s.limits.Entries)
}

// unreadable ends the scan or, if that was asked for, leaves the path out.
func (s *scanner) unreadable(path, op string, err error) error {
	if s.opts.SkipUnreadable && path != "" {
		s.mu.Lock()
		s.skipped = append(s.skipped, convert.Skipped{Path: path, Reason: op + ": " + err.Error()})
		s.mu.Unlock()
		return nil
	}
	if errors.Is(err, unix.ENOENT) {
		return fault.Errorf(fault.Conflict, "%w: it vanished during the scan; stop what writes there, or leave such files out with --skip-unreadable", pathError(op, path, err))
	}
	return fault.Errorf(fault.Of(err), "%w; run as a user who may read it, or leave such files out with --skip-unreadable", pathError(op, path, err))
}
