package hub

import (
	"net/http"
	"strconv"
	"strings"

	"zos.internal/flist"
	"zos.internal/flist/tree"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/web"
)

// versionRow is a version of a name, with what an upgrade to it moves.
type versionRow struct {
	flist.Pointer
	Sum     *summary
	Current bool
	Tags    []string
	Prev    *flist.Pointer // the version before, if it is known
	Moved   *moved         // from Prev; nil if it was not compared
}

// imagePage is what image.html shows: a name, or an image by its id.
type imagePage struct {
	Named     *named // nil: by id only
	ID        flist.ID
	Sum       *summary
	Signers   []signer
	Versions  []versionRow
	Older     string
	Command   string
	Pull, Run string
	Verify    string
	Stats     *treeStats      // nil if the tree can't be read here
	Names     []flist.Pointer // names and tags that point here, on the page of an id
}

type signer struct {
	flist.Statement
	Alias string
}

// treeStats counts what is in the tree.
type treeStats struct {
	Files, Dirs, Links, Others int
	Setuid                     int
	Kinds                      []kindCount // of executables
}

type kindCount struct {
	Kind string
	N    int
}

func statsOf(o *opened) *treeStats {
	s := &treeStats{}
	for _, n := range o.Tree.Walk() {
		switch n.Type() {
		case tree.Regular:
			s.Files++
			if n.Mode&0o6000 != 0 {
				s.Setuid++
			}
		case tree.Directory:
			s.Dirs++
		case tree.Symlink:
			s.Links++
		default:
			s.Others++
		}
	}
	for _, e := range o.Executables {
		k := e.Kind.String()
		i := 0
		for i < len(s.Kinds) && s.Kinds[i].Kind != k {
			i++
		}
		if i == len(s.Kinds) {
			s.Kinds = append(s.Kinds, kindCount{Kind: k})
		}
		s.Kinds[i].N++
	}
	return s
}

// fill adds what is known of the image itself.
func (p *pages) fill(r *http.Request, d *imagePage, ref string) error {
	var err error
	if d.Sum, err = p.g.summary(r.Context(), d.ID); err != nil {
		return err
	}
	signers, err := p.g.signers(r.Context(), d.ID)
	if err != nil {
		return err
	}
	for _, s := range signers {
		d.Signers = append(d.Signers, signer{s, p.g.s.pubs.alias(s.Key.Address())})
	}
	if o, err := p.g.open(r.Context(), d.ID); err == nil {
		d.Stats = statsOf(o)
	} else if k := fault.Of(err); k != fault.Denied && k != fault.Exhausted {
		return err
	}
	hub := " --hub " + shellQuote(p.address(r))
	key := ""
	if d.Sum.Root.Private() {
		key = " --tenant-key FILE"
	}
	d.Pull = "zos flist pull" + hub + key + " " + ref
	d.Run = "zos run" + hub + key + " " + ref
	d.Verify = "zos flist verify --deep" + hub + key + " " + ref
	if d.Sum.Config != nil {
		var words []string
		for _, w := range d.Sum.Config.Command() {
			words = append(words, shellQuote(w))
		}
		d.Command = strings.Join(words, " ")
	}
	return nil
}

func (p *pages) image(r *http.Request) (string, web.Page, error) {
	owner, err := p.g.owner(r.PathValue("owner"))
	if err != nil {
		return "", web.Page{}, err
	}
	n, err := p.g.name(r.Context(), owner, r.PathValue("name"))
	if err != nil {
		return "", web.Page{}, err
	}
	var below uint64
	if s := r.URL.Query().Get("below"); s != "" {
		if below, err = strconv.ParseUint(s, 10, 64); err != nil {
			return "", web.Page{}, fault.Errorf(fault.Invalid, "below=%.30q is not the number of a version", s)
		}
	}
	d := &imagePage{Named: &n, ID: n.ID}
	if err := p.fill(r, d, owner.String()+"/"+n.Name); err != nil {
		return "", web.Page{}, err
	}
	if err := p.versions(r, d, owner, n, below); err != nil {
		return "", web.Page{}, err
	}
	return "image", web.Page{Title: n.Name, Nav: []web.Link{{Text: "Images", Href: p.base + "/"}, {Text: p.by(owner), Href: p.base + "/images/" + owner.String()}, {Text: n.Name}}, Data: d}, nil
}

