// Package guard watches the programs that start from a mounted image.
//
// It holds one fanotify mark on the image's file system and is asked by the
// kernel before each exec. A file that is in the image but not in its
// executables record gets EPERM; each file that runs, or is refused, gives one
// audit record. After its first yes a file is not asked about again, so an
// exec costs what it costs without a guard.
//
// The guard is evidence and a second lock, never the only one: if its process
// is killed the kernel lets execs pass, and noexec mounts, the read-only root
// and the call filter hold alone. It doesn't see files that are mapped rather
// than executed, nor what lies on other file systems. It refuses to watch a
// file system that is not an image's own, since a wrong mark would stop the
// machine. It must run in a process of its own: one that also starts what it
// guards would wait for itself.
//
//	err := guard.Serve(ctx, guard.Options{Root: mountpoint, Executables: record, Instance: id, Audit: file})
package guard

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/flist/executables"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Options say what is watched.
type Options struct {
	Root        string              // where the image is mounted; a file system of its own
	Executables []executables.Entry // the image's record; nil records only and refuses nothing
	Instance    string              // named in every audit record
	Audit       io.Writer           // receives JSON lines; nil discards them
	Ready       func()              // called once when execs are watched; may be nil
	Pings       *os.File            // a Keeper's pings: each byte is answered; its end ends Serve. May be nil
	Pongs       io.Writer           // receives "ready\n", then a byte for each ping; set with Pings
	Clock       clock.Clock         // nil is the system clock
	Log         *slog.Logger        // nil discards
}

// Record is one line of the audit.
type Record struct {
	Time     time.Time `json:"t"`
	Instance string    `json:"instance"`
	Path     string    `json:"path"`           // in the image
	Hash     string    `json:"hash,omitempty"` // BLAKE3 from the executables record
	Kind     string    `json:"kind,omitempty"`
	Verdict  string    `json:"verdict"`       // allow or deny; unwatched when a guard ended and another took over
	PID      int       `json:"pid"`           // on the host, of the first that asked
	Why      string    `json:"why,omitempty"` // of unwatched
}

