package state

import (
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
)

// BenchmarkDeploy compares a deployment of one owner with one of a group in which
// two of three decide: by signed approvals, and by a proposal with two votes.
func BenchmarkDeploy(b *testing.B) {
	for _, how := range []string{"owner", "execute", "propose"} {
		b.Run(how, func(b *testing.B) {
			g := newGrid(&testing.T{}, 4)
			g.audit = false
			farm := g.farm(2)
			var nodes []identity.Party
			for range 1 + b.N/1000 {
				m := testMachine()
				m.Capacity.CPU = 1 << 20
				nodes = append(nodes, g.node(farm, 2, m))
			}
			group := g.group(2, seats(2, 3, 4), ruled(2))
			g.do(2, &chain.Send{To: group, Amount: 500 * chain.Credit})
			owner := group
			if how == "owner" {
				owner = 3
			}
			last := metaOf(g.work().l).LastID
			var blocks [][][]byte
			sequence := map[identity.Party]uint64{2: g.get(2).Sequence, 3: g.get(3).Sequence}
			sign := func(p identity.Party, m chain.Message) []byte {
				sequence[p]++
				return g.signAt(p, sequence[p], m)
			}
			for i := range b.N {
				m := &chain.CreateNodeContract{ID: g.id(owner), Node: nodes[i/1000], Capacity: chain.Capacity{CPU: 1}, MaxRate: 1 << 60, Deposit: 100_000}
				switch how {
				case "owner":
					blocks = append(blocks, [][]byte{sign(3, m)})
				case "execute":
					a := chain.Approval{Chain: "test-1", Group: group, Sequence: uint64(i + 1), Expires: g.now + 3600, Messages: chain.Pack(m)}
					e := &chain.Execute{Group: group, Sequence: a.Sequence, Expires: a.Expires, Messages: a.Messages}
					for _, p := range []identity.Party{2, 3} {
						e.Consents = append(e.Consents, chain.Consent{Party: p, Signature: g.keys[p].SignAs(0, identity.TagApprove, a.Encode())})
					}
					blocks = append(blocks, [][]byte{sign(3, e)})
				case "propose":
					blocks = append(blocks, [][]byte{sign(2, &chain.Propose{Group: group, Messages: chain.Pack(m), Approve: true}),
						sign(3, &chain.Vote{Proposal: last + uint64(i) + 1, Approve: true})})
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, txs := range blocks {
				g.after(0, txs...)
			}
			b.StopTimer()
			if got := g.get(owner).Serial; got != uint32(b.N) {
				b.Fatalf("%d of %d were made", got, b.N)
			}
			if c := g.contract(identity.ContractID(owner)<<24 | identity.ContractID(b.N)); c == nil {
				b.Fatal("the last one was not made")
			}
		})
	}
}
