package oci

import (
	stdtar "archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/internal/treetest"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lay is a plain layer: each string is "path", "path=content", "path/",
// "path@target" or "path#hard link".
func lay(t testing.TB, entries ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := stdtar.NewWriter(&buf)
	for _, s := range entries {
		h := &stdtar.Header{Typeflag: stdtar.TypeReg, Name: s, Mode: 0o644}
		content := ""
		switch {
		case strings.HasSuffix(s, "/"):
			h.Typeflag = stdtar.TypeDir
		case strings.Contains(s, "="):
			h.Name, content, _ = strings.Cut(s, "=")
		case strings.Contains(s, "@"):
			h.Typeflag = stdtar.TypeSymlink
			h.Name, h.Linkname, _ = strings.Cut(s, "@")
		case strings.Contains(s, "#"):
			h.Typeflag = stdtar.TypeLink
			h.Name, h.Linkname, _ = strings.Cut(s, "#")
		}
		h.Size = int64(len(content))
		must(t, w.WriteHeader(h))
		_, err := w.Write([]byte(content))
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

// sketch is the paths of a tree, with =content and @ for links.
func sketch(t testing.TB, root *tree.Node) string {
	t.Helper()
	var out []string
	for p, n := range root.Walk() {
		switch {
		case p == "":
			continue
		case n.IsRegular():
			b, err := n.ReadAll(1 << 20)
			must(t, err)
			p += "=" + string(b)
		case n.Type() == tree.Symlink:
			p += "@"
		}
		out = append(out, p)
	}
	return strings.Join(out, " ")
}

// testImage is an image in parts that a test can spoil.
type testImage struct {
	config   imageConfig
	layers   [][]byte // as stored
	manifest manifest
	index    manifest
}

func newTestImage(layers ...[]byte) *testImage {
	im := &testImage{layers: layers}
	im.config.OS, im.config.Architecture = "linux", "amd64"
	im.config.Config = json.RawMessage(`{"Cmd":["/bin/sh"],"Env":["A=1"],"ExposedPorts":{"80/tcp":{}}}`)
	im.config.RootFS.Type = "layers"
	im.manifest = manifest{SchemaVersion: 2, MediaType: typeOCIManifest}
	for _, l := range layers {
		im.config.RootFS.DiffIDs = append(im.config.RootFS.DiffIDs, digestOf(l))
		im.manifest.Layers = append(im.manifest.Layers, descriptor{MediaType: typeOCILayer, Digest: digestOf(l), Size: int64(len(l))})
	}
	return im
}

// gzipped compresses the layers and keeps the diff ids.
func (im *testImage) gzipped(t testing.TB) *testImage {
	for i, l := range im.layers {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		_, err := w.Write(l)
		must(t, err)
		must(t, w.Close())
		im.layers[i] = buf.Bytes()
		im.manifest.Layers[i].Digest, im.manifest.Layers[i].Size = digestOf(buf.Bytes()), int64(buf.Len())
	}
	return im
}

// blobs are the documents and layers under the names that the image gives them.
func (im *testImage) blobs(t testing.TB) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	put := func(v any) descriptor {
		raw, err := json.Marshal(v)
		must(t, err)
		out[digestOf(raw)] = raw
		return descriptor{Digest: digestOf(raw), Size: int64(len(raw))}
	}
	if im.manifest.Config == nil {
		d := put(im.config)
		d.MediaType = typeOCIConfig
		im.manifest.Config = &d
	}
	for i, l := range im.layers {
		out[im.manifest.Layers[i].Digest] = l
	}
	if im.index.Manifests == nil {
		d := put(im.manifest)
		d.MediaType = typeOCIManifest
		im.index = manifest{SchemaVersion: 2, Manifests: []descriptor{d}}
	}
	return out
}

func (im *testImage) layout(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	must(t, os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755))
	for digest, raw := range im.blobs(t) {
		must(t, os.WriteFile(blobPath(dir, digest), raw, 0o644))
	}
	raw, err := json.Marshal(im.index)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "index.json"), raw, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	return dir
}

func readDir(t testing.TB, path string, opts convert.Options) (*convert.Result, error) {
	t.Helper()
	opts.TempDir = t.TempDir()
	res, err := ReadLayout(context.Background(), path, opts)
	if err == nil {
		t.Cleanup(func() { res.Close() })
	}
	return res, err
}

