package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// ruled are policies for some classes, or for all of them, that want a threshold.
func ruled(threshold uint32, classes ...chain.Class) []chain.Policy {
	if len(classes) == 0 {
		classes = chain.Classes()
	}
	slices.Sort(classes)
	var ps []chain.Policy
	for _, c := range classes {
		ps = append(ps, chain.Policy{Class: c, Threshold: threshold, Expiry: 3600})
	}
	return ps
}

// each of the parties has the weight 1.
func seats(parties ...identity.Party) []chain.Member {
	var ms []chain.Member
	for _, p := range parties {
		ms = append(ms, chain.Member{Party: p, Weight: 1})
	}
	return ms
}

func (g *grid) group(by identity.Party, members []chain.Member, policies []chain.Policy) identity.Party {
	g.t.Helper()
	return g.do(by, &chain.CreateGroup{Members: members, Policies: policies}).Events[0].Party
}

func (g *grid) propose(by, group identity.Party, ms ...chain.Message) uint64 {
	g.t.Helper()
	return g.do(by, &chain.Propose{Group: group, Messages: chain.Pack(ms...)}).Events[0].ID
}

func (g *grid) approve(by identity.Party, id uint64) TxResult {
	g.t.Helper()
	return g.do(by, &chain.Vote{Proposal: id, Approve: true})
}

// wantState wants a proposal to be in a state.
func (g *grid) wantState(id uint64, want chain.ProposalState) *chain.Proposal {
	g.t.Helper()
	p := g.work().proposal(id)
	if p == nil || p.State != want {
		g.t.Fatalf("proposal %d is %+v, want %s", id, p, want)
	}
	return p
}

// funded makes a grid of 6 twins with a group of 2, 3 and 4 in which two of three
// decide, and which has 100 credits.
func funded(t *testing.T) (*grid, identity.Party) {
	g := newGrid(t, 6)
	group := g.group(2, seats(2, 3, 4), ruled(2))
	g.do(2, &chain.Send{To: group, Amount: 100 * chain.Credit})
	return g, group
}

// rich is what a twin has at the beginning.
const rich = 1000 * chain.Credit

// loot is the money that attackers are after.
func loot() chain.Message { return &chain.Send{To: 6, Amount: chain.Credit} }

func TestTwoOfThree(t *testing.T) {
	g, group := funded(t)
	id := g.propose(2, group, loot(), &chain.Send{To: 5, Amount: 2})
	g.approve(4, id)
	if g.get(6).Balance != rich {
		t.Fatal("one of three moved money")
	}
	r := g.approve(3, id)
	g.wantState(id, chain.ProposalExecuted)
	if g.get(6).Balance != rich+chain.Credit || g.get(5).Balance != rich+2 {
		t.Error("two of three did not move the money")
	}
	var types []string
	for _, e := range r.Events {
		types = append(types, e.Type)
	}
	if want := []string{"proposal.voted", "credits.sent", "credits.sent", "proposal.executed"}; !cmp.Equal(types, want) {
		t.Errorf("events %v, want %v", types, want)
	}
	if s := g.refuse(fault.Conflict, 2, &chain.Vote{Proposal: id, Approve: true}); !strings.Contains(s, "executed") {
		t.Error(s)
	}
}

