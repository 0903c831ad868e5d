package flist_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/config"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// sample is a tree with everything a layout has to decide about.
func sample() *tree.Node {
	root := tree.NewDir(0o755)
	r := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.IntN(64))
		}
		return string(b)
	}
	add := func(path, s string, mode uint32) *tree.Node {
		n := &tree.Node{Mode: tree.Regular | mode, Size: int64(len(s)), Content: tree.Bytes(s), Mtime: 1700000000}
		if err := root.Insert(path, n); err != nil {
			panic(err)
		}
		return n
	}
	for i := range 300 {
		add(fmt.Sprintf("small/f%03d", i), noise(1+r.IntN(9000)), 0o644)
	}
	add("empty", "", 0o600)
	add("edge/one", "x", 0o644)
	add("edge/below", noise(64<<10-1), 0o644)
	add("edge/exact", noise(64<<10), 0o644)
	add("edge/block", noise(4096), 0o644)
	big := noise(3 << 20)
	add("big/a", big, 0o644)
	add("big/copy", big, 0o644)
	add("big/sparse", strings.Repeat("\x00", 5<<16)+noise(1000)+strings.Repeat("\x00", 1<<20), 0o644)
	add("big/zeros", strings.Repeat("\x00", 1<<20+5), 0o644)
	same := noise(100)
	add("dup/a", same, 0o644)
	add("dup/b", same, 0o755)
	add("bin/script", "#!/bin/sh\necho hi\n", 0o755)
	link := add("links/a", "linked", 0o644)
	if err := root.Insert("links/b", link); err != nil {
		panic(err)
	}
	return root
}

func build(t *testing.T, to block.Bucket, root *tree.Node, opt flist.BuildOptions) *flist.BuildReport {
	t.Helper()
	rep, err := flist.Build(t.Context(), root, to, opt)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// memDevice reads an image's device from decoded chunks, the slow and obvious way.
func memDevice(t *testing.T, b block.Bucket, img *flist.Image) []byte {
	t.Helper()
	loc, err := flist.ReadLocator(t.Context(), b, img)
	if err != nil {
		t.Fatal(err)
	}
	var dec block.Decoder
	dev := make([]byte, img.DeviceSize())
	for _, e := range img.Map.Extents {
		if e.Chunk == chunkmap.Zeros {
			continue
		}
		c, w := img.Map.Chunks[e.Chunk], loc.Where[e.Chunk]
		stored, err := b.Read(t.Context(), flist.PackPrefix+loc.Packs[w.Pack].Name.String(), int64(w.Off), int64(w.Stored))
		if err != nil {
			t.Fatal(err)
		}
		enc := block.DeriveEnc(int(c.Plain), int(w.Stored), img.Domain.Private())
		plain, err := dec.Chunk(img.Domain, c.Name, enc, int(c.Plain), stored)
		if err != nil {
			t.Fatal(err)
		}
		copy(dev[e.Off:e.End()], plain[e.In:])
	}
	return dev
}

func TestBuildOpenKeepsEveryByte(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{7})} {
		t.Run(name, func(t *testing.T) {
			var b block.Mem
			src := sample()
			rep := build(t, &b, src, flist.BuildOptions{Domain: dom, Config: &config.Config{Cmd: []string{"/bin/script"}}, Platform: "linux/amd64"})
			img, err := flist.Open(t.Context(), &b, rep.ID, flist.OpenOptions{Domain: dom})
			if err != nil {
				t.Fatal(err)
			}
			dev := memDevice(t, &b, img)
			covered := make([]bool, len(dev))
			for path, n := range src.Walk() {
				got := img.Tree.At(path)
				if path == "" {
					got = img.Tree
				}
				if got == nil || got.Mode != n.Mode || got.Size != n.Size {
					t.Fatalf("%q = %+v, want %+v", path, got, n)
				}
				if !n.IsRegular() {
					continue
				}
				want, _ := n.ReadAll(1 << 30)
				if !bytes.Equal(dev[got.Offset:got.Offset+got.Size], want) {
					t.Errorf("%q has other bytes in the device", path)
				}
				for i := got.Offset; i < got.Offset+got.Size; i++ {
					covered[i] = true
				}
			}
			for i, b := range dev {
				if !covered[i] && b != 0 {
					t.Fatalf("byte %d belongs to no file and is %d, want 0", i, b)
				}
			}
			if img.Tree.At("links/a") != img.Tree.At("links/b") {
				t.Error("the hard link became two files")
			}
			for _, pair := range [][2]string{{"big/a", "big/copy"}, {"dup/a", "dup/b"}} {
				if img.Tree.At(pair[0]).Offset != img.Tree.At(pair[1]).Offset {
					t.Errorf("%v were placed twice", pair)
				}
			}
			if len(img.Executables) != 1 || img.Executables[0].Path != "bin/script" {
				t.Errorf("executables = %v, want bin/script", img.Executables)
			}
		})
	}
}

func TestSameTreeSameID(t *testing.T) {
	var a, b block.Mem
	first := build(t, &a, sample(), flist.BuildOptions{Workers: 1})
	second := build(t, &b, sample(), flist.BuildOptions{Workers: 7})
	if first.ID != second.ID {
		t.Errorf("ids differ: %v and %v", first.ID, second.ID)
	}
	// The vector of docs/reference/flist.md. It may never change.
	const want = "0b3ff2492077b5db965e7e9adb547126689060bd3896b39d1daea91286dfaed0"
	if first.ID.String() != want {
		t.Errorf("id = %v, want %v", first.ID, want)
	}
}

