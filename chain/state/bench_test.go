package state

import (
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
)

// BenchmarkCreateContract applies blocks of 100 transactions, each with one
// network contract, over a tree in memory.
func BenchmarkCreateContract(b *testing.B) {
	t := &testing.T{}
	g := newGrid(t, 3)
	g.audit = false
	farm := g.farm(2)
	var nodes []identity.Party
	for range 40 {
		nodes = append(nodes, g.node(farm, 2, testMachine()))
	}
	var txs [][]byte
	sequence := g.get(3).Sequence
	for i := range b.N {
		sequence++
		txs = append(txs, g.signAt(3, sequence, &chain.CreateNodeContract{ID: g.id(3), Node: nodes[i%len(nodes)], Capacity: chain.Capacity{CPU: 1}, MaxRate: 1 << 60, Deposit: 100_000}))
	}
	b.ReportAllocs()
	b.ResetTimer()
	ok := 0
	for len(txs) > 0 {
		n := min(100, len(txs))
		for _, r := range g.after(1, txs[:n]...).Txs {
			if r.OK() {
				ok++
			}
		}
		txs = txs[n:]
	}
	b.ReportMetric(float64(ok)/float64(b.N), "ok/op")
}