func TestLayers(t *testing.T) {
	for name, tt := range map[string]struct {
		layers [][]string
		want   string
	}{
		"over one another":               {[][]string{{"a=1", "b=1"}, {"b=2", "c=2"}}, "a=1 b=2 c=2"},
		"whiteout":                       {[][]string{{"a=1", "d/b=1"}, {".wh.a", "d/.wh.b"}}, "d"},
		"whiteout of a directory":        {[][]string{{"d/a=1", "d/e/f=1"}, {".wh.d"}}, ""},
		"whiteout of nothing":            {[][]string{{"a=1"}, {".wh.b", "x/y/.wh.z"}}, "a=1"},
		"whiteout, same layer before":    {[][]string{{"a=1"}, {".wh.a", "a=2"}}, "a=2"},
		"whiteout, same layer after":     {[][]string{{"a=1"}, {"a=2", ".wh.a"}}, "a=2"},
		"whiteout, directory made again": {[][]string{{"d/a=1"}, {"d/b=2", ".wh.d"}}, "d d/b=2"},
		"whiteout, then it comes back":   {[][]string{{"a=1"}, {".wh.a"}, {"a=3"}}, "a=3"},
		"opaque":                         {[][]string{{"d/a=1", "d/e/f=1"}, {"d/", "d/.wh..wh..opq", "d/b=2"}}, "d d/b=2"},
		"opaque after":                   {[][]string{{"d/a=1", "d/e/f=1"}, {"d/b=2", "d/e/g=2", "d/.wh..wh..opq"}}, "d d/b=2 d/e d/e/g=2"},
		"opaque twice":                   {[][]string{{"d/a=1"}, {"d/.wh..wh..opq", "d/b=2", "d/.wh..wh..opq"}}, "d d/b=2"},
		"opaque of the root":             {[][]string{{"a=1"}, {".wh..wh..opq", "b=2"}}, "b=2"},
		"opaque, next layer":             {[][]string{{"d/a=1"}, {"d/.wh..wh..opq", "d/b=2"}, {"d/.wh..wh..opq", "d/c=3"}}, "d d/c=3"},
		"opaque of nothing":              {[][]string{{"a=1"}, {"x/y/.wh..wh..opq"}}, "a=1"},
		"whiteout through a link":        {[][]string{{"usr/lib/x=1", "lib@usr/lib"}, {"lib/.wh.x"}}, "lib@ usr usr/lib"},
		"file through a link":            {[][]string{{"usr/lib/x=1", "lib@/usr/lib"}, {"lib/y=2"}}, "lib@ usr usr/lib usr/lib/x=1 usr/lib/y=2"},
		"directory over a link":          {[][]string{{"usr/lib/x=1", "lib@usr/lib"}, {"lib/", "lib/y=2"}}, "lib lib/y=2 usr usr/lib usr/lib/x=1"},
		"link over a directory":          {[][]string{{"lib/x=1"}, {"usr/lib/", "lib@usr/lib", "lib/y=2"}}, "lib@ usr usr/lib usr/lib/y=2"},
		"hard link to a lower layer":     {[][]string{{"a=1"}, {"b#a"}}, "a=1 b=1"},
		"hard link, then replaced":       {[][]string{{"a=1"}, {"b#a"}, {"a=3"}}, "a=3 b=1"},
		"hard link, then removed":        {[][]string{{"a=1", "b#a"}, {".wh.a"}}, "b=1"},
		"old engines' files":             {[][]string{{"a=1", ".wh..wh.plnk/1.2=x", ".wh..wh.aufs"}}, "a=1"},
		"no layers":                      {nil, ""},
		"empty layer":                    {[][]string{{"a=1"}, {}}, "a=1"},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range tt.layers {
				layers = append(layers, lay(t, l...))
			}
			res, err := readDir(t, newTestImage(layers...).layout(t), convert.Options{})
			must(t, err)
			if got := sketch(t, res.Root); got != tt.want {
				t.Errorf("tree = %q, want %q", got, tt.want)
			}
		})
	}
	res, err := readDir(t, newTestImage(lay(t, "a=1"), lay(t, "b#a")).gzipped(t).layout(t), convert.Options{})
	must(t, err)
	if res.Root.At("a") != res.Root.At("b") {
		t.Error("the hard link across layers became a copy")
	}
	if want := (&config.Config{Cmd: []string{"/bin/sh"}, Env: []string{"A=1"}, Ports: []string{"80/tcp"}}); !cmp.Equal(want, res.Config) {
		t.Errorf("configuration: %s", cmp.Diff(want, res.Config))
	}
	if res.Platform != "linux/amd64" || !strings.HasPrefix(res.Source, "oci:sha256:") {
		t.Errorf("platform %q, source %q", res.Platform, res.Source)
	}
}

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

