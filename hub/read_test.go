package hub_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
)

func TestReading(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 40, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice, Name: "web"})
	var packKey string
	for k := range src.List(t.Context(), "p/") {
		packKey = k
	}
	pack, err := src.Read(t.Context(), packKey, 0, 64<<20)
	if err != nil || len(pack) < 1<<20+1000 {
		t.Fatalf("the pack has %d bytes, %v; want more than one piece", len(pack), err)
	}
	ask := func(method, key string, header ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, f.url+"/"+key, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	p := string(pack)
	n := len(p)
	for _, tt := range []struct {
		rng    string
		status int
		body   string
	}{
		{"", 200, p},
		{"bytes=0-0", 206, p[:1]},
		{"bytes=10-19", 206, p[10:20]},
		{"bytes=1048570-1048590", 206, p[1048570:1048591]},
		{"bytes=-5", 206, p[n-5:]},
		{"bytes=-99999999", 206, p},
		{"bytes=100-", 206, p[100:]},
		{"bytes=100-999999999", 206, p[100:]},
		{"bytes=5-4", 200, p},
		{"bytes=1-2,4-5", 200, p},
		{"items=1-2", 200, p},
		{"bytes=99999999-", 416, ""},
		{"bytes=-0", 416, ""},
		{fmt.Sprintf("bytes=%d-", n), 416, ""},
		{fmt.Sprintf("bytes=%d-", n-1), 206, p[n-1:]},
	} {
		resp, body := ask("GET", packKey, "Range", tt.rng)
		if resp.StatusCode != tt.status || tt.status < 300 && body != tt.body {
			t.Errorf("Range %q = %d with %d bytes, want %d with %d", tt.rng, resp.StatusCode, len(body), tt.status, len(tt.body))
		}
		head, none := ask("HEAD", packKey, "Range", tt.rng)
		if head.StatusCode != resp.StatusCode || none != "" || head.Header.Get("Content-Length") != resp.Header.Get("Content-Length") {
			t.Errorf("HEAD with range %q = %d %q, GET %d %q", tt.rng, head.StatusCode, head.Header.Get("Content-Length"), resp.StatusCode, resp.Header.Get("Content-Length"))
		}
	}
	owner := alice.Public().Address().String()
	for key, cache := range map[string]string{
		packKey: "immutable", flist.RootKey(id): "immutable", "h/" + owner + "/web/1": "immutable",
		flist.LocatorKey(id): "no-cache", "f/" + owner + "/web": "no-cache",
	} {
		resp, _ := ask("GET", key)
		etag := resp.Header.Get("ETag")
		if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), cache) || etag == "" ||
			resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Content-Security-Policy") == "" {
			t.Errorf("GET %s = %d %v, want %s, a tag and safe headers", key, resp.StatusCode, resp.Header, cache)
		}
		if resp, body := ask("GET", key, "If-None-Match", `"x", W/`+etag); resp.StatusCode != 304 || body != "" {
			t.Errorf("GET %s again = %d with %d bytes, want 304", key, resp.StatusCode, len(body))
		}
		if resp, _ := ask("GET", key, "Range", "bytes=0-0", "If-Range", `"other"`); resp.StatusCode != 200 {
			t.Errorf("GET %s with another If-Range = %d, want the whole file", key, resp.StatusCode)
		}
	}
	// The hub's own files and directories are not published.
	for _, key := range []string{"a/", "a", "e/waste", "p/", "r", "o/" + strings.Repeat("0", 63), "p/../e/waste", ".tmp", "k/x"} {
		if resp, _ := ask("GET", key); resp.StatusCode != 404 && resp.StatusCode != 400 {
			t.Errorf("GET %s = %d, want 404", key, resp.StatusCode)
		}
	}
	if resp, body := ask("DELETE", packKey); resp.StatusCode != 501 || resp.Header.Get("Allow") == "" || !strings.Contains(body, "unsupported") {
		t.Errorf("DELETE = %d %s, want a problem and Allow", resp.StatusCode, body)
	}
}

func TestOpenAPINamesEveryRoute(t *testing.T) {
	f := start(t, hub.Config{}, "")
	_, _, body := get(t, f.url+"/openapi.json")
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			Responses map[string]any   `json:"responses"`
			Security  []any            `json:"security"`
			Params    []map[string]any `json:"parameters"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("the document is %q, %v", doc.OpenAPI, err)
	}
	for path, want := range map[string]string{"/p/{name}": "get put", "/f/{owner}/{name}": "get put", "/g/{owner}/{name}/{tag}": "get put", "/h/{owner}/{name}/{seq}": "get", "/have": "post", "/batch": "post", "/locate": "post", "/c/{name}": "get", "/": "get", "/diff/{a}/{b}": "get"} {
		for m := range strings.FieldsSeq(want) {
			op, ok := doc.Paths[path][m]
			if !ok || op.Responses["default"] == nil || (m == "put") != (len(op.Security) == 1) || strings.Count(path, "{") != len(op.Params) {
				t.Errorf("the document says of %s %s: %+v", m, path, op)
			}
		}
		if len(doc.Paths[path]) != len(strings.Fields(want)) {
			t.Errorf("%s has %d operations, want %q", path, len(doc.Paths[path]), want)
		}
	}
}

func TestJSONInterface(t *testing.T) {
	d := startDemo(t)
	var list struct {
		Images []struct {
			Owner, Alias, Name string
			Version            struct{ Seq int }
			Tags               []struct{ Tag string }
			Private            bool
		}
		Total int
	}
	_, _, body := get(t, d.url+"/api/images?q=alice")
	if err := json.Unmarshal([]byte(body), &list); err != nil || list.Total != 3 || len(list.Images) != 3 || list.Images[0].Name != "nginx" || len(list.Images[0].Tags) != 2 || !list.Images[2].Private {
		t.Errorf("GET /api/images = %s, %v", body, err)
	}
	var one struct {
		Versions []struct {
			Seq int
			ID  string
		}
	}
	_, _, body = get(t, d.url+"/api/images/alice/nginx")
	if err := json.Unmarshal([]byte(body), &one); err != nil || len(one.Versions) != 2 || one.Versions[1].ID != d.ids[0].String() {
		t.Errorf("GET /api/images/alice/nginx = %s, %v", body, err)
	}
}
