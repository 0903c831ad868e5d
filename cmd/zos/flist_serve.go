package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist"
	"zos.internal/flist/convert/fl"
	"zos.internal/flist/dataserver"
	"zos.internal/flist/fetch"
	"zos.internal/flist/lazy"
	"zos.internal/flist/mount"
	"zos.internal/internal/fault"
)

// keeperCommand is the process that holds /dev/fuse and the slot table.
func (a *app) keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keeper RUNDIR", Hidden: true, Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			a.lean()
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
			// One per machine, beside everybody's workloads: memory before speed.
			debug.SetGCPercent(50)
			debug.SetMemoryLimit(serverMemory)
			c, err := a.openCache()
			if err != nil {
				// A cache that can't be used must not stop reads.
				a.logger().Warn("reads are not cached", "error", err)
				c = nil
			} else {
				stop := a.scrubAlways(cmd.Context(), c)
				defer func() {
					stop()
					err = errors.Join(err, c.Close())
				}()
			}
			o := &lazy.Opener{Cache: c, Scheduler: fetch.NewScheduler(fetch.SchedulerOptions{MemoryBytes: chunkMemory}), Log: a.logger()}
			opt := dataserver.Options{Log: a.logger()}
			if o.Deadline, opt.ReadTimeout, err = a.readTimeouts(); err != nil {
				return err
			}
			a.lean()
			return dataserver.Child(cmd.Context(), a.slots(o), opt)
		},
	}
}

func (a *app) treeserverCommand() *cobra.Command {
	return &cobra.Command{
		Use: "treeserver", Hidden: true, Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			o := &lazy.Opener{Scheduler: fetch.NewScheduler(fetch.SchedulerOptions{}), Log: a.logger()}
			opt := dataserver.Options{Log: a.logger()}
			if o.Deadline, opt.ReadTimeout, err = a.readTimeouts(); err != nil {
				return err
			}
			return mount.ServeTree(cmd.Context(), a.stdin, dataserver.Ready, a.slots(o), opt)
		},
	}
}

// readTimeouts are the deadlines of a read of a mounted image: of its fetch, and
// of the answer, which is later so that the error of the fetch comes first. Zero
// is the default.
func (a *app) readTimeouts() (fetch, answer time.Duration, err error) {
	s := a.getenv("ZOS_READ_TIMEOUT")
	if s == "" {
		return 0, 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d > time.Hour {
		return 0, 0, fault.Errorf(fault.Invalid, "ZOS_READ_TIMEOUT is %q; set it to a time from 1s to 1h, such as 30s", s)
	}
	return d, d + 15*time.Second, nil
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

// Memory of the data server in bytes. The limit is one that the collector aims
// at; chunks that were loaded and are about to be read are part of it.
const (
	serverMemory = 32 << 20
	chunkMemory  = 8 << 20
)

// Scrubbing of the cache in the background.
const (
	scrubRate  = 8 << 20          // bytes a second
	scrubAfter = 10 * time.Minute // a start comes first
	scrubEvery = 24 * time.Hour
)

// scrubAlways checks the whole cache once a day, slowly, until stop is called.
func (a *app) scrubAlways(ctx context.Context, c *cache.Cache) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(scrubAfter)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			if rep, err := c.Scrub(ctx, scrubRate); err == nil {
				a.logger().Info("cache scrubbed", "report", rep)
			} else if ctx.Err() == nil {
				a.logger().Warn("cache not scrubbed", "error", err)
			}
			timer.Reset(scrubEvery)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
