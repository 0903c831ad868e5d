package cache

import (
	"os"
	"testing"

	"zos.internal/block"
)

// BenchmarkColdLoad reads chunks in order that were not read since Open, with
// direct I/O and verification.
func BenchmarkColdLoad(b *testing.B) {
	dir := b.TempDir()
	c := open(b, dir, Options{})
	const n, size = 4096, 64 << 10
	var names []block.Name
	for i := range n {
		names = append(names, put(b, c, block.Domain{}, data(i, size))...)
	}
	if err := c.Flush(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(n * size)
	for b.Loop() {
		c.Distrust()
		for i := 0; i < n; i += 64 {
			for _, l := range c.Load(b.Context(), block.Domain{}, names[i:i+64]) {
				if l.Data == nil {
					b.Fatal("a chunk is missing")
				}
				l.Release()
			}
		}
	}
	if !c.Stat().Direct {
		b.Log("the file system refuses direct I/O")
	}
}

// BenchmarkColdFile is the peer: the same bytes from one file, dropped from the
// page cache before.
func BenchmarkColdFile(b *testing.B) {
	path := b.TempDir() + "/file"
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const n, size = 4096, 64 << 10
	for i := range n {
		if _, err := f.Write(data(i, size)); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 128<<10)
	b.SetBytes(n * size)
	for b.Loop() {
		b.StopTimer()
		forget(b, f)
		b.StartTimer()
		for off := int64(0); off < n*size; off += int64(len(buf)) {
			if _, err := f.ReadAt(buf, off); err != nil {
				b.Fatal(err)
			}
		}
	}
}
