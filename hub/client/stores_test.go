package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"zos.internal/block"
	"zos.internal/block/s3"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

// spawn starts a server of this machine and waits until it listens. The test
// ends it.
func spawn(t *testing.T, addr string, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Skipf("start %s: %v", name, err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.String())
		}
	})
	for {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			c.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("%s ended: %s", name, log.String())
		case <-t.Context().Done():
			t.Fatalf("%s does not listen", name)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// freePort is an address of this machine where nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startNginx serves dir read-only, with the configuration of
// docs/how-to/mirror-a-hub.md.
func startNginx(t *testing.T, dir string) (url string) {
	t.Helper()
	bin, err := exec.LookPath("nginx")
	if err != nil {
		bin = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skip("Debian's nginx-light is not installed: ", err)
	}
	how, err := os.ReadFile("../../docs/how-to/mirror-a-hub.md")
	if err != nil {
		t.Fatal(err)
	}
	_, conf, ok := strings.Cut(string(how), "```nginx\n")
	conf, _, ok2 := strings.Cut(conf, "```")
	if !ok || !ok2 {
		t.Fatal("docs/how-to/mirror-a-hub.md has no nginx configuration")
	}
	addr := freePort(t)
	conf = strings.ReplaceAll(strings.ReplaceAll(conf, "listen 80;", "listen "+addr+";"), "/srv/zos-mirror", dir)
	if !strings.Contains(conf, addr) || !strings.Contains(conf, dir) {
		t.Fatal("the nginx configuration has no port or directory to replace")
	}
	run := t.TempDir()
	for _, d := range []string{run, dir} { // workers may be another user
		for ; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole := fmt.Sprintf("daemon off; master_process off; pid %s/pid; error_log stderr;\nevents {}\nhttp { access_log off; client_body_temp_path %s; proxy_temp_path %s; fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s;\n%s}\n",
		run, run, run, run, run, run, conf)
	file := filepath.Join(run, "nginx.conf")
	if err := os.WriteFile(file, []byte(whole), 0o644); err != nil {
		t.Fatal(err)
	}
	spawn(t, addr, bin, "-c", file, "-p", run)
	return "http://" + addr
}

// TestReaders runs the same reading tests against everything that can serve an
// image: the hub over a directory, over memory and over S3, and plain nginx.
func TestReaders(t *testing.T) {
	key := seedKey(1)
	stores := map[string]func(t *testing.T) (store block.Bucket, reader func(hub string) string){
		"hub over a directory": func(t *testing.T) (block.Bucket, func(string) string) {
			return block.OpenDir(t.TempDir()), func(hub string) string { return hub }
		},
		"hub over memory": func(t *testing.T) (block.Bucket, func(string) string) {
			return &block.Mem{}, func(hub string) string { return hub }
		},
		"hub over S3": func(t *testing.T) (block.Bucket, func(string) string) {
			return startS3(t), func(hub string) string { return hub }
		},
		"nginx": func(t *testing.T) (block.Bucket, func(string) string) {
			dir := t.TempDir()
			return block.OpenDir(dir), func(string) string { return startNginx(t, dir) }
		},
	}
	for name, make := range stores {
		t.Run(name, func(t *testing.T) {
			store, reader := make(t)
			srv, _ := startHub(t, store, key)
			src := block.OpenDir(t.TempDir())
			dom := block.NewDomain([32]byte{5})
			id := build(t, src, files(t, 12, 6, 1), flist.BuildOptions{})
			next := build(t, src, files(t, 12, 6, 2), flist.BuildOptions{Bases: []flist.ID{id}})
			private := build(t, src, files(t, 4, 4, 1), flist.BuildOptions{Domain: dom})
			for _, x := range []flist.ID{id, next, private} {
				sig, err := flist.SignImage(nil, x, []flist.Claim{{Name: "a", Value: "b"}}, key)
				if err != nil {
					t.Fatal(err)
				}
				write(t, src, flist.SignaturesKey(x), sig)
			}
			up := open(t, client.Options{}, srv.URL)
			for _, o := range []struct {
				id  flist.ID
				opt client.PushOptions
			}{{id, client.PushOptions{Name: "web", Tag: "one"}}, {next, client.PushOptions{Name: "web"}}, {private, client.PushOptions{Name: "own", Domain: dom}}} {
				o.opt.Key = key
				if _, err := up.Push(t.Context(), src, o.id, o.opt); err != nil {
					t.Fatal(err)
				}
			}
			c := open(t, client.Options{State: filepath.Join(t.TempDir(), "state")}, reader(srv.URL))
			testReader(t, c, id, next, private, dom)
			if name == "nginx" {
				testStaticRefusals(t, c)
			}
		})
	}
}

func testReader(t *testing.T, c *client.Client, id, next, private flist.ID, dom block.Domain) {
	owner := seedKey(1).Public().Address()
	for tag, want := range map[string]flist.ID{"": next, "one": id} {
		if p, err := c.Resolve(t.Context(), owner, "web", tag); err != nil || p.ID != want {
			t.Errorf("Resolve(web, %q) = %v, %v, want %v", tag, p.ID, err, want)
		}
	}
	if _, err := c.Resolve(t.Context(), owner, "absent", ""); fault.Of(err) != fault.NotFound {
		t.Errorf("Resolve(absent) = %v, want not found", err)
	}
	hist, err := c.History(t.Context(), owner, "web", 10)
	if err != nil || len(hist) != 2 || hist[0].ID != next || hist[1].ID != id {
		t.Errorf("History = %+v, %v, want both versions", hist, err)
	}
	dst := block.OpenDir(t.TempDir())
	meta, err := c.Pull(t.Context(), dst, id, client.PullOptions{MetadataOnly: true})
	if err != nil || meta.Packs != 0 {
		t.Fatalf("Pull of metadata = %+v, %v", meta, err)
	}
	if img, err := flist.Open(t.Context(), dst, id, flist.OpenOptions{}); err != nil || img.Root.Entries == 0 {
		t.Errorf("Open after a pull of metadata = %v", err)
	}
	first, err := c.Pull(t.Context(), dst, id, client.PullOptions{})
	if err != nil || first.Packs == 0 || first.Skipped == 0 {
		t.Fatalf("Pull = %+v, %v, want packs, and the metadata skipped", first, err)
	}
	verify(t, dst, id, block.Domain{})
	second, err := c.Pull(t.Context(), dst, next, client.PullOptions{})
	if err != nil || second.Received >= first.Received || second.Skipped == 0 {
		t.Errorf("Pull of the next version = %+v, %v, want less than %d bytes", second, err, first.Received)
	}
	verify(t, dst, next, block.Domain{})
	if _, err := c.Pull(t.Context(), dst, private, client.PullOptions{Domain: block.NewDomain([32]byte{6})}); fault.Of(err) != fault.Denied {
		t.Errorf("Pull with another tenant's secret = %v, want denied", err)
	}
	rep, err := c.Pull(t.Context(), dst, private, client.PullOptions{})
	if err != nil || rep.Unchecked != 4 {
		t.Errorf("Pull without the secret = %+v, %v, want 4 objects that nobody checked", rep, err)
	}
	verify(t, dst, private, dom)
	if _, err := c.Pull(t.Context(), dst, block.Sum([]byte("absent")), client.PullOptions{}); fault.Of(err) != fault.NotFound {
		t.Errorf("Pull(absent) = %v, want not found", err)
	}
	// Through the client as a bucket, lazily.
	img, err := flist.Open(t.Context(), c, next, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	loc, err := flist.ReadLocator(t.Context(), c, img)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range img.Getter(c.Mirrors(), loc).Get(t.Context(), []block.Name{img.Map.Chunks[0].Name, img.Map.Chunks[1].Name}) {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d chunks, want 2", n)
	}
}

// testStaticRefusals: a plain file server is a mirror and nothing else.
func testStaticRefusals(t *testing.T, c *client.Client) {
	src := &block.Mem{}
	id := build(t, src, files(t, 1, 0, 9), flist.BuildOptions{})
	if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "x"}); err == nil {
		t.Error("Push to a static mirror succeeded")
	} else {
		t.Log(err)
	}
	for _, key := range []string{"a/x", "e/waste", "p"} {
		if _, err := c.Stat(t.Context(), key); fault.Of(err) != fault.NotFound {
			t.Errorf("Stat(%s) on the mirror = %v, want not found", key, err)
		}
	}
}

// startS3 is a bucket on a real S3 server.
func startS3(t *testing.T) block.Bucket {
	t.Helper()
	bin := os.Getenv("ZOS_VERSITYGW")
	if bin == "" {
		bin = "../../bin/versitygw"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("no S3 server: build bin/versitygw from test/tools or set ZOS_VERSITYGW (%v)", err)
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	addr := freePort(t)
	spawn(t, addr, bin, "--port", addr, "--access", "someone", "--secret", "something secret", "--quiet", "posix", "--sidecar", t.TempDir(), t.TempDir())
	mc, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4("someone", "something secret", ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := mc.MakeBucket(t.Context(), "images", minio.MakeBucketOptions{Region: "us-east-1"}); err != nil {
		t.Fatal(err)
	}
	b, err := s3.Open(s3.Config{Endpoint: addr, Bucket: "images", AccessKey: "someone", SecretKey: "something secret", Region: "us-east-1", Plain: true, Prefix: "zos/"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCollectionOnS3 runs the collector over a store that isn't a directory.
func TestCollectionOnS3(t *testing.T) {
	key := seedKey(1)
	store := startS3(t)
	h, err := hub.New(t.Context(), hub.Config{Store: store, Publishers: publishersFile(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	src := &block.Mem{}
	kept := build(t, src, files(t, 2, 0, 1), flist.BuildOptions{})
	lost := build(t, src, files(t, 2, 0, 2), flist.BuildOptions{})
	c := open(t, client.Options{}, srv.URL)
	for id, name := range map[flist.ID]string{kept: "kept", lost: ""} {
		if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: key, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := h.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, store, kept, block.Domain{})
	if _, err := store.Stat(t.Context(), flist.RootKey(lost)); !errors.Is(err, fault.NotFound) {
		t.Errorf("Stat of an image without a name = %v, want not found", err)
	}
}

var _ http.Handler = (*counts)(nil)
