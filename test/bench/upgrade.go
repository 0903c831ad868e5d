package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"

	"lukechampine.com/blake3"
)

// adjacent are real releases that follow one another, from the module proxy.
var adjacent = [][2]string{
	{"golang.org/x/tools@v0.28.0", "golang.org/x/tools@v0.29.0"},
	{"modernc.org/libc@v1.61.4", "modernc.org/libc@v1.61.5"},
}

// blocks is a store of blocks of a fixed size, named by their hash: the stored
// size of each. Each file starts a new block.
type blocks map[[32]byte]int

// addTree adds the files of a tree and returns the stored bytes that were new.
func (s blocks) addTree(dir string, size int, encode func([]byte) []byte) (int64, error) {
	var fresh int64
	buf := make([]byte, size)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			n, err := io.ReadFull(f, buf)
			if n > 0 {
				name := blake3.Sum256(buf[:n])
				if _, ok := s[name]; !ok {
					s[name] = len(encode(buf[:n]))
					fresh += int64(s[name])
				}
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return fresh, err
}

// module downloads a module and returns its directory.
func (b *bench) module(ctx context.Context, at string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", at)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-modcacherw", "GOMODCACHE="+b.path("modules"))
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("download %s: %w: %s", at, err, out)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return "", err
	}
	return m.Dir, nil
}

// built is what a build says it made.
type built struct {
	ID          string
	Entries     uint64
	PackedBytes int64 `json:"packed_bytes"`
	Published   int64
}

// upgrade compares stored bytes; our side counts everything that is stored or
// moved: packs and the image's own objects.
func upgrade(ctx context.Context, b *bench) error {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer zw.Close()
	zst := func(p []byte) []byte { return zw.EncodeAll(p, nil) }
	snap := func(p []byte) []byte { return snappy.Encode(nil, p) }
	for _, pair := range adjacent {
		var ours [2]built
		var fixed, whole, rfs [2]int64
		f, w, r := blocks{}, blocks{}, blocks{}
		for i, at := range pair {
			dir, err := b.module(ctx, at)
			if err != nil {
				return err
			}
			// The second build says itself what it adds to the first: the base.
			args := []string{"flist", "build", "dir:" + dir, "--name", "upgrade-" + fmt.Sprint(i)}
			if i == 0 {
				args = append(args, "--no-base")
			} else {
				args = append(args, "--base", ours[0].ID)
			}
			if err := b.runZos(ctx, "upgrade", "", &ours[i], args...); err != nil {
				return err
			}
			if fixed[i], err = f.addTree(dir, 1<<20, zst); err != nil {
				return err
			}
			if whole[i], err = w.addTree(dir, 64<<20, zst); err != nil {
				return err
			}
			if rfs[i], err = r.addTree(dir, 512<<10, snap); err != nil {
				return err
			}
		}
		moved := float64(ours[1].PackedBytes + ours[1].Published)
		stored := moved + float64(ours[0].PackedBytes+ours[0].Published)
		b.record("upgrade bytes "+pair[1], "fixed 1 MiB, zstd, no metadata", atMost(0.75), size(moved), size(float64(fixed[1])), []float64{moved / float64(fixed[1])})
		b.record("upgrade bytes "+pair[1], "whole files, zstd, no metadata", atMost(0.75), size(moved), size(float64(whole[1])), []float64{moved / float64(whole[1])})
		both := float64(rfs[0] + rfs[1])
		b.record("two versions stored "+pair[1], "fixed 512 KiB, snappy, no metadata", atMost(0.9), size(stored), size(both), []float64{stored / both})
		per := float64(ours[0].Published) / float64(ours[0].Entries)
		b.absolute("metadata and locator per entry "+pair[0], must{}, per, fmt.Sprintf("%.1f B", per))
	}
	return nil
}
