package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// allocated is the number of bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// encodeUnchecked is Encode for trees beyond the limits of package tree.
func encodeUnchecked(t *testing.T, root *tree.Node) []byte {
	t.Helper()
	e := encoder{root: root}
	e.number()
	e.choose()
	size, err := e.place()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, size)
	e.super(out)
	for i := range e.inodes {
		e.write(out, &e.inodes[i])
	}
	return out
}

// forge is a well-formed image with handles to break it.
type forge struct {
	image []byte
}

// inode is the position of the inode at path.
func (f forge) inode(t testing.TB, path string) int {
	t.Helper()
	at := int(le.Uint16(f.image[superOffset+14:])) * nidSize
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			at = int(le.Uint64(f.image[f.dirent(t, at, name):])) * nidSize
		}
	}
	return at
}

// dirent is the position of an entry of the small directory at.
func (f forge) dirent(t testing.TB, at int, name string) int {
	t.Helper()
	block := at + compactSize
	if f.image[at]&1 == 1 {
		block = at + extendedSize
	}
	size := int(le.Uint32(f.image[at+8:]))
	text := string(f.image[block : block+size])
	count, err := direntCount(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if got, _ := direntName(text, i, count); got == name {
			return block + i*direntSize
		}
	}
	t.Fatalf("no entry %q", name)
	return 0
}

func small(t testing.TB) forge {
	root := tree.NewDir(0o755)
	insert(t, root, "dir/sub/file", &tree.Node{Mode: tree.Regular | 0o644, Size: 5, Offset: 4096})
	insert(t, root, "dir/sub/link", &tree.Node{Mode: tree.Symlink | 0o777, Target: "target"})
	insert(t, root, "dir/x", &tree.Node{Mode: tree.Regular | 0o644, Size: 5, Xattrs: []tree.Xattr{{Name: "user.a", Value: "1"}, {Name: "user.b", Value: "22"}}})
	insert(t, root, "long", &tree.Node{Mode: tree.Symlink | 0o777, Target: strings.Repeat("l", 4095)})
	insert(t, root, "zdir", tree.NewDir(0o700))
	insert(t, root, "wide/dir", tree.NewDir(0o700)).Mtime = 1
	insert(t, root, "wide/file", &tree.Node{Mode: tree.Regular, Size: 1, Mtime: 2})
	insert(t, root, "wide/link", &tree.Node{Mode: tree.Symlink, Target: "t", Mtime: 3})
	insert(t, root, "wide/fifo", &tree.Node{Mode: tree.FIFO, Mtime: 4})
	for i := range 70 {
		insert(t, root, fmt.Sprintf("many/%s%d", strings.Repeat("m", 50), i), &tree.Node{Mode: tree.FIFO})
	}
	return forge{mustEncode(t, root, 2)}
}

// attack breaks an image in one way.
type attack struct {
	name string
	do   func(f forge) []byte
}

