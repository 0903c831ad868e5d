package block_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"zos.internal/block"
)

// corpus is up to n bytes of real files: the sources and programs of the Go
// toolchain that runs the test.
func corpus(b *testing.B, n int) []byte {
	b.Helper()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Skipf("the go command doesn't say where it is: %v", err)
	}
	var data []byte
	for _, pattern := range []string{"bin/go", "src/runtime/*.go", "src/net/http/*.go", "pkg/tool/*/compile"} {
		files, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(goroot)), pattern))
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
// with its compression alone: zstd at its default level, with its default options
// and with those of Encoder. The three take turns in one process, and processor
// time is what counts, so that other load shows little. The ratios are reported
// as rates of the whole against each; more is better.
func BenchmarkIngest(b *testing.B) {
	data := corpus(b, 32<<20)
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		b.Fatal(err)
	}
	enc := block.NewEncoder(block.Zstd)
	var parts [][]byte
	for rest := data; len(rest) > 0; {
		n := block.Image.Cut(rest)
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	var out []byte
	plain := func() {
		for _, p := range parts {
			out = zw.EncodeAll(p, out[:0])
		}
	}
	encode := func() {
		for _, p := range parts {
			enc.Encode(p)
		}
	}
	var bodies, size int64
	ingest := func() {
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
		for rest := data; len(rest) > 0; {
			p := rest[:block.Image.Cut(rest)]
			rest = rest[len(p):]
			e, body := enc.Encode(p)
			if err := w.Add(block.Sum(p), e, len(p), body); err != nil {
				b.Fatal(err)
			}
			if w.Full() {
				flush()
			}
		}
		flush()
	}
	var spent [3]time.Duration
	for b.Loop() {
		for i, f := range []func(){plain, encode, ingest} {
			begin := processorTime()
			f()
			spent[i] += processorTime() - begin
		}
	}
	rate := func(d time.Duration) float64 { return float64(b.N*len(data)) / 1e6 / d.Seconds() }
	b.ReportMetric(rate(spent[0]), "zstd-MB/s")
	b.ReportMetric(rate(spent[1]), "encoder-MB/s")
	b.ReportMetric(rate(spent[2]), "ingest-MB/s")
	b.ReportMetric(rate(spent[2])/rate(spent[0]), "of-zstd")
	b.ReportMetric(rate(spent[2])/rate(spent[1]), "of-encoder")
	b.ReportMetric(100*float64(size-bodies)/float64(bodies), "%pack-overhead")
	b.ReportMetric(0, "ns/op")
}

// processorTime is the time that the process used in user and kernel mode.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
