package main

import (
	"errors"
	"io"
	"os"
	"sync"

	"zos.internal/internal/fault"
)

// maxLog is how long a part of a container's log gets, in bytes. The newest part
// and the one before it are kept: a container can't fill the disk, or the memory
// where run directories are in memory, by talking.
const maxLog = 8 << 20

// runLog is the log of a detached container: what it wrote last.
type runLog struct {
	path string
	max  int64

	mu   sync.Mutex
	f    *os.File
	size int64
}

// older is where the part before the newest one is.
func older(path string) string { return path + ".1" }

func openLog(path string, max int64) (*runLog, error) {
	l := &runLog{path: path, max: max}
	return l, l.open()
}

func (l *runLog) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fault.Errorf(fault.Of(err), "open the log: %w", err)
	}
	l.f, l.size = f, 0
	return nil
}

// Write never fails because of the disk: a workload must not die of its log.
func (l *runLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		if l.size >= l.max {
			l.f.Close()
			if err := errors.Join(os.Rename(l.path, older(l.path)), l.open()); err != nil {
				return len(p), nil
			}
		}
		n := min(int64(len(rest)), l.max-l.size)
		if _, err := l.f.Write(rest[:n]); err != nil {
			return len(p), nil
		}
		l.size += n
		rest = rest[n:]
	}
	return len(p), nil
}

// Close ends the log.
func (l *runLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// copyLog writes the kept parts of a log, oldest first.
func copyLog(w io.Writer, path string) error {
	for _, p := range []string{older(path), path} {
		f, err := os.Open(p)
		if err != nil {
			if p == path {
				return err
			}
			continue
		}
		_, err = io.Copy(w, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