func TestNamesAndPlatforms(t *testing.T) {
	amd, arm := newTestImage(lay(t, "amd64")), newTestImage(lay(t, "arm64"))
	arm.config.Architecture, arm.config.Variant = "arm64", "v8"
	blobs := amd.blobs(t)
	for d, raw := range arm.blobs(t) {
		blobs[d] = raw
	}
	a, b := amd.index.Manifests[0], arm.index.Manifests[0]
	a.Platform, b.Platform = &platform{OS: "linux", Architecture: "amd64"}, &platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	attest := descriptor{MediaType: typeOCIManifest, Digest: digestOf(nil), Platform: &platform{OS: "unknown", Architecture: "unknown"}}
	multi, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeOCIIndex, Manifests: []descriptor{a, b, attest}})
	must(t, err)
	single := a
	single.Platform, single.Annotations = nil, map[string]string{refName: "one"}
	host := newTestImage()
	host.manifest = amd.manifest
	host.index = manifest{SchemaVersion: 2, Manifests: []descriptor{
		{MediaType: typeOCIIndex, Digest: digestOf(multi), Size: int64(len(multi)), Annotations: map[string]string{refName: "many"}}, single,
	}}
	dir := host.layout(t)
	blobs[digestOf(multi)] = multi
	for d, raw := range blobs {
		must(t, os.WriteFile(blobPath(dir, d), raw, 0o644))
	}
	for _, tt := range []struct{ ref, platform, want string }{
		{":many", "linux/amd64", "amd64="}, {":many", "arm64", "arm64="}, {":many", "linux/arm64/v8", "arm64="},
		{":one", "", "amd64="}, {"@" + digestOf(multi), "linux/arm64", "arm64="},
	} {
		res, err := readDir(t, dir+tt.ref, convert.Options{Platform: tt.platform})
		if err != nil {
			t.Errorf("%s for %s: %v", tt.ref, tt.platform, err)
			continue
		}
		if got := sketch(t, res.Root); got != tt.want {
			t.Errorf("%s for %s = %q, want %q", tt.ref, tt.platform, got, tt.want)
		}
	}
	for ref, want := range map[string]string{"": `["many" "one"]`, ":none": `"none"`, ":many": "linux/amd64, linux/arm64/v8"} {
		_, err := readDir(t, dir+ref, convert.Options{Platform: "linux/s390x"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", ref, err, want)
		}
	}
	// An index that names itself can't be made with digests; nesting is bounded all the same.
	nested := descriptor{MediaType: typeOCIIndex, Digest: digestOf(multi), Size: int64(len(multi))}
	for range maxNested {
		raw, err := json.Marshal(manifest{SchemaVersion: 2, Manifests: []descriptor{nested}})
		must(t, err)
		nested = descriptor{MediaType: typeOCIIndex, Digest: digestOf(raw), Size: int64(len(raw))}
		must(t, os.WriteFile(blobPath(dir, nested.Digest), raw, 0o644))
	}
	index, err := json.Marshal(manifest{SchemaVersion: 2, Manifests: []descriptor{nested}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644))
	if _, err := readDir(t, dir, convert.Options{}); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "in one another") {
		t.Errorf("nested indexes: %v", err)
	}
}

func fullConfig() *config.Config {
	return &config.Config{
		Entrypoint: []string{"/init"}, Cmd: []string{"a", "b"}, Env: []string{"A=1", "PATH=/bin"}, Workdir: "/srv", User: "1:2",
		StopSignal: "SIGINT", Ports: []string{"53/udp", "80/tcp"}, Volumes: []string{"/data"}, Labels: map[string]string{"k": "v"},
	}
}

