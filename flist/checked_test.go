package flist_test

import (
	"errors"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/internal/fault"
)

// counted remembers checks and counts them.
type counted struct {
	ids    map[flist.ID]bool
	checks int
}

func (c *counted) Has(id flist.ID) bool { return c.ids[id] }

func (c *counted) Add(id flist.ID) {
	c.checks++
	c.ids[id] = true
}

// TestOpenChecked: the canonical check is made once for an image, its bytes are
// compared with their hashes always.
func TestOpenChecked(t *testing.T) {
	var b block.Mem
	rep := build(t, &b, sample(), flist.BuildOptions{})
	c := &counted{ids: make(map[flist.ID]bool)}
	opt := flist.OpenOptions{Checked: c}
	first, err := flist.Open(t.Context(), &b, rep.ID, opt)
	if err != nil || c.checks != 1 || first.Tree == nil {
		t.Fatalf("Open() = %v with %d checks, want one, and the tree", err, c.checks)
	}
	again, err := flist.Open(t.Context(), &b, rep.ID, opt)
	if err != nil || c.checks != 1 || again.Tree != nil {
		t.Fatalf("Open() again = %v with %d checks, want no other and no tree", err, c.checks)
	}
	if string(again.Metadata) != string(first.Metadata) || again.Root.Entries != first.Root.Entries || len(again.Map.Chunks) != len(first.Map.Chunks) {
		t.Error("the image differs without the check")
	}
	if err := again.LoadTree(); err != nil {
		t.Fatal(err)
	}
	entries := uint64(0)
	for range again.Tree.Walk() {
		entries++
	}
	if entries != again.Root.Entries {
		t.Errorf("LoadTree gave %d entries, want %d", entries, again.Root.Entries)
	}

	// Other bytes under the name of the metadata are found as ever.
	other := build(t, &b, smallTree(), flist.BuildOptions{})
	o, err := flist.Open(t.Context(), &b, other.ID, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := b.Read(t.Context(), flist.ObjectKey(o.Root.Metadata.Name), 0, flist.MaxObject)
	if err != nil {
		t.Fatal(err)
	}
	key := flist.ObjectKey(first.Root.Metadata.Name)
	good, err := b.Read(t.Context(), key, 0, flist.MaxObject)
	if err != nil {
		t.Fatal(err)
	}
	write(t, &b, key, wrong)
	if _, err := flist.Open(t.Context(), &b, rep.ID, opt); !errors.Is(err, fault.Invalid) {
		t.Errorf("Open() of changed metadata = %v, want invalid", err)
	}
	write(t, &b, key, good)

	// What fails the check is not remembered.
	bad := *first.Root
	bad.Entries++
	raw, badID, err := bad.Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, &b, flist.RootKey(badID), raw)
	for range 2 {
		if _, err := flist.Open(t.Context(), &b, badID, opt); !errors.Is(err, fault.Invalid) || c.ids[badID] {
			t.Errorf("Open() of a root with other counts = %v, remembered %v", err, c.ids[badID])
		}
	}
}
