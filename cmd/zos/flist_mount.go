package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist"
	"zos.internal/flist/convert/fl"
	"zos.internal/flist/dataserver"
	"zos.internal/flist/fetch"
	"zos.internal/flist/lazy"
	"zos.internal/flist/mount"
	"zos.internal/hub/client"
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
	return []string{"ZOS_CACHE=" + a.cacheDir(), "ZOS_CACHE_SIZE=" + a.getenv("ZOS_CACHE_SIZE")}
}

// tracesDir is where the recorded starts of an image are kept.
func (a *app) tracesDir(id flist.ID) string {
	return filepath.Join(a.dataDir(), "starts", id.String())
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
	spec, err := lazy.Prepare(ctx, img, m, a.preparedDir(h, img.ID.String()), lazy.Spec{
		Sources: append([]string{dir}, urls...), Tenant: tenant, Fill: o.fill, Record: a.tracesDir(img.ID),
	})
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return h.Mount(ctx, mount.Request{ID: img.ID.String(), Meta: img.Metadata, DeviceSize: img.DeviceSize(), Target: target,
		Mode: o.mode, ReadWriteUpper: o.upper, NoExec: o.noexec, Suid: o.suid, Spec: b})
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
		Long: "Mount an image on an existing directory. Without arguments, list what is mounted.",
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
			img, m, err := a.open(ctx, args[0])
			if err != nil {
				return err
			}
			mounted, err := a.mountImage(ctx, img, m, args[1], o)
			if err != nil {
				return err
			}
			for _, r := range mounted.Reasons {
				a.note("not used: %s", r)
			}
			return a.print(map[string]any{"id": img.ID.String(), "target": mounted.Target, "mode": mounted.Mode, "reasons": mounted.Reasons},
				facts("image", img.ID.String(), "mounted at", mounted.Target, "mode", string(mounted.Mode)), mounted.Target)
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

// keeperCommand is the process that holds /dev/fuse and the slot table.
func (a *app) keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keeper RUNDIR", Hidden: true, Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			return dataserver.Keep(cmd.Context(), dataserver.KeepConfig{
				RunDir: args[0], Cmd: []string{exe, "flist", "dataserver"}, Env: a.childEnv(), Log: a.logger(), Ready: dataserver.Ready,
			})
		},
	}
}

// dataserverCommand is the process that serves the data of all mounted images.
func (a *app) dataserverCommand() *cobra.Command {
	return &cobra.Command{
		Use: "dataserver", Hidden: true, Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := a.openCache()
			if err != nil {
				// A cache that can't be used must not stop reads.
				a.logger().Warn("reads are not cached", "error", err)
				c = nil
			} else {
				defer func() { err = errors.Join(err, c.Close()) }()
			}
			o := &lazy.Opener{Cache: c, Scheduler: fetch.NewScheduler(fetch.SchedulerOptions{}), Log: a.logger()}
			return dataserver.Child(cmd.Context(), a.slots(o), dataserver.Options{Log: a.logger()})
		},
	}
}

func (a *app) treeserverCommand() *cobra.Command {
	return &cobra.Command{
		Use: "treeserver", Hidden: true, Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := &lazy.Opener{Scheduler: fetch.NewScheduler(fetch.SchedulerOptions{}), Log: a.logger()}
			return mount.ServeTree(cmd.Context(), a.stdin, dataserver.Ready, a.slots(o), dataserver.Options{Log: a.logger()})
		},
	}
}

// flSpec tells a data server to serve a .fl of rfs instead of an image.
type flSpec struct {
	File   string   `json:"fl"`
	Stores []string `json:"stores"`
	Sum    string   `json:"sum"` // SHA-256 of the file, so that another one in its place is noticed
}

// slots opens what a slot of the data server says: an image or a .fl.
func (a *app) slots(o *lazy.Opener) dataserver.Opener {
	return func(s dataserver.Slot) (dataserver.Reader, error) {
		var f flSpec
		if err := json.Unmarshal(s.Spec, &f); err == nil && f.File != "" {
			if sum, err := sumFile(f.File); err != nil || sum != f.Sum {
				return nil, errors.Join(err, fault.Errorf(fault.Conflict, "serve %s: it is not the file that was mounted; unmount it and mount it again", f.File))
			}
			// The device fetches for as long as the slot is there.
			return fl.OpenDevice(context.Background(), f.File, fl.ReadOptions{Stores: f.Stores})
		}
		return o.Slot(s)
	}
}

