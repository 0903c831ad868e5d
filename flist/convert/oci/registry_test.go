package oci

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/internal/treetest"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// hook may answer a request itself; then it returns true.
type hook func(w http.ResponseWriter, r *http.Request) bool

// server is a registry in memory on loopback. It gives its host and port.
func server(t *testing.T, h hook) string {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	reg := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h != nil && h(w, r) {
			return
		}
		reg.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func pull(t *testing.T, ref string, opts convert.Options) (*convert.Result, error) {
	t.Helper()
	opts.TempDir = t.TempDir()
	res, err := ReadRegistry(context.Background(), ref, opts)
	if left, _ := os.ReadDir(opts.TempDir); len(left) > 0 {
		t.Errorf("%d files are left in the temporary directory", len(left))
	}
	if err == nil {
		t.Cleanup(func() { res.Close() })
	}
	return res, err
}

func TestRegistry(t *testing.T) {
	host := server(t, nil)
	root := tree.NewDir(0o755)
	must(t, root.Insert("bin/sh", &tree.Node{Mode: tree.Regular | 0o4755, Size: 2, Content: tree.Bytes("#!"), Xattrs: []tree.Xattr{{Name: "user.a", Value: "b"}}}))
	dir := filepath.Join(t.TempDir(), "layout")
	written, err := Write(t.Context(), dir, root, fullConfig(), WriteOptions{Platform: "linux/amd64"})
	must(t, err)
	digest, err := Push(t.Context(), dir, host+"/a/b:1", convert.Options{})
	must(t, err)
	if digest != written.Manifest {
		t.Errorf("pushed %s, want %s", digest, written.Manifest)
	}
	phases := make(map[string][2]int64)
	for _, ref := range []string{host + "/a/b:1", host + "/a/b@" + digest} {
		res, err := pull(t, ref, convert.Options{Platform: "linux/amd64", Progress: func(phase string, done, total int64) { phases[phase] = [2]int64{done, total} }})
		must(t, err)
		if d := treetest.Diff(root, res.Root); d != "" {
			t.Error(d)
		}
		if res.Source != "oci:"+digest || res.Config.User != "1:2" {
			t.Errorf("source %q, configuration %+v", res.Source, res.Config)
		}
	}
	for _, p := range []string{"download", "apply"} {
		if want := [2]int64{written.LayerSize, written.LayerSize}; phases[p] != want {
			t.Errorf("progress of %s ended at %v, want %v", p, phases[p], want)
		}
	}
	for ref, kind := range map[string]fault.Kind{
		host + "/a/b:2": fault.NotFound, host + "/none:1": fault.NotFound, "127.0.0.1:1/a/b": fault.Unavailable,
		host + "/a/b@sha256:" + strings.Repeat("0", 64): fault.NotFound,
	} {
		if _, err := pull(t, ref, convert.Options{}); fault.Of(err) != kind {
			t.Errorf("%s: %v (%s), want %s", ref, err, fault.Of(err), kind)
		}
	}
	if _, err := Push(t.Context(), dir, host+"/a/b@sha256:"+strings.Repeat("0", 64), convert.Options{}); fault.Of(err) != fault.Conflict {
		t.Errorf("push to another digest: %v", err)
	}
}

func TestReferences(t *testing.T) {
	for _, ref := range []string{"", "nginx", "nginx:1", "library/nginx", "library/nginx:1", "localhost", "host.example/", "host.example/UPPER", "host.example/a:b c"} {
		if _, err := ReadRegistry(t.Context(), ref, convert.Options{}); fault.Of(err) != fault.Invalid {
			t.Errorf("%q: %v, want invalid", ref, err)
		}
	}
	if _, err := ReadRegistry(t.Context(), "nginx:1", convert.Options{}); !strings.Contains(err.Error(), "no default") {
		t.Errorf("nginx:1: %v, want a word about the missing registry", err)
	}
}

// layered pushes an image of several layers and gives its layout.
func layered(t *testing.T, host string, layers ...[]byte) *testImage {
	t.Helper()
	im := newTestImage(layers...).gzipped(t)
	_, err := Push(t.Context(), im.layout(t), host+"/x:1", convert.Options{})
	must(t, err)
	return im
}

// blobHook changes what GETs of one blob answer, the n-th time from 1.
func blobHook(digest *string, answer func(n int, w http.ResponseWriter) bool) hook {
	var mu sync.Mutex
	n := 0
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if *digest == "" || r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+*digest) {
			return false
		}
		n++
		return answer(n, w)
	}
}

