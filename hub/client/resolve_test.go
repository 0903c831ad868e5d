package client_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/client"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// TestRollbackIsRefused: a source that offers an older version than was seen is
// passed over, and alone it is an error that says what to do.
func TestRollbackIsRefused(t *testing.T) {
	store, stale := &block.Mem{}, &block.Mem{}
	srv, src, id := pushed(t, store)
	for k := range store.List(t.Context(), "") {
		b, err := store.Read(t.Context(), k, 0, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		write(t, stale, k, b)
	}
	old, _ := startHub(t, stale)
	owner := seedKey(1).Public().Address()
	statePath := filepath.Join(t.TempDir(), "deep", "state.json")
	next := build(t, src, files(t, 3, 0, 2), flist.BuildOptions{})
	if _, err := open(t, client.Options{}, srv.URL).Push(t.Context(), src, next, client.PushOptions{Key: seedKey(1), Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if p, err := open(t, client.Options{State: statePath}, srv.URL).Resolve(t.Context(), owner, "web", ""); err != nil || p.Seq != 2 {
		t.Fatalf("Resolve = %+v, %v, want version 2", p, err)
	}
	_, err := open(t, client.Options{State: statePath}, old.URL).Resolve(t.Context(), owner, "web", "")
	if fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), "version 1 is offered, and version 2 was seen") || !strings.Contains(err.Error(), statePath) {
		t.Errorf("Resolve at a stale mirror = %v, want denied with both versions and the file", err)
	}
	if p, err := open(t, client.Options{State: statePath}, old.URL, srv.URL).Resolve(t.Context(), owner, "web", ""); err != nil || p.ID != next {
		t.Errorf("Resolve with a stale mirror first = %v, %v, want version 2 from the other", p.ID, err)
	}
	if p, err := open(t, client.Options{}, old.URL).Resolve(t.Context(), owner, "web", ""); err != nil || p.ID != id {
		t.Errorf("Resolve without memory = %v, %v, want what the mirror has", p.ID, err)
	}
	// Two images signed as one version.
	p := flist.Pointer{Owner: owner, Name: "web", Seq: 2, ID: id, Time: 5}
	b, err := p.Sign(seedKey(1))
	if err != nil {
		t.Fatal(err)
	}
	write(t, stale, p.Key(), b)
	if _, err := open(t, client.Options{State: statePath}, old.URL).Resolve(t.Context(), owner, "web", ""); fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), "signed both") {
		t.Errorf("Resolve of an equivocation = %v, want denied", err)
	}
	// A pointer of another name, and one that ended.
	other := flist.Pointer{Owner: owner, Name: "other", Seq: 9, ID: id}
	if b, err = other.Sign(seedKey(1)); err != nil {
		t.Fatal(err)
	}
	write(t, stale, p.Key(), b)
	if _, err := open(t, client.Options{}, old.URL).Resolve(t.Context(), owner, "web", ""); fault.Of(err) != fault.Denied {
		t.Errorf("Resolve of another name's pointer = %v, want denied", err)
	}
	p = flist.Pointer{Owner: owner, Name: "web", Seq: 9, ID: id, NotAfter: 1000}
	if b, err = p.Sign(seedKey(1)); err != nil {
		t.Fatal(err)
	}
	write(t, stale, p.Key(), b)
	if _, err := open(t, client.Options{Clock: clock.Fixed(time.Unix(999, 0))}, old.URL).Resolve(t.Context(), owner, "web", ""); err != nil {
		t.Errorf("Resolve before the end = %v", err)
	}
	if _, err := open(t, client.Options{Clock: clock.Fixed(time.Unix(1000, 0))}, old.URL).Resolve(t.Context(), owner, "web", ""); fault.Of(err) != fault.Expired {
		t.Errorf("Resolve after the end = %v, want expired", err)
	}
	// A state file that can't be read is an error, not a fresh start.
	if err := os.WriteFile(statePath, []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, client.Options{State: statePath}, srv.URL).Resolve(t.Context(), owner, "web", ""); fault.Of(err) != fault.Invalid {
		t.Errorf("Resolve with a torn state file = %v, want invalid", err)
	}
}

// TestPushGoesOnAfterALostPointer: a hub that was restored from an old backup
// gets a version that is higher than what clients saw.
func TestPushGoesOnAfterALostPointer(t *testing.T) {
	store := &block.Mem{}
	srv, src, _ := pushed(t, store)
	statePath := filepath.Join(t.TempDir(), "state")
	c := open(t, client.Options{State: statePath}, srv.URL)
	owner := seedKey(1).Public().Address()
	for seed := range uint64(3) {
		id := build(t, src, files(t, 1, 0, 10+seed), flist.BuildOptions{})
		if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Delete(t.Context(), flist.PointerKey(owner, "web")); err != nil {
		t.Fatal(err)
	}
	id := build(t, src, files(t, 1, 0, 20), flist.BuildOptions{})
	rep, err := c.Push(t.Context(), src, id, client.PushOptions{Key: seedKey(1), Name: "web"})
	if err != nil || rep.Seq != 5 {
		t.Errorf("Push after the hub lost the pointer = %+v, %v, want version 5", rep, err)
	}
	if p, err := c.Resolve(t.Context(), owner, "web", ""); err != nil || p.ID != id {
		t.Errorf("Resolve = %v, %v", p.ID, err)
	}
}
