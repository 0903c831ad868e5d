package state

import (
	"testing"

	"pgregory.net/rapid"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// TestEveryOrder does what may be done with rents, deployments, networks, names,
// addresses, usage, prices, power and nodes in any order and at any pace, mostly
// validly. Everything adds up after each block, nobody pays more than agreed, no
// bug is met, and in the end everything can be cancelled and is free.
func TestEveryOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { runOrders(t, rt) })
}

type orders struct {
	*grid
	rt    *rapid.T
	farm  uint32
	nodes []identity.Party
	ids   []identity.ContractID
}

func runOrders(t *testing.T, rt *rapid.T) {
	g := newGridWith(t, 6, func(gen *Genesis) {
		gen.Params = chain.Params{NetworkRate: 1001, NameRate: 77, Protocol: 30_000, Treasury: 6}
		if rapid.Bool().Draw(rt, "fees") {
			gen.Params.Fees = []chain.Fee{{Fee: 1000}}
		}
	})
	g.audit = false
	o := &orders{grid: g, rt: rt, farm: g.farm(2)}
	g.do(5, &chain.UpdateTwin{URL: "wss://relay.example"})
	g.do(2, &chain.AddIPs{Farm: o.farm, IPs: []chain.IP{{Address: "185.69.1.10/24", Gateway: "185.69.1.1"}, {Address: "185.69.1.11/24", Gateway: "185.69.1.1"}, {Address: "185.69.1.12/24", Gateway: "185.69.1.1"}}})
	machine := testMachine()
	machine.Relays = []identity.Party{5}
	for range 2 {
		o.nodes = append(o.nodes, g.node(o.farm, 2, machine))
	}
	for range rapid.IntRange(1, 60).Draw(rt, "steps") {
		o.step()
		o.check()
	}
	for _, id := range o.ids {
		c := g.contract(id)
		if c == nil || !c.Live() {
			continue
		}
		if r := g.try(c.Owner, &chain.Cancel{ID: id}); !r.OK() && g.contract(id).Live() {
			rt.Fatalf("cancel %s, %s %s: %s %s", id, c.State, c.Reason, r.Kind, r.Error)
		}
	}
	o.check()
	for _, n := range o.nodes {
		if l := g.work().load(n); g.work().isNode(n) && (!l.Reserved.Zero() || l.Contracts != 0 || l.Networks != 0 || l.Rent != 0 || l.Pages != 0) {
			rt.Fatalf("node %d is empty and holds %+v", n, l)
		}
	}
	f, err := g.work().farm(o.farm)
	if err != nil {
		rt.Fatal(err)
	}
	for _, ip := range f.IPs {
		if ip.Contract != 0 {
			rt.Fatalf("%+v is held by nobody", ip)
		}
	}
}

func (o *orders) one(name string, n int) int { return rapid.IntRange(0, n-1).Draw(o.rt, name) }

// apply sends a message, in a block with some seconds before it.
func (o *orders) apply(p identity.Party, m chain.Message) TxResult {
	r := o.after(int64(rapid.SampledFrom([]int{0, 1, 5, 60}).Draw(o.rt, "seconds")), o.sign(p, m))
	for _, e := range r.Events {
		if e.Type == "chain.bug" {
			o.rt.Fatalf("%+v", e)
		}
	}
	if r.Txs[0].Kind == fault.Internal {
		o.rt.Fatalf("%s: %s", m.Code(), r.Txs[0].Error)
	}
	return r.Txs[0]
}

func (o *orders) capacity() chain.Capacity {
	return chain.Capacity{CPU: uint64(o.one("cpu", 9)) * 1000, Memory: uint64(o.one("memory", 3)) << 33, SSD: uint64(o.one("ssd", 3)) << 39,
		IPv4: uint64(o.one("ips", 3))}
}

