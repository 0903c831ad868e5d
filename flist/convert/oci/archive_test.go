package oci

import (
	stdtar "archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/internal/treetest"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

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
