// Package mount makes an image appear as a directory.
//
// There are three ways, tried in this order unless a Request names one:
//
//   - fuse-file: the kernel's EROFS reads the metadata from a private ramfs and
//     the data from one file of the data server. Everything but missing data
//     stays in the kernel.
//   - loop: the same two files behind read-only loop devices, for kernels whose
//     EROFS mounts block devices only (before Linux 6.12).
//   - tree: a FUSE file system made from the decoded metadata, in a process of
//     its own; slower, and for users without root.
//
// The first two share one EROFS mount per image, below the run directory; a
// target is a clone of it or an overlay upon it. Mounts are the kernel's: they
// outlive the program that made them and the data server that feeds them.
//
// Guarantees: a mounted tree equals the image in everything that lstat, the
// extended attributes, the link targets and the contents say; it can't be
// written; a failed Mount leaves nothing; Unmount of the last target lets the
// image go. It checks nothing: metadata must have passed erofs.Check, and the
// data server's Reader verifies data.
//
// When the keeper of the data server was killed its mounts give EIO. The next
// Mount, Unmount or Clean takes them away.
//
//	h := mount.Host{RunDir: "/run/zos/flist", Keeper: []string{exe, "flist", "keeper"}}
//	m, err := h.Mount(ctx, mount.Request{ID: id, Meta: meta, DeviceSize: size, Target: "/mnt", Spec: spec})
//	err = h.Unmount(ctx, "/mnt")
package mount

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/internal/fault"
)

// Mode is a way to mount.
type Mode string

// The modes. Auto takes the first that works.
const (
	Auto     Mode = "auto"
	FuseFile Mode = "fuse-file"
	Loop     Mode = "loop"
	Tree     Mode = "tree"
)

// ParseMode reads the text form of a mode; "" is Auto.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return Auto, nil
	case Auto, FuseFile, Loop, Tree:
		return m, nil
	}
	return "", fault.Errorf(fault.Invalid, "the mount mode %.40q is unknown; use auto, fuse-file, loop or tree", s)
}

// TmpfsUpper as ReadWriteUpper keeps what is written in memory; it is gone
// with the mount.
const TmpfsUpper = "tmpfs"

// Request says what to mount where.
type Request struct {
	// ID names the image; equal ids share one EROFS mount.
	ID string
	// Meta is the EROFS metadata, verified. Without it only an image that is
	// mounted in this run directory can be, once more; else it is NotFound.
	Meta []byte
	// DeviceSize is the size of the data device in bytes.
	DeviceSize int64
	// Target is an existing directory.
	Target string
	// Mode is how; "" is Auto.
	Mode Mode
	// ReadWriteUpper makes the target writable: an overlay whose changes go to
	// this directory (its subdirectories upper and work), or TmpfsUpper.
	// Empty: read-only.
	ReadWriteUpper string
	// UpperSize bounds a TmpfsUpper in bytes; 0 is half of the memory.
	UpperSize int64
	// Suid, Dev and NoExec change the flags of the target. Without them it is
	// nosuid and nodev.
	Suid, Dev, NoExec bool
	// Spec tells the data server's Opener what to read.
	Spec json.RawMessage
}

// Host mounts images on this machine. All Hosts of one run directory share
// their mounts.
type Host struct {
	// RunDir holds the sockets and the shared mounts; see DefaultRunDir.
	RunDir string
	// Keeper is the command that runs dataserver.Keep for RunDir.
	Keeper []string
	// Tree is the command that calls ServeTree; without it there is no tree
	// mode.
	Tree []string
	// Env is added to the environment of both.
	Env []string
	// Log gets state changes; nil discards them.
	Log *slog.Logger
}

// Mounted tells how a request was carried out.
type Mounted struct {
	Target string
	Mode   Mode
	// Reasons says why each earlier mode was not used.
	Reasons []string
}

// Info is one target.
type Info struct {
	ID       string `json:"id"`
	Target   string `json:"target"`
	Mode     Mode   `json:"mode"`
	Writable bool   `json:"writable"`
}

// DefaultRunDir is where the user's images are kept: below /run for root,
// else below $XDG_RUNTIME_DIR or the temporary directory.
func DefaultRunDir(getenv func(string) string) string {
	if os.Geteuid() == 0 {
		return "/run/zos/flist"
	}
	if d := getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "zos", "flist")
	}
	return filepath.Join(os.TempDir(), "zos-flist-"+strings.TrimPrefix(filepath.Base("/"+getenv("USER")), "/"))
}

