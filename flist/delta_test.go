package flist_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/config"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// words is a text of n bytes that compresses as sources do.
func words(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 7))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "func w%x(a%d int) { return b[%d] }\n", r.IntN(4096), r.IntN(9), r.IntN(300))
	}
	return b.String()[:n]
}

func file(s string) *tree.Node {
	return &tree.Node{Mode: tree.Regular | 0o644, Size: int64(len(s)), Content: tree.Bytes(s), Mtime: 1700000000}
}

// sources is a tree like a source repository: directories of small files, a few
// large ones.
func sources(t rapid.TB) *tree.Node {
	root := tree.NewDir(0o755)
	for i := range 240 {
		put(t, root, fmt.Sprintf("pkg%d/file%03d.go", i%6, i), words(uint64(i), 500+i*97%9000))
	}
	put(t, root, "data/table.go", words(1000, 700_000))
	put(t, root, "data/blob", words(1001, 300_000))
	return root
}

func put(t rapid.TB, root *tree.Node, path, s string) {
	t.Helper()
	if err := root.Insert(path, file(s)); err != nil {
		t.Fatal(err)
	}
}

// next is the version after sources: files changed, added, removed and renamed,
// large files changed in the middle.
func next(t rapid.TB) *tree.Node {
	root := sources(t)
	for _, i := range []int{3, 50, 51, 120, 200} {
		path := fmt.Sprintf("pkg%d/file%03d.go", i%6, i)
		old, err := root.At(path).ReadAll(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		put(t, root, path, string(old[:100])+"// one more line\n"+string(old[100:]))
	}
	put(t, root, "pkg0/new.go", words(2000, 3000))
	root.At("pkg1").Remove("file001.go")
	moved := root.At("pkg2/file002.go")
	root.At("pkg2").Remove("file002.go")
	if err := root.Insert("pkg9/file002.go", moved); err != nil {
		t.Fatal(err)
	}
	table := words(1000, 700_000)
	put(t, root, "data/table.go", table[:350_000]+"inserted\n"+table[350_000:])
	return root
}

// upgrade builds two versions in a bucket, the second upon the first, and the
// delta between them, and returns another bucket that has the first only.
func upgrade(t *testing.T, dom block.Domain, a, b *tree.Node) (all, node *block.Mem, was, is flist.ID, delta []byte) {
	t.Helper()
	all, node = new(block.Mem), new(block.Mem)
	cfg := &config.Config{Cmd: []string{"/bin/a"}}
	was = build(t, node, a, flist.BuildOptions{Domain: dom, Config: cfg}).ID
	build(t, all, a, flist.BuildOptions{Domain: dom, Config: cfg})
	is = build(t, all, b, flist.BuildOptions{Domain: dom, Config: cfg, Bases: []flist.ID{was}}).ID
	delta, err := flist.MakeDelta(t.Context(), all, is, was, dom)
	if err != nil {
		t.Fatal(err)
	}
	return all, node, was, is, delta
}

func rootOf(t testing.TB, b block.Bucket, id flist.ID) []byte {
	t.Helper()
	root, err := b.Read(t.Context(), flist.RootKey(id), 0, flist.MaxRoot)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func apply(t testing.TB, to block.Bucket, delta, root []byte, dom block.Domain) (flist.DeltaReport, error) {
	d, err := flist.ParseDelta(delta)
	if err != nil {
		return flist.DeltaReport{}, err
	}
	return d.Apply(t.Context(), to, root, dom)
}

func TestDeltaMakesTheSameImage(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{9})} {
		t.Run(name, func(t *testing.T) {
			all, node, was, is, delta := upgrade(t, dom, sources(t), next(t))
			root := rootOf(t, all, is)
			rep, err := apply(t, node, delta, root, dom)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := node.Stat(t.Context(), flist.RootKey(is)); fault.Of(err) != fault.NotFound {
				t.Errorf("the root is there before the caller wrote it: %v", err)
			}
			write(t, node, flist.RootKey(is), root)
			want, err := flist.Open(t.Context(), all, is, flist.OpenOptions{Domain: dom})
			if err != nil {
				t.Fatal(err)
			}
			got, err := flist.Open(t.Context(), node, is, flist.OpenOptions{Domain: dom})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(memDevice(t, all, want), memDevice(t, node, got)) {
				t.Error("the device has other bytes")
			}
			diff := flist.Diff(opened(t, node, was, dom), got, nil)
			if rep.Chunks != diff.MovedChunks || rep.Moved != diff.MovedPlain || rep.Shared != diff.SharedPlain {
				t.Errorf("apply reports %+v, the images differ in %d chunks of %d bytes and share %d", rep, diff.MovedChunks, diff.MovedPlain, diff.SharedPlain)
			}
		})
	}
}

