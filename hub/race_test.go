package hub_test

import (
	"context"
	"io"
	"iter"
	"strings"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
)

// hooked calls onWrite before a pointer is written and onList when a key range
// is listed.
type hooked struct {
	*block.Mem
	onWrite func(key string)
	onList  func(prefix string)
}

func (h *hooked) Write(ctx context.Context, key string, r io.Reader) error {
	if h.onWrite != nil {
		h.onWrite(key)
	}
	return h.Mem.Write(ctx, key, r)
}

func (h *hooked) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	if h.onList != nil {
		h.onList(prefix)
	}
	return h.Mem.List(ctx, prefix)
}

// TestCollectionsWhileANameIsWritten: an image that becomes due while its name
// is on the way to the store is not deleted after it arrived.
func TestCollectionsWhileANameIsWritten(t *testing.T) {
	alice := key(1)
	store := &hooked{Mem: &block.Mem{}}
	f := start(t, hub.Config{Store: store}, line(alice, "alice", "unlimited"))
	src := &block.Mem{}
	id := image(t, src, 1, 2, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice})

	collected := make(chan error, 1)
	once := false
	store.onWrite = func(key string) {
		if once || !strings.HasPrefix(key, "h/") {
			return
		}
		once = true
		// The third collection finds the image due and lists the accounts before it
		// waits for the upload.
		third := make(chan struct{})
		lists := 0
		store.onList = func(prefix string) {
			if prefix == "a/" {
				if lists++; lists == 3 {
					close(third)
				}
			}
		}
		go func() {
			for range 3 {
				if _, err := f.Collect(context.WithoutCancel(t.Context())); err != nil {
					collected <- err
					return
				}
			}
			collected <- nil
		}()
		<-third
	}
	f.push(t, src, id, client.PushOptions{Key: alice, Name: "web"})
	if err := <-collected; err != nil {
		t.Fatal(err)
	}
	verifyStore(t, f.store, id)
}
