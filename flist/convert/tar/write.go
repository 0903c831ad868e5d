package tar

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Write writes the tree as a pax archive: directories before their entries,
// entries in the order of their bytes, further names of a file as hard links
// to the first. The same tree gives the same bytes. Reading it back gives an
// equal tree. w is not closed.
func Write(ctx context.Context, w io.Writer, root *tree.Node, opts convert.WriteOptions) error {
	if err := root.Check(); err != nil {
		return fault.Errorf(fault.Of(err), "write the archive: %w", err)
	}
	aw := &writer{tw: tar.NewWriter(w), opts: opts, links: root.Links(), first: make(map[*tree.Node]string), total: convert.TotalBytes(root)}
	for path, n := range root.Walk() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := aw.entry(ctx, path, n); err != nil {
			return fault.Errorf(fault.Of(err), "write the archive: entry %q: %w", path, err)
		}
	}
	if err := aw.tw.Close(); err != nil {
		return fault.Errorf(fault.Of(err), "write the archive: %w", err)
	}
	opts.Progress.Report("write", aw.total, aw.total)
	return nil
}

type writer struct {
	tw          *tar.Writer
	opts        convert.WriteOptions
	links       map[*tree.Node]int
	first       map[*tree.Node]string // first name of nodes with several
	done, total int64
}

func (w *writer) entry(ctx context.Context, path string, n *tree.Node) error {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: path, Mode: int64(n.Mode & tree.PermMask),
		Uid: int(n.UID), Gid: int(n.GID), ModTime: time.Unix(n.Mtime, int64(n.Nsec)), PAXRecords: make(map[string]string),
	}
	if w.links[n] > 1 {
		if first, ok := w.first[n]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return w.header(h)
		}
		w.first[n] = path
	}
	if h.ModTime.IsZero() { // archive/tar takes it for "no time"
		h.PAXRecords[zosMtime] = strconv.FormatInt(n.Mtime, 10)
		h.ModTime = time.Unix(0, 0)
	}
	for _, x := range n.Xattrs {
		putXattr(h.PAXRecords, x)
	}
	switch n.Type() {
	case tree.Directory:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
		if path == "" {
			h.Name = "./"
		}
	case tree.Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
	case tree.FIFO:
		h.Typeflag = tar.TypeFifo
	case tree.Char, tree.Block:
		h.Typeflag = tar.TypeChar
		if n.Type() == tree.Block {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(n.Major), int64(n.Minor)
	case tree.Socket:
		h.Typeflag = tar.TypeReg
		h.PAXRecords[zosType] = "socket"
	case tree.Regular:
		h.Typeflag, h.Size = tar.TypeReg, n.Size
		if err := w.header(h); err != nil {
			return err
		}
		return w.content(ctx, n)
	}
	return w.header(h)
}

func (w *writer) header(h *tar.Header) error {
	if err := w.tw.WriteHeader(h); err != nil {
		return err
	}
	return nil
}

func (w *writer) content(ctx context.Context, n *tree.Node) error {
	if n.Size == 0 {
		return nil
	}
	r, err := w.opts.Contents.Open(n)
	if err != nil {
		return err
	}
	defer r.Close()
	base := w.done
	in := &meter{r: r, ctx: ctx, report: func(done int64) { w.opts.Progress.Report("write", base+done, w.total) }}
	if _, err := io.Copy(w.tw, in); err != nil {
		return err
	}
	w.done += n.Size
	return nil
}

// putXattr uses the form that GNU tar reads, or libarchive's where a name
// can't be the key of a pax record.
func putXattr(records map[string]string, x tree.Xattr) {
	if !strings.Contains(x.Name, "=") {
		records[schilyXattr+x.Name] = x.Value
		return
	}
	records[libXattr+strings.ReplaceAll(url.PathEscape(x.Name), "=", "%3D")] = base64.RawStdEncoding.EncodeToString([]byte(x.Value))
}
