package hub_test

import (
	"bytes"
	"strings"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/internal/fault"
)

func TestHostileUploads(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{MaxMetadata: 1 << 20}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	image(t, src, 1, 3, flist.BuildOptions{})
	var pack []byte
	for k, err := range src.List(t.Context(), "p/") {
		if err != nil {
			t.Fatal(err)
		}
		if pack, err = src.Read(t.Context(), k, 0, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	flipped := bytes.Clone(pack)
	flipped[100] ^= 1
	bomb := strings.Repeat("\x00", 8<<20)
	_, bombStored := anObject(t, bomb)
	ref, ok := anObject(t, "fine")
	for name, tt := range map[string]struct {
		key  string
		body []byte
		want fault.Kind
	}{
		"pack under another name": {"p/" + block.Sum(nil).String(), pack, fault.Invalid},
		"pack with a flipped bit": {"p/" + block.Sum(flipped).String(), flipped, fault.Invalid},
		"pack cut off":            {"p/" + block.Sum(pack[:len(pack)-1]).String(), pack[:len(pack)-1], fault.Invalid},
		"no pack":                 {"p/" + block.Sum([]byte("x")).String(), []byte("x"), fault.Invalid},
		"bomb":                    {"o/" + block.Sum([]byte(bomb)).String(), bombStored, fault.Exhausted},
		"object cut off":          {ref, ok[:len(ok)-2], fault.Invalid},
		"root of garbage":         {"r/" + block.Sum([]byte("garbage")).String(), []byte("garbage"), fault.Invalid},
		"locator of garbage":      {"l/" + block.Sum(nil).String(), []byte("garbage"), fault.Invalid},
		"pointer of garbage":      {"f/" + alice.Public().Address().String() + "/x", []byte("garbage"), fault.Invalid},
		"signatures of nothing":   {"s/" + block.Sum(nil).String(), []byte("garbage"), fault.Conflict},
	} {
		if status, p := f.upload(t, alice, tt.key, tt.body, nil); p.Kind != string(tt.want) {
			t.Errorf("%s: PUT = %d %q (%s), want %q", name, status, p.Kind, p.Detail, tt.want)
		}
	}
	for key := range f.store.List(t.Context(), "") {
		t.Errorf("after refused uploads the store holds %q", key)
	}
	// A sealed object under a public name doesn't stay in the way.
	if status, p := f.upload(t, alice, ref, []byte("this looks sealed and is junk"), nil); status != 201 {
		t.Fatalf("PUT of a sealed object = %d %s", status, p.Detail)
	}
	if status, p := f.upload(t, alice, ref, ok, nil); status != 201 {
		t.Fatalf("PUT of the right object = %d %s", status, p.Detail)
	}
	if got, err := f.store.Read(t.Context(), ref, 0, 1<<20); err != nil || !bytes.Equal(got, ok) {
		t.Errorf("the object is %q, %v, want the one that was checked", got, err)
	}
	if status, _ := f.upload(t, alice, ref, []byte("this looks sealed and is junk"), nil); status != 201 && status != 200 {
		t.Errorf("PUT of junk over an object = %d", status)
	}
	if got, err := f.store.Read(t.Context(), ref, 0, 1<<20); err != nil || !bytes.Equal(got, ok) {
		t.Errorf("junk took the place of an object that was checked: %q, %v", got, err)
	}
}