// Serve watches until ctx or the pings end, which is not an error. Unavailable
// if the kernel or the rights don't allow it, Invalid if Root is not an image.
func Serve(ctx context.Context, o Options) error {
	g := &guard{o: o, seen: make(map[uint64]bool)}
	if o.Clock == nil {
		g.o.Clock = clock.System{}
	}
	if o.Log == nil {
		g.o.Log = slog.New(slog.DiscardHandler)
	}
	if err := g.open(); err != nil {
		return err
	}
	defer unix.Close(g.fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "guard %s: %w", o.Root, err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	if o.Ready != nil {
		o.Ready()
	}
	pings := int32(-1) // ignored by poll
	if o.Pings != nil {
		pings = int32(o.Pings.Fd())
		if _, err := io.WriteString(o.Pongs, Ready); err != nil {
			return nil // nobody waits for it
		}
	}
	buf := make([]byte, 64<<10)
	for {
		fds := []unix.PollFd{{Fd: int32(g.fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}, {Fd: pings, Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fault.Errorf(fault.Unavailable, "guard %s: wait: %w", o.Root, err)
		}
		if fds[1].Revents != 0 {
			return nil
		}
		if fds[2].Revents != 0 {
			n, err := unix.Read(int(pings), buf[:64])
			if err == nil && n > 0 {
				_, err = o.Pongs.Write(buf[:n])
			}
			if !errors.Is(err, unix.EINTR) && (err != nil || n == 0) {
				return nil
			}
		}
		n, err := unix.Read(g.fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fault.Errorf(fault.Unavailable, "guard %s: read: %w", o.Root, err)
		}
		if err := g.answer(buf[:n]); err != nil {
			return err
		}
	}
}

type guard struct {
	o      Options
	fd     int
	dev    uint64
	listed map[uint64]executables.Entry // by inode
	seen   map[uint64]bool              // inodes that have their audit record
}

// open checks the root, reads the inodes of the record and sets the mark.
func (g *guard) open() error {
	bad := func(format string, args ...any) error {
		return fault.Errorf(fault.Invalid, "guard %s: "+format, append([]any{g.o.Root}, args...)...)
	}
	var root, parent, system unix.Stat_t
	if !filepath.IsAbs(g.o.Root) {
		return bad("the path is not absolute")
	}
	for path, st := range map[string]*unix.Stat_t{g.o.Root: &root, filepath.Dir(g.o.Root): &parent, "/": &system} {
		if err := unix.Stat(path, st); err != nil {
			return bad("%w; mount the image first", err)
		}
	}
	if root.Dev == parent.Dev || root.Dev == system.Dev {
		return bad("it is no file system of its own; mount the image there first")
	}
	g.dev = root.Dev
	if err := g.inodes(); err != nil {
		return err
	}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_MARKS, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_LARGEFILE)
	if err == nil {
		g.fd = fd
		if err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, g.o.Root); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return fault.Errorf(fault.Unavailable, "guard %s: %w; it needs root and a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS", g.o.Root, err)
	}
	return nil
}

// inodes finds the listed files. A listed file that is not in the image, or
// is reached through a link, can't be what the record means.
func (g *guard) inodes() error {
	g.listed = make(map[uint64]executables.Entry, len(g.o.Executables))
	root, err := unix.Open(g.o.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "guard %s: %w", g.o.Root, err)
	}
	defer unix.Close(root)
	for _, e := range g.o.Executables {
		fd, err := unix.Openat2(root, e.Path, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err != nil {
			return fault.Errorf(fault.Invalid, "guard %s: the record lists %q: %w; the record is of another image", g.o.Root, e.Path, err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fault.Errorf(fault.Invalid, "guard %s: the record lists %q, which is no regular file; the record is of another image", g.o.Root, e.Path)
		}
		if _, twice := g.listed[st.Ino]; !twice { // a hard link: its first name
			g.listed[st.Ino] = e
		}
	}
	return nil
}

// Layout of fanotify events (linux/fanotify.h), native byte order.
const (
	eventLen  = 24
	respAllow = unix.FAN_ALLOW
	respDeny  = unix.FAN_DENY
)

func (g *guard) answer(b []byte) error {
	for len(b) >= eventLen {
		n := binary.NativeEndian.Uint32(b)
		if n < eventLen || int(n) > len(b) || b[4] != unix.FANOTIFY_METADATA_VERSION {
			return fault.Errorf(fault.Unsupported, "guard %s: the kernel speaks another version of fanotify", g.o.Root)
		}
		mask := binary.NativeEndian.Uint64(b[8:])
		fd := int32(binary.NativeEndian.Uint32(b[16:]))
		pid := int32(binary.NativeEndian.Uint32(b[20:]))
		b = b[n:]
		if fd < 0 {
			continue
		}
		if mask&unix.FAN_OPEN_EXEC_PERM != 0 {
			if err := g.decide(int(fd), int(pid)); err != nil {
				unix.Close(int(fd))
				return err
			}
		}
		unix.Close(int(fd))
	}
	return nil
}

// decide answers one question of the kernel and writes the audit record. The
// answer comes first: an audit that blocks must not hold up an exec for ever.
func (g *guard) decide(fd, pid int) error {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	e, listed := g.listed[st.Ino]
	allow := err == nil && (listed || g.o.Executables == nil)
	path := e.Path
	if !listed {
		path = g.pathOf(fd)
	}
	if allow {
		// From now on the kernel doesn't ask about this file. Losing this
		// costs only time.
		flags := uint(unix.FAN_MARK_ADD | unix.FAN_MARK_IGNORED_MASK | unix.FAN_MARK_IGNORED_SURV_MODIFY)
		if err := unix.FanotifyMark(g.fd, flags, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd)); err != nil {
			g.o.Log.Debug("no ignore mark", "path", path, "err", err)
		}
	}
	answer := uint32(respDeny)
	if allow {
		answer = respAllow
	}
	var resp [8]byte
	binary.NativeEndian.PutUint32(resp[:], uint32(fd))
	binary.NativeEndian.PutUint32(resp[4:], answer)
	if _, err := unix.Write(g.fd, resp[:]); err != nil && !errors.Is(err, unix.ENOENT) {
		return fault.Errorf(fault.Unavailable, "guard %s: answer the kernel: %w", g.o.Root, err)
	}
	if g.seen[st.Ino] || g.o.Audit == nil {
		return nil
	}
	g.seen[st.Ino] = true
	r := Record{Time: g.o.Clock.Now(), Instance: g.o.Instance, Path: "/" + path, Verdict: "deny", PID: pid}
	if allow {
		r.Verdict = "allow"
	}
	if listed {
		r.Hash, r.Kind = block.Name(e.Hash).String(), e.Kind.String()
	}
	line, err := json.Marshal(r)
	if err == nil {
		_, err = g.o.Audit.Write(append(line, '\n'))
	}
	if err != nil {
		g.o.Log.Warn("write the audit record", "path", r.Path, "verdict", r.Verdict, "err", err)
	}
	return nil
}

// pathOf is the path in the image of a file that is not listed, as far as it
// is known.
func (g *guard) pathOf(fd int) string {
	p, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "?"
	}
	if rel, ok := strings.CutPrefix(p, filepath.Clean(g.o.Root)+"/"); ok {
		return rel
	}
	return strings.TrimPrefix(p, "/")
}
