package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/fl"
	"zos.internal/flist/erofs"
	"zos.internal/flist/mount"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
)

// flOptions are the flags that rfs has on most of its verbs.
type flOptions struct {
	meta   string
	stores []string
	cache  string
}

// flCommand holds the verbs of rfs, for people who move over.
func (a *app) flCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fl", Short: "Work with .fl images of rfs, with its verbs", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.flPack(), a.flUnpack(), a.flMount(), a.flClone(), a.flConfig(), a.flDocker(), a.flFlist())
	return cmd
}

func (o *flOptions) flags(cmd *cobra.Command, stores string) {
	f := cmd.Flags()
	f.StringVarP(&o.meta, "meta", "m", "", "the .fl `file`")
	f.StringArrayVarP(&o.stores, "store-url", "s", nil, stores+"; `[xx-yy=]URL`, repeat for several")
	f.StringVarP(&o.cache, "cache", "c", "", "`directory` that keeps fetched blocks")
	_ = cmd.MarkFlagRequired("meta")
}

func (a *app) flPack() *cobra.Command {
	var o flOptions
	var keep, strict bool
	cmd := &cobra.Command{
		Use: "pack -m FILE -s URL DIRECTORY", Short: "Make a .fl of a directory", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.flWrite(cmd.Context(), "dir:"+args[0], &o, keep, strict)
		},
	}
	o.flags(cmd, "store that the blocks go to")
	cmd.Flags().BoolVar(&keep, "no-strip-password", false, "keep passwords of stores in the .fl")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail instead of losing what a .fl can't hold")
	return cmd
}

// flWrite packs a source into a .fl.
func (a *app) flWrite(ctx context.Context, source string, o *flOptions, keep, strict bool) (err error) {
	bar := a.reporter()
	defer bar.Close()
	res, err := convert.Open(ctx, source, a.sources(nil), convert.Options{Progress: bar.Update})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	rep, err := fl.Write(ctx, res.Root, res.Config, o.meta, fl.WriteOptions{
		WriteOptions: convert.WriteOptions{Progress: bar.Update}, Stores: o.stores, KeepPasswords: keep, Strict: strict,
		Losses: a.noteLosses,
	})
	if err != nil {
		return err
	}
	bar.Close()
	for _, n := range rep.Notes {
		a.note("note: %s", n)
	}
	return a.print(rep, facts("file", o.meta, "entries", fmt.Sprint(rep.Entries), "content", progress.Size(rep.Bytes),
		"blocks", fmt.Sprintf("%d, %d new (%s)", rep.Blocks, rep.NewBlocks, progress.Size(rep.NewBytes))), o.meta)
}

func (a *app) noteLosses(losses []fl.Loss) {
	for _, l := range losses {
		a.note("not kept: %v", l)
	}
}

func (a *app) flUnpack() *cobra.Command {
	var o flOptions
	var owner bool
	cmd := &cobra.Command{
		Use: "unpack -m FILE DIRECTORY", Short: "Write the files of a .fl into a directory", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			bar := a.reporter()
			defer bar.Close()
			res, err := fl.Read(ctx, o.meta, fl.ReadOptions{Options: convert.Options{Progress: bar.Update}, Stores: o.stores, CacheDir: o.cache})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, res.Close()) }()
			_, err = a.writeDir(ctx, args[0], res.Root, convert.WriteOptions{Progress: bar.Update})
			return err
		},
	}
	o.flags(cmd, "store to read from instead of those in the .fl")
	cmd.Flags().BoolVarP(&owner, "preserve-ownership", "p", false, "accepted for rfs; owners are kept when run as root")
	return cmd
}

func (a *app) flClone() *cobra.Command {
	var o flOptions
	var from []string
	cmd := &cobra.Command{
		Use: "clone -m FILE -s URL", Short: "Copy the blocks of a .fl to other stores", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			bar := a.reporter()
			defer bar.Close()
			rep, err := fl.Clone(cmd.Context(), o.meta, fl.CloneOptions{Stores: o.stores, From: from, Progress: bar.Update})
			if err != nil {
				return err
			}
			return a.print(rep, facts("blocks", fmt.Sprint(rep.Blocks), "copied", fmt.Sprintf("%d (%s)", rep.Copied, progress.Size(rep.Bytes)),
				"were there", fmt.Sprint(rep.Present)), o.meta)
		},
	}
	o.flags(cmd, "store to copy to")
	cmd.Flags().StringArrayVar(&from, "from", nil, "`URL` of a store to read from instead of those in the .fl")
	return cmd
}

