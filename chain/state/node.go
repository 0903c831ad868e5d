package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func (w *work) isNode(p identity.Party) bool { return w.l.Get(chain.NodeKey(p)) != nil }

func (w *work) node(p identity.Party) (*chain.Node, error) {
	if n := get[chain.Node](w.l, chain.NodeKey(p)); n != nil {
		return n, nil
	}
	return nil, fault.Errorf(fault.NotFound, "node %d does not exist", p)
}

func (w *work) load(p identity.Party) *chain.Load {
	l := get[chain.Load](w.l, chain.LoadKey(p))
	if l == nil {
		l = &chain.Load{}
	}
	return l
}

func (w *work) putLoad(p identity.Party, l *chain.Load) { put(w.l, chain.LoadKey(p), l) }

func (t *tx) registerNode(by actor, m *chain.RegisterNode) error {
	if by.joins == "" || by.joins != m.Key {
		return fault.Errorf(fault.Invalid, "a node is registered by its own new key, with party 0")
	}
	farm, err := t.useTicket(m)
	if err != nil {
		return err
	}
	if err := t.needRelays(m.Machine.Relays); err != nil {
		return err
	}
	p := chain.Party{Address: m.Key.Address(), NextKey: 1, KEM: m.KEM, Epoch: 1, Relays: m.Machine.Relays,
		Keys: []chain.Key{{Key: m.Key, Role: identity.RoleFull}}}
	if err := t.addParty(&p); err != nil {
		return err
	}
	farm.Nodes++
	put(t.l, chain.FarmKey(farm.ID), farm)
	n := chain.Node{ID: p.ID, Farm: farm.ID, Machine: m.Machine, Power: chain.PowerUp, Target: chain.PowerUp, Since: t.Time}
	put(t.l, chain.NodeKey(p.ID), &n)
	t.putLoad(p.ID, &chain.Load{})
	t.emit(chain.Event{Type: "node.registered", Node: p.ID, Farm: farm.ID})
	return nil
}

func (t *tx) updateNode(by actor, m *chain.UpdateNode) error {
	n, err := t.node(by.party)
	if err != nil {
		return fault.Errorf(fault.Denied, "party %d is not a node; only a node updates its record", by.party)
	}
	if err := t.needRelays(m.Machine.Relays); err != nil {
		return err
	}
	load := t.load(n.ID)
	if missing := lacks(m.Machine.Capacity, load.Reserved); missing != "" {
		return fault.Errorf(fault.Conflict, "machine.capacity: contracts hold more (%s); they must end first", missing)
	}
	if load.Rent != 0 {
		t.shrink(load.Rent, m.Machine.Capacity)
	}
	n.Machine = m.Machine
	n.Down = slices.DeleteFunc(n.Down, func(r identity.Party) bool { return !slices.Contains(n.Machine.Relays, r) })
	put(t.l, chain.NodeKey(n.ID), n)
	p, err := t.needParty(n.ID)
	if err != nil {
		return err
	}
	if !slices.Equal(p.Relays, m.Machine.Relays) {
		p.Relays = m.Machine.Relays
		put(t.l, chain.PartyKey(p.ID), p)
	}
	t.setOnline(n)
	t.emit(chain.Event{Type: "node.updated", Node: n.ID})
	return nil
}

// shrink lowers a rent to what its node still has. It never rises.
func (t *tx) shrink(rent identity.ContractID, have chain.Capacity) {
	c := t.contract(rent)
	a := c.Agreed.Capacity
	left := chain.Capacity{CPU: min(a.CPU, have.CPU), Memory: min(a.Memory, have.Memory), SSD: min(a.SSD, have.SSD), HDD: min(a.HDD, have.HDD), IPv4: a.IPv4, IPv6: a.IPv6}
	for _, g := range a.GPU {
		if slices.Contains(have.GPU, g) {
			left.GPU = append(left.GPU, g)
		}
	}
	if left.Equal(a) {
		return
	}
	t.settle(c, t.clock)
	c.Agreed.Capacity = left
	t.refit(c)
	t.schedule(c)
	t.putContract(c)
	full, _ := rates(c)
	t.emit(chain.Event{Type: "contract.shrunk", Contract: c.ID, Node: c.Node, Party: c.Owner, Rate: full})
}

func (t *tx) deregisterNode(by actor, m *chain.DeregisterNode) error {
	n, err := t.node(m.Node)
	if err != nil {
		return err
	}
	f, err := t.farm(n.Farm)
	if err != nil {
		return err
	}
	governs := t.governs(by) == nil
	if by.party != f.Owner && !governs {
		return fault.Errorf(fault.Denied, "node %d belongs to farm %d of party %d", n.ID, f.ID, f.Owner)
	}
	load := t.load(n.ID)
	if load.Deployments() > 0 && !governs {
		return fault.Errorf(fault.Conflict, "node %d has %d live contracts; reclaim them first", n.ID, load.Deployments())
	}
	if err := t.room(int(load.Contracts)); err != nil {
		return err
	}
	entries := t.list(n.ID)
	if load.Rent != 0 { // last, since what is inside would end with it
		i := slices.IndexFunc(entries, func(e chain.ListEntry) bool { return e.Contract == load.Rent })
		rent := entries[i]
		entries = append(slices.Delete(entries, i, i+1), rent)
	}
	for _, e := range entries {
		c := t.contract(e.Contract)
		if c.Kind == chain.KindNetwork {
			c.Agreed.Members = without(c.Agreed.Members, n.ID)
			t.unlist(n.ID, c)
			t.putContract(c)
			continue
		}
		t.close(c, chain.ReasonNode, t.clock)
	}
	t.nodeLeft(n.ID)
	drop(t.l, chain.NodeKey(n.ID))
	drop(t.l, chain.LoadKey(n.ID))
	if f, err = t.farm(n.Farm); err != nil { // as the closing left it
		return err
	}
	f.Nodes--
	put(t.l, chain.FarmKey(f.ID), f)
	t.emit(chain.Event{Type: "node.deregistered", Node: n.ID, Farm: f.ID, Party: by.party})
	return nil
}

