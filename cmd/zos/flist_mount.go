package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/lazy"
	"zos.internal/flist/mount"
	"zos.internal/internal/fault"
)

// host mounts images with this program as keeper, data server and tree server.
func (a *app) host() (mount.Host, error) {
	exe, err := os.Executable()
	if err != nil {
		return mount.Host{}, fault.Errorf(fault.Internal, "find this program: %w", err)
	}
	run := filepath.Join(a.runDir(), "flist")
	return mount.Host{
		RunDir: run,
		Keeper: []string{exe, "flist", "keeper", run},
		Tree:   []string{exe, "flist", "treeserver"},
		Env:    a.childEnv(),
		Log:    a.logger(),
	}, nil
}

// childEnv hands the directories to the processes that serve mounts.
func (a *app) childEnv() []string {
	return []string{"ZOS_CACHE=" + a.cacheDir(), "ZOS_CACHE_SIZE=" + a.getenv("ZOS_CACHE_SIZE"), "ZOS_READ_TIMEOUT=" + a.getenv("ZOS_READ_TIMEOUT")}
}

func (a *app) preparedDir(h mount.Host, id string) string {
	return filepath.Join(h.RunDir, "prepared", id)
}

// mountOptions are the choices of mount and run.
type mountOptions struct {
	mode   mount.Mode
	upper  string
	noexec bool
	suid   bool
	fill   bool
}

