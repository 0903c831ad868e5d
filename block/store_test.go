package block_test

import (
	"bytes"
	"testing"

	"zos.internal/block"
	"zos.internal/block/storetest"
)

func TestMem(t *testing.T) {
	open := func(*testing.T) block.Bucket { return new(block.Mem) }
	storetest.Bucket(t, open)
	blobsSuite(t, open)
}

func TestDir(t *testing.T) {
	open := func(t *testing.T) block.Bucket { return block.OpenDir(t.TempDir()) }
	storetest.Bucket(t, open)
	blobsSuite(t, open)
}

func blobsSuite(t *testing.T, open func(*testing.T) block.Bucket) {
	t.Run("Blobs", func(t *testing.T) {
		storetest.Blobs(t, func(t *testing.T) block.Blobs { return block.BlobsIn(open(t), "p/") })
	})
}

// packs stores plains in packs of about packSize bytes in b and returns their
// names and places.
func packs(t testing.TB, b block.Bucket, dom block.Domain, plains [][]byte, packSize int64) ([]block.Name, map[block.Name]block.Place) {
	t.Helper()
	enc := block.NewEncoder(block.Zstd)
	var buf bytes.Buffer
	w := block.NewPackWriter(&buf)
	var names []block.Name
	places := map[block.Name]block.Place{}
	flush := func() {
		name, size, entries, err := w.Close()
		if err != nil || size != int64(buf.Len()) {
			t.Fatalf("Close = %d bytes, %v, want %d", size, err, buf.Len())
		}
		if err := block.BlobsIn(b, "p/").Put(t.Context(), name, bytes.NewReader(buf.Bytes())); err != nil {
			t.Fatal(err)
		}
		for n, p := range block.PlacesIn(name, entries) {
			places[n] = p
		}
		buf.Reset()
		w = block.NewPackWriter(&buf)
	}
	for _, plain := range plains {
		n := dom.Name(plain)
		e, body := enc.Encode(plain)
		stored := dom.Seal(n, e, len(plain), body)
		if dom.Private() {
			e |= block.Sealed
		}
		if err := w.Add(n, e, len(plain), stored); err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
		if w.Size() >= packSize {
			flush()
		}
	}
	if w.Len() > 0 {
		flush()
	}
	return names, places
}

func lookup(m map[block.Name]block.Place) func(block.Name) (block.Place, bool) {
	return func(n block.Name) (block.Place, bool) {
		p, ok := m[n]
		return p, ok
	}
}

func TestPackGetter(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{1})} {
		t.Run(name, func(t *testing.T) {
			storetest.Getter(t, func(t *testing.T, plains [][]byte) (block.Getter, []block.Name) {
				b := new(block.Mem)
				names, places := packs(t, b, dom, plains, 300000)
				return block.NewPackGetter(block.NewMirrors(nil, block.Source{Name: "mem", Bucket: b}), "p/", dom, lookup(places)), names
			})
		})
	}
}
