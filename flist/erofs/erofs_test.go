package erofs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lukechampine.com/blake3"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

var update = flag.Bool("update", false, "write the golden image")

func mustEncode(tb testing.TB, root *tree.Node, blocks uint64) []byte {
	tb.Helper()
	image, err := Encode(root, blocks)
	if err != nil {
		tb.Fatal(err)
	}
	return image
}

func TestNastyRoundTrip(t *testing.T) {
	root := nasty(t, 5000)
	blocks := layOut(root)
	image := mustEncode(t, root, blocks)
	got, device, err := Check(image)
	if err != nil {
		t.Fatal(err)
	}
	if device != blocks {
		t.Errorf("device of %d blocks, want %d", device, blocks)
	}
	if err := same(root, got); err != nil {
		t.Error(err)
	}
}

// sample is the small tree of the golden vector; docs/reference/metadata.md
// lists it. Never change it.
func sample() (*tree.Node, uint64) {
	at := func(mode uint32, sec int64, nsec uint32) *tree.Node {
		return &tree.Node{Mode: mode, Mtime: sec, Nsec: nsec}
	}
	const built, nsec = 1700000000, 500000000
	root := at(tree.Directory|0o755, built, nsec)
	set := func(dir *tree.Node, name string, n *tree.Node) *tree.Node {
		if err := dir.Set(name, n); err != nil {
			panic(err)
		}
		return n
	}
	etc := set(root, "etc", at(tree.Directory|0o755, built, nsec))
	host := set(etc, "hostname", at(tree.Regular|0o644, built, nsec))
	host.Size, host.Offset = 4, 0
	set(etc, "empty", at(tree.Regular|0o600, -1, 999999999))
	bin := set(root, "bin", at(tree.Directory|0o1777, built, nsec))
	bin.UID, bin.GID = 1000, 70000
	ping := set(bin, "ping", at(tree.Regular|0o4755, built, nsec))
	ping.Size, ping.Offset = 9000, 4096
	ping.Xattrs = []tree.Xattr{
		{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{Name: "system.posix_acl_access", Value: "\x02\x00\x00\x00"},
		{Name: "trusted.t", Value: ""},
		{Name: "user.colour", Value: "blue"},
	}
	set(root, "gnip", ping)
	set(root, "big", at(tree.Regular|0o644, built, nsec)).Size = 9 << 40
	root.Lookup("big").Offset = 16384
	set(root, "link", at(tree.Symlink|0o777, built, nsec)).Target = "bin/ping"
	set(root, "long", at(tree.Symlink|0o777, 1, 2)).Target = strings.Repeat("0123456789abcde/", 256)[:4095]
	dev := set(root, "-dev", at(tree.Directory|0o755, built, nsec))
	null := set(dev, "null", at(tree.Char|0o666, built, nsec))
	null.Major, null.Minor = 1, 3
	disk := set(dev, "disk", at(tree.Block|0o660, built, nsec))
	disk.Major, disk.Minor = 259, 1048575
	set(dev, "fifo", at(tree.FIFO|0o600, built, nsec))
	set(dev, "sock", at(tree.Socket|0o700, built, nsec))
	set(root, "\xff\x01", at(tree.Directory|0o700, built, nsec))
	return root, 1 << 32 * 3 / 4
}

const (
	goldenFile = "testdata/golden.erofs"
	goldenHash = "38817575d3c03c09c9f80fc34235c6ad59a24fc8355cf3f5a57ba2e90b70ea36"
)

// The image of borders; docs/reference/metadata.md describes the tree.
const (
	bordersSize = 14290944
	bordersHash = "2073d32b2bb253a67da35b9d01cb360c5f34407a099284cb6d9ced9d655905a0"
)

func TestGoldenImage(t *testing.T) {
	root, blocks := sample()
	image := mustEncode(t, root, blocks)
	if *update {
		if err := os.MkdirAll(filepath.Dir(goldenFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenFile, image, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(image) != string(want) {
		t.Errorf("the image of the sample tree changed: %s", difference(image, want))
	}
	sum := blake3.Sum256(want)
	if got := hex.EncodeToString(sum[:]); got != goldenHash {
		t.Errorf("the golden image has the hash %s, want %s", got, goldenHash)
	}
	got, device, err := Check(want)
	if err != nil {
		t.Fatal(err)
	}
	if device != blocks {
		t.Errorf("device of %d blocks, want %d", device, blocks)
	}
	if err := same(root, got); err != nil {
		t.Error(err)
	}
}

// A changed byte is found, or it is the image of another tree: no byte is free.
// That the tree is the right one is for the hash in the root of the image.
func TestCheckFindsEveryFlip(t *testing.T) {
	root, blocks := sample()
	image := mustEncode(t, root, blocks)
	found, all := 0, 0
	text := bytes.Index(image, []byte(root.Lookup("long").Target))
	for i := range image {
		if i > text && i < text+tree.MaxTarget-1 && i%64 != 0 {
			continue // the middle of a link target may be anything but zero
		}
		all++
		for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			image[i] ^= mask
			got, device, err := Check(image)
			switch {
			case errors.Is(err, fault.Invalid):
				found++
			case err != nil:
				t.Fatalf("byte %d ^ %#x: Check() = %v, want invalid", i, mask, err)
			case device == blocks && same(root, got) == nil:
				t.Fatalf("byte %d ^ %#x: Check accepts a second image of one tree", i, mask)
			}
			image[i] ^= mask
		}
	}
	// What may change are times, owners, permissions, names, places and
	// values: a small part of the sample.
	if found < all*9*8/10 {
		t.Errorf("%d of %d changes were found", found, all*9)
	}
	for n := range len(image) { // every shorter image
		if _, _, err := Check(image[:n]); !errors.Is(err, fault.Invalid) {
			t.Fatalf("cut to %d bytes: Check() = %v, want invalid", n, err)
		}
	}
	for _, n := range []int{1, 32, BlockSize, 10 * BlockSize} {
		if _, _, err := Check(append(image[:len(image):len(image)], make([]byte, n)...)); !errors.Is(err, fault.Invalid) {
			t.Fatalf("%d bytes more: Check() = %v, want invalid", n, err)
		}
	}
	if _, _, err := Check(image); err != nil {
		t.Fatal(err)
	}
}

// borders is the tree of the second vector: everything that may just fit.
func borders() *tree.Node {
	root := &tree.Node{Mode: tree.Directory | 0o755}
	set := func(dir *tree.Node, name string, n *tree.Node) *tree.Node {
		if err := dir.Set(name, n); err != nil {
			panic(err)
		}
		return n
	}
	for n := 1; n <= tree.MaxTarget; n++ {
		set(root, fmt.Sprintf("s%04d", n), &tree.Node{Mode: tree.Symlink | 0o777, Target: strings.Repeat("x", n)})
	}
	fifo := &tree.Node{Mode: tree.FIFO | 0o600}
	for n := range 600 {
		dir := set(root, fmt.Sprintf("d%03d", n), tree.NewDir(0o700))
		for k := range n {
			set(dir, fmt.Sprintf("%04d", k), fifo)
		}
	}
	full := set(root, "full", tree.NewDir(0o700))
	for k := range 253 {
		set(full, fmt.Sprintf("%04d", k), fifo)
	}
	set(full, "zzzzzzzzz", fifo) // fills the block
	set(full, "zzzzzzzzzz", fifo)
	return root
}

func TestBorders(t *testing.T) {
	root := borders()
	image := mustEncode(t, root, 0)
	sum := blake3.Sum256(image)
	if got := hex.EncodeToString(sum[:]); len(image) != bordersSize || got != bordersHash {
		t.Errorf("the image has %d bytes and the hash %s, want %d and %s", len(image), got, bordersSize, bordersHash)
	}
	if got := listDir(root.Lookup("full").Entries).size(); got != BlockSize+direntSize+10 {
		t.Errorf("the directory of one full block and one entry has %d bytes", got)
	}
	got, _, err := Check(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := same(root, got); err != nil {
		t.Error(err)
	}
}

func TestBuildTime(t *testing.T) {
	for _, tt := range []struct {
		times []stamp // of the root and its entries
		want  stamp
	}{
		{[]stamp{{5, 1}}, stamp{5, 1}},
		{[]stamp{{5, 1}, {3, 9}}, stamp{3, 9}},
		{[]stamp{{5, 2}, {5, 1}}, stamp{5, 1}},
		{[]stamp{{0, 0}, {-1, 7}}, stamp{-1, 7}},
		{[]stamp{{1, 0}, {2, 0}, {3, 0}, {3, 0}}, stamp{3, 0}},
		{[]stamp{{1, 0}, {1, 0}, {-2, 5}, {3, 0}, {-2, 5}}, stamp{-2, 5}},
	} {
		root := tree.NewDir(0o755)
		for i, s := range tt.times {
			n := root
			if i > 0 {
				n = insert(t, root, fmt.Sprint(i), &tree.Node{Mode: tree.FIFO})
			}
			n.Mtime, n.Nsec = s.sec, s.nsec
		}
		image := mustEncode(t, root, 0)[superOffset:]
		if got := (stamp{int64(le.Uint64(image[24:])), le.Uint32(image[32:])}); got != tt.want {
			t.Errorf("times %v: build time %v, want %v", tt.times, got, tt.want)
		}
	}
}

// wideRoot is a root directory of n names. A large one does not fit behind
// the superblock.
func wideRoot(n int) *tree.Node {
	root := &tree.Node{Mode: tree.Directory | 0o755}
	fifo := &tree.Node{Mode: tree.FIFO | 0o600}
	for k := range n {
		if err := root.Set(fmt.Sprintf("%03d", k), fifo); err != nil {
			panic(err)
		}
	}
	return root
}

func TestRootOfEverySize(t *testing.T) {
	moved := 0
	for n := range 600 {
		root := wideRoot(n)
		image := mustEncode(t, root, 0)
		got, _, err := Check(image)
		if err != nil {
			t.Fatalf("%d names: %v", n, err)
		}
		if err := same(root, got); err != nil {
			t.Fatalf("%d names: %v", n, err)
		}
		if le.Uint16(image[superOffset+14:]) != inodesOffset/nidSize {
			moved++
		}
	}
	if moved == 0 {
		t.Error("no root was too large for the first block")
	}
}

func TestCheckSaysWhere(t *testing.T) {
	root, blocks := sample()
	image := mustEncode(t, root, blocks)
	for _, tt := range []struct {
		at   int
		want string
	}{
		{7, "byte 7 (empty space before the superblock) is 0x01, not 0x00"},
		{superOffset + 17, "byte 1041 (superblock)"},
		{slotOffset + 3, "byte 1155 (device slot)"},
		{inodesOffset + 20, "byte 1300 (inodes and blocks)"},
	} {
		image[tt.at] ^= 1
		if _, _, err := Check(image); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("byte %d: Check() = %v, want %q", tt.at, err, tt.want)
		}
		image[tt.at] ^= 1
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		node   *tree.Node
		blocks uint64
		kind   fault.Kind
		want   string
	}{
		{"outside", &tree.Node{Mode: tree.Regular, Size: 4097, Offset: 4096}, 2, fault.Invalid, `"d/outside": 4097 bytes at 4096 are not inside`},
		{"far", &tree.Node{Mode: tree.Regular, Size: 1, Offset: 1<<63 - 4096}, 2, fault.Invalid, "are not inside"},
		{"vast", &tree.Node{Mode: tree.Regular, Size: 1<<63 - 1}, 2, fault.Invalid, "are not inside"},
		{"odd", &tree.Node{Mode: tree.Regular, Size: 1, Offset: 512}, 2, fault.Invalid, `"d/odd": its offset 512`},
		{"negative", &tree.Node{Mode: tree.Regular, Size: 1, Offset: -4096}, 2, fault.Invalid, "offset -4096"},
		{"device", &tree.Node{Mode: tree.Regular}, 1 << 32, fault.Exhausted, "4294967296 blocks is too large"},
		{"mode", &tree.Node{Mode: tree.Regular | 1<<16}, 2, fault.Invalid, "16 bits"},
		{"nsec", &tree.Node{Mode: tree.Regular, Nsec: 1e9}, 2, fault.Invalid, `"d/nsec"`},
		{"type", &tree.Node{Mode: 0o644}, 2, fault.Invalid, `"d/type"`},
		{"link", &tree.Node{Mode: tree.Symlink, Target: strings.Repeat("x", 4096)}, 2, fault.Invalid, `"d/link"`},
		{"x1", &tree.Node{Mode: tree.Regular, Xattrs: []tree.Xattr{{Name: "btrfs.compression"}}}, 2, fault.Unsupported, `"d/x1": the attribute "btrfs.compression"`},
		{"x2", &tree.Node{Mode: tree.Regular, Xattrs: []tree.Xattr{{Name: "user."}}}, 2, fault.Unsupported, `"user."`},
		{"x3", &tree.Node{Mode: tree.Regular, Xattrs: []tree.Xattr{{Name: "system.posix_acl_accessx"}}}, 2, fault.Unsupported, "posix_acl_accessx"},
	} {
		root := tree.NewDir(0o755)
		insert(t, root, "d/"+tt.name, tt.node)
		_, err := Encode(root, tt.blocks)
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Encode() = %v, want %q and %v", tt.name, err, tt.want, tt.kind)
		}
	}
}

// A tree whose metadata are too large is refused before memory is used.
func TestEncodeLimitsTheImage(t *testing.T) {
	root := tree.NewDir(0o755)
	xs := []tree.Xattr{{Name: "user.x", Value: strings.Repeat("x", 65000)}}
	for i := range 1<<30/65000 + 1 {
		insert(t, root, fmt.Sprint(i), &tree.Node{Mode: tree.FIFO, Xattrs: xs})
	}
	var err error
	used := allocated(func() { _, err = Encode(root, 0) })
	if !errors.Is(err, fault.Exhausted) {
		t.Errorf("Encode() = %v, want exhausted", err)
	}
	if used > 64<<20 {
		t.Errorf("Encode used %d bytes to refuse the tree", used)
	}
}

// More names than 16 bits count need an extended inode.
func TestManyLinks(t *testing.T) {
	root := tree.NewDir(0o755)
	n := &tree.Node{Mode: tree.FIFO | 0o600}
	for i := range 70000 {
		insert(t, root, fmt.Sprintf("l/%05d", i), n)
	}
	for i := range 65534 {
		insert(t, root, fmt.Sprintf("d/%05d", i), tree.NewDir(0o700))
	}
	image := mustEncode(t, root, 0)
	got, _, err := Check(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := same(root, got); err != nil {
		t.Error(err)
	}
	f := forge{image}
	d := f.inode(t, "d")
	if got := le.Uint32(image[d+44:]); image[d]&1 != 1 || got != 65536 {
		t.Errorf("d has format %d and %d links, want an extended inode and 65536", image[d], got)
	}
	fifo := 0
	for at := d; at < len(image); at += nidSize {
		if le.Uint16(image[at+4:]) == uint16(n.Mode) && le.Uint32(image[at+44:]) == 70000 {
			fifo++
		}
	}
	if fifo != 1 {
		t.Errorf("%d FIFOs with 70000 links, want 1", fifo)
	}
}
