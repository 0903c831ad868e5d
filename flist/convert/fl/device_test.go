package fl

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/erofs"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

func openDevice(t *testing.T, file string, opts ReadOptions) *Device {
	t.Helper()
	d, err := OpenDevice(t.Context(), file, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

// flat is what the device must hold.
func flat(d *Device, want map[string]string) []byte {
	b := make([]byte, d.Size)
	for path, n := range d.Root.Walk() {
		if n.IsRegular() {
			copy(b[n.Offset:], want[path])
		}
	}
	return b
}

func TestDeviceHoldsEveryFile(t *testing.T) {
	root := tree.NewDir(0o755)
	want := map[string]string{"a": pattern(5000, 1), "b": "", "c": pattern(3*BlockSize+77, 2), "d/e": pattern(BlockSize, 3), "d/f": "x"}
	for path, c := range want {
		if err := root.Insert(path, regular(c)); err != nil {
			t.Fatal(err)
		}
	}
	file, _, _ := write(t, root, nil, WriteOptions{})
	d := openDevice(t, file, ReadOptions{})
	all := flat(d, want)
	got := make([]byte, d.Size)
	if err := d.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, all) {
		t.Errorf("ReadAt of everything: %v, equal %v", err, bytes.Equal(got, all))
	}
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.IntRange(0, len(all)).Draw(t, "off")
		p := bytes.Repeat([]byte{0xee}, rapid.IntRange(0, min(len(all)-off, 1<<16)).Draw(t, "len"))
		if err := d.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p, all[off:off+len(p)]) {
			t.Fatalf("ReadAt(%d, %d) differs, %v", off, len(p), err)
		}
	})
	for _, off := range []int64{-1, d.Size, d.Size + 1} {
		if err := d.ReadAt(t.Context(), make([]byte, 1), off); !errors.Is(err, fault.Invalid) {
			t.Errorf("ReadAt(%d) = %v, want invalid", off, err)
		}
	}
	// The layout is one that images have, and the same every time.
	meta, err := erofs.Encode(d.Root, uint64(d.Size/4096))
	if err != nil {
		t.Fatal(err)
	}
	again, err := erofs.Encode(openDevice(t, file, ReadOptions{}).Root, uint64(d.Size/4096))
	if err != nil || !bytes.Equal(meta, again) {
		t.Errorf("the layout differs from one time to the next (%v)", err)
	}
}

// Blocks that rfs cut short are found by their real lengths.
func TestDeviceOfIrregularFiles(t *testing.T) {
	f := sample(t)
	// As many blocks as a regular file of this size has, but the first is short.
	a, b := pattern(300<<10, 1), pattern(BlockSize, 2)
	f.inode(20, 1, "tricky", 0o100644, int64(len(a)+len(b)))
	f.block(20, []byte(a))
	f.block(20, []byte(b))
	d := openDevice(t, f.file, ReadOptions{})
	all := flat(d, map[string]string{"etc/grüße": "hello\n", "etc/hostname": "zos\n", "sudo": "0123456789", "tricky": a + b})
	for _, step := range []int{1 << 20, 100_000, 4096} {
		for off := 0; off < len(all); off += step {
			p := make([]byte, min(step, len(all)-off))
			if err := d.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p, all[off:off+len(p)]) {
				t.Fatalf("ReadAt(%d, %d): %v or other bytes", off, len(p), err)
			}
		}
	}
	f.exec("update inode set size = 11 where ino = 10")
	d = openDevice(t, f.file, ReadOptions{})
	err := d.ReadAt(t.Context(), make([]byte, 4), d.Root.At("sudo").Offset)
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `inode 10 "/sudo" block 1`) {
		t.Errorf("ReadAt of a file with a wrong size = %v, want invalid with the place", err)
	}
}

