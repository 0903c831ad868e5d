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