// The law: what is written is read back equal, with the same digests each time.
func TestRoundTrip(t *testing.T) {
	base := treetest.Dir(t)
	i := 0
	rapid.Check(t, func(rt *rapid.T) {
		want := treetest.Draw(rt, treetest.Everything())
		compression := rapid.SampledFrom([]string{"zstd", "gzip", "none"}).Draw(rt, "compression")
		i++
		opts := WriteOptions{Compression: compression, Platform: "linux/arm/v7", Name: "x"}
		dir := filepath.Join(base, fmt.Sprint(i))
		written, err := Write(context.Background(), dir, want, fullConfig(), opts)
		if err != nil {
			rt.Fatal(err)
		}
		res, err := ReadLayout(context.Background(), dir, convert.Options{TempDir: base})
		if err != nil {
			rt.Fatal(err)
		}
		defer res.Close()
		if d := treetest.Diff(want, res.Root); d != "" {
			rt.Fatalf("tree differs:\n%s", d)
		}
		if d := cmp.Diff(fullConfig(), res.Config); d != "" {
			rt.Fatalf("configuration differs:\n%s", d)
		}
		if res.Platform != "linux/arm/v7" || res.Source != "oci:"+written.Manifest {
			rt.Fatalf("platform %q, source %q", res.Platform, res.Source)
		}
		again, err := Write(context.Background(), dir+"b", res.Root, res.Config, opts)
		if err != nil {
			rt.Fatal(err)
		}
		if *again != *written {
			rt.Fatalf("digests differ: %+v, %+v", written, again)
		}
		os.RemoveAll(dir)
		os.RemoveAll(dir + "b")
	})
	if left, _ := os.ReadDir(base); len(left) > 0 {
		t.Errorf("%d names are left", len(left))
	}
}

