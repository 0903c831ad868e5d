package state

import (
	"fmt"
	"slices"
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// How much work somebody can make for everybody with one transaction, or with
// what he lets come due in one block. Reads and writes of the tree are counted.

// counting is a Tree that counts.
type counting struct {
	*memory
	gets, writes int
}

func (c *counting) Get(key []byte) []byte { c.gets++; return c.memory.Get(key) }
func (c *counting) Set(key, value []byte) { c.writes++; c.memory.Set(key, value) }
func (c *counting) Delete(key []byte)     { c.writes++; c.memory.Delete(key) }
func (c *counting) reset()                { c.gets, c.writes = 0, 0 }
func (g *grid) count() *counting          { c := &counting{memory: g.tree}; g.m.tree = c; return c }

// crowd makes nodes that cost nothing.
func (g *grid) crowd(nodes int) (farm uint32, all []identity.Party) {
	r := g.do(2, &chain.CreateFarm{Name: fmt.Sprintf("crowd-%d", g.height), Terms: chain.Terms{Dedicated: chain.Million}})
	for range nodes {
		all = append(all, g.node(r.Events[0].Farm, 2, testMachine()))
	}
	return r.Events[0].Farm, all
}

// fillNode puts contracts of nothing on a node.
func (g *grid) fillNode(owner, node identity.Party, n int) {
	g.t.Helper()
	for n > 0 {
		var txs [][]byte
		sequence := g.get(owner).Sequence
		for range 10 {
			var ms []chain.Message
			for range min(n, chain.MaxMessages) {
				ms = append(ms, &chain.CreateNodeContract{ID: g.id(owner), Node: node, Deadline: 3600})
				n--
			}
			if len(ms) > 0 {
				sequence++
				txs = append(txs, g.signAt(owner, sequence, ms...))
			}
		}
		for _, r := range g.block(txs...).Txs {
			if !r.OK() {
				g.t.Fatal(r.Error)
			}
		}
	}
}

// TestEndOfManyRentsIsSpread: a rent that ends takes up to 1023 contracts with
// it. When many end at once it takes some blocks, and nobody else waits.
func TestEndOfManyRentsIsSpread(t *testing.T) {
	g := newGrid(t, 4)
	g.audit = false
	_, nodes := g.crowd(30)
	until := g.now + 3000
	var rents []identity.ContractID
	for _, n := range nodes {
		id := g.id(3)
		g.do(3, &chain.CreateRentContract{ID: id, Node: n, Expires: until})
		rents = append(rents, id)
		g.fillNode(3, n, 200)
	}
	late := g.id(3)
	g.do(3, &chain.CreateNameContract{ID: late, Name: "last", Expires: until})
	group := g.do(4, &chain.CreateGroup{Members: []chain.Member{{Party: 4, Weight: 1}}, Policies: []chain.Policy{{Class: chain.ClassSpend, Threshold: 1, Expiry: 1000, MinDelay: 500}}}).Events[0].Party
	g.do(1, &chain.Send{To: group, Amount: 100})
	g.pass(until - 400 - g.now)
	g.do(4, &chain.Propose{Group: group, Approve: true, Messages: chain.Pack(&chain.Send{To: 4, Amount: 100})})
	g.prev, g.now = until+200, until+200
	closed := func() (n int) {
		for _, id := range rents {
			if !g.contract(id).Live() {
				n++
			}
		}
		return n
	}
	c := g.count()
	g.block()
	if n := closed(); n == 0 || n > 12 {
		t.Errorf("%d of 30 rents with 200 contracts each ended in one block", n)
	}
	if g.get(group).Balance != 0 {
		t.Error("a proposal that was ready had to wait")
	}
	if c.gets > 20_000 || c.writes > 20_000 {
		t.Errorf("%d reads and %d writes in a block", c.gets, c.writes)
	}
	for range 20 {
		g.block()
	}
	if n := closed(); n != 30 || g.contract(late).Live() {
		t.Errorf("%d of 30 rents ended in the end", n)
	}
	if err := Audit(g.tree); err != nil {
		t.Error(err)
	}
}

// TestNoQueueStarvesAnother: what fills one queue doesn't keep others waiting.
func TestNoQueueStarvesAnother(t *testing.T) {
	g := newGrid(t, 5)
	g.audit = false
	until := g.now + 3000
	sequence := g.get(3).Sequence
	for range 7 {
		var txs [][]byte
		for range 10 {
			var ms []chain.Message
			for range chain.MaxMessages {
				id := g.id(3)
				ms = append(ms, &chain.CreateNameContract{ID: id, Name: fmt.Sprintf("name-%d", id), Expires: until})
			}
			sequence++
			txs = append(txs, g.signAt(3, sequence, ms...))
		}
		g.block(txs...)
	}
	g.crowd(1)
	group := g.do(4, &chain.CreateGroup{Members: []chain.Member{{Party: 4, Weight: 1}}, Policies: []chain.Policy{{Class: chain.ClassSpend, Threshold: 1, Expiry: 5000, MinDelay: 3500}}}).Events[0].Party
	g.do(1, &chain.Send{To: group, Amount: 100})
	g.do(4, &chain.Propose{Group: group, Approve: true, Messages: chain.Pack(&chain.Send{To: 4, Amount: 100})})
	g.prev, g.now = until+1000, until+1000
	events := g.block().Events
	if g.get(group).Balance != 0 {
		t.Error("a proposal waited for names that end")
	}
	ended := 0
	for _, e := range events {
		if e.Type == "contract.closed" {
			ended++
		}
	}
	if ended < 400 || ended > MaxDue {
		t.Errorf("%d contracts ended in the block", ended)
	}
}

// TestWorkOfATransaction measures the worst transaction of a kind, and wants
// every one of them within the same bound.
func TestWorkOfATransaction(t *testing.T) {
	g := newGrid(t, 4)
	g.audit = false
	_, nodes := g.crowd(254)
	slices.Sort(nodes)
	for range 8 { // so that lists have some length
		g.do(3, &chain.CreateNetworkContract{ID: g.id(3), Members: nodes})
	}
	c := g.count()
	measure := func(what string, f func()) {
		t.Helper()
		c.reset()
		f()
		t.Logf("%-50s %6d reads %6d writes", what, c.gets, c.writes)
		if c.gets > 10_000 || c.writes > 10_000 {
			t.Errorf("%s: %d reads and %d writes", what, c.gets, c.writes)
		}
	}
	var networks []identity.ContractID
	measure("16 networks of 254 nodes", func() {
		var ms []chain.Message
		for range chain.MaxMessages {
			ms = append(ms, &chain.CreateNetworkContract{ID: g.id(3), Members: nodes})
		}
		g.refuse(fault.Exhausted, 3, ms...)
		g.serial[3] -= uint32(len(ms))
	})
	for range 8 {
		id := g.id(3)
		g.do(3, &chain.CreateNetworkContract{ID: id, Members: nodes})
		networks = append(networks, id)
	}
	measure("a network moves to other nodes", func() {
		g.do(3, &chain.UpdateContract{ID: networks[0], Version: 2, Members: nodes[:1]})
	})
	measure("governance ends a node with 1024 contracts", func() {
		g.fillNode(3, nodes[0], chain.MaxOnNode-16)
		c.reset()
		g.do(1, &chain.DeregisterNode{Node: nodes[0]})
	})
	nodes = nodes[1:]
	measure("votes that carry out votes that move networks", func() {
		policies := func() (ps []chain.Policy) {
			for _, class := range chain.Classes() {
				ps = append(ps, chain.Policy{Class: class, Threshold: 1, Expiry: 1000})
			}
			return ps
		}
		inner := g.do(4, &chain.CreateGroup{Members: []chain.Member{{Party: 3, Weight: 1}, {Party: 4, Weight: 1}}, Policies: policies()}).Events[0].Party
		outer := g.do(4, &chain.CreateGroup{Members: []chain.Member{{Party: 4, Weight: 1}, {Party: inner, Weight: 1}}, Policies: policies()}).Events[0].Party
		w := g.work()
		serial := w.account(outer).Serial
		var proposals []uint64
		for range 8 {
			var ms []chain.Message
			for range chain.MaxProposal {
				serial++
				id, err := identity.NewContractID(outer, serial)
				if err != nil {
					t.Fatal(err)
				}
				ms = append(ms, &chain.CreateNetworkContract{ID: id, Members: nodes})
			}
			r := g.do(4, &chain.Propose{Group: outer, Messages: chain.Pack(ms...)})
			proposals = append(proposals, r.Events[0].ID)
		}
		var votes []chain.Message
		for _, id := range proposals {
			votes = append(votes, &chain.Vote{Proposal: id, Approve: true})
		}
		c.reset()
		r := g.try(4, &chain.Propose{Group: inner, Approve: true, Messages: chain.Pack(votes...)})
		executed := 0
		for _, e := range r.Events {
			if e.To == outer && e.Type == "proposal.executed" {
				executed++
			}
		}
		if executed > 1 {
			t.Errorf("%d proposals with 8 networks of 253 nodes each were carried out", executed)
		}
	})
	if err := Audit(g.tree); err != nil {
		t.Error(err)
	}
}

// TestAFullBlockTakesSmallTransactions: when many change the lists of many nodes
// in one block the last of them have to wait, others don't.
func TestAFullBlockTakesSmallTransactions(t *testing.T) {
	g := newGrid(t, 4)
	g.audit = false
	_, nodes := g.crowd(254)
	var txs [][]byte
	sequence := g.get(3).Sequence
	for range maxBlockLists/254 + 10 {
		sequence++
		txs = append(txs, g.signAt(3, sequence, &chain.CreateNetworkContract{ID: g.id(3), Members: nodes}))
	}
	id := g.id(4)
	txs = append(txs, g.sign(4, &chain.CreateNodeContract{ID: id, Node: nodes[0], Deadline: 60}))
	r := g.block(txs...)
	if last := r.Txs[len(r.Txs)-1]; !last.OK() {
		t.Errorf("a small transaction was refused: %s", last.Error)
	}
	late := 0
	for _, tx := range r.Txs {
		if tx.Kind == fault.Exhausted {
			late++
		}
	}
	if late < 5 || late > 15 {
		t.Errorf("%d of %d have to wait", late, len(txs))
	}
	if err := Audit(g.tree); err != nil {
		t.Error(err)
	}
}

// TestAStrangersNetworkBlocksNobody: anybody may list any node in a network, so
// that keeps nobody from using it.
func TestAStrangersNetworkBlocksNobody(t *testing.T) {
	g := newGrid(t, 5)
	f := g.farm(2)
	n := g.node(f, 2, testMachine())
	g.audit = false
	for range chain.MaxNetworks / chain.MaxMessages {
		var ms []chain.Message
		for range chain.MaxMessages {
			ms = append(ms, &chain.CreateNetworkContract{ID: g.id(4), Members: []identity.Party{n}})
		}
		g.do(4, ms...)
	}
	g.refuse(fault.Exhausted, 4, &chain.CreateNetworkContract{ID: g.id(4), Members: []identity.Party{n}})
	g.audit = true
	rent := g.id(3)
	g.do(3, &chain.CreateRentContract{ID: rent, Node: n, MaxRate: 1 << 60, Deposit: 100 * chain.Credit})
	g.do(3, &chain.Cancel{ID: rent})
	g.do(2, &chain.SetPowerTarget{Node: n})
	g.do(n, &chain.ReportPower{State: chain.PowerStandby})
	g.do(2, &chain.DeregisterNode{Node: n})
}

// TestChangesOfAGroupAreCounted: each looks at all open proposals, which may be
// large.
func TestChangesOfAGroupAreCounted(t *testing.T) {
	g := newGrid(t, 4)
	g.audit = false
	members := []chain.Member{{Party: 4, Weight: 1}}
	policies := []chain.Policy{{Class: chain.ClassMembers, Threshold: 1, Expiry: 1000}, {Class: chain.ClassRelease, Threshold: 1, Expiry: 1000}}
	group := g.do(4, &chain.CreateGroup{Members: members, Policies: policies}).Events[0].Party
	for range maxOpen {
		g.do(4, &chain.Propose{Group: group, Messages: chain.Pack(&chain.RegisterPublisher{Name: "shop", Keys: []identity.PublicKey{testKey(1).Public()}})})
	}
	update := &chain.UpdateGroup{Members: members, Policies: policies}
	var executes []chain.Message
	for i := range uint64(chain.MaxMessages) {
		m := &chain.Execute{Group: group, Sequence: i + 1, Expires: g.now + 100, Messages: chain.Pack(update, update, update, update, update, update, update, update)}
		signed := chain.Approval{Chain: "test-1", Group: group, Sequence: m.Sequence, Expires: m.Expires, Messages: m.Messages}.Encode()
		m.Consents = []chain.Consent{{Party: 4, Signature: g.keys[4].SignAs(0, identity.TagApprove, signed)}}
		executes = append(executes, m)
	}
	g.refuse(fault.Exhausted, 4, executes...)
	g.do(4, &chain.Execute{Group: group, Sequence: 1, Expires: executes[0].(*chain.Execute).Expires, Messages: chain.Pack(update),
		Consents: []chain.Consent{{Party: 4, Signature: g.keys[4].SignAs(0, identity.TagApprove,
			chain.Approval{Chain: "test-1", Group: group, Sequence: 1, Expires: executes[0].(*chain.Execute).Expires, Messages: chain.Pack(update)}.Encode())}}})
}

// TestRefusedRentsAreCounted: a rent looks at every contract of its node.
func TestRefusedRentsAreCounted(t *testing.T) {
	g := newGrid(t, 4)
	g.audit = false
	_, nodes := g.crowd(1)
	g.fillNode(3, nodes[0], 1000)
	g.do(4, &chain.CreateNodeContract{ID: g.id(4), Node: nodes[0], Deadline: 3600})
	var txs [][]byte
	sequence := g.get(3).Sequence
	for range 200 {
		sequence++
		txs = append(txs, g.signAt(3, sequence, &chain.CreateRentContract{ID: g.id(3), Node: nodes[0]}))
	}
	c := g.count()
	g.block(txs...)
	if c.gets > 40_000 {
		t.Errorf("%d reads", c.gets)
	}
}

// TestGrantsThatTellManyAreCounted: every tenant of a node is told of a grant.
func TestGrantsThatTellManyAreCounted(t *testing.T) {
	const tenants = 300
	g := newGrid(t, tenants+3)
	g.audit = false
	_, nodes := g.crowd(1)
	var txs [][]byte
	for p := identity.Party(4); p < 4+tenants; p++ {
		txs = append(txs, g.sign(p, &chain.CreateNodeContract{ID: g.id(p), Node: nodes[0], Deadline: 3600}))
	}
	g.block(txs...)
	ask := &chain.RequestSupport{Node: nodes[0], Purpose: "look", Scope: chain.ScopeLogs, From: g.now, Until: g.now + 1000}
	r := g.do(2, ask) // of the farm's owner: granted at once
	told := 0
	for _, e := range r.Events {
		if e.Type == "support.tenant" {
			told++
		}
	}
	if told != tenants {
		t.Errorf("%d tenants were told", told)
	}
	id := r.Events[0].ID
	var ms []chain.Message
	for i := range uint64(8) {
		ms = append(ms, &chain.RevokeSupport{Request: id + i}, ask)
	}
	g.refuse(fault.Exhausted, 2, ms...)
}
