// Package atomicfile replaces files so that a reader, or the machine after a
// crash, sees the old bytes or the new ones and never a part.
//
// It writes a temporary file beside the target, syncs it, renames it and syncs
// the directory. It does not lock: two writers race and one of them wins; with
// Create the first one does.
package atomicfile

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Write replaces the file at path with b.
func Write(path string, b []byte, perm os.FileMode) error {
	return WriteFrom(path, bytes.NewReader(b), perm)
}

// WriteFrom replaces the file at path with what r delivers until io.EOF. When
// r or the disk reports an error nothing changes.
func WriteFrom(path string, r io.Reader, perm os.FileMode) error {
	return write(path, r, perm, os.Rename)
}

// Create writes b to a new file at path. If there is one already, of whatever
// kind and however short a time ago it was made, nothing changes and the error
// is fs.ErrExist. The file system has to know hard links.
func Create(path string, b []byte, perm os.FileMode) error {
	return write(path, bytes.NewReader(b), perm, func(from, to string) error {
		if err := os.Link(from, to); err != nil {
			return err
		}
		return os.Remove(from)
	})
}

// write fills a temporary file and lets place put it where it belongs.
func write(path string, r io.Reader, perm os.FileMode, place func(from, to string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := place(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(dir)
}

// SyncDir makes renames in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
