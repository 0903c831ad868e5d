package hub_test

import (
	"net/http/httptest"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

// TestHubDiesAnywhere lets the store of a hub fail from its n-th write on, as if
// the machine stopped there, for every n. Names that are visible then lead to
// whole images, and the same push against a new hub over that store succeeds.
func TestHubDiesAnywhere(t *testing.T) {
	alice := key(1)
	src := &block.Mem{}
	first := image(t, src, 1, 4, flist.BuildOptions{})
	second := image(t, src, 1, 6, flist.BuildOptions{Bases: []flist.ID{first}})
	for _, id := range []flist.ID{first, second} {
		sig, err := flist.SignImage(nil, id, nil, alice)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, src, flist.SignaturesKey(id), sig)
	}
	for n := 0; ; n++ {
		store := &block.Mem{}
		writes := 0
		dying := &block.Faulty{Bucket: store, Plan: func(_ int, op, _ string) block.Damage {
			if op == "write" || op == "delete" {
				writes++
			}
			if writes > n {
				return block.Fails
			}
			return block.NoDamage
		}}
		f := start(t, hub.Config{Store: dying}, line(alice, "alice", "10MiB"))
		_, err := f.client(t).Push(t.Context(), src, first, client.PushOptions{Key: alice, Name: "web", Tag: "v1"})
		if err == nil {
			_, err = f.client(t).Push(t.Context(), src, second, client.PushOptions{Key: alice, Name: "web"})
		}
		if err != nil && fault.Of(err) != fault.Unavailable {
			t.Fatalf("dying at write %d: Push = %v, want unavailable", n, err)
		}
		for _, prefix := range []string{"f/", "g/"} {
			for k := range store.List(t.Context(), prefix) {
				b, err := store.Read(t.Context(), k, 0, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				p, _, err := flist.OpenPointer(b)
				if err != nil {
					t.Fatal(err)
				}
				verifyStore(t, store, p.ID)
			}
		}
		again, err2 := hub.New(t.Context(), hub.Config{Store: store, Publishers: f.pubs, Clock: f.clock})
		if err2 != nil {
			t.Fatal(err2)
		}
		srv := httptest.NewServer(again)
		c, err2 := client.New([]string{srv.URL}, client.Options{Clock: f.clock})
		if err2 != nil {
			t.Fatal(err2)
		}
		for _, id := range []flist.ID{first, second} {
			if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: alice, Name: "web"}); err != nil {
				t.Fatalf("Push after the hub died at write %d = %v", n, err)
			}
		}
		verifyStore(t, store, second)
		for range 3 {
			if _, err := again.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		verifyStore(t, store, second)
		// Accounts and files agree after a collection.
		var accounted, stored int
		for range store.List(t.Context(), "a/") {
			accounted++
		}
		for _, prefix := range []string{"p/", "o/", "r/"} {
			for range store.List(t.Context(), prefix) {
				stored++
			}
		}
		if accounted != stored {
			t.Errorf("dying at write %d: %d accounts and %d files after the collection", n, accounted, stored)
		}
		srv.Close()
		if err == nil {
			if n < 20 {
				t.Errorf("only %d writes were tried", n)
			}
			return
		}
	}
}
