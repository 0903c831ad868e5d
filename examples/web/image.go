package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"zos.internal/test/debian"
)

const page = "hello from a sealed container"

// debian makes the tar of a root file system with nginx.
func (j *job) debian(ctx context.Context) (string, error) {
	sources, suite, err := debian.Sources(ctx)
	if err != nil {
		return "", fmt.Errorf("%w; or give -rootfs", err)
	}
	out := filepath.Join(j.dir, "rootfs.tar")
	for try := 1; ; try++ {
		log, err := j.command(ctx, strings.NewReader(sources), "mmdebstrap", "--variant=minbase", "--include=nginx-light",
			"--mode=root", "--aptopt=Acquire::Retries \"3\"", suite, out, "-")
		if err == nil {
			return out, nil
		}
		if try == 3 || ctx.Err() != nil {
			return "", fmt.Errorf("mmdebstrap: %w\n%s", err, tail(log))
		}
		j.say("mmdebstrap did not succeed, trying again: %s", tail(log))
	}
}

func tail(log []byte) string {
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

const nginxConf = `user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 64; }
http {
  access_log off;
  include /etc/nginx/mime.types;
  server { listen 8080; root /srv/web; }
}
`

// siteLayer is the second layer: the site on top of Debian.
func siteLayer() (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range []struct{ name, text string }{
		{"etc/nginx/nginx.conf", nginxConf},
		{"etc/nginx/sites-enabled/.wh.default", ""},
		{"srv/web/index.html", page + "\n"},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
}

// pushOCI makes an OCI image of the root and the site and pushes it. It returns
// the bytes of its layers.
func (j *job) pushOCI(ctx context.Context, rootfs, ref string) (int64, error) {
	base, err := tarball.LayerFromFile(rootfs)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", rootfs, err)
	}
	site, err := siteLayer()
	if err != nil {
		return 0, err
	}
	img, err := mutate.AppendLayers(empty.Image, base, site)
	if err != nil {
		return 0, err
	}
	img, err = mutate.ConfigFile(img, configOf(img))
	if err != nil {
		return 0, err
	}
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		return 0, err
	}
	if err := remote.Write(tag, img, remote.WithContext(ctx)); err != nil {
		return 0, fmt.Errorf("push to the registry: %w", err)
	}
	var sum int64
	for _, l := range []v1.Layer{base, site} {
		n, err := l.Size()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func configOf(img v1.Image) *v1.ConfigFile {
	cf, err := img.ConfigFile()
	if err != nil {
		cf = &v1.ConfigFile{}
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", runtime.GOARCH
	cf.Config = v1.Config{
		Entrypoint:   []string{"/usr/sbin/nginx"},
		Cmd:          []string{"-g", "daemon off;"},
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}
	return cf
}

const registryConf = `version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %s}
http: {addr: %s}
`

// startRegistry starts Debian's container registry on a free port of loopback.
func (j *job) startRegistry(ctx context.Context) (string, error) {
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	conf := filepath.Join(j.dir, "registry.yml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, registryConf, filepath.Join(j.dir, "registry"), addr), 0o600); err != nil {
		return "", err
	}
	if _, err := j.start(ctx, nil, "registry", "docker-registry", "serve", conf); err != nil {
		return "", err
	}
	_, err = j.get(ctx, "http://"+addr+"/v2/")
	return addr, err
}
