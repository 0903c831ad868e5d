package block_test

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"zos.internal/block"
)

// corpus is up to n bytes of real files: the sources and programs of the Go
// toolchain that runs the test.
func corpus(b *testing.B, n int) []byte {
	b.Helper()
	var data []byte
	for _, pattern := range []string{"bin/go", "src/runtime/*.go", "src/net/http/*.go", "pkg/tool/*/compile"} {
		files, _ := filepath.Glob(filepath.Join(runtime.GOROOT(), pattern))
		for _, f := range files {
			p, err := os.ReadFile(f)
			if err == nil {
				data = append(data, p...)
			}
		}
	}
	if len(data) < 1<<20 {
		b.Skip("the Go toolchain has no files to read")
	}
	return data[:min(len(data), n)]
}

// BenchmarkIngest compares all that happens to content on its way into a pack
// with its compression alone, in one process on one goroutine.
func BenchmarkIngest(b *testing.B) {
	data := corpus(b, 32<<20)
	chunks := func(f func(plain []byte)) {
		for rest := data; len(rest) > 0; {
			n := block.Image.Cut(rest)
			f(rest[:n])
			rest = rest[n:]
		}
	}
	b.Run("zstd alone", func(b *testing.B) {
		zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
		if err != nil {
			b.Fatal(err)
		}
		var parts [][]byte
		chunks(func(p []byte) { parts = append(parts, p) })
		var out []byte
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for _, p := range parts {
				out = zw.EncodeAll(p, out[:0])
			}
		}
	})
	b.Run("cut name encode pack", func(b *testing.B) {
		enc := block.NewEncoder(block.Zstd)
		var bodies, size int64
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			bodies, size = 0, 0
			w := block.NewPackWriter(io.Discard)
			flush := func() {
				_, n, es, err := w.Close()
				if err != nil {
					b.Fatal(err)
				}
				last := es[len(es)-1]
				bodies, size = bodies+last.Off+int64(last.Stored), size+n
				w = block.NewPackWriter(io.Discard)
			}
			chunks(func(p []byte) {
				n := block.Sum(p)
				e, body := enc.Encode(p)
				if err := w.Add(n, e, len(p), body); err != nil {
					b.Fatal(err)
				}
				if w.Full() {
					flush()
				}
			})
			flush()
		}
		b.ReportMetric(100*float64(size-bodies)/float64(bodies), "%overhead")
	})
}

func BenchmarkEncode(b *testing.B) {
	data := corpus(b, 8<<20)
	for name, e := range map[string]byte{"zstd": block.Zstd, "s2": block.S2} {
		b.Run(name, func(b *testing.B) {
			enc := block.NewEncoder(e)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				for rest := data; len(rest) > 0; {
					n := block.Image.Cut(rest)
					enc.Encode(rest[:n])
					rest = rest[n:]
				}
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	dom := block.NewDomain([32]byte{1})
	body := make([]byte, 64<<10)
	name := dom.Name(body)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		dom.Seal(name, block.Raw, len(body), body)
	}
}

// BenchmarkGet reads a pack of 16 MiB through a PackGetter, decoded and checked.
func BenchmarkGet(b *testing.B) {
	data := corpus(b, 32<<20)
	var plains [][]byte
	for rest := data; len(rest) > 0; {
		n := block.Image.Cut(rest)
		plains = append(plains, rest[:n])
		rest = rest[n:]
	}
	mem := new(block.Mem)
	names, places := packs(b, mem, block.Domain{}, plains, block.PackTarget)
	g := block.NewPackGetter(block.NewMirrors(nil, block.Source{Name: "mem", Bucket: mem}), "p/", block.Domain{}, lookup(places))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for _, err := range g.Get(b.Context(), names) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
