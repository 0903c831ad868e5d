package hub_test

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/config"
	"zos.internal/flist/tree"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/identity"
	"zos.internal/internal/clock"
	"zos.internal/web"
)

// hostile are names that try to get out of a page, a link or a terminal.
var hostile = []string{
	`<script>alert(1)</script>`,
	`"><img src=x onerror=alert(1)>`,
	`' onmouseover='alert(1)`,
	"{{.}}",
	"new\nline\ttab\x1b[31mred",
	"not-utf8-\xff\xfe",
	"rtl-\u202egnp.exe",
	"zero\u200bwidth",
	`back\slash`,
	"javascript:alert(1)",
	"per%2fcent%00&x=1#frag?q+plus",
	strings.Repeat("long", 63),
	"\u0130\u0307\u0327stacked",
}

// demoTree is a small root file system with everything that pages show.
func demoTree(t testing.TB, version int) *tree.Node {
	t.Helper()
	root := tree.NewDir(0o755)
	r := rand.New(rand.NewPCG(7, 7))
	add := func(path string, n *tree.Node) *tree.Node {
		if err := root.Insert(path, n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	file := func(path string, mode uint32, b string) *tree.Node {
		return add(path, &tree.Node{Mode: tree.Regular | mode, Size: int64(len(b)), Content: tree.Bytes(b), Mtime: 1790000000, Nsec: 5})
	}
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.IntN(90))
		}
		return string(b)
	}
	file("etc/os-release", 0o644, fmt.Sprintf("NAME=demo\nVERSION=%d\n", version))
	file("etc/nginx/nginx.conf", 0o644, "events {}\n")
	bin := file("usr/sbin/nginx", 0o755, noise(900<<10))
	add("usr/sbin/nginx-debug", bin)
	file("usr/bin/sudo", 0o4755, noise(120<<10))
	file("usr/bin/start", 0o755, "#!/bin/sh\nexec nginx\n")
	add("bin", &tree.Node{Mode: tree.Symlink | 0o777, Target: "usr/bin", Mtime: 1790000000})
	add("dev/null", &tree.Node{Mode: tree.Char | 0o666, Major: 1, Minor: 3})
	add("run/fifo", &tree.Node{Mode: tree.FIFO | 0o600})
	file("var/sparse", 0o600, strings.Repeat("\x00", 1<<20)+"end").Xattrs = []tree.Xattr{{Name: "user.note", Value: "<b>bold</b>"}, {Name: "user.raw", Value: "\x00\xff"}}
	for i := range 40 {
		file(fmt.Sprintf("usr/share/doc/file%03d.txt", i), 0o644, noise(3000+r.IntN(4000)))
	}
	for i, name := range hostile {
		file("hostile/"+name, 0o644, fmt.Sprint("content ", i))
	}
	add("hostile/link", &tree.Node{Mode: tree.Symlink | 0o777, Target: "<img src=x>\x1b[0m"})
	if version > 1 {
		file("usr/share/new.txt", 0o644, noise(70<<10))
		root.At("usr/share/doc").Remove("file007.txt")
		file("etc/nginx/nginx.conf", 0o600, "events { worker_connections 10; }\n")
		root.At("etc/nginx/nginx.conf").Mtime++
	}
	return root
}

type demo struct {
	url  string
	key  *identity.PrivateKey
	ids  []flist.ID
	priv flist.ID
}

