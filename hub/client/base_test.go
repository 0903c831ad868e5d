package client_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

// TestHubBelowAPath: a hub behind a proxy that serves it below a path and calls
// it by a public name.
func TestHubBelowAPath(t *testing.T) {
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	store := &block.Mem{}
	h, err := hub.New(t.Context(), hub.Config{Store: store, Publishers: publishersFile(t, seedKey(1)), Audience: []string{u.Host + "/images"}, URL: srv.URL + "/images"})
	if err != nil {
		t.Fatal(err)
	}
	handler = http.StripPrefix("/images", h)
	src := &block.Mem{}
	id := build(t, src, files(t, 2, 0, 1), flist.BuildOptions{})
	c := open(t, client.Options{}, srv.URL+"/images/")
	if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web"}); err != nil {
		t.Fatal(err)
	}
	dst := &block.Mem{}
	if _, err := c.Pull(t.Context(), dst, id, client.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	verify(t, dst, id, block.Domain{})
	// Every link of the pages stays below the path and works.
	todo, seen := []string{"/images/"}, map[string]bool{}
	for len(todo) > 0 && len(seen) < 60 {
		path := todo[0]
		todo = todo[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != 200 {
			t.Errorf("GET %s = %d", path, w.Code)
		}
		for _, m := range regexp.MustCompile(`href="(/[^"]*)"`).FindAllStringSubmatch(w.Body.String(), -1) {
			link := strings.ReplaceAll(m[1], "&amp;", "&")
			if !strings.HasPrefix(link, "/images/") {
				t.Errorf("%s links to %s", path, link)
				continue
			}
			todo = append(todo, link)
		}
	}
	if len(seen) < 8 {
		t.Errorf("only %d pages were found: %v", len(seen), seen)
	}
	// Signed for the host alone it is for another hub.
	h2, err := hub.New(t.Context(), hub.Config{Store: &block.Mem{}, Publishers: publishersFile(t, seedKey(1)), Audience: []string{"hub.example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	handler = h2
	if _, err := open(t, client.Options{}, srv.URL).Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1)}); fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), "hub.example.org") {
		t.Errorf("Push to a hub of another name = %v, want denied with the name", err)
	}
}
