package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/config"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
)

func (a *app) catCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cat IMAGE PATH", Short: "Write one file of an image to stdout; nothing else is fetched", Args: args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			img, m, err := a.open(ctx, args[0])
			if err != nil {
				return err
			}
			path := strings.Trim(args[1], "/")
			n := img.Tree.At(path)
			switch {
			case n == nil:
				return fault.Errorf(fault.NotFound, "the image has no file %q", path)
			case !n.IsRegular():
				return fault.Errorf(fault.Invalid, "%q is no regular file", path)
			case n.Size == 0:
				return nil
			}
			dev, done, err := a.device(ctx, img, m)
			if err != nil {
				return err
			}
			defer done()
			img.Attach(ctx, dev)
			r, err := n.Content.Open()
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(a.stdout, r)
			return err
		},
	}
}

// imageInfo is what inspect prints.
type imageInfo struct {
	ID          string         `json:"id"`
	Entries     uint64         `json:"entries"`
	Content     uint64         `json:"content"`
	Platform    string         `json:"platform,omitempty"`
	Domain      string         `json:"domain,omitempty"`
	Metadata    uint64         `json:"metadata"`
	Map         uint64         `json:"map"`
	Device      int64          `json:"device"`
	Chunks      int            `json:"chunks"`
	PlainBytes  int64          `json:"plain_bytes"`  // of different chunks
	StoredBytes int64          `json:"stored_bytes"` // of different chunks
	Packs       int            `json:"packs"`
	Executables int            `json:"executables"`
	Signers     []signer       `json:"signers"`
	Config      *config.Config `json:"config"`
	ChunkList   []chunkInfo    `json:"chunk_list,omitempty"`
}

type signer struct {
	Key     string            `json:"key"`
	Address string            `json:"address"`
	Claims  map[string]string `json:"claims"`
}

type chunkInfo struct {
	Name   string `json:"name"`
	Plain  uint32 `json:"plain"`
	Stored uint32 `json:"stored"`
	Pack   string `json:"pack"`
	Offset uint64 `json:"offset"`
}

func (a *app) inspectCommand() *cobra.Command {
	var chunks bool
	cmd := &cobra.Command{
		Use: "inspect IMAGE", Short: "Show what an image is made of and who signed it", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			img, m, err := a.open(ctx, args[0])
			if err != nil {
				return err
			}
			info := imageInfo{ID: img.ID.String(), Entries: img.Root.Entries, Content: img.Root.Content, Platform: img.Root.Platform,
				Metadata: img.Root.Metadata.Size, Map: img.Root.Map.Size, Device: img.DeviceSize(), Chunks: len(img.Map.Chunks),
				Executables: len(img.Executables), Config: img.Config, Signers: []signer{}}
			if img.Root.Private() {
				info.Domain = fmt.Sprintf("%x", img.Root.Domain)
			}
			loc, err := flist.ReadLocator(ctx, m, img)
			if err != nil && !errors.Is(err, fault.NotFound) {
				return err
			}
			info.Packs = len(loc.Packs)
			for i, c := range img.Map.Chunks {
				info.PlainBytes += int64(c.Plain)
				if i >= len(loc.Where) {
					continue
				}
				w := loc.Where[i]
				info.StoredBytes += int64(w.Stored)
				if chunks && w.Stored > 0 {
					info.ChunkList = append(info.ChunkList, chunkInfo{c.Name.String(), c.Plain, w.Stored, loc.Packs[w.Pack].Name.String(), w.Off})
				}
			}
			if b, err := m.Read(ctx, flist.SignaturesKey(img.ID), 0, flist.MaxSignatures+1); err == nil {
				said, err := flist.OpenSignatures(b, img.ID)
				if err != nil {
					a.note("warning: no signature counts: %v", err)
				}
				info.Signers = signers(said)
			} else if !errors.Is(err, fault.NotFound) {
				return err
			}
			return a.print(info, info.table(), info.ID)
		},
	}
	cmd.Flags().BoolVar(&chunks, "chunks", false, "list every chunk and where it is stored")
	return cmd
}

func signers(said []flist.Statement) []signer {
	out := []signer{}
	for _, s := range said {
		claims := make(map[string]string)
		for _, c := range s.Claims {
			claims[c.Name] = c.Value
		}
		out = append(out, signer{s.Key.String(), s.Key.Address().String(), claims})
	}
	return out
}

