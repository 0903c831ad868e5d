package hub_test

import (
	"net/http"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/tree"
	"zos.internal/hub"
	"zos.internal/hub/client"
)

// versions are two images that differ in one of five files.
func versions(t testing.TB, to block.Bucket) (was, is flist.ID) {
	t.Helper()
	version := func(last uint64) flist.ID {
		root := tree.NewDir(0o755)
		for i, seed := range []uint64{1, 2, 3, 4, last} {
			s := noise(seed, 70<<10)
			if err := root.Insert("data/"+string(rune('a'+i)), &tree.Node{Mode: tree.Regular | 0o644, Size: int64(len(s)), Content: tree.Bytes(s)}); err != nil {
				t.Fatal(err)
			}
		}
		// The last file begins like the first one and differs at its end.
		n := root.At("data/a")
		s, err := n.ReadAll(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		n.Content = tree.Bytes(string(s[:60<<10]) + noise(last, 10<<10))
		rep, err := flist.Build(t.Context(), root, to, flist.BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return rep.ID
	}
	return version(5), version(6)
}

func TestDeltaUploads(t *testing.T) {
	alice, bob := key(1), key(2)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited")+line(bob, "bob", "unlimited"))
	src := new(block.Mem)
	was, is := versions(t, src)
	good, err := flist.MakeDelta(t.Context(), src, is, was, block.Domain{})
	if err != nil {
		t.Fatal(err)
	}
	put := flist.DeltaKey(is)
	if code, p := f.upload(t, alice, put, good, nil); code != http.StatusConflict {
		t.Errorf("before the image is there: %d %+v, want 409", code, p)
	}
	for _, id := range []flist.ID{was, is} {
		f.push(t, src, id, client.PushOptions{Key: alice})
	}
	long := append(append([]byte(nil), good...), []byte(noise(9, 1<<20))...)
	for what, x := range map[string]struct {
		body []byte
		key  string
		code int
	}{
		"no delta":               {[]byte("no delta"), put, http.StatusBadRequest},
		"another image's":        {good, flist.DeltaKey(was), http.StatusBadRequest},
		"longer than the image":  {long, put, http.StatusBadRequest},
		"as it should be":        {good, put, http.StatusCreated},
		"as it should be, again": {good, put, http.StatusCreated},
	} {
		if code, p := f.upload(t, alice, x.key, x.body, nil); code != x.code {
			t.Errorf("%s: %d %+v, want %d", what, code, p, x.code)
		}
	}
	if code, p := f.upload(t, bob, put, good, nil); code != http.StatusForbidden {
		t.Errorf("by somebody who did not publish the image: %d %+v, want 403", code, p)
	}
	resp, err := http.Get(f.url + "/" + put)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(good)) || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("GET: %s, %d bytes, Cache-Control %q", resp.Status, resp.ContentLength, resp.Header.Get("Cache-Control"))
	}
}

// TestDeltasAreCollected with their image, and stay as long as it does.
func TestDeltasAreCollected(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{Keep: hub.Keep{Versions: 1}}, line(alice, "alice", "unlimited"))
	src := new(block.Mem)
	was, is := versions(t, src)
	for _, id := range []flist.ID{was, is} {
		f.push(t, src, id, client.PushOptions{Key: alice, Name: "web"})
	}
	collect(t, f, 3)
	if has(t, f.store, flist.RootKey(was)) || !has(t, f.store, flist.DeltaKey(is)) {
		t.Fatalf("base there: %v, delta there: %v; want the delta alone", has(t, f.store, flist.RootKey(was)), has(t, f.store, flist.DeltaKey(is)))
	}
	f.push(t, src, image(t, src, 7, 2, flist.BuildOptions{}), client.PushOptions{Key: alice, Name: "web"})
	collect(t, f, 3)
	if has(t, f.store, flist.RootKey(is)) || has(t, f.store, flist.DeltaKey(is)) {
		t.Errorf("image there: %v, delta there: %v; want neither", has(t, f.store, flist.RootKey(is)), has(t, f.store, flist.DeltaKey(is)))
	}
}
