package state

import (
	"fmt"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// work is one change that happens wholly or not at all: a transaction, the
// messages of a proposal, something that is due. Its writes lie in a layer.
type work struct {
	*block
	l      *layer
	events []chain.Event
}

func (w *work) emit(e chain.Event) { w.events = append(w.events, e) }

// within runs f on a layer of its own. When f fails or panics nothing of it
// remains; a panic is a bug of ours and becomes an Internal error.
func (w *work) within(f func() error) (err error) {
	outer, events := w.l, len(w.events)
	w.l = newLayer(outer)
	defer func() {
		if p := recover(); p != nil {
			err = fault.Errorf(fault.Internal, "this hit a bug and was undone: %v", p)
		}
		if err == nil {
			w.l.merge()
		} else {
			w.events = w.events[:events]
		}
		w.l = outer
	}()
	return f()
}

// tx is the work on one transaction.
type tx struct {
	work
	*chain.Tx
	by      actor
	sponsor identity.Party
	most    int // changes of lists in the block after which it may begin no more messages
}

// actor is who acts: a twin by one of its keys, or a group that consented.
type actor struct {
	party identity.Party
	role  identity.Role // full for a group
	key   *chain.Key    // nil for a group and for one who joins
	joins identity.PublicKey
	depth int // of groups within groups
	// reserved are the contracts whose serials the proposal took when it was made.
	reserved []identity.ContractID
}

func (b *block) newTx(t *chain.Tx) *tx {
	return &tx{work: work{block: b, l: b.base}, Tx: t, most: b.mostLists()}
}

// apply carries out one transaction.
func (b *block) apply(wire []byte) (r TxResult) {
	decoded, err := chain.Decode(wire)
	if err != nil {
		return refused(r, err)
	}
	r.ID = decoded.ID
	t := b.newTx(decoded)
	err = t.within(func() error {
		fee, err := t.admit(false)
		if err != nil {
			return err
		}
		r.Fee = t.charge(fee)
		if t.by.joins != "" {
			// Who joins has no sequence: had a failure a price, anybody could send
			// it again until the sponsor has nothing left.
			return t.run()
		}
		return nil
	})
	if err != nil {
		r.Fee = 0
		return refused(r, err)
	}
	// The sequence is used up and the fee is paid, whatever happens.
	if t.by.joins == "" {
		if err := t.within(t.run); err != nil {
			r = refused(r, err)
		}
	}
	r.Events = t.events
	return r
}

// admit says whether the transaction is taken into a block, or may wait for one,
// and what it costs.
func (t *tx) admit(waiting bool) (bill, error) {
	if err := t.authenticate(); err != nil {
		return bill{}, err
	}
	if err := t.inSequence(waiting); err != nil {
		return bill{}, err
	}
	return t.fee()
}

// run carries out the messages.
func (t *tx) run() error {
	for i, m := range t.Messages {
		if err := t.do(t.by, m); err != nil {
			return fault.Errorf(fault.Of(err), "messages[%d] %s: %w", i, m.Code(), err)
		}
	}
	return nil
}

func refused(r TxResult, err error) TxResult {
	r.Kind, r.Error, r.Events = fault.Of(err), err.Error(), nil
	return r
}

// authenticate checks chain, time, keys and signatures.
func (t *tx) authenticate() error {
	meta := t.meta()
	b := &t.Body
	switch {
	case b.Chain != meta.Chain:
		return fault.Errorf(fault.Denied, "the transaction is for chain %.60q, this is %q", b.Chain, meta.Chain)
	case b.Expires <= t.Time:
		return fault.Errorf(fault.Expired, "transaction expired %d s ago", t.Time-b.Expires)
	case b.Expires > t.Time+chain.MaxExpiry+60:
		return fault.Errorf(fault.Invalid, "expires is %d s ahead, at most %d are allowed", b.Expires-t.Time, chain.MaxExpiry)
	}
	if b.Party == 0 {
		if err := t.joining(); err != nil {
			return err
		}
	} else {
		by, err := t.keyOf(b.Party, t.Signatures[0], identity.TagTx, t.Payload)
		if err != nil {
			return err
		}
		t.by = by
	}
	if err := allowed(t.by, t.Messages); err != nil {
		return err
	}
	if b.Sponsor != 0 {
		by, err := t.keyOf(b.Sponsor, t.Signatures[1], identity.TagTx, t.Payload)
		if err != nil {
			return fault.Errorf(fault.Of(err), "sponsor: %w", err)
		}
		if by.role != identity.RoleFull {
			return fault.Errorf(fault.Denied, "sponsor %d: key %d is a %s key, a full key is needed", b.Sponsor, by.key.Index, by.role)
		}
		t.sponsor = b.Sponsor
	}
	return nil
}

// joining checks the transaction of one who isn't a party yet: exactly one
// message, signed by the key that it brings.
func (t *tx) joining() error {
	var key identity.PublicKey
	if len(t.Messages) == 1 {
		switch m := t.Messages[0].(type) {
		case *chain.CreateTwin:
			key = m.Keys[0].Key
		case *chain.RegisterNode:
			key = m.Key
		}
	}
	if key == "" {
		return fault.Errorf(fault.Invalid, "party 0: only a transaction with one CreateTwin or RegisterNode comes from nobody")
	}
	if t.Body.Sequence != 0 {
		return fault.Errorf(fault.Invalid, "sequence %d: who joins has none, use 0", t.Body.Sequence)
	}
	if p := t.partyAt(key.Address()); p != 0 {
		return fault.Errorf(fault.Conflict, "the key %s belongs to party %d already", key, p)
	}
	if t.Signatures[0].Key != 0 {
		return fault.Errorf(fault.Invalid, "signature by key %d: who joins signs with key 0", t.Signatures[0].Key)
	}
	if err := t.verified.verify(t.Signatures[0], key, identity.TagTx, t.Payload); err != nil {
		return err
	}
	t.by = actor{role: identity.RoleFull, joins: key}
	return nil
}

// keyOf finds the key with which a twin signed and verifies its signature.
func (t *tx) keyOf(p identity.Party, s identity.Signature, tag string, payload []byte) (actor, error) {
	party := get[chain.Party](t.l, chain.PartyKey(p))
	if party == nil {
		return actor{}, fault.Errorf(fault.NotFound, "party %d does not exist", p)
	}
	if party.Group != nil {
		return actor{}, fault.Errorf(fault.Denied, "party %d is a group and has no keys: propose to it, or execute with its members' consents", p)
	}
	for i := range party.Keys {
		k := &party.Keys[i]
		if k.Index != s.Key {
			continue
		}
		if err := t.verified.verify(s, k.Key, tag, payload); err != nil {
			return actor{}, fault.Errorf(fault.Of(err), "signature of party %d by key %d: %w", p, s.Key, err)
		}
		return actor{party: p, role: k.Role, key: k}, nil
	}
	return actor{}, fault.Errorf(fault.Denied, "party %d has no key %d; was it revoked?", p, s.Key)
}

// allowed says whether a key's role is enough for its messages.
func allowed(by actor, ms []chain.Message) error {
	for _, m := range ms {
		switch by.role {
		case identity.RoleFull:
			continue
		case identity.RoleDeploy:
			switch m.Code() {
			case 301, 302, 303, 304, 305, 309, 310:
				continue
			}
		}
		return fault.Errorf(fault.Denied, "key %d of party %d is a %s key and may not sign %s; use a full key", by.key.Index, by.party, by.role, m.Code())
	}
	return nil
}

// inSequence checks the sequence: the next one in a block, or one of the next
// few while the transaction waits.
func (t *tx) inSequence(waiting bool) error {
	if t.by.party == 0 {
		return nil
	}
	next := t.account(t.by.party).Sequence + 1
	got := t.Body.Sequence
	if got == next || waiting && got > next && got < next+chain.MaxPending {
		return nil
	}
	return fault.Errorf(fault.Conflict, "sequence %d of party %d: the next is %d", got, t.by.party, next)
}

// amount shows nano-credits as credits, with all digits that matter.
func amount(nano uint64) string {
	s := fmt.Sprintf("%d.%09d", nano/chain.Credit, nano%chain.Credit)
	for s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	if s[len(s)-1] == '.' {
		s = s[:len(s)-1]
	}
	return s + " credits"
}

// do carries out one message for an actor.
func (t *tx) do(by actor, m chain.Message) error {
	if err := t.room(0); err != nil {
		return err
	}
	switch m := m.(type) {
	case *chain.CreateTwin:
		return t.createTwin(by, m)
	case *chain.UpdateTwin:
		return t.updateTwin(by, m)
	case *chain.AddKey:
		return t.addKey(by, m)
	case *chain.RevokeKey:
		return t.revokeKey(by, m)
	case *chain.RotateKey:
		return t.rotateKey(by, m)
	case *chain.RegisterPublisher:
		return t.registerPublisher(by, m)
	case *chain.PublishRelease:
		return t.publishRelease(by, m)
	case *chain.CreateFarm:
		return t.createFarm(by, m)
	case *chain.UpdateFarm:
		return t.updateFarm(by, m)
	case *chain.AddIPs:
		return t.addIPs(by, m)
	case *chain.RemoveIPs:
		return t.removeIPs(by, m)
	case *chain.RegisterNode:
		return t.registerNode(by, m)
	case *chain.UpdateNode:
		return t.updateNode(by, m)
	case *chain.DeregisterNode:
		return t.deregisterNode(by, m)
	case *chain.ReportNodes:
		return t.reportNodes(by, m)
	case *chain.Attest:
		return t.attest(by, m)
	case *chain.SetPowerTarget:
		return t.setPowerTarget(by, m)
	case *chain.ReportPower:
		return t.reportPower(by, m)
	case *chain.CreateNetworkContract:
		return t.createNetworkContract(by, m)
	case *chain.CreateNodeContract:
		return t.createNodeContract(by, m)
	case *chain.CreateNameContract:
		return t.createNameContract(by, m)
	case *chain.CreateRentContract:
		return t.createRentContract(by, m)
	case *chain.UpdateContract:
		return t.updateContract(by, m)
	case *chain.ReportState:
		return t.reportState(by, m)
	case *chain.ReportUsage:
		return t.reportUsage(by, m)
	case *chain.Dispute:
		return t.dispute(by, m)
	case *chain.TopUp:
		return t.topUp(by, m)
	case *chain.Cancel:
		return t.cancel(by, m)
	case *chain.Pause:
		return t.pause(by, m)
	case *chain.Resume:
		return t.resume(by, m)
	case *chain.Reclaim:
		return t.reclaim(by, m)
	case *chain.CreateGroup:
		return t.createGroup(by, m)
	case *chain.UpdateGroup:
		return t.updateGroup(by, m)
	case *chain.Propose:
		return t.propose(by, m)
	case *chain.Vote:
		return t.vote(by, m)
	case *chain.Withdraw:
		return t.withdraw(by, m)
	case *chain.Execute:
		return t.execute(by, m)
	case *chain.RequestSupport:
		return t.requestSupport(by, m)
	case *chain.ConsentSupport:
		return t.consentSupport(by, m)
	case *chain.RevokeSupport:
		return t.revokeSupport(by, m)
	case *chain.ReportSupport:
		return t.reportSupport(by, m)
	case *chain.Send:
		return t.send(by, m)
	case *chain.Mint:
		return t.mint(by, m)
	case *chain.Burn:
		return t.burn(by, m)
	case *chain.SetParams:
		return t.setParams(by, m)
	case *chain.SetValidators:
		return t.setValidators(by, m)
	case *chain.ScheduleUpgrade:
		return t.scheduleUpgrade(by, m)
	}
	return fault.Errorf(fault.Unsupported, "message code %d", uint16(m.Code()))
}
