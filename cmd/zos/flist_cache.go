package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
	"zos.internal/internal/size"
)

func (a *app) chunksDir() string { return filepath.Join(a.cacheDir(), "chunks") }

func (a *app) openCache() (*cache.Cache, error) {
	opt := cache.Options{Clock: a.clock, OnEvent: func(e cache.Event) {
		a.logger().Warn("cache "+string(e.Kind), "chunks", e.Chunks, "error", e.Err)
	}}
	if s := a.getenv("ZOS_CACHE_SIZE"); s != "" {
		n, err := size.Parse(s)
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "ZOS_CACHE_SIZE: %w", err)
		}
		opt.MaxBytes = n
	}
	if err := os.MkdirAll(a.cacheDir(), 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "open cache: %w", err)
	}
	return cache.Open(a.chunksDir(), opt)
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
