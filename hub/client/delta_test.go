package client_test

import (
	"path/filepath"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/client"
)

// TestUpgradeMovesADelta publishes two versions; who has the first one fetches
// root, signatures and the delta, and no pack or object.
func TestUpgradeMovesADelta(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{9})} {
		t.Run(name, func(t *testing.T) {
			key := seedKey(1)
			store := new(block.Mem)
			srv, n := startHub(t, store, key)
			src, node, other := new(block.Mem), new(block.Mem), new(block.Mem)
			c := open(t, client.Options{State: filepath.Join(t.TempDir(), "hubs.json")}, srv.URL)
			push := func(id flist.ID) client.Report {
				t.Helper()
				rep, err := c.Push(t.Context(), src, id, client.PushOptions{Key: key, Name: "web", Domain: dom})
				if err != nil {
					t.Fatal(err)
				}
				return rep
			}
			was := build(t, src, files(t, 40, 40, 1), flist.BuildOptions{Domain: dom})
			if rep := push(was); rep.Delta != 0 {
				t.Errorf("the first version was published with a delta of %d bytes", rep.Delta)
			}
			first, err := c.Pull(t.Context(), node, was, client.PullOptions{Domain: dom})
			if err != nil || first.Base != nil {
				t.Fatalf("pull of the first version: %+v, %v", first, err)
			}
			if got := n.get("GET d"); got != 0 {
				t.Errorf("%d requests for the delta of an only version, want none", got)
			}
			is := build(t, src, files(t, 40, 37, 2), flist.BuildOptions{Domain: dom, Bases: []flist.ID{was}})
			if rep := push(is); rep.Delta == 0 {
				t.Fatal("the second version was published without a delta")
			}
			packs, objects := n.get("GET p"), n.get("GET o")
			second, err := c.Pull(t.Context(), node, is, client.PullOptions{Domain: dom})
			if err != nil {
				t.Fatal(err)
			}
			if second.Base == nil || *second.Base != was {
				t.Fatalf("pull of the second version: %+v, want it made of %v", second, was)
			}
			if p, o := n.get("GET p")-packs, n.get("GET o")-objects; p != 0 || o != 0 {
				t.Errorf("%d packs and %d objects were fetched, want none", p, o)
			}
			verify(t, node, is, dom)
			// Who has nothing gets the same, in full.
			full, err := c.Pull(t.Context(), other, is, client.PullOptions{Domain: dom})
			if err != nil || full.Base != nil {
				t.Fatalf("pull into an empty store: %+v, %v", full, err)
			}
			verify(t, other, is, dom)
			if second.Received*2 > full.Received {
				t.Errorf("the upgrade moved %d bytes, the whole %d; want less than half", second.Received, full.Received)
			}
			// What was made by a delta can be published elsewhere.
			srv2, _ := startHub(t, new(block.Mem), key)
			c2 := open(t, client.Options{State: filepath.Join(t.TempDir(), "hubs.json")}, srv2.URL)
			if _, err := c2.Push(t.Context(), node, is, client.PushOptions{Key: key, Name: "web", Domain: dom}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestWrongDeltaCostsNothingElse: whatever lies at the key of the delta, the pull
// ends with the right image.
func TestWrongDeltaCostsNothingElse(t *testing.T) {
	key := seedKey(1)
	store := new(block.Mem)
	srv, _ := startHub(t, store, key)
	src := new(block.Mem)
	c := open(t, client.Options{State: filepath.Join(t.TempDir(), "hubs.json")}, srv.URL)
	was := build(t, src, files(t, 40, 40, 1), flist.BuildOptions{})
	is := build(t, src, files(t, 40, 37, 2), flist.BuildOptions{Bases: []flist.ID{was}})
	for _, id := range []flist.ID{was, is} {
		if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: key, Name: "web"}); err != nil {
			t.Fatal(err)
		}
	}
	good, err := store.Read(t.Context(), flist.DeltaKey(is), 0, flist.MaxDelta)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 1
	last := append([]byte(nil), good...)
	last[len(last)-1] ^= 1
	for what, b := range map[string][]byte{"empty": {}, "noise": []byte("no delta"), "cut": good[:len(good)/2], "flipped": flipped, "last byte": last} {
		write(t, store, flist.DeltaKey(is), b)
		node := new(block.Mem)
		for _, id := range []flist.ID{was, is} {
			rep, err := c.Pull(t.Context(), node, id, client.PullOptions{})
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if rep.Base != nil {
				t.Errorf("%s: the delta was used", what)
			}
			verify(t, node, id, block.Domain{})
		}
	}
}

// TestOnlyThePublisherPutsADelta, and only of an image that is there.
func TestOnlyThePublisherPutsADelta(t *testing.T) {
	alice, bob := seedKey(1), seedKey(2)
	store := new(block.Mem)
	srv, _ := startHub(t, store, alice, bob)
	src := new(block.Mem)
	c := open(t, client.Options{State: filepath.Join(t.TempDir(), "hubs.json")}, srv.URL)
	was := build(t, src, files(t, 40, 40, 1), flist.BuildOptions{})
	is := build(t, src, files(t, 40, 37, 2), flist.BuildOptions{Bases: []flist.ID{was}})
	for _, id := range []flist.ID{was, is} {
		if _, err := c.Push(t.Context(), src, id, client.PushOptions{Key: alice, Name: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	before, err := store.Read(t.Context(), flist.DeltaKey(is), 0, flist.MaxDelta)
	if err != nil {
		t.Fatal(err)
	}
	// Bob publishes the same image after another version of his own.
	third := build(t, src, files(t, 40, 20, 3), flist.BuildOptions{})
	for _, id := range []flist.ID{third, is} {
		rep, err := c.Push(t.Context(), src, id, client.PushOptions{Key: bob, Name: "b"})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Delta != 0 {
			t.Errorf("bob put a delta of %d bytes on alice's image", rep.Delta)
		}
	}
	after, err := store.Read(t.Context(), flist.DeltaKey(is), 0, flist.MaxDelta)
	if err != nil || string(before) != string(after) {
		t.Errorf("the delta is another one (%v)", err)
	}
}
