package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func (w *work) contract(id identity.ContractID) *chain.Contract {
	return get[chain.Contract](w.l, chain.ContractKey(id))
}

func (w *work) putContract(c *chain.Contract) { put(w.l, chain.ContractKey(c.ID), c) }

// live reads a contract that must be live.
func (w *work) live(id identity.ContractID) (*chain.Contract, error) {
	c := w.contract(id)
	if c == nil {
		return nil, fault.Errorf(fault.NotFound, "contract %s does not exist", id)
	}
	if !c.Live() {
		return nil, fault.Errorf(fault.Conflict, "contract %s is closed (%s)", id, c.Reason)
	}
	return c, nil
}

// own reads a live contract of the actor.
func (t *tx) own(by actor, id identity.ContractID) (*chain.Contract, error) {
	c, err := t.live(id)
	if err != nil {
		return nil, err
	}
	if c.Owner != by.party {
		return nil, fault.Errorf(fault.Denied, "contract %s belongs to party %d", id, c.Owner)
	}
	return c, nil
}

// newContract checks the id, which the owner chose, and uses its serial up.
func (t *tx) newContract(by actor, id identity.ContractID, kind chain.Kind, v chain.Version) (*chain.Contract, error) {
	if id.Owner() != by.party {
		return nil, fault.Errorf(fault.Denied, "id %s: party %d can only use its own numbers, %d/…", id, by.party, by.party)
	}
	if !slices.Contains(by.reserved, id) {
		a := t.account(by.party)
		if id.Serial() <= a.Serial {
			return nil, fault.Errorf(fault.Conflict, "serial %d already used, next is %d", id.Serial(), a.Serial+1)
		}
		a.Serial = id.Serial()
		put(t.l, chain.AccountKey(by.party), a)
	} else if t.contract(id) != nil {
		return nil, fault.Errorf(fault.Conflict, "contract %s exists already", id)
	}
	if err := t.future(v.Expires); err != nil {
		return nil, err
	}
	v.Version = 1
	return &chain.Contract{ID: id, Kind: kind, Owner: by.party, State: chain.StateActive, Agreed: v, Highest: 1, Created: t.Time}, nil
}

func (t *tx) future(expires int64) error {
	if expires != 0 && (expires <= t.Time || expires > t.Time+chain.MaxFuture) {
		return fault.Errorf(fault.Invalid, "expires %d: it must lie between now (%d) and %d, or be 0 for none", expires, t.Time, t.Time+chain.MaxFuture)
	}
	return nil
}

// open stores a new contract.
func (t *tx) open(c *chain.Contract) error {
	for _, n := range nodesOf(c) {
		if err := t.enlist(n, c); err != nil {
			return err
		}
	}
	t.schedule(c)
	t.putContract(c)
	full, _ := rates(c)
	t.emit(chain.Event{Type: "contract.created", Contract: c.ID, Node: c.Node, Party: c.Owner, Version: 1, Rate: full, Amount: c.Money.Sum(), Name: c.Kind.String()})
	return nil
}

func (t *tx) createNetworkContract(by actor, m *chain.CreateNetworkContract) error {
	c, err := t.newContract(by, m.ID, chain.KindNetwork, chain.Version{Hash: m.Hash, Members: m.Members, Expires: m.Expires})
	if err != nil {
		return err
	}
	if err := t.room(len(m.Members)); err != nil {
		return err
	}
	for i, n := range m.Members {
		if _, err := t.node(n); err != nil {
			return fault.Errorf(fault.Of(err), "members[%d]: %w", i, err)
		}
	}
	c.Flat = t.params().NetworkRate
	if err := t.fund(by, c, m.Deposit); err != nil {
		return err
	}
	return t.open(c)
}

func (t *tx) createNameContract(by actor, m *chain.CreateNameContract) error {
	c, err := t.newContract(by, m.ID, chain.KindName, chain.Version{Expires: m.Expires})
	if err != nil {
		return err
	}
	if h := get[chain.NameHolder](t.l, chain.NameKey(m.Name)); h != nil {
		if h.Contract != 0 {
			return fault.Errorf(fault.Conflict, "name %q: contract %s holds it", m.Name, h.Contract)
		}
		if h.Owner != by.party {
			return fault.Errorf(fault.Conflict, "name %q: it is kept for its last owner until %d", m.Name, h.Until)
		}
		drop(t.l, chain.QueueKey(chain.NameQueue, h.Until, h.Queue))
	}
	c.Name, c.Flat = m.Name, t.params().NameRate
	if err := t.fund(by, c, m.Deposit); err != nil {
		return err
	}
	put(t.l, chain.NameKey(m.Name), &chain.NameHolder{Contract: c.ID, Owner: by.party})
	return t.open(c)
}

