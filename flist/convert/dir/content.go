package dir

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// stamp is what tells that a file is still the one that was scanned.
type stamp struct {
	dev, ino uint64
	size     int64
	mtime    unix.Timespec
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim}
}

// file is the content of a regular file that stays in the source.
type file struct {
	root  *os.File
	dir   *folder
	name  string
	stamp stamp
}

var _ tree.Content = (*file)(nil)

// Open opens the file that was scanned; another one at its path is a Conflict.
func (f *file) Open() (io.ReadCloser, error) {
	path := f.dir.child(f.name)
	// Without O_NONBLOCK a FIFO in its place would wait for a writer.
	fd, err := openBeneath(int(f.root.Fd()), path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENXIO) {
			return nil, fault.Errorf(fault.Conflict, "%w: it vanished or was replaced after the scan; stop what writes there and build again", pathError("open", path, err))
		}
		return nil, fault.Errorf(fault.Of(err), "%w", pathError("open", path, err))
	}
	r := &reader{f: f, file: os.NewFile(uintptr(fd), path)}
	if err := r.check(); err != nil {
		r.file.Close()
		return nil, err
	}
	return r, nil
}

// reader delivers the bytes and looks at the end whether they are of one file.
// Holes are not read.
type reader struct {
	f      *file
	file   *os.File
	n      int64 // bytes delivered
	sparse bool
	hole   int64 // zeros up to here
	data   int64 // written bytes up to here
}

func (r *reader) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(r.file.Fd()), &st); err != nil {
		return fault.Errorf(fault.Of(err), "%w", pathError("stat", r.f.dir.child(r.f.name), err))
	}
	if st.Mode&tree.TypeMask != tree.Regular || stampOf(&st) != r.f.stamp {
		return fault.Errorf(fault.Conflict, "read %q: the file changed after the scan; stop what writes there and build again", r.f.dir.child(r.f.name))
	}
	r.sparse = st.Blocks*512 < st.Size
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.next(p)
	r.n += int64(n)
	if err != nil && err != io.EOF {
		return n, fault.Errorf(fault.Unavailable, "%w; check the disk", err)
	}
	if err == io.EOF || r.n >= r.f.stamp.size && n > 0 {
		if err := r.check(); err != nil {
			return n, err
		}
		if r.n != r.f.stamp.size && err == io.EOF {
			return n, fault.Errorf(fault.Conflict, "read %q: %d bytes where it had %d; stop what writes there and build again", r.f.dir.child(r.f.name), r.n, r.f.stamp.size)
		}
	}
	return n, err
}

// next delivers a part of a hole or of what is written.
func (r *reader) next(p []byte) (int, error) {
	if r.sparse && r.n >= r.hole && r.n >= r.data && r.n < r.f.stamp.size {
		r.seek()
	}
	if r.n < r.hole {
		n := int(min(int64(len(p)), r.hole-r.n))
		clear(p[:n])
		return n, nil
	}
	if r.n < r.data {
		p = p[:min(int64(len(p)), r.data-r.n)]
	}
	n, err := r.file.ReadAt(p, r.n)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// seek finds out what is at the current offset. Where the file system can't
// tell, everything is read.
func (r *reader) seek() {
	fd := int(r.file.Fd())
	size := r.f.stamp.size
	data, err := unix.Seek(fd, r.n, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		data, err = size, nil
	}
	if err == nil && data > r.n {
		r.hole = min(data, size)
		return
	}
	if err == nil {
		r.data, err = unix.Seek(fd, r.n, unix.SEEK_HOLE)
	}
	r.sparse = err == nil
}

func (r *reader) Close() error { return r.file.Close() }
