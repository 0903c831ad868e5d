package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"zos.internal/flist"
	"zos.internal/flist/fetch"
	"zos.internal/flist/lazy"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

// tracesDir is where the recorded starts of an image are kept.
func (a *app) tracesDir(id flist.ID) string {
	return filepath.Join(a.dataDir(), "starts", id.String())
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
	if err := flist.LayStart(ctx, store, img, t); err != nil {
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