// startDemo is a hub with two versions of an image, a private one and others.
func startDemo(t testing.TB) demo {
	t.Helper()
	d := demo{key: identity.FromSeed([32]byte{42})}
	pubs := filepath.Join(t.TempDir(), "publishers")
	text := fmt.Sprintf("%v alice 10MiB\n", d.key.Public().Address())
	if err := os.WriteFile(pubs, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	now := clock.Fixed(time.Unix(1795500000, 0))
	h, err := hub.New(t.Context(), hub.Config{Store: block.OpenDir(t.TempDir()), Publishers: pubs, Title: "Demo hub", Clock: now, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	d.url = srv.URL
	src := block.OpenDir(t.TempDir())
	push := func(root *tree.Node, age time.Duration, name, tag string, opt flist.BuildOptions) flist.ID {
		c, err := client.New([]string{srv.URL}, client.Options{Clock: clock.Fixed(time.Time(now).Add(-age))})
		if err != nil {
			t.Fatal(err)
		}
		rep, err := flist.Build(t.Context(), root, src, opt)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := flist.SignImage(nil, rep.ID, []flist.Claim{{Name: "source", Value: "oci:" + name + "<i>x</i>"}, {Name: "builder", Value: "zos 1.0"}}, d.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := src.Write(t.Context(), flist.SignaturesKey(rep.ID), bytes.NewReader(sig)); err != nil {
			t.Fatal(err)
		}
		// Signed with the clock of the client: for old versions the upload would
		// be expired, so the age stays below its lifetime.
		if _, err := c.Push(t.Context(), src, rep.ID, client.PushOptions{Key: d.key, Name: name, Tag: tag, Domain: opt.Domain}); err != nil {
			t.Fatal(err)
		}
		return rep.ID
	}
	cfg := &config.Config{Entrypoint: []string{"/usr/sbin/nginx", "-g", "daemon off; # <x>"}, Env: []string{"LANG=C.UTF-8", "EVIL=</code><script>"}, User: "www-data", Workdir: "/srv", Ports: []string{"80/tcp", "443/tcp"},
		Labels: map[string]string{"org.opencontainers.image.description": "A web server that starts from a small part of its image <b>&</b>"}}
	opt := flist.BuildOptions{Config: cfg, Platform: "linux/amd64"}
	d.priv = push(demoTree(t, 1), 9*time.Minute, "secret-app", "", flist.BuildOptions{Config: cfg, Domain: block.NewDomain([32]byte{3})})
	push(demoTree(t, 1), 8*time.Minute, "toolbox", "2026.11", flist.BuildOptions{})
	d.ids = append(d.ids, push(demoTree(t, 1), 7*time.Minute, "nginx", "v1.0", opt))
	d.ids = append(d.ids, push(demoTree(t, 2), 2*time.Minute, "nginx", "v1.1", opt))
	return d
}

func get(t testing.TB, url string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// pageURLs are the addresses of all kinds of pages.
func (d demo) pageURLs() map[string]string {
	a := d.key.Public().Address().String()
	m := map[string]string{
		"home":      "/",
		"search":    "/?q=nginx+v1.1",
		"nothing":   "/?q=%3Cscript%3Ealert(1)%3C/script%3E",
		"publisher": "/images/alice",
		"image":     "/images/" + a + "/nginx",
		"private":   "/images/alice/secret-app",
		"version":   "/image/" + d.ids[0].String(),
		"root":      "/image/" + d.ids[1].String() + "/files",
		"hostile":   "/image/" + d.ids[1].String() + "/files?path=hostile",
		"binary":    "/image/" + d.ids[1].String() + "/files?path=usr/sbin/nginx",
		"sparse":    "/image/" + d.ids[1].String() + "/files?path=var/sparse",
		"device":    "/image/" + d.ids[1].String() + "/files?path=dev/null",
		"diff":      "/diff/" + d.ids[0].String() + "/" + d.ids[1].String(),
	}
	for i, name := range hostile {
		m[fmt.Sprintf("hostile-%02d", i)] = "/image/" + d.ids[1].String() + "/files?path=" + url.QueryEscape("hostile/"+name)
	}
	return m
}

func TestPagesAreSafe(t *testing.T) {
	d := startDemo(t)
	links := regexp.MustCompile(`href="([^"]*)"`)
	for name, path := range d.pageURLs() {
		status, h, body := get(t, d.url+path)
		if status != 200 {
			t.Errorf("%s: %s = %d\n%s", name, path, status, body)
			continue
		}
		if got := h.Get("Content-Security-Policy"); got != web.Policy {
			t.Errorf("%s: policy %q", name, got)
		}
		for _, bad := range []string{"<script", "<img", "onerror=alert(1)>", "<b>bold", "<i>x", "\x1b", "\u202e", "\xff", "ZgotmplZ", "style=", "<no value>"} {
			if strings.Contains(body, bad) {
				i := strings.Index(body, bad)
				t.Errorf("%s: the page contains %q: …%q…", name, bad, body[max(0, i-60):i+60])
			}
		}
		for _, m := range links.FindAllStringSubmatch(body, -1) {
			href := m[1]
			if strings.HasPrefix(href, "/") || strings.HasPrefix(href, "?") || href == "#main" || href == "data:," {
				continue
			}
			t.Errorf("%s: a link leads to %q", name, href)
		}
	}
	// Every link of the hostile directory leads to its file, whatever its name.
	_, _, body := get(t, d.url+d.pageURLs()["hostile"])
	ok := 0
	for _, m := range links.FindAllStringSubmatch(body, -1) {
		if !strings.Contains(m[1], "path=hostile%2F") {
			continue
		}
		status, _, page := get(t, d.url+html.UnescapeString(m[1]))
		if status == 200 && strings.Contains(page, "Modified") {
			ok++
		} else {
			t.Errorf("link %q = %d", m[1], status)
		}
	}
	if ok != len(hostile)+1 {
		t.Errorf("%d links in the hostile directory work, want %d", ok, len(hostile)+1)
	}
}

func TestPagesShowFacts(t *testing.T) {
	d := startDemo(t)
	a := d.key.Public().Address().String()
	urls := d.pageURLs()
	for name, want := range map[string][]string{
		"home":      {"nginx", "toolbox", "secret-app", "alice", "version 2", "3 images", "v1.1"},
		"search":    {"1 image", "nginx"},
		"nothing":   {"Nothing found", "&lt;script&gt;"},
		"publisher": {a, "10.0 MiB", "3"},
		"image":     {"zos run --hub " + d.url + " " + a + "/nginx", "zos flist verify --deep", "current", "what changed", "linux/amd64", "www-data", "443/tcp", "% shared", d.ids[1].String(), "zos 1.0", "alice", "setgid"},
		"private":   {"This image is private", "--tenant-key FILE"},
		"version":   {"v1.0", d.ids[0].String()},
		"root":      {"etc", "usr/bin", "lrwxrwxrwx", "drwxr-xr-x"},
		"binary":    {"nginx-debug", "on the wire", "zos flist cat"},
		"sparse":    {"Holes", "user.note", "0x00ff"},
		"device":    {"1:3", "character device"},
		"diff":      {"usr/share/new.txt", "added", "removed", "file007.txt", "content, mode, time", "An upgrade moves"},
	} {
		_, _, body := get(t, d.url+urls[name])
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("page %s doesn't contain %q", name, w)
			}
		}
	}
	for path, want := range map[string]int{
		"/images/nobody":                        404,
		"/images/alice/absent":                  404,
		"/image/xyz":                            404,
		"/image/" + strings.Repeat("0", 64):     404,
		"/image/" + d.priv.String() + "/files":  403,
		urls["root"] + "?path=../../etc/passwd": 400,
		urls["root"] + "?path=absent":           404,
		urls["root"] + "?after=-1":              400,
		urls["diff"] + "?kind=other":            400,
	} {
		status, h, body := get(t, d.url+path)
		if status != want || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
			t.Errorf("GET %s = %d %s, want %d as a page\n%s", path, status, h.Get("Content-Type"), want, body)
		}
	}
}

// TestPagesInBrowser renders the pages in Debian's Chromium. With ZOS_SCREENSHOTS
// set to a directory it leaves pictures there.
func TestPagesInBrowser(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("Debian's chromium is not installed: ", err)
	}
	if testing.Short() {
		t.Skip("a browser is slow")
	}
	d := startDemo(t)
	run := func(t *testing.T, args ...string) []byte {
		t.Helper()
		profile := t.TempDir()
		flags := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-component-update", "--disable-sync", "--user-data-dir=" + profile, "--hide-scrollbars", "--timeout=20000"}, args...)
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), chromium, flags...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		cmd.Env = append(os.Environ(), "HOME="+profile, "XDG_CONFIG_HOME="+profile, "XDG_CACHE_HOME="+profile)
		if err := cmd.Run(); err != nil {
			t.Fatalf("chromium: %v\n%s", err, errs.String())
		}
		return out.Bytes()
	}
	urls := d.pageURLs()
	t.Run("dom", func(t *testing.T) {
		dom := string(run(t, "--dump-dom", d.url+urls["hostile"]))
		for _, want := range []string{"&lt;script&gt;alert(1)&lt;", `not-utf8-\xff\xfe`, `rtl-\u202egnp.exe`, "<h1"} {
			if !strings.Contains(dom, want) {
				t.Errorf("the DOM of the hostile directory doesn't contain %q", want)
			}
		}
		if strings.Contains(dom, "<script") || strings.Contains(dom, "<img") {
			t.Error("a name became an element")
		}
	})
	dir := os.Getenv("ZOS_SCREENSHOTS")
	shots := map[string][]string{"image": {"1200,1500"}}
	if dir == "" {
		dir = t.TempDir()
	} else {
		shots = map[string][]string{"home": {"1200,760", "420,900"}, "image": {"1200,1700", "420,2600"}, "root": {"1200,760"}, "hostile": {"1200,1000"}, "sparse": {"1200,760"}, "diff": {"1200,1100"}, "publisher": {"1200,760"}, "private": {"1200,1300"}}
	}
	for name, sizes := range shots {
		for _, size := range sizes {
			for _, mode := range []string{"light", "dark"} {
				t.Run(name+"-"+size+"-"+mode, func(t *testing.T) {
					file := filepath.Join(dir, name+"-"+strings.ReplaceAll(size, ",", "x")+"-"+mode+".png")
					args := []string{"--screenshot=" + file, "--window-size=" + size, d.url + urls[name]}
					if mode == "dark" {
						args = append([]string{"--blink-settings=preferredColorScheme=0"}, args...)
					} else {
						args = append([]string{"--blink-settings=preferredColorScheme=1"}, args...)
					}
					run(t, args...)
					b, err := os.ReadFile(file)
					if err != nil || !bytes.HasPrefix(b, []byte("\x89PNG")) || len(b) < 10_000 {
						t.Errorf("the screenshot has %d bytes, %v", len(b), err)
					}
				})
			}
		}
	}
}
