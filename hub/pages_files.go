package hub

import (
	"html/template"
	"net/http"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"zos.internal/flist"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/executables"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
	"zos.internal/web"
)

// entryRow is a line of a directory.
type entryRow struct {
	Name string
	Node *tree.Node
	Href template.URL
}

// dirPage is what files.html shows.
type dirPage struct {
	ID         flist.ID
	Path       string
	Dir        *tree.Node
	Up         template.URL // empty at the root
	Rows       []entryRow
	Prev, Next string
}

// filePage is what file.html shows.
type filePage struct {
	ID     flist.ID
	Path   string
	Node   *tree.Node
	Links  []string // other names of the same file, at most some
	More   int      // names beyond those
	Chunks int      // pieces of the content
	Stored int64    // bytes of those chunks as stored
	Zeros  int64    // bytes that are holes
	Exec   *executables.Entry
	Xattrs []xattrRow
	Cat    string // the command that reads it; empty if its name can't be typed
}

type xattrRow struct{ Name, Value string }

const maxOtherNames = 20

func (p *pages) files(r *http.Request) (string, web.Page, error) {
	id, err := parseID(r, "id")
	if err != nil {
		return "", web.Page{}, err
	}
	o, err := p.g.open(r.Context(), id)
	if err != nil {
		return "", web.Page{}, err
	}
	file := r.URL.Query().Get("path")
	names, err := tree.Split(file)
	if err != nil {
		return "", web.Page{}, err
	}
	file = strings.Join(names, "/")
	n := o.Tree.At(file)
	if n == nil {
		return "", web.Page{}, fault.Errorf(fault.NotFound, "image %s has no file %.200q", short(id), file)
	}
	title := "/" + display(file)
	nav := p.crumbs(id, file)
	if !n.IsDir() {
		return "file", web.Page{Title: title, Nav: nav, Data: p.file(r, o, file, n)}, nil
	}
	from, err := offset(r)
	if err != nil {
		return "", web.Page{}, err
	}
	// Directories first: that is what people look for.
	entries := slices.Clone(n.Entries)
	slices.SortStableFunc(entries, func(a, b tree.Entry) int {
		switch {
		case a.Node.IsDir() == b.Node.IsDir():
			return 0
		case a.Node.IsDir():
			return -1
		}
		return 1
	})
	entries, next := slicePage(entries, from, perTree)
	d := &dirPage{ID: id, Path: file, Dir: n, Prev: pageLink(r, from-perTree, from > 0), Next: pageLink(r, next, next > 0)}
	if file != "" {
		up := path.Dir(file)
		if up == "." {
			up = ""
		}
		d.Up = fileLink(p.base, id.String(), up)
	}
	for _, e := range entries {
		d.Rows = append(d.Rows, entryRow{e.Name, e.Node, fileLink(p.base, id.String(), path.Join(file, e.Name))})
	}
	return "files", web.Page{Title: title, Nav: nav, Data: d}, nil
}

func (p *pages) file(r *http.Request, o *opened, file string, n *tree.Node) *filePage {
	d := &filePage{ID: o.ID, Path: file, Node: n}
	if display(file) == file {
		d.Cat = "zos flist cat --hub " + shellQuote(p.address(r)) + " " + o.ID.String() + " " + shellQuote("/"+file)
	}
	for other, m := range o.Tree.Walk() {
		if m == n && other != file {
			if len(d.Links) < maxOtherNames {
				d.Links = append(d.Links, other)
			} else {
				d.More++
			}
		}
	}
	for _, x := range n.Xattrs {
		v := x.Value
		if !utf8.ValidString(v) {
			v = hexText(v)
		}
		d.Xattrs = append(d.Xattrs, xattrRow{x.Name, clipText(v, 400)})
	}
	if n.IsRegular() && n.Size > 0 {
		seen := make(map[uint32]bool)
		start, end := uint64(n.Offset), uint64(n.Offset+n.Size)
		es := o.Map.Extents
		first, _ := slices.BinarySearchFunc(es, start, func(e chunkmap.Extent, off uint64) int {
			if e.End() <= off {
				return -1
			}
			return 1
		})
		for _, e := range es[first:] {
			if e.Off >= end {
				break
			}
			if e.Chunk == chunkmap.Zeros {
				d.Zeros += int64(e.Len)
				continue
			}
			if !seen[e.Chunk] {
				seen[e.Chunk] = true
				d.Chunks++
				d.Stored += int64(o.loc.Where[e.Chunk].Stored)
			}
		}
	}
	for i, e := range o.Executables {
		if e.Path == file {
			d.Exec = &o.Executables[i]
		}
	}
	return d
}

func hexText(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	b.WriteString("0x")
	for _, c := range []byte(s) {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}
