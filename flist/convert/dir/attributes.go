package dir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
)

const holeSize = 4 << 10

// regular writes a file, with holes where it has blocks of zeros.
func (e *exporter) regular(ctx context.Context, dir int, path, name string, n *tree.Node) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if n.Size > 0 {
		if err := e.copy(ctx, f, n); err != nil {
			return err
		}
	}
	e.report.Bytes += n.Size
	if err := e.finish(fd, dir, name, path, n); err != nil {
		return err
	}
	return f.Close()
}

func (e *exporter) copy(ctx context.Context, f *os.File, n *tree.Node) error {
	r, err := e.opts.Contents.Open(n)
	if err != nil {
		return err
	}
	defer r.Close()
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := io.ReadFull(r, e.buf)
		for at := 0; at < k; {
			end := dataEnd(e.buf[at:k])
			if end > 0 {
				if _, err := f.WriteAt(e.buf[at:at+end], off+int64(at)); err != nil {
					return err
				}
			}
			at += end
			for at < k && isZero(e.buf[at:min(at+holeSize, k)]) {
				at = min(at+holeSize, k)
			}
		}
		off += int64(k)
		e.done += int64(k)
		e.opts.Progress.Report("write", e.done, e.total)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) && off == n.Size {
			break
		}
		if err != nil {
			return err
		}
	}
	return f.Truncate(n.Size)
}

// dataEnd is how many bytes come before the first block of zeros.
func dataEnd(b []byte) int {
	for at := 0; at < len(b); at += holeSize {
		if isZero(b[at:min(at+holeSize, len(b))]) {
			return at
		}
	}
	return len(b)
}

var zeros [holeSize]byte

func isZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// finish sets owner, attributes, mode and time, in the order in which the
// kernel keeps them: a new owner clears set-user-id bits and capabilities, a
// list of access rights goes with the mode, everything touches the time. fd is
// the open inode or -1; it is name in the directory dir.
func (e *exporter) finish(fd, dir int, name, path string, n *tree.Node) error {
	mode := n.Mode & tree.PermMask
	err := unix.Fchownat(dir, name, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW)
	if n.UID == math.MaxUint32 || n.GID == math.MaxUint32 {
		err = unix.EINVAL // the kernel takes this number for "keep"
	}
	if err != nil {
		var st unix.Stat_t
		if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Uid != n.UID || st.Gid != n.GID {
			if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
				return pathError("chown", path, err)
			}
			e.report.Owners++
			if mode&0o6000 != 0 && !n.IsDir() {
				mode &^= 0o6000
				e.report.Skipped = append(e.report.Skipped, convert.Skipped{Path: path, Reason: "set-user-id and set-group-id: the owner could not be set"})
			}
		}
	}
	for _, x := range n.Xattrs {
		if err := e.skip("attribute "+strconv.Quote(x.Name), path, setXattr(fd, dir, name, x)); err != nil {
			return err
		}
	}
	if n.Type() != tree.Symlink {
		err := error(nil)
		if fd >= 0 {
			err = unix.Fchmod(fd, mode)
		} else {
			err = unix.Fchmodat(dir, name, mode, 0)
		}
		if err != nil {
			return pathError("chmod", path, err)
		}
	}
	return e.setTime(dir, name, path, n)
}

func setXattr(fd, dir int, name string, x tree.Xattr) error {
	if fd >= 0 {
		return unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0)
	}
	return unix.Lsetxattr(procPath(dir, name), x.Name, []byte(x.Value), 0)
}

func (e *exporter) setTime(dir int, name, path string, n *tree.Node) error {
	ts := unix.Timespec{Sec: n.Mtime, Nsec: int64(n.Nsec)}
	if err := unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("set the time of", path, err)
	}
	if n.Mtime > math.MinInt32 && n.Mtime < math.MaxInt32 {
		return nil
	}
	// File systems cut times that they can't hold without saying so.
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("lstat", path, err)
	}
	if st.Mtim != ts {
		e.report.Skipped = append(e.report.Skipped, convert.Skipped{Path: path, Reason: "time: the file system can't hold the second " + strconv.FormatInt(n.Mtime, 10)})
	}
	return nil
}
