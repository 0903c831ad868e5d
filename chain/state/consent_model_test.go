package state

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/chain"
	"zos.internal/identity"
)

// shadow is what a group decided, kept apart from the machine and counted anew
// from the events alone.
type shadow struct {
	weight   map[identity.Party]uint64
	policies map[chain.Class]chain.Policy
	open     map[uint64]*shadowProposal
	fresh    bool // the group changed since open proposals were looked at
}

type shadowProposal struct {
	classes  []chain.Class
	created  int64
	notUntil int64 // by the policies when it was made
	// What the strictest policies since then allow. The machine may not have seen
	// those that lived for a part of a block.
	latest, earliest int64
	update           *chain.UpdateGroup
	yes              map[identity.Party]bool
}

func (s *shadow) adopt(members []chain.Member, policies []chain.Policy) {
	s.weight, s.policies = make(map[identity.Party]uint64), make(map[chain.Class]chain.Policy)
	for _, m := range members {
		s.weight[m.Party] = uint64(m.Weight)
	}
	for _, p := range policies {
		s.policies[p.Class] = p
	}
	s.fresh = true
	for _, p := range s.open {
		p.tighten(s.policies)
		for who := range p.yes {
			if s.weight[who] == 0 {
				delete(p.yes, who)
			}
		}
	}
}

func (p *shadowProposal) tighten(policies map[chain.Class]chain.Policy) {
	for _, c := range p.classes {
		if policy, ok := policies[c]; ok {
			p.earliest = max(p.earliest, p.created+int64(policy.MinDelay))
			p.latest = min(p.latest, p.created+int64(policy.Expiry))
		}
	}
}

// may says whether a proposal has at this moment what it needs.
func (s *shadow) may(p *shadowProposal, now int64) bool {
	if now < p.notUntil {
		return false
	}
	for _, c := range p.classes {
		policy, ok := s.policies[c]
		if !ok || now < p.created+int64(policy.MinDelay) || now >= p.created+int64(policy.Expiry) {
			return false
		}
		var sum uint64
		for who, yes := range p.yes {
			if yes {
				sum += s.weight[who]
			}
		}
		for _, who := range policy.Must {
			if !p.yes[who] {
				return false
			}
		}
		if sum < uint64(policy.Threshold) {
			return false
		}
	}
	return true
}

// TestNothingRunsWithoutConsent plays random proposals, votes, changes of the
// group and waits, and wants everything that runs to have, in the very moment
// and by a second count, every weight that it needs; and what has them to run at
// the latest when the next block begins.
func TestNothingRunsWithoutConsent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { consentModel(t, rt) })
}

