package dir

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxKernelPath is what one system call takes, with some room.
const maxKernelPath = 4000

// openBeneath opens path below root without following any symlink, whatever
// others do to the directory meanwhile. Any length of path works.
func openBeneath(root int, path string, flags int) (int, error) {
	if path == "" {
		path = "."
	}
	if len(path) < maxKernelPath {
		how := &unix.OpenHow{
			Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		}
		for range 8 {
			fd, err := unix.Openat2(root, path, how)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue // something moved meanwhile
			}
			if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
				return fd, err
			}
			break // an old kernel or a filter: name by name
		}
	}
	at, owned := root, false
	names := strings.Split(path, "/")
	for i, name := range names {
		f := unix.O_PATH | unix.O_DIRECTORY
		if i == len(names)-1 {
			f = flags
		}
		fd, err := retry(func() (int, error) { return unix.Openat(at, name, f|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0) })
		if owned {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at, owned = fd, true
	}
	return at, nil
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// procPath is a path for calls that have no form with a directory descriptor;
// its last name is not followed by the l… calls.
func procPath(fd int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
}

// pathError names the path below the root that an errno belongs to.
func pathError(op, path string, err error) error {
	return &os.PathError{Op: op, Path: path, Err: err}
}
