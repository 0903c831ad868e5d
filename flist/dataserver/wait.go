package dataserver

import (
	"errors"

	"golang.org/x/sys/unix"
)

var errStopped = errors.New("told to stop")

// waiter waits for requests in one thread. The runtime's poller is not used: it
// hands a request from the thread that waits to another one, and each read of
// the descriptor to the next reader, which together cost more than reading a
// page from a disk. The kernel wakes one waiter for a request.
type waiter struct {
	ep, fd int
	events [2]unix.EpollEvent
}

func newWaiter(fd, stop int) (*waiter, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	for _, e := range []unix.EpollEvent{{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: int32(fd)}, {Events: unix.EPOLLIN, Fd: int32(stop)}} {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, int(e.Fd), &e); err != nil {
			unix.Close(ep)
			return nil, err
		}
	}
	return &waiter{ep: ep, fd: fd}, nil
}

// next reads the next request into buf. The error is ENODEV when the file system
// is gone and errStopped when stop is readable.
func (w *waiter) next(buf []byte) (int, error) {
	for {
		n, err := unix.EpollWait(w.ep, w.events[:], -1)
		if err != nil && err != unix.EINTR {
			return 0, err
		}
		for _, e := range w.events[:max(n, 0)] {
			if int(e.Fd) != w.fd {
				return 0, errStopped
			}
		}
		if n <= 0 {
			continue
		}
		n, err = unix.Read(w.fd, buf)
		switch err {
		case nil:
			if n == 0 {
				return 0, unix.ENODEV
			}
			return n, nil
		case unix.EAGAIN, unix.EINTR, unix.ENOENT: // another has it, or it was taken back
		default:
			return 0, err
		}
	}
}

func (w *waiter) close() { unix.Close(w.ep) }