func (a *app) chunksDir() string { return filepath.Join(a.cacheDir(), "chunks") }

func (a *app) openCache() (*cache.Cache, error) {
	opt := cache.Options{Clock: a.clock, OnEvent: func(e cache.Event) {
		a.logger().Warn("cache "+string(e.Kind), "chunks", e.Chunks, "error", e.Err)
	}}
	if s := a.getenv("ZOS_CACHE_SIZE"); s != "" {
		n, err := parseSize(s)
		if err != nil {
			return nil, err
		}
		opt.MaxBytes = n
	}
	if err := os.MkdirAll(a.cacheDir(), 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "open cache: %w", err)
	}
	return cache.Open(a.chunksDir(), opt)
}

// device reads the content of an opened image in this process. It uses the
// node's cache unless a data server has it.
func (a *app) device(ctx context.Context, img *flist.Image, m *block.Mirrors) (*fetch.Device, func(), error) {
	loc, err := flist.ReadLocator(ctx, m, img)
	if err != nil {
		return nil, nil, err
	}
	view, err := img.View()
	if err != nil {
		return nil, nil, err
	}
	dev, err := fetch.New(view, img.DeviceSize(), nil, img.Getter(m, loc), fetch.Options{Image: img.ID.String(), Domain: img.Domain, Clock: a.clock})
	if err != nil {
		return nil, nil, err
	}
	return dev, func() { dev.Close() }, nil
}

func (a *app) traceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "trace", Short: "Record and publish what a start of an image reads", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(
		&cobra.Command{
			Use: "record IMAGE", Short: "Show the starts that mounts of the image recorded", Args: args(1, 1),
			Long: "Every mount records which chunks are read in its first minute. This shows what is there; trace publish makes one trace of it.",
			RunE: func(cmd *cobra.Command, args []string) error {
				id, _, err := a.resolve(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				starts, err := lazy.RecordedStarts(a.tracesDir(id))
				if err != nil {
					return err
				}
				t := table{columns: []string{"start", "runs", "chunks"}}
				out := []map[string]int{}
				for i, s := range starts {
					t.rows = append(t.rows, []string{fmt.Sprint(i + 1), fmt.Sprint(len(s.Runs)), fmt.Sprint(s.Chunks())})
					out = append(out, map[string]int{"runs": len(s.Runs), "chunks": s.Chunks()})
				}
				if len(starts) == 0 {
					a.note("nothing is recorded yet: mount or run the image, and unmount it or wait a minute")
				}
				return a.print(out, t)
			},
		},
		&cobra.Command{
			Use: "publish IMAGE", Short: "Sign the recorded starts as the image's trace, in the store and on the hub", Args: args(1, 1),
			RunE: func(cmd *cobra.Command, args []string) error { return a.publishTrace(cmd.Context(), args[0]) },
		},
	)
	return cmd
}

