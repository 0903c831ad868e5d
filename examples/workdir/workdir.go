// Package workdir lends an example a directory that no other run uses.
//
// Guarantees: one run at a time has it, also when others were killed, since the
// lock is the kernel's and ends with the process; the directory is new and for
// its user only. It doesn't remove the directory at the end: the example does.
//
//	unlock, err := workdir.Claim("/var/tmp/zos-example", func() error { return os.RemoveAll("/var/tmp/zos-example") })
//	defer unlock()
package workdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Claim locks dir and makes it. What an earlier run left there is taken away by
// clean, which removes dir, too. unlock ends the claim.
func Claim(dir string, clean func() error) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w; give another -dir", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another run uses %s; wait for it or give another -dir", dir)
	}
	unlock = func() {
		os.Remove(dir + ".lock")
		lock.Close()
	}
	if _, err = os.Lstat(dir); err == nil {
		err = clean()
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("%w; give another -dir", err)
	}
	return unlock, nil
}
