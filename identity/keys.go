package identity

import (
	"zos.internal/internal/fault"
)

// Keys are the secrets by which somebody acts: a person with a seed, a program
// with a limited key of its own, or an owner of a plain key.
type Keys struct {
	redacted
	Seed  *Seed       // nil for programs and plain keys
	Sign  *PrivateKey // never nil
	KEM   *KEMPrivate // nil for plain keys
	Role  Role        // what Sign may do
	Owner Address     // of the party that Sign speaks for
	Epoch uint32      // of Sign, when it comes from Seed
}

// KeysOf derives the keys of a seed in its first epochs.
func KeysOf(s *Seed) *Keys {
	k := s.SigningKey(FirstEpoch)
	return &Keys{Seed: s, Sign: k, KEM: s.KEM(FirstEpoch), Role: RoleFull, Owner: k.Public().Address(), Epoch: FirstEpoch}
}

// Rotate derives the keys of other epochs; the owner's address stays. It is
// Unsupported without a seed.
func (k *Keys) Rotate(sign, kem uint32) (*Keys, error) {
	if k.Seed == nil {
		return nil, fault.Errorf(fault.Unsupported, "rotate keys: this key has no seed; make a new one with zos key new")
	}
	if sign < FirstEpoch || kem < FirstEpoch {
		return nil, fault.Errorf(fault.Invalid, "rotate keys: epochs %d and %d start at %d", sign, kem, FirstEpoch)
	}
	return &Keys{Seed: k.Seed, Sign: k.Seed.SigningKey(sign), KEM: k.Seed.KEM(kem), Role: RoleFull, Owner: k.Owner, Epoch: sign}, nil
}

// Agent makes the keys of a program that acts for k's owner: a random signing
// key of a limited role, to be added to the party on the chain, and the current
// KEM key, so that it can read its answers. Neither gives the seed. Who steals
// them reads what is sealed to the party until its KEM key is replaced, and acts
// within the role until the key is revoked.
func (k *Keys) Agent(role Role) (*Keys, error) {
	if role != RoleDeploy && role != RoleRead {
		return nil, fault.Errorf(fault.Invalid, "make a key for a program: its role is %v; use deploy or read", role)
	}
	if k.Role != RoleFull {
		return nil, fault.Errorf(fault.Denied, "make a key for a program: this key has the role %v itself, a full one is needed", k.Role)
	}
	s, err := Generate()
	if err != nil {
		return nil, err
	}
	return &Keys{Sign: s, KEM: k.KEM, Role: role, Owner: k.Owner}, nil
}

// Erase overwrites what can be overwritten.
func (k *Keys) Erase() {
	if k.Seed != nil {
		k.Seed.Erase()
	}
	k.Sign.Erase()
	k.KEM = nil
}