func (o *orders) step() {
	rt, g := o.rt, o.grid
	owner := identity.Party(rapid.IntRange(3, 4).Draw(rt, "owner"))
	node := o.nodes[o.one("node", len(o.nodes))]
	op := rapid.SampledFrom([]string{"deploy", "deploy", "rent", "network", "name", "pick", "pick", "pick", "pick", "pick", "pick", "prices", "line", "power", "machine", "wait", "long", "leave"}).Draw(rt, "op")
	deposit := rapid.SampledFrom([]uint64{chain.Credit / 10, chain.Credit, 5 * chain.Credit, 40 * chain.Credit}).Draw(rt, "deposit")
	expires := int64(0)
	if o.one("ends", 4) == 0 {
		expires = g.now + rapid.Int64Range(1, 100_000).Draw(rt, "expires")
	}
	id := identity.ContractID(0)
	if op != "pick" {
		w := g.work()
		id, _ = identity.NewContractID(owner, w.account(owner).Serial+1)
	}
	most := rapid.SampledFrom([]uint64{1 << 60, 8_000_000, 500_000}).Draw(rt, "max")
	switch op {
	case "deploy":
		m := &chain.CreateNodeContract{ID: id, Node: node, Capacity: o.capacity(), MaxRate: most, Deposit: deposit, Expires: expires, KeepDays: uint32(o.one("keep", 3)), Deadline: 120}
		if o.apply(owner, m).OK() {
			o.ids = append(o.ids, id)
			if o.one("runs", 4) > 0 && g.work().isNode(node) {
				o.apply(node, &chain.ReportState{ID: id, Version: 1, Outcome: chain.OutcomeActive})
			}
		}
	case "rent":
		if o.apply(owner, &chain.CreateRentContract{ID: id, Node: node, MaxRate: most, Deposit: deposit, Expires: expires}).OK() {
			o.ids = append(o.ids, id)
		}
	case "network":
		m := &chain.CreateNetworkContract{ID: id, Members: o.nodes[:1+o.one("members", len(o.nodes))], Deposit: deposit, Expires: expires}
		if o.apply(owner, m).OK() {
			o.ids = append(o.ids, id)
		}
	case "name":
		if o.apply(owner, &chain.CreateNameContract{ID: id, Name: rapid.SampledFrom([]string{"shop", "mail"}).Draw(rt, "name"), Deposit: deposit / 1000, Expires: expires}).OK() {
			o.ids = append(o.ids, id)
		}
	case "pick":
		o.change(owner, deposit, most, expires)
	case "prices":
		f, _ := g.work().farm(o.farm)
		f.Terms.Prices.CPU = rapid.SampledFrom([]uint64{0, 1, 1_000_000, 3_000_000}).Draw(rt, "price")
		f.Terms.Prices.IPv4, f.Terms.Prices.Egress = f.Terms.Prices.CPU/5, f.Terms.Prices.CPU*1000
		o.apply(2, &chain.UpdateFarm{Farm: o.farm, Terms: f.Terms})
	case "line":
		if g.work().isNode(node) {
			o.apply(5, &chain.ReportNodes{Nodes: []chain.Seen{{Node: node, Up: rapid.Bool().Draw(rt, "up")}}})
		}
	case "power":
		if !g.work().isNode(node) {
			return
		}
		if rapid.Bool().Draw(rt, "target") {
			o.apply(2, &chain.SetPowerTarget{Node: node, Up: rapid.Bool().Draw(rt, "up")})
		} else {
			o.apply(node, &chain.ReportPower{State: rapid.SampledFrom([]chain.Power{chain.PowerUp, chain.PowerDown, chain.PowerStandby}).Draw(rt, "power")})
		}
	case "machine":
		m := testMachine()
		m.Relays = []identity.Party{5}
		m.Capacity.CPU = uint64(rapid.SampledFrom([]int{4000, 8000, 16000}).Draw(rt, "cpus"))
		if g.work().isNode(node) {
			o.apply(node, &chain.UpdateNode{Machine: m})
		}
	case "wait", "long":
		for range rapid.IntRange(1, map[string]int{"wait": 10, "long": 400}[op]).Draw(rt, "blocks") {
			for _, e := range g.after(rapid.SampledFrom([]int64{1, 60, 900}).Draw(rt, "gap")).Events {
				if e.Type == "chain.bug" {
					rt.Fatalf("%+v", e)
				}
			}
		}
	case "leave":
		if o.one("really", 6) == 0 && g.work().isNode(node) {
			o.apply(identity.Party(rapid.IntRange(1, 2).Draw(rt, "who")), &chain.DeregisterNode{Node: node})
		}
	}
}

