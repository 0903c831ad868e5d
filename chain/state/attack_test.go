package state

import (
	"strings"
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// What somebody tries who wants what isn't his, or to keep others from what is.

// reprice sets the prices of a farm.
func (g *grid) reprice(owner identity.Party, farm uint32, change func(*chain.Terms)) {
	g.t.Helper()
	f, err := g.work().farm(farm)
	if err != nil {
		g.t.Fatal(err)
	}
	change(&f.Terms)
	g.do(owner, &chain.UpdateFarm{Farm: farm, Terms: f.Terms})
}

// TestTenantCannotPayHimself: shares come out of the farm's earnings, so the farm
// says how much it gives away.
func TestTenantCannotPayHimself(t *testing.T) {
	g := newGrid(t, 4)
	f := g.farm(2)
	n := g.node(f, 2, testMachine())
	create := func(ppm uint32) *chain.CreateNodeContract {
		return &chain.CreateNodeContract{ID: g.id(3), Node: n, Capacity: small(), MaxRate: 1 << 60, Deposit: 10 * chain.Credit, Split: []chain.Share{{Party: 3, PPM: ppm}}}
	}
	if e := g.refuse(fault.Denied, 3, create(chain.Million)); !strings.Contains(e, "split") {
		t.Errorf("the refusal doesn't name the field: %s", e)
	}
	g.serial[3] = 0
	g.reprice(2, f, func(t *chain.Terms) { t.Share = 100_000 })
	g.refuse(fault.Denied, 3, create(100_001))
	g.serial[3] = 0
	g.do(3, create(100_000))
}

// TestFarmCannotRaiseARunningPrice tries every way in which a farm that raises its
// prices could make them count without the owner's word.
func TestFarmCannotRaiseARunningPrice(t *testing.T) {
	raise := func(t *chain.Terms) {
		t.Prices.CPU, t.Prices.IPv4, t.Prices.Egress = 1000*t.Prices.CPU, 1000*t.Prices.IPv4, 1000*t.Prices.Egress
	}
	t.Run("between update and report", func(t *testing.T) {
		g := newGrid(t, 4)
		f := g.farm(2)
		n := g.node(f, 2, testMachine())
		id := g.deploy(3, n, small(), 10*chain.Credit)
		before, _ := rates(g.contract(id))
		g.do(3, &chain.UpdateContract{ID: id, Version: 2, Capacity: small(), MaxRate: before})
		g.reprice(2, f, raise)
		g.do(n, &chain.ReportState{ID: id, Version: 2, Outcome: chain.OutcomeActive})
		if after, _ := rates(g.contract(id)); after > before {
			t.Errorf("the rate is %d, the owner agreed to %d", after, before)
		}
	})
	t.Run("egress at a top-up", func(t *testing.T) {
		g := newGrid(t, 4)
		f := g.farm(2)
		n := g.node(f, 2, testMachine())
		id := g.deploy(3, n, small(), 10*chain.Credit)
		before := g.contract(id).Prices.Egress
		g.reprice(2, f, func(t *chain.Terms) { t.Prices.Egress *= 1000 })
		g.do(3, &chain.TopUp{ID: id, Amount: 1})
		if after := g.contract(id).Prices.Egress; after > before {
			t.Errorf("a GiB costs %d, the owner agreed to %d", after, before)
		}
		g.reprice(2, f, func(t *chain.Terms) { t.Prices.Egress = 1 })
		g.do(3, &chain.TopUp{ID: id, Amount: 1})
		if after := g.contract(id).Prices.Egress; after != 1 {
			t.Errorf("a GiB costs %d after a top-up, the farm asks 1", after)
		}
	})
	t.Run("addresses at the begin of a rent", func(t *testing.T) {
		g := newGrid(t, 4)
		f := g.farm(2)
		n := g.node(f, 2, testMachine())
		g.do(2, &chain.AddIPs{Farm: f, IPs: []chain.IP{{Address: "185.69.1.10/24", Gateway: "185.69.1.1"}}})
		with := small()
		with.IPv4 = 1
		id := g.deploy(3, n, with, 10*chain.Credit)
		before := g.contract(id).Prices
		g.reprice(2, f, func(t *chain.Terms) { t.Prices.IPv4 *= 1000; t.Prices.Egress *= 1000 })
		g.do(3, &chain.CreateRentContract{ID: g.id(3), Node: n, MaxRate: 1 << 60, Deposit: 100 * chain.Credit})
		after := g.contract(id).Prices
		if after.IPv4 > before.IPv4 || after.Egress > before.Egress || after.CPU != 0 {
			t.Errorf("prices %+v, the owner agreed to %+v", after, before)
		}
	})
	t.Run("a link that grows", func(t *testing.T) {
		g := newGrid(t, 4)
		f := g.farm(2)
		machine := testMachine()
		machine.LinkSpeed = 1000
		n := g.node(f, 2, machine)
		id := g.deploy(3, n, small(), 10*chain.Credit)
		machine.LinkSpeed = 1 << 40
		g.do(n, &chain.UpdateNode{Machine: machine})
		g.pass(60)
		g.refuse(fault.Invalid, n, &chain.ReportUsage{ID: id, From: g.now - 60, To: g.now, Egress: 60_001})
		g.do(n, &chain.ReportUsage{ID: id, From: g.now - 60, To: g.now, Egress: 60_000})
	})
	t.Run("a notice that shrinks", func(t *testing.T) {
		g := newGrid(t, 4)
		f := g.farm(2)
		n := g.node(f, 2, testMachine())
		g.reprice(2, f, func(t *chain.Terms) { t.NoticeDays = 90 })
		id := g.deploy(3, n, small(), 10*chain.Credit)
		g.reprice(2, f, func(t *chain.Terms) { t.NoticeDays = 0 })
		g.refuse(fault.Invalid, 2, &chain.Reclaim{ID: id, Reason: "sold", At: g.now + 89*86400})
		g.do(2, &chain.Reclaim{ID: id, Reason: "sold", At: g.now + 91*86400})
	})
}

// TestRentIsPaidWhileItLasts: a rent keeps the whole node for its renter, also in
// the grace, so it costs all of it.
func TestRentIsPaidWhileItLasts(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.id(3)
	g.do(3, &chain.CreateRentContract{ID: id, Node: n, MaxRate: 1 << 60, Deposit: 90 * chain.Credit})
	full, _ := rates(g.contract(id))
	g.do(3, &chain.Send{To: 4, Amount: g.get(3).Balance}) // so that the balance is what comes back
	begin, farmer := g.now, g.get(2).Balance
	for i := 0; g.contract(id).Live(); i++ {
		if i > 20_000 {
			t.Fatal("the rent never ends")
		}
		g.audit = i%1000 == 0
		g.after(60)
	}
	earned, seconds := g.get(2).Balance-farmer, uint64(g.now-begin)
	if want := (full / chain.Pico) * (seconds - 120); earned < want {
		t.Errorf("the node was held for %d s, the farm earned %d, a node costs %d", seconds, earned, want)
	}
}

// TestSponsorPaysOnce: a transaction that joins has no sequence, so a failed one
// could come again and again.
func TestSponsorPaysOnce(t *testing.T) {
	g := newGridWith(t, 3, func(gen *Genesis) { gen.Params.Fees = []chain.Fee{{Fee: 1000}} })
	key := testKey(77)
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Expires: g.now + 600, FeeLimit: chain.Credit, Sponsor: 3,
		Messages: chain.Pack(&chain.CreateTwin{Keys: []chain.NewKey{{Key: key.Public(), Role: identity.RoleFull}}, Relays: []identity.Party{2}})},
		chain.Signer{Key: key}, chain.Signer{Key: g.keys[3]})
	if err != nil {
		t.Fatal(err)
	}
	before := g.get(3).Balance
	root := g.tree.root()
	for range 3 {
		if r := g.block(wire, wire).Txs[1]; r.OK() || r.Kind != fault.NotFound || r.Fee != 0 {
			t.Fatalf("%q %s, fee %d", r.Kind, r.Error, r.Fee)
		}
	}
	if got := g.get(3).Balance; got != before || g.tree.root() != root {
		t.Errorf("the sponsor has %d of %d", got, before)
	}
	if err := g.m.Check(wire, Block{Height: g.height, Time: g.now, Prev: g.now}); fault.Of(err) != fault.NotFound {
		t.Errorf("Check lets it wait: %v", err)
	}
}

