package state

import (
	"strings"
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// small costs 1 vCPU + 2 GiB + 10 GiB SSD = 1000 + 1000 + 1000 nano-credits a
// second, 1000 of them for storage.
func small() chain.Capacity { return chain.Capacity{CPU: 1000, Memory: 2 << 30, SSD: 10 << 30} }

const (
	smallRate    = 3000
	smallStorage = 1000
	smallGrace   = smallRate*hour + smallStorage*graceTime
	smallLeast   = smallRate*hour + smallGrace
)

// TestLifeOfADeployment follows a contract from its creation to its closing and
// counts every nano-credit.
func TestLifeOfADeployment(t *testing.T) {
	g := newGrid(t, 3)
	farm := g.farm(2)
	n := g.node(farm, 2, testMachine())
	id := g.id(3)

	said := g.refuse(fault.Funds, 3, &chain.CreateNodeContract{ID: id, Node: n, Capacity: small(), MaxRate: 3_000_000, Deposit: smallLeast - 1})
	if !strings.Contains(said, "at least 0.2808 credits") {
		t.Errorf("refused with %q", said)
	}
	g.refuse(fault.Conflict, 3, &chain.CreateNodeContract{ID: id, Node: n, Capacity: small(), MaxRate: 2_999_999, Deposit: smallLeast})
	g.do(3, &chain.CreateNodeContract{ID: id, Node: n, Capacity: small(), MaxRate: 3_000_000, Deposit: smallLeast})
	if got := g.get(3).Balance; got != 1000*chain.Credit-smallLeast {
		t.Fatalf("balance %d", got)
	}

	g.pass(300) // nothing is billed before it runs
	g.do(n, &chain.ReportState{ID: id, Version: 1, Outcome: chain.OutcomeActive})
	start := g.now
	g.pass(100)
	g.do(3, &chain.TopUp{ID: id, Amount: 1})
	ran := uint64(g.now - start)
	if got := g.get(2).Balance; got != 1000*chain.Credit+ran*smallRate {
		t.Errorf("the farm earned %d in %d s, want %d", got-1000*chain.Credit, ran, ran*smallRate)
	}

	r := g.do(3, &chain.Cancel{ID: id})
	ran = uint64(g.now - start)
	if got, want := g.get(3).Balance, 1000*chain.Credit-ran*smallRate; got != want {
		t.Errorf("after the end the owner has %d, want %d", got, want)
	}
	if c := g.contract(id); c.State != chain.StateClosed || c.Reason != chain.ReasonOwner || c.Money.Paid != ran*smallRate {
		t.Errorf("contract %+v", c)
	}
	if last := r.Events[len(r.Events)-1]; last.Type != "contract.closed" {
		t.Errorf("events %+v", r.Events)
	}
	g.pass(31 * 86400)
	if g.contract(id) != nil {
		t.Error("a closed contract is still there after 30 days")
	}
	g.refuse(fault.Conflict, 3, &chain.CreateNodeContract{ID: id, Node: n, Capacity: small(), MaxRate: 3_000_000, Deposit: smallLeast})
}

func TestDeadlineRefundsEverything(t *testing.T) {
	g := newGrid(t, 3)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.id(3)
	g.do(3, &chain.CreateNodeContract{ID: id, Node: n, Capacity: small(), MaxRate: 1 << 40, Deposit: chain.Credit, Deadline: 60, KeepDays: 7})
	g.pass(61)
	if c := g.contract(id); c.Reason != chain.ReasonDeadline {
		t.Fatalf("contract is %s %s", c.State, c.Reason)
	}
	if got := g.get(3).Balance; got != 1000*chain.Credit {
		t.Errorf("balance %d", got)
	}
	g.refuse(fault.Conflict, n, &chain.ReportState{ID: id, Version: 1, Outcome: chain.OutcomeActive})
}

// TestOutOfFunds walks through warnings, suspension, the hour in which processors
// are kept, the grace and the end.
func TestOutOfFunds(t *testing.T) {
	g := newGrid(t, 3)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), smallLeast+smallRate*hour) // 2 h
	start := g.now
	events := g.pass(2*hour - 60)
	low := 0
	for _, e := range events {
		if e.Type == "contract.low" {
			low++
		}
	}
	if low != 1 {
		t.Errorf("%d warnings in the last two hours, want the one of the last hour", low)
	}
	if s := g.contract(id).State; s != chain.StateActive {
		t.Fatalf("after %d s it is %s", g.now-start, s)
	}
	g.pass(62)
	c := g.contract(id)
	if c.State != chain.StateSuspended || c.Reason != chain.ReasonFunds {
		t.Fatalf("after %d s it is %s %s, %+v", g.now-start, c.State, c.Reason, c.Money)
	}
	if c.Money.Settled != start+2*hour {
		t.Errorf("it was cut at %d, want %d", c.Money.Settled-start, 2*hour)
	}
	if free := g.work().load(n).Reserved; free.CPU != 1000 {
		t.Errorf("the processors are not kept for the hour: %+v", free)
	}
	g.pass(hour)
	if r := g.work().load(n).Reserved; r.CPU != 0 || r.SSD != 10<<30 {
		t.Errorf("after the hour the node reserves %+v", r)
	}
	g.pass(graceTime)
	c = g.contract(id)
	if c.State != chain.StateClosed || c.Reason != chain.ReasonFunds {
		t.Fatalf("after the grace it is %s %s", c.State, c.Reason)
	}
	if earned := g.get(2).Balance - 1000*chain.Credit; earned != 2*hour*smallRate+smallGrace {
		t.Errorf("the farm earned %d, want %d", earned, 2*hour*smallRate+smallGrace)
	}
}

