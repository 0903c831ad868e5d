package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
)

func (a *app) flistCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "flist", Short: "Build, move, mount and look at images", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(
		a.buildCommand(), a.exportCommand(), a.pushCommand(), a.pullCommand(), a.tagCommand(), a.signCommand(),
		a.mountCommand(), a.unmountCommand(), a.keeperCommand(), a.dataserverCommand(), a.treeserverCommand(),
		a.lsCommand(), a.catCommand(), a.inspectCommand(), a.diffCommand(), a.verifyCommand(),
		a.traceCommand(), a.cacheCommand(),
	)
	return cmd
}

func writeBytes(ctx context.Context, to block.Bucket, key string, b []byte) error {
	return to.Write(ctx, key, bytes.NewReader(b))
}

// lsEntry is one line of ls.
type lsEntry struct {
	Path   string            `json:"path"`
	Type   string            `json:"type"`
	Mode   string            `json:"mode"`
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Mtime  time.Time         `json:"mtime"`
	Target string            `json:"target,omitempty"`
	Device string            `json:"device,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

func (a *app) lsCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "ls [IMAGE [PATH]]", Short: "List local images, or the files of one", Args: args(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.listImages(cmd.Context())
			}
			img, _, err := a.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			path := ""
			if len(args) == 2 {
				path = strings.Trim(args[1], "/")
			}
			return a.listFiles(img, path, recursive)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "list directories below, too")
	return cmd
}

func (a *app) listFiles(img *flist.Image, path string, recursive bool) error {
	top := img.Tree.At(path)
	if top == nil {
		return fault.Errorf(fault.NotFound, "the image has no file %q", path)
	}
	var out []lsEntry
	if !top.IsDir() {
		out = append(out, entryOf(path, top))
	}
	for p, n := range top.Walk() {
		if p == "" || !recursive && strings.Contains(p, "/") {
			continue
		}
		if path != "" {
			p = path + "/" + p
		}
		out = append(out, entryOf(p, n))
	}
	t := table{columns: []string{"", "", "", "", "", ""}}
	names := make([]string, 0, len(out))
	for _, e := range out {
		name := printable(e.Path)
		names = append(names, name)
		if e.Target != "" {
			name += " -> " + printable(e.Target)
		}
		size := strconv.FormatInt(e.Size, 10)
		if e.Device != "" {
			size = e.Device
		}
		t.rows = append(t.rows, []string{e.Mode, fmt.Sprint(e.UID), fmt.Sprint(e.GID), size, e.Mtime.UTC().Format("2006-01-02 15:04"), name})
	}
	return a.print(out, t, names...)
}

func entryOf(path string, n *tree.Node) lsEntry {
	e := lsEntry{Path: path, Mode: modeString(n.Mode), UID: n.UID, GID: n.GID, Size: n.Size, Mtime: time.Unix(n.Mtime, int64(n.Nsec)).UTC(), Target: n.Target}
	e.Type = map[uint32]string{tree.Regular: "file", tree.Directory: "directory", tree.Symlink: "symlink", tree.Char: "char",
		tree.Block: "block", tree.FIFO: "fifo", tree.Socket: "socket"}[n.Type()]
	if n.Type() == tree.Char || n.Type() == tree.Block {
		e.Device = fmt.Sprintf("%d,%d", n.Major, n.Minor)
	}
	for _, x := range n.Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = make(map[string][]byte)
		}
		e.Xattrs[x.Name] = []byte(x.Value)
	}
	return e
}

// modeString is a mode as ls -l shows it.
func modeString(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	b[0] = map[uint32]byte{tree.Regular: '-', tree.Directory: 'd', tree.Symlink: 'l', tree.Char: 'c', tree.Block: 'b', tree.FIFO: 'p', tree.Socket: 's'}[mode&tree.TypeMask]
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	for _, s := range []struct {
		bit      uint32
		at       int
		on, only byte
	}{{0o4000, 3, 's', 'S'}, {0o2000, 6, 's', 'S'}, {0o1000, 9, 't', 'T'}} {
		if mode&s.bit == 0 {
			continue
		}
		if b[s.at] == 'x' {
			b[s.at] = s.on
		} else {
			b[s.at] = s.only
		}
	}
	return string(b)
}

// printable keeps control characters of hostile names off the terminal.
func printable(s string) string {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 {
			return strconv.Quote(s)
		}
	}
	return s
}

type imageLine struct {
	ID       flist.ID `json:"-"`
	Text     string   `json:"id"`
	Names    []string `json:"names"`
	Entries  uint64   `json:"entries"`
	Content  uint64   `json:"content"`
	Platform string   `json:"platform,omitempty"`
	Private  bool     `json:"private"`
}

func (a *app) listImages(ctx context.Context) error {
	store, _, err := a.images()
	if err != nil {
		return err
	}
	names := make(map[flist.ID][]string)
	for _, prefix := range []string{"f/", "g/"} {
		for key, err := range store.List(ctx, prefix) {
			if err != nil {
				return err
			}
			b, err := store.Read(ctx, key, 0, flist.MaxRoot+1)
			if err != nil {
				return err
			}
			p, _, err := flist.OpenPointer(b)
			if err != nil {
				a.note("warning: %s: %v", key, err)
				continue
			}
			names[p.ID] = append(names[p.ID], name{p.Owner, p.Name, p.Tag}.String())
		}
	}
	out := []imageLine{}
	t := table{columns: []string{"id", "files", "bytes", "platform", "names"}}
	var ids []string
	for key, err := range store.List(ctx, "r/") {
		if err != nil {
			return err
		}
		b, err := store.Read(ctx, key, 0, flist.MaxRoot+1)
		if err != nil {
			return err
		}
		r, err := flist.ParseRoot(b)
		if err != nil {
			a.note("warning: %s: %v", key, err)
			continue
		}
		id := block.Sum(b)
		l := imageLine{id, id.String(), names[id], r.Entries, r.Content, r.Platform, r.Private()}
		out = append(out, l)
		ids = append(ids, l.Text)
		short := l.Text[:16]
		if a.format == "wide" {
			short = l.Text
		}
		t.rows = append(t.rows, []string{short, fmt.Sprint(l.Entries), progress.Size(int64(l.Content)), l.Platform, strings.Join(l.Names, " ")})
	}
	return a.print(out, t, ids...)
}
