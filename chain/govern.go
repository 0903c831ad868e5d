package chain

import (
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// RegisterPublisher takes a publisher's name for the signing party.
type RegisterPublisher struct {
	Name string               `cbor:"1,keyasint" json:"name"` // 3 to 32 characters, unique
	Keys []identity.PublicKey `cbor:"2,keyasint" json:"keys"` // that sign its images, 1 to 16
}

// Code is 106.
func (*RegisterPublisher) Code() Code { return 106 }

// Check wants a name and keys.
func (m *RegisterPublisher) Check() error {
	if len(m.Keys) == 0 || len(m.Keys) > maxKeys {
		return fault.Errorf(fault.Invalid, "keys: %d, 1 to %d", len(m.Keys), maxKeys)
	}
	for i, k := range m.Keys {
		if err := checkKey("keys", k); err != nil {
			return err
		}
		for _, other := range m.Keys[:i] {
			if other == k {
				return fault.Errorf(fault.Invalid, "keys[%d]: %s is there twice", i, k)
			}
		}
	}
	return checkName("name", m.Name, 3, 32)
}

// PublishRelease records a release: its version must rise, so nobody can roll
// it back.
type PublishRelease struct {
	Publisher string `cbor:"1,keyasint" json:"publisher"`
	Name      string `cbor:"2,keyasint" json:"name"` // 1 to 64 characters
	Version   uint64 `cbor:"3,keyasint" json:"version"`
	Root      Hash   `cbor:"4,keyasint" json:"root"`
}

// Code is 107.
func (*PublishRelease) Code() Code { return 107 }

// Check wants names and a version.
func (m *PublishRelease) Check() error {
	if m.Version == 0 {
		return fault.Errorf(fault.Invalid, "version 0: versions begin at 1")
	}
	if err := checkName("publisher", m.Publisher, 3, 32); err != nil {
		return err
	}
	return checkName("name", m.Name, 1, 64)
}

// Fee is what a message costs, whatever it does.
type Fee struct {
	Code Code   `cbor:"1,keyasint" json:"code"` // 0: every message without an own entry
	Fee  uint64 `cbor:"2,keyasint" json:"fee"`  // nano-credits
}

// Params are what governance may change while the chain runs.
type Params struct {
	Fees        []Fee            `cbor:"1,keyasint,omitempty" json:"fees,omitempty"`         // rising by code
	NetworkRate uint64           `cbor:"2,keyasint,omitempty" json:"network_rate,omitempty"` // pico-credits a second for a network contract
	NameRate    uint64           `cbor:"3,keyasint,omitempty" json:"name_rate,omitempty"`    // pico-credits a second for a name contract
	Protocol    uint32           `cbor:"4,keyasint,omitempty" json:"protocol_ppm,omitempty"` // the treasury's share of what contracts earn
	Treasury    identity.Party   `cbor:"5,keyasint,omitempty" json:"treasury,omitempty"`     // who receives fees and the protocol share; 0: the governance group
	Arbiter     identity.Party   `cbor:"6,keyasint,omitempty" json:"arbiter,omitempty"`      // who decides disputes; 0: the governance group
	Auditors    []identity.Party `cbor:"7,keyasint,omitempty" json:"auditors,omitempty"`     // who may attest, rising
	USD         uint64           `cbor:"8,keyasint,omitempty" json:"usd_ppm,omitempty"`      // a credit in parts per million of a dollar, for display; 0 means 1,000,000
}

// SetParams replaces the parameters; only the governance group may.
type SetParams struct {
	Params Params `cbor:"1,keyasint" json:"params"`
}

// Code is 601.
func (*SetParams) Code() Code { return 601 }

// Check bounds rates and shares.
func (m *SetParams) Check() error { return m.Params.Check() }

// Check bounds rates and shares.
func (p Params) Check() error {
	if len(p.Fees) > 64 {
		return fault.Errorf(fault.Invalid, "params.fees: %d, at most 64", len(p.Fees))
	}
	for i, f := range p.Fees {
		if i > 0 && p.Fees[i-1].Code >= f.Code {
			return fault.Errorf(fault.Invalid, "params.fees[%d].code %d: codes must rise, each once", i, uint16(f.Code))
		}
		if f.Fee > 1000*Credit {
			return fault.Errorf(fault.Invalid, "params.fees[%d].fee %d: at most %d", i, f.Fee, uint64(1000*Credit))
		}
	}
	if p.NetworkRate > maxPrice || p.NameRate > maxPrice {
		return fault.Errorf(fault.Invalid, "params: rates %d and %d, at most %d", p.NetworkRate, p.NameRate, uint64(maxPrice))
	}
	if p.Protocol > Million/2 {
		return fault.Errorf(fault.Invalid, "params.protocol_ppm %d: at most half", p.Protocol)
	}
	if len(p.Auditors) > 64 {
		return fault.Errorf(fault.Invalid, "params: at most 64 auditors")
	}
	for i, a := range p.Auditors {
		if i > 0 && p.Auditors[i-1] >= a {
			return fault.Errorf(fault.Invalid, "params.auditors[%d] %d: parties must rise, each once", i, a)
		}
	}
	return nil
}

// Validator is a machine that makes blocks.
type Validator struct {
	Key   Bytes  `cbor:"1,keyasint" json:"key"` // ed25519, 32 bytes
	Power uint32 `cbor:"2,keyasint" json:"power"`
	Name  string `cbor:"3,keyasint,omitempty" json:"name,omitempty"`
}

// MaxValidators is the most machines that make blocks.
const MaxValidators = 64

// SetValidators replaces the set of validators; only the governance group may.
// Two and three validators tolerate no fault and are refused without Force.
type SetValidators struct {
	Validators []Validator `cbor:"1,keyasint" json:"validators"` // rising by key
	Force      bool        `cbor:"2,keyasint,omitempty" json:"force,omitempty"`
}

// Code is 602.
func (*SetValidators) Code() Code { return 602 }

// Check wants 1, or 4 and more, different keys.
func (m *SetValidators) Check() error { return CheckValidators(m.Validators, m.Force) }

// CheckValidators bounds a set of validators.
func CheckValidators(vs []Validator, force bool) error {
	if len(vs) == 0 || len(vs) > MaxValidators {
		return fault.Errorf(fault.Invalid, "validators: %d, 1 to %d", len(vs), MaxValidators)
	}
	if n := len(vs); (n == 2 || n == 3) && !force {
		return fault.Errorf(fault.Invalid, "validators: %d tolerate no fault, so they are worse than 1; take 1, or 4 and more, or force it", n)
	}
	for i, v := range vs {
		if len(v.Key) != 32 {
			return fault.Errorf(fault.Invalid, "validators[%d].key: %d bytes, an ed25519 key has 32", i, len(v.Key))
		}
		if i > 0 && string(vs[i-1].Key) >= string(v.Key) {
			return fault.Errorf(fault.Invalid, "validators[%d].key: keys must rise, each once", i)
		}
		if v.Power == 0 || v.Power > 1_000_000 {
			return fault.Errorf(fault.Invalid, "validators[%d].power %d: 1 to 1,000,000", i, v.Power)
		}
		if len(v.Name) > 64 {
			return fault.Errorf(fault.Invalid, "validators[%d].name: %d bytes, at most 64", i, len(v.Name))
		}
	}
	return nil
}

// ScheduleUpgrade names the height at which validators stop for another binary,
// and the release that brings it; only the governance group may.
type ScheduleUpgrade struct {
	Height  uint64 `cbor:"1,keyasint" json:"height"`  // 0 cancels
	Release Hash   `cbor:"2,keyasint" json:"release"` // hash of the release, or of the binary
	Version uint32 `cbor:"3,keyasint" json:"version"` // state version that the new binary brings
}

// Code is 603.
func (*ScheduleUpgrade) Code() Code { return 603 }

// Check accepts everything; the state knows the height.
func (m *ScheduleUpgrade) Check() error { return nil }
