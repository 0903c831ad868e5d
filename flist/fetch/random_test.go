package fetch

import (
	"bytes"
	"testing"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
)

// TestColdRandomReadOfALargeFileReadsAPieceOfItsChunk counts the calls, bytes
// and allocations of a read of 4 KiB that nothing was read of before.
func TestColdRandomReadOfALargeFileReadsAPieceOfItsChunk(t *testing.T) {
	im := oneFile(t, 8)
	c := openCache(t)
	readAll(t, open(t, im, c, im.source(), Options{}), im, 1<<20)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c.Distrust()
	d := open(t, im, c, nil, Options{})
	p := make([]byte, 4096)
	before := c.Stat()
	const reads = 20
	for i := range reads {
		off := int64(i*31%128)<<16 + 20<<10
		if err := d.ReadAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, im.bytes[off:off+4096]) {
			t.Fatalf("wrong bytes at %d", off)
		}
	}
	s := c.Stat()
	if calls, read, groups := s.ReadCalls-before.ReadCalls, s.ReadBytes-before.ReadBytes, s.Groups-before.Groups; calls != reads || read != reads*16<<10 || groups != reads || s.Verified != before.Verified {
		t.Errorf("%d reads made %d calls for %d bytes and checked %d pieces and %d whole chunks, want %d, %d, %d and 0",
			reads, calls, read, groups, s.Verified-before.Verified, reads, reads*16<<10, reads)
	}
	i := 0
	if n := testing.AllocsPerRun(40, func() {
		i++
		if err := d.ReadAt(t.Context(), p, int64((i*47+21)%128)<<16); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("a cold random read allocates %v times, want at most 2", n)
	}
}

// packed is an image of small files that lie in one chunk.
func packed(t testing.TB) *image {
	t.Helper()
	const files, size, apart = 10, 6000, 8192
	plain := data(1, files*size)
	im := &image{chunks: map[block.Name][]byte{block.Sum(plain): plain}}
	im.m.Chunks = []chunkmap.Chunk{{Name: block.Sum(plain), Plain: uint32(len(plain))}}
	im.bytes = make([]byte, files*apart)
	for i := range files {
		copy(im.bytes[i*apart:], plain[i*size:][:size])
		im.m.Extents = append(im.m.Extents, chunkmap.Extent{Off: uint64(i * apart), Len: size, In: uint32(i * size)})
	}
	var err error
	if im.view, err = chunkmap.NewView(im.m.Encode(), uint64(len(im.bytes))); err != nil {
		t.Fatal(err)
	}
	return im
}

// TestColdReadOfSmallFilesLoadsTheirChunk: what lies beside a small file is
// wanted next, so its chunk is loaded and checked once.
func TestColdReadOfSmallFilesLoadsTheirChunk(t *testing.T) {
	im := packed(t)
	c := openCache(t)
	readAll(t, open(t, im, c, im.source(), Options{}), im, 1<<20)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c.Distrust()
	d := open(t, im, c, nil, Options{})
	p := make([]byte, 4096)
	before := c.Stat()
	for _, i := range []int{5, 2, 8, 0} {
		if err := d.ReadAt(t.Context(), p, int64(i)*8192); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, im.bytes[i*8192:][:4096]) {
			t.Fatalf("wrong bytes of file %d", i)
		}
	}
	if s := c.Stat(); s.Groups != before.Groups || s.Verified-before.Verified != 1 || s.ReadCalls-before.ReadCalls != 1 {
		t.Errorf("4 small files of a chunk cost %d pieces, %d chunks and %d calls, want 0, 1 and 1",
			s.Groups-before.Groups, s.Verified-before.Verified, s.ReadCalls-before.ReadCalls)
	}
}