func TestBaseIsUsedAgain(t *testing.T) {
	var b block.Mem
	old := build(t, &b, sample(), flist.BuildOptions{})
	next := sample()
	extra := &tree.Node{Mode: tree.Regular | 0o644, Size: 5, Content: tree.Bytes("extra")}
	if err := next.Insert("zz/extra", extra); err != nil {
		t.Fatal(err)
	}
	rep := build(t, &b, next, flist.BuildOptions{Bases: []flist.ID{old.ID}})
	if rep.NewChunks != 1 {
		t.Errorf("a tree with one more file packed %d chunks, want 1", rep.NewChunks)
	}
	img, err := flist.Open(t.Context(), &b, rep.ID, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	memDevice(t, &b, img)
}

func TestPrivateImagesTellNothing(t *testing.T) {
	var b block.Mem
	mine := block.NewDomain([32]byte{1})
	rep := build(t, &b, sample(), flist.BuildOptions{Domain: mine})
	for name, dom := range map[string]block.Domain{"none": {}, "other": block.NewDomain([32]byte{2})} {
		if _, err := flist.Open(t.Context(), &b, rep.ID, flist.OpenOptions{Domain: dom}); !errors.Is(err, fault.Denied) {
			t.Errorf("open with secret %s = %v, want denied", name, err)
		}
	}
	var public block.Mem
	pub := build(t, &public, sample(), flist.BuildOptions{})
	img, err := flist.Open(t.Context(), &public, pub.ID, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range img.Map.Chunks {
		names[c.Name.String()] = true
	}
	for key, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if names[key[2:]] {
			t.Errorf("%s of the private image has a public name", key)
		}
		body, _ := b.Read(t.Context(), key, 0, 64<<20)
		for _, clear := range []string{"edge", "script", "#!/bin/sh"} {
			if bytes.Contains(body, []byte(clear)) {
				t.Errorf("%s holds %q in clear", key, clear)
			}
		}
	}
}

type lyingContent struct {
	n   int
	err error
}

func (c lyingContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", c.n)), errReader{c.err})), nil
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) {
	if e.err == nil {
		return 0, io.EOF
	}
	return 0, e.err
}

func TestSourceThatChangesIsAnError(t *testing.T) {
	boom := errors.New("boom")
	for _, size := range []int{1000, 200 << 10} {
		for name, c := range map[string]lyingContent{"shorter": {size - 1, nil}, "longer": {size + 1, nil}, "unreadable": {size / 2, boom}} {
			var b block.Mem
			root := tree.NewDir(0o755)
			if err := root.Insert("dir/file", &tree.Node{Mode: tree.Regular, Size: int64(size), Content: c}); err != nil {
				t.Fatal(err)
			}
			_, err := flist.Build(t.Context(), root, &b, flist.BuildOptions{})
			if err == nil || !strings.Contains(err.Error(), "dir/file") {
				t.Errorf("%d bytes, %s: Build = %v, want an error that names dir/file", size, name, err)
			}
			for key := range b.List(t.Context(), "r/") {
				t.Errorf("%d bytes, %s: %s was published", size, name, key)
			}
		}
	}
}

// A change of any byte is refused, or it is in bits that zstd ignores and the
// image that opens is the one that was built.
func TestEveryFlippedByteIsFound(t *testing.T) {
	var b block.Mem
	root := tree.NewDir(0o755)
	if err := root.Insert("a", &tree.Node{Mode: tree.Regular | 0o644, Size: 3, Content: tree.Bytes("abc")}); err != nil {
		t.Fatal(err)
	}
	rep := build(t, &b, root, flist.BuildOptions{})
	orig, err := flist.Open(t.Context(), &b, rep.ID, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found, total := 0, 0
	var keys []string
	for key, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if key[0] == 'r' || key[0] == 'o' {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		good, err := b.Read(t.Context(), key, 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			if err := b.Write(t.Context(), key, bytes.NewReader(bad)); err != nil {
				t.Fatal(err)
			}
			img, err := flist.Open(t.Context(), &b, rep.ID, flist.OpenOptions{})
			if err != nil {
				found++
			} else if !bytes.Equal(img.Metadata, orig.Metadata) || !bytes.Equal(img.MapBytes, orig.MapBytes) {
				t.Errorf("%s with byte %d flipped opened as another image", key, i)
			}
			total++
		}
		if err := b.Write(t.Context(), key, bytes.NewReader(good)); err != nil {
			t.Fatal(err)
		}
	}
	if found < total*9/10 {
		t.Errorf("%d of %d flipped bytes were refused; more than a tenth can't be ignored bits", found, total)
	}
}

// smallTree is what the corpus of released images holds.
func smallTree() *tree.Node {
	root := tree.NewDir(0o755)
	for _, f := range []struct{ path, text string }{
		{"etc/hostname", "zos\n"}, {"bin/run", "#!/bin/sh\nexec true\n"}, {"empty", ""},
		{"big", strings.Repeat("0123456789abcdef", 10000) + strings.Repeat("\x00", 3<<16)},
	} {
		n := &tree.Node{Mode: tree.Regular | 0o644, Size: int64(len(f.text)), Content: tree.Bytes(f.text), Mtime: 1700000000, Nsec: 1}
		if err := root.Insert(f.path, n); err != nil {
			panic(err)
		}
	}
	if err := root.Insert("link", &tree.Node{Mode: tree.Symlink | 0o777, Target: "etc/hostname", Size: 12}); err != nil {
		panic(err)
	}
	return root
}
