package chain

import (
	"net/netip"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Terms are what a farm asks for and promises.
type Terms struct {
	Prices     Prices `cbor:"1,keyasint" json:"prices"`
	Dedicated  uint32 `cbor:"2,keyasint,omitempty" json:"dedicated_ppm,omitempty"` // price of a whole node in parts per million of the sum of its parts; 0: no whole nodes
	NoticeDays uint32 `cbor:"3,keyasint,omitempty" json:"notice_days,omitempty"`   // notice before a reclaim, at least 7 (shared) or 30 (rented)
	Spare      uint32 `cbor:"4,keyasint,omitempty" json:"spare_ppm,omitempty"`     // power policy: capacity that stays awake
	WakeFrom   uint32 `cbor:"5,keyasint,omitempty" json:"wake_from,omitempty"`     // power policy: minute of the day at which all nodes wake
	Share      uint32 `cbor:"6,keyasint,omitempty" json:"share_ppm,omitempty"`     // the most of its earnings that a contract may give to others
}

func (t Terms) check() error {
	switch {
	case t.Dedicated > 10*Million:
		return fault.Errorf(fault.Invalid, "terms.dedicated_ppm %d: at most %d", t.Dedicated, 10*Million)
	case t.NoticeDays > 365:
		return fault.Errorf(fault.Invalid, "terms.notice_days %d: at most 365", t.NoticeDays)
	case t.Spare > Million:
		return fault.Errorf(fault.Invalid, "terms.spare_ppm %d: at most %d", t.Spare, Million)
	case t.Share > Million:
		return fault.Errorf(fault.Invalid, "terms.share_ppm %d: at most %d", t.Share, Million)
	case t.WakeFrom >= 1440:
		return fault.Errorf(fault.Invalid, "terms.wake_from %d: a minute of the day, 0 to 1439", t.WakeFrom)
	}
	return t.Prices.check("terms.prices")
}

// CreateFarm makes a farm of the signing party.
type CreateFarm struct {
	Name  string `cbor:"1,keyasint" json:"name"` // 3 to 40 characters, unique
	Terms Terms  `cbor:"2,keyasint" json:"terms"`
}

// Code is 201.
func (*CreateFarm) Code() Code { return 201 }

// Check wants a name and sensible terms.
func (m *CreateFarm) Check() error {
	if err := checkName("name", m.Name, 3, 40); err != nil {
		return err
	}
	return m.Terms.check()
}

// UpdateFarm changes the terms. Running contracts keep theirs until they are
// updated or topped up.
type UpdateFarm struct {
	Farm  uint32 `cbor:"1,keyasint" json:"farm"`
	Terms Terms  `cbor:"2,keyasint" json:"terms"`
}

// Code is 202.
func (*UpdateFarm) Code() Code { return 202 }

// Check wants sensible terms.
func (m *UpdateFarm) Check() error { return m.Terms.check() }

// IP is a public address of a farm.
type IP struct {
	Address string `cbor:"1,keyasint" json:"address"` // in CIDR notation
	Gateway string `cbor:"2,keyasint" json:"gateway"`
}

func (ip IP) check(field string) error {
	p, err := netip.ParsePrefix(ip.Address)
	if err != nil || p.String() != ip.Address || p.Addr().IsUnspecified() {
		return fault.Errorf(fault.Invalid, "%s.address %.50q: an address with its prefix length, such as 185.69.1.10/24", field, ip.Address)
	}
	g, err := netip.ParseAddr(ip.Gateway)
	if err != nil || g.String() != ip.Gateway || !p.Contains(g) || g == p.Addr() {
		return fault.Errorf(fault.Invalid, "%s.gateway %.50q: another address in %s", field, ip.Gateway, p.Masked())
	}
	return nil
}

// MaxIPs is the most public addresses that a farm may hold.
const MaxIPs = 256

// AddIPs adds public addresses to a farm.
type AddIPs struct {
	Farm uint32 `cbor:"1,keyasint" json:"farm"`
	IPs  []IP   `cbor:"2,keyasint" json:"ips"`
}

// Code is 203.
func (*AddIPs) Code() Code { return 203 }

// Check wants addresses whose gateways lie beside them.
func (m *AddIPs) Check() error {
	if len(m.IPs) == 0 || len(m.IPs) > MaxIPs {
		return fault.Errorf(fault.Invalid, "ips: %d, 1 to %d", len(m.IPs), MaxIPs)
	}
	for _, ip := range m.IPs {
		if err := ip.check("ips"); err != nil {
			return err
		}
	}
	return nil
}

// RemoveIPs takes addresses away from a farm. One in use stays.
type RemoveIPs struct {
	Farm      uint32   `cbor:"1,keyasint" json:"farm"`
	Addresses []string `cbor:"2,keyasint" json:"addresses"`
}

// Code is 204.
func (*RemoveIPs) Code() Code { return 204 }

// Check wants addresses.
func (m *RemoveIPs) Check() error {
	if len(m.Addresses) == 0 || len(m.Addresses) > MaxIPs {
		return fault.Errorf(fault.Invalid, "addresses: %d, 1 to %d", len(m.Addresses), MaxIPs)
	}
	return nil
}

// Ticket lets machines join a farm: it lies in their boot medium. A farm's key
// signs it under identity.TagTicket.
type Ticket struct {
	Chain    string `cbor:"1,keyasint" json:"chain"`
	Farm     uint32 `cbor:"2,keyasint" json:"farm"`
	Serial   uint32 `cbor:"3,keyasint" json:"serial"`
	Uses     uint32 `cbor:"4,keyasint" json:"uses"`
	NotAfter int64  `cbor:"5,keyasint" json:"not_after"` // unix seconds
}

// Machine is what a node says of itself.
type Machine struct {
	Capacity    Capacity         `cbor:"1,keyasint" json:"capacity"`
	Relays      []identity.Party `cbor:"2,keyasint,omitempty" json:"relays,omitempty"`
	Public      string           `cbor:"3,keyasint,omitempty" json:"public,omitempty"`     // public network configuration, at most 512 bytes
	Location    string           `cbor:"4,keyasint,omitempty" json:"location,omitempty"`   // at most 128 bytes
	LinkSpeed   uint64           `cbor:"5,keyasint,omitempty" json:"link_speed,omitempty"` // bytes a second; caps the egress that can be billed
	Virtual     bool             `cbor:"6,keyasint,omitempty" json:"virtual,omitempty"`
	Fingerprint Hash             `cbor:"7,keyasint" json:"fingerprint"`               // of the hardware
	Measurement Hash             `cbor:"8,keyasint" json:"measurement"`               // of the boot
	Extra       uint64           `cbor:"9,keyasint,omitempty" json:"extra,omitempty"` // operator's extra fee for a whole node, pico-credits a second
}

func (m Machine) check() error {
	switch {
	case len(m.Public) > 512:
		return fault.Errorf(fault.Invalid, "machine.public: %d bytes, at most 512", len(m.Public))
	case len(m.Location) > 128:
		return fault.Errorf(fault.Invalid, "machine.location: %d bytes, at most 128", len(m.Location))
	case m.LinkSpeed > 1<<40:
		return fault.Errorf(fault.Invalid, "machine.link_speed %d: at most %d bytes a second", m.LinkSpeed, uint64(1<<40))
	case m.Extra > maxPrice:
		return fault.Errorf(fault.Invalid, "machine.extra %d: at most %d", m.Extra, uint64(maxPrice))
	}
	if err := checkRelays(m.Relays); err != nil {
		return err
	}
	return m.Capacity.check("machine.capacity")
}

// RegisterNode makes a machine a node of a farm. It is signed by the node's key.
type RegisterNode struct {
	Ticket    Bytes              `cbor:"1,keyasint" json:"ticket"`    // the Ticket's bytes
	Signature identity.Signature `cbor:"2,keyasint" json:"signature"` // by a full key of the farm's owner
	Key       identity.PublicKey `cbor:"3,keyasint" json:"key"`
	KEM       Bytes              `cbor:"4,keyasint" json:"kem"`
	Machine   Machine            `cbor:"5,keyasint" json:"machine"`
	Signer    identity.Party     `cbor:"6,keyasint,omitempty" json:"signer,omitempty"` // who signed the ticket: 0 is the farm's owner; of a group an operator
}

// Code is 205.
func (*RegisterNode) Code() Code { return 205 }

// Check wants a ticket, a key and a sealing key.
func (m *RegisterNode) Check() error {
	if len(m.Ticket) == 0 || len(m.Ticket) > 256 {
		return fault.Errorf(fault.Invalid, "ticket: %d bytes, 1 to 256", len(m.Ticket))
	}
	if len(m.KEM) != kemSize {
		return fault.Errorf(fault.Invalid, "kem: %d bytes, a node needs an MLKEM768-X25519 key of %d", len(m.KEM), kemSize)
	}
	if err := checkKey("key", m.Key); err != nil {
		return err
	}
	return m.Machine.check()
}

// UpdateNode replaces what a node says of itself.
type UpdateNode struct {
	Machine Machine `cbor:"1,keyasint" json:"machine"`
}

// Code is 206.
func (*UpdateNode) Code() Code { return 206 }

// Check wants a sensible machine.
func (m *UpdateNode) Check() error { return m.Machine.check() }

// DeregisterNode ends a node. The farm may when it is empty; governance may
// always, which closes and refunds its contracts.
type DeregisterNode struct {
	Node identity.Party `cbor:"1,keyasint" json:"node"`
}

// Code is 207.
func (*DeregisterNode) Code() Code { return 207 }

// Check wants a node.
func (m *DeregisterNode) Check() error { return checkParty("node", m.Node) }

// Seen is what a relay says about a node.
type Seen struct {
	Node  identity.Party `cbor:"1,keyasint" json:"node"`
	Up    bool           `cbor:"2,keyasint,omitempty" json:"up,omitempty"`
	Since int64          `cbor:"3,keyasint" json:"since"` // unix seconds
}

// ReportNodes is a relay's report of the nodes whose state changed.
type ReportNodes struct {
	Nodes []Seen `cbor:"1,keyasint,omitempty" json:"nodes,omitempty"` // at most 256
	Hour  int64  `cbor:"2,keyasint,omitempty" json:"hour,omitempty"`  // of the root below
	Root  Hash   `cbor:"3,keyasint" json:"root"`                      // Merkle root of the hour's heartbeats
}

// Code is 208.
func (*ReportNodes) Code() Code { return 208 }

// Check bounds the list.
func (m *ReportNodes) Check() error {
	if len(m.Nodes) > 256 {
		return fault.Errorf(fault.Invalid, "nodes: %d, at most 256; send more transactions", len(m.Nodes))
	}
	for _, s := range m.Nodes {
		if err := checkParty("nodes.node", s.Node); err != nil {
			return err
		}
	}
	return nil
}

// Attest is an auditor's statement about a party.
type Attest struct {
	Subject identity.Party `cbor:"1,keyasint" json:"subject"`
	Claim   string         `cbor:"2,keyasint" json:"claim"` // at most 64 characters
	Until   int64          `cbor:"3,keyasint" json:"until"` // unix seconds
}

// Code is 209.
func (*Attest) Code() Code { return 209 }

// Check bounds the claim.
func (m *Attest) Check() error {
	if err := checkName("claim", m.Claim, 1, 64); err != nil {
		return err
	}
	return checkParty("subject", m.Subject)
}

// SetPowerTarget asks a node to sleep or wake.
type SetPowerTarget struct {
	Node identity.Party `cbor:"1,keyasint" json:"node"`
	Up   bool           `cbor:"2,keyasint,omitempty" json:"up,omitempty"`
}

// Code is 210.
func (*SetPowerTarget) Code() Code { return 210 }

// Check wants a node.
func (m *SetPowerTarget) Check() error { return checkParty("node", m.Node) }

// Power is the state of a node.
type Power uint8

// Power states.
const (
	PowerUp      Power = 1
	PowerDown    Power = 2
	PowerStandby Power = 3
)

// String is the state's name.
func (p Power) String() string {
	switch p {
	case PowerUp:
		return "up"
	case PowerDown:
		return "down"
	case PowerStandby:
		return "standby"
	}
	return "unknown"
}

// MarshalText writes the name.
func (p Power) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the name.
func (p *Power) UnmarshalText(b []byte) error {
	for _, known := range []Power{PowerUp, PowerDown, PowerStandby} {
		if known.String() == string(b) {
			*p = known
			return nil
		}
	}
	return fault.Errorf(fault.Invalid, "power %.40q: up, down or standby", b)
}

// ReportPower is a node's report of its own state.
type ReportPower struct {
	State  Power  `cbor:"1,keyasint" json:"state"`
	Reason string `cbor:"2,keyasint,omitempty" json:"reason,omitempty"` // at most 128 bytes
}

// Code is 211.
func (*ReportPower) Code() Code { return 211 }

// Check wants a known state.
func (m *ReportPower) Check() error {
	if m.State < PowerUp || m.State > PowerStandby {
		return fault.Errorf(fault.Invalid, "state %d: 1 (up), 2 (down) or 3 (standby)", m.State)
	}
	if len(m.Reason) > 128 {
		return fault.Errorf(fault.Invalid, "reason: %d bytes, at most 128", len(m.Reason))
	}
	return nil
}
