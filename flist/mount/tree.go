package mount

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/erofs"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// forever is how long the kernel may remember what never changes.
const forever = 24 * time.Hour

// treeHeader is the first line of what ServeTree reads; metadata follows.
type treeHeader struct {
	Dir    []byte          `json:"dir"`    // paths need not be text
	Source []byte          `json:"source"` // of the mount table; its last part is the image id
	ID     string          `json:"id"`
	Size   int64           `json:"size"`
	Meta   int             `json:"meta"` // bytes
	Spec   json.RawMessage `json:"spec,omitempty"`
	Log    []byte          `json:"log"` // locked while the process lives
}

// treeAt starts the process that serves the tree at dir.
func (h Host) treeAt(ctx context.Context, r *Request, dir string) error {
	if len(h.Tree) == 0 {
		return fault.Errorf(fault.Unsupported, "mount image %s: this program has no tree mode", r.ID)
	}
	if r.ReadWriteUpper != "" && os.Geteuid() != 0 {
		return fault.Errorf(fault.Denied, "mount image %s: only root can mount it writable; leave --rw away or run as root", r.ID)
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fault.Errorf(fault.Unsupported, "mount image %s: %w; load the kernel's fuse module", r.ID, err)
	}
	log := h.TreeLog(r.ID, dir)
	head, err := json.Marshal(treeHeader{Dir: []byte(dir), Source: []byte(h.base(r.ID)), ID: r.ID, Size: r.DeviceSize, Meta: len(r.Meta), Spec: r.Spec, Log: []byte(log)})
	if err != nil {
		return fault.Errorf(fault.Invalid, "mount image %s: %w", r.ID, err)
	}
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return fault.Errorf(fault.Of(err), "make the run directory: %w", err)
	}
	in := io.MultiReader(bytes.NewReader(append(head, '\n')), bytes.NewReader(r.Meta))
	if err := dataserver.Background(ctx, h.Tree, h.Env, log, in); err != nil {
		h.dropTreeLogs(r.ID) // the error has the end of it
		return fault.Errorf(fault.Of(err), "mount image %s: %w", r.ID, err)
	}
	return nil
}

// ServeTree is the process of one mount in the tree mode: the command Tree of
// a Host calls it. It reads what to serve from in, mounts it, calls ready, and
// returns when it is unmounted. ctx unmounts it. A read whose Reader fails, or
// takes longer than opt says, is EIO and an event.
func ServeTree(ctx context.Context, in io.Reader, ready func(), open dataserver.Opener, opt dataserver.Options) error {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.ReadTimeout <= 0 {
		opt.ReadTimeout = 75 * time.Second
	}
	br := bufio.NewReaderSize(in, 1<<20)
	line, err := br.ReadSlice('\n')
	if err != nil {
		return fault.Errorf(fault.Invalid, "serve a tree: read what to serve: %w", err)
	}
	var head treeHeader
	if err := json.Unmarshal(line, &head); err != nil {
		return fault.Errorf(fault.Invalid, "serve a tree: read what to serve: %w", err)
	}
	if head.Meta < 0 || head.Meta > 1<<30 {
		return fault.Errorf(fault.Invalid, "serve a tree: %d bytes of metadata are not within 0 and 1 GiB", head.Meta)
	}
	meta := make([]byte, head.Meta)
	if _, err := io.ReadFull(br, meta); err != nil {
		return fault.Errorf(fault.Invalid, "serve a tree: read the metadata: %w", err)
	}
	if len(head.Log) > 0 {
		log, err := lockLog(string(head.Log))
		if err != nil {
			return err
		}
		defer log.Close() // at last: an unmount waits for it
	}
	root, _, err := erofs.Decode(meta)
	if err != nil {
		return err
	}
	slot := dataserver.Slot{Num: 2, Name: head.ID, Size: head.Size, Spec: head.Spec}
	r, err := open(slot)
	if err != nil {
		return fault.Errorf(fault.Of(err), "open the data of image %s: %w", head.ID, err)
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close()
	}
	t := newTreeFS(root, slot, r, opt)
	isRoot := os.Geteuid() == 0
	timeout := forever
	mo := fuse.MountOptions{
		FsName: string(head.Source), Name: "zos-tree", AllowOther: isRoot, DirectMountStrict: isRoot,
		DirectMountFlags: unix.MS_RDONLY, MaxReadAhead: 1 << 20, MaxWrite: 1 << 20,
		Options: []string{"default_permissions"},
	}
	if !isRoot {
		mo.Options = append(mo.Options, "ro")
	}
	server, err := fs.Mount(string(head.Dir), &treeNode{fsys: t, n: root}, &fs.Options{
		MountOptions: mo, EntryTimeout: &timeout, AttrTimeout: &timeout, NegativeTimeout: &timeout,
		RootStableAttr: &fs.StableAttr{Mode: root.Mode, Ino: t.ino[root]},
	})
	if err != nil {
		return fault.Errorf(fault.Unsupported, "mount a FUSE tree at %s: %w; fusermount3 of Debian's fuse3 is needed without root", head.Dir, err)
	}
	stop := context.AfterFunc(ctx, func() { server.Unmount() })
	defer stop()
	ready()
	server.Wait()
	return nil
}

