package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"zos.internal/internal/clock"
	"zos.internal/node/compute"
	"zos.internal/node/network"
)

// hub is a running hub and a proxy before it that counts what is fetched.
type hub struct {
	direct  string // for the publisher and for people
	counted string // for the one who runs the image
	image   string // OWNER/NAME
	bytes   atomic.Int64
	calls   atomic.Int64
}

// publish builds the image from the registry and publishes it on a hub.
func (j *job) publish(ctx context.Context, ref string, r *result) (*hub, error) {
	out, err := j.zosAs(ctx, "publisher-", "", "key", "new", "-o", "json")
	if err != nil {
		return nil, err
	}
	var key struct{ Address string }
	if err := json.Unmarshal(out, &key); err != nil {
		return nil, err
	}
	publishers := filepath.Join(j.dir, "publishers")
	if err := os.WriteFile(publishers, []byte(key.Address+" example unlimited\n"), 0o600); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	h := &hub{direct: "http://" + addr, image: key.Address + "/web:1"}
	if _, err := j.start(ctx, j.zosEnv("hub-", ""), "hub", j.zos, "hub", "serve", "--listen", addr,
		"--dir", filepath.Join(j.dir, "hub"), "--publishers", publishers); err != nil {
		return nil, err
	}
	if _, err := j.get(ctx, h.direct+"/"); err != nil {
		return nil, err
	}
	out, err = j.zosAs(ctx, "publisher-", h.direct, "flist", "build", "registry:"+ref, "--name", "web:1", "--push", "web:1", "-o", "json")
	if err != nil {
		return nil, err
	}
	var built struct {
		ID                 string
		Entries            uint64
		Content, Published int64
		Chunks             int
	}
	if err := json.Unmarshal(out, &built); err != nil {
		return nil, err
	}
	r.id, r.files, r.imageBytes, r.metadata, r.chunks = built.ID, built.Entries, built.Content, built.Published, built.Chunks
	return h, j.count(h)
}

// count starts the proxy that counts bodies on their way to the client.
func (j *job) count(h *hub) error {
	target, err := url.Parse(h.direct)
	if err != nil {
		return err
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(resp *http.Response) error {
		h.calls.Add(1)
		resp.Body = &countedBody{resp.Body, &h.bytes}
		return nil
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: addr, Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.ListenAndServe() }()
	j.onClean(func() error {
		if err := server.Close(); err != nil {
			return err
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	h.counted = "http://" + addr
	return nil
}

// pullUnpackStart is the peer: all of the image is fetched and written to disk
// before nginx starts, with the same runtime and the same seal.
func (j *job) pullUnpackStart(ctx context.Context, ref string, r *result) error {
	begin := j.clock.Now()
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		return err
	}
	counted := &countingTransport{inner: http.DefaultTransport}
	img, err := remote.Image(tag, remote.WithContext(ctx), remote.WithTransport(counted))
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	root := filepath.Join(j.dir, "unpacked")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	content := mutate.Extract(img)
	defer content.Close()
	if log, err := j.command(ctx, content, "tar", "--extract", "--numeric-owner", "--same-permissions", "--directory", root); err != nil {
		return fmt.Errorf("unpack: %w\n%s", err, tail(log))
	}
	rt, err := compute.New(compute.Options{Dir: filepath.Join(j.dir, "run", "w")})
	if err != nil {
		return err
	}
	port, err := freeAddr()
	if err != nil {
		return err
	}
	ports, err := network.ParsePublish(port + ":8080")
	if err != nil {
		return err
	}
	net, err := network.Attach(ctx, network.Options{ID: "zos-example-peer", Dir: filepath.Join(j.dir, "run", "net"), Publish: []network.Publish{ports}})
	if err != nil {
		return err
	}
	c, err := rt.Start(ctx, compute.Spec{
		ID: "zos-example-peer", RootFS: root, Argv: []string{"/usr/sbin/nginx", "-g", "daemon off;"},
		WritableDirs: []string{"/run", "/var/log", "/var/lib/nginx", "/tmp"}, Sealed: compute.Off, NetNS: net.NetNS(),
	}, compute.Stdio{})
	if err != nil {
		return errors.Join(err, net.Close())
	}
	got, err := j.get(ctx, "http://"+port+"/")
	r.peerTime, r.peerBytes = clock.Since(j.clock, begin), counted.bytes.Load()
	_, stopErr := c.Stop(context.WithoutCancel(ctx), 10*time.Second)
	err = errors.Join(err, stopErr, c.Close(), net.Close(), os.RemoveAll(root))
	if err == nil && got != page {
		err = fmt.Errorf("the page is %q, want %q", got, page)
	}
	return err
}

// lazyStart runs the image from the hub on a machine that has nothing of it.
func (j *job) lazyStart(ctx context.Context, h *hub, r *result) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, _ := strings.Cut(addr, ":")
	begin := j.clock.Now()
	if _, err := j.start(ctx, j.zosEnv("user-", h.counted), "container", j.zos, "run", "--rm", "--name", "zos-example-web",
		"--publish", "127.0.0.1:"+port+":8080", h.image); err != nil {
		return err
	}
	if r.page, err = j.get(ctx, "http://"+addr+"/"); err != nil {
		log, _ := os.ReadFile(filepath.Join(j.dir, "container.log"))
		return fmt.Errorf("%w\n%s", err, tail(log))
	}
	r.lazyTime = clock.Since(j.clock, begin)
	r.fetched, r.requests, r.served = h.bytes.Load(), h.calls.Load(), addr
	if r.page != page {
		return fmt.Errorf("the page is %q, want %q", r.page, page)
	}
	out, err := j.zosCommand(ctx, "", "flist", "mount", "-o", "json")
	if err != nil {
		return err
	}
	var mounts []struct{ Mode string }
	if err := json.Unmarshal(out, &mounts); err != nil || len(mounts) == 0 {
		return fmt.Errorf("zos flist mount shows no mount: %s", out)
	}
	r.mode = mounts[0].Mode
	return nil
}

// verify checks signatures and every block, from the hub.
func (j *job) verify(ctx context.Context, h *hub, r *result) error {
	out, err := j.zosCommand(ctx, h.direct, "flist", "verify", "--deep", h.image, "-o", "json")
	if err != nil {
		return err
	}
	var rep struct {
		CheckedChunks int `json:"checked_chunks"`
		Signers       []struct{ Address string }
	}
	if err := json.Unmarshal(out, &rep); err != nil {
		return err
	}
	r.checked, r.signers = rep.CheckedChunks, len(rep.Signers)
	return nil
}