// TestNobodyWritesForFree: only the cancelling of one's own contract is for who
// has nothing.
func TestNobodyWritesForFree(t *testing.T) {
	setup := func(t *testing.T) (*grid, identity.Party, identity.ContractID) {
		g := newGrid(t, 4)
		n := g.node(g.farm(2), 2, testMachine())
		id := g.deploy(3, n, small(), 10*chain.Credit)
		g.do(1, &chain.SetParams{Params: chain.Params{Fees: []chain.Fee{{Fee: 1000}}}})
		return g, n, id
	}
	t.Run("about a closed contract", func(t *testing.T) {
		g, _, id := setup(t)
		g.do(3, &chain.Cancel{ID: id})
		before := g.get(3).Balance
		if r := g.try(3, &chain.Cancel{ID: id}); r.Kind != fault.Conflict || r.Fee != 1000 || g.get(3).Balance != before-1000 {
			t.Errorf("%q %s, fee %d", r.Kind, r.Error, r.Fee)
		}
	})
	t.Run("from an empty escrow", func(t *testing.T) {
		g, _, id := setup(t)
		for g.contract(id).State == chain.StateActive {
			g.audit = false
			g.after(60)
		}
		g.audit = true
		before := g.get(3).Balance
		if r := g.try(3, &chain.Pause{ID: id}); r.Kind != fault.Conflict || r.Fee != 1000 || before-g.get(3).Balance > 1000 {
			t.Errorf("%q %s, fee %d", r.Kind, r.Error, r.Fee)
		}
		g.do(3, &chain.Send{To: 4, Amount: g.get(3).Balance - 1000})
		g.refuse(fault.Funds, 3, &chain.Pause{ID: id})
		g.refuse(fault.Funds, 3, &chain.Cancel{ID: id}, &chain.Cancel{ID: id})
		g.do(3, &chain.Cancel{ID: id})
	})
	t.Run("as a relay that is none", func(t *testing.T) {
		g, _, _ := setup(t)
		if r := g.try(4, &chain.ReportNodes{Hour: 5}); r.Fee != 1000 {
			t.Errorf("fee %d", r.Fee)
		}
	})
}

