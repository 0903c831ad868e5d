package state

import (
	"slices"
	"strings"
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// visit is a node of farmer 2 with a tenant, 4, to which 5 asks for access.
type visit struct {
	*grid
	node identity.Party
	id   uint64
}

func (v *visit) ask() uint64 {
	v.t.Helper()
	return v.do(5, &chain.RequestSupport{Node: v.node, Purpose: "disk errors", Scope: chain.ScopeDebug, From: v.now, Until: v.now + 3600}).Events[0].ID
}

func newVisit(t *testing.T) *visit {
	v := &visit{grid: newGrid(t, 6)}
	v.node = v.grid.node(v.farm(2), 2, testMachine())
	v.id = v.ask()
	return v
}

func (v *visit) rent(p identity.Party) identity.ContractID {
	v.t.Helper()
	id := v.grid.id(p)
	v.do(p, &chain.CreateRentContract{ID: id, Node: v.node, MaxRate: 1 << 60, Deposit: 100 * chain.Credit})
	return id
}

func (v *visit) want(state chain.SupportState, why chain.SupportEnd) *chain.Support {
	v.t.Helper()
	s := v.work().support(v.id)
	if s == nil || s.State != state || s.Why != why {
		v.t.Fatalf("request %d: %+v, want %s %q", v.id, s, state, why)
	}
	return s
}

func TestSupport(t *testing.T) {
	consent := func(v *visit) chain.Message { return &chain.ConsentSupport{Request: v.id} }
	revoke := func(v *visit) chain.Message { return &chain.RevokeSupport{Request: v.id} }
	report := func(v *visit) chain.Message {
		return &chain.ReportSupport{Request: v.id, Transcript: chain.Hash{1}}
	}
	const none = chain.SupportEnd("")
	for name, f := range map[string]func(v *visit){
		"no consent": func(v *visit) {
			if s := v.want(chain.SupportAsked, none); !slices.Equal(s.Needed, []identity.Party{2}) {
				t.Errorf("needed %v", s.Needed)
			}
			v.refuse(fault.Conflict, v.node, report(v))
		},
		"the farm consents": func(v *visit) {
			r := v.do(2, consent(v))
			if len(r.Events) != 2 || r.Events[1].Type != "support.granted" {
				t.Errorf("%+v", r.Events)
			}
			v.want(chain.SupportGranted, none)
			v.refuse(fault.Conflict, 2, consent(v))
		},
		"tenants are told at once": func(v *visit) {
			v.deploy(4, v.node, small(), smallLeast)
			v.deploy(4, v.node, small(), smallLeast)
			v.deploy(2, v.node, small(), smallLeast)
			events := v.do(2, consent(v)).Events
			if last := events[len(events)-1]; len(events) != 3 || last.Type != "support.tenant" || last.To != 4 || last.Until == 0 {
				t.Errorf("%+v", events)
			}
		},
		"a tenant, a stranger and the requester can't consent": func(v *visit) {
			v.deploy(4, v.node, small(), smallLeast)
			for _, p := range []identity.Party{4, 5, 6, v.node} {
				v.refuse(fault.Denied, p, consent(v))
			}
			v.want(chain.SupportAsked, none)
		},
		"half of the consents": func(v *visit) {
			v.rent(4)
			v.do(2, consent(v))
			if s := v.want(chain.SupportAsked, none); !slices.Equal(s.Needed, []identity.Party{2, 4}) || !slices.Equal(s.Given, []identity.Party{2}) {
				t.Errorf("%+v", s)
			}
			v.do(2, consent(v)) // again is no other one
			v.want(chain.SupportAsked, none)
			v.do(4, consent(v))
			v.want(chain.SupportGranted, none)
		},
		"a consent taken back before the grant": func(v *visit) {
			v.rent(4)
			v.do(2, consent(v))
			v.do(2, revoke(v))
			v.do(4, consent(v))
			v.want(chain.SupportAsked, none)
			v.do(2, consent(v))
			v.want(chain.SupportGranted, none)
		},
		"the renter refuses": func(v *visit) {
			v.rent(4)
			v.do(2, consent(v))
			v.do(4, revoke(v))
			v.want(chain.SupportEnded, chain.SupportRefused)
			v.refuse(fault.Conflict, 4, consent(v))
		},
		"revoked by the farm": func(v *visit) {
			v.do(2, consent(v))
			v.do(2, revoke(v))
			v.want(chain.SupportEnded, chain.SupportRevoked)
			v.refuse(fault.Conflict, 2, consent(v))
			v.refuse(fault.Conflict, 2, revoke(v))
		},
		"revoked by the renter": func(v *visit) {
			v.rent(4)
			v.do(2, consent(v))
			v.do(4, consent(v))
			v.do(4, revoke(v))
			v.want(chain.SupportEnded, chain.SupportRevoked)
		},
		"revoked by a stranger": func(v *visit) {
			v.do(2, consent(v))
			v.deploy(4, v.node, small(), smallLeast)
			for _, p := range []identity.Party{4, 6, v.node} {
				v.refuse(fault.Denied, p, revoke(v))
			}
			v.want(chain.SupportGranted, none)
		},
		"the requester takes it back": func(v *visit) {
			v.do(2, consent(v))
			v.do(5, revoke(v))
			v.want(chain.SupportEnded, chain.SupportWithdrawn)
		},
		"expired without consent": func(v *visit) {
			v.after(3600)
			v.want(chain.SupportEnded, chain.SupportExpired)
			v.refuse(fault.Conflict, 2, consent(v))
		},
		"expired after the grant": func(v *visit) {
			v.do(2, consent(v))
			s := v.want(chain.SupportGranted, none)
			v.after(s.Until - v.now - 1)
			v.want(chain.SupportGranted, none)
			v.after(1)
			v.want(chain.SupportEnded, chain.SupportExpired)
		},
		"a renter arrives after the grant": func(v *visit) {
			v.do(2, consent(v))
			v.rent(4)
			v.want(chain.SupportEnded, chain.SupportRented)
		},
		"the farmer rents it himself after the grant": func(v *visit) {
			v.do(2, consent(v))
			v.rent(2)
			v.want(chain.SupportGranted, none)
		},
		"a renter arrives between consents": func(v *visit) {
			first := v.rent(4)
			v.do(4, consent(v))
			v.do(4, &chain.Cancel{ID: first})
			v.rent(6)
			v.do(2, consent(v))
			v.refuse(fault.Denied, 4, consent(v))
			v.want(chain.SupportAsked, none)
			v.do(6, consent(v))
			v.want(chain.SupportGranted, none)
		},
		"the renter leaves before his consent": func(v *visit) {
			id := v.rent(4)
			v.do(2, consent(v))
			v.do(4, &chain.Cancel{ID: id})
			v.want(chain.SupportAsked, none)
			v.do(2, consent(v))
			v.want(chain.SupportGranted, none)
		},
		"the transcript": func(v *visit) {
			v.do(2, consent(v))
			other := v.grid.node(1, 2, testMachine())
			for _, p := range []identity.Party{2, 5, other} {
				v.refuse(fault.Denied, p, report(v))
			}
			v.refuse(fault.Invalid, v.node, &chain.ReportSupport{Request: v.id})
			v.after(3600)
			v.do(v.node, report(v))
			if s := v.want(chain.SupportEnded, chain.SupportExpired); s.Transcript != (chain.Hash{1}) {
				t.Errorf("%+v", s)
			}
			v.refuse(fault.Conflict, v.node, &chain.ReportSupport{Request: v.id, Transcript: chain.Hash{2}})
		},
		"the node closes the session": func(v *visit) {
			v.do(2, consent(v))
			v.do(v.node, report(v))
			if s := v.want(chain.SupportEnded, chain.SupportReported); s.Transcript != (chain.Hash{1}) {
				t.Errorf("%+v", s)
			}
		},
		"the node is gone": func(v *visit) {
			v.do(2, consent(v))
			v.do(2, &chain.DeregisterNode{Node: v.node})
			v.want(chain.SupportEnded, chain.SupportNode)
		},
		"what ended is forgotten": func(v *visit) {
			v.do(5, revoke(v))
			v.after(supportMemory)
			v.after(0)
			if s := v.work().support(v.id); s != nil {
				t.Errorf("%+v", s)
			}
			v.refuse(fault.NotFound, v.node, report(v))
			v.refuse(fault.NotFound, 2, consent(v))
		},
		"too many": func(v *visit) {
			for range maxRequests - 1 {
				v.ask()
			}
			ask := &chain.RequestSupport{Node: v.node, Purpose: "x", Scope: chain.ScopeLogs, From: v.now, Until: v.now + 60}
			v.refuse(fault.Exhausted, 5, ask)
			v.do(2, revoke(v)) // the farm clears the list
			v.do(5, ask)
		},
		"nonsense": func(v *visit) {
			for kind, m := range map[fault.Kind]*chain.RequestSupport{
				fault.NotFound: {Node: 6, Purpose: "x", Scope: chain.ScopeLogs, From: v.now, Until: v.now + 60},
				fault.Invalid:  {Node: v.node, Purpose: "x", Scope: chain.ScopeLogs, From: v.now - 60, Until: v.now},
			} {
				v.refuse(kind, 5, m)
			}
			for _, m := range []*chain.RequestSupport{
				{Node: v.node, Purpose: "x", Scope: "shell", From: v.now, Until: v.now + 60},
				{Node: v.node, Purpose: "x", Scope: chain.ScopeLogs, From: v.now, Until: v.now + 86401},
				{Node: v.node, Purpose: "", Scope: chain.ScopeLogs, From: v.now, Until: v.now + 60},
				{Node: v.node, Purpose: strings.Repeat("x", 513), Scope: chain.ScopeLogs, From: v.now, Until: v.now + 60},
				{Node: v.node, Purpose: "x", Scope: chain.ScopeLogs, From: v.now + supportAhead + 60, Until: v.now + supportAhead + 90},
			} {
				v.refuse(fault.Invalid, 5, m)
			}
			v.refuse(fault.NotFound, 2, &chain.ConsentSupport{Request: 999})
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVisit(t)
			f(v)
			v.after(1)
		})
	}
}

