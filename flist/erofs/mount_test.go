package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"zos.internal/flist/tree"
)

// mount mounts image with a data device made by fill and returns the
// directory. It skips where the machine can't.
func mount(t *testing.T, image []byte, fill func(*os.File) error) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting EROFS needs root")
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil || !bytes.Contains(known, []byte("\terofs\n")) {
		t.Skip("the kernel has no EROFS (or its module is not loaded)")
	}
	dir := t.TempDir()
	// Metadata must not lie on tmpfs: the kernel mounts no EROFS from it.
	ram, mnt := filepath.Join(dir, "ram"), filepath.Join(dir, "mnt")
	for _, d := range []string{ram, mnt} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("ram", ram, "ramfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=700"); err != nil {
		t.Skipf("no ramfs for the metadata: %v", err)
	}
	t.Cleanup(func() { unmount(t, ram) })
	meta, data := filepath.Join(ram, "meta"), filepath.Join(dir, "data")
	if err := os.WriteFile(meta, image, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(le.Uint32(image[slotOffset+64:])) * BlockSize); err != nil {
		t.Skipf("no sparse file of that size: %v", err)
	}
	if err := fill(f); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(meta, mnt, "erofs", unix.MS_RDONLY, "device="+data); err != nil {
		if errors.Is(err, unix.ENOTBLK) {
			t.Skip("this kernel mounts EROFS only from block devices")
		}
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() { unmount(t, mnt) })
	return mnt
}

// unmount takes a mount away. A container that starts beside this test copies
// the mounts of the machine for a moment, and they are busy until it let go.
func unmount(t *testing.T, dir string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	err := unix.Unmount(dir, 0)
	for i := 0; err == unix.EBUSY && i < 1000; i++ {
		<-tick.C
		err = unix.Unmount(dir, 0)
	}
	if err != nil {
		t.Errorf("unmount %s: %v", dir, err)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}

// state is what the kernel tells about one name.
type state struct {
	Mode, UID, GID uint32
	Size, Sec, Ns  int64
	Major, Minor   uint32
	Nlink          uint64
	Target         string
	Xattrs         map[string]string
	Names          []string
	Content        string
}

func wantState(n *tree.Node, nlink int) state {
	s := state{
		Mode: n.Mode, UID: n.UID, GID: n.GID, Size: n.Size, Sec: n.Mtime, Ns: int64(n.Nsec),
		Major: n.Major, Minor: n.Minor, Nlink: uint64(nlink), Target: n.Target, Xattrs: map[string]string{},
	}
	for _, x := range n.Xattrs {
		s.Xattrs[x.Name] = x.Value
	}
	switch n.Type() {
	case tree.Directory:
		s.Nlink = 2
		for _, e := range n.Entries {
			s.Names = append(s.Names, fileMode(e.Node.Mode).Type().String()+e.Name)
			if e.Node.IsDir() {
				s.Nlink++
			}
		}
		s.Size = listDir(n.Entries).size()
	case tree.Symlink:
		s.Size = int64(len(n.Target))
	case tree.Regular:
		if n.Content != nil {
			b, _ := n.ReadAll(1 << 24)
			s.Content = string(b)
		}
	}
	return s
}

func kernelState(path string, content bool) (s state, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return s, 0, fmt.Errorf("lstat: %w", err)
	}
	s = state{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Sec: st.Mtim.Sec, Ns: st.Mtim.Nsec,
		Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), Nlink: uint64(st.Nlink), Xattrs: map[string]string{},
	}
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return s, 0, fmt.Errorf("listxattr: %w", err)
	}
	value := make([]byte, 1<<16)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		k, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return s, 0, fmt.Errorf("getxattr %s: %w", name, err)
		}
		s.Xattrs[name] = string(value[:k])
	}
	switch st.Mode & tree.TypeMask {
	case tree.Symlink:
		s.Target, err = os.Readlink(path)
	case tree.Directory:
		s.Names, err = readNames(path)
	case tree.Regular:
		if content {
			var b []byte
			b, err = os.ReadFile(path)
			s.Content = string(b)
		}
	}
	return s, st.Ino, err
}

// fileMode is a st_mode in the words of io/fs.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & tree.TypeMask {
	case tree.Directory:
		m |= fs.ModeDir
	case tree.Symlink:
		m |= fs.ModeSymlink
	case tree.Char:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case tree.Block:
		m |= fs.ModeDevice
	case tree.FIFO:
		m |= fs.ModeNamedPipe
	case tree.Socket:
		m |= fs.ModeSocket
	}
	for bit, word := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= word
		}
	}
	return m
}

// readNames lists a directory in the kernel's order: the type that it tells
// without looking at the inode, and the name.
func readNames(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Type().String()+e.Name())
	}
	return names, nil
}