func opened(t *testing.T, b block.Bucket, id flist.ID, dom block.Domain) *flist.Image {
	t.Helper()
	img, err := flist.Open(t.Context(), b, id, flist.OpenOptions{Domain: dom})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func write(t testing.TB, to block.Bucket, key string, b []byte) {
	t.Helper()
	if err := to.Write(t.Context(), key, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
}

// TestDeltaBytes holds the bytes of an upgrade of a fixed tree: what really
// changed is 3.1 kB of new words and six lines.
func TestDeltaBytes(t *testing.T) {
	_, _, _, is, delta := upgrade(t, block.Domain{}, sources(t), next(t))
	all := new(block.Mem)
	full := build(t, all, sources(t), flist.BuildOptions{})
	rep := build(t, all, next(t), flist.BuildOptions{Bases: []flist.ID{full.ID}})
	if rep.ID == is {
		t.Fatal("the configuration is no part of the id")
	}
	chunks := rep.PackedBytes + rep.Published
	t.Logf("delta %d bytes, chunks and objects %d", len(delta), chunks)
	if len(delta) > 4000 {
		t.Errorf("the delta has %d bytes, want at most 4000", len(delta))
	}
	if int64(len(delta)) > chunks/10 {
		t.Errorf("the delta has %d bytes, want at most a tenth of the %d of chunks and objects", len(delta), chunks)
	}
}

// TestOneSmallFileMovesFewChunks changes, inserts and removes one file of a
// directory of many: O(1) chunks differ, and the delta costs little more than
// the file.
func TestOneSmallFileMovesFewChunks(t *testing.T) {
	all := new(block.Mem)
	names := make([]string, 150)
	for i := range names {
		names[i] = fmt.Sprintf("d/f%04d", 2*i)
	}
	plain := func() *tree.Node {
		root := tree.NewDir(0o755)
		for i, n := range names {
			put(t, root, n, words(uint64(i), 200+i*131%7000))
		}
		return root
	}
	was := build(t, all, plain(), flist.BuildOptions{})
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		if runs++; runs > 40 {
			return // each costs a tenth of a second
		}
		root := plain()
		i := rapid.IntRange(0, len(names)-1).Draw(rt, "file")
		size := rapid.IntRange(1, 9000).Draw(rt, "size")
		seed := rapid.Uint64Range(1000, 2000).Draw(rt, "content")
		switch rapid.SampledFrom([]string{"change", "insert", "remove"}).Draw(rt, "edit") {
		case "change":
			put(rt, root, names[i], words(seed, size))
		case "insert":
			put(rt, root, fmt.Sprintf("d/f%04d", 2*i+1), words(seed, size))
		case "remove":
			root.At("d").Remove(strings.TrimPrefix(names[i], "d/"))
			size = 0
		}
		rep, err := flist.Build(t.Context(), root, all, flist.BuildOptions{Bases: []flist.ID{was.ID}})
		if err != nil {
			rt.Fatal(err)
		}
		if rep.ID == was.ID {
			return // what was drawn is what was there
		}
		if rep.NewChunks > 6 {
			rt.Errorf("%d of %d chunks are new, want at most 6", rep.NewChunks, rep.Chunks)
		}
		delta, err := flist.MakeDelta(t.Context(), all, rep.ID, was.ID, block.Domain{})
		if err != nil {
			rt.Fatal(err)
		}
		// The rest is 8 bytes of place for each file behind it, compressed.
		if most := size + 3000; len(delta) > most {
			rt.Errorf("the delta has %d bytes for a file of %d, want at most %d", len(delta), size, most)
		}
	})
}

