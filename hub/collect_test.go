package hub_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

func has(t testing.TB, b block.Bucket, key string) bool {
	t.Helper()
	_, err := b.Stat(t.Context(), key)
	if err != nil && fault.Of(err) != fault.NotFound {
		t.Fatal(err)
	}
	return err == nil
}

func collect(t testing.TB, f *fixture, times int) (c hub.Collected) {
	t.Helper()
	for range times {
		var err error
		if c, err = f.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestCollect(t *testing.T) {
	alice := key(1)
	pubs := line(alice, "alice", "2MiB")
	f := start(t, hub.Config{Keep: hub.Keep{Versions: 2, For: time.Hour}}, pubs)
	src := block.OpenDir(t.TempDir())
	ids := make([]flist.ID, 6)
	for i := range ids {
		ids[i] = image(t, src, uint64(i+1), 2, flist.BuildOptions{})
	}
	f.push(t, src, ids[0], client.PushOptions{Key: alice, Name: "web", Tag: "first"}) // kept by its tag
	f.push(t, src, ids[1], client.PushOptions{Key: alice, Name: "web"})               // dropped: old, and not among the newest two
	f.clock.t = f.clock.t.Add(2 * time.Hour)
	f.push(t, src, ids[2], client.PushOptions{Key: alice, Name: "web"}) // kept: the newest but one
	f.push(t, src, ids[3], client.PushOptions{Key: alice, Name: "web"}) // current
	f.push(t, src, ids[4], client.PushOptions{Key: alice})              // no name
	f.push(t, src, ids[5], client.PushOptions{Key: alice})              // pinned
	if err := f.Pin(t.Context(), ids[5]); err != nil {
		t.Fatal(err)
	}
	before := 0
	for range f.store.List(t.Context(), "a/") {
		before++
	}
	if c := collect(t, f, 2); c.Deleted != 0 || c.Waiting == 0 {
		t.Fatalf("the first two epochs = %+v, want nothing deleted and something waiting", c)
	}
	c := collect(t, f, 1)
	if c.Deleted == 0 || c.Bytes == 0 || c.Waiting != 0 || c.Images != 4 {
		t.Fatalf("the third epoch = %+v, want what is unused deleted", c)
	}
	for i, want := range []bool{true, false, true, true, false, true} {
		if got := has(t, f.store, flist.RootKey(ids[i])); got != want {
			t.Errorf("image %d is there: %v, want %v", i, got, want)
		}
		if want {
			verifyStore(t, f.store, ids[i])
		}
	}
	if has(t, f.store, flist.HistoryKey(alice.Public().Address(), "web", 2)) || !has(t, f.store, flist.HistoryKey(alice.Public().Address(), "web", 3)) {
		t.Error("the history doesn't follow the policy")
	}
	after := 0
	for k := range f.store.List(t.Context(), "a/") {
		_ = k
		after++
	}
	if after >= before || after == 0 {
		t.Errorf("%d accounts before and %d after the collection", before, after)
	}
	// The bytes are the publisher's again: what is published once more fits.
	f.push(t, src, ids[1], client.PushOptions{Key: alice, Name: "again"})
	if err := f.Unpin(t.Context(), ids[5]); err != nil {
		t.Fatal(err)
	}
	collect(t, f, 3)
	if has(t, f.store, flist.RootKey(ids[5])) {
		t.Error("an image whose pin was removed is still there")
	}
}

// TestCollectKeepsTheCurrentVersion whatever the policy says of old ones.
func TestCollectKeepsTheCurrentVersion(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{Keep: hub.Keep{For: time.Second}}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 1, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice, Name: "web"})
	f.clock.t = f.clock.t.Add(time.Hour)
	if c := collect(t, f, 3); c.Deleted != 0 || !has(t, f.store, flist.HistoryKey(alice.Public().Address(), "web", 1)) {
		t.Errorf("Collect = %+v, want nothing deleted", c)
	}
	verifyStore(t, f.store, id)
}

func verifyStore(t testing.TB, b block.Bucket, id flist.ID) {
	t.Helper()
	rep, err := flist.Verify(t.Context(), block.NewMirrors(nil, block.Source{Name: "store", Bucket: b}), id, flist.VerifyOptions{Deep: true})
	if err != nil || len(rep.Problems) > 0 || rep.Checked != rep.Chunks {
		t.Errorf("image %v in the store: %+v, %v", id, rep, err)
	}
}

