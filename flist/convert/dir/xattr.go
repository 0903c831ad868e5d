package dir

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/flist/tree"
)

// readXattrs reads the attributes of a path without following its last name.
func readXattrs(path string) ([]tree.Xattr, error) {
	list, err := grow(256, func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err != nil || len(list) == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil // a file system without attributes
		}
		return nil, err
	}
	var xs []tree.Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		v, err := grow(256, func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue // listed, but not for us to read
		}
		if err != nil {
			return nil, err
		}
		xs = append(xs, tree.Xattr{Name: name, Value: string(v)})
	}
	return tree.SortXattrs(xs), nil
}

// grow calls with a larger buffer until the answer fits.
func grow(size int, call func(b []byte) (int, error)) ([]byte, error) {
	for ; size <= 1<<20; size *= 4 {
		b := make([]byte, size)
		n, err := call(b)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
	return nil, unix.E2BIG
}
