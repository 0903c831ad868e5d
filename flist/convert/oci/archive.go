package oci

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path"
	"strings"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/tar"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// ReadArchive reads an image of a docker archive ("docker save"): "FILE", or
// "FILE:NAME:TAG" where it has several; "-" is opts.Stdin. The archive may be
// compressed. Its manifest has no digest; the provenance is "docker-archive:"
// and the digest of the configuration, which is the id of the image and names
// the digests of all layers.
func ReadArchive(ctx context.Context, file string, opts convert.Options) (*convert.Result, error) {
	res, err := readArchive(ctx, file, opts)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "docker archive %q: %w", file, err)
	}
	return convert.Finish(res, opts)
}

type archiveEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func readArchive(ctx context.Context, file string, opts convert.Options) (*convert.Result, error) {
	want, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, err
	}
	name := ""
	if _, err := os.Stat(file); err != nil && file != "-" {
		if f, tag, ok := strings.Cut(file, ":"); ok {
			file, name = f, tag
		}
	}
	outer, err := tar.Read(ctx, file, convert.Options{TempDir: opts.TempDir, Limits: opts.Limits, Progress: opts.Progress, Stdin: opts.Stdin})
	if err != nil {
		return nil, err
	}
	defer outer.Close()
	src := archive{outer.Root}
	entry, err := src.pick(name)
	if err != nil {
		return nil, err
	}
	raw, digest, err := src.config(entry.Config)
	if err != nil {
		return nil, err
	}
	layers := make([]descriptor, len(entry.Layers))
	if len(layers) > maxLayers {
		return nil, fault.Errorf(fault.Exhausted, "%d layers, %d are allowed", len(layers), maxLayers)
	}
	for i, p := range entry.Layers {
		n, err := src.find(p)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "layer %d: %w", i+1, err)
		}
		layers[i] = descriptor{Size: n.Size, Annotations: map[string]string{"path": p}}
		if d := blobDigest(p); d != "" {
			layers[i].Digest = d
		}
	}
	im, err := newImage(raw, digest, layers)
	if err != nil {
		return nil, err
	}
	if err := im.checkPlatform(opts, want); err != nil {
		return nil, err
	}
	res, err := apply(ctx, src, im, false, opts)
	if err != nil {
		return nil, err
	}
	res.Source = "docker-archive:" + digest
	return res, nil
}

// archive is the tree of the files of a docker archive.
type archive struct{ root *tree.Node }

// find follows the symlinks that docker writes for layers that occur twice.
func (a archive) find(p string) (*tree.Node, error) {
	for at, i := p, 0; i < 8; i++ {
		n := a.root.At(at)
		if n == nil {
			break
		}
		if n.IsRegular() {
			return n, nil
		}
		if n.Type() != tree.Symlink {
			break
		}
		at = path.Join(path.Dir("/"+at), n.Target)[1:]
	}
	return nil, fault.Errorf(fault.NotFound, "the archive has no file %q", p)
}

func (a archive) pick(name string) (archiveEntry, error) {
	var entries []archiveEntry
	n, err := a.find("manifest.json")
	if err != nil {
		return archiveEntry{}, fault.Errorf(fault.Invalid, "it has no manifest.json; write tar: before the name if it is a plain archive of files")
	}
	raw, err := n.ReadAll(maxManifest)
	if err != nil {
		return archiveEntry{}, fault.Errorf(fault.Of(err), "manifest.json: %w", err)
	}
	if err := json.Unmarshal(raw, &entries); err != nil {
		return archiveEntry{}, fault.Errorf(fault.Invalid, "manifest.json: %w", err)
	}
	var tags []string
	for _, e := range entries {
		for _, t := range e.RepoTags {
			if t == name || strings.HasSuffix(t, "/"+name) {
				return e, nil
			}
			tags = append(tags, t)
		}
	}
	switch {
	case name != "":
		return archiveEntry{}, fault.Errorf(fault.NotFound, "it has no image %q; it has %q", name, tags)
	case len(entries) == 0:
		return archiveEntry{}, fault.Errorf(fault.NotFound, "it has no image")
	case len(entries) > 1:
		return archiveEntry{}, fault.Errorf(fault.Conflict, "it has several images; add one of the names %q after a colon", tags)
	}
	return entries[0], nil
}

// config reads the configuration and checks the digest that its name promises.
func (a archive) config(name string) ([]byte, string, error) {
	n, err := a.find(name)
	if err != nil {
		return nil, "", fault.Errorf(fault.Of(err), "configuration: %w", err)
	}
	raw, err := n.ReadAll(maxConfig)
	if err != nil {
		return nil, "", fault.Errorf(fault.Of(err), "configuration %q: %w", name, err)
	}
	want := blobDigest(name)
	if want == "" {
		want = "sha256:" + strings.TrimSuffix(name, ".json")
	}
	got := digestOf(raw)
	if checkDigest(want) == nil && want != got {
		return nil, "", fault.Errorf(fault.Invalid, "configuration %q has the digest %s; the archive is damaged or forged", name, got)
	}
	return raw, got, nil
}

// blobDigest is the digest in a path of the OCI layout, or "".
func blobDigest(p string) string {
	hex, ok := strings.CutPrefix(p, "blobs/sha256/")
	if d := "sha256:" + hex; ok && checkDigest(d) == nil {
		return d
	}
	return ""
}

func (a archive) manifest(context.Context, descriptor) ([]byte, error) {
	return nil, fault.Errorf(fault.Internal, "a docker archive has no manifests by digest")
}

func (a archive) blob(_ context.Context, d descriptor) (io.ReadCloser, error) {
	n, err := a.find(d.Annotations["path"])
	if err != nil {
		return nil, err
	}
	return convert.Contents(nil).Open(n)
}
