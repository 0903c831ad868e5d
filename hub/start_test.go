package hub_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/fetch"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

// startOf is the start file that the hub serves, parsed; nil: there is none.
func startOf(t *testing.T, f *fixture, id flist.ID) *flist.Start {
	t.Helper()
	resp, err := http.Get(f.url + "/" + flist.StartKey(id))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil
	}
	if got := resp.Header.Get("Cache-Control"); resp.StatusCode != http.StatusOK || got != "no-cache" {
		t.Errorf("a start file: status %d, caching %q", resp.StatusCode, got)
	}
	s, err := flist.ParseStart(b)
	if err != nil {
		t.Fatal(err)
	}
	for k, p := range s.Parts {
		stored, err := f.store.Read(t.Context(), k, 0, flist.MaxStart)
		if len(p) == 0 && fault.Of(err) == fault.NotFound {
			continue
		}
		if err != nil || !bytes.Equal(stored, p) {
			t.Errorf("part %s is not the file in the store, %v", k, err)
		}
	}
	return s
}

// TestStartFileFollowsItsParts: the start file has what is published now, is in
// the store for static mirrors, can't be uploaded and goes with its image.
func TestStartFileFollowsItsParts(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{Store: &block.Mem{}}, line(alice, "alice", "unlimited"))
	src := &block.Mem{}
	id := image(t, src, 1, 12, flist.BuildOptions{})
	if startOf(t, f, id) != nil {
		t.Error("an absent image has a start file")
	}
	f.push(t, src, id, client.PushOptions{Key: alice})
	if !has(t, f.store, flist.StartKey(id)) {
		t.Error("a push leaves no start file in the store")
	}
	s := startOf(t, f, id)
	if n := len(s.Parts[flist.TraceKey(id)]) + len(s.Parts[flist.SignaturesKey(id)]); n > 0 {
		t.Errorf("%d bytes of a trace and signatures that don't exist", n)
	}

	img, err := flist.Open(t.Context(), src, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := flist.SignImage(nil, id, nil, alice)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, src, flist.SignaturesKey(id), sig)
	n := uint32(len(img.Map.Chunks))
	tr := fetch.Trace{Image: id}
	for i := range n / 2 {
		tr.Runs = append(tr.Runs, fetch.Run{First: n - 2 - 2*i, Count: 1})
	}
	signed, err := flist.SignTrace(tr, alice)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, src, flist.TraceKey(id), signed)
	before, err := flist.ReadLocator(t.Context(), f.store, img)
	if err != nil {
		t.Fatal(err)
	}
	f.push(t, src, id, client.PushOptions{Key: alice})
	s = startOf(t, f, id)
	if !bytes.Equal(s.Parts[flist.TraceKey(id)], signed) || len(s.Parts[flist.SignaturesKey(id)]) == 0 {
		t.Error("the start file has not the new trace and signatures")
	}
	after, err := flist.ReadLocator(t.Context(), f.store, img)
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Packs) != len(before.Packs)+1 {
		t.Errorf("%d packs after a trace was published, before %d; want one more", len(after.Packs), len(before.Packs))
	}
	verifyStore(t, f.store, id)
	// Again nothing is to be done.
	f.push(t, src, id, client.PushOptions{Key: alice})
	if again, err := flist.ReadLocator(t.Context(), f.store, img); err != nil || len(again.Packs) != len(after.Packs) {
		t.Errorf("%d packs after the same push, want %d, %v", len(again.Packs), len(after.Packs), err)
	}

	// An image of an older hub has none; the first reader gets it made.
	if err := f.store.Delete(t.Context(), flist.StartKey(id)); err != nil {
		t.Fatal(err)
	}
	if s := startOf(t, f, id); s == nil || len(s.Parts[flist.TraceKey(id)]) == 0 {
		t.Error("no start file was made for a reader")
	}

	if status, p := f.upload(t, alice, flist.StartKey(id), []byte("x"), nil); status < 400 {
		t.Errorf("an upload of a start file = %d %+v, want a refusal", status, p)
	}
	collect(t, f, 4)
	if has(t, f.store, flist.StartKey(id)) || has(t, f.store, flist.RootKey(id)) {
		t.Error("an image without a name leaves its start file")
	}
}
