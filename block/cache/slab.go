package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// slab is one file of slots. It is opened at its first use.
type slab struct {
	id   uint16
	path string
	size int64

	// Guarded by Cache.mu.
	used int    // pages of placed slots
	gen  uint32 // changes whenever a slot is given up

	mu       sync.Mutex
	file     *os.File
	readOnly bool
	gone     bool
	buffered atomic.Bool // the file system refuses direct I/O
}

func (c *Cache) slabPath(id uint16) string {
	return filepath.Join(c.dir, fmt.Sprintf("slab-%04x", id))
}

func (c *Cache) newSlab(id uint16) *slab {
	return &slab{id: id, path: c.slabPath(id), size: c.opt.SlabSize}
}

// open returns the file, for reading and, if the disk allows it, writing.
func (s *slab) open(create bool) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, os.ErrNotExist
	}
	if s.file != nil && !(create && s.readOnly) {
		return s.file, nil
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := s.openDirect(flags)
	readOnly := !create && (errors.Is(err, unix.EROFS) || errors.Is(err, os.ErrPermission))
	if readOnly {
		f, err = s.openDirect(os.O_RDONLY)
	}
	if err != nil {
		return nil, err
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.readOnly = f, readOnly
	return f, nil
}

func (s *slab) openDirect(flags int) (*os.File, error) {
	if !s.buffered.Load() {
		f, err := os.OpenFile(s.path, flags|syscall.O_DIRECT, 0o600)
		if !errors.Is(err, unix.EINVAL) {
			return f, err
		}
		s.buffered.Store(true)
	}
	return os.OpenFile(s.path, flags, 0o600)
}

// reopen closes the file; its next use opens it anew, through the page cache if
// buffered.
func (s *slab) reopen(buffered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffered.Store(s.buffered.Load() || buffered)
	s.readOnly = false
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// readAt fills b, whose address, length and offset are multiples of a page.
// Fewer bytes are io.ErrUnexpectedEOF.
func (s *slab) readAt(b []byte, off int64) error {
	for {
		f, err := s.open(false)
		if err != nil {
			return err
		}
		_, err = f.ReadAt(b, off)
		switch {
		case errors.Is(err, unix.EINVAL) && !s.buffered.Load():
			s.reopen(true)
		case errors.Is(err, os.ErrClosed): // another goroutine reopens it, or it is gone
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
}

// writeAt writes b, aligned like readAt's.
func (s *slab) writeAt(b []byte, off int64) error {
	f, err := s.open(true)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	if errors.Is(err, unix.EINVAL) && !s.buffered.Load() {
		s.reopen(true)
		if f, err = s.open(true); err == nil {
			_, err = f.WriteAt(b, off)
		}
	}
	return err
}

// grow gives a new or shortened file its whole size, without blocks.
func (s *slab) grow() error {
	f, err := s.open(true)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() >= s.size {
		return err
	}
	return f.Truncate(s.size)
}

// punch gives the blocks of a range back to the file system.
func (s *slab) punch(off, n int64) error {
	f, err := s.open(false)
	if err != nil {
		return err
	}
	return punch(f, off, n)
}

func punch(f *os.File, off, n int64) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = rc.Control(func(fd uintptr) {
		perr = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if err == nil {
		err = perr
	}
	return err
}

func (s *slab) sync() error {
	f, err := s.open(false)
	if err != nil {
		return err
	}
	return datasync(f)
}

func (s *slab) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

func datasync(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		for {
			if serr = unix.Fdatasync(int(fd)); serr != unix.EINTR {
				return
			}
		}
	})
	if err == nil {
		err = serr
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
