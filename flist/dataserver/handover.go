package dataserver

import (
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// A keeper is upgraded by replacing its program in place: the new one has the
// same process id and inherits the descriptors that must never close. Requests
// that were under way are sent again by the kernel.

// legacyVar tells a keeper that it takes over: the numbers of the descriptors
// of lock, /dev/fuse and control socket.
const legacyVar = "ZOS_FLIST_KEEPER"

// legacy is what one keeper leaves to the next.
type legacy struct {
	lock, fuse, listen *os.File
	program            []string
}

// takeOver starts the handover to the program; the answer to the client comes
// before it happens.
func (k *keeper) takeOver(program []string) error {
	if len(program) == 0 {
		return fault.Errorf(fault.Invalid, "hand the keeper over: no program was given")
	}
	if err := unix.Access(program[0], unix.X_OK); err != nil {
		return fault.Errorf(fault.Invalid, "hand the keeper over: start %s: %w; the old one goes on", program[0], err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ending {
		return fault.Errorf(fault.Unavailable, "hand the keeper over: it ends")
	}
	if !k.params.Resend {
		return fault.Errorf(fault.Unsupported, "hand the keeper over: this kernel cannot send requests again; unmount the images instead")
	}
	k.handover, k.ending = program, true
	close(k.ended)
	return nil
}

// leave keeps the control socket open for the successor: clients that connect
// meanwhile wait for it.
func (k *keeper) leave(program []string) (*legacy, error) {
	f, err := k.listen.File()
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "hand the keeper over: %w", err)
	}
	k.listen.SetUnlinkOnClose(false)
	return &legacy{lock: k.lock, fuse: k.fuse, listen: f, program: program}, nil
}

// exec replaces this program. It returns only if that failed.
func (l *legacy) exec() error {
	env := []string{legacyVar + "="}
	for i, f := range []*os.File{l.lock, l.fuse, l.listen} {
		fd := f.Fd()
		if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err != nil {
			return fault.Errorf(fault.Internal, "hand a descriptor over: %w", err)
		}
		if i > 0 {
			env[0] += ","
		}
		env[0] += strconv.Itoa(int(fd))
	}
	err := unix.Exec(l.program[0], l.program, append(os.Environ(), env...))
	for _, f := range []*os.File{l.lock, l.fuse, l.listen} {
		unix.CloseOnExec(int(f.Fd()))
	}
	return fault.Errorf(fault.Of(err), "start %s: %w", l.program[0], err)
}

// inherited is what the keeper before left to this process, or nil.
func inherited() (*legacy, error) {
	v, ok := os.LookupEnv(legacyVar)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(legacyVar) // not for the data server
	var files []*os.File
	for s := range strings.SplitSeq(v, ",") {
		fd, err := strconv.Atoi(s)
		if err != nil || fd < 3 {
			return nil, fault.Errorf(fault.Invalid, "take the keeper over: %s=%q is not what a keeper leaves", legacyVar, v)
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "inherited"))
	}
	if len(files) != 3 {
		return nil, fault.Errorf(fault.Invalid, "take the keeper over: %s=%q is not what a keeper leaves", legacyVar, v)
	}
	return &legacy{lock: files[0], fuse: files[1], listen: files[2]}, nil
}

// adopt continues the work of the keeper before.
func (k *keeper) adopt(l *legacy) error {
	c, err := net.FileListener(l.listen)
	l.listen.Close()
	if err != nil {
		return fault.Errorf(fault.Internal, "take the control socket over: %w", err)
	}
	u, ok := c.(*net.UnixListener)
	if !ok {
		return fault.Errorf(fault.Internal, "take the control socket over: it is another kind of socket")
	}
	u.SetUnlinkOnClose(true)
	k.lock, k.fuse, k.listen = l.lock, l.fuse, u
	k.cfg.Ready = nil // its descriptor was the one of the program before
	if err := k.restore(); err != nil {
		return err
	}
	if _, err := unix.Write(int(k.fuse.Fd()), resendMessage()); err != nil {
		return fault.Errorf(fault.Internal, "take the FUSE descriptor over: %w", err)
	}
	k.cfg.Log.Info("keeper took over", "slots", len(k.slots))
	return nil
}
