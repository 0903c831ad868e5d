package fetch

import (
	"math/rand/v2"
	"testing"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist/chunkmap"
)

const benchChunks, benchSize = 4096, 64 << 10

// benchImage is the device map of a cached image.
func benchImage(b *testing.B) (*cache.Cache, *chunkmap.View) {
	c, err := cache.Open(b.TempDir(), cache.Options{FreeFloor: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	m := &chunkmap.Map{}
	for i := range benchChunks {
		plain := data(i, benchSize)
		name := block.Sum(plain)
		if err := c.Put(b.Context(), block.Domain{}, name, plain); err != nil {
			b.Fatal(err)
		}
		m.Chunks = append(m.Chunks, chunkmap.Chunk{Name: name, Plain: benchSize})
		m.Extents = append(m.Extents, chunkmap.Extent{Off: uint64(i * benchSize), Len: benchSize, Chunk: uint32(i)})
	}
	if err := c.Flush(); err != nil {
		b.Fatal(err)
	}
	v, err := chunkmap.NewView(m.Encode(), benchChunks*benchSize)
	if err != nil {
		b.Fatal(err)
	}
	return c, v
}

// BenchmarkColdSequential reads a cached image in order, as the kernel does,
// with direct I/O, and checks every chunk anew. Compare with ColdFile of
// block/cache.
func BenchmarkColdSequential(b *testing.B) {
	c, v := benchImage(b)
	p := make([]byte, 128<<10)
	b.SetBytes(benchChunks * benchSize)
	b.ReportAllocs()
	s := NewScheduler(SchedulerOptions{})
	for b.Loop() {
		c.Distrust()
		d, err := New(v, benchChunks*benchSize, c, nil, Options{Image: "bench", Scheduler: s})
		if err != nil {
			b.Fatal(err)
		}
		for off := int64(0); off < benchChunks*benchSize; off += int64(len(p)) {
			if err := d.ReadAt(b.Context(), p, off); err != nil {
				b.Fatal(err)
			}
		}
		d.Close()
	}
}

// BenchmarkColdRandom reads one page of a chunk that was not read since Open:
// what a cold page fault costs above the kernel.
func BenchmarkColdRandom(b *testing.B) {
	c, v := benchImage(b)
	d, err := New(v, benchChunks*benchSize, c, nil, Options{Image: "bench", Scheduler: NewScheduler(SchedulerOptions{MemoryBytes: 8 << 20})})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	order := rand.New(rand.NewPCG(1, 2)).Perm(benchChunks)
	p := make([]byte, 4<<10)
	before := c.Stat()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i%len(order) == 0 {
			c.Distrust()
		}
		if err := d.ReadAt(b.Context(), p, int64(order[i%len(order)]*benchSize+i%16*4096)); err != nil {
			b.Fatal(err)
		}
		i++
	}
	after := c.Stat()
	b.ReportMetric(float64(after.ReadCalls-before.ReadCalls)/float64(i), "preads/op")
	b.ReportMetric(float64(after.ReadBytes-before.ReadBytes)/float64(i), "read-B/op")
}