// TestConsentAttacks: in none of these may the money of the group move.
func TestConsentAttacks(t *testing.T) {
	update := func(group identity.Party, g *grid, members []chain.Member, policies []chain.Policy) {
		id := g.propose(2, group, &chain.UpdateGroup{Members: members, Policies: policies})
		g.approve(2, id)
		g.approve(3, id)
		if p := g.work().proposal(id); p.State == chain.ProposalOpen {
			g.approve(4, id)
		}
		g.wantState(id, chain.ProposalExecuted)
	}
	must := ruled(1)
	for i := range must {
		must[i].Must = []identity.Party{4}
	}
	slow := ruled(2)
	for i := range slow {
		slow[i].MinDelay = 600
	}
	for name, attack := range map[string]func(g *grid, group identity.Party) (uint64, chain.ProposalState){
		"one of three": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
		"votes twice": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.do(2, &chain.Vote{Proposal: id, Approve: true}, &chain.Vote{Proposal: id, Approve: true})
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
		"approves with the proposal and again": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.do(2, &chain.Propose{Group: group, Messages: chain.Pack(loot()), Approve: true}).Events[0].ID
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
		"vote taken back": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.do(2, &chain.Vote{Proposal: id})
			g.approve(3, id)
			return id, chain.ProposalOpen
		},
		"a stranger": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			g.refuse(fault.Denied, 5, &chain.Propose{Group: group, Messages: chain.Pack(loot()), Approve: true})
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.refuse(fault.Denied, 5, &chain.Vote{Proposal: id, Approve: true})
			g.refuse(fault.Denied, 1, &chain.Vote{Proposal: id, Approve: true})
			return id, chain.ProposalOpen
		},
		"member removed after voting": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(4, id)
			update(group, g, seats(2, 3), ruled(2))
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
		"member removed and taken in again": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(4, id)
			update(group, g, seats(2, 3), ruled(2))
			update(group, g, seats(2, 3, 4), ruled(2))
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
		"proposer removed": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.do(4, &chain.Propose{Group: group, Messages: chain.Pack(loot()), Approve: true}).Events[0].ID
			update(group, g, seats(2, 3), ruled(2))
			g.refuse(fault.Denied, 4, &chain.Vote{Proposal: id, Approve: true})
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
		"weight changed in flight": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			heavy := seats(2, 3, 4)
			heavy[2].Weight = 5
			update(group, g, heavy, ruled(4))
			id := g.propose(2, group, loot())
			g.approve(2, id)
			down := g.propose(2, group, &chain.UpdateGroup{Members: seats(2, 3, 4), Policies: ruled(3)})
			g.approve(4, down) // alone: 5 of 4
			g.wantState(down, chain.ProposalExecuted)
			g.approve(4, id) // 1 and 1 of 3
			return id, chain.ProposalOpen
		},
		"threshold raised in flight": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			update(group, g, seats(2, 3, 4), ruled(3))
			g.approve(3, id)
			return id, chain.ProposalOpen
		},
		"without the one who must": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			update(group, g, seats(2, 3, 4), must)
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.approve(3, id)
			return id, chain.ProposalOpen
		},
		"against the one who must": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			update(group, g, seats(2, 3, 4), must)
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.do(4, &chain.Vote{Proposal: id})
			return id, chain.ProposalRejected
		},
		"two reject": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.do(3, &chain.Vote{Proposal: id})
			g.wantState(id, chain.ProposalOpen)
			g.do(4, &chain.Vote{Proposal: id})
			g.refuse(fault.Conflict, 4, &chain.Vote{Proposal: id, Approve: true})
			return id, chain.ProposalRejected
		},
		"the easier class": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			mixed := ruled(3)
			for i := range mixed {
				if mixed[i].Class == chain.ClassSupport {
					mixed[i].Threshold = 1
				}
			}
			update(group, g, seats(2, 3, 4), mixed)
			id := g.propose(2, group, &chain.ConsentSupport{Request: 1}, loot())
			g.approve(2, id)
			g.approve(3, id)
			return id, chain.ProposalOpen
		},
		"funding a stranger's contract is spending": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			n := g.node(g.farm(5), 5, testMachine())
			theirs := g.deploy(1, n, small(), smallLeast)
			easy := ruled(3)
			for i := range easy {
				if easy[i].Class == chain.ClassDeploy {
					easy[i].Threshold = 1
				}
			}
			update(group, g, seats(2, 3, 4), easy)
			id := g.propose(2, group, &chain.TopUp{ID: theirs, Amount: chain.Credit})
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
		"class taken away in flight": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			update(group, g, seats(2, 3, 4), ruled(2, chain.ClassMembers))
			g.after(1)
			g.refuse(fault.Conflict, 3, &chain.Vote{Proposal: id, Approve: true})
			return id, chain.ProposalRejected
		},
		"after its expiry": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.after(3600)
			g.refuse(fault.Conflict, 3, &chain.Vote{Proposal: id, Approve: true})
			return id, chain.ProposalExpired
		},
		"expiry shortened in flight": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			short := ruled(2)
			for i := range short {
				short[i].Expiry = 60
			}
			update(group, g, seats(2, 3, 4), short)
			g.after(60)
			g.refuse(fault.Conflict, 3, &chain.Vote{Proposal: id, Approve: true})
			return id, chain.ProposalExpired
		},
		"withdrawn": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.refuse(fault.Denied, 3, &chain.Withdraw{Proposal: id})
			g.do(2, &chain.Withdraw{Proposal: id})
			g.refuse(fault.Conflict, 2, &chain.Withdraw{Proposal: id})
			g.refuse(fault.Conflict, 3, &chain.Vote{Proposal: id, Approve: true})
			return id, chain.ProposalWithdrawn
		},
		"before its delay": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			update(group, g, seats(2, 3, 4), slow)
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.approve(3, id)
			g.after(500)
			return id, chain.ProposalOpen
		},
		"a vote taken back during the delay": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			update(group, g, seats(2, 3, 4), slow)
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.approve(3, id)
			g.do(3, &chain.Vote{Proposal: id})
			g.after(700)
			return id, chain.ProposalOpen
		},
		"delay lengthened in flight": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			update(group, g, seats(2, 3, 4), slow)
			g.approve(3, id)
			g.after(500)
			return id, chain.ProposalOpen
		},
		"delay shortened in flight": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			slowSpend := ruled(2)
			for i := range slowSpend {
				if slowSpend[i].Class == chain.ClassSpend {
					slowSpend[i].MinDelay = 600
				}
			}
			update(group, g, seats(2, 3, 4), slowSpend)
			id := g.propose(2, group, loot())
			update(group, g, seats(2, 3, 4), ruled(2))
			g.approve(2, id)
			g.approve(3, id)
			g.after(500)
			return id, chain.ProposalOpen
		},
		"a later message fails": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot(), &chain.Send{To: 6, Amount: 1000 * chain.Credit})
			g.approve(2, id)
			r := g.approve(3, id)
			if last := r.Events[len(r.Events)-1]; last.Type != "proposal.failed" || !strings.Contains(last.Reason, "messages[1]: Send: party") {
				g.t.Errorf("%+v", r.Events)
			}
			if why := g.work().proposal(id).Why; why != "messages[1]: funds" {
				g.t.Errorf("why %q", why)
			}
			g.refuse(fault.Conflict, 3, &chain.Vote{Proposal: id, Approve: true})
			return id, chain.ProposalFailed
		},
		"it fails when its delay is over": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			update(group, g, seats(2, 3, 4), slow)
			id := g.propose(2, group, loot(), &chain.UpdateContract{ID: identity.ContractID(group)<<24 | 1, Version: 2})
			g.approve(2, id)
			g.approve(3, id)
			events := g.after(700).Events
			if len(events) != 1 || events[0].Type != "proposal.failed" {
				g.t.Errorf("%+v", events)
			}
			return id, chain.ProposalFailed
		},
		"a member's transaction fails after the vote": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.approve(2, id)
			g.refuse(fault.Funds, 3, &chain.Vote{Proposal: id, Approve: true}, &chain.Send{To: 2, Amount: 5 * rich})
			return id, chain.ProposalOpen
		},
		"a deploy key of a member": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			key := testKey(99)
			g.do(3, &chain.AddKey{Key: chain.NewKey{Key: key.Public(), Role: identity.RoleDeploy, Limit: 1 << 60}})
			id := g.propose(2, group, loot())
			g.approve(2, id)
			wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: 3, Sequence: g.get(3).Sequence + 1, Expires: g.now + 600,
				Messages: chain.Pack(&chain.Vote{Proposal: id, Approve: true})}, chain.Signer{Index: 1, Key: key})
			if err != nil {
				g.t.Fatal(err)
			}
			if r := g.block(wire).Txs[0]; r.Kind != fault.Denied {
				g.t.Errorf("%+v", r)
			}
			return id, chain.ProposalOpen
		},
		"a twin changes the group": func(g *grid, group identity.Party) (uint64, chain.ProposalState) {
			id := g.propose(2, group, loot())
			g.refuse(fault.Denied, 2, &chain.UpdateGroup{Members: seats(2), Policies: ruled(1)})
			g.approve(2, id)
			return id, chain.ProposalOpen
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, group := funded(t)
			id, want := attack(g, group)
			g.wantState(id, want)
			if have, got := g.get(group).Balance, g.get(6).Balance; have != 100*chain.Credit || got != rich {
				t.Errorf("the group has %s, the thief %s more", amount(have), amount(got-rich))
			}
		})
	}
}

