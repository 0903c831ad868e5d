package block

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"zos.internal/internal/fault"
)

// Dir is a Bucket that keeps each key as a file of that path below a directory,
// so that any static file server can publish it. A file appears whole and
// durable: it is written under .tmp, synced and renamed, and its directory is
// synced. Files that a killed writer left under .tmp are removed by the next
// program that writes.
//
// Dir is safe for concurrent use, also by several processes. A key can't be
// both a file and the start of another key: that is a Conflict.
type Dir struct {
	path  string
	clean sync.Once
}

var _ Bucket = (*Dir)(nil)

const dirTemp = ".tmp"

// OpenDir returns the bucket below path, which is made by the first Write.
func OpenDir(path string) *Dir { return &Dir{path: path} }

func (d *Dir) file(key string) string { return filepath.Join(d.path, filepath.FromSlash(key)) }

// open opens the regular file at key and gives its size.
func (d *Dir) open(key string) (*os.File, int64, error) {
	f, err := os.OpenFile(d.file(key), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, d.err("open", key, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, 0, d.err("open", key, err)
	}
	return f, st.Size(), nil
}

// Read implements Bucket.
func (d *Dir) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	if err := checkRange(key, off, size); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fault.As(fault.Unavailable, err)
	}
	f, have, err := d.open(key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	off = min(off, have)
	b := make([]byte, min(size, have-off))
	n, err := f.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return nil, d.err("read", key, err)
	}
	return b[:n], nil
}

// Write implements Bucket.
func (d *Dir) Write(ctx context.Context, key string, r io.Reader) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	dst := d.file(key)
	if err := mkdirs(filepath.Dir(dst)); err != nil {
		return d.err("write", key, err)
	}
	f, err := d.temp()
	if err != nil {
		return d.err("write", key, err)
	}
	defer f.Close()
	_, err = io.Copy(f, ctxReader{ctx, r})
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), dst)
	}
	if err != nil {
		os.Remove(f.Name())
		return d.err("write", key, err)
	}
	if err := syncDir(filepath.Dir(dst)); err != nil {
		return d.err("write", key, err)
	}
	return nil
}

// temp makes a locked temporary file. The lock tells a cleaner that its writer
// lives; a file that a cleaner took in the moment before is made again.
func (d *Dir) temp() (*os.File, error) {
	dir := filepath.Join(d.path, dirTemp)
	if err := mkdirs(dir); err != nil {
		return nil, err
	}
	d.clean.Do(func() { cleanTemp(dir) })
	for {
		f, err := os.CreateTemp(dir, "w-*")
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			if _, err = os.Lstat(f.Name()); err == nil {
				return f, f.Chmod(0o644)
			}
		}
		f.Close()
		os.Remove(f.Name())
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// cleanTemp removes the temporary files that no living writer has locked. What
// it can't remove stays; it only takes room.
func cleanTemp(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, "w-*"))
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.Remove(name)
		}
		f.Close()
	}
}

// Stat implements Bucket.
func (d *Dir) Stat(ctx context.Context, key string) (int64, error) {
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	st, err := os.Lstat(d.file(key))
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, d.err("stat", key, err)
	}
	return st.Size(), nil
}

// List implements Bucket.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := CheckPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		d.walk(ctx, "", prefix, yield)
	}
}

// walk yields the keys below the directory dir ("" or "a/b/") in the order of
// their bytes. For that a directory sorts as its name with a slash.
func (d *Dir) walk(ctx context.Context, dir, prefix string, yield func(string, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield("", fault.As(fault.Unavailable, err))
		return false
	}
	entries, err := os.ReadDir(d.file(dir))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return true
		}
		yield("", d.err("list", dir, err))
		return false
	}
	var names []string
	for _, e := range entries {
		name := dir + e.Name()
		if CheckKey(name) != nil {
			continue
		}
		if e.IsDir() {
			name += "/"
			if !strings.HasPrefix(name, prefix) && !strings.HasPrefix(prefix, name) {
				continue
			}
		} else if !e.Type().IsRegular() || !strings.HasPrefix(name, prefix) {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			if !d.walk(ctx, name, prefix, yield) {
				return false
			}
		} else if !yield(name, nil) {
			return false
		}
	}
	return true
}

// Delete implements Bucket. Directories that become empty stay.
func (d *Dir) Delete(ctx context.Context, key string) error {
	if _, err := d.Stat(ctx, key); err != nil {
		if fault.Of(err) == fault.NotFound {
			return nil
		}
		return err
	}
	err := os.Remove(d.file(key))
	if err == nil {
		err = syncDir(filepath.Dir(d.file(key)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.err("delete", key, err)
	}
	return nil
}

// err gives err its kind and says what happened to which key.
func (d *Dir) err(verb, key string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), verb != "write" && (errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)):
		return fault.Errorf(fault.NotFound, "%s %s in %s: it is not there", verb, key, d.path)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Errorf(fault.Exhausted, "%s %s in %s: the disk is full; free some space: %w", verb, key, d.path, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		return fault.Errorf(fault.Conflict, "%s %s in %s: another key is its start, or it is the start of another; choose another key: %w", verb, key, d.path, err)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fault.Errorf(fault.Unavailable, "%s %s in %s: %w", verb, key, d.path, err)
	}
	return fault.Errorf(fault.Of(err), "%s %s in %s: %w", verb, key, d.path, err)
}

// mkdirs makes dir and the directories above it, and syncs what it changed.
func mkdirs(dir string) error {
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := mkdirs(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
