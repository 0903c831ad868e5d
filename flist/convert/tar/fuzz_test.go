package tar

import (
	"bytes"
	"context"
	"testing"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/internal/treetest"
)

// Any archive is refused or becomes a tree that survives a round trip.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		opts := convert.Options{TempDir: dir, Limits: convert.Limits{Entries: 200, Bytes: 1 << 20, Metadata: 64 << 10}}
		res, err := ReadFrom(context.Background(), bytes.NewReader(raw), 0, opts)
		if err != nil {
			return
		}
		defer res.Close()
		again, err := ReadFrom(context.Background(), bytes.NewReader(write(t, res.Root)), 0, convert.Options{TempDir: dir})
		if err != nil {
			t.Fatalf("read what was written: %v", err)
		}
		defer again.Close()
		if d := treetest.Diff(res.Root, again.Root); d != "" {
			t.Errorf("the round trip differs:\n%s", d)
		}
	})
}

// Layers over one another are refused or become a tree.
func FuzzLayers(f *testing.F) {
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, one, two []byte) {
		limits := convert.Limits{Entries: 200, Bytes: 1 << 20, Metadata: 64 << 10}
		spool, err := convert.NewSpool(dir, limits)
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		b := NewBuilder(spool, limits)
		for _, raw := range [][]byte{one, two} {
			if err := b.Apply(context.Background(), bytes.NewReader(raw), Layer); err != nil {
				return
			}
		}
		if err := b.Root().Check(); err != nil {
			t.Error(err)
		}
	})
}
