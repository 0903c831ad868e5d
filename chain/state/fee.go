package state

import (
	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// What a transaction costs and who pays.

// feeOf is what a message costs.
func (t *tx) feeOf(p *chain.Params, m chain.Message) uint64 {
	switch m.Code() {
	case 102, 205, 206, 211, 306, 307, 414: // nodes and relays keep the books and have no purse
		if t.by.party == 0 || t.isNode(t.by.party) {
			return 0
		}
	case 208:
		if p := t.party(t.by.party); p != nil && p.URL != "" {
			return 0
		}
	}
	fee := feeOf(p, m.Code())
	switch m := m.(type) { // who puts messages before a group pays for them
	case *chain.Propose:
		return chain.AddCap(fee, feesOf(p, m.Messages))
	case *chain.Execute:
		return chain.AddCap(fee, feesOf(p, m.Messages))
	}
	return fee
}

// bill is what a transaction costs and who pays.
type bill struct {
	wallet    uint64 // of the sponsor or the party
	contracts []contractFee
}

type contractFee struct {
	id  identity.ContractID
	fee uint64
}

// fee adds up the fees and checks that they can be paid. The fee of a message
// about a contract of the signer comes from that contract, as far as it goes, so
// that an empty wallet can always cancel.
func (t *tx) fee() (bill, error) {
	params := t.params()
	var b bill
	var total uint64
	for _, m := range t.Messages {
		f := t.feeOf(params, m)
		if f == 0 {
			continue
		}
		total = chain.AddCap(total, f)
		if id := contractOf(m); id != 0 && id.Owner() == t.by.party {
			part := min(f, t.escrowFor(b.contracts, id))
			b.contracts = append(b.contracts, contractFee{id, part})
			f -= part
		}
		b.wallet = chain.AddCap(b.wallet, f)
	}
	if total > t.Body.FeeLimit {
		return b, fault.Errorf(fault.Funds, "the fee is %s, the transaction allows %s; raise fee_limit", amount(total), amount(t.Body.FeeLimit))
	}
	if b.wallet == 0 {
		return b, nil
	}
	payer := t.payer()
	if payer == 0 {
		return b, fault.Errorf(fault.Funds, "joining costs %s here and needs a sponsor", amount(b.wallet))
	}
	a := t.account(payer)
	if t.onlyCancels() {
		b.wallet = min(b.wallet, a.Balance)
		return b, nil
	}
	if t.counted() {
		if err := t.count(a, t.by.key.Index, b.wallet, t.by.key.Limit); err != nil {
			return b, fault.Errorf(fault.Of(err), "fee: key %d: %w", t.by.key.Index, err)
		}
	}
	if have := a.Balance; have < b.wallet {
		return b, fault.Errorf(fault.Funds, "party %d has %s, the fee is %s", payer, amount(have), amount(b.wallet))
	}
	return b, nil
}

func (t *tx) payer() identity.Party {
	if t.sponsor != 0 {
		return t.sponsor
	}
	return t.by.party
}

// escrowFor is what the escrow of a contract has for a fee, when everything that
// was used is paid, after the fees of other messages.
func (t *tx) escrowFor(others []contractFee, id identity.ContractID) uint64 {
	c := t.contract(id)
	if c == nil || !c.Live() {
		return 0
	}
	draft := work{block: t.block, l: newLayer(t.l)}
	draft.settle(c, t.clock)
	left := c.Money.Escrow
	for _, o := range others {
		if o.id == id {
			left -= o.fee
		}
	}
	return left
}

// onlyCancels says whether the transaction does nothing but end a contract of its
// signer, which is possible with an empty wallet, and once.
func (t *tx) onlyCancels() bool {
	m, ok := t.Messages[0].(*chain.Cancel)
	if !ok || len(t.Messages) > 1 || m.ID.Owner() != t.by.party {
		return false
	}
	c := t.contract(m.ID)
	return c != nil && c.Live()
}

// counted says whether the fee counts under the limit of the key that signed.
func (t *tx) counted() bool {
	return t.by.role == identity.RoleDeploy && t.payer() == t.by.party && !t.onlyCancels()
}

// contractOf is the existing contract that a message of its owner is about.
func contractOf(m chain.Message) identity.ContractID {
	switch m := m.(type) {
	case *chain.UpdateContract:
		return m.ID
	case *chain.Cancel:
		return m.ID
	case *chain.Pause:
		return m.ID
	case *chain.Resume:
		return m.ID
	case *chain.Dispute:
		return m.ID
	}
	return 0
}

// charge takes the fee and uses up the sequence.
func (t *tx) charge(b bill) (charged uint64) {
	if t.by.party != 0 {
		a := t.account(t.by.party)
		a.Sequence++
		put(t.l, chain.AccountKey(t.by.party), a)
	}
	for _, cf := range b.contracts {
		if cf.fee == 0 {
			continue
		}
		c := t.contract(cf.id)
		t.settle(c, t.clock) // the farm comes first
		c.Money.Escrow -= cf.fee
		charged += cf.fee
		t.schedule(c)
		t.putContract(c)
	}
	if b.wallet > 0 {
		if a := t.account(t.payer()); t.counted() && t.count(a, t.by.key.Index, b.wallet, t.by.key.Limit) == nil {
			put(t.l, chain.AccountKey(t.payer()), a)
		}
		t.take(t.payer(), b.wallet)
		charged += b.wallet
	}
	if charged > 0 {
		t.give(t.treasury(), charged)
	}
	return charged
}