func (a *app) flDocker() *cobra.Command {
	var o flOptions
	var image string
	var strict bool
	cmd := &cobra.Command{
		Use: "docker -i HOST/NAME[:TAG] -m FILE -s URL", Short: "Make a .fl of a container image in a registry", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.flWrite(cmd.Context(), "registry:"+image, &o, false, strict)
		},
	}
	o.flags(cmd, "store that the blocks go to")
	cmd.Flags().StringVarP(&image, "image-name", "i", "", "`reference` of the image, with its registry")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail instead of losing what a .fl can't hold")
	_ = cmd.MarkFlagRequired("image-name")
	return cmd
}

func (a *app) flFlist() *cobra.Command {
	var o flOptions
	cmd := &cobra.Command{Use: "flist", Short: "Look into a .fl without its stores", Args: cobra.ArbitraryArgs, RunE: group}
	tree := &cobra.Command{
		Use: "tree -m FILE", Short: "List the files", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := fl.List(cmd.Context(), o.meta)
			if err != nil {
				return err
			}
			t := table{columns: []string{"", "", ""}}
			var out []lsEntry
			var names []string
			for p, n := range root.Walk() {
				if p == "" {
					continue
				}
				e := entryOf(p, n)
				out = append(out, e)
				names = append(names, printable(p))
				t.rows = append(t.rows, []string{e.Mode, fmt.Sprint(e.Size), printable(p)})
			}
			return a.print(out, t, names...)
		},
	}
	inspect := &cobra.Command{
		Use: "inspect -m FILE", Short: "Show counts, tags and stores", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := fl.Inspect(cmd.Context(), o.meta)
			if err != nil {
				return err
			}
			t := facts("entries", fmt.Sprint(i.Entries), "files", fmt.Sprint(i.Files), "directories", fmt.Sprint(i.Dirs),
				"content", progress.Size(i.Bytes), "blocks", fmt.Sprintf("%d, %d different", i.Blocks, i.Distinct))
			for _, tag := range i.Tags {
				t.rows = append(t.rows, []string{"tag:", tag.Key + "=" + tag.Value})
			}
			for _, r := range i.Routes {
				t.rows = append(t.rows, []string{"store:", r})
			}
			return a.print(i, t, o.meta)
		},
	}
	for _, c := range []*cobra.Command{tree, inspect} {
		o.flags(c, "accepted for rfs")
		cmd.AddCommand(c)
	}
	return cmd
}

