package oci

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/flist/convert"
	"zos.internal/internal/fault"
)

func TestRefusals(t *testing.T) {
	base := func() *testImage { return newTestImage(lay(t, "a=1"), lay(t, "b=2"), lay(t, "c=3")) }
	other := digestOf([]byte("other"))
	for name, tt := range map[string]struct {
		im   func() *testImage
		file func(dir string, im *testImage) error // what happens to the layout
		opts convert.Options
		kind fault.Kind
		want string
	}{
		"layer flipped": {file: func(dir string, im *testImage) error {
			raw := bytes.Clone(im.layers[1])
			raw[600] ^= 1
			return os.WriteFile(blobPath(dir, im.manifest.Layers[1].Digest), raw, 0o644)
		}, kind: fault.Invalid, want: "layer 2 of 3"},
		"header flipped": {file: func(dir string, im *testImage) error {
			raw := bytes.Clone(im.layers[1])
			raw[100] ^= 1
			return os.WriteFile(blobPath(dir, im.manifest.Layers[1].Digest), raw, 0o644)
		}, kind: fault.Invalid, want: "its bytes have the digest"},
		"layer cut": {file: func(dir string, im *testImage) error {
			return os.WriteFile(blobPath(dir, im.manifest.Layers[2].Digest), im.layers[2][:700], 0o644)
		}, kind: fault.Invalid, want: "layer 3 of 3"},
		"layer longer": {file: func(dir string, im *testImage) error {
			return os.WriteFile(blobPath(dir, im.manifest.Layers[0].Digest), append(bytes.Clone(im.layers[0]), 0), 0o644)
		}, kind: fault.Invalid, want: "layer 1 of 3"},
		"layer missing": {file: func(dir string, im *testImage) error { return os.Remove(blobPath(dir, im.manifest.Layers[1].Digest)) },
			kind: fault.NotFound, want: "layer 2 of 3"},
		"layer is a link out": {file: func(dir string, im *testImage) error {
			p := blobPath(dir, im.manifest.Layers[1].Digest)
			os.Remove(p)
			return os.Symlink("/etc/passwd", p)
		}, kind: fault.Invalid, want: "layer 2 of 3"},
		"layer is a directory": {file: func(dir string, im *testImage) error {
			p := blobPath(dir, im.manifest.Layers[1].Digest)
			os.Remove(p)
			return os.Mkdir(p, 0o755)
		}, kind: fault.Invalid, want: "not a regular file"},
		"layer size":          {im: func() *testImage { im := base(); im.manifest.Layers[0].Size--; return im }, kind: fault.Invalid, want: "layer 1 of 3"},
		"layer size negative": {im: func() *testImage { im := base(); im.manifest.Layers[0].Size = -5; return im }, kind: fault.Invalid, want: "negative"},
		"layer size huge":     {im: func() *testImage { im := base(); im.manifest.Layers[0].Size = 1 << 62; return im }, kind: fault.Invalid, want: "layer 1 of 3"},
		"diff id":             {im: func() *testImage { im := base(); im.config.RootFS.DiffIDs[1] = other; return im }, kind: fault.Invalid, want: "layer 2 of 3"},
		"diff ids missing": {im: func() *testImage { im := base(); im.config.RootFS.DiffIDs = im.config.RootFS.DiffIDs[:2]; return im },
			kind: fault.Invalid, want: "names 2 layers, the manifest 3"},
		"diff id of gzip": {im: func() *testImage {
			im := base().gzipped(t)
			im.config.RootFS.DiffIDs[0] = im.manifest.Layers[0].Digest
			return im
		},
			kind: fault.Invalid, want: "plain bytes"},
		"digest algorithm": {im: func() *testImage {
			im := base()
			im.manifest.Layers[1].Digest = "sha512:" + strings.Repeat("0", 128)
			return im
		},
			file: func(string, *testImage) error { return nil }, kind: fault.Unsupported, want: "SHA-256"},
		"digest path": {file: func(dir string, im *testImage) error {
			im.manifest.Layers[1].Digest = "sha256:../../../../etc/passwd"
			raw, _ := json.Marshal(im.manifest)
			d := descriptor{MediaType: typeOCIManifest, Digest: digestOf(raw), Size: int64(len(raw))}
			index, _ := json.Marshal(manifest{SchemaVersion: 2, Manifests: []descriptor{d}})
			os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644)
			return os.WriteFile(blobPath(dir, d.Digest), raw, 0o644)
		}, kind: fault.Invalid, want: "hexadecimal"},
		"encrypted": {im: func() *testImage { im := base(); im.manifest.Layers[0].MediaType += "+encrypted"; return im }, kind: fault.Unsupported, want: "encrypted"},
		"config flipped": {file: func(dir string, im *testImage) error {
			p := blobPath(dir, im.manifest.Config.Digest)
			raw, _ := os.ReadFile(p)
			return os.WriteFile(p, bytes.Replace(raw, []byte("amd64"), []byte("amd65"), 1), 0o644)
		}, kind: fault.Invalid, want: "configuration"},
		"config size": {file: func(dir string, im *testImage) error {
			return os.Truncate(blobPath(dir, im.manifest.Config.Digest), 10)
		}, kind: fault.Invalid, want: "10 bytes where"},
		"config values": {im: func() *testImage { im := base(); im.config.Config = json.RawMessage(`{"Env":["=x"]}`); return im }, kind: fault.Invalid, want: "NAME=VALUE"},
		"config huge": {im: func() *testImage {
			im := base()
			im.manifest.Config = &descriptor{MediaType: typeOCIConfig, Digest: other, Size: 1 << 40}
			return im
		}, kind: fault.Exhausted, want: "configuration"},
		"config type": {im: func() *testImage {
			im := base()
			im.manifest.Config = &descriptor{MediaType: "application/vnd.cncf.helm.config.v1+json", Digest: other, Size: 1}
			return im
		}, kind: fault.Unsupported, want: "helm"},
		"manifest flipped": {file: func(dir string, im *testImage) error {
			p := blobPath(dir, im.index.Manifests[0].Digest)
			raw, _ := os.ReadFile(p)
			return os.WriteFile(p, bytes.Replace(raw, []byte(`"size":2048`), []byte(`"size":2049`), 1), 0o644)
		}, kind: fault.Invalid, want: "manifest"},
		"manifest is no JSON": {file: func(dir string, im *testImage) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o644)
		}, kind: fault.Invalid, want: "index.json"},
		"index huge": {file: func(dir string, im *testImage) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), make([]byte, maxManifest+1), 0o644)
		}, kind: fault.Exhausted, want: "index.json"},
		"no image":     {im: func() *testImage { im := base(); im.index = manifest{Manifests: []descriptor{}}; return im }, kind: fault.NotFound, want: "no image"},
		"not a layout": {file: func(dir string, im *testImage) error { return os.Remove(filepath.Join(dir, "oci-layout")) }, kind: fault.NotFound, want: "is it an OCI layout"},
		"newer layout": {file: func(dir string, im *testImage) error {
			return os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"2.0.0"}`), 0o644)
		}, kind: fault.Unsupported, want: "version 1"},
		"schema 1":        {im: func() *testImage { im := base(); im.manifest.SchemaVersion = 1; return im }, kind: fault.Unsupported, want: "schema version 1"},
		"index and image": {im: func() *testImage { im := base(); im.manifest.Manifests = []descriptor{{}}; return im }, kind: fault.Invalid, want: "at once"},
		"too many layers": {im: func() *testImage {
			im := base()
			im.manifest.Layers = append(im.manifest.Layers, make([]descriptor, maxLayers)...)
			return im
		}, kind: fault.Exhausted, want: "1003 layers"},
		"media type lies":       {im: func() *testImage { im := base(); im.manifest.MediaType = typeOCIIndex; return im }, kind: fault.Invalid, want: "says it is"},
		"windows":               {im: func() *testImage { im := base(); im.config.OS = "windows"; return im }, kind: fault.Unsupported, want: "windows"},
		"other platform":        {opts: convert.Options{Platform: "linux/riscv64"}, kind: fault.NotFound, want: "riscv64"},
		"bad platform":          {opts: convert.Options{Platform: "a/b/c/d"}, kind: fault.Invalid, want: "a/b/c/d"},
		"bytes":                 {opts: convert.Options{Limits: convert.Limits{Bytes: 2}}, kind: fault.Exhausted, want: "layer 3 of 3"},
		"entries":               {opts: convert.Options{Limits: convert.Limits{Entries: 2}}, kind: fault.Exhausted, want: "layer 3 of 3"},
		"escape":                {im: func() *testImage { return newTestImage(lay(t, "../x=1")) }, kind: fault.Invalid, want: "layer 1 of 1"},
		"hard link":             {im: func() *testImage { return newTestImage(lay(t, "a=1"), lay(t, ".wh.a", "b#a")) }, kind: fault.Invalid, want: "layer 2 of 2"},
		"whiteout of the root":  {im: func() *testImage { return newTestImage(lay(t, "a=1"), lay(t, ".wh..")) }, kind: fault.Invalid, want: "whiteout"},
		"whiteout of dot dot":   {im: func() *testImage { return newTestImage(lay(t, "d/a=1"), lay(t, "d/.wh...")) }, kind: fault.Invalid, want: "whiteout"},
		"whiteout of no name":   {im: func() *testImage { return newTestImage(lay(t, "a=1"), lay(t, ".wh.")) }, kind: fault.Invalid, want: "whiteout"},
		"whiteout as directory": {im: func() *testImage { return newTestImage(lay(t, "a=1"), lay(t, ".wh.a/b=1")) }, kind: fault.Invalid, want: "whiteout"},
		"not a tar":             {im: func() *testImage { return newTestImage([]byte(strings.Repeat("no tar ", 200))) }, kind: fault.Invalid, want: "not a tar"},
		"bzip2":                 {im: func() *testImage { return newTestImage([]byte("BZh91AY&SY")) }, kind: fault.Unsupported, want: "bzip2"},
	} {
		t.Run(name, func(t *testing.T) {
			im := base()
			if tt.im != nil {
				im = tt.im()
			}
			dir := im.layout(t)
			if tt.file != nil {
				must(t, tt.file(dir, im))
			}
			_, err := readDir(t, dir, tt.opts)
			if err == nil || fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v (%s), want %s with %q", err, fault.Of(err), tt.kind, tt.want)
			}
		})
	}
}

// Every single flipped bit and every cut of a small image is found.
func TestEveryFlip(t *testing.T) {
	im := newTestImage(lay(t, "a=1")).gzipped(t)
	dir := im.layout(t)
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	must(t, err)
	tmp := t.TempDir()
	for _, b := range blobs {
		path := filepath.Join(dir, "blobs/sha256", b.Name())
		good, err := os.ReadFile(path)
		must(t, err)
		for i := range good {
			for _, bad := range [][]byte{good[:i], append(append(bytes.Clone(good[:i]), good[i]^(1<<(i%8))), good[i+1:]...)} {
				must(t, os.WriteFile(path, bad, 0o644))
				if res, err := ReadLayout(t.Context(), dir, convert.Options{TempDir: tmp}); err == nil {
					res.Close()
					t.Fatalf("%s: byte %d changed and nobody noticed", b.Name(), i)
				}
			}
		}
		must(t, os.WriteFile(path, good, 0o644))
	}
	if _, err := readDir(t, dir, convert.Options{}); err != nil {
		t.Fatalf("the whole image: %v", err)
	}
}
