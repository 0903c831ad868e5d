package engine

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// The numbers are hashed into chains: they never change.
func TestCodesStay(t *testing.T) {
	want := map[fault.Kind]uint32{"": 0, fault.Invalid: 1, fault.Denied: 2, fault.NotFound: 3, fault.Conflict: 4, fault.Exhausted: 5,
		fault.Unavailable: 6, fault.Expired: 7, fault.Funds: 8, fault.Unsupported: 9, fault.Internal: 10}
	for k, n := range want {
		if Code(k) != n || KindOf(n) != k {
			t.Errorf("Code(%q) = %d, KindOf(%d) = %q, want %d", k, Code(k), n, KindOf(n), n)
		}
	}
	for _, k := range fault.Kinds() {
		if _, ok := want[k]; !ok {
			t.Errorf("the kind %q has no number", k)
		}
	}
	if Code("else") != 10 || KindOf(99) != fault.Internal {
		t.Error("what is unknown must be internal")
	}
}

func TestResultsAreReadAsWritten(t *testing.T) {
	want := state.TxResult{ID: chain.TxID{1, 2}, Kind: fault.Funds, Error: "funds: no", Fee: 7, Events: []chain.Event{{Type: "a.b", Contract: 5}, {Type: "c.d", Amount: 1 << 60}}}
	if diff := cmp.Diff(txResult(execResult(want)), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestArrange(t *testing.T) {
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	type tx struct {
		party    identity.Party
		sequence uint64
	}
	wires := make(map[tx][]byte)
	for p := range identity.Party(4) {
		for s := range uint64(6) {
			wires[tx{p, s}] = sign(t, key, p, s, &chain.Send{To: 1, Amount: 1})
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var in []tx
		var bytesIn [][]byte
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			x := tx{identity.Party(rapid.IntRange(1, 3).Draw(t, "party")), uint64(rapid.IntRange(0, 5).Draw(t, "sequence"))}
			in = append(in, x)
			bytesIn = append(bytesIn, wires[x])
		}
		if rapid.Bool().Draw(t, "noise") {
			bytesIn = append(bytesIn, []byte("noise"))
		}
		most := int64(rapid.IntRange(0, 6000).Draw(t, "bytes"))
		next := func(p identity.Party) uint64 { return uint64(p) } // party 1 is at 1, 2 at 2, 3 at 3
		out := arrange(bytesIn, most, next)
		var size int64
		want := map[identity.Party]uint64{1: 1, 2: 2, 3: 3}
		for _, w := range out {
			size += int64(len(w))
			d, err := chain.Decode(w)
			if err != nil {
				t.Fatal("noise is in the block")
			}
			if d.Body.Sequence != want[d.Body.Party] {
				t.Fatalf("party %d: sequence %d in the block, next is %d", d.Body.Party, d.Body.Sequence, want[d.Body.Party])
			}
			want[d.Body.Party]++
		}
		if size > most {
			t.Fatalf("%d bytes, at most %d", size, most)
		}
		if most == 6000 {
			return
		}
		// With room enough, whatever has no gap before it is in.
		full := arrange(bytesIn, 1<<20, next)
		count := 0
		for p := identity.Party(1); p <= 3; p++ {
			have := make(map[uint64]bool)
			for _, x := range in {
				if x.party == p {
					have[x.sequence] = true
				}
			}
			for s := uint64(p); have[s]; s++ {
				count++
			}
		}
		if len(full) != count {
			t.Fatalf("%d transactions are in the block, %d can be", len(full), count)
		}
	})
	if got := arrange([][]byte{wires[tx{0, 0}], wires[tx{0, 0}]}, 1<<20, nil); len(got) != 2 {
		t.Errorf("%d of two who join are in the block", len(got))
	}
}

func TestTreeKeepsVersions(t *testing.T) {
	tree := openTree(t)
	tree.Set([]byte("a"), []byte("1"))
	root1, changed, err := tree.Commit(1, 100, 0)
	if err != nil || !cmp.Equal(changed, []string{"a"}) {
		t.Fatalf("Commit = %v, %v", changed, err)
	}
	root2, _, err := tree.Commit(2, 110, 0)
	if err != nil || !bytes.Equal(root1, root2) {
		t.Errorf("an empty version has root %x, %v, want %x", root2, err, root1)
	}
	tree.Set([]byte("b"), []byte("2"))
	tree.Delete([]byte("a"))
	var walked []string
	tree.Ascend([]byte("a"), []byte("z"), func(k, v []byte) bool {
		walked = append(walked, fmt.Sprintf("%s=%s", k, v))
		return true
	})
	if !cmp.Equal(walked, []string{"b=2"}) {
		t.Errorf("the working version has %v", walked)
	}
	if err := tree.View(0, func(v View) error {
		if string(v.Get([]byte("a"))) != "1" || v.Get([]byte("b")) != nil {
			t.Error("a view shows what isn't committed")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if _, _, err := tree.Commit(5, 1, 0); fault.Of(err) != fault.Internal {
		t.Errorf("Commit of the wrong height = %v", err)
	}
	if at, ok := tree.Time(2); at != 110 || !ok {
		t.Errorf("Time(2) = %d, %v", at, ok)
	}
	if _, ok := tree.Time(3); ok {
		t.Error("Time(3) is known")
	}
}