func TestBadRegistry(t *testing.T) {
	var raw []byte
	half := func(w http.ResponseWriter) bool {
		w.Header().Set("Content-Length", "100000")
		w.Write(raw[:len(raw)/2])
		panic(http.ErrAbortHandler)
	}
	for name, tt := range map[string]struct {
		answer func(n int, w http.ResponseWriter) bool
		opts   convert.Options
		kind   fault.Kind // empty: works
		want   string
	}{
		"breaks once":   {answer: func(n int, w http.ResponseWriter) bool { return n == 1 && half(w) }},
		"breaks twice":  {answer: func(n int, w http.ResponseWriter) bool { return n <= 2 && half(w) }},
		"breaks always": {answer: func(n int, w http.ResponseWriter) bool { return half(w) }, kind: fault.Unavailable, want: "layer 2 of 3"},
		"wrong bytes": {answer: func(n int, w http.ResponseWriter) bool {
			bad := bytes.Clone(raw)
			bad[len(bad)/2] ^= 1
			w.Write(bad)
			return true
		}, kind: fault.Invalid, want: "layer 2 of 3"},
		"too many bytes": {answer: func(n int, w http.ResponseWriter) bool { w.Write(append(bytes.Clone(raw), 0)); return true }, kind: fault.Invalid, want: "layer 2 of 3"},
		"too few bytes":  {answer: func(n int, w http.ResponseWriter) bool { w.Write(raw[:len(raw)-1]); return true }, want: "layer 2 of 3", kind: fault.Unavailable},
		"gone":           {answer: func(n int, w http.ResponseWriter) bool { w.WriteHeader(404); return true }, kind: fault.NotFound, want: "layer 2 of 3"},
		"denied":         {answer: func(n int, w http.ResponseWriter) bool { w.WriteHeader(403); return true }, kind: fault.Denied, want: "log in"},
		"redirect to plain HTTP": {answer: func(n int, w http.ResponseWriter) bool {
			w.Header().Set("Location", "http://192.0.2.1/blob")
			w.WriteHeader(307)
			return true
		}, kind: fault.Denied, want: "plain HTTP to 192.0.2.1"},
		"limit": {answer: func(n int, w http.ResponseWriter) bool { return false }, opts: convert.Options{Limits: convert.Limits{Bytes: 10}}, kind: fault.Exhausted, want: "of 3 (sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			var digest string
			host := server(t, blobHook(&digest, tt.answer))
			im := layered(t, host, lay(t, "a=1"), lay(t, "b=2"), lay(t, "c=3"))
			digest, raw = im.manifest.Layers[1].Digest, im.layers[1]
			res, err := pull(t, host+"/x:1", tt.opts)
			if tt.kind == "" {
				must(t, err)
				if got := sketch(t, res.Root); got != "a=1 b=2 c=3" {
					t.Errorf("tree = %s", got)
				}
				return
			}
			if fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v (%s), want %s with %q", err, fault.Of(err), tt.kind, tt.want)
			}
		})
	}
}

// A manifest that is not what its digest says is refused, and so is another
// one under the same digest.
func TestForgedManifest(t *testing.T) {
	var digest string
	host := server(t, func(w http.ResponseWriter, r *http.Request) bool {
		if digest == "" || !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", typeOCIManifest)
		w.Header().Set("Docker-Content-Digest", digest)
		io.WriteString(w, `{"schemaVersion":2,"layers":[]}`)
		return true
	})
	im := layered(t, host, lay(t, "a=1"))
	digest = im.index.Manifests[0].Digest
	if _, err := pull(t, host+"/x@"+digest, convert.Options{}); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("by digest: %v, want an error about the digest", err)
	}
}

func TestAuth(t *testing.T) {
	ok := false
	host := server(t, func(w http.ResponseWriter, r *http.Request) bool {
		user, pass, _ := r.BasicAuth()
		if user == "me" && pass == "se:cret" {
			ok = true
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(401)
		return true
	})
	env := func(string) string { return "other.example=a:b " + host + "=me:se:cret" }
	opts := convert.Options{Auth: AuthFromEnv(env)}
	dir := newTestImage(lay(t, "a=1")).layout(t)
	_, err := Push(t.Context(), dir, host+"/x:1", opts)
	must(t, err)
	_, err = pull(t, host+"/x:1", opts)
	must(t, err)
	if !ok {
		t.Error("no credentials were sent")
	}
	_, err = pull(t, host+"/x:1", convert.Options{})
	if fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), "log in") {
		t.Errorf("without credentials: %v, want denied", err)
	}
	// The Docker configuration file is asked next.
	cfg := `{"auths":{"` + host + `":{"auth":"bWU6c2U6Y3JldA=="}}}`
	must(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(cfg), 0o600))
	if _, err = pull(t, host+"/x:1", convert.Options{}); err != nil {
		t.Errorf("with the Docker configuration: %v", err)
	}
	if AuthFromEnv(func(string) string { return "" }) != nil {
		t.Error("credentials from nothing")
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestPlainHTTP(t *testing.T) {
	sent := errors.New("sent")
	base := tripper(func(*http.Request) (*http.Response, error) { return nil, sent })
	for url, allowed := range map[string]bool{
		"https://registry.example/v2/": true, "http://registry.example/v2/": false, "http://10.0.0.1:5000/": false, "http://x.local/": false,
		"http://127.0.0.1:5000/": true, "http://127.9.9.9/": true, "http://localhost:5000/": true, "http://[::1]:5000/": true,
		"http://localhost.example/": false, "http://[::ffff:10.0.0.1]/": false,
	} {
		for _, insecure := range []bool{false, true} {
			req := httptest.NewRequest(http.MethodGet, url, nil)
			_, err := (&guard{base: base, insecure: insecure}).RoundTrip(req)
			if got := err == sent; got != (allowed || insecure) {
				t.Errorf("%s, insecure %v: %v", url, insecure, err)
			} else if !got && fault.Of(err) != fault.Denied {
				t.Errorf("%s: %v, want denied", url, err)
			}
		}
	}
}

// A body that stops is given up; nobody has to wait for the test's clock.
func TestSilentRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := tripper(func(r *http.Request) (*http.Response, error) {
			pr, pw := io.Pipe()
			go func() {
				pw.Write([]byte("some"))
				<-r.Context().Done()
				pw.CloseWithError(r.Context().Err())
			}()
			return &http.Response{StatusCode: 200, Body: pr}, nil
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.example/", nil)
		must(t, err)
		resp, err := (&guard{base: base, idle: idle}).RoundTrip(req)
		must(t, err)
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if string(got) != "some" || fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "sent nothing") {
			t.Errorf("read = %q, %v, want unavailable", got, err)
		}
	})
}
