package hub_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
)

// TestCollectKeepsFreshSignatures: what is sent again is not waste any more,
// though the image has no name yet.
func TestCollectKeepsFreshSignatures(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 1, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice})
	b, err := flist.SignImage(nil, id, nil, alice)
	if err != nil {
		t.Fatal(err)
	}
	root, err := f.store.Read(t.Context(), flist.RootKey(id), 0, flist.MaxRoot)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string, body []byte) {
		t.Helper()
		if status, p := f.upload(t, alice, key, body, nil); status/100 != 2 {
			t.Fatalf("PUT %s = %d %+v", key, status, p)
		}
	}
	locator, err := f.store.Read(t.Context(), flist.LocatorKey(id), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	put(flist.SignaturesKey(id), b)
	collect(t, f, 2)
	// A second push under way: everything but the name is sent again.
	put(flist.RootKey(id), root)
	put(flist.SignaturesKey(id), b)
	put(flist.LocatorKey(id), locator)
	if collect(t, f, 1); !has(t, f.store, flist.SignaturesKey(id)) || !has(t, f.store, flist.LocatorKey(id)) {
		t.Error("a collection deleted signatures or a locator that were sent after the one before")
	}
}

// failing is a bucket whose first write of an object fails.
type failing struct {
	block.Bucket
	failed atomic.Bool
}

func (b *failing) Write(ctx context.Context, key string, r io.Reader) error {
	if strings.HasPrefix(key, "o/") && !b.failed.Swap(true) {
		return fault.Errorf(fault.Unavailable, "write %s: the disk is away", key)
	}
	return b.Bucket.Write(ctx, key, r)
}

// TestFailedUploadCostsNoQuota: bytes that the store did not take are not
// counted for the publisher.
func TestFailedUploadCostsNoQuota(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{Store: &failing{Bucket: new(block.Mem)}}, line(alice, "alice", "2KiB"))
	k, stored := anObject(t, noise(7, 2<<10))
	if len(stored) < 1<<10 || len(stored) > 2<<10 {
		t.Fatalf("the object has %d bytes; the test needs one that fits the quota once", len(stored))
	}
	if status, _ := f.upload(t, alice, k, stored, nil); status != http.StatusServiceUnavailable {
		t.Fatalf("PUT to a store that fails = %d, want 503", status)
	}
	if status, p := f.upload(t, alice, k, stored, nil); status != http.StatusCreated {
		t.Errorf("PUT after that = %d %+v, want 201", status, p)
	}
}
