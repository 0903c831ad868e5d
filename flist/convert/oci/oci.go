// Package oci reads container images into file trees and writes trees as
// images.
//
// Sources are a registry, an OCI layout directory and a docker archive. The
// layers are applied in order with whiteouts, opaque directories and hard links
// across layers. Every digest and size is checked (index, manifest,
// configuration, layer, and the diff id of the layer's plain bytes); an error
// names the layer. Layers may be plain, gzip or zstd, whatever their media
// type says. A registry is dialled only by the host that the reference names;
// there is no default one, and plain HTTP is spoken to loopback only unless
// Options.Insecure is set.
//
// Write makes a layout with one layer whose digests depend on nothing but the
// tree, the configuration and the options. The mapping is specified in
// docs/reference/conversion.md.
//
//	res, err := oci.ReadRegistry(ctx, "registry.example.org/nginx:1.27", convert.Options{Platform: "linux/arm64"})
//	if err != nil {
//		return err
//	}
//	defer res.Close()
//	written, err := oci.Write(ctx, "out", res.Root, res.Config, oci.WriteOptions{Platform: res.Platform})
package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"slices"
	"strings"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/internal/fault"
)

var (
	_ convert.Opener = ReadLayout
	_ convert.Opener = ReadArchive
	_ convert.Opener = ReadRegistry
)

// Limits of the documents of an image.
const (
	maxManifest = 4 << 20 // bytes of an index or a manifest
	maxConfig   = 8 << 20
	maxLayers   = 1000
	maxNested   = 4 // indexes in one another
)