// place finds the node and farm of a new contract; the node must be there.
func (t *tx) place(id identity.Party) (*chain.Node, *chain.Farm, error) {
	n, err := t.node(id)
	if err != nil {
		return nil, nil, err
	}
	if t.load(id).OfflineAt != 0 || n.Power == chain.PowerDown {
		return nil, nil, fault.Errorf(fault.Unavailable, "node %d is offline; choose another", id)
	}
	f, err := t.farm(n.Farm)
	return n, f, err
}

// pricesFor are the prices of a node contract: in a rented node only what the
// rent doesn't hold.
func pricesFor(f *chain.Farm, inRent bool) chain.Prices {
	if inRent {
		return rented(f.Terms.Prices)
	}
	return f.Terms.Prices
}

func rented(p chain.Prices) chain.Prices {
	return chain.Prices{IPv4: p.IPv4, IPv6: p.IPv6, Egress: p.Egress}
}

// asleep says whether a node sleeps or is about to.
func asleep(n *chain.Node) bool {
	return n.Power == chain.PowerStandby || n.Target == chain.PowerDown
}

// needRate wants the rate within what the owner agreed to.
func needRate(c *chain.Contract, most uint64) error {
	if full, _ := rates(c); full > most {
		return fault.Errorf(fault.Conflict, "max_rate %d: the rate is %d pico-credits a second", most, full)
	}
	return nil
}

// Deadlines of a node's first report, in seconds.
const (
	usualDeadline = 600
	wakeDeadline  = 1800
)

func (t *tx) createNodeContract(by actor, m *chain.CreateNodeContract) error {
	c, err := t.newContract(by, m.ID, chain.KindNode, chain.Version{Hash: m.Hash, Capacity: m.Capacity, MaxRate: m.MaxRate, Expires: m.Expires})
	if err != nil {
		return err
	}
	n, f, err := t.place(m.Node)
	if err != nil {
		return err
	}
	rent := t.load(m.Node).Rent
	switch {
	case rent != 0 && rent.Owner() != by.party:
		return fault.Errorf(fault.Denied, "node %d is rented by party %d (contract %s)", m.Node, rent.Owner(), rent)
	case rent == 0 && len(m.Capacity.GPU) > 0:
		return fault.Errorf(fault.Denied, "capacity.gpu: a GPU is used on a rented node only; rent node %d first", m.Node)
	}
	var shares uint32
	for i, s := range m.Split {
		if _, err := t.needParty(s.Party); err != nil {
			return fault.Errorf(fault.Of(err), "split[%d]: %w", i, err)
		}
		shares += s.PPM
	}
	if shares > f.Terms.Share {
		return fault.Errorf(fault.Denied, "split: %d ppm for others than farm %d, which gives away at most %d", shares, f.ID, f.Terms.Share)
	}
	c.State, c.Node, c.Split, c.KeepDays = chain.StateCreated, m.Node, m.Split, m.KeepDays
	c.Link, c.Notice = linkOf(n), f.Terms.NoticeDays
	c.Prices = pricesFor(f, rent != 0)
	if err := needRate(c, m.MaxRate); err != nil {
		return err
	}
	if err := t.holdIPs(f, c, int(m.Capacity.IPv4)); err != nil {
		return err
	}
	if err := t.hold(c, m.Capacity); err != nil {
		return err
	}
	if err := t.fund(by, c, m.Deposit); err != nil {
		return err
	}
	c.Wait = m.Deadline
	if c.Wait == 0 {
		c.Wait = usualDeadline
	}
	c.Deadline = t.Time + int64(c.Wait)
	if asleep(n) {
		c.Deadline = t.Time + wakeDeadline
		t.wake(n, true)
	}
	return t.open(c)
}

func (t *tx) createRentContract(by actor, m *chain.CreateRentContract) error {
	c, err := t.newContract(by, m.ID, chain.KindRent, chain.Version{MaxRate: m.MaxRate, Expires: m.Expires})
	if err != nil {
		return err
	}
	n, f, err := t.place(m.Node)
	if err != nil {
		return err
	}
	if f.Terms.Dedicated == 0 {
		return fault.Errorf(fault.Denied, "farm %d doesn't rent out whole nodes", f.ID)
	}
	l := t.load(m.Node)
	if l.Rent != 0 {
		return fault.Errorf(fault.Conflict, "node %d is rented already (contract %s)", m.Node, l.Rent)
	}
	c.Notice = f.Terms.NoticeDays
	c.Node, c.Flat, c.Agreed.Capacity = m.Node, n.Machine.Extra, n.Machine.Capacity
	c.Prices = dedicated(f.Terms)
	if err := needRate(c, m.MaxRate); err != nil {
		return err
	}
	if err := t.fund(by, c, m.Deposit); err != nil {
		return err
	}
	if err := t.room(int(l.Contracts)); err != nil {
		return err
	}
	t.lists += int(l.Contracts)
	var inside []*chain.Contract
	for _, e := range t.list(m.Node) {
		inner := t.contract(e.Contract)
		if inner.Kind != chain.KindNode {
			continue // a network holds nothing, and anybody may list it
		}
		if inner.Owner != by.party {
			return fault.Errorf(fault.Conflict, "node %d has a contract of party %d; a whole node must be empty, or hold only your contracts", m.Node, inner.Owner)
		}
		inside = append(inside, inner)
	}
	l.Rent = c.ID
	t.putLoad(m.Node, l)
	for _, inner := range inside { // the rent pays for what they hold
		t.settle(inner, t.clock)
		inner.Prices = rented(inner.Prices)
		if inner.NextPrices != nil {
			*inner.NextPrices = rented(*inner.NextPrices)
		}
		t.refit(inner)
		t.schedule(inner)
		t.putContract(inner)
	}
	if asleep(n) {
		t.wake(n, true)
	}
	t.rentArrived(m.Node, by.party)
	return t.open(c)
}