func (a *app) publishTrace(ctx context.Context, ref string) error {
	img, _, err := a.open(ctx, ref)
	if err != nil {
		return err
	}
	starts, err := lazy.RecordedStarts(a.tracesDir(img.ID))
	if err != nil {
		return err
	}
	if len(starts) == 0 {
		return fault.Errorf(fault.NotFound, "no start of %v is recorded; run it once, and unmount it or wait a minute", img.ID)
	}
	t, err := fetch.Merge(len(img.Map.Chunks), starts...)
	if err != nil {
		return err
	}
	t = lazy.Group(t, img.Map.Chunks)
	key, err := a.key()
	if err != nil {
		return err
	}
	b, err := flist.SignTrace(t, key)
	if err != nil {
		return err
	}
	store, _, err := a.images()
	if err != nil {
		return err
	}
	if err := writeBytes(ctx, store, flist.TraceKey(img.ID), b); err != nil {
		return err
	}
	hub, err := a.hub()
	if err != nil {
		return err
	}
	where := "the local store"
	if hub != nil {
		// The image is there; a push sends what was added beside it.
		if _, err := hub.Push(ctx, store, img.ID, client.PushOptions{Key: key, Domain: img.Domain}); err != nil {
			return err
		}
		where += " and the hub"
	}
	return a.print(map[string]any{"id": img.ID.String(), "starts": len(starts), "runs": len(t.Runs), "chunks": t.Chunks()},
		facts("image", img.ID.String(), "starts", fmt.Sprint(len(starts)), "chunks", fmt.Sprint(t.Chunks()), "published in", where), img.ID.String())
}

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cache", Short: "Look at and tidy the cache of chunks", Args: cobra.ArbitraryArgs, RunE: group}
	with := func(use, short string, n int, f func(ctx context.Context, c *cache.Cache, args []string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args(n, n), RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := a.openCache()
			if errors.Is(err, fault.Conflict) {
				return fault.Errorf(fault.Conflict, "%w; a data server uses it while images are mounted, unmount them first", err)
			}
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			return f(cmd.Context(), c, args)
		}}
	}
	show := func(c *cache.Cache) error {
		s := c.Stat()
		return a.print(s, facts("directory", a.chunksDir(), "chunks", fmt.Sprint(s.Chunks), "bytes", fmt.Sprint(s.Bytes),
			"pinned", fmt.Sprint(s.Pinned), "slabs", fmt.Sprint(s.Slabs), "pin sets", strings.Join(c.PinSets(), " ")))
	}
	cmd.AddCommand(
		with("stat", "Show how much is cached", 0, func(_ context.Context, c *cache.Cache, _ []string) error { return show(c) }),
		with("gc", "Apply the limits now and give back space", 0, func(ctx context.Context, c *cache.Cache, _ []string) error {
			if err := c.GC(ctx); err != nil {
				return err
			}
			return show(c)
		}),
		with("scrub", "Read and check every cached chunk", 0, func(ctx context.Context, c *cache.Cache, _ []string) error {
			rep, err := c.Scrub(ctx, 0)
			if err != nil {
				return err
			}
			return a.print(rep, facts("checked", fmt.Sprintf("%+v", rep)))
		}),
		with("pin IMAGE", "Fetch a whole image and never evict it", 1, a.pin),
		with("unpin IMAGE", "Let the chunks of an image be evicted again", 1, func(ctx context.Context, c *cache.Cache, args []string) error {
			id, _, err := a.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			return c.Unpin(id.String())
		}),
	)
	return cmd
}

// pin fetches all chunks of an image into the cache and keeps them there, and
// its description into the local store: it starts without a hub from then on.
func (a *app) pin(ctx context.Context, c *cache.Cache, args []string) error {
	img, m, err := a.open(ctx, args[0])
	if err != nil {
		return err
	}
	hub, err := a.hub()
	if err != nil {
		return err
	}
	if hub != nil {
		store, _, err := a.images()
		if err != nil {
			return err
		}
		if _, err := store.Stat(ctx, flist.RootKey(img.ID)); errors.Is(err, fault.NotFound) {
			if _, err := hub.Pull(ctx, store, img.ID, client.PullOptions{MetadataOnly: true, Domain: img.Domain}); err != nil {
				return err
			}
		}
		if !isHex(args[0]) {
			if err := a.copyPointer(ctx, hub, store, args[0]); err != nil && !errors.Is(err, fault.Unavailable) && !errors.Is(err, fault.NotFound) {
				return err
			}
		}
	}
	loc, err := flist.ReadLocator(ctx, m, img)
	if err != nil {
		return err
	}
	names := make([]block.Name, len(img.Map.Chunks))
	for i, ch := range img.Map.Chunks {
		names[i] = ch.Name
	}
	if _, err := c.Pin(img.ID.String(), img.Domain, names); err != nil {
		return err
	}
	bar := a.reporter()
	defer bar.Close()
	var done, total int64
	for _, ch := range img.Map.Chunks {
		total += int64(ch.Plain)
	}
	for ch, err := range c.Getter(img.Getter(m, loc), img.Domain).Get(ctx, names) {
		if err != nil {
			return err
		}
		done += int64(len(ch.Data))
		bar.Update("pin", done, total)
	}
	return c.Flush()
}