// TestCollectRewritesSparsePacks: an image that needs a quarter of the pack of
// an older one gets a pack of its own, and keeps its id.
func TestCollectRewritesSparsePacks(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{8})} {
		t.Run(name, func(t *testing.T) {
			alice := key(1)
			f := start(t, hub.Config{Keep: hub.Keep{Versions: 1}}, line(alice, "alice", "10MiB"))
			src := block.OpenDir(t.TempDir())
			big := image(t, src, 1, 16, flist.BuildOptions{Domain: dom})
			small := image(t, src, 1, 3, flist.BuildOptions{Domain: dom, Bases: []flist.ID{big}})
			f.push(t, src, big, client.PushOptions{Key: alice, Name: "web", Domain: dom})
			f.push(t, src, small, client.PushOptions{Key: alice, Name: "web", Domain: dom})
			packBytes := func() (n int64) {
				for k := range f.store.List(t.Context(), "p/") {
					size, err := f.store.Stat(t.Context(), k)
					if err != nil {
						t.Fatal(err)
					}
					n += size
				}
				return n
			}
			before := packBytes()
			check := func() {
				t.Helper()
				rep, err := flist.Verify(t.Context(), block.NewMirrors(nil, block.Source{Name: "store", Bucket: f.store}), small, flist.VerifyOptions{Deep: true, Domain: dom})
				if err != nil || len(rep.Problems) > 0 || rep.Checked != rep.Chunks {
					t.Errorf("the image after a collection: %+v, %v", rep, err)
				}
			}
			if c := collect(t, f, 1); c.Rewritten != 1 {
				t.Errorf("Collect = %+v, want one pack rewritten", c)
			}
			check()
			if c := collect(t, f, 1); c.Rewritten != 0 {
				t.Errorf("the second Collect = %+v, want nothing rewritten again", c)
			}
			collect(t, f, 2)
			check()
			if after := packBytes(); after*3 > before {
				t.Errorf("packs have %d bytes after the collection and had %d, want a quarter", after, before)
			}
			var accounts int
			for k := range f.store.List(t.Context(), "a/") {
				if strings.Contains(k, "/p.") {
					accounts++
				}
			}
			if accounts != 1 {
				t.Errorf("%d packs are accounted, want the rewritten one", accounts)
			}
			// The same image can still be pushed, and the big one again.
			f.push(t, src, big, client.PushOptions{Key: alice, Name: "big", Domain: dom})
			f.push(t, src, small, client.PushOptions{Key: alice, Name: "again", Domain: dom})
			check()
		})
	}
}

// TestHavePostponesCollection: what a push was told to be here has two whole
// epochs again, also after a restart of the hub.
func TestHavePostponesCollection(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 2, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice})
	collect(t, f, 2) // everything is due next time
	f.push(t, src, id, client.PushOptions{Key: alice})
	again, err := hub.New(t.Context(), hub.Config{Store: f.store, Clock: f.clock})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = again
	if c := collect(t, f, 1); !has(t, f.store, flist.RootKey(id)) {
		t.Fatalf("the collection after a push deleted its image: %+v", c)
	}
	for k := range src.List(t.Context(), "") {
		if k[0] != 'h' && !has(t, f.store, k) {
			t.Errorf("the collection after a push deleted %s", k)
		}
	}
	collect(t, f, 2)
	if has(t, f.store, flist.RootKey(id)) {
		t.Error("an image without a name is still there after two more epochs")
	}
}

// TestCollectAgainstPushes runs collections as fast as it can while images are
// pushed, dropped and pushed again. Every push that succeeded is whole.
func TestCollectAgainstPushes(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{Store: &block.Mem{}, Keep: hub.Keep{Versions: 1}}, line(alice, "alice", "unlimited"))
	src := &block.Mem{}
	ids := make([]flist.ID, 4)
	for i := range ids {
		ids[i] = image(t, src, uint64(i+1), 2, flist.BuildOptions{})
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	runs := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := f.Collect(t.Context()); err != nil {
				t.Error(err)
				return
			}
			runs++
		}
	})
	var pushers sync.WaitGroup
	for w := range 2 {
		pushers.Go(func() {
			c := f.client(t)
			for i := range 25 {
				id, name := ids[(i+w)%len(ids)], fmt.Sprint("w", w)
				_, err := c.Push(t.Context(), src, id, client.PushOptions{Key: alice, Name: name})
				if fault.Of(err) == fault.Conflict {
					continue // the collector was faster three times: a clean refusal
				}
				if err != nil {
					t.Error(err)
					return
				}
				p, err := c.Resolve(t.Context(), alice.Public().Address(), name, "")
				if err != nil || p.ID != id {
					t.Errorf("Resolve = %v, %v, want %v", p.ID, err, id)
				}
				verifyStore(t, f.store, id)
			}
		})
	}
	pushers.Wait()
	stop()
	wg.Wait()
	if runs < 3 {
		t.Errorf("only %d collections ran beside the pushes", runs)
	}
}

func TestCollectStopsWhenItCannotRead(t *testing.T) {
	alice := key(1)
	dir := t.TempDir()
	f := start(t, hub.Config{Store: block.OpenDir(dir)}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 1, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice, Name: "web"})
	if err := os.Truncate(dir+"/"+flist.LocatorKey(id), 3); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := f.Collect(t.Context()); err == nil {
			t.Fatal("Collect with a broken locator = nil, want an error")
		}
	}
	for k := range src.List(t.Context(), "p/") {
		if !has(t, f.store, k) {
			t.Errorf("the collection deleted %s, which an image needs that it couldn't read", k)
		}
	}
}