// dedicated are the prices of a whole node.
func dedicated(terms chain.Terms) chain.Prices {
	p, factor := terms.Prices, uint64(terms.Dedicated)
	scale := func(v uint64) uint64 { return chain.MulDiv(v, factor, chain.Million) }
	return chain.Prices{CPU: scale(p.CPU), Memory: scale(p.Memory), SSD: scale(p.SSD), HDD: scale(p.HDD), GPU: scale(p.GPU)}
}

// refit moves money between escrow and grace after the rate has changed, as far
// as the escrow goes.
func (w *work) refit(c *chain.Contract) {
	m := &c.Money
	grace, keep := reserves(c)
	m.Reserve = grace
	if c.State == chain.StateSuspended && c.Reason == chain.ReasonFunds {
		return // the grace is being used
	}
	shift(&m.Escrow, &m.Grace, grace)
	shift(&m.Escrow, &m.Keep, keep)
}

// shift fills or lowers a reserve to what it should be, from or into the escrow.
func shift(escrow, reserve *uint64, want uint64) {
	if *reserve >= want {
		*escrow += *reserve - want
		*reserve = want
		return
	}
	move := min(want-*reserve, *escrow)
	*escrow -= move
	*reserve += move
}

// close ends a contract at a moment up to which it is settled: everything it
// held is free and everything not earned goes back, in the same block.
func (w *work) close(c *chain.Contract, why chain.Reason, at int64) {
	w.settle(c, at)
	m := &c.Money
	ran := c.State != chain.StateCreated && why != chain.ReasonNode
	if ran && m.Keep > 0 {
		m.Paid += m.Keep
		w.earn(c, m.Keep)
		w.emit(chain.Event{Type: "contract.kept", Contract: c.ID, Node: c.Node, Party: c.Owner, Amount: m.Keep})
		m.Keep = 0
	}
	refund := m.Sum()
	w.give(c.Owner, refund)
	m.Escrow, m.Grace, m.Keep, m.Remainder = 0, 0, 0, 0
	for _, n := range nodesOf(c) {
		w.unlist(n, c)
	}
	if err := w.hold(c, chain.Capacity{}); err != nil {
		panic("state: giving capacity back: " + err.Error())
	}
	if c.Node != 0 {
		if n, err := w.node(c.Node); err == nil {
			w.freeIPs(n.Farm, c, 0)
		}
	}
	c.State, c.Reason, c.Closed, c.Next, c.NextPrices, c.Deadline, c.Reclaim = chain.StateClosed, why, w.Time, nil, nil, 0, 0
	w.requeue(chain.BillingQueue, &c.Queued, 0, uint64(c.ID))
	w.requeue(chain.DateQueue, &c.Dated, 0, uint64(c.ID))
	w.l.set(string(chain.QueueKey(chain.ClosedQueue, w.Time+30*86400, uint64(c.ID))), []byte{1})
	w.putContract(c)
	w.emit(chain.Event{Type: "contract.closed", Contract: c.ID, Node: c.Node, Party: c.Owner, Reason: string(why), Amount: refund})
	switch c.Kind {
	case chain.KindName:
		// Kept for as long as it was paid for, so that nobody collects names for nothing.
		h := chain.NameHolder{Owner: c.Owner, Until: w.Time + min(7*86400, w.Time-c.Created), Queue: uint64(c.ID)}
		if h.Until == w.Time {
			drop(w.l, chain.NameKey(c.Name))
			return
		}
		put(w.l, chain.NameKey(c.Name), &h)
		w.l.set(string(chain.QueueKey(chain.NameQueue, h.Until, h.Queue)), []byte(c.Name))
	case chain.KindRent:
		w.rentEnded(c)
	}
}

// rentEnded frees a node. What its renter ran there ends with the rent, because
// nobody agreed on a price for it.
func (w *work) rentEnded(c *chain.Contract) {
	l := w.load(c.Node)
	l.Rent = 0
	w.putLoad(c.Node, l)
	for _, e := range w.list(c.Node) {
		if inner := w.contract(e.Contract); inner.Kind == chain.KindNode {
			w.close(inner, chain.ReasonRent, w.clock)
		}
	}
}