func (h Host) client() dataserver.Client {
	return dataserver.Client{RunDir: h.RunDir, Start: h.Keeper, Env: h.Env}
}

func (h Host) log() *slog.Logger {
	if h.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Log
}

// base is where the shared mount of an image is.
func (h Host) base(id string) string { return filepath.Join(h.RunDir, "img", id) }

func (r *Request) check() error {
	if r.ID == "" || len(r.ID) > 128 || r.ID[0] == '.' || strings.ContainsAny(r.ID, "/\x00:,\\ \n\t") {
		return fault.Errorf(fault.Invalid, "mount: the image id %.140q is not one", r.ID)
	}
	if r.DeviceSize < 0 {
		return fault.Errorf(fault.Invalid, "mount image %s: the size of the data device is needed, not %d", r.ID, r.DeviceSize)
	}
	target, err := filepath.Abs(r.Target)
	if err == nil {
		target, err = filepath.EvalSymlinks(target)
	}
	if err != nil {
		return fault.Errorf(fault.Of(err), "mount image %s at %s: %w; make the directory first", r.ID, r.Target, err)
	}
	if st, err := os.Stat(target); err != nil || !st.IsDir() {
		return fault.Errorf(fault.Invalid, "mount image %s at %s: not a directory", r.ID, r.Target)
	}
	r.Target = target
	if r.Mode == "" {
		r.Mode = Auto
	}
	_, err = ParseMode(string(r.Mode))
	return err
}