// TestGroupsConsentToSupport: the farm's policy decides, and who asks for access
// to his own node needs no second word.
func TestGroupsConsentToSupport(t *testing.T) {
	g := newGrid(t, 6)
	group := g.group(2, seats(2, 3, 4), ruled(2))
	make := g.propose(2, group, &chain.CreateFarm{Name: "ours", Terms: chain.Terms{Prices: testPrices()}})
	g.approve(2, make)
	r := g.approve(3, make)
	farm := r.Events[1].Farm
	members := seats(2, 3, 4)
	members[0].Operator = true
	op := g.propose(2, group, &chain.UpdateGroup{Members: members, Policies: ruled(2)})
	g.approve(2, op)
	g.approve(3, op)
	n := g.node(farm, 2, testMachine())
	id := g.do(2, &chain.RequestSupport{Node: n, Purpose: "x", Scope: chain.ScopeMetrics, From: g.now, Until: g.now + 600}).Events[0].ID
	g.refuse(fault.Denied, 2, &chain.ConsentSupport{Request: id})
	say := g.propose(2, group, &chain.ConsentSupport{Request: id})
	g.approve(2, say)
	if s := g.work().support(id); s.State != chain.SupportAsked {
		t.Errorf("%+v", s)
	}
	g.approve(4, say)
	if s := g.work().support(id); s.State != chain.SupportGranted || s.Granted != g.now {
		t.Errorf("%+v", s)
	}

	own := g.node(g.farm(5), 5, testMachine())
	r = g.do(5, &chain.RequestSupport{Node: own, Purpose: "x", Scope: chain.ScopeMetrics, From: g.now, Until: g.now + 600})
	if s := g.work().support(r.Events[0].ID); s.State != chain.SupportGranted {
		t.Errorf("own node: %+v", s)
	}
}