// TestWhatAGroupCannotPropose: consent within consent has no end.
func TestWhatAGroupCannotPropose(t *testing.T) {
	g, group := funded(t)
	for _, m := range []chain.Message{
		&chain.Propose{Group: group, Messages: chain.Pack(loot())},
		&chain.Execute{Group: group, Messages: chain.Pack(loot()), Consents: []chain.Consent{{Party: 2}}},
		&chain.Withdraw{Proposal: 1},
		&chain.CreateGroup{Members: seats(2), Policies: ruled(1)},
		&chain.AddKey{Key: chain.NewKey{Key: testKey(1).Public(), Role: identity.RoleFull}},
	} {
		s := g.refuse(fault.Invalid, 2, &chain.Propose{Group: group, Messages: chain.Pack(m)})
		if !strings.Contains(s, "a group can't execute "+m.Code().String()) {
			t.Errorf("%s: %s", m.Code(), s)
		}
	}
	if s := g.refuse(fault.Invalid, 2, &chain.Propose{Group: 3, Messages: chain.Pack(loot())}); !strings.Contains(s, "twin") {
		t.Error(s)
	}
	narrow := g.group(2, seats(2, 3), ruled(1, chain.ClassDeploy, chain.ClassMembers))
	if s := g.refuse(fault.Denied, 2, &chain.Propose{Group: narrow, Messages: chain.Pack(loot())}); !strings.Contains(s, "no policy for spend") {
		t.Error(s)
	}
	never := ruled(1, chain.ClassSpend, chain.ClassMembers)
	never[0].MinDelay, never[0].Expiry = 1000, 2000
	never[1].Expiry = 900
	odd := g.group(2, seats(2, 3), never)
	g.refuse(fault.Invalid, 2, &chain.Propose{Group: odd, Messages: chain.Pack(loot(), &chain.UpdateGroup{Members: seats(2), Policies: ruled(1)})})
}