// mountImage mounts an opened image lazily.
func (a *app) mountImage(ctx context.Context, img *flist.Image, m *block.Mirrors, target string, o mountOptions) (*mount.Mounted, error) {
	h, err := a.host()
	if err != nil {
		return nil, err
	}
	_, tenant, err := a.domain()
	if err != nil {
		return nil, err
	}
	if tenant != "" {
		if tenant, err = filepath.Abs(tenant); err != nil {
			return nil, err
		}
	}
	_, dir, err := a.images()
	if err != nil {
		return nil, err
	}
	urls, err := a.hubURLs()
	if err != nil {
		return nil, err
	}
	// Nobody tidies what is prepared until it is mounted.
	unlock, err := lockFile(filepath.Join(h.RunDir, "prepared"), ".lock", unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, _, err := a.readTimeouts(); err != nil {
		return nil, err // else the data server says it where nobody looks
	}
	from, near := nearOnly(ctx, m, flist.LocatorKey(img.ID))
	spec, err := lazy.Prepare(ctx, img, from, a.preparedDir(h, img.ID.String()), lazy.Spec{
		Sources: append([]string{dir}, urls...), Tenant: tenant, Fill: o.fill, Record: a.tracesDir(img.ID),
	})
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	mounted, err := h.Mount(ctx, mount.Request{ID: img.ID.String(), Meta: img.Metadata, DeviceSize: img.DeviceSize(), Target: target,
		Mode: o.mode, ReadWriteUpper: o.upper, NoExec: o.noexec, Suid: o.suid, Spec: b})
	if err == nil && !near {
		a.keepMetadata(ctx, img)
	}
	return mounted, err
}

// mountAgain mounts an image that is mounted elsewhere already: only its root is
// read. NotFound: it isn't mounted, or its root is not on this machine.
func (a *app) mountAgain(ctx context.Context, id flist.ID, target string, o mountOptions) (*mount.Mounted, error) {
	h, err := a.host()
	if err != nil {
		return nil, err
	}
	infos, err := h.List()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(infos, func(i mount.Info) bool { return i.ID == id.String() }) {
		return nil, fault.Errorf(fault.NotFound, "image %v is not mounted", id)
	}
	dom, _, err := a.domain()
	if err != nil {
		return nil, err
	}
	store, _, err := a.images()
	if err != nil {
		return nil, err
	}
	root, err := flist.OpenRoot(ctx, store, id, dom)
	if kept := a.kept(id); err != nil && fault.Of(err) == fault.NotFound && kept != nil {
		root, err = flist.OpenRoot(ctx, kept, id, dom)
	}
	if err != nil {
		return nil, err
	}
	return h.Mount(ctx, mount.Request{ID: id.String(), DeviceSize: int64(root.DeviceBlocks) * flist.BlockSize, Target: target,
		Mode: o.mode, ReadWriteUpper: o.upper, NoExec: o.noexec, Suid: o.suid})
}

// mountRef is the command mount.
func (a *app) mountRef(ctx context.Context, ref, target string, o mountOptions) (flist.ID, *mount.Mounted, error) {
	id, _, err := a.resolve(ctx, ref)
	if err != nil {
		return id, nil, err
	}
	mounted, err := a.mountAgain(ctx, id, target, o)
	if err == nil || fault.Of(err) != fault.NotFound && fault.Of(err) != fault.Invalid {
		return id, mounted, err
	}
	img, m, err := a.openToMount(ctx, id)
	if err != nil {
		return id, nil, err
	}
	mounted, err = a.mountImage(ctx, img, m, target, o)
	return id, mounted, err
}

// unmountImage takes an image away and forgets what was prepared for it when
// this was its last target.
func (a *app) unmountImage(ctx context.Context, target string) error {
	h, err := a.host()
	if err != nil {
		return err
	}
	if err := h.Unmount(ctx, target); err != nil {
		return err
	}
	unlock, err := lockFile(filepath.Join(h.RunDir, "prepared"), ".lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	used := make(map[string]bool)
	infos, err := h.List()
	if err != nil {
		return err
	}
	for _, i := range infos {
		used[i.ID] = true
	}
	dirs, err := os.ReadDir(filepath.Join(h.RunDir, "prepared"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, d := range dirs {
		if d.IsDir() && !used[d.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(h.RunDir, "prepared", d.Name())))
		}
	}
	return err
}

func (a *app) mountCommand() *cobra.Command {
	var o mountOptions
	var mode string
	cmd := &cobra.Command{
		Use: "mount [IMAGE DIRECTORY]", Short: "Mount an image; files are fetched when they are touched", Args: args(0, 2),
		Long: `Mount an image on an existing directory. Without arguments, list what is mounted.

Reads that failed are logged in flist/keeper.log of the run directory, those of the
mode tree in flist/tree/ID while the image is mounted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if len(args) == 0 {
				return a.listMounts()
			}
			if len(args) == 1 {
				return &usageError{cmd, fmt.Errorf("say where to mount it")}
			}
			var err error
			if o.mode, err = mount.ParseMode(mode); err != nil {
				return err
			}
			id, mounted, err := a.mountRef(ctx, args[0], args[1], o)
			if err != nil {
				return err
			}
			for _, r := range mounted.Reasons {
				a.note("not used: %s", r)
			}
			return a.print(map[string]any{"id": id.String(), "target": mounted.Target, "mode": mounted.Mode, "reasons": mounted.Reasons},
				facts("image", id.String(), "mounted at", mounted.Target, "mode", string(mounted.Mode)), mounted.Target)
		},
	}
	f := cmd.Flags()
	f.StringVar(&mode, "mode", "auto", "how: auto, fuse-file, loop or tree")
	f.StringVar(&o.upper, "rw", "", "make it writable; changes go to this `directory` (tmpfs: to memory)")
	f.BoolVar(&o.noexec, "noexec", false, "nothing on the mount can be executed")
	f.BoolVar(&o.suid, "suid", false, "honour set-user-id files and capabilities")
	f.BoolVar(&o.fill, "fill", false, "fetch the whole image when the line is idle")
	return cmd
}

func (a *app) listMounts() error {
	h, err := a.host()
	if err != nil {
		return err
	}
	infos, err := h.List()
	if err != nil {
		return err
	}
	if infos == nil {
		infos = []mount.Info{}
	}
	t := table{columns: []string{"image", "target", "mode", "writable"}}
	var names []string
	for _, i := range infos {
		t.rows = append(t.rows, []string{i.ID, i.Target, string(i.Mode), fmt.Sprint(i.Writable)})
		names = append(names, i.Target)
	}
	return a.print(infos, t, names...)
}

func (a *app) unmountCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unmount DIRECTORY", Aliases: []string{"umount"}, Short: "Take an image away from a directory", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.unmountImage(cmd.Context(), args[0]) },
	}
}
