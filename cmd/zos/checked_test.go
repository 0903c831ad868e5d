package main

import (
	"os"
	"path/filepath"
	"testing"

	"zos.internal/flist"
)

// TestChecked: what is remembered stays, and counts only in a directory that
// nobody else can write to.
func TestChecked(t *testing.T) {
	var warned []error
	c := checked{filepath.Join(t.TempDir(), "data", "checked"), func(err error) { warned = append(warned, err) }}
	one, two := flist.ID{1}, flist.ID{2}
	if c.Has(one) {
		t.Error("an image was checked before anything")
	}
	c.Add(one)
	c.Add(one)
	if !c.Has(one) || c.Has(two) || len(warned) > 0 {
		t.Errorf("Has = %v, %v, %v, want the first only", c.Has(one), c.Has(two), warned)
	}
	if err := os.Chmod(c.dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if c.Add(two); c.Has(one) || len(warned) != 1 {
		t.Errorf("a directory that a group can write to is believed: %v", warned)
	}
	if err := os.Chmod(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if !c.Has(one) || c.Has(two) {
		t.Error("it is not what it was before")
	}
	link := checked{filepath.Join(t.TempDir(), "link"), c.warn}
	if err := os.Symlink(c.dir, link.dir); err != nil {
		t.Fatal(err)
	}
	if link.Add(two); link.Has(one) || len(warned) != 2 {
		t.Errorf("a link is followed: %v", warned)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(c.dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if c.Has(one) {
			t.Error("another user's directory is believed")
		}
	}
}