func (p *pages) versions(r *http.Request, d *imagePage, owner identity.Address, n named, below uint64) error {
	history, more, err := p.g.history(r.Context(), owner, n.Name, below, perHistory+1)
	if err != nil {
		return err
	}
	if len(history) > perHistory {
		more = true
	}
	if len(history) == 0 && below == 0 {
		history = []flist.Pointer{n.Pointer} // a local store that never was a hub
	}
	for i := range min(len(history), perHistory) {
		v := versionRow{Pointer: history[i], Current: history[i].Seq == n.Seq}
		for _, t := range n.Tags {
			if t.ID == v.ID {
				v.Tags = append(v.Tags, t.Tag)
			}
		}
		if i+1 < len(history) {
			v.Prev = &history[i+1]
		}
		// A version that can't be read is listed without its facts.
		if v.Sum, err = p.g.summary(r.Context(), v.ID); err != nil && r.Context().Err() != nil {
			return err
		}
		if v.Sum != nil && v.Prev != nil && i < maxCompared {
			v.Moved = p.compare(r, v.Prev.ID, v.ID)
		}
		d.Versions = append(d.Versions, v)
	}
	if more {
		d.Older = "?below=" + strconv.FormatUint(d.Versions[len(d.Versions)-1].Seq, 10)
	}
	return nil
}

// compare is nil where one of the images can't be opened here.
func (p *pages) compare(r *http.Request, a, b flist.ID) *moved {
	x, err := p.g.open(r.Context(), a)
	if err != nil {
		return nil
	}
	y, err := p.g.open(r.Context(), b)
	if err != nil {
		return nil
	}
	m := compareImages(x, y)
	return &m
}

func (p *pages) version(r *http.Request) (string, web.Page, error) {
	id, err := parseID(r, "id")
	if err != nil {
		return "", web.Page{}, err
	}
	d := &imagePage{ID: id}
	if err := p.fill(r, d, id.String()); err != nil {
		return "", web.Page{}, err
	}
	all, err := p.g.all(r.Context())
	if err != nil {
		return "", web.Page{}, err
	}
	for _, n := range all {
		for _, ptr := range append([]flist.Pointer{n.Pointer}, n.Tags...) {
			if ptr.ID == id {
				d.Names = append(d.Names, ptr)
			}
		}
	}
	return "image", web.Page{Title: "Image " + short(id), Nav: []web.Link{{Text: "Images", Href: p.base + "/"}, {Text: "image " + short(id)}}, Data: d}, nil
}

// diffPage is what diff.html shows.
type diffPage struct {
	A, B       flist.ID
	ASum, BSum *summary
	Diff       *flist.Difference
	Moved      moved
	Changes    []flist.Change
	Kind       string // the filter
	Total      int    // changes of that kind
	Prev, Next string
}

func (p *pages) diff(r *http.Request) (string, web.Page, error) {
	a, err := parseID(r, "a")
	if err != nil {
		return "", web.Page{}, err
	}
	b, err := parseID(r, "b")
	if err != nil {
		return "", web.Page{}, err
	}
	from, err := offset(r)
	if err != nil {
		return "", web.Page{}, err
	}
	x, err := p.g.open(r.Context(), a)
	if err != nil {
		return "", web.Page{}, err
	}
	y, err := p.g.open(r.Context(), b)
	if err != nil {
		return "", web.Page{}, err
	}
	d := &diffPage{A: a, B: b, Diff: flist.Diff(x.Image, y.Image, &y.loc), Moved: compareImages(x, y), Kind: r.URL.Query().Get("kind")}
	if d.ASum, err = p.g.summary(r.Context(), a); err != nil {
		return "", web.Page{}, err
	}
	if d.BSum, err = p.g.summary(r.Context(), b); err != nil {
		return "", web.Page{}, err
	}
	changes := d.Diff.Changes
	switch d.Kind {
	case "":
	case "added", "removed", "changed":
		changes = nil
		for _, c := range d.Diff.Changes {
			if c.Kind == d.Kind {
				changes = append(changes, c)
			}
		}
	default:
		return "", web.Page{}, fault.Errorf(fault.Invalid, "kind=%.20q is not added, removed or changed", d.Kind)
	}
	d.Total = len(changes)
	var next int
	d.Changes, next = slicePage(changes, from, perDiff)
	d.Prev, d.Next = pageLink(r, from-perDiff, from > 0), pageLink(r, next, next > 0)
	return "diff", web.Page{Title: "What changed", Nav: []web.Link{{Text: "Images", Href: p.base + "/"}, {Text: "image " + short(b), Href: p.base + "/image/" + b.String()}, {Text: "what changed"}}, Data: d}, nil
}
