package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// params are the parameters of the chain.
func (w *work) params() *chain.Params {
	if p := get[chain.Params](w.l, chain.ParamsKey()); p != nil {
		return p
	}
	return &chain.Params{}
}

// treasury is who receives fees and the protocol's share, or 0 for nobody.
func (w *work) treasury() identity.Party {
	if p := w.params().Treasury; p != 0 {
		return p
	}
	return w.meta().Governance
}

// governs wants the actor to be the governance of the chain: a group that
// consented, or on a private grid a twin.
func (w *work) governs(by actor) error {
	switch g := w.meta().Governance; {
	case g == 0:
		return fault.Errorf(fault.Denied, "nobody governs this chain")
	case by.party != g:
		return fault.Errorf(fault.Denied, "party %d does not govern this chain, party %d does; propose it there", by.party, g)
	}
	return nil
}

// maxConsentFee bounds, in nano-credits, the fee of what governance needs to
// change the parameters again.
const maxConsentFee = chain.Credit

func (t *tx) setParams(by actor, m *chain.SetParams) error {
	if err := t.governs(by); err != nil {
		return err
	}
	p := &m.Params
	if err := p.Check(); err != nil {
		return err
	}
	for _, who := range append([]identity.Party{p.Treasury, p.Arbiter}, p.Auditors...) {
		if who == 0 {
			continue
		}
		if _, err := t.needParty(who); err != nil {
			return fault.Errorf(fault.Of(err), "params: treasury, arbiter or auditor: %w", err)
		}
	}
	for _, need := range []chain.Message{&chain.UpdateGroup{}, &chain.Propose{}, &chain.Vote{}, &chain.Execute{}, &chain.Mint{}, &chain.SetParams{}, &chain.SetValidators{}, &chain.ScheduleUpgrade{}} {
		if fee := feeOf(p, need.Code()); fee > maxConsentFee {
			return fault.Errorf(fault.Invalid, "params.fees: %s for %s, at most %s, or nobody could correct the parameters; give it an entry of its own",
				amount(fee), need.Code(), amount(maxConsentFee))
		}
	}
	put(t.l, chain.ParamsKey(), p)
	t.emit(chain.Event{Type: "params.changed", Party: by.party})
	return nil
}

// feeOf is the fee of a kind of message.
func feeOf(p *chain.Params, c chain.Code) uint64 {
	var other uint64
	for _, f := range p.Fees {
		if f.Code == c {
			return f.Fee
		}
		if f.Code == 0 {
			other = f.Fee
		}
	}
	return other
}

// feesOf is the sum of the fees of messages.
func feesOf(p *chain.Params, ms []chain.Packed) uint64 {
	var sum uint64
	for _, m := range ms {
		sum = chain.AddCap(sum, feeOf(p, m.Code))
	}
	return sum
}

func (t *tx) setValidators(by actor, m *chain.SetValidators) error {
	if err := t.governs(by); err != nil {
		return err
	}
	if err := chain.CheckValidators(m.Validators, m.Force); err != nil {
		return err
	}
	put(t.l, chain.ValidatorsKey(), &chain.Validators{Validators: m.Validators})
	t.emit(chain.Event{Type: "validators.changed", Party: by.party, Amount: uint64(len(m.Validators))})
	return nil
}

// validatorChanges compares the validators before and after the block: who is
// new or has another power, and, with power 0, who has left; rising by key.
func (b *block) validatorChanges(before Tree) []chain.Validator {
	key := chain.ValidatorsKey()
	was, is := before.Get(key), b.base.Get(key)
	if is == nil || string(was) == string(is) {
		return nil
	}
	next := get[chain.Validators](b.base, key).Validators
	var last []chain.Validator
	if was != nil {
		last = get[chain.Validators](newLayer(before), key).Validators
	}
	var changes []chain.Validator
	for _, v := range next {
		i := slices.IndexFunc(last, func(o chain.Validator) bool { return string(o.Key) == string(v.Key) })
		if i < 0 || last[i].Power != v.Power {
			changes = append(changes, v)
		}
	}
	for _, o := range last {
		if !slices.ContainsFunc(next, func(v chain.Validator) bool { return string(o.Key) == string(v.Key) }) {
			changes = append(changes, chain.Validator{Key: o.Key, Name: o.Name})
		}
	}
	slices.SortFunc(changes, func(a, b chain.Validator) int { return slices.Compare(a.Key, b.Key) })
	return changes
}

func (t *tx) scheduleUpgrade(by actor, m *chain.ScheduleUpgrade) error {
	if err := t.governs(by); err != nil {
		return err
	}
	if m.Height == 0 {
		if u := get[chain.Upgrade](t.l, chain.UpgradeKey()); u == nil || u.Height <= t.Height+1 {
			return fault.Errorf(fault.Conflict, "height 0: no upgrade is scheduled that could still be cancelled")
		}
		drop(t.l, chain.UpgradeKey())
		t.emit(chain.Event{Type: "upgrade.cancelled", Party: by.party})
		return nil
	}
	version := t.meta().Version
	switch {
	case m.Height <= t.Height+1:
		return fault.Errorf(fault.Invalid, "height %d: the chain is at %d, the earliest is %d", m.Height, t.Height, t.Height+2)
	case m.Version < version || m.Version > version+1:
		return fault.Errorf(fault.Invalid, "version %d: the state has version %d; the new binary keeps it or brings the next", m.Version, version)
	case m.Release == chain.Hash{}:
		return fault.Errorf(fault.Invalid, "release: the hash of the release or of the binary is needed")
	}
	put(t.l, chain.UpgradeKey(), &chain.Upgrade{Height: m.Height, Release: m.Release, Version: m.Version})
	t.emit(chain.Event{Type: "upgrade.scheduled", Party: by.party, ID: m.Height, Version: uint64(m.Version), Name: m.Release.String()})
	return nil
}
