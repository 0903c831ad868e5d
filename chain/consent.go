package chain

import (
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Class is a class of actions for which a group has its own policy.
type Class string

// Classes of actions.
const (
	ClassDeploy  Class = "deploy"  // create, resume and fund contracts
	ClassUpdate  Class = "update"  // change contracts
	ClassCancel  Class = "cancel"  // pause and end contracts
	ClassSpend   Class = "spend"   // send credits
	ClassMembers Class = "members" // change the group
	ClassSupport Class = "support" // consent to support access
	ClassFarm    Class = "farm"    // run farms and nodes, report and dispute
	ClassRelease Class = "release" // publish
	ClassGovern  Class = "govern"  // mint, parameters, validators, upgrades
)

// Classes returns all classes.
func Classes() []Class {
	return []Class{ClassCancel, ClassDeploy, ClassFarm, ClassGovern, ClassMembers, ClassRelease, ClassSpend, ClassSupport, ClassUpdate}
}

// Member is a member of a group.
type Member struct {
	Party    identity.Party `cbor:"1,keyasint" json:"party"` // a twin, or a group of twins
	Weight   uint32         `cbor:"2,keyasint" json:"weight"`
	Operator bool           `cbor:"3,keyasint,omitempty" json:"operator,omitempty"` // may start and stop workloads
}

// Policy says what consent an action needs.
type Policy struct {
	Class     Class            `cbor:"1,keyasint" json:"class"`
	Threshold uint32           `cbor:"2,keyasint" json:"threshold"`                     // sum of weights
	Must      []identity.Party `cbor:"3,keyasint,omitempty" json:"must,omitempty"`      // members who must approve
	MinDelay  uint32           `cbor:"4,keyasint,omitempty" json:"min_delay,omitempty"` // seconds between proposal and execution
	Expiry    uint32           `cbor:"5,keyasint" json:"expiry"`                        // seconds, at most 30 days
	Limit     uint64           `cbor:"6,keyasint,omitempty" json:"limit,omitempty"`     // nano-credits a day (spend)
}

// Bounds of groups.
const (
	MaxGroup    = 64         // members
	MaxProposal = 8          // messages
	maxExpiry   = 30 * 86400 // seconds
	maxWeight   = 1_000_000
)

// CreateGroup makes a group; its address comes from the creator's and a serial.
type CreateGroup struct {
	Members  []Member `cbor:"1,keyasint" json:"members"`  // rising by party
	Policies []Policy `cbor:"2,keyasint" json:"policies"` // rising by class; a class without one is refused
	Name     string   `cbor:"3,keyasint,omitempty" json:"name,omitempty"`
}

// Code is 401.
func (*CreateGroup) Code() Code { return 401 }

// Check wants members whose weights can reach every threshold.
func (m *CreateGroup) Check() error { return checkGroup(m.Name, m.Members, m.Policies) }

// UpdateGroup replaces members and policies of the group that executes it.
type UpdateGroup struct {
	Members  []Member `cbor:"1,keyasint" json:"members"`
	Policies []Policy `cbor:"2,keyasint" json:"policies"`
	Name     string   `cbor:"3,keyasint,omitempty" json:"name,omitempty"`
}

// Code is 402.
func (*UpdateGroup) Code() Code { return 402 }

// Check is that of CreateGroup.
func (m *UpdateGroup) Check() error { return checkGroup(m.Name, m.Members, m.Policies) }

func checkGroup(name string, members []Member, policies []Policy) error {
	if name != "" {
		if err := checkName("name", name, 1, 40); err != nil {
			return err
		}
	}
	if len(members) == 0 || len(members) > MaxGroup {
		return fault.Errorf(fault.Invalid, "members: %d, 1 to %d", len(members), MaxGroup)
	}
	var sum uint64
	weights := make(map[identity.Party]uint32)
	for i, m := range members {
		if err := checkParty("members.party", m.Party); err != nil {
			return err
		}
		if i > 0 && members[i-1].Party >= m.Party {
			return fault.Errorf(fault.Invalid, "members[%d].party %d: parties must rise, each once", i, m.Party)
		}
		if m.Weight == 0 || m.Weight > maxWeight {
			return fault.Errorf(fault.Invalid, "members[%d].weight %d: 1 to %d", i, m.Weight, maxWeight)
		}
		weights[m.Party] = m.Weight
		sum += uint64(m.Weight)
	}
	if len(policies) == 0 {
		return fault.Errorf(fault.Invalid, "policies: at least one class is needed, or the group can do nothing")
	}
	for i, p := range policies {
		known := false
		for _, c := range Classes() {
			known = known || c == p.Class
		}
		switch {
		case !known:
			return fault.Errorf(fault.Invalid, "policies[%d].class %.40q: one of %v", i, p.Class, Classes())
		case i > 0 && policies[i-1].Class >= p.Class:
			return fault.Errorf(fault.Invalid, "policies[%d].class %s: classes must rise, each once", i, p.Class)
		case p.Threshold == 0 || uint64(p.Threshold) > sum:
			return fault.Errorf(fault.Invalid, "policies[%d].threshold %d: 1 to %d, the sum of the weights", i, p.Threshold, sum)
		case p.Expiry == 0 || p.Expiry > maxExpiry || p.MinDelay >= p.Expiry:
			return fault.Errorf(fault.Invalid, "policies[%d]: expiry %d must be 1 to %d seconds and more than the delay %d", i, p.Expiry, maxExpiry, p.MinDelay)
		case len(p.Must) > len(members):
			return fault.Errorf(fault.Invalid, "policies[%d].must: %d parties, the group has %d", i, len(p.Must), len(members))
		}
		for j, party := range p.Must {
			if weights[party] == 0 || j > 0 && p.Must[j-1] >= party {
				return fault.Errorf(fault.Invalid, "policies[%d].must[%d] %d: members, rising, each once", i, j, party)
			}
		}
	}
	return nil
}

// Propose puts messages before a group.
type Propose struct {
	Group    identity.Party `cbor:"1,keyasint" json:"group"`
	Messages []Packed       `cbor:"2,keyasint" json:"messages"`                    // 1 to 8, at most 16 KiB
	Note     string         `cbor:"3,keyasint,omitempty" json:"note,omitempty"`    // at most 256 bytes
	Approve  bool           `cbor:"4,keyasint,omitempty" json:"approve,omitempty"` // the proposer's own vote
}

// Code is 403.
func (*Propose) Code() Code { return 403 }

// Check wants messages that a group may execute.
func (m *Propose) Check() error {
	if len(m.Note) > 256 {
		return fault.Errorf(fault.Invalid, "note: %d bytes, at most 256", len(m.Note))
	}
	if err := checkParty("group", m.Group); err != nil {
		return err
	}
	return checkInner(m.Messages)
}

// checkInner refuses what a group can't execute: consent inside of consent has
// no end, and joining the chain is done by new keys.
func checkInner(ps []Packed) error {
	if len(ps) == 0 || len(ps) > MaxProposal {
		return fault.Errorf(fault.Invalid, "messages: %d, 1 to %d", len(ps), MaxProposal)
	}
	size := 0
	for _, p := range ps {
		size += len(p.Body) + 4
		if _, ok := ClassOf(p.Code); !ok {
			return fault.Errorf(fault.Invalid, "messages: a group can't execute %s", p.Code)
		}
	}
	if size > 16<<10 {
		return fault.Errorf(fault.Invalid, "messages: %d bytes, at most %d", size, 16<<10)
	}
	_, err := Unpack(ps)
	return err
}

// ClassOf is the class of an action of a group, and whether a group may do it.
func ClassOf(c Code) (Class, bool) {
	switch c {
	case 301, 302, 303, 304, 309, 312:
		return ClassDeploy, true
	case 305:
		return ClassUpdate, true
	case 310, 311:
		return ClassCancel, true
	case 501:
		return ClassSpend, true
	case 402, 404:
		return ClassMembers, true
	case 412, 413:
		return ClassSupport, true
	case 201, 202, 203, 204, 207, 208, 209, 210, 308, 313:
		return ClassFarm, true
	case 106, 107:
		return ClassRelease, true
	case 502, 503, 601, 602, 603:
		return ClassGovern, true
	}
	return "", false
}

// Vote approves or rejects a proposal. It may be changed until the execution.
// A member group votes by executing this message itself.
type Vote struct {
	Proposal uint64 `cbor:"1,keyasint" json:"proposal"`
	Approve  bool   `cbor:"2,keyasint,omitempty" json:"approve,omitempty"`
}

// Code is 404.
func (*Vote) Code() Code { return 404 }

// Check accepts everything; the state knows the proposals.
func (m *Vote) Check() error { return nil }

// Withdraw takes back the signer's proposal.
type Withdraw struct {
	Proposal uint64 `cbor:"1,keyasint" json:"proposal"`
}

// Code is 405.
func (*Withdraw) Code() Code { return 405 }

// Check accepts everything; the state knows the proposals.
func (m *Withdraw) Check() error { return nil }

// Approval is what members sign off-chain, under identity.TagApprove.
type Approval struct {
	_        struct{} `cbor:",toarray"`
	Chain    string
	Group    identity.Party
	Sequence uint64 // the group's last one + 1
	Expires  int64
	Messages []Packed
}

// Encode is the bytes that members sign.
func (a Approval) Encode() []byte { return canon.MustMarshal(a) }

// Consent is a member's signature of an Approval.
type Consent struct {
	Party     identity.Party     `cbor:"1,keyasint" json:"party"`
	Signature identity.Signature `cbor:"2,keyasint" json:"signature"`
}

// Execute carries out messages of a group with approvals that were gathered
// off-chain: 2 of 3 in one transaction.
type Execute struct {
	Group    identity.Party `cbor:"1,keyasint" json:"group"`
	Sequence uint64         `cbor:"2,keyasint" json:"sequence"` // the group's last one + 1
	Expires  int64          `cbor:"3,keyasint" json:"expires"`  // unix seconds
	Messages []Packed       `cbor:"4,keyasint" json:"messages"`
	Consents []Consent      `cbor:"5,keyasint" json:"consents"` // rising by party
}

// Code is 406.
func (*Execute) Code() Code { return 406 }

// Check wants consents of different parties.
func (m *Execute) Check() error {
	if len(m.Consents) == 0 || len(m.Consents) > MaxGroup {
		return fault.Errorf(fault.Invalid, "consents: %d, 1 to %d", len(m.Consents), MaxGroup)
	}
	for i, c := range m.Consents {
		if i > 0 && m.Consents[i-1].Party >= c.Party {
			return fault.Errorf(fault.Invalid, "consents[%d].party %d: parties must rise, each once", i, c.Party)
		}
	}
	if err := checkParty("group", m.Group); err != nil {
		return err
	}
	return checkInner(m.Messages)
}

// Scope is what a support session may see.
type Scope string

// Scopes of support access.
const (
	ScopeMetrics Scope = "metrics"
	ScopeLogs    Scope = "logs"
	ScopeDebug   Scope = "debug"
)

// RequestSupport asks farm and renters of a node for access.
type RequestSupport struct {
	Node    identity.Party `cbor:"1,keyasint" json:"node"`
	Purpose string         `cbor:"2,keyasint" json:"purpose"` // 1 to 512 bytes
	Scope   Scope          `cbor:"3,keyasint" json:"scope"`
	From    int64          `cbor:"4,keyasint" json:"from"`  // unix seconds
	Until   int64          `cbor:"5,keyasint" json:"until"` // at most 24 hours after from
}

// Code is 411.
func (*RequestSupport) Code() Code { return 411 }

// Check bounds purpose and time.
func (m *RequestSupport) Check() error {
	switch {
	case len(m.Purpose) == 0 || len(m.Purpose) > 512:
		return fault.Errorf(fault.Invalid, "purpose: %d bytes, 1 to 512", len(m.Purpose))
	case m.Scope != ScopeMetrics && m.Scope != ScopeLogs && m.Scope != ScopeDebug:
		return fault.Errorf(fault.Invalid, "scope %.40q: metrics, logs or debug", m.Scope)
	case m.From < 0 || m.Until <= m.From || m.Until-m.From > 86400:
		return fault.Errorf(fault.Invalid, "from %d until %d: at most 24 hours", m.From, m.Until)
	}
	return checkParty("node", m.Node)
}

// ConsentSupport is the farm's or a renter's consent to a request.
type ConsentSupport struct {
	Request uint64 `cbor:"1,keyasint" json:"request"`
}

// Code is 412.
func (*ConsentSupport) Code() Code { return 412 }

// Check accepts everything; the state knows the requests.
func (m *ConsentSupport) Check() error { return nil }

// RevokeSupport takes a consent, or the request itself, back.
type RevokeSupport struct {
	Request uint64 `cbor:"1,keyasint" json:"request"`
}

// Code is 413.
func (*RevokeSupport) Code() Code { return 413 }

// Check accepts everything; the state knows the requests.
func (m *RevokeSupport) Check() error { return nil }

// ReportSupport records the hash of a session's transcript.
type ReportSupport struct {
	Request    uint64 `cbor:"1,keyasint" json:"request"`
	Transcript Hash   `cbor:"2,keyasint" json:"transcript"`
}

// Code is 414.
func (*ReportSupport) Code() Code { return 414 }

// Check accepts everything; the state knows the requests.
func (m *ReportSupport) Check() error { return nil }