func TestDeltaNeedsItsBase(t *testing.T) {
	dom := block.NewDomain([32]byte{3})
	all, node, was, is, delta := upgrade(t, block.Domain{}, sources(t), next(t))
	root := rootOf(t, all, is)
	if _, err := apply(t, new(block.Mem), delta, root, block.Domain{}); fault.Of(err) != fault.NotFound {
		t.Errorf("without the base: %v, want NotFound", err)
	}
	if _, err := apply(t, node, delta, rootOf(t, node, was), block.Domain{}); fault.Of(err) != fault.Invalid {
		t.Errorf("with the root of another image: %v, want Invalid", err)
	}
	if _, err := flist.MakeDelta(t.Context(), all, is, is, block.Domain{}); fault.Of(err) != fault.Invalid {
		t.Errorf("of an image itself: %v, want Invalid", err)
	}
	other := build(t, all, smallTree(), flist.BuildOptions{Domain: dom}).ID
	if _, err := flist.MakeDelta(t.Context(), all, other, was, dom); fault.Of(err) != fault.Unsupported {
		t.Errorf("of two domains: %v, want Unsupported", err)
	}
	for key := range node.List(t.Context(), flist.PackPrefix) {
		if err := node.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		break
	}
	if _, err := apply(t, node, delta, root, block.Domain{}); fault.Of(err) != fault.NotFound {
		t.Errorf("with a pack of the base missing: %v, want NotFound", err)
	}
}

func TestPrivateDeltaTellsNothing(t *testing.T) {
	dom := block.NewDomain([32]byte{3})
	all, node, _, is, delta := upgrade(t, dom, sources(t), next(t))
	if bytes.Contains(delta, []byte("one more line")) {
		t.Error("content is readable")
	}
	if _, err := apply(t, node, delta, rootOf(t, all, is), block.NewDomain([32]byte{4})); err == nil {
		t.Error("another tenant applied it")
	}
}

// TestDamagedDeltaMakesNoImage changes and cuts a delta everywhere: it is refused,
// or what it makes is right.
func TestDamagedDeltaMakesNoImage(t *testing.T) {
	a, b := smallTree(), smallTree()
	put(t, b, "etc/hostname", "another\n")
	all, node, _, is, delta := upgrade(t, block.Domain{}, a, b)
	root := rootOf(t, all, is)
	before := slices.Collect(keys(t, node))
	refused := 0
	try := func(what string, d []byte) {
		to := new(block.Mem)
		for _, k := range before {
			x, err := node.Read(t.Context(), k, 0, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			write(t, to, k, x)
		}
		if _, err := apply(t, to, d, root, block.Domain{}); err != nil {
			refused++
			return
		}
		write(t, to, flist.RootKey(is), root)
		if diff := cmp.Diff(memDevice(t, all, opened(t, all, is, block.Domain{})), memDevice(t, to, opened(t, to, is, block.Domain{}))); diff != "" {
			t.Errorf("%s: the image has other bytes: %s", what, diff)
		}
	}
	for i := range delta {
		d := bytes.Clone(delta)
		d[i] ^= 0x41
		try(fmt.Sprintf("byte %d changed", i), d)
		try(fmt.Sprintf("cut at %d", i), delta[:i])
	}
	if refused < len(delta)*19/10 {
		t.Errorf("only %d of %d were refused", refused, 2*len(delta))
	}
}

func keys(t *testing.T, b block.Bucket) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k, err := range b.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if !yield(k) {
				return
			}
		}
	}
}