// Mount mounts an image. It is undone completely when it fails.
func (h Host) Mount(ctx context.Context, r Request) (*Mounted, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(h.RunDir) || strings.ContainsAny(h.RunDir, ":,\\") {
		return nil, fault.Errorf(fault.Invalid, "mount image %s: the run directory %q must be absolute and without colon, comma and backslash", r.ID, h.RunDir)
	}
	unlock, err := h.lockImage(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := h.Clean(ctx); err != nil {
		return nil, err
	}
	if err := h.targetFree(&r); err != nil {
		return nil, err
	}
	modes := []Mode{r.Mode}
	if r.Mode == Auto {
		modes = []Mode{FuseFile, Loop, Tree}
	}
	m := &Mounted{Target: r.Target}
	var errs []error
	for _, mode := range modes {
		err := h.mountAs(ctx, mode, &r)
		if err == nil {
			m.Mode = mode
			h.log().Info("image mounted", "image", r.ID, "target", r.Target, "mode", string(mode))
			return m, nil
		}
		// Only a machine that can't do it is a reason to try the next way; a
		// hub that is away, a busy target or a bad request fail in each.
		if k := fault.Of(err); k != fault.Unsupported && k != fault.Denied || ctx.Err() != nil {
			return nil, err
		}
		m.Reasons = append(m.Reasons, string(mode)+": "+err.Error())
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, fault.Errorf(fault.Of(errs[0]), "mount image %s: no mode works here: %w", r.ID, errors.Join(errs...))
}

// targetFree refuses a target that shows an image, and an upper directory that
// another overlay writes to.
func (h Host) targetFree(r *Request) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	_, targets := mounts.images(h.RunDir)
	for _, t := range targets {
		if t.target == r.Target {
			return fault.Errorf(fault.Conflict, "mount image %s at %s: the image %s is mounted there; unmount it first", r.ID, r.Target, t.image)
		}
	}
	if r.ReadWriteUpper == "" || r.ReadWriteUpper == TmpfsUpper {
		return nil
	}
	upper, err := filepath.Abs(r.ReadWriteUpper)
	if err != nil {
		return fault.As(fault.Invalid, err)
	}
	for _, m := range mounts {
		if m.fstype == "overlay" && slices.Contains(m.options, "upperdir="+escapeColons(filepath.Join(upper, "upper"))) {
			return fault.Errorf(fault.Conflict, "mount image %s at %s: the overlay at %s writes to %s; name another directory for the changes", r.ID, r.Target, m.target, upper)
		}
	}
	return nil
}

func (h Host) mountAs(ctx context.Context, mode Mode, r *Request) error {
	if len(r.Meta) == 0 {
		mounts, err := readMounts()
		if err != nil {
			return err
		}
		if os.Geteuid() != 0 || mounts.at(h.base(r.ID)) == nil {
			return fault.Errorf(fault.NotFound, "mount image %s: it is not mounted yet, so its metadata is needed", r.ID)
		}
	}
	if mode == Tree && os.Geteuid() != 0 {
		return h.treeAt(ctx, r, r.Target)
	}
	if os.Geteuid() != 0 {
		return fault.Errorf(fault.Denied, "mount image %s: the mode %s needs root; use --mode tree", r.ID, mode)
	}
	created, err := h.ensureBase(ctx, mode, r)
	if err != nil {
		return err
	}
	if r.ReadWriteUpper != "" {
		err = overlay(h.RunDir, h.base(r.ID), r)
	} else {
		err = cloneMount(h.base(r.ID), r.Target, r.attrs()|unix.MOUNT_ATTR_RDONLY)
	}
	if err != nil && created {
		h.dropBase(context.WithoutCancel(ctx), r.ID, mode)
	}
	return err
}

// attrs are the mount attributes of the target.
func (r *Request) attrs() uint64 {
	var a uint64
	if !r.Suid {
		a |= unix.MOUNT_ATTR_NOSUID
	}
	if !r.Dev {
		a |= unix.MOUNT_ATTR_NODEV
	}
	if r.NoExec {
		a |= unix.MOUNT_ATTR_NOEXEC
	}
	return a
}

// ensureBase makes the shared mount of an image, or finds it. An image that is
// mounted keeps its mode; asking for another one is a Conflict.
func (h Host) ensureBase(ctx context.Context, mode Mode, r *Request) (created bool, err error) {
	base := h.base(r.ID)
	mounts, err := readMounts()
	if err != nil {
		return false, err
	}
	if m := mounts.at(base); m != nil {
		if have := m.mode(); have != mode && r.Mode != Auto {
			return false, fault.Errorf(fault.Conflict, "mount image %s: it is mounted in the mode %s already; use that, or unmount it everywhere first", r.ID, have)
		}
		return false, nil
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return false, fault.Errorf(fault.Of(err), "make the mount point %s: %w", base, err)
	}
	if mode == Tree {
		err = h.treeAt(ctx, r, base)
	} else {
		err = h.erofsBase(ctx, mode, r, base)
	}
	if err != nil {
		os.Remove(base)
		return false, err
	}
	return true, nil
}

// erofsBase registers the data with the data server and mounts EROFS at base.
func (h Host) erofsBase(ctx context.Context, mode Mode, r *Request, base string) (err error) {
	// Asked before anything is made, so that a machine without EROFS starts no
	// data server.
	if err := haveFilesystem("erofs"); err != nil {
		return err
	}
	c := h.client()
	if _, err := c.Add(ctx, dataserver.Slot{Name: r.ID, Size: r.DeviceSize, Spec: r.Spec}); err != nil {
		return fault.Errorf(fault.Of(err), "mount image %s: %w", r.ID, err)
	}
	defer func() {
		if err != nil {
			c.Remove(context.WithoutCancel(ctx), r.ID)
			h.dropMeta(context.WithoutCancel(ctx))
		}
	}()
	// One at a time, so that the ramfs stays until the mount has its file open.
	unlock, err := h.lockImage(ctx, "")
	if err != nil {
		return err
	}
	defer unlock()
	meta, err := h.writeMeta(r)
	if err != nil {
		return err
	}
	defer os.Remove(meta) // the mount holds it open; its memory goes with the mount
	data := dataserver.DataPath(h.RunDir, r.ID)
	before, _ := filepath.Glob(erofsDevices)
	if mode == Loop {
		err = mountLoop(meta, data, base)
	} else {
		err = mountErofs(meta, data, base)
	}
	if err != nil {
		return fault.Errorf(fault.Of(err), "mount image %s: %w", r.ID, err)
	}
	raiseReadahead(base, before)
	return nil
}

// writeMeta puts the metadata where the kernel can mount it from: a private
// ramfs (EROFS mounts nothing from tmpfs), else the run directory's disk.
func (h Host) writeMeta(r *Request) (string, error) {
	dir := filepath.Join(h.RunDir, "meta")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fault.Errorf(fault.Of(err), "make %s: %w", dir, err)
	}
	mounts, err := readMounts()
	if err != nil {
		return "", err
	}
	if mounts.at(dir) == nil {
		if err := unix.Mount("zos-meta", dir, "ramfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			h.log().Warn("no ramfs for metadata, the run directory is used", "error", err)
		} else {
			unix.Mount("", dir, "", unix.MS_PRIVATE, "")
		}
	}
	path := filepath.Join(dir, r.ID)
	if err := os.WriteFile(path, r.Meta, 0o600); err != nil {
		os.Remove(path)
		return "", fault.Errorf(fault.Of(err), "write the metadata of image %s: %w", r.ID, err)
	}
	return path, nil
}