// A block is asked for once, however many want it, and kept on disk.
func TestDeviceCaches(t *testing.T) {
	f := sample(t)
	url, asked := server(t, http.FileServer(http.Dir(f.store)))
	cache := t.TempDir() + "/cache"
	opts := ReadOptions{Stores: []string{url}, CacheDir: cache}
	d := openDevice(t, f.file, opts)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			p := make([]byte, 4)
			if err := d.ReadAt(t.Context(), p, d.Root.At("etc/hostname").Offset); err != nil || string(p) != "zos\n" {
				t.Errorf("ReadAt = %q, %v", p, err)
			}
		})
	}
	wg.Wait()
	if n := len(asked()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	d = openDevice(t, f.file, opts)
	p := make([]byte, 4)
	if err := d.ReadAt(t.Context(), p, d.Root.At("etc/hostname").Offset); err != nil || string(p) != "zos\n" {
		t.Errorf("ReadAt = %q, %v", p, err)
	}
	if n := len(asked()); n != 0 {
		t.Errorf("%d requests for a block that the cache has, want 0", n)
	}
	// A damaged copy in the cache costs a fetch and is put right.
	_, id, _ := sealByHand([]byte("zos\n"))
	path := cache + "/" + store.ID(id).String()[:2] + "/" + store.ID(id).String()
	if err := os.WriteFile(path, []byte("bad"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		res := read(t, f.file, opts)
		if got := fileBytes(t, res.Root, "etc/hostname"); got != "zos\n" {
			t.Errorf("hostname = %q", got)
		}
		if n := len(asked()); n != want {
			t.Errorf("%d requests, want %d", n, want)
		}
	}
	if _, err := Read(t.Context(), f.file, ReadOptions{CacheDir: f.file}); err == nil {
		t.Error("a file was taken as the cache")
	}
}

// A store that fails once does not fail for ever, and a closed device ends.
func TestDeviceRecovers(t *testing.T) {
	f := sample(t)
	d := openDevice(t, f.file, ReadOptions{})
	_, id, _ := sealByHand([]byte("zos\n"))
	name := f.store + "/" + store.ID(id).String()[:2] + "/" + store.ID(id).String()
	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	off := d.Root.At("etc/hostname").Offset
	if err := d.ReadAt(t.Context(), p, off); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), `"/etc/hostname" block 0`) {
		t.Errorf("ReadAt = %v, want not found with the place", err)
	}
	if err := os.Rename(name+".away", name); err != nil {
		t.Fatal(err)
	}
	if err := d.ReadAt(t.Context(), p, off); err != nil || string(p) != "zos\n" {
		t.Errorf("ReadAt = %q, %v", p, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.ReadAt(t.Context(), p, d.Root.At("sudo").Offset); !errors.Is(err, fault.Unavailable) {
		t.Errorf("ReadAt after Close = %v, want unavailable", err)
	}
}

// The memory of a device is bounded.
func TestBlockCacheForgets(t *testing.T) {
	root := tree.NewDir(0o755)
	const blocks = blockCacheSize/BlockSize + 10
	c := make([]byte, blocks*BlockSize)
	for i := range blocks {
		c[i*BlockSize] = byte(i + 1)
	}
	if err := root.Insert("f", regular(string(c))); err != nil {
		t.Fatal(err)
	}
	file, _, _ := write(t, root, nil, WriteOptions{})
	d := openDevice(t, file, ReadOptions{})
	for range 2 {
		for i := range blocks {
			p := make([]byte, 1)
			if err := d.ReadAt(t.Context(), p, int64(i)*BlockSize); err != nil || p[0] != byte(i+1) {
				t.Fatalf("block %d starts with %d, %v", i, p[0], err)
			}
		}
	}
	d.blocks.wg.Wait()
	if d.blocks.size > blockCacheSize || len(d.blocks.items) != blockCacheSize/BlockSize || d.blocks.order.Len() != len(d.blocks.items) {
		t.Errorf("the cache holds %d bytes in %d blocks, %d are allowed", d.blocks.size, len(d.blocks.items), blockCacheSize)
	}
}