func (i imageInfo) table() table {
	t := facts("image", i.ID, "platform", i.Platform, "files", fmt.Sprint(i.Entries), "content", progress.Size(int64(i.Content)))
	row := func(k, v string) { t.rows = append(t.rows, []string{k + ":", v}) }
	row("chunks", fmt.Sprintf("%d, %s, stored as %s in %d packs", i.Chunks, progress.Size(i.PlainBytes), progress.Size(i.StoredBytes), i.Packs))
	if i.Content > 0 {
		row("shared inside", fmt.Sprintf("%.1f %%", 100*(1-float64(i.PlainBytes)/float64(i.Content))))
	}
	row("metadata", progress.Size(int64(i.Metadata+i.Map)))
	row("executables", fmt.Sprint(i.Executables))
	if i.Domain != "" {
		row("private to", i.Domain)
	}
	if c := i.Config.Command(); len(c) > 0 {
		row("command", strings.Join(c, " "))
	}
	if len(i.Config.Ports) > 0 {
		row("ports", strings.Join(i.Config.Ports, " "))
	}
	for _, s := range i.Signers {
		row("signed by", s.Address+claimText(s.Claims))
	}
	for _, c := range i.ChunkList {
		row("chunk", fmt.Sprintf("%s %d %d %s+%d", c.Name, c.Plain, c.Stored, c.Pack, c.Offset))
	}
	return t
}

func claimText(claims map[string]string) string {
	if s := claims["source"]; s != "" {
		return " (built from " + printable(s) + ")"
	}
	return ""
}

func (a *app) diffCommand() *cobra.Command {
	var bytes bool
	cmd := &cobra.Command{
		Use: "diff OLD NEW", Short: "Show what an upgrade would change and move", Args: args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			from, _, err := a.open(ctx, args[0])
			if err != nil {
				return err
			}
			to, m, err := a.open(ctx, args[1])
			if err != nil {
				return err
			}
			var loc *block.Locator
			if l, err := flist.ReadLocator(ctx, m, to); err == nil {
				loc = &l
			}
			d := flist.Diff(from, to, loc)
			t := table{columns: []string{"", "", ""}}
			mark := map[string]string{"added": "+", "removed": "-", "changed": "~"}
			var names []string
			for _, c := range d.Changes {
				names = append(names, printable(c.Path))
				if !bytes {
					t.rows = append(t.rows, []string{mark[c.Kind], "/" + printable(c.Path), strings.Join(c.What, " ")})
				}
			}
			if err := a.print(d, t, names...); err != nil || a.format != "table" && a.format != "wide" {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%d added, %d removed, %d changed; an upgrade moves %s in %d chunks (%s unpacked), %s are shared\n",
				d.Added, d.Removed, d.Changed, progress.Size(d.MovedStored), d.MovedChunks, progress.Size(d.MovedPlain), progress.Size(d.SharedPlain))
			return err
		},
	}
	cmd.Flags().BoolVar(&bytes, "bytes", false, "show only how many bytes an upgrade moves")
	return cmd
}

func (a *app) verifyCommand() *cobra.Command {
	var deep bool
	cmd := &cobra.Command{
		Use: "verify IMAGE", Short: "Check an image: hashes, form, signatures and, with --deep, every chunk", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			id, _, err := a.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			m, err := a.source()
			if err != nil {
				return err
			}
			dom, _, err := a.domain()
			if err != nil {
				return err
			}
			bar := a.reporter()
			defer bar.Close()
			rep, err := flist.Verify(ctx, m, id, flist.VerifyOptions{Domain: dom, Deep: deep,
				Progress: func(done, total int64) { bar.Update("verify", done, total) }})
			if err != nil {
				return err
			}
			bar.Close()
			out := struct {
				*flist.VerifyReport
				ID      string   `json:"id"`
				Signers []signer `json:"signers"`
			}{rep, id.String(), signers(rep.Signers)}
			t := facts("image", id.String(), "files", fmt.Sprint(rep.Entries), "signatures", fmt.Sprint(len(rep.Signers)),
				"chunks checked", fmt.Sprintf("%d of %d (%s)", rep.Checked, rep.Chunks, progress.Size(rep.CheckedLen)))
			for _, p := range rep.Problems {
				t.rows = append(t.rows, []string{"problem:", p})
			}
			if err := a.print(out, t, id.String()); err != nil {
				return err
			}
			if len(rep.Problems) > 0 {
				a.note("error: %d problems; push or build the image again, or name a mirror that has it", len(rep.Problems))
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&deep, "deep", false, "read and check every chunk")
	return cmd
}