func (a *app) flConfig() *cobra.Command {
	var meta string
	cmd := &cobra.Command{Use: "config", Short: "Read and change the tags and stores of a .fl", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.PersistentFlags().StringVarP(&meta, "meta", "m", "", "the .fl `file`")
	_ = cmd.MarkPersistentFlagRequired("meta")
	cmd.AddCommand(flTags(a, &meta), flStores(a, &meta))
	return cmd
}

func flTags(a *app, meta *string) *cobra.Command {
	cmd := &cobra.Command{Use: "tag", Short: "Tags", Args: cobra.ArbitraryArgs, RunE: group}
	var set, keys []string
	var all bool
	list := &cobra.Command{Use: "list", Short: "Show the tags", Args: args(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		tags, err := fl.Tags(cmd.Context(), *meta)
		if err != nil {
			return err
		}
		t := table{columns: []string{"key", "value"}}
		var names []string
		for _, x := range tags {
			t.rows = append(t.rows, []string{printable(x.Key), printable(x.Value)})
			names = append(names, x.Key)
		}
		return a.print(tags, t, names...)
	}}
	add := &cobra.Command{Use: "add", Short: "Add or replace tags", Args: args(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		var tags []fl.Tag
		for _, s := range set {
			k, v, ok := strings.Cut(s, "=")
			if !ok || k == "" {
				return &usageError{cmd, fmt.Errorf("the tag %q is not KEY=VALUE", s)}
			}
			tags = append(tags, fl.Tag{Key: k, Value: v})
		}
		return fl.SetTags(cmd.Context(), *meta, tags)
	}}
	add.Flags().StringArrayVarP(&set, "tag", "t", nil, "`KEY=VALUE`; repeat for several")
	del := &cobra.Command{Use: "delete", Short: "Delete tags", Args: args(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		if all {
			return fl.DeleteAllTags(cmd.Context(), *meta)
		}
		return fl.DeleteTags(cmd.Context(), *meta, keys...)
	}}
	del.Flags().StringArrayVarP(&keys, "key", "k", nil, "`key` to delete; repeat for several")
	del.Flags().BoolVarP(&all, "all", "a", false, "delete all")
	cmd.AddCommand(list, add, del)
	return cmd
}

func flStores(a *app, meta *string) *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Stores", Args: cobra.ArbitraryArgs, RunE: group}
	var urls, gone []string
	var all, keep bool
	list := &cobra.Command{Use: "list", Short: "Show the stores", Args: args(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		routes, err := fl.Routes(cmd.Context(), *meta)
		if err != nil {
			return err
		}
		t := table{columns: []string{"store"}}
		names := []string{}
		for _, r := range routes {
			t.rows = append(t.rows, []string{r.String()})
			names = append(names, r.String())
		}
		return a.print(names, t, names...)
	}}
	add := &cobra.Command{Use: "add", Short: "Add stores", Args: args(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		return fl.AddRoutes(cmd.Context(), *meta, urls, keep)
	}}
	add.Flags().StringArrayVarP(&urls, "store", "s", nil, "`[xx-yy=]URL`; repeat for several")
	add.Flags().BoolVar(&keep, "no-strip-password", false, "keep passwords in the .fl")
	del := &cobra.Command{Use: "delete", Short: "Delete stores", Args: args(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		if all {
			return fl.DeleteAllRoutes(cmd.Context(), *meta)
		}
		return fl.DeleteRoutes(cmd.Context(), *meta, gone...)
	}}
	del.Flags().StringArrayVarP(&gone, "store", "s", nil, "`URL` to delete; repeat for several")
	del.Flags().BoolVarP(&all, "all", "a", false, "delete all")
	cmd.AddCommand(list, add, del)
	return cmd
}

// flMount mounts a .fl as it is: blocks are fetched when they are touched.
func (a *app) flMount() *cobra.Command {
	var o flOptions
	cmd := &cobra.Command{
		Use: "mount -m FILE DIRECTORY", Short: "Mount a .fl read-only; blocks are fetched and checked when they are touched", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			file, err := filepath.Abs(o.meta)
			if err != nil {
				return err
			}
			dev, err := fl.OpenDevice(ctx, file, fl.ReadOptions{Stores: o.stores})
			if err != nil {
				return err
			}
			defer dev.Close()
			meta, err := erofs.Encode(dev.Root, uint64(dev.Size/erofs.BlockSize))
			if err != nil {
				return err
			}
			// Trees that look the same may have other contents.
			sum, err := sumFile(file)
			if err != nil {
				return err
			}
			spec, err := json.Marshal(flSpec{file, o.stores, sum})
			if err != nil {
				return err
			}
			h, err := a.host()
			if err != nil {
				return err
			}
			mounted, err := h.Mount(ctx, mount.Request{ID: "fl-" + block.Sum(spec).String(), Meta: meta, DeviceSize: dev.Size, Target: args[0], Spec: spec})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"target": mounted.Target, "mode": mounted.Mode},
				facts("mounted at", mounted.Target, "mode", string(mounted.Mode)), mounted.Target)
		},
	}
	o.flags(cmd, "store to read from instead of those in the .fl")
	return cmd
}

// sumFile is the SHA-256 of a file.
func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fault.Errorf(fault.Of(err), "read the image: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fault.Errorf(fault.Of(err), "read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