func attacks(t testing.TB) []attack {
	put16 := func(at int, v uint16) func(forge) []byte {
		return func(f forge) []byte { le.PutUint16(f.image[at:], v); return f.image }
	}
	put32 := func(at int, v uint32) func(forge) []byte {
		return func(f forge) []byte { le.PutUint32(f.image[at:], v); return f.image }
	}
	entry := func(dir, name string, v uint64) func(forge) []byte {
		return func(f forge) []byte {
			le.PutUint64(f.image[f.dirent(t, f.inode(t, dir), name):], v)
			return f.image
		}
	}
	nid := func(path string) uint64 { f := small(t); return uint64(f.inode(t, path) / nidSize) }
	field := func(path string, at int, bytes ...byte) func(forge) []byte {
		return func(f forge) []byte { copy(f.image[f.inode(t, path)+at:], bytes); return f.image }
	}
	rename := func(dir, old, new string) func(forge) []byte {
		return func(f forge) []byte {
			p := f.image[f.inode(t, dir)+compactSize:]
			i := bytes.Index(p, []byte(old))
			copy(p[i:], new)
			return f.image
		}
	}
	// huge is a size whose end may be anywhere.
	huge := func(path string, size uint64) func(forge) []byte {
		return func(f forge) []byte {
			at := f.inode(t, path)
			le.PutUint64(f.image[at+8:], size)
			if f.image[at]>>1 != layoutChunk {
				le.PutUint32(f.image[at+16:], uint32(len(f.image)/BlockSize))
			}
			return f.image
		}
	}
	// last makes the last 32 bytes of the image an inode with a name.
	last := func(format, words, mode uint16, size, word uint32) func(forge) []byte {
		return func(f forge) []byte {
			p := f.image[len(f.image)-nidSize:]
			clear(p)
			le.PutUint16(p, format)
			le.PutUint16(p[2:], words)
			le.PutUint16(p[4:], mode)
			le.PutUint32(p[8:], size)
			le.PutUint32(p[16:], word)
			return entry("", "zdir", uint64((len(f.image)-nidSize)/nidSize))(f)
		}
	}
	return []attack{
		{"empty", func(forge) []byte { return nil }},
		{"no superblock", put32(superOffset, 0)},
		{"checksum", put32(superOffset+4, 1)},
		{"compatible feature", put32(superOffset+8, 2)},
		{"block size 512", func(f forge) []byte { f.image[superOffset+12] = 9; return f.image }},
		{"extended superblock", func(f forge) []byte { f.image[superOffset+13] = 255; return f.image }},
		{"root elsewhere", put16(superOffset+14, uint16(nid("dir")))},
		{"root outside", put16(superOffset+14, 0xFFFF)},
		{"number of inodes", put32(superOffset+20, 0xFFFFFFFF)},
		{"blocks", put32(superOffset+36, 1)},
		{"inodes elsewhere", put32(superOffset+40, 1)},
		{"shared attributes", put32(superOffset+44, 1)},
		{"compression", put32(superOffset+80, features|1)},
		{"all features", put32(superOffset+80, 0xFFFFFFFF)},
		{"no features", put32(superOffset+80, 0)},
		{"algorithms", put16(superOffset+84, 1)},
		{"two devices", put16(superOffset+86, 2)},
		{"no device", put16(superOffset+86, 0)},
		{"slot elsewhere", put16(superOffset+88, 8)},
		{"large directory blocks", func(f forge) []byte { f.image[superOffset+90] = 1; return f.image }},
		{"packed inode", put32(superOffset+96, 40)},
		{"device tag", put32(slotOffset, 1)},
		{"mapped device", put32(slotOffset+68, 1)},
		{"small device", put32(slotOffset+64, 1)},

		{"entry outside", entry("", "dir", 1<<60)},
		{"entry at the end", entry("", "dir", uint64(len(small(t).image)/nidSize))},
		{"entry in the superblock", entry("", "dir", superOffset/nidSize)},
		{"cycle to the root", entry("dir/sub", "file", inodesOffset/nidSize)},
		{"cycle to the parent", entry("dir", "sub", nid("dir"))},
		{"self wrong", entry("dir", ".", nid("zdir"))},
		{"parent wrong", entry("dir/sub", "..", nid("zdir"))},
		{"root has a parent", entry("", "..", nid("dir"))},
		{"two names of a directory", entry("", "zdir", nid("dir"))},
		{"backwards", entry("dir", "sub", nid("dir")-1)},
		{"inside another inode", entry("", "many", nid("many")+1)},
		{"hard link without count", entry("dir/sub", "link", nid("dir/sub/file"))},
		{"entry type", func(f forge) []byte { f.image[f.dirent(t, f.inode(t, "dir"), "x")+10] = 2; return f.image }},

		{"empty name", field("zdir", compactSize+direntSize+8, 24, 0)},
		{"name offset 0", field("zdir", compactSize+8, 0, 0)},
		{"name offset 1", field("zdir", compactSize+8, 1, 0)},
		{"name offset 4092", field("zdir", compactSize+8, 0xFC, 0x0F)},
		{"name offset 65532", field("zdir", compactSize+8, 0xFC, 0xFF)},
		{"names overlap", field("dir", compactSize+direntSize+8, 1, 0)},
		{"slash", rename("dir", "sub", "s/b")},
		{"zero byte", rename("dir", "sub", "s\x00b")},
		{"dots in the wrong order", func(f forge) []byte {
			// ".", ".." and "sub" are packed as "...sub": move the border
			// between the first two.
			p := f.image[f.inode(t, "dir")+compactSize:]
			le.PutUint16(p[direntSize+8:], le.Uint16(p[8:])+2)
			return f.image
		}},
		{"unsorted", rename("dir", "sub", "zub")},
		{"double", rename("", "widezdir", "zdirzdir")},
		{"dot twice", rename("zdir", "...", "./.")},
		{"directory of size 0", field("zdir", 8, 0, 0, 0, 0)},
		{"directory of size 4 GiB", field("zdir", 8, 0xFF, 0xFF, 0xFF, 0xFF)},
		{"directory of size 30", field("zdir", 8, 30)},
		{"directory without dots", field("zdir", 8, 13)},
		{"directory in a file", field("zdir", 4, 0, 0x80)},
		{"root is a file", field("", 4, 0, 0x80)},
		{"plain directory outside", field("zdir", 0, 0, 0, 0, 0)},
		{"no type", field("zdir", 4, 0, 0)},

		{"huge directory", huge("wide/dir", 1<<64-1)},
		{"huge directory of blocks", func(f forge) []byte { f.image[f.inode(t, "wide/dir")] = 1; return huge("wide/dir", 1<<64-BlockSize)(f) }},
		{"huge file", huge("wide/file", 1<<64-1)},
		{"huge file of 2^63", huge("wide/file", 1<<63)},
		{"huge file of 2^62", huge("wide/file", 1<<62)},
		{"huge symlink", huge("wide/link", 1<<64-1)},
		{"huge symlink of blocks", func(f forge) []byte { f.image[f.inode(t, "wide/link")] = 1; return huge("wide/link", 1<<64-100)(f) }},
		{"huge FIFO", huge("wide/fifo", 1<<64-1)},
		{"cut off: extended inode", last(1, 0, 0x11FF, 0, 0)},
		{"cut off: chunk index", last(8, 0, 0x81FF, 5, chunkFormat)},
		{"cut off: inline target", last(4, 0, 0xA1FF, 5, 0)},
		{"cut off: attributes", last(0, 2, 0x11FF, 0, 0)},

		{"format bits", field("dir/x", 0, 8, 0x80)},
		{"unknown layout", field("dir/x", 0, 7<<1)},
		{"compressed", field("dir/x", 0, 1<<1)},
		{"flat file", field("dir/x", 0, 0)},
		{"extended file", field("dir/x", 0, 9)},
		{"chunk format", field("dir/x", 16, 0x20)},
		{"48-bit chunks", field("dir/x", 16, 0x7F)},
		{"block map", field("dir/x", 16, 0x1F)},
		{"file size 4 GiB", field("dir/x", 8, 0xFF, 0xFF, 0xFF, 0xFF)},
		{"no size", field("dir/x", 8, 0, 0, 0, 0)},
		{"symlink of size 0", field("dir/sub/link", 8, 0)},
		{"symlink leaves its block", field("dir/sub/link", 8, 0xFF, 0x0F)},
		{"long symlink", field("long", 8, 0, 0x10)},
		{"symlink of two blocks", field("long", 8, 1, 0x10)},
		{"symlink outside", field("long", 16, 0xFF, 0xFF, 0xFF, 0xFF)},
		{"symlink in the inodes", field("long", 16, 0, 0, 0, 0)},
		{"links", field("dir/x", 6, 2)},

		{"attributes: header only", field("dir/x", 2, 1, 0)},
		{"attributes: too many", field("dir/x", 2, 0xFF, 0xFF)},
		{"attributes: fewer", field("dir/x", 2, 2, 0)},
		{"attributes: shared", field("dir/x", compactSize+4, 255)},
		{"attributes: filter", field("dir/x", compactSize, 1)},
		{"attributes: name length", field("dir/x", compactSize+xattrHeader, 255)},
		{"attributes: no name", field("dir/x", compactSize+xattrHeader, 0)},
		{"attributes: prefix", field("dir/x", compactSize+xattrHeader+1, 5)},
		{"attributes: long prefix", field("dir/x", compactSize+xattrHeader+1, 0x81)},
		{"attributes: value length", field("dir/x", compactSize+xattrHeader+2, 0xFF, 0xFF)},
		{"attributes: unsorted", field("dir/x", compactSize+xattrHeader+4, 'z')},
		{"attributes: double", field("dir/x", compactSize+xattrHeader+4, 'b')},
		{"attributes: padding", field("dir/x", compactSize+xattrHeader+6, 1)},

		{"device of a chunk", func(f forge) []byte {
			f.image[alignUp(f.inode(t, "dir/sub/file")+compactSize, indexSize)+2] = 0
			return f.image
		}},
		{"chunk outside", func(f forge) []byte {
			le.PutUint32(f.image[alignUp(f.inode(t, "dir/sub/file")+compactSize, indexSize)+4:], 2)
			return f.image
		}},
		{"hole", func(f forge) []byte {
			le.PutUint32(f.image[alignUp(f.inode(t, "dir/sub/file")+compactSize, indexSize)+4:], 0xFFFFFFFF)
			return f.image
		}},
	}
}