func without(list []identity.Party, p identity.Party) []identity.Party {
	return slices.DeleteFunc(slices.Clone(list), func(q identity.Party) bool { return p == q })
}

// reportNodes takes a relay's word on the nodes that use it. A node is offline
// when all its relays say so, and online as soon as one doesn't.
func (t *tx) reportNodes(by actor, m *chain.ReportNodes) error {
	for i, s := range m.Nodes {
		n, err := t.node(s.Node)
		if err != nil {
			return fault.Errorf(fault.Of(err), "nodes[%d]: %w", i, err)
		}
		if !slices.Contains(n.Machine.Relays, by.party) {
			return fault.Errorf(fault.Denied, "nodes[%d]: party %d is not a relay of node %d", i, by.party, s.Node)
		}
		at, there := slices.BinarySearch(n.Down, by.party)
		switch {
		case s.Up && there:
			n.Down = slices.Delete(n.Down, at, at+1)
		case !s.Up && !there:
			n.Down = slices.Insert(n.Down, at, by.party)
		default:
			continue
		}
		put(t.l, chain.NodeKey(n.ID), n)
		t.setOnline(n)
	}
	if m.Hour != 0 {
		t.emit(chain.Event{Type: "nodes.heartbeats", Party: by.party, From: m.Hour, Reason: m.Root.String()})
	}
	return nil
}

// setOnline starts or stops the count of a node's offline seconds.
func (w *work) setOnline(n *chain.Node) {
	offline := len(n.Down) > 0 && len(n.Down) == len(n.Machine.Relays)
	l := w.load(n.ID)
	switch {
	case offline && l.OfflineAt == 0:
		l.OfflineAt = w.clock
		w.emit(chain.Event{Type: "node.offline", Node: n.ID, Farm: n.Farm})
	case !offline && l.OfflineAt != 0:
		l.Offline, l.OfflineAt = l.OfflineUntil(w.clock), 0
		w.emit(chain.Event{Type: "node.online", Node: n.ID, Farm: n.Farm})
	default:
		return
	}
	w.putLoad(n.ID, l)
}

func (t *tx) attest(by actor, m *chain.Attest) error {
	if !slices.Contains(t.params().Auditors, by.party) {
		return fault.Errorf(fault.Denied, "party %d is not an auditor of this chain", by.party)
	}
	n, err := t.node(m.Subject)
	if err != nil {
		return fault.Errorf(fault.Of(err), "subject: %w", err)
	}
	if m.Until <= t.Time {
		return fault.Errorf(fault.Invalid, "until %d: it is over", m.Until)
	}
	n.Certified = slices.DeleteFunc(n.Certified, func(c chain.Claim) bool {
		return c.Until <= t.Time || c.Auditor == by.party && c.Claim == m.Claim
	})
	if len(n.Certified) == 16 {
		return fault.Errorf(fault.Exhausted, "node %d has 16 claims; let some end", n.ID)
	}
	n.Certified = append(n.Certified, chain.Claim{Auditor: by.party, Claim: m.Claim, Until: m.Until})
	put(t.l, chain.NodeKey(n.ID), n)
	t.emit(chain.Event{Type: "node.attested", Node: n.ID, Party: by.party, Name: m.Claim, Until: m.Until})
	return nil
}

func (t *tx) setPowerTarget(by actor, m *chain.SetPowerTarget) error {
	n, err := t.node(m.Node)
	if err != nil {
		return err
	}
	if _, err := t.ownFarm(by, n.Farm); err != nil {
		return err
	}
	if live := t.load(n.ID).Deployments(); !m.Up && live > 0 {
		return fault.Errorf(fault.Conflict, "node %d has %d live contracts; a node with duties doesn't sleep", n.ID, live)
	}
	t.wake(n, m.Up)
	return nil
}

// wake sets the power target of a node.
func (w *work) wake(n *chain.Node, up bool) {
	target := chain.PowerDown
	if up {
		target = chain.PowerUp
	}
	if n.Target == target {
		return
	}
	n.Target = target
	put(w.l, chain.NodeKey(n.ID), n)
	w.emit(chain.Event{Type: "node.target", Node: n.ID, Farm: n.Farm, Name: target.String()})
}

func (t *tx) reportPower(by actor, m *chain.ReportPower) error {
	n, err := t.node(by.party)
	if err != nil {
		return fault.Errorf(fault.Denied, "party %d is not a node; a node reports its own power", by.party)
	}
	if m.State != chain.PowerUp && t.load(n.ID).Deployments() > 0 && n.Target == chain.PowerUp && m.State == chain.PowerStandby {
		return fault.Errorf(fault.Conflict, "node %d has live contracts and is wanted up", n.ID)
	}
	n.Power, n.Since = m.State, t.Time
	put(t.l, chain.NodeKey(n.ID), n)
	t.emit(chain.Event{Type: "node.power", Node: n.ID, Farm: n.Farm, Name: m.State.String(), Reason: m.Reason})
	return nil
}
