package state

import (
	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Spans of usage items, in seconds.
const (
	disputeTime = 24 * hour      // in which the owner may object
	verdictTime = 14 * 24 * hour // after which what nobody decided goes back
	defaultLink = 125_000_000    // bytes a second of a node that doesn't say
)

func (t *tx) reportUsage(by actor, m *chain.ReportUsage) error {
	c, err := t.live(m.ID)
	if err != nil {
		return err
	}
	if c.Kind != chain.KindNode || c.Node != by.party {
		return fault.Errorf(fault.Denied, "contract %s is not a deployment on node %d", c.ID, by.party)
	}
	n, err := t.node(by.party)
	if err != nil {
		return err
	}
	switch {
	case c.State == chain.StateCreated:
		return fault.Errorf(fault.Conflict, "contract %s has not run yet", c.ID)
	case c.Usage != 0 && m.From != c.Usage:
		return fault.Errorf(fault.Conflict, "from %d: the last report of contract %s ended at %d, so there is a gap or an overlap", m.From, c.ID, c.Usage)
	case m.From < c.Created:
		return fault.Errorf(fault.Invalid, "from %d: contract %s began at %d", m.From, c.ID, c.Created)
	case m.To > t.Time+60:
		return fault.Errorf(fault.Invalid, "to %d: it lies %d s ahead", m.To, m.To-t.Time)
	}
	if most := min(linkOf(n), c.Link) * uint64(m.To-m.From); m.Egress > most {
		return fault.Errorf(fault.Invalid, "egress %d: the link of node %d could send %d bytes in %d s when the contract was made", m.Egress, n.ID, most, m.To-m.From)
	}
	t.settle(c, t.clock)
	c.Usage = m.To
	cost := min(chain.MulDiv(m.Egress, c.Prices.Egress, 1<<30)/chain.Pico, c.Money.Escrow)
	if cost > 0 {
		c.Money.Escrow -= cost
		f, err := t.farmOf(c)
		if err != nil {
			return err
		}
		meta := t.meta()
		meta.LastID++
		put(t.l, chain.MetaKey(), meta)
		u := chain.Usage{ID: meta.LastID, Contract: c.ID, From: m.From, To: m.To, Egress: m.Egress, Root: m.Root, Amount: cost, Due: t.Time + disputeTime, Farm: f.ID}
		put(t.l, chain.UsageKey(u.ID), &u)
		t.l.set(string(chain.QueueKey(chain.UsageQueue, u.Due, u.ID)), []byte{1})
		t.emit(chain.Event{Type: "usage.reported", Contract: c.ID, Node: c.Node, Party: c.Owner, ID: u.ID, Amount: cost, From: m.From, Until: m.To})
	}
	t.schedule(c)
	t.putContract(c)
	return nil
}

// linkOf is how many bytes a second a node says that it can send.
func linkOf(n *chain.Node) uint64 {
	if n.Machine.LinkSpeed == 0 {
		return defaultLink
	}
	return n.Machine.LinkSpeed
}

func (t *tx) dispute(by actor, m *chain.Dispute) error {
	u := get[chain.Usage](t.l, chain.UsageKey(m.Item))
	if u == nil || u.Contract != m.ID {
		return fault.Errorf(fault.NotFound, "item %d of contract %s does not exist, or is decided", m.Item, m.ID)
	}
	f, err := t.farm(u.Farm)
	if err != nil {
		return err
	}
	switch m.Verdict {
	case chain.DisputeOpen:
		if by.party != m.ID.Owner() {
			return fault.Errorf(fault.Denied, "contract %s belongs to party %d; its owner disputes", m.ID, m.ID.Owner())
		}
		if u.Disputed {
			return fault.Errorf(fault.Conflict, "item %d is disputed already", u.ID)
		}
		drop(t.l, chain.QueueKey(chain.UsageQueue, u.Due, u.ID))
		u.Disputed, u.Due = true, t.Time+verdictTime
		put(t.l, chain.UsageKey(u.ID), u)
		t.l.set(string(chain.QueueKey(chain.UsageQueue, u.Due, u.ID)), []byte{1})
		t.emit(chain.Event{Type: "usage.disputed", Contract: u.Contract, Party: by.party, ID: u.ID, Amount: u.Amount, Until: u.Due})
		return nil
	case chain.DisputeConcede:
		if by.party != f.Owner && !t.arbitrates(by) {
			return fault.Errorf(fault.Denied, "party %d is neither the farm's owner (%d) nor the arbiter", by.party, f.Owner)
		}
	case chain.DisputePay:
		if !t.arbitrates(by) {
			return fault.Errorf(fault.Denied, "party %d is not the arbiter", by.party)
		}
	}
	if !u.Disputed {
		return fault.Errorf(fault.Conflict, "item %d is not disputed", u.ID)
	}
	drop(t.l, chain.QueueKey(chain.UsageQueue, u.Due, u.ID))
	t.decide(u, m.Verdict == chain.DisputePay)
	return nil
}

// arbitrates says whether the actor decides disputes on this chain.
func (t *tx) arbitrates(by actor) bool {
	if a := t.params().Arbiter; a != 0 {
		return by.party == a
	}
	return t.governs(by) == nil
}

// dueUsage pays an item that nobody disputed, or gives back one that nobody
// decided.
func (w *work) dueUsage(id uint64, at int64) {
	if u := get[chain.Usage](w.l, chain.UsageKey(id)); u != nil && u.Due == at {
		w.decide(u, !u.Disputed)
	}
}

// decide pays an item to the farm or gives it back to the owner.
func (w *work) decide(u *chain.Usage, pay bool) {
	drop(w.l, chain.UsageKey(u.ID))
	c := w.contract(u.Contract)
	if !pay {
		if c != nil && c.Live() {
			w.settle(c, w.clock)
			c.Money.Escrow += u.Amount
			w.schedule(c)
			w.putContract(c)
		} else {
			w.give(u.Contract.Owner(), u.Amount)
		}
		w.emit(chain.Event{Type: "usage.returned", Contract: u.Contract, Party: u.Contract.Owner(), ID: u.ID, Amount: u.Amount})
		return
	}
	to := identity.Party(0)
	if f := get[chain.Farm](w.l, chain.FarmKey(u.Farm)); f != nil {
		to = f.Owner
	}
	protocol := chain.MulDiv(u.Amount, uint64(w.params().Protocol), chain.Million)
	w.give(w.treasury(), protocol)
	w.give(to, u.Amount-protocol)
	if c != nil {
		c.Money.Paid += u.Amount
		w.putContract(c)
	}
	w.emit(chain.Event{Type: "usage.paid", Contract: u.Contract, Party: u.Contract.Owner(), To: to, ID: u.ID, Amount: u.Amount, From: u.From, Until: u.To})
}