func TestTopUpByAStrangerResumes(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), smallLeast)
	g.pass(hour + 120)
	if g.contract(id).State != chain.StateSuspended {
		t.Fatal("it is not suspended")
	}
	g.do(4, &chain.TopUp{ID: id, Amount: chain.Credit})
	c := g.contract(id)
	if c.State != chain.StateActive || c.Money.Grace != c.Money.Reserve {
		t.Fatalf("after the top-up it is %s with %+v", c.State, c.Money)
	}
	// Somebody else takes the processors after the hour: then it waits and says why.
	g.do(4, &chain.TopUp{ID: id, Amount: 1})
	g.pass(int64(c.Money.Escrow/smallRate) + hour + 120)
	other := g.deploy(4, n, chain.Capacity{CPU: 8000}, 100*chain.Credit)
	r := g.do(4, &chain.TopUp{ID: id, Amount: chain.Credit})
	if s := g.contract(id).State; s != chain.StateSuspended {
		t.Fatalf("it is %s although the node is full", s)
	}
	if last := r.Events[len(r.Events)-1]; last.Type != "contract.waiting" || !strings.Contains(last.Reason, "1 vCPU missing") {
		t.Errorf("events %+v", r.Events)
	}
	g.do(4, &chain.Cancel{ID: other})
	g.do(3, &chain.Resume{ID: id})
	if s := g.contract(id).State; s != chain.StateActive {
		t.Errorf("after the resume it is %s", s)
	}
}

func TestOfflineNodeEarnsNothing(t *testing.T) {
	g := newGrid(t, 4)
	g.do(4, &chain.UpdateTwin{URL: "wss://relay.example"})
	machine := testMachine()
	machine.Relays = []identity.Party{4}
	n := g.node(g.farm(2), 2, machine)
	id := g.deploy(3, n, small(), 2*chain.Credit)
	start := g.now
	g.pass(1000)
	g.do(4, &chain.ReportNodes{Nodes: []chain.Seen{{Node: n}}})
	online := uint64(g.now - start)
	g.refuse(fault.Unavailable, 3, &chain.CreateNodeContract{ID: g.id(3), Node: n, Capacity: small(), MaxRate: 1 << 40, Deposit: chain.Credit})
	g.pass(2000)
	g.do(4, &chain.ReportNodes{Nodes: []chain.Seen{{Node: n, Up: true}}})
	back := g.now
	g.pass(500)
	g.do(3, &chain.Cancel{ID: id})
	online += uint64(g.now - back)
	if earned := g.get(2).Balance - 1000*chain.Credit; earned != online*smallRate {
		t.Errorf("the farm earned %d for %d s, want %d", earned, online, online*smallRate)
	}
}

