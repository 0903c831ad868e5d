package oci

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/tar"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// WriteOptions say how an image is written.
type WriteOptions struct {
	convert.WriteOptions
	Compression string // "zstd" (default), "gzip" or "none"
	Platform    string // "os/arch[/variant]"; default linux and this machine's
	Name        string // the name of the image in the layout, as "latest"; may be empty
}

// Written are the digests of what was written ("sha256:…") and the size of the
// layer in bytes.
type Written struct {
	Manifest  string
	Config    string
	Layer     string
	DiffID    string
	LayerSize int64
}

// Write makes an OCI layout with one image of one layer at dir, which must not
// exist or be empty. It appears there whole or not at all. The same tree,
// configuration and options give the same digests. A name that starts with
// ".wh." can't be in a layer and is Unsupported.
func Write(ctx context.Context, dir string, root *tree.Node, cfg *config.Config, opts WriteOptions) (*Written, error) {
	w, err := write(ctx, dir, root, cfg, opts, nil)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "write the image %q: %w", dir, err)
	}
	return w, nil
}

// write makes the layout beside dir, lets more add to it, and renames it.
func write(ctx context.Context, dir string, root *tree.Node, cfg *config.Config, opts WriteOptions, more func(tmp string, w *Written) error) (*Written, error) {
	if err := checkTree(root); err != nil {
		return nil, err
	}
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return nil, fault.Errorf(fault.Conflict, "the directory is not empty; empty it or name a new one")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Conflict, "%w; name a new directory", err)
	}
	tmp, err := partial(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	w, err := fill(ctx, tmp, root, cfg, opts)
	if err == nil && more != nil {
		err = more(tmp, w)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(tmp)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return nil, fault.Errorf(fault.Of(err), "sync: %w", err)
	}
	if err := unix.Rename(tmp, dir); err != nil {
		return nil, fault.Errorf(fault.Conflict, "put it in place: %w; name a new directory", err)
	}
	return w, nil
}

// partial makes the hidden directory in which the layout grows and removes
// those of writers that died.
func partial(dir string) (string, error) {
	parent, base := filepath.Split(dir)
	if parent == "" {
		parent = "."
	}
	prefix := "." + base[:min(len(base), 200)] + ".zos-partial-"
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", fault.Errorf(fault.Of(err), "its parent: %w; make it first", err)
	}
	for _, x := range entries {
		if !strings.HasPrefix(x.Name(), prefix) {
			continue
		}
		old := filepath.Join(parent, x.Name())
		if f, err := os.Open(filepath.Join(old, lockName)); err == nil {
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				os.RemoveAll(old)
			}
			f.Close()
		}
	}
	var random [8]byte
	rand.Read(random[:])
	tmp := filepath.Join(parent, prefix+hex.EncodeToString(random[:]))
	if err := os.MkdirAll(filepath.Join(tmp, "blobs/sha256"), 0o755); err != nil {
		return "", fault.Errorf(fault.Of(err), "%w", err)
	}
	return tmp, nil
}

// lockName is the file of a growing layout that its writer holds locked.
const lockName = "oci-layout"

func checkTree(root *tree.Node) error {
	if err := root.Check(); err != nil {
		return err
	}
	for path, n := range root.Walk() {
		for _, e := range n.Entries {
			if strings.HasPrefix(e.Name, ".wh.") {
				return fault.Errorf(fault.Unsupported, "%q in %q would be taken for a whiteout; export to tar: instead, or rename it", e.Name, path)
			}
		}
	}
	return nil
}