// TestExecute replays and bends approvals that were signed elsewhere.
func TestExecute(t *testing.T) {
	g, group := funded(t)
	other := g.group(2, seats(2, 3, 4), ruled(2))
	g.do(2, &chain.Send{To: other, Amount: 100 * chain.Credit})
	slow := ruled(2)
	slow[6].MinDelay = 60 // spend
	waits := g.group(2, seats(2, 3, 4), slow)
	nested := g.group(2, seats(2, other), ruled(1))
	g.do(3, &chain.AddKey{Key: chain.NewKey{Key: testKey(50).Public(), Role: identity.RoleDeploy, Limit: 1 << 60}})

	// made is a good execution; signed changes what the members sign, sent what
	// is sent.
	made := func(signed func(*chain.Approval), sent func(*chain.Execute), signers ...identity.Party) *chain.Execute {
		a := chain.Approval{Chain: "test-1", Group: group, Sequence: g.get(group).Sequence + 1, Expires: g.now + 600, Messages: chain.Pack(loot())}
		signed(&a)
		m := &chain.Execute{Group: a.Group, Sequence: a.Sequence, Expires: a.Expires, Messages: a.Messages}
		for _, p := range signers {
			key := g.keys[p]
			if key == nil {
				key = g.keys[2]
			}
			m.Consents = append(m.Consents, chain.Consent{Party: p, Signature: key.SignAs(0, identity.TagApprove, a.Encode())})
		}
		sent(m)
		return m
	}
	asSigned, asSent := func(*chain.Approval) {}, func(*chain.Execute) {}
	good := made(asSigned, asSent, 2, 4)
	for name, c := range map[string]struct {
		m    *chain.Execute
		by   identity.Party
		kind fault.Kind
		says string
	}{
		"one of three":      {made(asSigned, asSent, 2), 2, fault.Denied, "spend has 1 of 2"},
		"from a stranger":   {good, 5, fault.Denied, "not a member"},
		"by a stranger":     {made(asSigned, asSent, 2, 5), 2, fault.Denied, "consents[1]: party 5"},
		"one twice":         {made(asSigned, asSent, 2, 2), 2, fault.Invalid, "each once"},
		"for another chain": {made(func(a *chain.Approval) { a.Chain = "test-2" }, asSent, 2, 4), 2, fault.Denied, "consents[0]"},
		"for another group": {made(func(a *chain.Approval) { a.Group = other }, func(m *chain.Execute) { m.Group = group }, 2, 4), 2, fault.Denied, "consents[0]"},
		"of the next sequence": {made(func(a *chain.Approval) { a.Sequence++ }, func(m *chain.Execute) { m.Sequence-- }, 2, 4),
			2, fault.Denied, "consents[0]"},
		"sequence too far": {made(func(a *chain.Approval) { a.Sequence++ }, asSent, 2, 4), 2, fault.Conflict, "the next is 1"},
		"other messages": {made(asSigned, func(m *chain.Execute) { m.Messages = chain.Pack(&chain.Send{To: 6, Amount: 9}) }, 2, 4),
			2, fault.Denied, "consents[0]"},
		"longer":   {made(asSigned, func(m *chain.Execute) { m.Expires++ }, 2, 4), 2, fault.Denied, "consents[0]"},
		"expired":  {made(func(a *chain.Approval) { a.Expires = g.now }, asSent, 2, 4), 2, fault.Expired, "ago"},
		"too long": {made(func(a *chain.Approval) { a.Expires = g.now + 4000 }, asSent, 2, 4), 2, fault.Invalid, "allow 3600"},
		"signed as a transaction": {made(asSigned, func(m *chain.Execute) {
			a := chain.Approval{Chain: "test-1", Group: group, Sequence: m.Sequence, Expires: m.Expires, Messages: m.Messages}
			m.Consents[1].Signature = g.keys[4].SignAs(0, identity.TagTx, a.Encode())
		}, 2, 4), 2, fault.Denied, "consents[1]"},
		"signed by a deploy key": {made(asSigned, func(m *chain.Execute) {
			a := chain.Approval{Chain: "test-1", Group: group, Sequence: m.Sequence, Expires: m.Expires, Messages: m.Messages}
			m.Consents[1].Signature = testKey(50).SignAs(1, identity.TagApprove, a.Encode())
		}, 2, 3), 2, fault.Denied, "deploy key"},
		"signed by a key that is gone": {made(asSigned, func(m *chain.Execute) { m.Consents[1].Signature.Key = 9 }, 2, 4), 2, fault.Denied, "no key 9"},
		"a group signs":                {made(func(a *chain.Approval) { a.Group = nested }, asSent, 2, other), 2, fault.Denied, "a group, which can't sign"},
		"a class with a delay":         {made(func(a *chain.Approval) { a.Group = waits }, asSent, 2, 4), 2, fault.Denied, "propose it instead"},
		"a failing message": {made(func(a *chain.Approval) {
			a.Messages = chain.Pack(loot(), &chain.Send{To: 6, Amount: rich})
		}, asSent, 2, 4), 2, fault.Funds, "messages[1]: Send"},
	} {
		if s := g.refuse(c.kind, c.by, c.m); !strings.Contains(s, c.says) {
			t.Errorf("%s: %q, want %q", name, s, c.says)
		}
		if g.get(6).Balance != rich {
			t.Fatalf("%s: the money moved", name)
		}
	}
	g.do(3, good)
	if g.get(6).Balance != rich+chain.Credit || g.get(group).Sequence != 1 {
		t.Errorf("the good one: %s, sequence %d", amount(g.get(6).Balance), g.get(group).Sequence)
	}
	if s := g.refuse(fault.Conflict, 3, good); !strings.Contains(s, "the next is 2") {
		t.Errorf("replayed: %s", s)
	}
	// The same in one transaction: all or nothing.
	again := made(asSigned, asSent, 2, 3)
	g.refuse(fault.Conflict, 2, again, again)
	if g.get(6).Balance != rich+chain.Credit {
		t.Error("half a transaction moved money")
	}
}

