package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"zos.internal/block"
)

// ingestBytes is how much content a round takes in.
const ingestBytes = 64 << 20

// ingest compares all that happens to content on its way into a pack with its
// compression alone, zstd at its default level. Both run in this process, one
// after the other in each round, and processor time is what counts, so that
// other load shows little.
func ingest(_ context.Context, b *bench) error {
	data, err := goFiles(ingestBytes)
	if err != nil {
		return err
	}
	var parts [][]byte
	for rest := data; len(rest) > 0; {
		n := block.Image.Cut(rest)
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer zw.Close()
	var out []byte
	bytesPerSecond := func(f func() error) func() (float64, error) {
		return func() (float64, error) {
			s, err := spent(f)
			return float64(len(data)) / s, err
		}
	}
	var bodies, packed int64
	enc := block.NewEncoder(block.Zstd)
	err = b.compare("ingest of one core", "zstd alone on the same chunks", atLeast(0.85), rate,
		bytesPerSecond(func() error {
			for _, p := range parts {
				out = zw.EncodeAll(p, out[:0])
			}
			return nil
		}),
		bytesPerSecond(func() (err error) {
			bodies, packed, err = pack(data, enc)
			return err
		}))
	if err != nil {
		return err
	}
	over := 100 * float64(packed-bodies) / float64(bodies)
	b.absolute("pack overhead", atMost(0.3), over, fmt.Sprintf("%.2f %%", over))
	return nil
}

// pack cuts, names, encodes and packs data, and returns the bytes of the bodies
// and of the packs.
func pack(data []byte, enc *block.Encoder) (bodies, packed int64, err error) {
	w := block.NewPackWriter(io.Discard)
	flush := func() error {
		_, n, es, err := w.Close()
		if err != nil {
			return err
		}
		last := es[len(es)-1]
		bodies, packed = bodies+last.Off+int64(last.Stored), packed+n
		w = block.NewPackWriter(io.Discard)
		return nil
	}
	for rest := data; len(rest) > 0; {
		p := rest[:block.Image.Cut(rest)]
		rest = rest[len(p):]
		e, body := enc.Encode(p)
		if err := w.Add(block.Sum(p), e, len(p), body); err != nil {
			return 0, 0, err
		}
		if w.Full() {
			if err := flush(); err != nil {
				return 0, 0, err
			}
		}
	}
	if w.Len() == 0 {
		return bodies, packed, nil
	}
	return bodies, packed, flush()
}

// processorTime is the time that this process used in user and kernel mode.
func processorTime() (time.Duration, error) {
	var u unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// goFiles is n bytes of the sources and programs of the Go toolchain, one after
// the other.
func goFiles(n int) ([]byte, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("ask go for its directory: %w", err)
	}
	var data []byte
	for _, part := range []string{"bin", "src"} {
		half := (n - len(data) + 1) / 2
		if part == "src" {
			half = n - len(data)
		}
		end := len(data) + half
		err := filepath.WalkDir(filepath.Join(strings.TrimSpace(string(root)), part), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if len(data) >= end {
				return filepath.SkipAll
			}
			b, err := os.ReadFile(p)
			data = append(data, b[:min(len(b), end-len(data))]...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if len(data) < n/2 {
		return nil, fmt.Errorf("the Go toolchain has only %d bytes of files", len(data))
	}
	return data, nil
}
