package compute

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// maxGraft is how many entries a directory may have that is rebuilt to gain a
// mount point.
const maxGraft = 1024

// graftAll gives the root the mount points that the image lacks. The image
// can't be written, so the deepest directory that is there is covered by a
// small read-only file system in memory, which holds the missing names and
// shows the image's own entries by bind mounts. Nothing in it can be executed
// but those binds, so the seal holds.
func (g *stage) graftAll(rootfs string) error {
	targets := []string{"/proc", "/dev", "/sys"}
	file := make(map[string]bool)
	for _, b := range g.plan.binds {
		targets = append(targets, b.Target)
		if st, err := os.Stat(b.Source); err == nil && !st.IsDir() {
			file[b.Target] = true
		}
	}
	var missing []string
	for _, t := range targets {
		if !g.inMount(t) && !g.reachable(t) {
			missing = append(missing, t)
		}
	}
	// Outer directories first: their graft may hold inner ones.
	slices.Sort(missing)
	for len(missing) > 0 {
		base := g.deepest(missing[0])
		var group [][]string
		rest := missing[:0:0]
		for _, t := range missing {
			if g.deepest(t) == base {
				group = append(group, splitTarget(t)[len(splitNonRoot(base)):])
				if file[t] {
					group[len(group)-1] = append(group[len(group)-1], "") // an empty last name marks a file
				}
			} else {
				rest = append(rest, t)
			}
		}
		if err := g.graft(rootfs, base, group); err != nil {
			return fault.Errorf(fault.Of(err), "make the mount point %s, which the image lacks: %w", missing[0], err)
		}
		missing = rest
	}
	return nil
}

func splitNonRoot(p string) []string {
	if p == "/" {
		return nil
	}
	return splitTarget(p)
}

// inMount reports whether a target lies inside another mount of the plan,
// where the runtime makes the mount point itself.
func (g *stage) inMount(target string) bool {
	for _, b := range g.plan.binds {
		if below(target, b.Target) && !b.ReadOnly {
			return true
		}
	}
	for _, t := range g.plan.scratch {
		if below(target, t) {
			return true
		}
	}
	return false
}

func (g *stage) reachable(path string) bool {
	fd, err := g.open(path, 0, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// deepest is the innermost directory above target that the root has. Links
// are not followed: a missing name behind a link is refused by graft.
func (g *stage) deepest(target string) string {
	for p := filepath.Dir(target); ; p = filepath.Dir(p) {
		if p == "/" || g.isDir(p) {
			return p
		}
	}
}

// graft covers the directory base of the root by one with more names.
func (g *stage) graft(rootfs, base string, missing [][]string) error {
	old, err := g.open(base, unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	defer unix.Close(old)
	var st unix.Stat_t
	if err := unix.Fstat(old, &st); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	dir, err := os.Open(procPath(old))
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxGraft + 1)
	if err != nil && len(entries) > 0 {
		return fault.As(fault.Unavailable, err)
	}
	if len(entries) > maxGraft {
		return fault.Errorf(fault.Unsupported, "the directory %s has more than %d entries; add the mount point to the image", base, maxGraft)
	}
	stagedAt := filepath.Join(g.dir, "m", "graft")
	if err := os.MkdirAll(stagedAt, 0o700); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	if err := unix.Mount("tmpfs", stagedAt, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=4m,mode=0755"); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	for _, e := range entries {
		if err := g.show(old, stagedAt, e); err != nil {
			return fault.Errorf(fault.Unavailable, "show %s/%s: %w", base, e.Name(), err)
		}
	}
	for _, names := range missing {
		if err := makePoint(stagedAt, names); err != nil {
			return fault.Errorf(fault.Invalid, "%w; a link or file of the image is in the way", err)
		}
	}
	if err := os.Chown(stagedAt, int(st.Uid), int(st.Gid)); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	if err := unix.Chmod(stagedAt, st.Mode&0o7777); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	attr := uint64(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC)
	if err := setattr(stagedAt, attr, -1); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	at := filepath.Join(rootfs, base)
	if err := unix.Mount(stagedAt, at, "", unix.MS_MOVE, ""); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	if base != "/" {
		return nil
	}
	// The root itself was covered: look at the new one from now on.
	fd, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	defer unix.Close(fd)
	return unix.Dup3(fd, g.root, unix.O_CLOEXEC)
}

// show makes an entry of the covered directory visible in the new one.
func (g *stage) show(old int, stagedAt string, e os.DirEntry) error {
	to := filepath.Join(stagedAt, e.Name())
	from := procPath(old) + "/" + e.Name()
	switch {
	case e.Type()&os.ModeSymlink != 0:
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(link, to)
	case e.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(to, nil, 0o644); err != nil {
			return err
		}
	}
	fd, err := unix.OpenTree(old, e.Name(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func makePoint(dir string, names []string) error {
	for i, n := range names {
		file := i+2 == len(names) && names[i+1] == ""
		if n == "" {
			break
		}
		dir = filepath.Join(dir, n)
		var err error
		if file {
			err = os.WriteFile(dir, nil, 0o644)
		} else {
			err = os.Mkdir(dir, 0o755)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
