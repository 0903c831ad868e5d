package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// What happens to a contract between its creation and its end.

func (t *tx) updateContract(by actor, m *chain.UpdateContract) error {
	c, err := t.own(by, m.ID)
	if err != nil {
		return err
	}
	switch {
	case c.Kind != chain.KindNode && c.Kind != chain.KindNetwork:
		return fault.Errorf(fault.Invalid, "contract %s is a %s contract, which has no versions", c.ID, c.Kind)
	case c.State != chain.StateActive:
		return fault.Errorf(fault.Conflict, "contract %s is %s; only an active one is updated", c.ID, c.State)
	case c.Next != nil:
		return fault.Errorf(fault.Conflict, "version %d of contract %s waits for its node's report until %d", c.Next.Version, c.ID, c.Deadline)
	case m.Version != c.Highest+1:
		return fault.Errorf(fault.Conflict, "chain has version %d, the update says %d, the next is %d", c.Agreed.Version, m.Version, c.Highest+1)
	}
	if err := t.future(m.Expires); err != nil {
		return err
	}
	next := chain.Version{Version: m.Version, Hash: m.Hash, Capacity: m.Capacity, Members: m.Members, MaxRate: m.MaxRate, Expires: m.Expires}
	c.Highest = m.Version
	t.settle(c, t.clock)
	if c.Kind == chain.KindNetwork {
		if err := t.moveMembers(c, next); err != nil {
			return err
		}
	} else if err := t.prepare(c, next, m.Deadline); err != nil {
		return err
	}
	t.relist(c)
	t.schedule(c)
	t.putContract(c)
	t.emit(chain.Event{Type: "contract.updated", Contract: c.ID, Node: c.Node, Party: by.party, Version: uint64(m.Version)})
	return nil
}

