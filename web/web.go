// Package web holds the look that all pages of the system share: one style
// sheet and one frame, embedded, without scripts and without anything from
// another server.
//
// A page is a html/template set with a template named "content" (and, if it
// wants, "head") that the frame wraps. The style sheet is served under a name
// with its hash, so it may be cached for ever. Policy is the content security
// policy that fits both.
//
//	t := template.Must(web.Frame(nil).Parse(`{{define "content"}}<h1>Hello</h1>{{end}}`))
//	t.ExecuteTemplate(w, "frame", web.Page{Title: "Hello"})
//
// Pages work without scripts, in light and dark, on paper and for screen
// readers; the package knows nothing of what they show.
package web

import (
	"embed"
	"html/template"
	"net/http"

	"github.com/zeebo/blake3"

	"encoding/hex"
)

//go:embed style.css frame.html
var files embed.FS

// Policy is the Content-Security-Policy of every page.
const Policy = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Page is what the frame needs of a page; a page's own data goes into Data.
type Page struct {
	Site   string // the name of the server, in the header
	Base   string // path before all links, "" or "/hub"
	Title  string
	Search string // the text in the search field
	Find   string // path of the search; empty: no search field
	Nav    []Link
	Foot   string
	Data   any
}

// Link is an entry of the navigation.
type Link struct{ Text, Href string }

// Style is the style sheet.
func Style() []byte {
	b, err := files.ReadFile("style.css")
	if err != nil {
		panic("web: " + err.Error()) // it is embedded
	}
	return b
}

// StylePath is the path of the style sheet, below the base of the pages.
func StylePath() string {
	sum := blake3.Sum256(Style())
	return "/style-" + hex.EncodeToString(sum[:6]) + ".css"
}

// ServeStyle answers a request for StylePath.
func ServeStyle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(Style()) // a client that went away is noticed by the server
}

// Frame is a template set with the frame, which pages are parsed into. funcs may
// be nil.
func Frame(funcs template.FuncMap) *template.Template {
	t := template.New("frame.html").Funcs(template.FuncMap{"style": StylePath}).Funcs(funcs)
	return template.Must(t.ParseFS(files, "frame.html"))
}