func TestHostileImages(t *testing.T) {
	for _, a := range attacks(t) {
		f := small(t)
		good := bytes.Clone(f.image)
		image := a.do(f)
		if bytes.Equal(image, good) {
			t.Errorf("%s: the attack changes nothing", a.name)
		}
		t.Run(a.name, func(t *testing.T) { refuseCheaply(t, image) })
	}
}

// A chain of directories below the limits of the format but not of a tree.
func TestCheckRefusesDeepTrees(t *testing.T) {
	root := tree.NewDir(0o755)
	dir := root
	for range 100000 {
		next := tree.NewDir(0o755)
		if err := dir.Set("d", next); err != nil {
			t.Fatal(err)
		}
		dir = next
	}
	image := encodeUnchecked(t, root)
	for name, f := range map[string]func([]byte) (*tree.Node, uint64, error){"Check": Check, "Decode": Decode} {
		if _, _, err := f(image); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s() = %v, want invalid", name, err)
		}
	}
}

// Inodes at every place that claim the same large area behind them would make
// a reader copy it again and again.
func TestOverlapsCostNothing(t *testing.T) {
	root := tree.NewDir(0o755)
	const count = 2000
	xs := []tree.Xattr{{Name: "user.a"}}
	for i := range count {
		insert(t, root, fmt.Sprintf("%04d", i), &tree.Node{Mode: tree.FIFO, Xattrs: xs})
	}
	image := encodeUnchecked(t, root)
	const step = 64 // from inode to inode
	first := forge{image}.inode(t, "") + compactSize
	for le.Uint16(image[first+4:]) != uint16(tree.FIFO) {
		first += nidSize
	}
	for i := range count {
		at := first + i*step
		if le.Uint16(image[at+4:]) != uint16(tree.FIFO) {
			t.Fatalf("no inode at %d", at)
		}
		// Each attribute swallows the next inode, up to its attribute.
		le.PutUint16(image[at+2:], uint16(1+step/4*(count-i-1)+8/4))
		if i < count-1 {
			le.PutUint16(image[at+compactSize+xattrHeader+2:], step-5)
		}
	}
	refuseCheaply(t, image)
}

