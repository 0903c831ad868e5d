package hub

import (
	"encoding/json"
	"net/http"
	"strconv"

	"zos.internal/flist"
	"zos.internal/internal/fault"
)

// apiImage is a name in the JSON interface. Sizes are bytes, times seconds since
// 1970.
type apiImage struct {
	Owner    string       `json:"owner"`
	Alias    string       `json:"alias,omitempty"`
	Name     string       `json:"name"`
	Version  apiVersion   `json:"version"`
	Tags     []apiTag     `json:"tags"`
	Platform string       `json:"platform,omitempty"`
	Entries  uint64       `json:"entries"`
	Content  uint64       `json:"content"`
	Stored   int64        `json:"stored"`
	Private  bool         `json:"private"`
	Versions []apiVersion `json:"versions,omitempty"`
}

type apiVersion struct {
	Seq  uint64 `json:"seq"`
	ID   string `json:"id"`
	Time int64  `json:"time"`
}

type apiTag struct {
	Tag string `json:"tag"`
	apiVersion
}

type apiImages struct {
	Images []apiImage `json:"images"`
	Total  int        `json:"total"`
	Next   string     `json:"next,omitempty"` // value of ?after= for the next page
}

func versionOf(p flist.Pointer) apiVersion { return apiVersion{p.Seq, p.ID.String(), p.Time} }

func (g *gallery) api(r row) apiImage {
	x := apiImage{Owner: r.Owner.String(), Alias: g.s.pubs.alias(r.Owner), Name: r.Name, Version: versionOf(r.Pointer), Tags: []apiTag{}}
	for _, t := range r.Tags {
		x.Tags = append(x.Tags, apiTag{t.Tag, versionOf(t)})
	}
	if r.Sum != nil {
		x.Platform, x.Entries, x.Content = r.Sum.Root.Platform, r.Sum.Root.Entries, r.Sum.Root.Content
		x.Stored, x.Private = r.Sum.Stored, r.Sum.Root.Private()
	}
	return x
}

func (g *gallery) serveImages(w http.ResponseWriter, r *http.Request) {
	from, err := offset(r)
	var found []named
	if err == nil {
		found, err = g.search(r.Context(), r.URL.Query().Get("q"))
	}
	out := apiImages{Images: []apiImage{}, Total: len(found)}
	var rows []row
	var next int
	if err == nil {
		found, next = slicePage(found, from, perPage)
		rows, err = g.pages.rows(r, found)
	}
	if err != nil {
		g.s.fail(w, r, err)
		return
	}
	for _, x := range rows {
		out.Images = append(out.Images, g.api(x))
	}
	if next > 0 {
		out.Next = strconv.Itoa(next)
	}
	g.json(w, r, out)
}

func (g *gallery) serveImage(w http.ResponseWriter, r *http.Request) {
	owner, err := g.owner(r.PathValue("owner"))
	var n named
	if err == nil {
		n, err = g.name(r.Context(), owner, r.PathValue("name"))
	}
	var sum *summary
	if err == nil {
		sum, err = g.summary(r.Context(), n.ID)
	}
	var history []flist.Pointer
	if err == nil {
		history, _, err = g.history(r.Context(), owner, n.Name, 0, 1000)
	}
	if err != nil {
		g.s.fail(w, r, err)
		return
	}
	x := g.api(row{n, sum})
	for _, p := range history {
		x.Versions = append(x.Versions, versionOf(p))
	}
	g.json(w, r, x)
}

func (g *gallery) json(w http.ResponseWriter, r *http.Request, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		g.s.fail(w, r, fault.As(fault.Internal, err))
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	g.s.answer(w, "application/json", b)
}
