package state

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// TestNoProposalStopsABlock lets a group that governs, owns a farm and rents try
// everything that a group can, with arbitrary fields, at once or after a delay,
// among support requests and time that goes by. What fails is recorded, nothing
// is a bug, and everything adds up after every block.
func TestNoProposalStopsABlock(t *testing.T) {
	var codes []chain.Code
	for _, c := range chain.Codes() {
		if _, ok := chain.ClassOf(c); ok {
			codes = append(codes, c)
		}
	}
	ended := make(map[string]int)
	rapid.Check(t, func(rt *rapid.T) {
		slow := ruled(1)
		slow[0].MinDelay, slow[6].MinDelay = 30, 90 // cancel, spend
		const council = 6
		g := newGridWith(t, 5, func(gen *Genesis) {
			gen.Parties = append(gen.Parties, GenesisParty{Group: &chain.CreateGroup{Members: seats(1, 2), Policies: slow}, Balance: rich})
			gen.Governance = council
		})
		look := func(events []chain.Event) {
			for _, e := range events {
				if strings.Contains(e.Reason, "bug") || e.Type == "chain.bug" {
					rt.Fatalf("%+v", e)
				}
				ended[e.Type]++
			}
		}
		g.audit = false
		n := g.node(g.farm(2), 2, testMachine())
		if rapid.Bool().Draw(rt, "tenant") {
			g.deploy(3, n, small(), chain.Credit)
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			by := identity.Party(rapid.IntRange(1, 3).Draw(rt, "by"))
			var ms []chain.Message
			switch rapid.IntRange(0, 9).Draw(rt, "op") {
			case 0:
				look(g.after(rapid.SampledFrom([]int64{0, 1, 60, 3600, 3_000_000}).Draw(rt, "gap")).Events)
			case 1:
				ms = append(ms, &chain.RequestSupport{Node: n, Purpose: "x", Scope: chain.ScopeLogs, From: g.now, Until: g.now + rapid.Int64Range(1, 900).Draw(rt, "until")})
			case 2:
				ms = append(ms, &chain.ConsentSupport{Request: metaOf(g.work().l).LastID})
			case 3:
				ms = append(ms, &chain.Vote{Proposal: metaOf(g.work().l).LastID, Approve: rapid.Bool().Draw(rt, "yes")})
			default:
				var inner []chain.Message
				for range rapid.IntRange(1, 3).Draw(rt, "messages") {
					m, err := chain.New(rapid.SampledFrom(codes).Draw(rt, "code"))
					if err != nil {
						rt.Fatal(err)
					}
					fill(rt, g, council, reflect.ValueOf(m).Elem(), 0)
					switch m := m.(type) { // of some, more that succeed
					case *chain.CreateRentContract:
						m.Node, m.ID = n, council<<24|identity.ContractID(g.get(council).Serial+1)
						m.MaxRate, m.Deposit = 1<<60, 100*chain.Credit
					case *chain.UpdateGroup:
						m.Members, m.Policies = seats(1, identity.Party(rapid.IntRange(2, 5).Draw(rt, "member"))), slow
					case *chain.DeregisterNode:
						m.Node = n
					}
					if m.Check() == nil {
						inner = append(inner, m)
					}
				}
				if len(inner) == 0 {
					continue
				}
				ms = append(ms, &chain.Propose{Group: council, Messages: chain.Pack(inner...), Approve: true})
			}
			if len(ms) > 0 {
				r := g.block(g.sign(by, ms...))
				if r.Txs[0].Kind == fault.Internal {
					rt.Fatalf("%s: %s", ms[0].Code(), r.Txs[0].Error)
				}
				look(r.Events)
				look(r.Txs[0].Events)
			}
			if err := Audit(g.tree); err != nil {
				rt.Fatal(err)
			}
		}
	})
	for _, e := range []string{"proposal.executed", "proposal.failed", "support.granted", "support.ended"} {
		if ended[e] == 0 {
			t.Errorf("no %s in all runs: the test doesn't reach far enough", e)
		}
	}
	t.Log(ended)
}
