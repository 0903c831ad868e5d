package convert

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

const (
	spoolBlock = 4 << 10   // zero blocks of this size become holes
	spoolAlign = 64 << 10  // contents of at least this size start at a block
	spoolBuf   = 256 << 10 // bytes copied at a time
	freeEvery  = 32 << 20  // bytes written between two looks at the free space
)

// Spool keeps contents in one file without a name until it is closed. Blocks
// of zeros take no space. It holds at most Limits.Bytes (counting the zeros)
// and stops before the disk has less than Limits.Free bytes left. It is safe
// for concurrent use.
type Spool struct {
	f      *os.File
	limits Limits

	mu      sync.Mutex
	end     int64 // next free offset
	total   int64 // apparent bytes taken so far
	written int64 // bytes written since the free space was looked at
}

// NewSpool makes a spool in dir (empty: $TMPDIR, else /var/tmp, else /tmp).
func NewSpool(dir string, limits Limits) (*Spool, error) {
	if dir == "" {
		dir = spoolDir()
	}
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		if f, err = os.CreateTemp(dir, "zos-spool-"); err != nil {
			return nil, fault.Errorf(fault.Of(err), "make a temporary file in %s: %w; choose another directory with TMPDIR", dir, err)
		}
		if err := os.Remove(f.Name()); err != nil {
			f.Close()
			return nil, fault.Errorf(fault.Of(err), "remove the name of a temporary file: %w", err)
		}
	}
	return &Spool{f: f, limits: limits.WithDefaults(), written: freeEvery}, nil
}

func spoolDir() string {
	dir := os.TempDir()
	if _, err := os.Stat("/var/tmp"); err == nil && dir == "/tmp" {
		return "/var/tmp" // /tmp is often memory
	}
	return dir
}

// Blob is one content in a spool.
type Blob struct {
	s    *Spool
	off  int64
	size int64
}

var _ tree.Content = (*Blob)(nil)

// Size is the length in bytes.
func (b *Blob) Size() int64 { return b.size }

// Open reads the blob from its start. Any number of readers may be open.
func (b *Blob) Open() (io.ReadCloser, error) {
	return blobReader{io.NewSectionReader(b.s.f, b.off, b.size)}, nil
}

type blobReader struct{ *io.SectionReader }

func (blobReader) Close() error { return nil }

// Add copies exactly size bytes of r. A reader that ends early is Invalid, a
// limit that is reached Exhausted. It doesn't read beyond size.
func (s *Spool) Add(ctx context.Context, r io.Reader, size int64) (*Blob, error) {
	b, err := s.reserve(size)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, min(spoolBuf, max(size, 1)))
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p := buf[:min(int64(len(buf)), size-done)]
		if n, err := io.ReadFull(r, p); err != nil {
			if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, fault.Errorf(fault.Invalid, "the content ends after %d of %d bytes: %w", done+int64(n), size, io.ErrUnexpectedEOF)
			}
			return nil, err
		}
		if err := s.write(p, b.off+done); err != nil {
			return nil, err
		}
		done += int64(len(p))
	}
	return b, nil
}

func (s *Spool) reserve(size int64) (*Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size < 0 || size > s.limits.Bytes-s.total {
		return nil, fault.Errorf(fault.Exhausted, "the contents have more than %d bytes in all; split the image or raise the limit", s.limits.Bytes)
	}
	if size >= spoolAlign {
		s.end = (s.end + spoolBlock - 1) / spoolBlock * spoolBlock
	}
	b := &Blob{s: s, off: s.end, size: size}
	s.end += size
	s.total += size
	// The file always reaches to the end, so that a tail of zeros can be read.
	if size >= spoolAlign {
		if err := s.f.Truncate(s.end); err != nil {
			return nil, spoolError(err)
		}
	}
	return b, nil
}

var zeroBlock [spoolBlock]byte

// write puts the blocks of p that are not zero at off.
func (s *Spool) write(p []byte, off int64) error {
	start := 0
	flush := func(end int) error {
		if start == end {
			return nil
		}
		if err := s.room(int64(end - start)); err != nil {
			return err
		}
		_, err := s.f.WriteAt(p[start:end], off+int64(start))
		return spoolError(err)
	}
	if len(p) >= spoolAlign {
		for i := 0; i+spoolBlock <= len(p); i += spoolBlock {
			if bytes.Equal(p[i:i+spoolBlock], zeroBlock[:]) {
				if err := flush(i); err != nil {
					return err
				}
				start = i + spoolBlock
			}
		}
	}
	return flush(len(p))
}

// room notices a disk that gets full before others do.
func (s *Spool) room(n int64) error {
	s.mu.Lock()
	s.written += n
	look := s.written >= freeEvery
	if look {
		s.written = 0
	}
	s.mu.Unlock()
	if !look {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.f.Fd()), &st); err != nil {
		return nil // no reason to stop; the write itself will tell
	}
	if free := int64(st.Bavail) * st.Bsize; st.Blocks > 0 && free < s.limits.Free+n {
		return fault.Errorf(fault.Exhausted, "the disk of the temporary file has %d bytes free and %d must stay free; free space or choose another directory with TMPDIR", free, s.limits.Free)
	}
	return nil
}

func spoolError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return fault.Errorf(fault.Exhausted, "write the temporary file: %w; free space or choose another directory with TMPDIR", err)
	}
	return fault.Errorf(fault.Internal, "write the temporary file: %w", err)
}

// Drop gives the disk space of b back; it must not be opened any more. The
// bytes still count towards the limit.
func (s *Spool) Drop(b *Blob) {
	if b == nil || b.size < spoolAlign {
		return
	}
	// A file system without holes keeps the space until Close.
	_ = unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, b.off, b.size)
}

// Usage is the apparent bytes that were added and the bytes on disk.
func (s *Spool) Usage() (apparent, disk int64) {
	s.mu.Lock()
	apparent = s.total
	s.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Fstat(int(s.f.Fd()), &st); err == nil {
		disk = st.Blocks * 512
	}
	return apparent, disk
}

// Close frees the disk space.
func (s *Spool) Close() error {
	if err := s.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