func refuseCheaply(t *testing.T, image []byte) {
	t.Helper()
	var err error
	used := allocated(func() { _, _, err = Check(image) })
	if !errors.Is(err, fault.Invalid) {
		t.Errorf("Check() = %v, want invalid", err)
	}
	if limit := uint64(1<<20 + 16*len(image)); used > limit {
		t.Errorf("Check used %d bytes for an image of %d, at most %d are allowed", used, len(image), limit)
	}
}

// Many directories that share their blocks would unfold to any size.
func TestSharedBlocksCostNothing(t *testing.T) {
	root := tree.NewDir(0o755)
	fifo := &tree.Node{Mode: tree.FIFO}
	const dirs, names = 200, 5000
	for i := range dirs {
		dir := insert(t, root, fmt.Sprintf("%04d", i), tree.NewDir(0o755))
		for j := range names {
			insert(t, dir, fmt.Sprintf("!%05d", j), fifo) // before "." and ".."
		}
	}
	image := encodeUnchecked(t, root)
	first := forge{image}.inode(t, "0000")
	size := le.Uint32(image[first+8:])
	if image[first] != layoutInline<<1 || size < 20*BlockSize {
		t.Fatalf("layout %d, %d bytes", image[first]>>1, size)
	}
	block := le.Uint32(image[first+16:])
	for at := first; at < int(block)*BlockSize; at += nidSize {
		if le.Uint32(image[at+8:]) == size && le.Uint16(image[at+4:]) == uint16(tree.Directory|0o755) {
			le.PutUint32(image[at+16:], block)
		}
	}
	refuseCheaply(t, image[:int(block)*BlockSize+int(blocksOf(int64(size)))*BlockSize])
}

// What protects readers is in Decode, not only in the comparison of Check.
func TestDecodeRefuses(t *testing.T) {
	refused := 0
	for _, a := range attacks(t) {
		switch {
		case strings.HasPrefix(a.name, "cycle"), strings.HasPrefix(a.name, "huge"), strings.HasPrefix(a.name, "cut off"),
			strings.HasSuffix(a.name, "outside") && !strings.HasPrefix(a.name, "chunk"),
			a.name == "two names of a directory", a.name == "backwards", a.name == "inside another inode", a.name == "symlink in the inodes":
			refused++
			if _, _, err := Decode(a.do(small(t))); !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), "canonical") {
				t.Errorf("%s: Decode() = %v, want invalid", a.name, err)
			}
		}
	}
	if refused < 20 {
		t.Errorf("only %d attacks were tried", refused)
	}
}

func FuzzCheck(f *testing.F) {
	root, blocks := sample()
	f.Add(mustEncode(f, root, blocks))
	empty := tree.NewDir(0o755)
	f.Add(mustEncode(f, empty, 0))
	for _, a := range attacks(f) {
		f.Add(a.do(small(f)))
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		var root *tree.Node
		var blocks uint64
		var err error
		used := allocated(func() { root, blocks, err = Check(image) })
		if limit := uint64(1<<20 + 64*len(image)); used > limit {
			t.Fatalf("Check used %d bytes for an image of %d", used, len(image))
		}
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("Check() = %v, want invalid", err)
			}
			if root, _, err := Decode(image); err == nil {
				if err := root.Check(); err != nil {
					t.Fatalf("Decode gave a bad tree: %v", err)
				}
			}
			return
		}
		if again, err := Encode(root, blocks); err != nil || !bytes.Equal(again, image) {
			t.Fatalf("an accepted image is not what Encode writes: %v", err)
		}
	})
}
