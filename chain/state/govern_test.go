package state

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// council is a grid that a group of 1, 2 and 3 governs: party 7 of 7.
func council(t *testing.T) (*grid, identity.Party) {
	return newGridWith(t, 6, func(gen *Genesis) {
		gen.Parties = append(gen.Parties, GenesisParty{Group: &chain.CreateGroup{Members: seats(1, 2, 3), Policies: ruled(2)}, Balance: rich})
		gen.Governance = 7
	}), 7
}

// decree lets the council do something, and gives what became of it.
func (g *grid) decree(ms ...chain.Message) *chain.Proposal {
	g.t.Helper()
	id := g.propose(1, 7, ms...)
	g.approve(1, id)
	g.approve(2, id)
	return g.work().proposal(id)
}

func key32(b byte) chain.Bytes { return chain.Bytes(strings.Repeat(string(rune(b)), 32)) }

func four() []chain.Validator {
	return []chain.Validator{{Key: make([]byte, 32), Power: 2}, {Key: key32(1), Power: 1}, {Key: key32(2), Power: 1}, {Key: key32(3), Power: 1}}
}

// TestOnlyGovernanceGoverns: neither a member alone, nor another group, nor the
// group of another chain's number can.
func TestOnlyGovernanceGoverns(t *testing.T) {
	g, _ := council(t)
	other := g.group(1, seats(1, 2), ruled(1))
	for _, m := range []chain.Message{
		&chain.Mint{To: 1, Amount: chain.Credit},
		&chain.Burn{Amount: 1},
		&chain.SetParams{},
		&chain.SetValidators{Validators: four()},
		&chain.ScheduleUpgrade{Height: 1 << 30, Release: chain.Hash{1}, Version: 1},
	} {
		for _, p := range []identity.Party{1, 5} {
			g.refuse(fault.Denied, p, m)
		}
		id := g.propose(1, other, m)
		g.approve(1, id)
		if p := g.wantState(id, chain.ProposalFailed); p.Why != "messages[0]: denied" {
			t.Errorf("%s: %+v", m.Code(), p)
		}
	}
	nobody := newGridWith(t, 2, func(gen *Genesis) { gen.Governance = 0 })
	if s := nobody.refuse(fault.Denied, 1, &chain.SetParams{}); !strings.Contains(s, "nobody governs") {
		t.Error(s)
	}
	if p := g.decree(&chain.Mint{To: 5, Amount: chain.Credit}, &chain.Burn{Amount: rich / 2}); p.State != chain.ProposalExecuted || g.get(5).Balance != rich+chain.Credit || g.get(7).Balance != rich/2 {
		t.Errorf("%+v, party 5 has %s", p, amount(g.get(5).Balance))
	}
}

func TestSetParams(t *testing.T) {
	g, _ := council(t)
	for name, p := range map[string]chain.Params{
		"treasury that doesn't exist": {Treasury: 99},
		"arbiter that doesn't exist":  {Arbiter: 99},
		"auditor that doesn't exist":  {Auditors: []identity.Party{1, 99}},
		"votes that nobody can pay":   {Fees: []chain.Fee{{Code: 404, Fee: chain.Credit + 1}}},
		"all that nobody can pay":     {Fees: []chain.Fee{{Code: 0, Fee: chain.Credit + 1}}},
	} {
		if got := g.decree(&chain.SetParams{Params: p}); got.State != chain.ProposalFailed {
			t.Errorf("%s: %+v", name, got)
		}
	}
	want := chain.Params{Fees: []chain.Fee{{Code: 301, Fee: 50 * chain.Credit}}, NameRate: 5, Treasury: 4, Arbiter: 5, Auditors: []identity.Party{6}}
	if p := g.decree(&chain.SetParams{Params: want}); p.State != chain.ProposalExecuted {
		t.Fatalf("%+v", p)
	}
	if d := cmp.Diff(&want, g.work().params()); d != "" || g.work().treasury() != 4 {
		t.Error(d)
	}
}

func TestValidatorChanges(t *testing.T) {
	g, _ := council(t)
	result := func(vs []chain.Validator) Result {
		t.Helper()
		id := g.propose(1, 7, &chain.SetValidators{Validators: vs})
		g.approve(1, id)
		r := g.block(g.sign(2, &chain.Vote{Proposal: id, Approve: true}))
		g.wantState(id, chain.ProposalExecuted)
		return r
	}
	if got := result(four()).Validators; !cmp.Equal(got, four()) {
		t.Errorf("%+v", got) // the first has another power, the others are new
	}
	if got := g.after(1).Validators; got != nil {
		t.Errorf("a block without a change: %+v", got)
	}
	if got := result(four()).Validators; got != nil {
		t.Errorf("the same again: %+v", got)
	}
	named := four()
	named[0].Name = "alpha"
	if got := result(named).Validators; got != nil {
		t.Errorf("another name: %+v", got)
	}
	if got, want := result(four()[1:2]).Validators, []chain.Validator{{Key: make([]byte, 32), Name: "alpha"}, {Key: key32(2)}, {Key: key32(3)}}; !cmp.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for name, m := range map[string]*chain.SetValidators{
		"none": {}, "three": {Validators: four()[:3]}, "no power": {Validators: []chain.Validator{{Key: key32(1)}}},
		"short key": {Validators: []chain.Validator{{Key: key32(1)[:31], Power: 1}}},
		"twice":     {Validators: []chain.Validator{four()[1], four()[1]}, Force: true},
	} {
		if s := g.refuse(fault.Invalid, 1, &chain.Propose{Group: 7, Messages: chain.Pack(m)}); !strings.Contains(s, "validators") {
			t.Errorf("%s: %s", name, s)
		}
	}
	// Two changes in a block are told as one.
	one := g.propose(1, 7, &chain.SetValidators{Validators: four()})
	two := g.propose(1, 7, &chain.SetValidators{Validators: four()[1:2]})
	g.approve(1, one)
	g.approve(1, two)
	r := g.block(g.sign(2, &chain.Vote{Proposal: one, Approve: true}, &chain.Vote{Proposal: two, Approve: true}))
	if r.Validators != nil || !r.Txs[0].OK() {
		t.Errorf("there and back: %+v", r)
	}
}

