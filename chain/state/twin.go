package state

import (
	"encoding/binary"
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// party reads a party, or nil.
func (w *work) party(p identity.Party) *chain.Party {
	return get[chain.Party](w.l, chain.PartyKey(p))
}

// needParty reads a party that must exist.
func (w *work) needParty(p identity.Party) (*chain.Party, error) {
	if party := w.party(p); party != nil {
		return party, nil
	}
	return nil, fault.Errorf(fault.NotFound, "party %d does not exist", p)
}

// partyAt is the party of an address, or 0.
func (w *work) partyAt(a identity.Address) identity.Party {
	b := w.l.Get(chain.AddressKey(a))
	if b == nil {
		return 0
	}
	return identity.Party(binary.BigEndian.Uint32(b))
}

// addParty stores a new party under the next number.
func (w *work) addParty(p *chain.Party) error {
	if other := w.partyAt(p.Address); other != 0 {
		return fault.Errorf(fault.Conflict, "address %s belongs to party %d already", p.Address, other)
	}
	meta := w.meta()
	if meta.LastParty == identity.MaxParty {
		return fault.Errorf(fault.Exhausted, "all %d numbers of parties are used", identity.MaxParty)
	}
	meta.LastParty++
	p.ID = meta.LastParty
	put(w.l, chain.MetaKey(), meta)
	put(w.l, chain.PartyKey(p.ID), p)
	w.l.set(string(chain.AddressKey(p.Address)), number(uint32(p.ID)))
	return nil
}

func number(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// needRelays wants relays to be parties that can be dialled.
func (w *work) needRelays(relays []identity.Party) error {
	for _, r := range relays {
		if p := w.party(r); p == nil || p.URL == "" {
			return fault.Errorf(fault.NotFound, "relays: party %d is not a relay: it has no URL", r)
		}
	}
	return nil
}

func (t *tx) createTwin(by actor, m *chain.CreateTwin) error {
	if by.joins == "" {
		return fault.Errorf(fault.Invalid, "party %d: a twin is created by its own new key, with party 0", by.party)
	}
	if err := t.needRelays(m.Relays); err != nil {
		return err
	}
	p := newTwin(m)
	if err := t.addParty(p); err != nil {
		return err
	}
	t.emit(chain.Event{Type: "twin.created", Party: p.ID})
	return nil
}

func newTwin(m *chain.CreateTwin) *chain.Party {
	p := &chain.Party{Address: m.Keys[0].Key.Address(), KEM: m.KEM, Relays: m.Relays, URL: m.URL, NextKey: uint32(len(m.Keys))}
	if len(m.KEM) > 0 {
		p.Epoch = 1
	}
	for i, k := range m.Keys {
		p.Keys = append(p.Keys, chain.Key{Index: uint32(i), Key: k.Key, Role: k.Role, Limit: k.Limit})
	}
	return p
}

func (t *tx) updateTwin(by actor, m *chain.UpdateTwin) error {
	p, err := t.needParty(by.party)
	if err != nil {
		return err
	}
	if p.Group != nil {
		return fault.Errorf(fault.Denied, "party %d is a group: it has no relays and no sealing key of its own", by.party)
	}
	if err := t.needRelays(m.Relays); err != nil {
		return err
	}
	if string(m.KEM) != string(p.KEM) && m.Epoch != p.Epoch+1 || string(m.KEM) == string(p.KEM) && m.Epoch != p.Epoch {
		return fault.Errorf(fault.Conflict, "epoch %d: the sealing key is at epoch %d; another key takes the next epoch, the same key keeps it", m.Epoch, p.Epoch)
	}
	p.Relays, p.KEM, p.Epoch, p.URL = m.Relays, m.KEM, m.Epoch, m.URL
	put(t.l, chain.PartyKey(p.ID), p)
	t.emit(chain.Event{Type: "twin.updated", Party: p.ID})
	return nil
}

// ownKeys reads the twin whose keys a full key of its own changes.
func (t *tx) ownKeys(by actor) (*chain.Party, error) {
	p, err := t.needParty(by.party)
	if err != nil {
		return nil, err
	}
	if p.Group != nil {
		return nil, fault.Errorf(fault.Denied, "party %d is a group and has no keys", by.party)
	}
	return p, nil
}

func (t *tx) addKey(by actor, m *chain.AddKey) error {
	p, err := t.ownKeys(by)
	if err != nil {
		return err
	}
	if len(p.Keys) == 16 {
		return fault.Errorf(fault.Exhausted, "party %d has 16 keys, no more are possible; revoke one", p.ID)
	}
	if slices.ContainsFunc(p.Keys, func(k chain.Key) bool { return k.Key == m.Key.Key }) {
		return fault.Errorf(fault.Conflict, "party %d has the key %s already", p.ID, m.Key.Key)
	}
	k := chain.Key{Index: p.NextKey, Key: m.Key.Key, Role: m.Key.Role, Limit: m.Key.Limit}
	p.Keys = append(p.Keys, k)
	p.NextKey++
	put(t.l, chain.PartyKey(p.ID), p)
	t.emit(chain.Event{Type: "key.added", Party: p.ID, ID: uint64(k.Index)})
	return nil
}

func (t *tx) revokeKey(by actor, m *chain.RevokeKey) error {
	p, err := t.ownKeys(by)
	if err != nil {
		return err
	}
	i, full := -1, 0
	for j, k := range p.Keys {
		if k.Index == m.Index {
			i = j
		}
		if k.Role == identity.RoleFull {
			full++
		}
	}
	if i < 0 {
		return fault.Errorf(fault.NotFound, "party %d has no key %d", p.ID, m.Index)
	}
	if full == 1 && p.Keys[i].Role == identity.RoleFull {
		return fault.Errorf(fault.Denied, "key %d is the last full key of party %d; add or rotate one first", m.Index, p.ID)
	}
	p.Keys = slices.Delete(p.Keys, i, i+1)
	put(t.l, chain.PartyKey(p.ID), p)
	t.emit(chain.Event{Type: "key.revoked", Party: p.ID, ID: uint64(m.Index)})
	return nil
}

// rotateProof is what a new key signs to show that its owner has it.
type rotateProof struct {
	_     struct{} `cbor:",toarray"`
	Chain string
	Party identity.Party
	Index uint32
	Key   identity.PublicKey
}

// RotateProof is the bytes that the new key of a RotateKey signs, under
// identity.TagTx followed by "/rotate".
func RotateProof(chainID string, p identity.Party, index uint32, key identity.PublicKey) []byte {
	return canon.MustMarshal(rotateProof{Chain: chainID, Party: p, Index: index, Key: key})
}

// TagRotate domain-separates a RotateProof.
const TagRotate = identity.TagTx + "/rotate"

func (t *tx) rotateKey(by actor, m *chain.RotateKey) error {
	p, err := t.ownKeys(by)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(p.Keys, func(k chain.Key) bool { return k.Index == m.Index })
	if i < 0 {
		return fault.Errorf(fault.NotFound, "party %d has no key %d", p.ID, m.Index)
	}
	if slices.ContainsFunc(p.Keys, func(k chain.Key) bool { return k.Key == m.Key }) {
		return fault.Errorf(fault.Conflict, "party %d has the key %s already", p.ID, m.Key)
	}
	if err := m.Key.Verify(TagRotate, RotateProof(t.Body.Chain, p.ID, m.Index, m.Key), m.Proof); err != nil {
		return fault.Errorf(fault.Denied, "proof: the new key did not sign that it is yours: %w", err)
	}
	p.Keys[i] = chain.Key{Index: p.NextKey, Key: m.Key, Role: p.Keys[i].Role, Limit: p.Keys[i].Limit}
	slices.SortFunc(p.Keys, func(a, b chain.Key) int { return int(a.Index) - int(b.Index) })
	p.NextKey++
	put(t.l, chain.PartyKey(p.ID), p)
	t.emit(chain.Event{Type: "key.rotated", Party: p.ID, ID: uint64(m.Index), Version: uint64(p.NextKey - 1)})
	return nil
}