// FuzzDelta applies any bytes as a delta. What goes through must make the image.
func FuzzDelta(f *testing.F) {
	ctx := f.Context()
	a, b := smallTree(), smallTree()
	put(f, b, "etc/hostname", "another\n")
	all := new(block.Mem)
	was, err := flist.Build(ctx, a, all, flist.BuildOptions{})
	if err != nil {
		f.Fatal(err)
	}
	is, err := flist.Build(ctx, b, all, flist.BuildOptions{Bases: []flist.ID{was.ID}})
	if err != nil {
		f.Fatal(err)
	}
	delta, err := flist.MakeDelta(ctx, all, is.ID, was.ID, block.Domain{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(delta)
	root := rootOf(f, all, is.ID)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := flist.ParseDelta(b)
		if err != nil {
			return
		}
		d.ID, d.Base = is.ID, was.ID // so that mutations reach the rest
		if _, err := d.Apply(t.Context(), all, root, block.Domain{}); err != nil {
			return
		}
		if _, err := flist.Open(t.Context(), all, is.ID, flist.OpenOptions{}); err != nil {
			t.Fatalf("the image is wrong after the delta was applied: %v", err)
		}
	})
}

// Released deltas can be applied for ever: the file has the id of its image as
// its name.
func TestReleasedDelta(t *testing.T) {
	a, b := smallTree(), smallTree()
	put(t, b, "etc/hostname", "another\n")
	all, node, was, is, delta := upgrade(t, block.Domain{}, a, b)
	path := filepath.Join("testdata/delta", is.String())
	if os.Getenv("UPDATE") != "" {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, delta, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	released, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := flist.ParseDelta(released)
	if err != nil || d.ID != is || d.Base != was {
		t.Fatalf("ParseDelta = %+v, %v, want from %v to %v", d, err, was, is)
	}
	if _, err := apply(t, node, released, rootOf(t, all, is), block.Domain{}); err != nil {
		t.Fatal(err)
	}
}

// TestDeltaOfAnyTwoTrees: whatever two versions have in common, the delta makes
// the second of the first, or says that it is not worth it.
func TestDeltaOfAnyTwoTrees(t *testing.T) {
	pool := []string{"", "x", strings.Repeat("\x00", 200<<10), words(1, 5000), words(2, 70_000), words(3, 150_000),
		words(3, 100_000) + "cut" + words(4, 60_000), strings.Repeat("\x00", 64<<10) + words(5, 10) + strings.Repeat("\x00", 64<<10)}
	draw := func(rt *rapid.T, label string) *tree.Node {
		root := tree.NewDir(0o755)
		var last *tree.Node
		for i, k := range rapid.SliceOfN(rapid.IntRange(-1, len(pool)-1), 0, 8).Draw(rt, label) {
			path := fmt.Sprintf("d%d/f%d", i%2, i)
			n := last // -1 is a hard link
			if k >= 0 || n == nil {
				n = file(pool[max(k, 0)])
			}
			if err := root.Insert(path, n); err != nil {
				rt.Fatal(err)
			}
			last = n
		}
		return root
	}
	made, runs := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		if runs++; runs > 30 {
			return // each costs a fifth of a second
		}
		all, node := new(block.Mem), new(block.Mem)
		a, b := draw(rt, "old"), draw(rt, "new")
		was := build(t, all, a, flist.BuildOptions{}).ID
		build(t, node, a, flist.BuildOptions{})
		is := build(t, all, b, flist.BuildOptions{Bases: []flist.ID{was}}).ID
		if is == was {
			return
		}
		delta, err := flist.MakeDelta(t.Context(), all, is, was, block.Domain{})
		if fault.Of(err) == fault.Exhausted {
			return
		}
		if err != nil {
			rt.Fatal(err)
		}
		made++
		root := rootOf(t, all, is)
		if _, err := apply(t, node, delta, root, block.Domain{}); err != nil {
			rt.Fatal(err)
		}
		write(t, node, flist.RootKey(is), root)
		rep, err := flist.Verify(t.Context(), block.NewMirrors(nil, block.Source{Name: "node", Bucket: node}), is, flist.VerifyOptions{Deep: true})
		if err != nil || len(rep.Problems) > 0 || rep.Checked != rep.Chunks {
			rt.Fatalf("Verify = %+v, %v", rep, err)
		}
	})
	if made == 0 {
		t.Error("no delta was worth it")
	}
}
