package fl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"zos.internal/flist/convert/fl/store"
	"zos.internal/internal/fault"
)

// part is a file that becomes the target when it is whole. Its name is fixed,
// so that what a killed run leaves is used up by the next, and a lock keeps
// two runs apart.
type part struct {
	f            *os.File
	path, target string
}

func newPart(target string) (*part, error) {
	if st, err := os.Stat(target); err == nil && !st.Mode().IsRegular() {
		return nil, fault.Errorf(fault.Invalid, "write %s: it is there and is not a file", target)
	}
	path := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".part")
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "write %s: %w", target, err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, fault.Errorf(fault.Conflict, "write %s: another program is writing it (%s is locked); wait for that one", target, path)
		}
		// The one that held the lock may have renamed the file away.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			if err := f.Truncate(0); err != nil {
				f.Close()
				return nil, err
			}
			return &part{f, path, target}, nil
		}
		f.Close()
		if err := errors.Join(err1, err2); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// commit makes the file visible at the target, on disk.
func (p *part) commit() error {
	if err := p.f.Sync(); err != nil {
		return store.DiskFault(err)
	}
	if err := os.Rename(p.path, p.target); err != nil {
		return err
	}
	p.path = ""
	dir, err := os.Open(filepath.Dir(p.target))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// close removes what was not committed.
func (p *part) close() {
	if p.path != "" {
		os.Remove(p.path)
	}
	p.f.Close()
}