// TestFeesComeAfterTheFarm: a fee is taken from what is left when everything that
// was used has been paid.
func TestFeesComeAfterTheFarm(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), 10*chain.Credit)
	g.pass(3600)
	g.do(1, &chain.SetParams{Params: chain.Params{Fees: []chain.Fee{{Code: 311, Fee: 9725 * chain.Credit / 1000}}}})
	full, _ := rates(g.contract(id))
	before := g.get(2).Balance
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: 3, Sequence: g.get(3).Sequence + 1, Expires: g.now + 600, FeeLimit: 1000 * chain.Credit,
		Messages: chain.Pack(&chain.Pause{ID: id})}, chain.Signer{Key: g.keys[3]})
	if err != nil {
		t.Fatal(err)
	}
	r := g.block(wire).Txs[0]
	if earned := g.get(2).Balance - before; earned < 3600*full/chain.Pico {
		t.Errorf("after an hour the farm has %d, %d were used (%q %s)", earned, 3600*full/chain.Pico, r.Kind, r.Error)
	}
	found := false
	for _, e := range r.Events {
		found = found || e.Type == "contract.billed"
	}
	if !found {
		t.Error("the bill is in no event")
	}
}

// TestDeployKeyIsBoundByItsLimit: fees count.
func TestDeployKeyIsBoundByItsLimit(t *testing.T) {
	g := newGrid(t, 3)
	key := testKey(500)
	g.do(3, &chain.AddKey{Key: chain.NewKey{Key: key.Public(), Role: identity.RoleDeploy, Limit: chain.Credit}})
	g.do(1, &chain.SetParams{Params: chain.Params{Fees: []chain.Fee{{Code: 309, Fee: 400 * chain.Credit}}}})
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: 3, Sequence: g.get(3).Sequence + 1, Expires: g.now + 600, FeeLimit: 1000 * chain.Credit,
		Messages: chain.Pack(&chain.TopUp{ID: 1<<24 | 1, Amount: 1})}, chain.Signer{Index: 1, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	before := g.get(3).Balance
	if r := g.block(wire).Txs[0]; r.Kind != fault.Exhausted || g.get(3).Balance != before {
		t.Errorf("%q %s; a key with a limit of 1 credit cost %s", r.Kind, r.Error, amount(before-g.get(3).Balance))
	}
}

// TestGovernanceEndsARentedNode in every order of its contracts.
func TestGovernanceEndsARentedNode(t *testing.T) {
	for _, first := range []bool{true, false} {
		g := newGrid(t, 4)
		n := g.node(g.farm(2), 2, testMachine())
		rent := g.id(3)
		make := func() {
			g.do(3, &chain.CreateRentContract{ID: rent, Node: n, MaxRate: 1 << 60, Deposit: 100 * chain.Credit})
		}
		if first {
			make()
		}
		id := g.deploy(3, n, small(), 10*chain.Credit)
		if !first {
			rent = g.id(3)
			make()
		}
		g.do(1, &chain.DeregisterNode{Node: n})
		for _, id := range []identity.ContractID{id, rent} {
			if c := g.contract(id); c.Live() || c.Reason != chain.ReasonNode {
				t.Errorf("rent first %v: contract %s is %s %s", first, id, c.State, c.Reason)
			}
		}
	}
}