func TestHaltedChainBillsNothing(t *testing.T) {
	g := newGrid(t, 3)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), chain.Credit)
	g.after(7 * 86400)
	g.do(3, &chain.Cancel{ID: id})
	if earned := g.get(2).Balance - 1000*chain.Credit; earned != (maxStep+1)*smallRate {
		t.Errorf("the farm earned %d over a halt of a week, want %d", earned, (maxStep+1)*smallRate)
	}
}

func TestUpdate(t *testing.T) {
	g := newGrid(t, 3)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), 10*chain.Credit)
	big := chain.Capacity{CPU: 6000, Memory: 1 << 30, SSD: 20 << 30}
	up := func(v uint32, c chain.Capacity) *chain.UpdateContract {
		return &chain.UpdateContract{ID: id, Version: v, Capacity: c, MaxRate: 1 << 40, Deadline: 120}
	}
	g.refuse(fault.Conflict, 3, up(3, big))
	g.refuse(fault.Exhausted, 3, up(2, chain.Capacity{CPU: 8001}))
	g.do(3, up(2, big))
	if r := g.work().load(n).Reserved; r.CPU != 6000 || r.Memory != 2<<30 || r.SSD != 20<<30 {
		t.Errorf("while it is prepared the node reserves %+v, want the larger of both", r)
	}
	g.refuse(fault.Conflict, 3, up(3, small()))
	g.do(n, &chain.ReportState{ID: id, Version: 2, Outcome: chain.OutcomeFailed})
	if c := g.contract(id); c.Agreed.Version != 1 || c.Next != nil || !c.Held.Equal(small()) {
		t.Errorf("after the failure %+v", c)
	}
	g.do(3, up(3, big)) // a failed number is never used again
	g.pass(121)
	if c := g.contract(id); c.Agreed.Version != 1 || c.Next != nil || c.Highest != 3 {
		t.Errorf("after the deadline %+v", c)
	}
	g.do(3, up(4, big))
	g.do(n, &chain.ReportState{ID: id, Version: 4, Outcome: chain.OutcomeActive})
	if c := g.contract(id); c.Agreed.Version != 4 || !c.Held.Equal(big) || c.Money.Grace != c.Money.Reserve {
		t.Errorf("after the report %+v", c)
	}
}

func TestPausedContractHoldsNoProcessors(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), chain.Credit)
	g.do(3, &chain.Pause{ID: id})
	paused, before := g.now, g.get(2).Balance
	full := g.deploy(4, n, chain.Capacity{CPU: 8000}, 100*chain.Credit)
	g.refuse(fault.Exhausted, 3, &chain.Resume{ID: id})
	g.do(4, &chain.Cancel{ID: full})
	earnedByOther := g.contract(full).Money.Paid
	g.do(3, &chain.Resume{ID: id})
	if earned := g.get(2).Balance - before - earnedByOther; earned != uint64(g.now-paused)*smallStorage {
		t.Errorf("while it was paused the farm earned %d in %d s, want storage only", earned, g.now-paused)
	}
}

func TestRentPaysForWhatRunsThere(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), chain.Credit)
	g.refuse(fault.Conflict, 4, &chain.CreateRentContract{ID: g.id(4), Node: n, MaxRate: 1 << 60, Deposit: 100 * chain.Credit})
	rent := g.id(3)
	g.do(3, &chain.CreateRentContract{ID: rent, Node: n, MaxRate: 1 << 60, Deposit: 100 * chain.Credit})
	if full, _ := rates(g.contract(id)); full != 0 {
		t.Errorf("a deployment on its owner's rented node costs %d", full)
	}
	// half of 8 vCPU + 32 GiB + 1 TiB SSD + 1 TiB HDD
	if full, _ := rates(g.contract(rent)); full != (8_000_000+16_000_000+102_400_000+51_200_000)/2 {
		t.Errorf("the rent costs %d", full)
	}
	g.refuse(fault.Denied, 4, &chain.CreateNodeContract{ID: g.id(4), Node: n, Capacity: small(), MaxRate: 1 << 60, Deposit: chain.Credit})
	g.do(3, &chain.CreateNodeContract{ID: g.id(3), Node: n, Capacity: chain.Capacity{CPU: 1, GPU: []string{"0/10de/2204"}}, MaxRate: 0, Deposit: 0})
	g.do(3, &chain.Cancel{ID: rent})
	if c := g.contract(id); c.Reason != chain.ReasonRent {
		t.Errorf("the deployment is %s %s after the end of the rent", c.State, c.Reason)
	}
}