// moveMembers puts the next version of a network into force: there is no single
// node that could report it.
func (t *tx) moveMembers(c *chain.Contract, next chain.Version) error {
	if len(next.Members) == 0 || !next.Capacity.Zero() {
		return fault.Errorf(fault.Invalid, "contract %s is a network: members are needed and no capacity", c.ID)
	}
	if err := t.room(len(next.Members) + len(c.Agreed.Members)); err != nil {
		return err
	}
	for i, n := range next.Members {
		if _, err := t.node(n); err != nil {
			return fault.Errorf(fault.Of(err), "members[%d]: %w", i, err)
		}
	}
	old := c.Agreed.Members
	c.Agreed = next
	for _, n := range old {
		if !slices.Contains(next.Members, n) {
			t.unlist(n, c)
		}
	}
	for _, n := range next.Members {
		if !slices.Contains(old, n) {
			if err := t.enlist(n, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare holds the larger of both capacities until the node reports. The farm's
// present prices count from then on.
func (t *tx) prepare(c *chain.Contract, next chain.Version, wait uint32) error {
	if len(next.Members) > 0 {
		return fault.Errorf(fault.Invalid, "members: contract %s is on one node", c.ID)
	}
	n, f, err := t.place(c.Node)
	if err != nil {
		return err
	}
	rent := t.load(c.Node).Rent
	if rent == 0 && len(next.Capacity.GPU) > 0 {
		return fault.Errorf(fault.Denied, "capacity.gpu: a GPU is used on a rented node only; rent node %d first", c.Node)
	}
	after := *c
	after.Agreed, after.Prices = next, pricesFor(f, rent != 0)
	if err := needRate(&after, next.MaxRate); err != nil {
		return err
	}
	full, _ := rates(&after)
	grace, keep := reserves(&after)
	need := chain.AddCap(chain.AddCap(nano(full, hour), grace), keep)
	if have := c.Money.Sum(); have < need {
		return fault.Errorf(fault.Funds, "contract %s has %s, version %d needs at least %s; top it up first", c.ID, amount(have), next.Version, amount(need))
	}
	if more := int(next.Capacity.IPv4) - len(c.IPs); more > 0 {
		if err := t.holdIPs(f, c, more); err != nil {
			return err
		}
	}
	if err := t.hold(c, c.Agreed.Capacity.Max(next.Capacity)); err != nil {
		return err
	}
	if wait != 0 {
		c.Wait = wait
	}
	c.Next, c.NextPrices, c.Deadline = &next, &after.Prices, t.Time+int64(c.Wait)
	c.Link = linkOf(n)
	if asleep(n) {
		c.Deadline = t.Time + wakeDeadline
		t.wake(n, true)
	}
	return nil
}

func (t *tx) reportState(by actor, m *chain.ReportState) error {
	c, err := t.live(m.ID)
	if err != nil {
		return err
	}
	if c.Kind != chain.KindNode || c.Node != by.party {
		return fault.Errorf(fault.Denied, "contract %s is not a deployment on node %d", c.ID, by.party)
	}
	t.settle(c, t.clock)
	switch {
	case c.Next != nil && m.Version == c.Next.Version:
		if err := t.reportNext(c, m.Outcome); err != nil {
			return err
		}
	case m.Version != c.Agreed.Version:
		return fault.Errorf(fault.Conflict, "version %d: contract %s is at version %d", m.Version, c.ID, c.Agreed.Version)
	case m.Outcome == chain.OutcomeActive && c.State == chain.StateCreated:
		c.State, c.Deadline = chain.StateActive, 0
	case m.Outcome == chain.OutcomeFailed && c.State == chain.StateCreated:
		t.close(c, chain.ReasonFailed, t.clock)
		return nil
	case m.Outcome == chain.OutcomeStopped && c.State == chain.StateActive:
		t.suspend(c, chain.ReasonStopped, t.clock)
	case m.Outcome == chain.OutcomeActive && c.State == chain.StateSuspended && c.Reason == chain.ReasonStopped:
		c.State, c.Reason = chain.StateActive, ""
	default:
		return fault.Errorf(fault.Conflict, "outcome %d: contract %s is %s %s", m.Outcome, c.ID, c.State, c.Reason)
	}
	t.relist(c)
	t.schedule(c)
	t.putContract(c)
	t.emit(chain.Event{Type: "contract.reported", Contract: c.ID, Node: c.Node, Party: c.Owner, Version: uint64(m.Version), Name: c.State.String(), Reason: m.Receipt.String()})
	return nil
}

// reportNext puts the next version into force, or brings the old one back.
func (t *tx) reportNext(c *chain.Contract, o chain.Outcome) error {
	switch o {
	case chain.OutcomeActive:
		f, err := t.farmOf(c)
		if err != nil {
			return err
		}
		c.Agreed, c.Prices, c.Next, c.NextPrices = *c.Next, *c.NextPrices, nil, nil
		c.Deadline, c.Warned = 0, 0
		t.freeIPs(f.ID, c, int(c.Agreed.Capacity.IPv4))
		t.refit(c)
		return t.hold(c, t.holding(c))
	case chain.OutcomeFailed:
		return t.restore(c)
	}
	return fault.Errorf(fault.Invalid, "outcome %d: version %d has not run yet", o, c.Next.Version)
}

// holding is what a contract reserves in its state: paid-for processors and
// memory while it runs and for an hour after its funds, disks and addresses while
// it is suspended.
func (w *work) holding(c *chain.Contract) chain.Capacity {
	paid := c.Reason == chain.ReasonStopped || c.Reason == chain.ReasonFunds && w.clock < c.Money.Sold
	if c.State == chain.StateSuspended && !paid {
		return c.Agreed.Capacity.Storage()
	}
	return c.Agreed.Capacity
}

// restore brings the running version back into force.
func (w *work) restore(c *chain.Contract) error {
	failed := c.Next.Version
	c.Next, c.NextPrices, c.Deadline = nil, nil, 0
	if n, err := w.node(c.Node); err == nil {
		w.freeIPs(n.Farm, c, int(c.Agreed.Capacity.IPv4))
	}
	w.emit(chain.Event{Type: "contract.restored", Contract: c.ID, Node: c.Node, Party: c.Owner, Version: uint64(failed)})
	return w.hold(c, w.holding(c))
}

func (w *work) farmOf(c *chain.Contract) (*chain.Farm, error) {
	n, err := w.node(c.Node)
	if err != nil {
		return nil, err
	}
	return w.farm(n.Farm)
}

func (t *tx) cancel(by actor, m *chain.Cancel) error {
	c, err := t.own(by, m.ID)
	if err != nil {
		return err
	}
	ends := len(nodesOf(c))
	if c.Kind == chain.KindRent {
		ends = int(t.load(c.Node).Contracts)
	}
	if err := t.room(ends); err != nil {
		return err
	}
	t.close(c, chain.ReasonOwner, t.clock)
	return nil
}

func (t *tx) pause(by actor, m *chain.Pause) error {
	c, err := t.own(by, m.ID)
	if err != nil {
		return err
	}
	if c.Kind != chain.KindNode || c.State != chain.StateActive || c.Next != nil {
		return fault.Errorf(fault.Conflict, "contract %s is a %s contract, %s; only an active deployment without a waiting update is paused", c.ID, c.Kind, c.State)
	}
	t.settle(c, t.clock)
	t.suspend(c, chain.ReasonOwner, t.clock)
	if err := t.hold(c, t.holding(c)); err != nil {
		return err
	}
	c.Warned = 0
	t.schedule(c)
	t.putContract(c)
	return nil
}

func (t *tx) resume(by actor, m *chain.Resume) error {
	c, err := t.own(by, m.ID)
	if err != nil {
		return err
	}
	if c.State != chain.StateSuspended || c.Reason == chain.ReasonStopped {
		return fault.Errorf(fault.Conflict, "contract %s is %s %s; what is paused or out of funds can be resumed", c.ID, c.State, c.Reason)
	}
	t.settle(c, t.clock)
	if err := t.wakeUp(c); err != nil {
		return err
	}
	t.schedule(c)
	t.putContract(c)
	return nil
}

// wakeUp makes a suspended contract active again, when there are funds for an
// hour and its capacity is still free.
func (w *work) wakeUp(c *chain.Contract) error {
	full, _ := rates(c)
	m := &c.Money
	shift(&m.Escrow, &m.Grace, m.Reserve)
	if least := nano(full, hour); m.Grace < m.Reserve || m.Escrow < least {
		return fault.Errorf(fault.Funds, "contract %s has %s, at least %s are needed (1 h and the grace); top it up",
			c.ID, amount(m.Escrow+m.Grace), amount(chain.AddCap(least, m.Reserve)))
	}
	if err := w.hold(c, c.Agreed.Capacity); err != nil {
		return err
	}
	c.State, c.Reason, c.Warned = chain.StateActive, "", 0
	m.Sold, m.GraceEnd = 0, 0
	w.relist(c)
	w.emit(chain.Event{Type: "contract.resumed", Contract: c.ID, Node: c.Node, Party: c.Owner})
	return nil
}

func (t *tx) topUp(by actor, m *chain.TopUp) error {
	c, err := t.live(m.ID)
	if err != nil {
		return err
	}
	if err := t.spend(by, m.Amount); err != nil {
		return err
	}
	t.settle(c, t.clock)
	c.Money.Escrow += m.Amount
	t.emit(chain.Event{Type: "contract.funded", Contract: c.ID, Node: c.Node, Party: by.party, Amount: m.Amount})
	// The owner's money buys at today's prices, within what the owner agreed to.
	// A stranger's doesn't change the agreement.
	if c.Kind == chain.KindNode && c.Owner == by.party && c.Next == nil {
		if f, err := t.farmOf(c); err == nil {
			after := *c
			after.Prices = pricesFor(f, t.load(c.Node).Rent != 0)
			after.Prices.Egress = min(after.Prices.Egress, c.Prices.Egress) // which no rate bounds
			if needRate(&after, c.Agreed.MaxRate) == nil {
				c.Prices = after.Prices
				t.refit(c)
			}
		}
	}
	c.Warned = 0
	if c.State == chain.StateSuspended && c.Reason == chain.ReasonFunds {
		if err := t.wakeUp(c); err != nil {
			if c.Money.Grace >= c.Money.Reserve { // the wait begins anew
				c.Money.GraceEnd = max(c.Money.GraceEnd, t.clock+graceTime)
			}
			t.emit(chain.Event{Type: "contract.waiting", Contract: c.ID, Node: c.Node, Party: c.Owner, Reason: err.Error()})
		}
	}
	t.schedule(c)
	t.putContract(c)
	return nil
}

// reclaim is a farm's notice. It can be taken back.
func (t *tx) reclaim(by actor, m *chain.Reclaim) error {
	c, err := t.live(m.ID)
	if err != nil {
		return err
	}
	if c.Node == 0 {
		return fault.Errorf(fault.Invalid, "contract %s is a %s contract and lies on no node", c.ID, c.Kind)
	}
	f, err := t.farmOf(c)
	if err != nil {
		return err
	}
	if f.Owner != by.party {
		return fault.Errorf(fault.Denied, "contract %s is on a node of farm %d, which belongs to party %d", c.ID, f.ID, f.Owner)
	}
	days := int64(7)
	if t.load(c.Node).Rent != 0 {
		days = 30
	}
	days = max(days, int64(f.Terms.NoticeDays), int64(c.Notice)) // a promise isn't taken back
	if m.At != 0 && m.At < t.Time+days*86400 {
		return fault.Errorf(fault.Invalid, "at %d: the notice is %d days, so %d at the earliest", m.At, days, t.Time+days*86400)
	}
	c.Reclaim = m.At
	t.schedule(c)
	t.putContract(c)
	t.emit(chain.Event{Type: "contract.notice", Contract: c.ID, Node: c.Node, Party: c.Owner, Until: m.At, Reason: m.Reason})
	return nil
}
