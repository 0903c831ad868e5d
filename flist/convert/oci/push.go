package oci

import (
	stdtar "archive/tar"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Push uploads the one image of an OCI layout to a registry and returns the
// digest of its manifest. The reference and the credentials are as for
// ReadRegistry.
func Push(ctx context.Context, dir, ref string, opts convert.Options) (string, error) {
	digest, err := push(ctx, dir, ref, opts)
	if err != nil {
		return "", fault.Errorf(fault.Of(err), "push %q to %q: %w", dir, ref, err)
	}
	return digest, nil
}

func push(ctx context.Context, dir, ref string, opts convert.Options) (string, error) {
	r, err := parseReference(ref, opts.Insecure)
	if err != nil {
		return "", err
	}
	want, err := parsePlatform(opts.Platform)
	if err != nil {
		return "", err
	}
	l, err := openLayout(dir)
	if err != nil {
		return "", err
	}
	defer l.root.Close()
	d, err := l.pick("", "", want)
	if err != nil {
		return "", err
	}
	if d.MediaType == typeOCIIndex || d.MediaType == typeDockerIndex {
		return "", fault.Errorf(fault.Unsupported, "the layout has an image for several platforms; only single images are pushed")
	}
	if _, err := manifestBytes(ctx, l, d); err != nil {
		return "", err
	}
	h, err := v1.NewHash(d.Digest)
	if err != nil {
		return "", fault.As(fault.Invalid, err)
	}
	img, err := ggcr.Path(dir).Image(h)
	if err != nil {
		return "", fault.As(fault.Invalid, err)
	}
	if n, ok := r.(name.Digest); ok && n.DigestStr() != d.Digest {
		return "", fault.Errorf(fault.Conflict, "the image has the digest %s; push it under a tag", d.Digest)
	}
	base := newTransport()
	defer base.CloseIdleConnections()
	if err := remote.Write(r, img, remoteOptions(ctx, base, opts)...); err != nil {
		return "", registryError(err)
	}
	return d.Digest, nil
}

// WriteArchive writes a docker archive that "docker load" reads: one plain
// layer, files of an OCI layout, and manifest.json. opts.Name is the tag
// ("nginx:1"), opts.Compression is not used. tempDir holds the layer while the
// archive is written; empty: $TMPDIR, else /tmp.
func WriteArchive(ctx context.Context, w io.Writer, root *tree.Node, cfg *config.Config, opts WriteOptions, tempDir string) (*Written, error) {
	out, err := writeArchive(ctx, w, root, cfg, opts, tempDir)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "write the docker archive: %w", err)
	}
	return out, nil
}

func writeArchive(ctx context.Context, w io.Writer, root *tree.Node, cfg *config.Config, opts WriteOptions, tempDir string) (*Written, error) {
	base, err := os.MkdirTemp(tempDir, "zos-archive-")
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "%w", err)
	}
	defer os.RemoveAll(base)
	opts.Compression = "none"
	dir := filepath.Join(base, "image")
	out, err := write(ctx, dir, root, cfg, opts, func(tmp string, w *Written) error {
		path := func(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }
		e := archiveEntry{Config: path(w.Config), Layers: []string{path(w.Layer)}}
		if opts.Name != "" {
			e.RepoTags = []string{opts.Name}
		}
		raw, err := json.Marshal([]archiveEntry{e})
		if err != nil {
			return fault.As(fault.Internal, err)
		}
		return writeError(os.WriteFile(filepath.Join(tmp, "manifest.json"), raw, 0o644))
	})
	if err != nil {
		return nil, err
	}
	tw := stdtar.NewWriter(w)
	// WalkDir goes in the order of the names, so the archive is the same every time.
	err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return addFile(ctx, tw, dir, p)
	})
	if err != nil {
		return nil, writeError(err)
	}
	return out, writeError(tw.Close())
}

func addFile(ctx context.Context, tw *stdtar.Writer, dir, p string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(dir, p)
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(&stdtar.Header{Typeflag: stdtar.TypeReg, Name: rel, Mode: 0o644, Size: st.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}
