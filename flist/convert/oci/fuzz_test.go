package oci

import (
	"encoding/json"
	"testing"
)

// Any documents are refused or give an image whose parts were checked.
func FuzzDocuments(f *testing.F) {
	f.Fuzz(func(t *testing.T, doc, cfg []byte) {
		d := descriptor{Digest: digestOf(doc), Size: int64(len(doc))}
		m, err := parseManifest(doc, d)
		if err != nil {
			return
		}
		if m.Manifests != nil {
			if got, err := choose(m.Manifests, platform{OS: "linux", Architecture: "amd64"}); err == nil {
				_ = checkDigest(got.Digest)
			}
			return
		}
		im, err := newImage(cfg, digestOf(cfg), m.Layers)
		if err != nil {
			return
		}
		for _, l := range im.layers {
			if checkDigest(l.diffID) != nil {
				t.Errorf("unchecked diff id %q", l.diffID)
			}
		}
		if inner, err := im.config.OCI(); err == nil && !json.Valid(inner) {
			t.Errorf("configuration %q is not JSON", inner)
		}
	})
}