// compare demands that what is mounted at mnt is the tree.
func compare(t *testing.T, root *tree.Node, mnt string) {
	t.Helper()
	links := root.Links()
	inos := make(map[*tree.Node]uint64)
	wrong := 0
	for p, n := range root.Walk() {
		got, ino, err := kernelState(filepath.Join(mnt, p), n.Content != nil)
		if err != nil {
			t.Fatalf("%.80q: %v", p, err)
		}
		if want := wantState(n, links[n]); !cmp.Equal(got, want) {
			t.Errorf("%.80q differs (-want +got):\n%.2000s", p, cmp.Diff(want, got))
			if wrong++; wrong > 5 {
				t.FailNow()
			}
		}
		if old, ok := inos[n]; ok && old != ino {
			t.Errorf("%.80q: inode %d, its other name has %d", p, ino, old)
		}
		inos[n] = ino
	}
	all := slices.Sorted(maps.Values(inos))
	if len(slices.Compact(all)) != len(inos) {
		t.Errorf("%d inodes share numbers", len(inos))
	}
}

func TestKernelMountsNastyTree(t *testing.T) {
	root := nasty(t, 100000)
	blocks := layOut(root)
	image, err := Encode(root, blocks)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Check(image); err != nil {
		t.Fatal(err)
	}
	mnt := mount(t, image, writeContent(root))
	compare(t, root, mnt)
	// The end of the last page of a file must read as zeros through mmap.
	f, err := os.Open(filepath.Join(mnt, "old"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m[4096:], append([]byte("y"), make([]byte, 4095)...)) {
		t.Error("the last page of a file is not filled with zeros")
	}
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	var sfs syscall.Statfs_t
	if err := syscall.Statfs(mnt, &sfs); err != nil || sfs.Files == 0 {
		t.Errorf("statfs: %+v, %v", sfs, err)
	}
}

// Files of many GiB need one chunk index, those above 8 TiB two.
func TestKernelReadsHugeFiles(t *testing.T) {
	const gib = 1 << 30
	root := tree.NewDir(0o755)
	small := insert(t, root, "before", &tree.Node{Mode: tree.Regular | 0o644, Size: 6})
	disk := insert(t, root, "disk40g", &tree.Node{Mode: tree.Regular | 0o644, Size: 40*gib + 77})
	huge := insert(t, root, "huge9t", &tree.Node{Mode: tree.Regular | 0o644, Size: 9<<40 + 5})
	blocks := layOut(root)
	type mark struct {
		node *tree.Node
		name string
		off  int64
	}
	marks := []mark{
		{small, "before", 0},
		{disk, "disk40g", 0}, {disk, "disk40g", 4*gib - 3}, {disk, "disk40g", 40*gib + 71},
		{huge, "huge9t", 0}, {huge, "huge9t", 8<<40 - 20}, {huge, "huge9t", 8<<40 - 3}, {huge, "huge9t", 8<<40 + 20}, {huge, "huge9t", 9<<40 - 1},
	}
	image, err := Encode(root, blocks)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Check(image); err != nil {
		t.Fatal(err)
	}
	mnt := mount(t, image, func(f *os.File) error {
		for i, m := range marks {
			if _, err := f.WriteAt(fmt.Appendf(nil, "mark%02d", i), m.node.Offset+m.off); err != nil {
				return err
			}
		}
		return nil
	})
	for i, m := range marks {
		f, err := os.Open(filepath.Join(mnt, m.name))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 6)
		_, err = f.ReadAt(got, m.off)
		f.Close()
		want := fmt.Sprintf("mark%02d", i)
		if err != nil || string(got) != want {
			t.Errorf("%s at %d: %q, %v, want %q", m.name, m.off, got, err, want)
		}
	}
	compare(t, root, mnt)
}

func TestKernelMountsLargeRoots(t *testing.T) {
	for _, n := range []int{0, 180, 250, 400} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			root := wideRoot(n)
			compare(t, root, mount(t, mustEncode(t, root, 0), writeContent(root)))
		})
	}
}

// loop attaches a read-only loop device to a file.
func loop(t *testing.T, path string) string {
	t.Helper()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no loop devices: %v", err)
	}
	defer ctl.Close()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 10 { // another process may take the free one
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("no free loop device: %v", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.Open(name)
		if err != nil {
			t.Skipf("no loop device: %v", err)
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY}}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			t.Cleanup(func() {
				if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
					t.Errorf("detach %s: %v", name, err)
				}
				dev.Close()
			})
			return name
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			t.Skipf("attach %s: %v", name, err)
		}
	}
	t.Skip("all loop devices are busy")
	return ""
}

// Block devices are what a virtual machine sees, and the fallback of a node.
func TestKernelMountsBlockDevices(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	root := nasty(t, 1000)
	image := mustEncode(t, root, layOut(root))
	dir := t.TempDir()
	meta, data, mnt := filepath.Join(dir, "meta"), filepath.Join(dir, "data"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(meta, image, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(le.Uint32(image[slotOffset+64:])) * BlockSize); err != nil {
		t.Fatal(err)
	}
	if err := writeContent(root)(f); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(loop(t, meta), mnt, "erofs", unix.MS_RDONLY, "device="+loop(t, data)); err != nil {
		if errors.Is(err, unix.ENODEV) {
			t.Skip("the kernel has no EROFS")
		}
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() { unmount(t, mnt) })
	compare(t, root, mnt)
}
