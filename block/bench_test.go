package block_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