// TestGenesisNamesParties: who receives fees must be there from the beginning.
func TestGenesisNamesParties(t *testing.T) {
	for name, change := range map[string]func(*Genesis){
		"treasury": func(g *Genesis) { g.Params.Treasury = 9 },
		"arbiter":  func(g *Genesis) { g.Params.Arbiter = 9 },
		"auditor":  func(g *Genesis) { g.Params.Auditors = []identity.Party{9} },
		"rates":    func(g *Genesis) { g.Governance, g.Params.NetworkRate = 0, 5 },
	} {
		gen := Genesis{Chain: "test-1", Governance: 1, Validators: []chain.Validator{{Key: make([]byte, 32), Power: 1}},
			Parties: []GenesisParty{{Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: testKey(1).Public(), Role: identity.RoleFull}}}}}}
		change(&gen)
		if err := New(newMemory()).Init(gen); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnAddressIsSoldOnce however its network is written.
func TestAnAddressIsSoldOnce(t *testing.T) {
	g := newGrid(t, 3)
	f := g.farm(2)
	g.do(2, &chain.AddIPs{Farm: f, IPs: []chain.IP{{Address: "185.69.1.10/24", Gateway: "185.69.1.1"}}})
	g.refuse(fault.Conflict, 2, &chain.AddIPs{Farm: f, IPs: []chain.IP{{Address: "185.69.1.10/25", Gateway: "185.69.1.1"}}})
	g.do(2, &chain.AddIPs{Farm: f, IPs: []chain.IP{{Address: "185.69.1.100/24", Gateway: "185.69.1.1"}}})
}

// TestANodeThatFallsAsleepIsWoken by a contract that comes before it sleeps.
func TestANodeThatFallsAsleepIsWoken(t *testing.T) {
	g := newGrid(t, 3)
	f := g.farm(2)
	n := g.node(f, 2, testMachine())
	g.do(2, &chain.SetPowerTarget{Node: n})
	id := g.id(3)
	g.do(3, &chain.CreateNodeContract{ID: id, Node: n, Capacity: small(), MaxRate: 1 << 60, Deposit: 10 * chain.Credit})
	g.refuse(fault.Conflict, n, &chain.ReportPower{State: chain.PowerStandby})
	if node, err := g.work().node(n); err != nil || node.Target != chain.PowerUp {
		t.Errorf("%+v, %v", node, err)
	}
}

// TestTheLastHourIsKept: who paid for an hour after his funds has it, also when an
// update comes to nothing in it.
func TestTheLastHourIsKept(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), smallLeast)
	g.pass(3500)
	less := small()
	less.CPU, less.Memory = 0, 0
	g.do(3, &chain.UpdateContract{ID: id, Version: 2, Capacity: less, MaxRate: 1 << 60, Deadline: 600})
	g.pass(700)
	c := g.contract(id)
	if c.Reason != chain.ReasonFunds || c.Next != nil || c.Held.CPU != small().CPU {
		t.Errorf("contract is %s %s and holds %+v", c.State, c.Reason, c.Held)
	}
	g.pass(3600)
	if c := g.contract(id); !c.Held.Equal(small().Storage()) {
		t.Errorf("after the hour it holds %+v", c.Held)
	}
}

// TestNamesAreNotCollectedForNothing: a name is kept for as long as it was paid
// for, at most a week.
func TestNamesAreNotCollectedForNothing(t *testing.T) {
	g := newGrid(t, 4)
	id := g.id(3)
	g.do(3, &chain.CreateNameContract{ID: id, Name: "shop"}, &chain.Cancel{ID: id})
	id = g.id(4)
	g.do(4, &chain.CreateNameContract{ID: id, Name: "shop"})
	g.pass(600)
	g.do(4, &chain.Cancel{ID: id})
	g.refuse(fault.Conflict, 3, &chain.CreateNameContract{ID: g.id(3), Name: "shop"})
	g.pass(700)
	g.do(3, &chain.CreateNameContract{ID: g.id(3), Name: "shop"})
}

// TestARentIsForWhatIsThere: a node that shrinks costs its renter less, and one
// that grows not more.
func TestARentIsForWhatIsThere(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.id(3)
	g.do(3, &chain.CreateRentContract{ID: id, Node: n, MaxRate: 1 << 60, Deposit: 100 * chain.Credit})
	g.pass(60)
	before, _ := rates(g.contract(id))
	less := testMachine()
	less.Capacity.CPU, less.Capacity.HDD, less.Capacity.GPU = 4000, 0, nil
	g.do(n, &chain.UpdateNode{Machine: less})
	after, _ := rates(g.contract(id))
	if gone := uint64(4*500_000 + 1024*25_000); after != before-gone {
		t.Errorf("the rent costs %d of %d, %d are gone", after, before, gone)
	}
	g.do(n, &chain.UpdateNode{Machine: testMachine()})
	if again, _ := rates(g.contract(id)); again != after {
		t.Errorf("the rent costs %d, then %d", after, again)
	}
}