// change does something with a contract that is there.
func (o *orders) change(other identity.Party, deposit, most uint64, expires int64) {
	if len(o.ids) == 0 {
		return
	}
	rt := o.rt
	c := o.contract(o.ids[o.one("contract", len(o.ids))])
	if c == nil {
		return
	}
	switch op := rapid.SampledFrom([]string{"update", "update", "report", "report", "topup", "pause", "resume", "cancel", "reclaim", "usage", "dispute"}).Draw(rt, "what"); op {
	case "update":
		m := &chain.UpdateContract{ID: c.ID, Version: c.Highest + 1, MaxRate: most, Expires: expires, Deadline: 60}
		if c.Kind == chain.KindNetwork {
			m.Members = o.nodes[o.one("members", len(o.nodes)):]
		} else {
			m.Capacity = o.capacity()
		}
		o.apply(c.Owner, m)
	case "report":
		if c.Kind != chain.KindNode {
			return
		}
		v := c.Agreed.Version
		if c.Next != nil {
			v = c.Next.Version
		}
		o.apply(c.Node, &chain.ReportState{ID: c.ID, Version: v, Outcome: rapid.SampledFrom([]chain.Outcome{1, 1, 1, 2, 3}).Draw(rt, "outcome")})
	case "topup":
		o.apply(other, &chain.TopUp{ID: c.ID, Amount: deposit / 100})
	case "pause":
		o.apply(c.Owner, &chain.Pause{ID: c.ID})
	case "resume":
		o.apply(c.Owner, &chain.Resume{ID: c.ID})
	case "cancel":
		if live := c.Live(); o.apply(c.Owner, &chain.Cancel{ID: c.ID}).OK() != live && o.contract(c.ID).Live() {
			rt.Fatalf("contract %s, %s %s, can't be cancelled", c.ID, c.State, c.Reason)
		}
	case "reclaim":
		o.apply(2, &chain.Reclaim{ID: c.ID, Reason: "sold", At: rapid.SampledFrom([]int64{0, o.now + 8*86400, o.now + 31*86400}).Draw(rt, "at")})
	case "usage":
		from := c.Usage
		if from == 0 {
			from = c.Created
		}
		if c.Kind == chain.KindNode && from < o.now {
			o.apply(c.Node, &chain.ReportUsage{ID: c.ID, From: from, To: min(from+86400, o.now), Egress: uint64(o.now-from) << 20})
		}
	case "dispute":
		last := metaOf(newLayer(o.tree)).LastID
		o.apply(c.Owner, &chain.Dispute{ID: c.ID, Item: last})
	}
}

// check looks at what no audit can know.
func (o *orders) check() {
	if err := Audit(o.tree); err != nil {
		o.rt.Fatal(err)
	}
	for _, id := range o.ids {
		c := o.contract(id)
		if c == nil || !c.Live() || c.Kind != chain.KindNode {
			continue
		}
		if full, _ := rates(c); full > c.Agreed.MaxRate {
			o.rt.Fatalf("contract %s costs %d, agreed were %d", id, full, c.Agreed.MaxRate)
		}
		want := c.Agreed.Capacity
		if c.Next != nil {
			want = want.Max(c.Next.Capacity)
		}
		if len(c.IPs) != int(want.IPv4) {
			o.rt.Fatalf("contract %s has addresses %v, %d are agreed", id, c.IPs, want.IPv4)
		}
		if lacks(want, c.Held) != "" {
			o.rt.Fatalf("contract %s holds %+v, %+v are agreed", id, c.Held, want)
		}
		paid := c.State != chain.StateSuspended || c.Reason == chain.ReasonStopped
		if paid && !c.Held.Equal(want) {
			o.rt.Fatalf("contract %s is %s %s and holds %+v, %+v are paid for", id, c.State, c.Reason, c.Held, want)
		}
		if !paid && c.Reason == chain.ReasonOwner && !c.Held.Equal(c.Agreed.Capacity.Storage()) {
			o.rt.Fatalf("contract %s is paused and holds %+v", id, c.Held)
		}
	}
}
