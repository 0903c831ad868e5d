package engine

import (
	"testing"

	"zos.internal/chain"
	"zos.internal/chain/state"
)

// TestIndexIsPruned: of blocks that are dropped neither events nor places of
// transactions stay, also of transactions that were refused; bills do.
func TestIndexIsPruned(t *testing.T) {
	x, err := openIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.close(); err != nil {
			t.Error(err)
		}
	})
	for h := uint64(1); h <= 10; h++ {
		f := finished{height: h, time: int64(h), result: state.Result{Txs: []state.TxResult{
			{ID: chain.TxID{byte(h), 1}, Events: []chain.Event{{Type: "contract.billed", Contract: 7<<24 | 1}}},
			{ID: chain.TxID{byte(h), 2}, Kind: "denied"},
		}}}
		if err := x.write(f, func([]byte) []byte { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.prune(8); err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	if err := x.walk(nil, nil, func(key, _ []byte) bool {
		count[string(key[:1])]++
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if count[ixEvents] != 3 || count[ixPlaces] != 3 || count[ixTx] != 6 || count[ixBill] != 10 {
		t.Errorf("after dropping 7 of 10 blocks the index has %v", count)
	}
}
