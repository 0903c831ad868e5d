package state

import (
	"math/bits"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Spans of the billing clock, in seconds.
const (
	hour      = 3600
	graceTime = 72 * hour // that storage and addresses outlive the funds
	never     = 1 << 62   // the place in a queue of what has no moment
)

// rates are the full rate of a contract and the rate of what stays while it is
// suspended, in pico-credits a second.
func rates(c *chain.Contract) (full, storage uint64) {
	full = chain.AddCap(c.Prices.Rate(c.Agreed.Capacity), c.Flat)
	storage = c.Prices.Rate(c.Agreed.Capacity.Storage())
	if c.Kind != chain.KindNode { // a name, a network or a whole node is held as a whole
		storage = full
	}
	return full, storage
}

// nano is what a rate costs in a span, in nano-credits, rounded up.
func nano(rate uint64, seconds int64) uint64 {
	hi, lo := bits.Mul64(rate, uint64(seconds))
	lo, carry := bits.Add64(lo, chain.Pico-1, 0)
	hi += carry
	if hi >= chain.Pico {
		return ^uint64(0)
	}
	q, _ := bits.Div64(hi, lo, chain.Pico)
	return q
}

// reserves are what a contract sets aside: for the grace after its funds, and for
// the days that its data is kept after its end.
func reserves(c *chain.Contract) (grace, keep uint64) {
	full, storage := rates(c)
	grace = chain.AddCap(nano(full, hour), nano(storage, graceTime))
	if c.Kind == chain.KindNode {
		keep = nano(storage, int64(c.KeepDays)*86400)
	}
	return grace, keep
}

// fund takes the deposit of a new contract and divides it.
func (t *tx) fund(by actor, c *chain.Contract, deposit uint64) error {
	full, _ := rates(c)
	grace, keep := reserves(c)
	first := nano(full, hour)
	least := chain.AddCap(chain.AddCap(first, grace), keep)
	if deposit < least {
		return fault.Errorf(fault.Funds, "deposit %s, at least %s are needed (1 h %s, grace %s, data kept after the end %s)",
			amount(deposit), amount(least), amount(first), amount(grace), amount(keep))
	}
	if err := t.spend(by, deposit); err != nil {
		return err
	}
	c.Money = chain.Money{Escrow: deposit - grace - keep, Grace: grace, Keep: keep, Reserve: grace, Settled: t.clock}
	if c.Node != 0 {
		c.Money.Offline = t.load(c.Node).OfflineUntil(t.clock)
	}
	return nil
}

// paying is the rate at which a contract pays now, and from which purse.
func paying(c *chain.Contract) (rate uint64, purse *uint64) {
	full, storage := rates(c)
	m := &c.Money
	switch {
	case c.State == chain.StateActive:
		return full, &m.Escrow
	case c.State != chain.StateSuspended || c.Reason == chain.ReasonStopped:
		return 0, &m.Escrow
	case c.Reason == chain.ReasonFunds && m.Settled < m.Sold:
		return full, &m.Grace
	case c.Reason == chain.ReasonFunds:
		return storage, &m.Grace
	}
	return storage, &m.Escrow
}

// settle pays what a contract owes up to a moment of the billing clock. Nobody
// is owed anything for seconds in which the node was offline, and nobody pays
// more than there is.
func (w *work) settle(c *chain.Contract, at int64) {
	m := &c.Money
	if c.State == chain.StateSuspended && c.Reason == chain.ReasonFunds && m.Settled < m.Sold && m.Sold < at {
		w.settlePart(c, m.Sold)
	}
	w.settlePart(c, at)
}

func (w *work) settlePart(c *chain.Contract, at int64) {
	m := &c.Money
	if at <= m.Settled {
		return
	}
	rate, purse := paying(c)
	from, seconds := m.Settled, at-m.Settled
	m.Settled = at
	if c.Node != 0 {
		offline := w.load(c.Node).OfflineUntil(at)
		seconds = max(0, seconds-(offline-m.Offline))
		m.Offline = offline
	}
	due, rest := owed(rate, seconds, m.Remainder)
	if due > *purse {
		due, rest = *purse, 0
	}
	m.Remainder = rest
	if due == 0 {
		return
	}
	*purse -= due
	m.Paid += due
	w.earn(c, due)
	w.emit(chain.Event{Type: "contract.billed", Contract: c.ID, Node: c.Node, Party: c.Owner, Amount: due, Rate: rate, From: from, Until: at})
}

// owed is what a rate adds up to, in nano-credits, and the pico-credits that
// remain below one.
func owed(rate uint64, seconds int64, remainder uint64) (due, rest uint64) {
	hi, lo := bits.Mul64(rate, uint64(seconds))
	lo, carry := bits.Add64(lo, remainder, 0)
	hi += carry
	if hi >= chain.Pico {
		return ^uint64(0), 0
	}
	return bits.Div64(hi, lo, chain.Pico)
}

// earn divides what a contract paid: the protocol's share, the shares agreed on,
// the rest to the farm. What belongs to no farm goes to the treasury.
func (w *work) earn(c *chain.Contract, due uint64) {
	protocol := chain.MulDiv(due, uint64(w.params().Protocol), chain.Million)
	rest := due - protocol
	farm := w.treasury()
	if c.Node != 0 {
		if n, err := w.node(c.Node); err == nil {
			if f, err := w.farm(n.Farm); err == nil {
				farm = f.Owner
			}
		}
	}
	w.give(w.treasury(), protocol)
	left := rest
	for _, s := range c.Split {
		part := chain.MulDiv(rest, uint64(s.PPM), chain.Million)
		w.give(s.Party, part)
		left -= part
	}
	w.give(farm, left)
}

// emptyAt is the moment at which the purse can't pay another second, if nothing
// changes.
func emptyAt(c *chain.Contract) int64 {
	rate, purse := paying(c)
	if rate == 0 {
		return never
	}
	hi, lo := bits.Mul64(*purse, chain.Pico)
	if hi == 0 && lo < c.Money.Remainder {
		return c.Money.Settled
	}
	lo, borrow := bits.Sub64(lo, c.Money.Remainder, 0)
	hi -= borrow
	if hi >= rate {
		return never
	}
	seconds, _ := bits.Div64(hi, lo, rate)
	if seconds > never/2 {
		return never
	}
	return c.Money.Settled + int64(seconds)
}

// warnings are the runways at which an owner is warned, in seconds.
func warnings() [3]int64 { return [3]int64{72 * hour, 24 * hour, hour} }

// schedule puts a contract into both queues, at its next moment of the billing
// clock and at its next date. It is called after every change, before the record
// is written.
func (w *work) schedule(c *chain.Contract) {
	moment := int64(never)
	switch {
	case c.State == chain.StateSuspended && c.Reason == chain.ReasonFunds:
		moment = c.Money.GraceEnd
		if !c.Held.Equal(c.Held.Storage()) {
			moment = c.Money.Sold
		}
	case c.State == chain.StateActive || c.State == chain.StateSuspended:
		moment = emptyAt(c)
		warn := warnings()
		for moment != never && int(c.Warned) < len(warn) {
			if at := moment - warn[c.Warned]; at > w.clock {
				moment = at
				break
			}
			c.Warned++
		}
	}
	w.requeue(chain.BillingQueue, &c.Queued, moment, uint64(c.ID))

	date := int64(never)
	for _, d := range []int64{c.Deadline, c.Agreed.Expires, c.Reclaim} {
		if d != 0 {
			date = min(date, d)
		}
	}
	w.requeue(chain.DateQueue, &c.Dated, date, uint64(c.ID))
}

// requeue moves an entry of a queue.
func (w *work) requeue(queue string, place *int64, at int64, id uint64) {
	if *place == at {
		return
	}
	if *place != 0 {
		drop(w.l, chain.QueueKey(queue, *place, id))
	}
	if at != 0 {
		w.l.set(string(chain.QueueKey(queue, at, id)), []byte{1})
	}
	*place = at
}

// dueBilling acts on a contract whose moment has come.
func (w *work) dueBilling(id uint64, at int64) {
	c := w.contract(identity.ContractID(id))
	w.settle(c, at)
	switch {
	case c.State == chain.StateSuspended && c.Reason == chain.ReasonFunds && at >= c.Money.GraceEnd:
		w.close(c, chain.ReasonFunds, at)
		return
	case c.State == chain.StateSuspended && c.Reason == chain.ReasonFunds:
		// Processors and memory were kept for an hour; now others may have them.
		_ = w.hold(c, c.Held.Storage()) // less than before always fits
		w.emit(chain.Event{Type: "contract.released", Contract: c.ID, Node: c.Node, Party: c.Owner})
	case emptyAt(c) <= at:
		w.suspend(c, chain.ReasonFunds, at)
	default:
		warn := warnings()
		if runway := emptyAt(c) - at; int(c.Warned) < len(warn) && runway <= warn[c.Warned] {
			c.Warned++
			w.emit(chain.Event{Type: "contract.low", Contract: c.ID, Node: c.Node, Party: c.Owner, Until: at + runway, Amount: c.Money.Escrow})
		}
	}
	w.schedule(c)
	w.putContract(c)
}

// suspend stops a contract's machines at a moment up to which it is settled.
func (w *work) suspend(c *chain.Contract, why chain.Reason, at int64) {
	c.State, c.Reason = chain.StateSuspended, why
	if why == chain.ReasonFunds {
		c.Money.Sold, c.Money.GraceEnd = at+hour, at+hour+graceTime
		if c.Held.Equal(c.Held.Storage()) {
			c.Money.Sold = at // no processors are kept, so none are paid for
		}
	}
	w.relist(c)
	w.emit(chain.Event{Type: "contract.suspended", Contract: c.ID, Node: c.Node, Party: c.Owner, Reason: string(why)})
}
