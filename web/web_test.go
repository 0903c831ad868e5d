package web_test

import (
	"html/template"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"zos.internal/web"
)

func TestFrameEscapesAndLinks(t *testing.T) {
	set := template.Must(web.Frame(template.FuncMap{"twice": func(s string) string { return s + s }}).Parse(`{{define "content"}}<h1>{{twice .Data}}</h1>{{end}}`))
	var b strings.Builder
	err := set.ExecuteTemplate(&b, "frame", web.Page{Site: "Site <1>", Base: "/hub", Title: "T & t", Find: "/find", Search: `"><script>`,
		Nav: []web.Link{{Text: "<a>", Href: "/x"}, {Text: "here"}}, Foot: "<foot>", Data: "<b>"})
	if err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{"<h1>&lt;b&gt;&lt;b&gt;</h1>", `href="/hub` + web.StylePath() + `"`, `action="/hub/find"`, "&lt;a&gt;", `aria-current="page"`, "T &amp; t", `lang="en"`, "&lt;foot&gt;"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page doesn't contain %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "style=") {
		t.Errorf("the page has a script or inline style:\n%s", page)
	}
}

func TestStyleStandsAlone(t *testing.T) {
	css := string(web.Style())
	if m := regexp.MustCompile(`url\(|@import|https?:`).FindString(css); m != "" {
		t.Errorf("the style sheet fetches something: %q", m)
	}
	for _, want := range []string{"prefers-color-scheme: dark", ":focus-visible", "@media print"} {
		if !strings.Contains(css, want) {
			t.Errorf("the style sheet has no %s", want)
		}
	}
	if strings.Count(css, "{") != strings.Count(css, "}") {
		t.Error("braces in the style sheet don't match")
	}
	w := httptest.NewRecorder()
	web.ServeStyle(w, httptest.NewRequest("GET", web.StylePath(), nil))
	if w.Header().Get("Content-Type") != "text/css; charset=utf-8" || w.Body.String() != css || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
		t.Errorf("ServeStyle answers %v with %d bytes", w.Header(), w.Body.Len())
	}
}

// TestColoursAreReadable computes the contrast of text and background in both
// modes: at least 4.5, as WCAG asks of normal text.
func TestColoursAreReadable(t *testing.T) {
	css := string(web.Style())
	blocks := regexp.MustCompile(`(?s):root \{(.*?)\n\s*\}`).FindAllStringSubmatch(css, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d sets of colours, want light and dark", len(blocks))
	}
	for i, mode := range []string{"light", "dark"} {
		c := map[string][3]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6})`).FindAllStringSubmatch(blocks[i][1], -1) {
			c[m[1]] = rgb(m[2])
		}
		for _, pair := range [][2]string{{"ink", "bg"}, {"ink", "card"}, {"soft", "bg"}, {"soft", "card"}, {"link", "bg"}, {"link", "card"}, {"ink", "code"},
			{"accent-ink", "accent"}, {"ink", "accent-soft"}, {"add", "add-bg"}, {"del", "del-bg"}, {"mod", "mod-bg"}, {"ink", "mod-bg"}} {
			a, b := c[pair[0]], c[pair[1]]
			if got := contrast(a, b); got < 4.5 {
				t.Errorf("%s: %s on %s has a contrast of %.1f, want 4.5", mode, pair[0], pair[1], got)
			}
		}
	}
}
