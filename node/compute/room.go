package compute

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
	"zos.internal/internal/thread"
)

// inRoom runs f on a thread of its own in a private mount namespace, and
// throws the thread away. What f mounts is seen only by f, by the programs
// that f starts and by what those start; it vanishes with the last of them,
// however this process ends. Mounts of the host that go away go away here.
func inRoom(f func() error) error {
	return thread.Discard(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fault.Errorf(fault.Unavailable, "make a private mount namespace: %w; run as root", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fault.Errorf(fault.Unavailable, "make mounts private: %w", err)
		}
		// crun takes a v1 tree with a v2 tree inside for v2 and then
		// misses the controllers. Here it sees plain v1.
		if cgroupMode() == "hybrid" {
			if err := unix.Unmount(unified, unix.MNT_DETACH); err != nil {
				return fault.Errorf(fault.Unavailable, "hide %s from the runtime: %w", unified, err)
			}
		}
		return f()
	})
}

// idRange is how many user ids a workload has.
const idRange = 1 << 16

// stage is a container's set of mounts while it is made, inside a room.
type stage struct {
	dir  string // state directory of the workload as the room shows it
	spec Spec
	plan mountPlan
	user int // user namespace for id-mapped mounts; -1 is none
	root int // the staged root, O_PATH

	loose bool // tests only: stage without locks
}

// roomDirs are directories that a room may cover: every machine has one of
// them, and every user id may pass through it.
var roomDirs = []string{"/mnt", "/media", "/srv", "/opt", "/home"}

// settle shows the state directory at a short path that every user id may
// pass through, since the runtime walks it inside the user namespace.
func (g *stage) settle(state string) error {
	used := []string{state, g.spec.RootFS}
	for _, m := range g.spec.Mounts {
		used = append(used, m.Source)
	}
	for _, d := range roomDirs {
		taken := false
		for _, u := range used {
			taken = taken || u == d || below(u, d)
		}
		if st, err := os.Lstat(d); taken || err != nil || !st.IsDir() {
			continue
		}
		if err := unix.Mount(state, d, "", unix.MS_BIND, ""); err != nil {
			return fault.Errorf(fault.Unavailable, "stage the state directory: %w", err)
		}
		g.dir = d
		return nil
	}
	return fault.Errorf(fault.Unavailable, "stage the state directory: none of %v is a free directory; make one", roomDirs)
}

