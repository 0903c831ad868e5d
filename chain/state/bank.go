package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// account reads a party's account. A party without transactions has an empty one.
func (w *work) account(p identity.Party) *chain.Account {
	a := get[chain.Account](w.l, chain.AccountKey(p))
	if a == nil {
		a = &chain.Account{}
	}
	return a
}

// take moves nano-credits out of a balance, which the caller found large enough.
func (w *work) take(p identity.Party, nano uint64) {
	a := w.account(p)
	if a.Balance < nano {
		panic("state: a balance below 0")
	}
	a.Balance -= nano
	put(w.l, chain.AccountKey(p), a)
}

// give moves nano-credits into a balance. The supply is bounded, so sums are.
func (w *work) give(p identity.Party, nano uint64) {
	if nano == 0 {
		return
	}
	a := w.account(p)
	a.Balance += nano
	put(w.l, chain.AccountKey(p), a)
}

// spend takes nano-credits from the actor for a contract or another party, when
// the balance and the limit of the key allow it.
func (w *work) spend(by actor, nano uint64) error {
	a := w.account(by.party)
	if a.Balance < nano {
		return fault.Errorf(fault.Funds, "party %d has %s, %s are needed", by.party, amount(a.Balance), amount(nano))
	}
	if by.key != nil && by.role == identity.RoleDeploy {
		if err := w.count(a, by.key.Index, nano, by.key.Limit); err != nil {
			return fault.Errorf(fault.Of(err), "key %d: %w", by.key.Index, err)
		}
	}
	a.Balance -= nano
	put(w.l, chain.AccountKey(by.party), a)
	return nil
}

// count adds to what was committed today under a limit.
func (w *work) count(a *chain.Account, key uint32, nano, limit uint64) error {
	if day := w.Time / 86400; a.SpentDay != day {
		a.SpentDay, a.Spent = day, nil
	}
	i := slices.IndexFunc(a.Spent, func(s chain.Spent) bool { return s.Key == key })
	if i < 0 {
		a.Spent = append(a.Spent, chain.Spent{Key: key})
		i = len(a.Spent) - 1
	}
	s := &a.Spent[i]
	if sum := chain.AddCap(s.Amount, nano); sum > limit {
		return fault.Errorf(fault.Exhausted, "%s more than the limit of %s a day, of which %s are used; it starts anew at midnight UTC",
			amount(nano), amount(limit), amount(s.Amount))
	}
	s.Amount += nano
	return nil
}

func (t *tx) send(by actor, m *chain.Send) error {
	if _, err := t.needParty(m.To); err != nil {
		return err
	}
	if err := t.spend(by, m.Amount); err != nil {
		return err
	}
	t.give(m.To, m.Amount)
	t.emit(chain.Event{Type: "credits.sent", Party: by.party, To: m.To, Amount: m.Amount})
	return nil
}

// maxSupply bounds the supply, so that no sum of balances leaves 63 bits.
const maxSupply = 1 << 62

func (t *tx) mint(by actor, m *chain.Mint) error {
	if err := t.governs(by); err != nil {
		return err
	}
	if _, err := t.needParty(m.To); err != nil {
		return err
	}
	meta := t.meta()
	if m.Amount > maxSupply || meta.Supply > maxSupply-m.Amount {
		return fault.Errorf(fault.Invalid, "amount %d: the supply is %s and at most %s", m.Amount, amount(meta.Supply), amount(maxSupply))
	}
	meta.Supply += m.Amount
	put(t.l, chain.MetaKey(), meta)
	t.give(m.To, m.Amount)
	t.emit(chain.Event{Type: "credits.minted", To: m.To, Amount: m.Amount})
	return nil
}

func (t *tx) burn(by actor, m *chain.Burn) error {
	if err := t.governs(by); err != nil {
		return err
	}
	if have := t.account(by.party).Balance; have < m.Amount {
		return fault.Errorf(fault.Funds, "party %d has %s, %s shall be burnt", by.party, amount(have), amount(m.Amount))
	}
	t.take(by.party, m.Amount)
	meta := t.meta()
	meta.Supply -= m.Amount
	put(t.l, chain.MetaKey(), meta)
	t.emit(chain.Event{Type: "credits.burnt", Party: by.party, Amount: m.Amount})
	return nil
}
