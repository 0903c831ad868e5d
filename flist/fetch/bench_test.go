package fetch

import (
	"testing"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist/chunkmap"
)

// BenchmarkColdSequential reads a cached image in order, as the kernel does,
// with direct I/O, and checks every chunk anew. Compare with ColdFile of
// block/cache.
func BenchmarkColdSequential(b *testing.B) {
	c, err := cache.Open(b.TempDir(), cache.Options{FreeFloor: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	const n, size = 4096, 64 << 10
	m := &chunkmap.Map{}
	for i := range n {
		plain := data(i, size)
		name := block.Sum(plain)
		if err := c.Put(b.Context(), block.Domain{}, name, plain); err != nil {
			b.Fatal(err)
		}
		m.Chunks = append(m.Chunks, chunkmap.Chunk{Name: name, Plain: size})
		m.Extents = append(m.Extents, chunkmap.Extent{Off: uint64(i * size), Len: size, Chunk: uint32(i)})
	}
	if err := c.Flush(); err != nil {
		b.Fatal(err)
	}
	v, err := chunkmap.NewView(m.Encode(), n*size)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 128<<10)
	b.SetBytes(n * size)
	b.ReportAllocs()
	s := NewScheduler(SchedulerOptions{})
	for b.Loop() {
		c.Distrust()
		d, err := New(v, n*size, c, nil, Options{Image: "bench", Scheduler: s})
		if err != nil {
			b.Fatal(err)
		}
		for off := int64(0); off < n*size; off += int64(len(p)) {
			if err := d.ReadAt(b.Context(), p, off); err != nil {
				b.Fatal(err)
			}
		}
		d.Close()
	}
}
