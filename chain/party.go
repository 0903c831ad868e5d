package chain

import (
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Key is a key of a twin.
type Key struct {
	Index uint32             `cbor:"1,keyasint" json:"index"` // never used again
	Key   identity.PublicKey `cbor:"2,keyasint" json:"key"`
	Role  identity.Role      `cbor:"3,keyasint" json:"role"`
	Limit uint64             `cbor:"4,keyasint,omitempty" json:"limit,omitempty"` // nano-credits a day that a deploy key may commit
}

// NewKey is a key to be added.
type NewKey struct {
	Key   identity.PublicKey `cbor:"1,keyasint" json:"key"`
	Role  identity.Role      `cbor:"2,keyasint" json:"role"`
	Limit uint64             `cbor:"3,keyasint,omitempty" json:"limit,omitempty"`
}

const (
	maxKeys   = 16
	maxRelays = 3
	kemSize   = 1216 // an MLKEM768-X25519 public key
)

func (k NewKey) check(field string) error {
	if err := k.Role.Check(); err != nil {
		return fault.Errorf(fault.Of(err), "%s: %w", field, err)
	}
	return checkKey(field+".key", k.Key)
}

func checkKey(field string, k identity.PublicKey) error {
	if _, err := identity.PublicKeyFromBytes([]byte(k)); err != nil {
		return fault.Errorf(fault.Of(err), "%s: %w", field, err)
	}
	return nil
}

func checkKEM(kem Bytes) error {
	if len(kem) != 0 && len(kem) != kemSize {
		return fault.Errorf(fault.Invalid, "kem: %d bytes, an MLKEM768-X25519 key has %d", len(kem), kemSize)
	}
	return nil
}

func checkRelays(relays []identity.Party) error {
	if len(relays) > maxRelays {
		return fault.Errorf(fault.Invalid, "relays: %d, at most %d", len(relays), maxRelays)
	}
	for i, r := range relays {
		if err := checkParty("relays", r); err != nil {
			return err
		}
		for _, other := range relays[:i] {
			if other == r {
				return fault.Errorf(fault.Invalid, "relays: %d is there twice", r)
			}
		}
	}
	return nil
}

// CreateTwin makes a twin. It is signed by the first of its keys, whose hash is
// the address for ever. The fee is a sponsor's, or must be 0.
type CreateTwin struct {
	Keys   []NewKey         `cbor:"1,keyasint" json:"keys"` // 1 to 16, the first of role full
	KEM    Bytes            `cbor:"2,keyasint,omitempty" json:"kem,omitempty"`
	Relays []identity.Party `cbor:"3,keyasint,omitempty" json:"relays,omitempty"`
	URL    string           `cbor:"4,keyasint,omitempty" json:"url,omitempty"` // of a relay: where to dial it
}

// Code is 101.
func (*CreateTwin) Code() Code { return 101 }

// Check wants a full key first and no key twice.
func (m *CreateTwin) Check() error {
	if len(m.Keys) == 0 || len(m.Keys) > maxKeys {
		return fault.Errorf(fault.Invalid, "keys: %d, 1 to %d are needed", len(m.Keys), maxKeys)
	}
	if m.Keys[0].Role != identity.RoleFull {
		return fault.Errorf(fault.Invalid, "keys[0].role %s: the first key must be full", m.Keys[0].Role)
	}
	for i, k := range m.Keys {
		if err := k.check("keys"); err != nil {
			return err
		}
		for _, other := range m.Keys[:i] {
			if other.Key == k.Key {
				return fault.Errorf(fault.Invalid, "keys[%d]: %s is there twice", i, k.Key)
			}
		}
	}
	if err := checkURL(m.URL); err != nil {
		return err
	}
	if err := checkKEM(m.KEM); err != nil {
		return err
	}
	return checkRelays(m.Relays)
}

func checkURL(u string) error {
	if len(u) > 255 {
		return fault.Errorf(fault.Invalid, "url: %d bytes, at most 255", len(u))
	}
	return nil
}

// UpdateTwin replaces relays, sealing key and its epoch, and URL.
type UpdateTwin struct {
	Relays []identity.Party `cbor:"1,keyasint,omitempty" json:"relays,omitempty"`
	KEM    Bytes            `cbor:"2,keyasint,omitempty" json:"kem,omitempty"`
	Epoch  uint32           `cbor:"3,keyasint,omitempty" json:"epoch,omitempty"` // rises when kem changes
	URL    string           `cbor:"4,keyasint,omitempty" json:"url,omitempty"`
}

// Code is 102.
func (*UpdateTwin) Code() Code { return 102 }

// Check wants a well-formed sealing key and relays.
func (m *UpdateTwin) Check() error {
	if err := checkKEM(m.KEM); err != nil {
		return err
	}
	if err := checkURL(m.URL); err != nil {
		return err
	}
	return checkRelays(m.Relays)
}

// AddKey adds a key to the signing twin.
type AddKey struct {
	Key NewKey `cbor:"1,keyasint" json:"key"`
}

// Code is 103.
func (*AddKey) Code() Code { return 103 }

// Check wants a well-formed key.
func (m *AddKey) Check() error { return m.Key.check("key") }

// RevokeKey ends a key at once. The last full key can't be revoked.
type RevokeKey struct {
	Index uint32 `cbor:"1,keyasint" json:"index"`
}

// Code is 104.
func (*RevokeKey) Code() Code { return 104 }

// Check accepts every index.
func (m *RevokeKey) Check() error { return nil }

// RotateKey replaces the key at an index by another, which proves itself.
type RotateKey struct {
	Index uint32             `cbor:"1,keyasint" json:"index"`
	Key   identity.PublicKey `cbor:"2,keyasint" json:"key"`
	Proof Bytes              `cbor:"3,keyasint" json:"proof"` // by the new key over RotateProof
}

// Code is 105.
func (*RotateKey) Code() Code { return 105 }

// Check wants a well-formed key.
func (m *RotateKey) Check() error {
	if len(m.Proof) > 128 {
		return fault.Errorf(fault.Invalid, "proof: %d bytes, at most 128", len(m.Proof))
	}
	return checkKey("key", m.Key)
}

// Send moves credits to another party.
type Send struct {
	To     identity.Party `cbor:"1,keyasint" json:"to"`
	Amount uint64         `cbor:"2,keyasint" json:"amount"`
}

// Code is 501.
func (*Send) Code() Code { return 501 }

// Check wants a receiver and an amount.
func (m *Send) Check() error { return checkTransfer(m.To, m.Amount) }

func checkTransfer(to identity.Party, amount uint64) error {
	if amount == 0 {
		return fault.Errorf(fault.Invalid, "amount 0: an amount is needed")
	}
	return checkParty("to", to)
}

// Mint makes credits; only the governance group may.
type Mint struct {
	To     identity.Party `cbor:"1,keyasint" json:"to"`
	Amount uint64         `cbor:"2,keyasint" json:"amount"`
}

// Code is 502.
func (*Mint) Code() Code { return 502 }

// Check wants a receiver and an amount.
func (m *Mint) Check() error { return checkTransfer(m.To, m.Amount) }

// Burn destroys credits of a party; only the governance group may, and only its
// own or the treasury's.
type Burn struct {
	Amount uint64 `cbor:"1,keyasint" json:"amount"`
}

// Code is 503.
func (*Burn) Code() Code { return 503 }

// Check wants an amount.
func (m *Burn) Check() error {
	if m.Amount == 0 {
		return fault.Errorf(fault.Invalid, "amount 0: an amount is needed")
	}
	return nil
}
