package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// Dir is a store in a directory: a block is the file <id[0:2]>/<id>, or <id>
// as old stores have it. The path is taken from the URL as it is written,
// percent signs too, because that is what rfs does.
type Dir struct {
	root string
}

var _ Writer = (*Dir)(nil)

// OpenDir opens the store at dir:///path. The directory is made by the first
// Put.
func OpenDir(_ context.Context, url string) (Store, error) {
	path, ok := strings.CutPrefix(url, "dir://")
	if !ok || !filepath.IsAbs(path) {
		return nil, fault.Errorf(fault.Invalid, "open the store %.80q: it needs an absolute path: dir:///path", url)
	}
	return &Dir{root: filepath.Clean(path)}, nil
}

// OpenCache makes the directory, so that one that can't be is refused at once.
func OpenCache(dir string) (*Dir, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(abs, 0o755)
	}
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "use %s as the cache: %w", dir, err)
	}
	return &Dir{root: abs}, nil
}

func (d *Dir) path(id ID) string {
	name := id.String()
	return filepath.Join(d.root, name[:2], name)
}

// Get reads the file of the block.
func (d *Dir) Get(_ context.Context, id ID) ([]byte, error) {
	b, err := readBlock(d.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = readBlock(filepath.Join(d.root, id.String()))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.NotFound, "the block is not there")
	}
	return b, err
}

func readBlock(path string) ([]byte, error) {
	// A URL comes from the file, so the path may be anything: never wait for
	// a FIFO or a device.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fault.Errorf(fault.Invalid, "%s is not a regular file", path)
	}
	if st.Size() > maxStored {
		return nil, fault.Errorf(fault.Invalid, "%s has %d bytes, a block has at most %d", path, st.Size(), maxStored)
	}
	b := make([]byte, st.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "read %s: it changed meanwhile: %w", path, err)
	}
	return b, nil
}

// Put writes the file of the block, beside it first. A file with other bytes
// (rfs leaves such when it is killed) is replaced.
func (d *Dir) Put(_ context.Context, id ID, stored []byte) (bool, error) {
	path := d.path(id)
	if old, err := readBlock(path); err == nil && bytes.Equal(old, stored) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name()) // not there any more when all went well
	if _, err = f.Write(stored); err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return false, DiskFault(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return false, err
	}
	return true, nil
}

// Flush writes the file system of the directory to disk.
func (d *Dir) Flush(context.Context) error {
	f, err := os.Open(d.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was put
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return DiskFault(unix.Syncfs(int(f.Fd())))
}

// DiskFault gives an error of writing the kind Exhausted and the next step if
// the disk or quota is full.
func DiskFault(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.Errorf(fault.Exhausted, "no space is left; free some and run it again, it goes on where it stopped: %w", err)
	}
	return err
}
