package client_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/tree"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// files is a tree of n files of a few KiB that differ by seed; the first same
// of them are equal for all seeds.
func files(t testing.TB, n, same int, seed uint64) *tree.Node {
	t.Helper()
	root := tree.NewDir(0o755)
	for i := range n {
		s := seed
		if i < same {
			s = 0
		}
		r := rand.New(rand.NewPCG(uint64(i), s))
		b := make([]byte, 70<<10+r.IntN(8000))
		for j := range b {
			b[j] = byte(r.IntN(100))
		}
		f := &tree.Node{Mode: tree.Regular | 0o644, Size: int64(len(b)), Content: tree.Bytes(b), Mtime: 1700000000}
		if err := root.Insert(fmt.Sprintf("usr/share/f%04d", i), f); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func build(t testing.TB, to block.Bucket, root *tree.Node, opt flist.BuildOptions) flist.ID {
	t.Helper()
	rep, err := flist.Build(t.Context(), root, to, opt)
	if err != nil {
		t.Fatal(err)
	}
	return rep.ID
}

func seedKey(n byte) *identity.PrivateKey { return identity.FromSeed([32]byte{n}) }

// publishersFile lists keys without a quota, as user1, user2 and so on.
func publishersFile(t testing.TB, keys ...*identity.PrivateKey) string {
	t.Helper()
	text := "# who may publish\n"
	for i, k := range keys {
		text += fmt.Sprintf("%v user%d unlimited\n", k.Public().Address(), i+1)
	}
	path := filepath.Join(t.TempDir(), "publishers")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// startHub serves store; requests are counted by method and first letter.
func startHub(t testing.TB, store block.Bucket, keys ...*identity.PrivateKey) (*httptest.Server, *counts) {
	t.Helper()
	h, err := hub.New(t.Context(), hub.Config{Store: store, Publishers: publishersFile(t, keys...), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	n := &counts{next: h}
	srv := httptest.NewServer(n)
	t.Cleanup(srv.Close)
	return srv, n
}

func open(t testing.TB, opt client.Options, urls ...string) *client.Client {
	t.Helper()
	if opt.Retry.Base == 0 {
		opt.Retry.Base, opt.Retry.Max = 1, 1
	}
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	if opt.Transport == nil {
		opt.Transport = tr
	}
	c, err := client.New(urls, opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify reads every chunk of the image.
func verify(t testing.TB, from block.Bucket, id flist.ID, dom block.Domain) {
	t.Helper()
	rep, err := flist.Verify(t.Context(), block.NewMirrors(nil, block.Source{Name: "copy", Bucket: from}), id, flist.VerifyOptions{Deep: true, Domain: dom})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Problems) > 0 || rep.Checked != rep.Chunks {
		t.Fatalf("Verify = %d of %d chunks, problems %q", rep.Checked, rep.Chunks, rep.Problems)
	}
}

func TestPushResolvePull(t *testing.T) {
	for name, dom := range map[string]block.Domain{"public": {}, "private": block.NewDomain([32]byte{9})} {
		t.Run(name, func(t *testing.T) {
			key := seedKey(1)
			srv, _ := startHub(t, block.OpenDir(t.TempDir()), key)
			src := block.OpenDir(t.TempDir())
			id := build(t, src, files(t, 20, 20, 1), flist.BuildOptions{Domain: dom})
			sig, err := flist.SignImage(nil, id, []flist.Claim{{Name: "source", Value: "test"}}, key)
			if err != nil {
				t.Fatal(err)
			}
			write(t, src, flist.SignaturesKey(id), sig)
			c := open(t, client.Options{State: filepath.Join(t.TempDir(), "hubs.json")}, srv.URL)
			var last int64
			rep, err := c.Push(t.Context(), src, id, client.PushOptions{Key: key, Name: "web", Tag: "v1", Domain: dom, Progress: func(done, total int64) { last = total }})
			if err != nil {
				t.Fatal(err)
			}
			if rep.Seq != 1 || !rep.Moved || rep.Packs != 1 || rep.Sent != last {
				t.Errorf("Push = %+v (progress ended with %d), want the first version in one pack", rep, last)
			}
			for _, tag := range []string{"", "v1"} {
				p, err := c.Resolve(t.Context(), key.Public().Address(), "web", tag)
				if err != nil || p.ID != id || p.Seq != 1 {
					t.Fatalf("Resolve(%q) = %+v, %v, want version 1 of %v", tag, p, err, id)
				}
			}
			dst := block.OpenDir(t.TempDir())
			prep, err := c.Pull(t.Context(), dst, id, client.PullOptions{Domain: dom})
			if err != nil || prep.Packs != 1 || prep.Unchecked != 0 {
				t.Fatalf("Pull = %+v, %v", prep, err)
			}
			verify(t, dst, id, dom)
			again, err := c.Push(t.Context(), src, id, client.PushOptions{Key: key, Name: "web", Domain: dom})
			if err != nil || again.Packs+again.Objects != 0 || again.Moved || again.Seq != 1 {
				t.Errorf("second Push = %+v, %v, want nothing sent and nothing moved", again, err)
			}
		})
	}
}

func TestNotAPublisher(t *testing.T) {
	srv, _ := startHub(t, &block.Mem{}, seedKey(1))
	src := &block.Mem{}
	id := build(t, src, files(t, 3, 3, 1), flist.BuildOptions{})
	_, err := open(t, client.Options{}, srv.URL).Push(t.Context(), src, id, client.PushOptions{Key: seedKey(2), Name: "web"})
	if fault.Of(err) != fault.Denied {
		t.Errorf("Push = %v, want denied", err)
	}
	t.Log(err)
}