func consentModel(t *testing.T, rt *rapid.T) {
	g := newGrid(t, 6)
	members, policies := seats(2, 3, 4), ruled(2, chain.ClassMembers, chain.ClassSpend)
	group := g.group(2, members, policies)
	g.do(2, &chain.Send{To: group, Amount: chain.Credit})
	s := &shadow{open: make(map[uint64]*shadowProposal)}
	s.adopt(members, policies)
	var ids []uint64
	ran := 0

	follow := func(events []chain.Event) {
		for _, e := range events {
			p := s.open[e.ID]
			switch e.Type {
			case "proposal.voted":
				p.yes[e.Party] = e.Reason == "approve"
			case "proposal.executed", "proposal.failed":
				// What the proposal changed is known only now, when it has ended.
				if !s.may(p, g.now) {
					rt.Fatalf("height %d: %s %d without consent: votes %v, weights %v, policies %+v", g.height, e.Type, e.ID, p.yes, s.weight, s.policies)
				}
				ran++
				delete(s.open, e.ID)
				if e.Type == "proposal.executed" && p.update != nil {
					s.adopt(p.update.Members, p.update.Policies)
				}
			case "proposal.rejected", "proposal.expired", "proposal.withdrawn":
				delete(s.open, e.ID)
			}
		}
	}
	step := func(seconds int64, by identity.Party, ms ...chain.Message) {
		var wires [][]byte
		if len(ms) > 0 {
			wires = append(wires, g.sign(by, ms...))
		}
		r := g.after(seconds, wires...)
		s.fresh = false
		follow(r.Events) // of what was due: afterwards nothing is left that could run
		for id, p := range s.open {
			if !s.fresh && s.may(p, g.now) && p.earliest <= g.now && g.now < p.latest {
				rt.Fatalf("height %d: proposal %d has all consents and didn't run: %v of %v, %+v", g.height, id, p.yes, s.weight, s.policies)
			}
		}
		if len(wires) == 0 || !r.Txs[0].OK() {
			return
		}
		if m, ok := ms[0].(*chain.Propose); ok {
			inner, err := chain.Unpack(m.Messages)
			if err != nil {
				rt.Fatal(err)
			}
			p := &shadowProposal{created: g.now, yes: make(map[identity.Party]bool), classes: classesOf(group, inner)}
			for _, m := range inner {
				if u, ok := m.(*chain.UpdateGroup); ok {
					p.update = u
				}
			}
			p.latest = p.created + 1<<40
			p.tighten(s.policies)
			p.notUntil = p.earliest
			id := r.Txs[0].Events[0].ID
			s.open[id] = p
			ids = append(ids, id)
		}
		follow(r.Txs[0].Events)
	}
	party := func() identity.Party { return identity.Party(rapid.IntRange(2, 6).Draw(rt, "party")) }
	drawUpdate := func() chain.Message {
		u := &chain.UpdateGroup{}
		sum := 0
		for p := identity.Party(2); p <= 6; p++ {
			if w := rapid.IntRange(-1, 3).Draw(rt, "weight"); w > 0 {
				u.Members = append(u.Members, chain.Member{Party: p, Weight: uint32(w)})
				sum += w
			}
		}
		if sum == 0 {
			u.Members, sum = seats(2), 1
		}
		for _, c := range []chain.Class{chain.ClassMembers, chain.ClassSpend} {
			if c == chain.ClassSpend && rapid.IntRange(0, 5).Draw(rt, "without") == 0 {
				continue
			}
			p := chain.Policy{Class: c, Threshold: uint32(rapid.IntRange(1, sum).Draw(rt, "threshold")), Expiry: uint32(rapid.IntRange(60, 200).Draw(rt, "expiry"))}
			if rapid.IntRange(0, 2).Draw(rt, "delayed") == 0 {
				p.MinDelay = uint32(rapid.IntRange(1, 50).Draw(rt, "delay"))
			}
			if rapid.IntRange(0, 3).Draw(rt, "musts") == 0 {
				p.Must = []identity.Party{rapid.SampledFrom(u.Members).Draw(rt, "must").Party}
			}
			u.Policies = append(u.Policies, p)
		}
		return u
	}
	for range rapid.IntRange(5, 60).Draw(rt, "steps") {
		switch op := rapid.SampledFrom([]string{"propose", "propose", "vote", "vote", "vote", "vote", "vote", "withdraw", "wait"}).Draw(rt, "op"); op {
		case "propose":
			var ms []chain.Message
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0, 1:
				ms = []chain.Message{&chain.Send{To: 1, Amount: 1}}
			case 2:
				ms = []chain.Message{drawUpdate()}
			case 3:
				ms = []chain.Message{&chain.Send{To: 1, Amount: 1}, drawUpdate()}
			case 4:
				ms = []chain.Message{&chain.Send{To: 1, Amount: 1 << 62}}
			}
			step(1, party(), &chain.Propose{Group: group, Messages: chain.Pack(ms...), Approve: rapid.Bool().Draw(rt, "approve")})
		case "wait":
			step(int64(rapid.IntRange(0, 60).Draw(rt, "seconds")), 0)
		default:
			if len(ids) == 0 {
				continue
			}
			id := ids[len(ids)-1-rapid.IntRange(0, min(4, len(ids)-1)).Draw(rt, "proposal")]
			if op == "withdraw" {
				step(1, party(), &chain.Withdraw{Proposal: id})
				continue
			}
			step(1, party(), &chain.Vote{Proposal: id, Approve: rapid.IntRange(0, 4).Draw(rt, "yes") > 0})
		}
	}
	// The machine and the second count agree on what is open, and on the money.
	var open []uint64
	for _, o := range g.work().proposals(group) {
		open = append(open, o.ID)
	}
	if len(open) != len(s.open) || slices.ContainsFunc(open, func(id uint64) bool { return s.open[id] == nil }) {
		rt.Fatalf("open: %v, the second count has %d", open, len(s.open))
	}
	again := newGrid(t, 6)
	for _, b := range g.blocks {
		again.m.Apply(b)
	}
	if again.tree.root() != g.tree.root() {
		rt.Fatal("the same blocks gave another state")
	}
	if paid := g.get(1).Balance - rich; paid > uint64(ran) {
		rt.Fatalf("%d paid in %d runs", paid, ran)
	}
}