func TestSpendLimit(t *testing.T) {
	g, group := funded(t)
	limited := ruled(2)
	for i := range limited {
		if limited[i].Class == chain.ClassSpend {
			limited[i].Limit = 10 * chain.Credit
		}
	}
	agree := func(ms ...chain.Message) *chain.Proposal {
		t.Helper()
		id := g.propose(2, group, ms...)
		g.approve(2, id)
		g.approve(3, id)
		return g.work().proposal(id)
	}
	n := g.node(g.farm(5), 5, testMachine())
	theirs := g.deploy(6, n, small(), smallLeast)
	own := identity.ContractID(group)<<24 | 1
	agree(&chain.UpdateGroup{Members: seats(2, 3, 4), Policies: limited})
	if p := agree(&chain.Send{To: 5, Amount: 6 * chain.Credit}); p.State != chain.ProposalExecuted {
		t.Fatal(p)
	}
	for name, ms := range map[string][]chain.Message{
		"one send":                  {&chain.Send{To: 5, Amount: 5 * chain.Credit}},
		"two sends":                 {&chain.Send{To: 5, Amount: 2 * chain.Credit}, &chain.Send{To: 5, Amount: 3 * chain.Credit}},
		"funding another":           {&chain.TopUp{ID: theirs, Amount: 5 * chain.Credit}},
		"an amount that overflows":  {&chain.Send{To: 5, Amount: ^uint64(0)}},
		"the policy dropped before": {&chain.UpdateGroup{Members: seats(2, 3, 4), Policies: ruled(2, chain.ClassMembers)}, &chain.Send{To: 5, Amount: 1}},
	} {
		if p := agree(ms...); p.State != chain.ProposalFailed {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if got := g.get(5).Balance; got != rich+6*chain.Credit {
		t.Errorf("party 5 has %s", amount(got))
	}
	if p := agree(&chain.CreateNodeContract{ID: own, Node: n, Capacity: small(), MaxRate: 1 << 60, Deposit: 20 * chain.Credit}); p.State != chain.ProposalExecuted {
		t.Errorf("a deposit in an own contract is no spending: %+v", p)
	}
	if p := agree(&chain.Send{To: 5, Amount: 4 * chain.Credit}); p.State != chain.ProposalExecuted {
		t.Errorf("the rest of the day's limit: %+v", p)
	}
	g.after(86400)
	if p := agree(&chain.Send{To: 5, Amount: 10 * chain.Credit}); p.State != chain.ProposalExecuted {
		t.Errorf("the next day: %+v", p)
	}
}

func TestSerialsOfProposals(t *testing.T) {
	g, group := funded(t)
	n := g.node(g.farm(5), 5, testMachine())
	at := func(serial uint32) identity.ContractID {
		return identity.ContractID(group)<<24 | identity.ContractID(serial)
	}
	deploy := func(serial uint32) chain.Message {
		return &chain.CreateNodeContract{ID: at(serial), Node: n, Capacity: small(), MaxRate: 1 << 60, Deposit: smallLeast}
	}
	first := g.propose(2, group, deploy(2), deploy(1))
	if s := g.refuse(fault.Conflict, 3, &chain.Propose{Group: group, Messages: chain.Pack(deploy(2))}); !strings.Contains(s, "serial 2 already used, next is 3") {
		t.Error(s)
	}
	for _, ms := range [][]chain.Message{{deploy(identity.MaxSerial)}, {deploy(4)}, {deploy(3), deploy(5)}} {
		g.refuse(fault.Invalid, 3, &chain.Propose{Group: group, Messages: chain.Pack(ms...)})
	}
	g.refuse(fault.Conflict, 3, &chain.Propose{Group: group, Messages: chain.Pack(deploy(3), deploy(3))})
	foreign := deploy(3).(*chain.CreateNodeContract)
	foreign.ID = 6<<24 | 1
	g.refuse(fault.Denied, 3, &chain.Propose{Group: group, Messages: chain.Pack(foreign)})
	second := g.propose(3, group, deploy(3))
	third := g.propose(3, group, deploy(4))
	run := func(id uint64) {
		t.Helper()
		g.approve(2, id)
		g.approve(3, id)
		g.wantState(id, chain.ProposalExecuted)
	}
	run(second) // the later one first: the serials of the first stay good
	run(first)
	for _, serial := range []uint32{1, 2, 3} {
		if c := g.contract(at(serial)); c == nil || c.Owner != group {
			t.Errorf("contract %d: %+v", serial, c)
		}
	}
	// What an execution uses is not what a proposal reserved.
	a := chain.Approval{Chain: "test-1", Group: group, Sequence: 1, Expires: g.now + 60, Messages: chain.Pack(deploy(4))}
	m := &chain.Execute{Group: group, Sequence: 1, Expires: a.Expires, Messages: a.Messages}
	for _, p := range []identity.Party{2, 3} {
		m.Consents = append(m.Consents, chain.Consent{Party: p, Signature: g.keys[p].SignAs(0, identity.TagApprove, a.Encode())})
	}
	g.refuse(fault.Conflict, 2, m)
	run(third)
	if got := g.get(group).Serial; got != 4 {
		t.Errorf("serial %d", got)
	}
}

func TestGroupsInGroups(t *testing.T) {
	g, inner := funded(t)                                       // of 2, 3, 4
	outer := g.group(5, seats(5, 6, inner), ruled(2))           // of 5, 6 and the inner group
	g.do(2, &chain.Send{To: outer, Amount: 100 * chain.Credit}) //
	through := func(id uint64, approve bool) uint64 {
		t.Helper()
		in := g.propose(2, inner, &chain.Vote{Proposal: id, Approve: approve})
		g.approve(3, in)
		g.approve(4, in)
		return in
	}
	id := g.propose(5, outer, loot())
	g.approve(5, id)
	if s := g.refuse(fault.Denied, 2, &chain.Vote{Proposal: id, Approve: true}); !strings.Contains(s, "through group") {
		t.Error(s)
	}
	g.wantState(through(id, true), chain.ProposalExecuted)
	g.wantState(id, chain.ProposalExecuted)
	if got := g.get(6).Balance; got != rich+chain.Credit {
		t.Errorf("the receiver has %s", amount(got))
	}

	// The members of the inner group may propose, but not vote themselves.
	g.refuse(fault.Denied, 3, &chain.Propose{Group: outer, Messages: chain.Pack(loot()), Approve: true})
	byInner := g.propose(3, outer, loot())
	g.do(3, &chain.Withdraw{Proposal: byInner})

	// Rings and deeper nesting are refused.
	g.refuse(fault.Invalid, 5, &chain.CreateGroup{Members: seats(5, outer), Policies: ruled(1)})
	for name, members := range map[string][]chain.Member{"ring": seats(2, outer), "itself": seats(2, inner)} {
		ring := g.propose(2, inner, &chain.UpdateGroup{Members: members, Policies: ruled(1)})
		g.approve(2, ring)
		g.approve(3, ring)
		if p := g.wantState(ring, chain.ProposalFailed); p.Why != "messages[0]: invalid" {
			t.Errorf("%s: %+v", name, p)
		}
	}

	// A failure in the outer group is the outer group's.
	bad := g.propose(5, outer, &chain.Send{To: 6, Amount: 5 * rich})
	g.approve(5, bad)
	g.wantState(through(bad, true), chain.ProposalExecuted)
	g.wantState(bad, chain.ProposalFailed)

	// A member that becomes a group of groups loses its vote, also the one given.
	leaf := g.group(2, seats(2), ruled(1))
	id = g.propose(5, outer, loot())
	through(id, true)
	up := g.propose(2, inner, &chain.UpdateGroup{Members: seats(2, 3, 4, leaf), Policies: ruled(2)})
	g.approve(2, up)
	g.approve(3, up)
	g.wantState(up, chain.ProposalExecuted)
	g.approve(5, id)
	g.wantState(id, chain.ProposalOpen)
	late := g.propose(2, inner, &chain.Vote{Proposal: id, Approve: true})
	g.approve(3, late)
	g.approve(4, late)
	if p := g.wantState(late, chain.ProposalFailed); p.Why != "messages[0]: denied" {
		t.Errorf("%+v", p)
	}
	g.refuse(fault.Invalid, 5, &chain.CreateGroup{Members: seats(5, 999), Policies: ruled(1), Name: "x-"})
	g.refuse(fault.NotFound, 5, &chain.CreateGroup{Members: seats(5, 999), Policies: ruled(1)})
	n := g.node(g.farm(5), 5, testMachine())
	g.refuse(fault.Invalid, 5, &chain.CreateGroup{Members: seats(5, n), Policies: ruled(1)})
}

// TestSixtyFourMembersVoteInOneBlock: it runs once, in the vote that was enough.
func TestSixtyFourMembersVoteInOneBlock(t *testing.T) {
	g := newGrid(t, 66)
	var all []identity.Party
	for i := range 64 {
		all = append(all, identity.Party(i+2))
	}
	group := g.group(2, seats(all...), ruled(40))
	g.do(2, &chain.Send{To: group, Amount: 100 * chain.Credit})
	id := g.propose(2, group, &chain.Send{To: 66, Amount: chain.Credit})
	var wires [][]byte
	for _, p := range all {
		wires = append(wires, g.sign(p, &chain.Vote{Proposal: id, Approve: true}))
	}
	for i, r := range g.block(wires...).Txs {
		switch {
		case i < 40 && !r.OK(), i >= 40 && r.Kind != fault.Conflict:
			t.Errorf("vote %d: %q %s", i, r.Kind, r.Error)
		}
	}
	g.wantState(id, chain.ProposalExecuted)
	if got := g.get(66).Balance; got != rich+chain.Credit {
		t.Errorf("the receiver has %s", amount(got))
	}
}

// TestOneMemberCannotTakeAllPlaces: who fills the list of open proposals can't
// keep the others from removing him.
func TestOneMemberCannotTakeAllPlaces(t *testing.T) {
	g, group := funded(t)
	var last uint64
	for range 21 {
		last = g.propose(4, group, loot())
	}
	if s := g.refuse(fault.Exhausted, 4, &chain.Propose{Group: group, Messages: chain.Pack(loot())}); !strings.Contains(s, "21 of them from member 4") {
		t.Error(s)
	}
	out := g.propose(2, group, &chain.UpdateGroup{Members: seats(2, 3), Policies: ruled(2)})
	g.approve(2, out)
	g.approve(3, out)
	g.wantState(out, chain.ProposalExecuted)
	g.do(4, &chain.Withdraw{Proposal: last})
	g.refuse(fault.Denied, 4, &chain.Propose{Group: group, Messages: chain.Pack(loot())})
	g.after(3600)
	if open := g.work().proposals(group); len(open) != 0 {
		t.Errorf("open after their expiry: %v", open)
	}
}

// TestUpdateLooksAtOpenProposals: what a lower threshold lets through runs in the
// next block, and what ended is forgotten in the end.
func TestUpdateLooksAtOpenProposals(t *testing.T) {
	g, group := funded(t)
	id := g.propose(2, group, loot())
	g.approve(4, id)
	up := g.propose(2, group, &chain.UpdateGroup{Members: seats(2, 3, 4), Policies: ruled(1), Name: "easy"})
	g.approve(2, up)
	g.approve(3, up)
	g.wantState(id, chain.ProposalOpen)
	if events := g.after(0).Events; len(events) != 2 || events[1].Type != "proposal.executed" {
		t.Errorf("%+v", events)
	}
	g.wantState(id, chain.ProposalExecuted)
	g.after(proposalMemory - 1)
	g.wantState(id, chain.ProposalExecuted)
	g.after(1)
	g.after(1)
	if w := g.work(); w.proposal(id) != nil || w.proposal(up) != nil {
		t.Error("proposals are kept for ever")
	}
	if s := g.refuse(fault.NotFound, 2, &chain.Vote{Proposal: id}); !strings.Contains(s, "30 days") {
		t.Error(s)
	}
}

// TestDelayedProposalRuns in the block in which its delay is over.
func TestDelayedProposalRuns(t *testing.T) {
	g := newGrid(t, 6)
	slow := ruled(2)
	for i := range slow {
		slow[i].MinDelay = 600
	}
	group := g.group(2, seats(2, 3, 4), slow)
	g.do(2, &chain.Send{To: group, Amount: 100 * chain.Credit})
	id := g.propose(2, group, loot())
	made := g.now
	g.approve(2, id)
	g.approve(3, id)
	g.after(made + 599 - g.now)
	g.wantState(id, chain.ProposalOpen)
	g.after(1)
	g.wantState(id, chain.ProposalExecuted)
	// A vote after the delay runs it at once; a chain that stood too long doesn't.
	id, late := g.propose(2, group, loot()), g.propose(2, group, loot())
	g.approve(2, id)
	g.after(700)
	g.approve(2, late)
	g.approve(3, id)
	g.wantState(id, chain.ProposalExecuted)
	g.after(4000)
	g.wantState(late, chain.ProposalExpired)
}

// TestProposalsPayTheirMessages: a proposal is not the way to save fees.
func TestProposalsPayTheirMessages(t *testing.T) {
	g := newGridWith(t, 6, func(gen *Genesis) { gen.Params.Fees = []chain.Fee{{Fee: 10}, {Code: 501, Fee: 1000}} })
	group := g.group(2, seats(2, 3), ruled(1))
	r := g.do(2, &chain.Propose{Group: group, Messages: chain.Pack(loot(), loot(), &chain.Cancel{ID: identity.ContractID(group)<<24 | 1})})
	if r.Fee != 2020 {
		t.Errorf("fee %d, want 2020", r.Fee)
	}
}

// TestGenesisGroups: what no transaction could make can't be in a genesis.
func TestGenesisGroups(t *testing.T) {
	make := func(members ...[]chain.Member) error {
		gen := Genesis{Chain: "test-1", Validators: []chain.Validator{{Key: make([]byte, 32), Power: 1}}}
		gen.Parties = append(gen.Parties, GenesisParty{Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: testKey(1).Public(), Role: identity.RoleFull}}}})
		for _, ms := range members {
			gen.Parties = append(gen.Parties, GenesisParty{Group: &chain.CreateGroup{Members: ms, Policies: ruled(1)}})
		}
		return New(newMemory()).Init(gen)
	}
	if err := make(seats(1), seats(1, 2)); err != nil {
		t.Error(err)
	}
	for _, ms := range [][][]chain.Member{{seats(1), seats(1, 2), seats(1, 3)}, {seats(2)}, {seats(3), seats(1)}} {
		if err := make(ms...); fault.Of(err) != fault.Invalid {
			t.Errorf("%v: %v", fmt.Sprint(ms), err)
		}
	}
}
