package hub

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/web"
)

//go:embed pages/*.html
var pageFiles embed.FS

const (
	perPage     = 60
	perTree     = 1000
	perDiff     = 500
	perHistory  = 30
	maxCompared = 10 // versions of which the share with the one before is shown
)

// pages renders what the gallery knows.
type pages struct {
	g    *gallery
	base string
	sets map[string]*template.Template
}

func newPages(g *gallery) (*pages, error) {
	p := &pages{g: g, sets: make(map[string]*template.Template)}
	if g.s.cfg.URL != "" {
		u, err := url.Parse(g.s.cfg.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fault.Errorf(fault.Invalid, "open hub: the URL %q is not like https://hub.example.org/path", g.s.cfg.URL)
		}
		p.base = strings.TrimSuffix(u.Path, "/")
	}
	frame := web.Frame(template.FuncMap{
		"show": display, "clip": clipText, "bytes": bytesText, "count": countText, "date": dateText, "mode": modeText,
		"type": typeText, "short": short,
		"age":  func(sec int64) string { return ageText(sec, g.s.clock.Now()) },
		"by":   p.by,
		"file": func(id flist.ID, path string) template.URL { return fileLink(p.base, id.String(), path) },
		"image": func(owner identity.Address, name string) string {
			return p.base + "/images/" + owner.String() + "/" + name
		},
		"base": func() string { return p.base },
	})
	for _, name := range []string{"home", "publisher", "image", "files", "file", "diff", "error"} {
		t, err := frame.Clone()
		if err == nil {
			t, err = t.ParseFS(pageFiles, "pages/parts.html", "pages/"+name+".html")
		}
		if err != nil {
			return nil, fault.Errorf(fault.Internal, "read page %s: %w", name, err)
		}
		p.sets[name] = t
	}
	return p, nil
}

// by is how a publisher is shown: the operator's alias, or the address.
func (p *pages) by(a identity.Address) string {
	if alias := p.g.s.pubs.alias(a); alias != "" {
		return alias
	}
	return shortAddress(a)
}

func (g *gallery) table() []route {
	p := g.pages
	const html = "text/html"
	return []route{
		{method: "GET", pattern: "/{$}", summary: "Page: images, with ?q= to search", answer: html, handle: p.page(p.home)},
		{method: "GET", pattern: "/images/{owner}", summary: "Page: a publisher, by address or alias", answer: html, handle: p.page(p.publisher)},
		{method: "GET", pattern: "/images/{owner}/{name}", summary: "Page: a name, its versions and tags", answer: html, handle: p.page(p.image)},
		{method: "GET", pattern: "/image/{id}", summary: "Page: an image by its id", answer: html, handle: p.page(p.version)},
		{method: "GET", pattern: "/image/{id}/files", summary: "Page: a directory or file of an image, ?path=", answer: html, handle: p.page(p.files)},
		{method: "GET", pattern: "/diff/{a}/{b}", summary: "Page: what changed from image a to image b", answer: html, handle: p.page(p.diff)},
		{method: "GET", pattern: web.StylePath(), summary: "The style sheet of the pages", answer: "text/css", handle: web.ServeStyle},
		{method: "GET", pattern: "/api/images", summary: "Images as JSON, with ?q= to search and ?after= to go on", answer: "application/json", handle: g.serveImages},
		{method: "GET", pattern: "/api/images/{owner}/{name}", summary: "A name, its versions and tags as JSON", answer: "application/json", handle: g.serveImage},
	}
}

// page turns a function that makes a page into a handler.
func (p *pages) page(make func(r *http.Request) (set string, page web.Page, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		set, page, err := make(r)
		status := http.StatusOK
		if err != nil {
			if !strings.Contains(r.Header.Get("Accept"), "text/html") {
				p.g.s.fail(w, r, err)
				return
			}
			kind := fault.Of(err)
			text := err.Error()
			if kind == fault.Internal {
				p.g.s.log.ErrorContext(r.Context(), "page failed", "path", r.URL.Path, "error", err)
				text = "The hub has a problem of its own; its log says which."
			}
			status = kind.HTTPStatus()
			set, page = "error", web.Page{Title: strings.ToUpper(string(kind[:1])) + strings.ReplaceAll(string(kind[1:]), "_", " "), Data: text}
		}
		page.Site, page.Base, page.Find = p.g.s.cfg.Title, p.base, "/"
		page.Foot = "Everything here is named by its BLAKE3 hash and checked by whoever fetches it."
		var b bytes.Buffer
		if err := p.sets[set].ExecuteTemplate(&b, "frame", page); err != nil {
			p.g.s.fail(w, r, fault.Errorf(fault.Internal, "render page %s: %w", set, err))
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", web.Policy)
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("Content-Length", strconv.Itoa(b.Len()))
		w.WriteHeader(status)
		w.Write(b.Bytes()) // a client that went away is noticed by the server
	}
}

// row is an image in a list.
type row struct {
	named
	Sum *summary // nil if it can't be read
}

// rows adds the summaries. An image that can't be read is listed without one.
func (p *pages) rows(r *http.Request, names []named) ([]row, error) {
	rows := make([]row, len(names))
	for i, n := range names {
		sum, err := p.g.summary(r.Context(), n.ID)
		if err != nil && r.Context().Err() != nil {
			return nil, err
		}
		if err != nil {
			p.g.s.log.ErrorContext(r.Context(), "image can't be read", "id", n.ID, "error", err)
		}
		rows[i] = row{n, sum}
	}
	return rows, nil
}

// About is the first text that the configuration has about the image.
func (s *summary) About() string {
	if s == nil || s.Config == nil {
		return ""
	}
	for _, k := range []string{"org.opencontainers.image.description", "description", "org.opencontainers.image.title"} {
		if v := s.Config.Labels[k]; v != "" {
			return v
		}
	}
	return ""
}

func (p *pages) home(r *http.Request) (string, web.Page, error) {
	q := r.URL.Query().Get("q")
	if len(q) > 200 {
		return "", web.Page{}, fault.Errorf(fault.Invalid, "a search has at most 200 characters")
	}
	from, err := offset(r)
	if err != nil {
		return "", web.Page{}, err
	}
	found, err := p.g.search(r.Context(), q)
	if err != nil {
		return "", web.Page{}, err
	}
	total := len(found)
	found, next := slicePage(found, from, perPage)
	rows, err := p.rows(r, found)
	if err != nil {
		return "", web.Page{}, err
	}
	return "home", web.Page{Title: p.g.s.cfg.Title, Search: q, Data: struct {
		Query      string
		Total      int
		Rows       []row
		Prev, Next string
	}{q, total, rows, pageLink(r, from-perPage, from > 0), pageLink(r, next, next > 0)}}, nil
}

// offset reads ?after=, the number of entries to skip.
func offset(r *http.Request) (int, error) {
	s := r.URL.Query().Get("after")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fault.Errorf(fault.Invalid, "after=%.20q is not a number of entries", s)
	}
	return n, nil
}

