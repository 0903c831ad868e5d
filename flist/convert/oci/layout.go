package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/flist/convert"
	"zos.internal/internal/fault"
)

const refName = "org.opencontainers.image.ref.name"

// ReadLayout reads an image of an OCI layout: "DIR", "DIR:NAME" with the name
// that the index gives to one of several images, or "DIR@sha256:…". The
// provenance is "oci:" and the digest of the manifest.
func ReadLayout(ctx context.Context, path string, opts convert.Options) (*convert.Result, error) {
	dir, name, digest := splitLayout(path)
	res, err := readLayout(ctx, dir, name, digest, opts)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "image %q: %w", path, err)
	}
	return convert.Finish(res, opts)
}

// splitLayout leaves a path that exists whole.
func splitLayout(path string) (dir, name, digest string) {
	if _, err := os.Stat(path); err == nil {
		return path, "", ""
	}
	if d, digest, ok := strings.Cut(path, "@"); ok {
		return d, "", digest
	}
	if i := strings.LastIndexByte(path, ':'); i > 0 {
		return path[:i], path[i+1:], ""
	}
	return path, "", ""
}

func readLayout(ctx context.Context, dir, name, digest string, opts convert.Options) (*convert.Result, error) {
	want, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, err
	}
	l, err := openLayout(dir)
	if err != nil {
		return nil, err
	}
	defer l.root.Close()
	d, err := l.pick(name, digest, want)
	if err != nil {
		return nil, err
	}
	m, d, err := resolve(ctx, l, d, want)
	if err != nil {
		return nil, err
	}
	im, err := loadImage(ctx, l, m)
	if err != nil {
		return nil, err
	}
	if err := im.checkPlatform(opts, want); err != nil {
		return nil, err
	}
	res, err := apply(ctx, l, im, false, opts)
	if err != nil {
		return nil, err
	}
	res.Source = "oci:" + d.Digest
	return res, nil
}

// checkPlatform refuses a single image for another platform than was asked for.
func (im *image) checkPlatform(opts convert.Options, want platform) error {
	if opts.Platform != "" && im.platform.Architecture != "" && !im.platform.fits(want) {
		return fault.Errorf(fault.NotFound, "the image is for %s, not for %s; leave --platform away or choose another image", im.platform, want)
	}
	return nil
}

// layout is an OCI layout directory. Nothing outside of it is opened.
type layout struct {
	root *os.Root
}

func openLayout(dir string) (*layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "open the layout: %w", err)
	}
	l := &layout{root: root}
	raw, err := l.small("oci-layout", maxManifest)
	if err != nil {
		root.Close()
		return nil, fault.Errorf(fault.Of(err), "%w; is it an OCI layout?", err)
	}
	var v struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(raw, &v); err != nil || !strings.HasPrefix(v.Version, "1.") {
		root.Close()
		return nil, fault.Errorf(fault.Unsupported, "oci-layout: %.80q is not a layout of version 1", raw)
	}
	return l, nil
}

// open opens a regular file of the layout.
func (l *layout) open(name string) (*os.File, error) {
	// Without O_NONBLOCK a FIFO would wait for a writer.
	f, err := l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.NotFound, "the layout has no %s", name)
	}
	if k := fault.Of(err); k == fault.Internal { // a link out of the layout, a device
		return nil, fault.Errorf(fault.Invalid, "%s: %w; the layout is damaged or hostile", name, err)
	} else if err != nil {
		return nil, fault.Errorf(k, "%s: %w", name, err)
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fault.Errorf(fault.Invalid, "%s is not a regular file", name)
	}
	return f, nil
}

func (l *layout) small(name string, limit int64) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "%s: %w", name, err)
	}
	if int64(len(raw)) > limit {
		return nil, fault.Errorf(fault.Exhausted, "%s has more than %d bytes", name, limit)
	}
	return raw, nil
}

// pick finds the entry of index.json.
func (l *layout) pick(name, digest string, want platform) (descriptor, error) {
	raw, err := l.small("index.json", maxManifest)
	if err != nil {
		return descriptor{}, err
	}
	index := new(manifest)
	if err := json.Unmarshal(raw, index); err != nil {
		return descriptor{}, fault.Errorf(fault.Invalid, "index.json: %w", err)
	}
	var found []descriptor
	for _, d := range index.Manifests {
		if (name == "" || d.Annotations[refName] == name) && (digest == "" || d.Digest == digest) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && (name != "" || digest != ""):
		return descriptor{}, fault.Errorf(fault.NotFound, "the layout has no image %q; it has %q", name+digest, names(index.Manifests))
	case len(found) == 0:
		return descriptor{}, fault.Errorf(fault.NotFound, "the layout has no image")
	case name == "" && digest == "" && len(names(found)) > 1:
		return descriptor{}, fault.Errorf(fault.Conflict, "the layout has several images; add one of the names %q after a colon", names(found))
	}
	return choose(found, want)
}

func (l *layout) manifest(ctx context.Context, d descriptor) ([]byte, error) {
	f, err := l.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, io.LimitReader(f, d.Size+1))
	return buf.Bytes(), err
}

// blob opens a blob; its digest was checked to be 64 digits.
func (l *layout) blob(_ context.Context, d descriptor) (io.ReadCloser, error) {
	return l.open("blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:"))
}