func TestNamesAndNetworks(t *testing.T) {
	g := newGridWith(t, 4, func(gen *Genesis) { gen.Params.NameRate, gen.Params.NetworkRate = 1000, 1000 })
	farm := g.farm(2)
	a, b := g.node(farm, 2, testMachine()), g.node(farm, 2, testMachine())
	name := g.id(3)
	g.do(3, &chain.CreateNameContract{ID: name, Name: "shop", Deposit: chain.Credit})
	g.refuse(fault.Conflict, 4, &chain.CreateNameContract{ID: g.id(4), Name: "shop", Deposit: chain.Credit})
	g.do(3, &chain.Cancel{ID: name})
	g.refuse(fault.Conflict, 4, &chain.CreateNameContract{ID: g.id(4), Name: "shop", Deposit: chain.Credit})
	again := g.id(3)
	g.do(3, &chain.CreateNameContract{ID: again, Name: "shop", Deposit: chain.Credit})
	g.do(3, &chain.Cancel{ID: again})
	g.pass(7*86400 + 60)
	g.do(4, &chain.CreateNameContract{ID: g.id(4), Name: "shop", Deposit: chain.Credit})

	net := g.id(3)
	g.do(3, &chain.CreateNetworkContract{ID: net, Members: []identity.Party{a}, Deposit: chain.Credit})
	g.do(3, &chain.UpdateContract{ID: net, Version: 2, Members: []identity.Party{b}})
	if la, lb := g.work().list(a), g.work().list(b); len(la) != 0 || len(lb) != 1 || lb[0].Version != 2 {
		t.Errorf("lists %v and %v", la, lb)
	}
	g.do(1, &chain.DeregisterNode{Node: b})
	if c := g.contract(net); len(c.Agreed.Members) != 0 {
		t.Errorf("members %v after the node is gone", c.Agreed.Members)
	}
}

func TestUsage(t *testing.T) {
	g := newGrid(t, 3)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), 2*chain.Credit)
	from := g.now
	g.pass(hour)
	rep := func(from, to int64, gib uint64) *chain.ReportUsage {
		return &chain.ReportUsage{ID: id, From: from, To: to, Egress: gib << 30}
	}
	g.refuse(fault.Invalid, n, rep(from, from+10, 5))
	r := g.do(n, rep(from, from+hour, 5))
	item := r.Events[len(r.Events)-1]
	if item.Type != "usage.reported" || item.Amount != 5_000_000 {
		t.Fatalf("events %+v", r.Events)
	}
	g.refuse(fault.Conflict, n, rep(from, from+hour, 5))
	g.refuse(fault.Denied, 2, rep(from+hour, from+hour+60, 0))
	second := g.do(n, rep(from+hour, from+hour+60, 1)).Events
	g.do(3, &chain.Dispute{ID: id, Item: second[len(second)-1].ID})
	g.refuse(fault.Denied, 3, &chain.Dispute{ID: id, Item: second[len(second)-1].ID, Verdict: chain.DisputeConcede})
	before := g.contract(id).Money
	g.do(2, &chain.Dispute{ID: id, Item: second[len(second)-1].ID, Verdict: chain.DisputeConcede})
	after := g.contract(id).Money
	if back := after.Escrow + (after.Paid - before.Paid) - before.Escrow; back != 1_000_000 {
		t.Errorf("%d came back after the farm conceded", back)
	}
	paid := false
	for _, e := range g.pass(disputeTime + 60) {
		paid = paid || e.Type == "usage.paid" && e.Amount == 5_000_000
	}
	if !paid {
		t.Error("the item was not paid after a day")
	}
}