// treeFS is what all nodes of one mount share.
type treeFS struct {
	slot  dataserver.Slot
	r     dataserver.Reader
	opt   dataserver.Options
	ino   map[*tree.Node]uint64
	nlink map[*tree.Node]uint32
	errs  atomic.Int64
}

func newTreeFS(root *tree.Node, slot dataserver.Slot, r dataserver.Reader, opt dataserver.Options) *treeFS {
	t := &treeFS{slot: slot, r: r, opt: opt, ino: make(map[*tree.Node]uint64), nlink: make(map[*tree.Node]uint32)}
	for _, n := range root.Walk() {
		if _, ok := t.ino[n]; !ok {
			t.ino[n] = uint64(len(t.ino) + 1)
		}
		if n.IsDir() {
			t.nlink[n] = 2
			for _, e := range n.Entries {
				if e.Node.IsDir() {
					t.nlink[n]++
				}
			}
		} else {
			t.nlink[n]++
		}
	}
	return t
}

// treeNode is one inode.
type treeNode struct {
	fs.Inode
	fsys *treeFS
	n    *tree.Node
}

var (
	_ fs.NodeLookuper    = (*treeNode)(nil)
	_ fs.NodeReaddirer   = (*treeNode)(nil)
	_ fs.NodeGetattrer   = (*treeNode)(nil)
	_ fs.NodeOpener      = (*treeNode)(nil)
	_ fs.NodeReader      = (*treeNode)(nil)
	_ fs.NodeReadlinker  = (*treeNode)(nil)
	_ fs.NodeGetxattrer  = (*treeNode)(nil)
	_ fs.NodeListxattrer = (*treeNode)(nil)
	_ fs.NodeStatfser    = (*treeNode)(nil)
)

func (t *treeNode) attr(n *tree.Node, out *fuse.Attr) {
	out.Ino = t.fsys.ino[n]
	out.Mode = n.Mode
	out.Uid, out.Gid = n.UID, n.GID
	out.Nlink = t.fsys.nlink[n]
	out.Mtime, out.Mtimensec = uint64(n.Mtime), n.Nsec
	out.Atime, out.Atimensec = out.Mtime, n.Nsec
	out.Ctime, out.Ctimensec = out.Mtime, n.Nsec
	out.Blksize = 4096
	switch n.Type() {
	case tree.Regular:
		out.Size = uint64(n.Size)
	case tree.Symlink:
		out.Size = uint64(len(n.Target))
	case tree.Block, tree.Char:
		out.Rdev = n.Major&0xfff<<8 | n.Minor&0xff | n.Minor&^0xff<<12 // the kernel's 32-bit form
	}
	out.Blocks = (out.Size + 4095) / 4096 * 8
}

func (t *treeNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	t.attr(t.n, &out.Attr)
	return 0
}

func (t *treeNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n := t.n.Lookup(name)
	if n == nil {
		return nil, syscall.ENOENT
	}
	t.attr(n, &out.Attr)
	return t.NewInode(ctx, &treeNode{fsys: t.fsys, n: n}, fs.StableAttr{Mode: n.Mode, Ino: out.Attr.Ino}), 0
}

func (t *treeNode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	es := make([]fuse.DirEntry, len(t.n.Entries))
	for i, e := range t.n.Entries {
		es[i] = fuse.DirEntry{Name: e.Name, Mode: e.Node.Mode, Ino: t.fsys.ino[e.Node]}
	}
	return fs.NewListDirStream(es), 0
}

func (t *treeNode) Readlink(context.Context) ([]byte, syscall.Errno) {
	return []byte(t.n.Target), 0
}

func (t *treeNode) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (t *treeNode) Read(ctx context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n := min(int64(len(dest)), t.n.Size-off)
	if n <= 0 {
		return fuse.ReadResultData(nil), 0
	}
	ctx, cancel := context.WithTimeout(ctx, t.fsys.opt.ReadTimeout)
	defer cancel()
	at := t.n.Offset + off
	if err := t.fsys.r.ReadAt(ctx, dest[:n], at); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, syscall.EINTR
		}
		// An image whose source is gone must not fill the log: lines 1, 2, 4, 8, …
		if k := t.fsys.errs.Add(1); k&(k-1) == 0 {
			t.fsys.opt.Log.Error("read failed", "failures", k, "image", t.fsys.slot.Name, "offset", at, "length", n, "error", err)
		}
		if f := t.fsys.opt.OnEvent; f != nil {
			f(dataserver.Event{Kind: "read", Slot: t.fsys.slot.Num, Name: t.fsys.slot.Name, Offset: at, Length: int(n), Error: err.Error()})
		}
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (t *treeNode) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	for _, x := range t.n.Xattrs {
		if x.Name == name {
			return fill(dest, x.Value)
		}
	}
	return 0, syscall.ENODATA
}

func (t *treeNode) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	var names []byte
	for _, x := range t.n.Xattrs {
		names = append(append(names, x.Name...), 0)
	}
	return fill(dest, string(names))
}

// fill copies s, or tells the size that it needs.
func fill(dest []byte, s string) (uint32, syscall.Errno) {
	if len(dest) < len(s) {
		return uint32(len(s)), syscall.ERANGE
	}
	return uint32(copy(dest, s)), 0
}

func (t *treeNode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, tree.MaxName
	out.Blocks = uint64(t.fsys.slot.Size) / 4096
	out.Files = uint64(len(t.fsys.ino))
	return 0
}