// slicePage is n of xs from the given one on; next is 0 on the last page.
func slicePage[T any](xs []T, from, n int) (page []T, next int) {
	from = min(from, len(xs))
	if from+n < len(xs) {
		return xs[from : from+n], from + n
	}
	return xs[from:], 0
}

// pageLink is the same page further on, relative to it; "" if there is none.
func pageLink(r *http.Request, after int, there bool) string {
	if !there {
		return ""
	}
	q := r.URL.Query()
	q.Set("after", strconv.Itoa(max(after, 0)))
	return "?" + q.Encode()
}

func (p *pages) publisher(r *http.Request) (string, web.Page, error) {
	owner, err := p.g.owner(r.PathValue("owner"))
	if err != nil {
		return "", web.Page{}, err
	}
	all, err := p.g.all(r.Context())
	if err != nil {
		return "", web.Page{}, err
	}
	var theirs []named
	for _, n := range all {
		if n.Owner == owner {
			theirs = append(theirs, n)
		}
	}
	var pub *Publisher
	for _, x := range p.g.s.pubs.all() {
		if x.Address == owner {
			pub = &x
		}
	}
	if pub == nil && theirs == nil {
		return "", web.Page{}, fault.Errorf(fault.NotFound, "this hub knows nothing of %v", owner)
	}
	from, err := offset(r)
	if err != nil {
		return "", web.Page{}, err
	}
	total := len(theirs)
	theirs, next := slicePage(theirs, from, perPage)
	rows, err := p.rows(r, theirs)
	if err != nil {
		return "", web.Page{}, err
	}
	used := p.g.s.pubs.usage(owner)
	share := -1
	if pub != nil && pub.Quota != Unlimited && pub.Quota > 0 {
		share = int(min(100, 100*used/pub.Quota))
	}
	return "publisher", web.Page{Title: p.by(owner), Nav: []web.Link{{Text: "Images", Href: p.base + "/"}, {Text: p.by(owner)}}, Data: struct {
		Owner      identity.Address
		Publisher  *Publisher
		Used       int64
		Share      int
		Total      int
		Rows       []row
		Prev, Next string
	}{owner, pub, used, share, total, rows, pageLink(r, from-perPage, from > 0), pageLink(r, next, next > 0)}}, nil
}

// address is where people reach this hub.
func (p *pages) address(r *http.Request) string {
	if p.g.s.cfg.URL != "" {
		return strings.TrimSuffix(p.g.s.cfg.URL, "/")
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// parseID reads a path value that is the id of an image.
func parseID(r *http.Request, name string) (flist.ID, error) {
	id, err := block.ParseName(r.PathValue(name))
	if err != nil {
		return id, fault.Errorf(fault.NotFound, "%.80q is not the id of an image; ids are 64 hexadecimal digits", r.PathValue(name))
	}
	return id, nil
}

// crumbs is the way to a path of an image.
func (p *pages) crumbs(id flist.ID, file string) []web.Link {
	nav := []web.Link{{Text: "Images", Href: p.base + "/"}, {Text: "image " + short(id), Href: p.base + "/image/" + id.String()},
		{Text: "files", Href: string(fileLink(p.base, id.String(), ""))}}
	if file != "" {
		at := ""
		for part := range strings.SplitSeq(file, "/") {
			at = path.Join(at, part)
			nav = append(nav, web.Link{Text: display(part), Href: string(fileLink(p.base, id.String(), at))})
		}
	}
	nav[len(nav)-1].Href = ""
	return nav
}