// Media types that tell what a document is.
const (
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIConfig      = "application/vnd.oci.image.config.v1+json"
	typeOCILayer       = "application/vnd.oci.image.layer.v1.tar"
	typeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

type descriptor struct {
	MediaType   string            `json:"mediaType,omitempty"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// manifest is an image manifest or an index, in the dialects of OCI and Docker.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	Config        *descriptor       `json:"config,omitempty"`
	Layers        []descriptor      `json:"layers,omitempty"`
	Manifests     []descriptor      `json:"manifests,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// imageConfig is what an image configuration says about the image itself.
type imageConfig struct {
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	Variant      string          `json:"variant,omitempty"`
	Config       json.RawMessage `json:"config,omitempty"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// source delivers documents and blobs. What it delivers is not trusted.
type source interface {
	manifest(ctx context.Context, d descriptor) ([]byte, error)
	blob(ctx context.Context, d descriptor) (io.ReadCloser, error)
}

// checkDigest accepts the only form that we can check.
func checkDigest(s string) error {
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		return fault.Errorf(fault.Unsupported, "the digest %.100q is not SHA-256", s)
	}
	if raw, err := hex.DecodeString(digits); err != nil || len(raw) != 32 || strings.ToLower(digits) != digits {
		return fault.Errorf(fault.Invalid, "the digest %.100q is not 64 lower-case hexadecimal digits", s)
	}
	return nil
}

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// verify compares bytes with their descriptor.
func verify(what string, raw []byte, d descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return fault.Errorf(fault.Of(err), "%s: %w", what, err)
	}
	if int64(len(raw)) != d.Size {
		return fault.Errorf(fault.Invalid, "%s %s has %d bytes where %d were promised; the source is damaged or lies", what, d.Digest, len(raw), d.Size)
	}
	if got := digestOf(raw); got != d.Digest {
		return fault.Errorf(fault.Invalid, "%s %s has the digest %s; the source is damaged or lies", what, d.Digest, got)
	}
	return nil
}

// document reads a small blob whole.
func document(ctx context.Context, src source, what string, d descriptor, limit int64) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, fault.Errorf(fault.Of(err), "%s: %w", what, err)
	}
	if d.Size < 0 || d.Size > limit {
		return nil, fault.Errorf(fault.Exhausted, "%s %s has %d bytes, at most %d are read", what, d.Digest, d.Size, limit)
	}
	r, err := src.blob(ctx, d)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "%s %s: %w", what, d.Digest, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "%s %s: %w", what, d.Digest, err)
	}
	return raw, verify(what, raw, d)
}

// resolve goes from a document to the one image for the platform.
func resolve(ctx context.Context, src source, d descriptor, want platform) (*manifest, descriptor, error) {
	for range maxNested {
		raw, err := manifestBytes(ctx, src, d)
		if err != nil {
			return nil, d, err
		}
		m, err := parseManifest(raw, d)
		if err != nil {
			return nil, d, err
		}
		if m.Manifests == nil {
			return m, d, nil
		}
		if d, err = choose(m.Manifests, want); err != nil {
			return nil, d, err
		}
	}
	return nil, d, fault.Errorf(fault.Invalid, "more than %d indexes in one another; the image is damaged or hostile", maxNested)
}

func manifestBytes(ctx context.Context, src source, d descriptor) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, fault.Errorf(fault.Of(err), "manifest: %w", err)
	}
	if d.Size < 0 || d.Size > maxManifest {
		return nil, fault.Errorf(fault.Exhausted, "manifest %s has %d bytes, at most %d are read", d.Digest, d.Size, maxManifest)
	}
	raw, err := src.manifest(ctx, d)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "manifest %s: %w", d.Digest, err)
	}
	return raw, verify("manifest", raw, d)
}

// parseManifest reads an index (Manifests is not nil) or a manifest. A
// document that could be taken for both is refused.
func parseManifest(raw []byte, d descriptor) (*manifest, error) {
	bad := func(format string, args ...any) error {
		return fault.Errorf(fault.Invalid, "manifest %s: "+format, append([]any{d.Digest}, args...)...)
	}
	m := new(manifest)
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, bad("%w", err)
	}
	if m.MediaType != "" && d.MediaType != "" && m.MediaType != d.MediaType {
		return nil, bad("it says it is %q, what points to it says %q", m.MediaType, d.MediaType)
	}
	if m.SchemaVersion != 2 {
		return nil, fault.Errorf(fault.Unsupported, "manifest %s: schema version %d is not supported; push the image again with a current tool", d.Digest, m.SchemaVersion)
	}
	kind := d.MediaType
	if kind == "" {
		kind = m.MediaType
	}
	isIndex := m.Manifests != nil
	switch {
	case isIndex && (m.Layers != nil || m.Config != nil):
		return nil, bad("it is an index and a manifest at once")
	case !isIndex && m.Config == nil:
		return nil, bad("it has neither a configuration nor manifests")
	case isIndex && (kind == typeOCIManifest || kind == typeDockerManifest), !isIndex && (kind == typeOCIIndex || kind == typeDockerIndex):
		return nil, bad("it is not what its media type %q says", kind)
	case len(m.Layers) > maxLayers:
		return nil, fault.Errorf(fault.Exhausted, "manifest %s: %d layers, %d are allowed", d.Digest, len(m.Layers), maxLayers)
	}
	return m, nil
}

// image is one image whose documents were checked.
type image struct {
	layers   []layer
	config   *config.Config
	platform platform
}

// layer is one layer to apply. Digest may be empty in a docker archive.
type layer struct {
	descriptor
	diffID string
}

// loadImage reads and checks the configuration that m names.
func loadImage(ctx context.Context, src source, m *manifest) (*image, error) {
	switch t := m.Config.MediaType; t {
	case typeOCIConfig, typeDockerConfig, "application/octet-stream", "":
	default:
		return nil, fault.Errorf(fault.Unsupported, "this is not a container image but %q", t)
	}
	raw, err := document(ctx, src, "configuration", *m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	im, err := newImage(raw, m.Config.Digest, m.Layers)
	if err == nil && m.Annotations[anyPlatform] == "any" {
		im.platform = platform{}
	}
	return im, err
}

// anyPlatform is the annotation of a manifest whose image is for any platform,
// although its configuration has to name one.
const anyPlatform = "zos.platform"

func newImage(raw []byte, digest string, layers []descriptor) (*image, error) {
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fault.Errorf(fault.Invalid, "configuration %s: %w", digest, err)
	}
	im := &image{platform: platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}}
	if c.OS != "" && c.OS != "linux" {
		return nil, fault.Errorf(fault.Unsupported, "configuration %s: images for %q are not supported, only linux", digest, c.OS)
	}
	if len(c.RootFS.DiffIDs) != len(layers) {
		return nil, fault.Errorf(fault.Invalid, "configuration %s names %d layers, the manifest %d", digest, len(c.RootFS.DiffIDs), len(layers))
	}
	for i, d := range layers {
		if err := checkDigest(c.RootFS.DiffIDs[i]); err != nil {
			return nil, fault.Errorf(fault.Of(err), "configuration %s: diff id of layer %d: %w", digest, i+1, err)
		}
		im.layers = append(im.layers, layer{d, c.RootFS.DiffIDs[i]})
	}
	var err error
	if im.config, err = config.FromOCI(c.Config); err != nil {
		return nil, fault.Errorf(fault.Of(err), "configuration %s: %w", digest, err)
	}
	return im, nil
}

func names(ds []descriptor) []string {
	var out []string
	for _, d := range ds {
		if n := d.Annotations[refName]; n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