func TestWriteRefuses(t *testing.T) {
	base := t.TempDir()
	root := tree.NewDir(0o755)
	must(t, root.Insert("d/.wh.x", &tree.Node{Mode: tree.Regular}))
	if _, err := Write(t.Context(), filepath.Join(base, "x"), root, nil, WriteOptions{}); fault.Of(err) != fault.Unsupported {
		t.Errorf("whiteout name: %v", err)
	}
	root = tree.NewDir(0o755)
	if _, err := Write(t.Context(), base+"/x", root, nil, WriteOptions{Compression: "lz4"}); fault.Of(err) != fault.Invalid {
		t.Errorf("compression: %v", err)
	}
	if _, err := Write(t.Context(), base+"/no/x", root, nil, WriteOptions{}); fault.Of(err) != fault.NotFound {
		t.Errorf("no parent: %v", err)
	}
	must(t, os.MkdirAll(filepath.Join(base, "full/x"), 0o755))
	if _, err := Write(t.Context(), base+"/full", root, nil, WriteOptions{}); fault.Of(err) != fault.Conflict {
		t.Errorf("not empty: %v", err)
	}
	root.Set("f", &tree.Node{Mode: tree.Regular, Size: 5, Content: tree.Bytes("1")})
	if _, err := Write(t.Context(), base+"/x", root, nil, WriteOptions{}); fault.Of(err) != fault.Conflict {
		t.Errorf("short content: %v", err)
	}
	if left, _ := os.ReadDir(base); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	// What a killed writer left goes with the next.
	must(t, os.MkdirAll(filepath.Join(base, ".y.zos-partial-1"), 0o755))
	must(t, os.WriteFile(filepath.Join(base, ".y.zos-partial-1", lockName), nil, 0o644))
	_, err := Write(t.Context(), base+"/y", tree.NewDir(0o755), nil, WriteOptions{})
	must(t, err)
	if left, _ := os.ReadDir(base); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestDockerArchive(t *testing.T) {
	root := tree.NewDir(0o755)
	must(t, root.Insert("bin/sh", &tree.Node{Mode: tree.Regular | 0o755, Size: 2, Content: tree.Bytes("#!")}))
	write := func() []byte {
		var buf bytes.Buffer
		_, err := WriteArchive(t.Context(), &buf, root, fullConfig(), WriteOptions{Name: "shell:1"}, t.TempDir())
		must(t, err)
		return buf.Bytes()
	}
	raw := write()
	if !bytes.Equal(raw, write()) {
		t.Error("two archives of one tree differ")
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	must(t, os.WriteFile(file, raw, 0o644))
	for _, ref := range []string{file, file + ":shell:1"} {
		res, err := ReadArchive(t.Context(), ref, convert.Options{TempDir: t.TempDir()})
		must(t, err)
		if d := treetest.Diff(root, res.Root); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(fullConfig(), res.Config); d != "" {
			t.Error(d)
		}
		if !strings.HasPrefix(res.Source, "docker-archive:sha256:") {
			t.Errorf("source = %q", res.Source)
		}
		must(t, res.Close())
	}
	// Any tar that is an image is found out by convert.Open.
	var tarReads int
	table := convert.Table{"docker-archive": ReadArchive, "oci": ReadLayout, "tar": func(ctx context.Context, p string, o convert.Options) (*convert.Result, error) {
		tarReads++
		outer := tree.NewDir(0o755)
		outer.Set("manifest.json", &tree.Node{Mode: tree.Regular})
		outer.Set("oci-layout", &tree.Node{Mode: tree.Regular})
		return &convert.Result{Root: outer}, nil
	}}
	res, err := convert.Open(t.Context(), file, table, convert.Options{TempDir: t.TempDir()})
	must(t, err)
	defer res.Close()
	if res.Root.At("bin/sh") == nil || tarReads != 1 {
		t.Errorf("open = %s", sketch(t, res.Root))
	}
}

// What older engines write: layers beside their configuration, equal layers as
// symlinks.
func TestOldDockerArchive(t *testing.T) {
	one := lay(t, "a=1")
	im := newTestImage(one, lay(t, "b=2"), one)
	cfg, err := json.Marshal(im.config)
	must(t, err)
	id := strings.TrimPrefix(digestOf(cfg), "sha256:")
	build := func(manifest string, files map[string]string) string {
		path := filepath.Join(t.TempDir(), "x.tar")
		f, err := os.Create(path)
		must(t, err)
		defer f.Close()
		w := stdtar.NewWriter(f)
		files["manifest.json"] = manifest
		for name, content := range files {
			h := &stdtar.Header{Typeflag: stdtar.TypeReg, Name: name, Size: int64(len(content))}
			if target, ok := strings.CutPrefix(content, "->"); ok {
				h.Typeflag, h.Linkname, h.Size, content = stdtar.TypeSymlink, target, 0, ""
			}
			must(t, w.WriteHeader(h))
			_, err := w.Write([]byte(content))
			must(t, err)
		}
		must(t, w.Close())
		return path
	}
	manifest := `[{"Config":"` + id + `.json","RepoTags":["x:1"],"Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]`
	files := func() map[string]string {
		return map[string]string{id + ".json": string(cfg), "1/layer.tar": string(one), "2/layer.tar": string(im.layers[1]), "3/layer.tar": "->../1/layer.tar"}
	}
	read := func(path string) (string, error) {
		res, err := ReadArchive(t.Context(), path, convert.Options{TempDir: t.TempDir()})
		if err != nil {
			return "", err
		}
		defer res.Close()
		return sketch(t, res.Root), nil
	}
	if got, err := read(build(manifest, files())); err != nil || got != "a=1 b=2" {
		t.Errorf("read = %q, %v", got, err)
	}
	for name, tt := range map[string]struct {
		manifest string
		change   func(map[string]string)
		kind     fault.Kind
		want     string
	}{
		"no manifest":    {"->nothing", nil, fault.Invalid, "manifest.json"},
		"bad manifest":   {"{", nil, fault.Invalid, "manifest.json"},
		"no image":       {"[]", nil, fault.NotFound, "no image"},
		"several images": {`[{"RepoTags":["x:1"]},{"RepoTags":["y:1"]}]`, nil, fault.Conflict, `["x:1" "y:1"]`},
		"config changed": {manifest, func(f map[string]string) { f[id+".json"] += " " }, fault.Invalid, "digest"},
		"config missing": {manifest, func(f map[string]string) { delete(f, id+".json") }, fault.NotFound, id},
		"layer missing":  {manifest, func(f map[string]string) { delete(f, "2/layer.tar") }, fault.NotFound, "layer 2"},
		"layer changed":  {manifest, func(f map[string]string) { f["2/layer.tar"] = string(one) }, fault.Invalid, "layer 2 of 3"},
		"link outside":   {manifest, func(f map[string]string) { f["3/layer.tar"] = "->/../../etc/passwd" }, fault.NotFound, "layer 3"},
		"link circle":    {manifest, func(f map[string]string) { f["3/layer.tar"] = "->layer.tar" }, fault.NotFound, "layer 3"},
	} {
		f := files()
		if tt.change != nil {
			tt.change(f)
		}
		if _, err := read(build(tt.manifest, f)); fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v (%s), want %s with %q", name, err, fault.Of(err), tt.kind, tt.want)
		}
	}
	if _, err := read(filepath.Join(t.TempDir(), "no.tar")); fault.Of(err) != fault.NotFound {
		t.Errorf("no file: %v", err)
	}
}