// prepare mounts what the workload will see below dir and fills the plan.
func (g *stage) prepare() error {
	if g.spec.Sealed != Off {
		// With a user namespace the runtime binds device nodes from the
		// host's /dev; such a bind keeps the flags of its mount.
		if err := unix.Mount("/dev", "/dev", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fault.Errorf(fault.Unavailable, "stage /dev: %w", err)
		}
		if err := setattr("/dev", unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSUID, -1); err != nil {
			return fault.Errorf(fault.Unavailable, "make /dev noexec: %w", err)
		}
	}
	if err := g.sysfs(); err != nil {
		return fault.Errorf(fault.Unavailable, "stage /sys: %w", err)
	}
	rootfs := filepath.Join(g.dir, "bundle", "rootfs")
	attr := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if !g.spec.WritableRoot {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	if err := clone(g.spec.RootFS, rootfs, attr, g.user); err != nil {
		return fault.Errorf(fault.Unavailable, "stage the root %q: %w", g.spec.RootFS, err)
	}
	if g.spec.WritableRoot {
		if err := g.writableRoot(rootfs); err != nil {
			return err
		}
	}
	fd, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "open the staged root: %w", err)
	}
	g.root = fd
	defer unix.Close(fd)
	if err := os.MkdirAll(filepath.Join(g.dir, "m"), 0o700); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	for i, t := range g.spec.WritableDirs {
		src, err := g.overlay(t, i)
		if err != nil {
			return fault.Errorf(fault.Of(err), "make %s writable: %w", t, err)
		}
		g.plan.binds = append(g.plan.binds, Mount{Source: src, Target: t})
	}
	for i, m := range g.spec.Mounts {
		src := filepath.Join(g.dir, "m", "v"+strconv.Itoa(i))
		if err := g.volume(m, src); err != nil {
			return fault.Errorf(fault.Unavailable, "mount %s at %s: %w", m.Source, m.Target, err)
		}
		g.plan.binds = append(g.plan.binds, Mount{Source: src, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	if err := g.files(); err != nil {
		return err
	}
	for _, t := range scratch {
		if g.mounted(t) || !g.isDir(t) {
			continue
		}
		g.plan.scratch = append(g.plan.scratch, t)
	}
	if g.spec.WritableRoot {
		return nil // the runtime makes mount points itself
	}
	return g.graftAll(rootfs)
}

// sysfs stages a /sys of the workload's network. A user namespace may not
// mount one for a network that is not its own, and the runtimes would then
// show the host's, writable and with its cgroups.
func (g *stage) sysfs() error {
	if g.user < 0 || g.spec.NetNS == "" {
		return nil
	}
	at := filepath.Join(g.dir, "m", "sys")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	there, err := unix.Open(g.spec.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = unix.Mount("sysfs", at, "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if herr := unix.Setns(home, unix.CLONE_NEWNET); err == nil {
		err = herr
	}
	g.plan.sys = at
	return err
}

func (g *stage) mounted(target string) bool {
	for _, b := range g.plan.binds {
		if b.Target == target || below(target, b.Target) {
			return true
		}
	}
	return false
}

// open opens a path of the staged root without leaving it and, if asked,
// without following links.
func (g *stage) open(path string, flags int, resolve uint64) (int, error) {
	return unix.Openat2(g.root, "./"+path, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_PATH | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	})
}

func (g *stage) isDir(path string) bool {
	fd, err := g.open(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// volume stages a directory or file of the host.
func (g *stage) volume(m Mount, staged string) error {
	st, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if st.IsDir() {
		err = os.Mkdir(staged, 0o700)
	} else {
		err = os.WriteFile(staged, nil, 0o600)
	}
	if err != nil {
		return err
	}
	return clone(m.Source, staged, g.mountAttr(m.ReadOnly), g.user)
}

func (g *stage) mountAttr(readOnly bool) uint64 {
	attr := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if g.loose {
		attr = 0
	}
	if g.spec.Sealed != Off {
		attr |= unix.MOUNT_ATTR_NOEXEC
	}
	if readOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return attr
}

// files stages the generated files of /etc. They are read-only.
func (g *stage) files() error {
	text := map[string]string{
		"hosts":    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t" + g.spec.Hostname + "\n" + g.spec.Hosts,
		"hostname": g.spec.Hostname + "\n",
	}
	if g.spec.Resolv != "" {
		text["resolv.conf"] = g.spec.Resolv
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		target := "/etc/" + name
		if text[name] == "" || g.mounted(target) && !g.exists(target) || g.exists(target) && !g.isFile(target) {
			continue
		}
		if !g.exists(target) && g.exists("/etc") && !g.isDir("/etc") {
			continue // /etc is a link or a file: not ours to interpret
		}
		src := filepath.Join(g.dir, "m", name)
		if err := os.WriteFile(src, []byte(text[name]), 0o644); err != nil {
			return fault.As(fault.Unavailable, err)
		}
		if err := os.Chmod(src, 0o644); err != nil {
			return fault.As(fault.Unavailable, err)
		}
		if err := clone(src, src, g.mountAttr(true), g.user); err != nil {
			return fault.Errorf(fault.Unavailable, "stage %s: %w", target, err)
		}
		g.plan.binds = append(g.plan.binds, Mount{Source: src, Target: target, ReadOnly: true})
	}
	return nil
}

func (g *stage) exists(path string) bool {
	fd, err := g.open(path, unix.O_NOFOLLOW, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

func (g *stage) isFile(path string) bool {
	fd, err := g.open(path, unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// clone mounts what src shows at dst, without mounts inside of it, with the
// attributes set and ids mapped by the user namespace (-1: none).
func clone(src, dst string, attr uint64, userns int) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, src, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone the mount: %w", err)
	}
	defer unix.Close(fd)
	if err := setattrFD(fd, attr, userns); err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dst, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach the mount: %w", err)
	}
	return nil
}

func setattrFD(fd int, attr uint64, userns int) error {
	a := unix.MountAttr{Attr_set: attr}
	if userns >= 0 {
		a.Attr_set |= unix.MOUNT_ATTR_IDMAP
		a.Userns_fd = uint64(userns)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &a); err != nil {
		return fmt.Errorf("set attributes of the mount: %w", err)
	}
	return nil
}

func setattr(path string, attr uint64, userns int) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setattrFD(fd, attr, userns)
}

// userNamespace makes a user namespace that maps idRange ids from base, and
// returns a descriptor of it. No program runs in it: the child is stopped at
// its first instruction and ended. It must be called on a locked thread.
func userNamespace(base uint32) (int, error) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(base), Size: idRange}}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Ptrace: true, Cloneflags: unix.CLONE_NEWUSER,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
	}
	if err := cmd.Start(); err != nil {
		return -1, fault.Errorf(fault.Unavailable, "make a user namespace: %w; check /proc/sys/user/max_user_namespaces", err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	if err != nil {
		return -1, fault.Errorf(fault.Unavailable, "open the user namespace: %w", err)
	}
	return fd, nil
}

// splitTarget takes an absolute path into its names.
func splitTarget(p string) []string { return strings.Split(strings.Trim(p, "/"), "/") }

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