func TestScheduleUpgrade(t *testing.T) {
	g, _ := council(t)
	at := func(height uint64) *chain.ScheduleUpgrade {
		return &chain.ScheduleUpgrade{Height: height, Release: chain.Hash{7}, Version: Version}
	}
	// The proposal runs three blocks after this one.
	for name, m := range map[string]*chain.ScheduleUpgrade{
		"past": at(1), "now": at(g.height + 3), "the next block": at(g.height + 4),
		"older":      {Height: 1 << 30, Release: chain.Hash{7}, Version: Version - 1},
		"far newer":  {Height: 1 << 30, Release: chain.Hash{7}, Version: Version + 2},
		"no release": {Height: 1 << 30, Version: Version},
		"no upgrade": at(0),
	} {
		if m.Height > 1 && m.Height < 1<<30 {
			m.Height = g.height + 3 + m.Height%2
		}
		if p := g.decree(m); p.State != chain.ProposalFailed {
			t.Errorf("%s: %+v", name, p)
		}
	}
	g.decree(at(g.height + 100))
	if p := g.decree(at(0)); p.State != chain.ProposalExecuted || g.work().l.Get(chain.UpgradeKey()) != nil {
		t.Errorf("cancel: %+v", p)
	}
	last := g.height + 6
	g.decree(at(last))
	for g.height < last-2 {
		if r := g.after(1); r.Halt != nil {
			t.Fatalf("halt after height %d", g.height)
		}
	}
	if r := g.after(1); r.Halt == nil || r.Halt.Height != last || r.Halt.Release != (chain.Hash{7}) {
		t.Errorf("after height %d: %+v", g.height, r.Halt)
	}
	if r := g.after(1); r.Halt != nil {
		t.Error("the new binary halts too")
	}
}

func TestPublishers(t *testing.T) {
	g, _ := council(t)
	keys := func(n uint64) []identity.PublicKey { return []identity.PublicKey{testKey(n).Public()} }
	g.do(4, &chain.RegisterPublisher{Name: "acme", Keys: keys(1)})
	g.refuse(fault.Conflict, 5, &chain.RegisterPublisher{Name: "acme", Keys: keys(2)})
	g.do(4, &chain.RegisterPublisher{Name: "acme", Keys: keys(3)})
	if p := get[chain.Publisher](g.work().l, chain.PublisherKey("acme")); p.Owner != 4 || p.Keys[0] != testKey(3).Public() {
		t.Errorf("%+v", p)
	}
	release := func(version uint64) *chain.PublishRelease {
		return &chain.PublishRelease{Publisher: "acme", Name: "web", Version: version, Root: chain.Hash{byte(version)}}
	}
	g.do(4, release(3))
	g.refuse(fault.Denied, 5, release(4))
	for _, v := range []uint64{1, 2, 3} {
		g.refuse(fault.Conflict, 4, release(v))
	}
	g.refuse(fault.Conflict, 4, &chain.PublishRelease{Publisher: "acme", Name: "web", Version: 3, Root: chain.Hash{9}})
	g.refuse(fault.Invalid, 4, &chain.PublishRelease{Publisher: "acme", Name: "web", Version: 4})
	g.refuse(fault.Invalid, 4, &chain.PublishRelease{Publisher: "acme", Name: "../web", Version: 4, Root: chain.Hash{9}})
	g.refuse(fault.NotFound, 4, &chain.PublishRelease{Publisher: "acmf", Name: "web", Version: 4, Root: chain.Hash{9}})
	g.do(4, release(10))
	if r := get[chain.Release](g.work().l, chain.ReleaseKey("acme", "web")); r.Version != 10 || r.Time != g.now {
		t.Errorf("%+v", r)
	}

	// The system's own releases are the council's, by its release policy.
	if p := g.decree(&chain.RegisterPublisher{Name: "zos", Keys: keys(9)}); p.State != chain.ProposalExecuted || !cmp.Equal(p.Classes, []chain.Class{chain.ClassRelease}) {
		t.Errorf("%+v", p)
	}
	g.refuse(fault.Denied, 1, &chain.PublishRelease{Publisher: "zos", Name: "os", Version: 1, Root: chain.Hash{1}})
	if p := g.decree(&chain.PublishRelease{Publisher: "zos", Name: "os", Version: 1, Root: chain.Hash{1}}); p.State != chain.ProposalExecuted {
		t.Errorf("%+v", p)
	}
}
