package engine

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"testing"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cosmos/iavl"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// fillTree writes versions with random changes.
func fillTree(t testing.TB, tree *Tree, versions int) {
	t.Helper()
	seed := uint64(7)
	next := func() uint64 { seed = seed*6364136223846793005 + 1442695040888963407; return seed >> 33 }
	for v := range versions {
		for range 200 {
			key := be8(next() % 3000)
			if next()%5 == 0 && tree.Get(key) != nil {
				tree.Delete(key)
				continue
			}
			tree.Set(key, bytes.Repeat(be8(next()), 1+int(next()%40)))
		}
		if _, _, err := tree.Commit(uint64(v+1), int64(v), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func openTree(t testing.TB) *Tree {
	t.Helper()
	tree, err := OpenTree(t.TempDir(), "tree")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func snapshotApp(t testing.TB, tree *Tree) *app {
	log := slog.New(slog.DiscardHandler)
	return newApp(appConfig{tree: tree, clock: clock.System{}, log: log, snapshots: newSnapshots(t.TempDir(), tree, 5, keepSnapshots, log), failed: func(error) {}})
}

func TestSnapshotGivesTheSameTree(t *testing.T) {
	from := openTree(t)
	fillTree(t, from, 10)
	root := from.Root()
	a := snapshotApp(t, from)
	a.cfg.snapshots.consider(9) // not a multiple: none
	a.cfg.snapshots.consider(10)
	a.cfg.snapshots.close()
	// The chain goes on, and old versions may go.
	from.Set([]byte("more"), []byte("1"))
	if _, _, err := from.Commit(11, 11, 0); err != nil {
		t.Fatal(err)
	}
	list, err := a.ListSnapshots(t.Context(), &abci.RequestListSnapshots{})
	if err != nil || len(list.Snapshots) != 1 || list.Snapshots[0].Height != 10 {
		t.Fatalf("ListSnapshots = %v, %v, want one of block 10", list, err)
	}
	s := list.Snapshots[0]
	var chunks [][]byte
	for i := range s.Chunks {
		c, err := a.LoadSnapshotChunk(t.Context(), &abci.RequestLoadSnapshotChunk{Height: 10, Format: s.Format, Chunk: i})
		if err != nil || len(c.Chunk) == 0 {
			t.Fatalf("LoadSnapshotChunk(%d) = %d bytes, %v", i, len(c.Chunk), err)
		}
		chunks = append(chunks, c.Chunk)
	}
	offer := func(b *app, s *abci.Snapshot, root []byte) abci.ResponseOfferSnapshot_Result {
		t.Helper()
		r, err := b.OfferSnapshot(t.Context(), &abci.RequestOfferSnapshot{Snapshot: s, AppHash: root})
		if err != nil {
			t.Fatal(err)
		}
		return r.Result
	}
	apply := func(b *app, i int, chunk []byte) *abci.ResponseApplySnapshotChunk {
		t.Helper()
		r, err := b.ApplySnapshotChunk(t.Context(), &abci.RequestApplySnapshotChunk{Index: uint32(i), Chunk: chunk, Sender: "peer"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}

	to := openTree(t)
	b := snapshotApp(t, to)
	// What can't be right is refused before a byte is fetched.
	for name, change := range map[string]func(*abci.Snapshot){
		"format": func(s *abci.Snapshot) { s.Format = 9 }, "chunks": func(s *abci.Snapshot) { s.Chunks = 1 << 30 },
		"hash": func(s *abci.Snapshot) { s.Hash = []byte("x") }, "manifest": func(s *abci.Snapshot) { s.Metadata = s.Metadata[1:] },
	} {
		bad := *s
		change(&bad)
		if got := offer(b, &bad, root); got == abci.ResponseOfferSnapshot_ACCEPT {
			t.Errorf("a snapshot with a wrong %s is accepted", name)
		}
	}
	if got := offer(b, s, root); got != abci.ResponseOfferSnapshot_ACCEPT {
		t.Fatalf("OfferSnapshot = %v", got)
	}
	// A forged chunk is asked for again, from somebody else.
	forged := bytes.Clone(chunks[0])
	forged[len(forged)/2] ^= 1
	if r := apply(b, 0, forged); r.Result != abci.ResponseApplySnapshotChunk_RETRY || len(r.RejectSenders) != 1 || len(r.RefetchChunks) != 1 {
		t.Errorf("a forged chunk = %v, want another try without its sender", r)
	}
	for i, c := range chunks {
		if r := apply(b, i, c); r.Result != abci.ResponseApplySnapshotChunk_ACCEPT {
			t.Fatalf("ApplySnapshotChunk(%d) = %v", i, r)
		}
	}
	if !bytes.Equal(to.Root(), root) || to.Height() != 10 || b.height != 10 {
		t.Errorf("the restored tree is at block %d with root %x, want 10 and %x", to.Height(), to.Root(), root)
	}
	// It takes the same next block.
	to.Set([]byte("more"), []byte("1"))
	if got, _, err := to.Commit(11, 11, 0); err != nil || !bytes.Equal(got, from.Root()) {
		t.Errorf("the next root is %x, %v, want %x", got, err, from.Root())
	}

	// A snapshot with another root than the signed one leaves nothing behind.
	to = openTree(t)
	b = snapshotApp(t, to)
	wrong := bytes.Clone(root)
	wrong[0] ^= 1
	if got := offer(b, s, wrong); got != abci.ResponseOfferSnapshot_ACCEPT {
		t.Fatal(got)
	}
	var last *abci.ResponseApplySnapshotChunk
	for i, c := range chunks {
		last = apply(b, i, c)
	}
	if last.Result != abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT || to.Height() != 0 {
		t.Errorf("a snapshot with another root = %v, the tree is at %d", last.Result, to.Height())
	}
	if entries, err := os.ReadDir(b.cfg.snapshots.dir); err != nil || len(entries) != 0 {
		t.Errorf("%d entries are left, %v", len(entries), err)
	}
	if got := offer(a, s, root); got != abci.ResponseOfferSnapshot_ABORT {
		t.Errorf("a snapshot for a state that isn't empty = %v", got)
	}
}

func TestOnlyTheNewestSnapshotsStay(t *testing.T) {
	tree := openTree(t)
	fillTree(t, tree, 20)
	a := snapshotApp(t, tree)
	for _, h := range []uint64{5, 10, 15, 20} {
		a.cfg.snapshots.consider(h)
		a.cfg.snapshots.close()
	}
	if diff := cmp.Diff(a.cfg.snapshots.heights(), []uint64{15, 20}); diff != "" {
		t.Errorf("snapshots (-got +want):\n%s", diff)
	}
}

func TestNodesAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*iavl.ExportNode
		var b []byte
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			n := &iavl.ExportNode{Height: rapid.Int8Range(0, 100).Draw(t, "height"), Version: rapid.Int64Range(0, 1<<40).Draw(t, "version"),
				Key: rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "key")}
			if rapid.Bool().Draw(t, "leaf") {
				n.Value = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
			}
			all = append(all, n)
			b = appendNode(b, n)
		}
		r := bufio.NewReader(bytes.NewReader(b))
		for i, want := range all {
			got, err := readNode(r)
			if err != nil || !cmp.Equal(got, want) {
				t.Fatalf("node %d: %v, %s", i, err, cmp.Diff(got, want))
			}
		}
		if _, err := readNode(r); err != io.EOF {
			t.Fatalf("after the last node: %v", err)
		}
		// Cut anywhere, it is an error or a shorter list, never a panic.
		if len(b) > 0 {
			r := bufio.NewReader(bytes.NewReader(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]))
			for {
				if _, err := readNode(r); err != nil {
					break
				}
			}
		}
	})
}

func FuzzReadNode(f *testing.F) {
	f.Add(appendNode(nil, &iavl.ExportNode{Height: 1, Version: 3, Key: []byte("k")}))
	f.Add(appendNode(nil, &iavl.ExportNode{Version: 3, Key: []byte("k"), Value: []byte("v")}))
	f.Add([]byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := readNode(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			if !errors.Is(err, io.EOF) && fault.Of(err) != fault.Invalid && len(b) > 0 {
				t.Errorf("readNode(%x) = %v, want invalid", b, err)
			}
			return
		}
		if len(n.Key) > maxNodeBytes || len(n.Value) > maxNodeBytes {
			t.Errorf("readNode gave a key of %d and a value of %d bytes", len(n.Key), len(n.Value))
		}
		again, err := readNode(bufio.NewReader(bytes.NewReader(appendNode(nil, n))))
		if err != nil || !cmp.Equal(again, n) {
			t.Errorf("written again it reads as %+v, %v, want %+v", again, err, n)
		}
	})
}