// fill writes the files of the layout into tmp.
func fill(ctx context.Context, tmp string, root *tree.Node, cfg *config.Config, opts WriteOptions) (*Written, error) {
	p, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, err
	}
	lock, err := os.Create(filepath.Join(tmp, lockName))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	// Without locks what a dead writer left stays until somebody removes it.
	_ = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if _, err := lock.WriteString(`{"imageLayoutVersion":"1.0.0"}`); err != nil {
		return nil, writeError(err)
	}
	w := new(Written)
	mediaType, err := w.writeLayer(ctx, tmp, root, opts)
	if err != nil {
		return nil, err
	}
	if cfg == nil {
		cfg = new(config.Config)
	}
	inner, err := cfg.OCI()
	if err != nil {
		return nil, err
	}
	ic := imageConfig{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant, Config: inner}
	ic.RootFS.Type, ic.RootFS.DiffIDs = "layers", []string{w.DiffID}
	var size int64
	if w.Config, size, err = putJSON(tmp, ic); err != nil {
		return nil, err
	}
	m := manifest{
		SchemaVersion: 2, MediaType: typeOCIManifest,
		Config: &descriptor{MediaType: typeOCIConfig, Digest: w.Config, Size: size},
		Layers: []descriptor{{MediaType: mediaType, Digest: w.Layer, Size: w.LayerSize}},
	}
	d := descriptor{MediaType: typeOCIManifest, Platform: &p}
	if opts.Platform == "" {
		// The configuration must name one; reading it back gives none again.
		m.Annotations, d.Platform = map[string]string{anyPlatform: "any"}, nil
	}
	if w.Manifest, size, err = putJSON(tmp, m); err != nil {
		return nil, err
	}
	d.Digest, d.Size = w.Manifest, size
	if opts.Name != "" {
		d.Annotations = map[string]string{refName: opts.Name}
	}
	raw, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeOCIIndex, Manifests: []descriptor{d}})
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	return w, writeError(os.WriteFile(filepath.Join(tmp, "index.json"), raw, 0o644))
}

func blobPath(tmp, digest string) string {
	return filepath.Join(tmp, "blobs/sha256", strings.TrimPrefix(digest, "sha256:"))
}

func putJSON(tmp string, v any) (digest string, size int64, err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", 0, fault.As(fault.Internal, err)
	}
	digest = digestOf(raw)
	return digest, int64(len(raw)), writeError(os.WriteFile(blobPath(tmp, digest), raw, 0o644))
}

// counter hashes and counts what is written to it.
type counter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.sum.Write(p[:n])
	c.n += int64(n)
	return n, err
}

func (c *counter) digest() string { return "sha256:" + hex.EncodeToString(c.sum.Sum(nil)) }

// writeLayer writes the one layer and gives its media type.
func (w *Written) writeLayer(ctx context.Context, tmp string, root *tree.Node, opts WriteOptions) (string, error) {
	f, err := os.Create(filepath.Join(tmp, "layer"))
	if err != nil {
		return "", writeError(err)
	}
	defer f.Close()
	out := &counter{w: f, sum: sha256.New()}
	z, suffix, err := compressor(out, opts.Compression)
	if err != nil {
		return "", err
	}
	plain := &counter{w: z, sum: sha256.New()}
	if err := tar.Write(ctx, plain, root, opts.WriteOptions); err != nil {
		z.Close()
		return "", writeError(err)
	}
	if err := z.Close(); err != nil {
		return "", writeError(err)
	}
	if err := f.Close(); err != nil {
		return "", writeError(err)
	}
	w.Layer, w.DiffID, w.LayerSize = out.digest(), plain.digest(), out.n
	return typeOCILayer + suffix, writeError(os.Rename(f.Name(), blobPath(tmp, w.Layer)))
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compressor(w io.Writer, name string) (io.WriteCloser, string, error) {
	switch name {
	case "", "zstd":
		// One goroutine and a fixed level: the bytes depend on the input alone.
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
		return z, "+zstd", err
	case "gzip":
		return gzip.NewWriter(w), "+gzip", nil
	case "none":
		return nopCloser{w}, "", nil
	}
	return nil, "", fault.Errorf(fault.Invalid, "the compression %q is not known; use zstd, gzip or none", name)
}

func writeError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.Errorf(fault.Exhausted, "%w; free space or name another disk", err)
	}
	return err
}
