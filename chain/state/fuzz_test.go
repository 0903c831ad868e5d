package state

import (
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// FuzzApply takes bytes as a transaction, and as messages that a party signs. A
// block has an answer to everything, never that it hit a bug, and afterwards
// everything adds up.
func FuzzApply(f *testing.F) {
	seeds := [][]chain.Message{
		{&chain.Send{To: 3, Amount: 7}},
		{&chain.CreateFarm{Name: "fuzzed"}, &chain.AddIPs{Farm: 1, IPs: []chain.IP{{Address: "185.69.1.10/24", Gateway: "185.69.1.1"}}}},
		{&chain.CreateNodeContract{ID: 3<<24 | 2, Node: 4, Capacity: small(), MaxRate: 1 << 60, Deposit: chain.Credit, KeepDays: 1, Split: []chain.Share{{Party: 2, PPM: 1000}}}},
		{&chain.UpdateContract{ID: 3<<24 | 1, Version: 2, Capacity: small(), MaxRate: 1 << 60}, &chain.Pause{ID: 3<<24 | 1}},
		{&chain.CreateRentContract{ID: 3<<24 | 2, Node: 4, MaxRate: 1 << 60, Deposit: 100 * chain.Credit}, &chain.Cancel{ID: 3<<24 | 2}},
		{&chain.CreateGroup{Members: []chain.Member{{Party: 2, Weight: 1}, {Party: 3, Weight: 2}}, Policies: []chain.Policy{{Class: chain.ClassSpend, Threshold: 2, Expiry: 60, Limit: 5}}}},
		{&chain.SetParams{Params: chain.Params{NameRate: 5, Protocol: 1000}}, &chain.CreateNameContract{ID: 1<<24 | 1, Name: "fuzzed", Deposit: chain.Credit}},
		{&chain.RequestSupport{Node: 4, Purpose: "fuzz", Scope: chain.ScopeLogs, From: begin, Until: begin + 60}},
	}
	for by, ms := range seeds {
		f.Add(uint8(by), canon.MustMarshal(chain.Pack(ms...)))
	}
	f.Add(uint8(0), []byte{0x82, 0x40, 0x80})
	f.Fuzz(func(t *testing.T, by uint8, b []byte) {
		g := newGrid(t, 3)
		n := g.node(g.farm(2), 2, testMachine())
		g.deploy(3, n, small(), chain.Credit)
		g.block(b)
		var ps []chain.Packed
		if canon.Unmarshal(b, &ps) != nil || len(ps) > chain.MaxMessages {
			return
		}
		p := []identity.Party{1, 2, 3, n}[by%4]
		wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: p, Sequence: g.get(p).Sequence + 1, Expires: g.now + 600, FeeLimit: chain.Credit, Messages: ps}, chain.Signer{Key: g.keys[p]})
		if err != nil {
			return
		}
		if r := g.block(wire).Txs[0]; r.Kind == fault.Internal {
			t.Fatalf("%+v", r)
		}
		g.pass(120)
	})
}
