package chain

import (
	"strings"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Bounds of contracts.
const (
	MaxDeadline = 60 * 60          // seconds until the first report
	MaxKeepDays = 7                // days that data is kept after the end
	MaxMembers  = 254              // nodes of a network
	MaxOnNode   = 1024             // live contracts of a node
	MaxNetworks = 512              // of them networks, which anybody may list on a node
	MaxFuture   = 10 * 366 * 86400 // seconds that a contract may run
)

// CreateNetworkContract agrees on a private network: one document, the same on
// all its member nodes.
type CreateNetworkContract struct {
	ID      identity.ContractID `cbor:"1,keyasint" json:"id"`
	Hash    Hash                `cbor:"2,keyasint" json:"hash"`    // SHA-256 of the document
	Members []identity.Party    `cbor:"3,keyasint" json:"members"` // nodes, rising
	Expires int64               `cbor:"4,keyasint,omitempty" json:"expires,omitempty"`
	Deposit uint64              `cbor:"5,keyasint" json:"deposit"` // moved from the owner's balance
}

// Code is 301.
func (*CreateNetworkContract) Code() Code { return 301 }

// Check bounds the members.
func (m *CreateNetworkContract) Check() error {
	if err := checkMembers(m.Members); err != nil {
		return err
	}
	return checkContract(m.ID, m.Expires)
}

func checkMembers(members []identity.Party) error {
	if len(members) == 0 || len(members) > MaxMembers {
		return fault.Errorf(fault.Invalid, "members: %d, 1 to %d nodes", len(members), MaxMembers)
	}
	for i, n := range members {
		if err := checkParty("members", n); err != nil {
			return err
		}
		if i > 0 && members[i-1] >= n {
			return fault.Errorf(fault.Invalid, "members[%d] %d: nodes must rise, each once", i, n)
		}
	}
	return nil
}

func checkContract(id identity.ContractID, expires int64) error {
	if err := id.Check(); err != nil {
		return fault.Errorf(fault.Of(err), "id: %w", err)
	}
	if expires < 0 || expires > 1<<40 {
		return fault.Errorf(fault.Invalid, "expires %d: unix seconds, or 0 for none", expires)
	}
	return nil
}

// CreateNodeContract agrees on a deployment on one node. Capacity is reserved at
// once, billing begins with the node's report that everything runs.
type CreateNodeContract struct {
	ID       identity.ContractID `cbor:"1,keyasint" json:"id"`
	Node     identity.Party      `cbor:"2,keyasint" json:"node"`
	Hash     Hash                `cbor:"3,keyasint" json:"hash"`
	Capacity Capacity            `cbor:"4,keyasint" json:"capacity"`
	MaxRate  uint64              `cbor:"5,keyasint" json:"max_rate"` // pico-credits a second that the owner agrees to
	Expires  int64               `cbor:"6,keyasint,omitempty" json:"expires,omitempty"`
	Deadline uint32              `cbor:"7,keyasint,omitempty" json:"deadline,omitempty"` // seconds for the node to report; 0 means 600
	Deposit  uint64              `cbor:"8,keyasint" json:"deposit"`
	Split    []Share             `cbor:"9,keyasint,omitempty" json:"split,omitempty"`
	KeepDays uint32              `cbor:"10,keyasint,omitempty" json:"keep_days,omitempty"`
}

// Code is 302.
func (*CreateNodeContract) Code() Code { return 302 }

// Check bounds capacity, deadline and shares.
func (m *CreateNodeContract) Check() error {
	switch {
	case m.Deadline > MaxDeadline:
		return fault.Errorf(fault.Invalid, "deadline %d: at most %d seconds", m.Deadline, MaxDeadline)
	case m.KeepDays > MaxKeepDays:
		return fault.Errorf(fault.Invalid, "keep_days %d: at most %d", m.KeepDays, MaxKeepDays)
	}
	if err := checkParty("node", m.Node); err != nil {
		return err
	}
	if err := checkShares("split", m.Split); err != nil {
		return err
	}
	if err := m.Capacity.check("capacity"); err != nil {
		return err
	}
	return checkContract(m.ID, m.Expires)
}

// CreateNameContract holds a name for the gateways of the grid.
type CreateNameContract struct {
	ID      identity.ContractID `cbor:"1,keyasint" json:"id"`
	Name    string              `cbor:"2,keyasint" json:"name"` // a DNS label of 3 to 63 characters
	Expires int64               `cbor:"3,keyasint,omitempty" json:"expires,omitempty"`
	Deposit uint64              `cbor:"4,keyasint" json:"deposit"`
}

// Code is 303.
func (*CreateNameContract) Code() Code { return 303 }

// Check wants a label that isn't punycode.
func (m *CreateNameContract) Check() error {
	if err := checkName("name", m.Name, 3, 63); err != nil {
		return err
	}
	if strings.HasPrefix(m.Name, "xn--") {
		return fault.Errorf(fault.Invalid, "name %q: names that begin with xn-- are refused, since they can look like others", m.Name)
	}
	return checkContract(m.ID, m.Expires)
}

// CreateRentContract rents a whole node.
type CreateRentContract struct {
	ID      identity.ContractID `cbor:"1,keyasint" json:"id"`
	Node    identity.Party      `cbor:"2,keyasint" json:"node"`
	MaxRate uint64              `cbor:"3,keyasint" json:"max_rate"`
	Expires int64               `cbor:"4,keyasint,omitempty" json:"expires,omitempty"`
	Deposit uint64              `cbor:"5,keyasint" json:"deposit"`
}

// Code is 304.
func (*CreateRentContract) Code() Code { return 304 }

// Check wants a node.
func (m *CreateRentContract) Check() error {
	if err := checkParty("node", m.Node); err != nil {
		return err
	}
	return checkContract(m.ID, m.Expires)
}

// UpdateContract agrees on the next version of a deployment or network. Until
// the node reports it, the larger of both capacities is held and the old rate
// paid; a failure or the deadline brings the old version back.
type UpdateContract struct {
	ID       identity.ContractID `cbor:"1,keyasint" json:"id"`
	Version  uint32              `cbor:"2,keyasint" json:"version"` // the highest ever used + 1
	Hash     Hash                `cbor:"3,keyasint" json:"hash"`
	Capacity Capacity            `cbor:"4,keyasint" json:"capacity"`
	Members  []identity.Party    `cbor:"5,keyasint,omitempty" json:"members,omitempty"` // of a network
	MaxRate  uint64              `cbor:"6,keyasint,omitempty" json:"max_rate,omitempty"`
	Expires  int64               `cbor:"7,keyasint,omitempty" json:"expires,omitempty"`
	Deadline uint32              `cbor:"8,keyasint,omitempty" json:"deadline,omitempty"`
}

// Code is 305.
func (*UpdateContract) Code() Code { return 305 }

// Check bounds what is there.
func (m *UpdateContract) Check() error {
	if m.Version < 2 {
		return fault.Errorf(fault.Invalid, "version %d: an update is version 2 or later", m.Version)
	}
	if m.Deadline > MaxDeadline {
		return fault.Errorf(fault.Invalid, "deadline %d: at most %d seconds", m.Deadline, MaxDeadline)
	}
	if len(m.Members) > 0 {
		if err := checkMembers(m.Members); err != nil {
			return err
		}
	}
	if err := m.Capacity.check("capacity"); err != nil {
		return err
	}
	return checkContract(m.ID, m.Expires)
}

// Outcome is what a node reports about a version.
type Outcome uint8

// Outcomes of a version on a node.
const (
	OutcomeActive  Outcome = 1 // every workload runs
	OutcomeFailed  Outcome = 2 // the version was undone
	OutcomeStopped Outcome = 3 // it ran and doesn't any more, for a reason on the node
)

// ReportState is the node's word on a version of a contract.
type ReportState struct {
	ID      identity.ContractID `cbor:"1,keyasint" json:"id"`
	Version uint32              `cbor:"2,keyasint" json:"version"`
	Outcome Outcome             `cbor:"3,keyasint" json:"outcome"`
	Receipt Hash                `cbor:"4,keyasint" json:"receipt"` // of the receipt that the owner got
}

// Code is 306.
func (*ReportState) Code() Code { return 306 }

// Check wants a known outcome.
func (m *ReportState) Check() error {
	if m.Outcome < OutcomeActive || m.Outcome > OutcomeStopped {
		return fault.Errorf(fault.Invalid, "outcome %d: 1 (active), 2 (failed) or 3 (stopped)", m.Outcome)
	}
	return checkContract(m.ID, 0)
}

// ReportUsage is a node's signed counters for a span of time, without gap or
// overlap with the last ones.
type ReportUsage struct {
	ID     identity.ContractID `cbor:"1,keyasint" json:"id"`
	From   int64               `cbor:"2,keyasint" json:"from"` // unix seconds
	To     int64               `cbor:"3,keyasint" json:"to"`
	Egress uint64              `cbor:"4,keyasint,omitempty" json:"egress,omitempty"` // bytes sent to the public network
	Root   Hash                `cbor:"5,keyasint" json:"root"`                       // Merkle root of the counters behind the sum
}

// Code is 307.
func (*ReportUsage) Code() Code { return 307 }

// Check wants a span of at most a day.
func (m *ReportUsage) Check() error {
	if m.From < 0 || m.To <= m.From || m.To-m.From > 86400 {
		return fault.Errorf(fault.Invalid, "from %d to %d: a span of 1 to 86400 seconds", m.From, m.To)
	}
	return checkContract(m.ID, 0)
}

// Verdict decides a disputed usage item.
type Verdict uint8

// Verdicts: the owner opens a dispute, the farm may concede, and the arbiter
// decides either way.
const (
	DisputeOpen    Verdict = 0
	DisputeConcede Verdict = 1 // to the owner
	DisputePay     Verdict = 2 // to the farm
)

// Dispute stops the payment of a usage item, or decides about it.
type Dispute struct {
	ID      identity.ContractID `cbor:"1,keyasint" json:"id"`
	Item    uint64              `cbor:"2,keyasint" json:"item"` // the item's number
	Verdict Verdict             `cbor:"3,keyasint,omitempty" json:"verdict,omitempty"`
}

// Code is 308.
func (*Dispute) Code() Code { return 308 }

// Check wants a known verdict.
func (m *Dispute) Check() error {
	if m.Verdict > DisputePay {
		return fault.Errorf(fault.Invalid, "verdict %d: 0 (open), 1 (concede) or 2 (pay)", m.Verdict)
	}
	return checkContract(m.ID, 0)
}

// TopUp adds to a contract's escrow; anyone may.
type TopUp struct {
	ID     identity.ContractID `cbor:"1,keyasint" json:"id"`
	Amount uint64              `cbor:"2,keyasint" json:"amount"`
}

// Code is 309.
func (*TopUp) Code() Code { return 309 }

// Check wants an amount.
func (m *TopUp) Check() error {
	if m.Amount == 0 {
		return fault.Errorf(fault.Invalid, "amount 0: an amount is needed")
	}
	return checkContract(m.ID, 0)
}

// Cancel ends a contract: what was earned is paid, the rest goes back at once.
type Cancel struct {
	ID identity.ContractID `cbor:"1,keyasint" json:"id"`
}

// Code is 310.
func (*Cancel) Code() Code { return 310 }

// Check wants a contract.
func (m *Cancel) Check() error { return checkContract(m.ID, 0) }

// Pause stops compute; storage and addresses stay and are paid for.
type Pause struct {
	ID identity.ContractID `cbor:"1,keyasint" json:"id"`
}

// Code is 311.
func (*Pause) Code() Code { return 311 }

// Check wants a contract.
func (m *Pause) Check() error { return checkContract(m.ID, 0) }

// Resume ends a pause.
type Resume struct {
	ID identity.ContractID `cbor:"1,keyasint" json:"id"`
}

// Code is 312.
func (*Resume) Code() Code { return 312 }

// Check wants a contract.
func (m *Resume) Check() error { return checkContract(m.ID, 0) }

// Reclaim is a farm's notice that a contract on its node will end.
type Reclaim struct {
	ID     identity.ContractID `cbor:"1,keyasint" json:"id"`
	Reason string              `cbor:"2,keyasint" json:"reason"` // 1 to 256 bytes
	At     int64               `cbor:"3,keyasint" json:"at"`     // unix seconds, after the notice; 0 takes a notice back
}

// Code is 313.
func (*Reclaim) Code() Code { return 313 }

// Check wants a reason.
func (m *Reclaim) Check() error {
	if len(m.Reason) == 0 || len(m.Reason) > 256 {
		return fault.Errorf(fault.Invalid, "reason: %d bytes, 1 to 256", len(m.Reason))
	}
	return checkContract(m.ID, m.At)
}
