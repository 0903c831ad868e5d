package chain

import (
	"zos.internal/identity"
)

// Party is the record of a twin or a group. What changes with every transaction
// is in Account, so that this one is rarely written.
type Party struct {
	ID      identity.Party   `cbor:"1,keyasint" json:"id"`
	Address identity.Address `cbor:"2,keyasint" json:"address"`
	Keys    []Key            `cbor:"3,keyasint,omitempty" json:"keys,omitempty"` // of a twin, rising by index
	NextKey uint32           `cbor:"4,keyasint,omitempty" json:"next_key,omitempty"`
	KEM     Bytes            `cbor:"5,keyasint,omitempty" json:"kem,omitempty"`
	Epoch   uint32           `cbor:"6,keyasint,omitempty" json:"kem_epoch,omitempty"`
	Relays  []identity.Party `cbor:"7,keyasint,omitempty" json:"relays,omitempty"`
	URL     string           `cbor:"8,keyasint,omitempty" json:"url,omitempty"`
	Group   *Group           `cbor:"9,keyasint,omitempty" json:"group,omitempty"`
}

// Group is the part of a party that a group has.
type Group struct {
	Name     string           `cbor:"1,keyasint,omitempty" json:"name,omitempty"`
	Members  []Member         `cbor:"2,keyasint" json:"members"`
	Policies []Policy         `cbor:"3,keyasint" json:"policies"`
	Groups   []identity.Party `cbor:"4,keyasint,omitempty" json:"groups,omitempty"` // members that are groups, rising
}

// Policy is the group's policy for a class, or nil: then it can't act in it.
func (g *Group) Policy(c Class) *Policy {
	for i := range g.Policies {
		if g.Policies[i].Class == c {
			return &g.Policies[i]
		}
	}
	return nil
}

// Member is a member by its party, or nil.
func (g *Group) Member(p identity.Party) *Member {
	for i := range g.Members {
		if g.Members[i].Party == p {
			return &g.Members[i]
		}
	}
	return nil
}

// Account is what changes with every transaction of a party.
type Account struct {
	Balance  uint64  `cbor:"1,keyasint,omitempty" json:"balance,omitempty"`   // nano-credits
	Sequence uint64  `cbor:"2,keyasint,omitempty" json:"sequence,omitempty"`  // of its last transaction, or a group's last execution
	Serial   uint32  `cbor:"3,keyasint,omitempty" json:"serial,omitempty"`    // its last contract
	Groups   uint32  `cbor:"4,keyasint,omitempty" json:"groups,omitempty"`    // groups it created
	SpentDay int64   `cbor:"5,keyasint,omitempty" json:"spent_day,omitempty"` // days since 1970 of Spent
	Spent    []Spent `cbor:"6,keyasint,omitempty" json:"spent,omitempty"`     // under limits, on that day
}

// Spent counts what was committed under a limit on one day.
type Spent struct {
	Key    uint32 `cbor:"1,keyasint" json:"key"` // index of the deploy key; 0xffffffff: a group's spend policy
	Amount uint64 `cbor:"2,keyasint" json:"amount"`
}

// Farm is a farm's record.
type Farm struct {
	ID      uint32         `cbor:"1,keyasint" json:"id"`
	Owner   identity.Party `cbor:"2,keyasint" json:"owner"`
	Name    string         `cbor:"3,keyasint" json:"name"`
	Terms   Terms          `cbor:"4,keyasint" json:"terms"`
	IPs     []FarmIP       `cbor:"5,keyasint,omitempty" json:"ips,omitempty"` // rising by address
	Nodes   uint32         `cbor:"6,keyasint,omitempty" json:"nodes,omitempty"`
	Tickets []TicketUse    `cbor:"7,keyasint,omitempty" json:"tickets,omitempty"` // rising by serial
}

// FarmIP is a public address and the contract that holds it.
type FarmIP struct {
	IP       IP                  `cbor:"1,keyasint" json:"ip"`
	Contract identity.ContractID `cbor:"2,keyasint,omitempty" json:"contract,omitempty"`
}

// TicketUse counts the machines that joined with a ticket.
type TicketUse struct {
	Serial   uint32 `cbor:"1,keyasint" json:"serial"`
	Uses     uint32 `cbor:"2,keyasint" json:"uses"`
	NotAfter int64  `cbor:"3,keyasint" json:"not_after"` // when it may be forgotten
}

// Node is a node's record; its id is its party.
type Node struct {
	ID        identity.Party   `cbor:"1,keyasint" json:"id"`
	Farm      uint32           `cbor:"2,keyasint" json:"farm"`
	Machine   Machine          `cbor:"3,keyasint" json:"machine"`
	Power     Power            `cbor:"4,keyasint" json:"power"`
	Target    Power            `cbor:"5,keyasint" json:"target"`
	Since     int64            `cbor:"6,keyasint" json:"since"`                    // of the power state, unix seconds
	Down      []identity.Party `cbor:"7,keyasint,omitempty" json:"down,omitempty"` // relays that say it is down
	Certified []Claim          `cbor:"8,keyasint,omitempty" json:"certified,omitempty"`
}

// Claim is an auditor's statement.
type Claim struct {
	Auditor identity.Party `cbor:"1,keyasint" json:"auditor"`
	Claim   string         `cbor:"2,keyasint" json:"claim"`
	Until   int64          `cbor:"3,keyasint" json:"until"`
}

// Load is what changes on a node with its contracts.
type Load struct {
	Reserved  Capacity            `cbor:"1,keyasint" json:"reserved"`
	Contracts uint32              `cbor:"2,keyasint,omitempty" json:"contracts,omitempty"` // live, of every kind
	Pages     uint32              `cbor:"3,keyasint,omitempty" json:"pages,omitempty"`     // of its list
	Rent      identity.ContractID `cbor:"4,keyasint,omitempty" json:"rent,omitempty"`
	Offline   int64               `cbor:"5,keyasint,omitempty" json:"offline,omitempty"`       // seconds of the billing clock that it was offline, up to OfflineAt
	OfflineAt int64               `cbor:"6,keyasint,omitempty" json:"offline_since,omitempty"` // billing clock at which it went offline; 0: it is online
	Networks  uint32              `cbor:"7,keyasint,omitempty" json:"networks,omitempty"`      // of the live contracts, which anybody may list here
}

// Deployments are the contracts for which the node has to be awake: all but
// networks.
func (l *Load) Deployments() uint32 { return l.Contracts - l.Networks }

// OfflineUntil is the sum of its offline seconds at a moment of the billing clock.
func (l *Load) OfflineUntil(clock int64) int64 {
	if l.OfflineAt == 0 || clock <= l.OfflineAt {
		return l.Offline
	}
	return l.Offline + clock - l.OfflineAt
}

// Kind is the kind of a contract.
type Kind uint8

// Kinds of contracts.
const (
	KindNode    Kind = 1
	KindNetwork Kind = 2
	KindName    Kind = 3
	KindRent    Kind = 4
)

// String is the kind's name.
func (k Kind) String() string {
	return [...]string{"unknown", "node", "network", "name", "rent"}[min(k, 5)%5]
}

// MarshalText writes the name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// State is the state of a contract.
type State uint8

// States of contracts.
const (
	StateCreated   State = 1 // reserved, waits for the node's report, isn't billed
	StateActive    State = 2
	StateSuspended State = 3 // machines are off, storage and addresses stay
	StateClosed    State = 4
)

// String is the state's name.
func (s State) String() string {
	return [...]string{"unknown", "created", "active", "suspended", "closed"}[min(s, 5)%5]
}

// MarshalText writes the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reason says why a contract is suspended or closed.
type Reason string

// Reasons.
const (
	ReasonOwner     Reason = "owner"     // paused or cancelled
	ReasonFunds     Reason = "funds"     // the escrow is empty
	ReasonStopped   Reason = "stopped"   // the node says that it doesn't run
	ReasonFailed    Reason = "failed"    // the node could not run it
	ReasonDeadline  Reason = "deadline"  // the node did not report in time
	ReasonExpired   Reason = "expired"   // its end was agreed
	ReasonReclaimed Reason = "reclaimed" // by the farm, with notice
	ReasonNode      Reason = "node"      // the node is gone
	ReasonRent      Reason = "rent"      // the rent of its node ended
)

// Contract is the record of a contract.
type Contract struct {
	ID       identity.ContractID `cbor:"1,keyasint" json:"id"`
	Kind     Kind                `cbor:"2,keyasint" json:"kind"`
	State    State               `cbor:"3,keyasint" json:"state"`
	Reason   Reason              `cbor:"4,keyasint,omitempty" json:"reason,omitempty"`
	Node     identity.Party      `cbor:"5,keyasint,omitempty" json:"node,omitempty"`
	Name     string              `cbor:"6,keyasint,omitempty" json:"name,omitempty"`
	Agreed   Version             `cbor:"7,keyasint" json:"agreed"`                        // what runs, or shall run first
	Next     *Version            `cbor:"8,keyasint,omitempty" json:"next,omitempty"`      // an update that the node has not reported yet
	Highest  uint32              `cbor:"9,keyasint" json:"highest"`                       // version ever used
	Created  int64               `cbor:"10,keyasint" json:"created"`                      // unix seconds
	Closed   int64               `cbor:"11,keyasint,omitempty" json:"closed,omitempty"`   // unix seconds
	Deadline int64               `cbor:"12,keyasint,omitempty" json:"deadline,omitempty"` // of the report that is due, unix seconds
	Wait     uint32              `cbor:"13,keyasint,omitempty" json:"wait,omitempty"`     // seconds from a version to its deadline
	Reclaim  int64               `cbor:"14,keyasint,omitempty" json:"reclaim,omitempty"`  // unix seconds
	Split    []Share             `cbor:"15,keyasint,omitempty" json:"split,omitempty"`
	KeepDays uint32              `cbor:"16,keyasint,omitempty" json:"keep_days,omitempty"`
	Held     Capacity            `cbor:"17,keyasint" json:"held"` // reserved on the node now
	Prices   Prices              `cbor:"18,keyasint" json:"prices"`
	Flat     uint64              `cbor:"19,keyasint,omitempty" json:"flat,omitempty"` // a rate beside the capacity: network, name, rent, operator's extra fee
	Money    Money               `cbor:"20,keyasint" json:"money"`
	Queued   int64               `cbor:"21,keyasint,omitempty" json:"queued,omitempty"` // its place in the billing queue
	Dated    int64               `cbor:"22,keyasint,omitempty" json:"dated,omitempty"`  // its place in the date queue
	Warned   uint8               `cbor:"23,keyasint,omitempty" json:"warned,omitempty"` // low-funds warnings given
	Usage    int64               `cbor:"24,keyasint,omitempty" json:"usage,omitempty"`  // end of the last usage report
	Owner    identity.Party      `cbor:"25,keyasint" json:"owner"`
	IPs      []string            `cbor:"26,keyasint,omitempty" json:"ips,omitempty"` // public addresses that it holds
	// What the farm promised when the contract was made or updated: prices of the
	// next version, bytes a second that can be billed, days of notice.
	NextPrices *Prices `cbor:"27,keyasint,omitempty" json:"next_prices,omitempty"`
	Link       uint64  `cbor:"28,keyasint,omitempty" json:"link_speed,omitempty"`
	Notice     uint32  `cbor:"29,keyasint,omitempty" json:"notice_days,omitempty"`
}

// Live says whether the contract reserves and costs something.
func (c *Contract) Live() bool { return c.State != StateClosed }

// Version is one version of what was agreed on.
type Version struct {
	Version  uint32           `cbor:"1,keyasint" json:"version"`
	Hash     Hash             `cbor:"2,keyasint" json:"hash"`
	Capacity Capacity         `cbor:"3,keyasint" json:"capacity"`
	Members  []identity.Party `cbor:"4,keyasint,omitempty" json:"members,omitempty"`
	MaxRate  uint64           `cbor:"5,keyasint,omitempty" json:"max_rate,omitempty"`
	Expires  int64            `cbor:"6,keyasint,omitempty" json:"expires,omitempty"`
}

// Money is the money of a contract. Escrow pays while it runs, Grace while it
// is suspended for want of funds; Keep pays for the data after the end.
type Money struct {
	Escrow    uint64 `cbor:"1,keyasint,omitempty" json:"escrow,omitempty"`    // nano-credits
	Grace     uint64 `cbor:"2,keyasint,omitempty" json:"grace,omitempty"`     // nano-credits
	Keep      uint64 `cbor:"3,keyasint,omitempty" json:"keep,omitempty"`      // nano-credits
	Remainder uint64 `cbor:"4,keyasint,omitempty" json:"remainder,omitempty"` // pico-credits that were used and are below a nano-credit
	Settled   int64  `cbor:"5,keyasint" json:"settled"`                       // billing clock
	Offline   int64  `cbor:"6,keyasint,omitempty" json:"offline,omitempty"`   // the node's offline seconds at Settled
	Paid      uint64 `cbor:"7,keyasint,omitempty" json:"paid,omitempty"`      // nano-credits in all
	GraceEnd  int64  `cbor:"8,keyasint,omitempty" json:"grace_end,omitempty"` // billing clock at which a suspension for want of funds ends
	Sold      int64  `cbor:"9,keyasint,omitempty" json:"sold,omitempty"`      // billing clock at which processors and memory are given up
	Reserve   uint64 `cbor:"10,keyasint,omitempty" json:"reserve,omitempty"`  // what Grace has to be when it is full
}

// Sum is all money in the contract.
func (m Money) Sum() uint64 { return m.Escrow + m.Grace + m.Keep }

// Usage is a reported item that waits for its payment.
type Usage struct {
	Contract identity.ContractID `cbor:"1,keyasint" json:"contract"`
	From     int64               `cbor:"2,keyasint" json:"from"`
	To       int64               `cbor:"3,keyasint" json:"to"`
	Egress   uint64              `cbor:"4,keyasint,omitempty" json:"egress,omitempty"`
	Root     Hash                `cbor:"5,keyasint" json:"root"`
	Amount   uint64              `cbor:"6,keyasint" json:"amount"` // nano-credits, held
	Due      int64               `cbor:"7,keyasint" json:"due"`    // unix seconds: paid to the farm, or, disputed, back to the owner
	Disputed bool                `cbor:"8,keyasint,omitempty" json:"disputed,omitempty"`
	Farm     uint32              `cbor:"9,keyasint" json:"farm"`
	ID       uint64              `cbor:"10,keyasint" json:"id"`
}

// ListEntry is one contract in a node's list. The pages together prove that a
// node was told about all its contracts.
type ListEntry struct {
	_        struct{} `cbor:",toarray"`
	Contract identity.ContractID
	Version  uint32 // the one to run
	State    State
}

// PageSize is the number of entries in a page of a node's list.
const PageSize = 128

// NameHolder is the record of a gateway name, a farm's or a publisher's name.
type NameHolder struct {
	Contract identity.ContractID `cbor:"1,keyasint,omitempty" json:"contract,omitempty"`
	Until    int64               `cbor:"2,keyasint,omitempty" json:"until,omitempty"` // kept for the old owner after closing, unix seconds
	Owner    identity.Party      `cbor:"3,keyasint,omitempty" json:"owner,omitempty"`
	Queue    uint64              `cbor:"4,keyasint,omitempty" json:"-"` // its number in the queue
}

// Proposal is the record of messages before a group.
type Proposal struct {
	ID       uint64         `cbor:"1,keyasint" json:"id"`
	Group    identity.Party `cbor:"2,keyasint" json:"group"`
	By       identity.Party `cbor:"3,keyasint" json:"by"`
	Messages []Packed       `cbor:"4,keyasint" json:"messages"`
	Note     string         `cbor:"5,keyasint,omitempty" json:"note,omitempty"`
	Created  int64          `cbor:"6,keyasint" json:"created"`
	Ready    int64          `cbor:"7,keyasint" json:"ready"`                     // earliest execution, unix seconds
	Expires  int64          `cbor:"8,keyasint" json:"expires"`                   // unix seconds
	Votes    []Ballot       `cbor:"9,keyasint,omitempty" json:"votes,omitempty"` // rising by party
	State    ProposalState  `cbor:"10,keyasint" json:"state"`
	Why      string         `cbor:"11,keyasint,omitempty" json:"why,omitempty"` // of a failure: message and kind of error; the event has the whole sentence
	Queued   int64          `cbor:"12,keyasint,omitempty" json:"-"`             // its place in the queue
	Ended    int64          `cbor:"13,keyasint,omitempty" json:"ended,omitempty"`
	// Reserved are the ids of the contracts that it creates: their serials were
	// used up when it was made.
	Reserved []identity.ContractID `cbor:"14,keyasint,omitempty" json:"reserved,omitempty"`
	Classes  []Class               `cbor:"15,keyasint" json:"classes"` // of its messages, rising
}

// OpenProposal is one of the open proposals of a group. Seat is the member that
// its proposer is, or through which he is in the group.
type OpenProposal struct {
	_    struct{} `cbor:",toarray"`
	ID   uint64
	Seat identity.Party
}

// Ballot is a member's vote.
type Ballot struct {
	Party   identity.Party `cbor:"1,keyasint" json:"party"`
	Approve bool           `cbor:"2,keyasint,omitempty" json:"approve,omitempty"`
}

// ProposalState is the state of a proposal.
type ProposalState uint8

// States of proposals.
const (
	ProposalOpen      ProposalState = 1
	ProposalExecuted  ProposalState = 2
	ProposalFailed    ProposalState = 3
	ProposalRejected  ProposalState = 4
	ProposalExpired   ProposalState = 5
	ProposalWithdrawn ProposalState = 6
)

// String is the state's name.
func (s ProposalState) String() string {
	return [...]string{"unknown", "open", "executed", "failed", "rejected", "expired", "withdrawn"}[min(s, 7)%7]
}

// MarshalText writes the name.
func (s ProposalState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Support is the record of a request for support access.
type Support struct {
	ID         uint64           `cbor:"1,keyasint" json:"id"`
	Node       identity.Party   `cbor:"2,keyasint" json:"node"`
	Requester  identity.Party   `cbor:"3,keyasint" json:"requester"`
	Purpose    string           `cbor:"4,keyasint" json:"purpose"`
	Scope      Scope            `cbor:"5,keyasint" json:"scope"`
	From       int64            `cbor:"6,keyasint" json:"from"`
	Until      int64            `cbor:"7,keyasint" json:"until"`
	Needed     []identity.Party `cbor:"8,keyasint" json:"needed"`                    // who must consent: the farm's owner and the renter, rising
	Given      []identity.Party `cbor:"9,keyasint,omitempty" json:"given,omitempty"` // who has, rising
	State      SupportState     `cbor:"10,keyasint" json:"state"`
	Transcript Hash             `cbor:"11,keyasint" json:"transcript"`
	Granted    int64            `cbor:"12,keyasint,omitempty" json:"granted,omitempty"` // unix seconds; 0: never
	Ended      int64            `cbor:"13,keyasint,omitempty" json:"ended,omitempty"`   // unix seconds
	Why        SupportEnd       `cbor:"14,keyasint,omitempty" json:"why,omitempty"`     // it ended
	Queued     int64            `cbor:"15,keyasint,omitempty" json:"-"`                 // its place in the queue
}

// SupportEnd says why a request for support access ended.
type SupportEnd string

// Reasons of an end.
const (
	SupportExpired   SupportEnd = "expired"   // its time was over
	SupportWithdrawn SupportEnd = "withdrawn" // by the requester
	SupportRefused   SupportEnd = "refused"   // by one whose consent was needed, before the grant
	SupportRevoked   SupportEnd = "revoked"   // by one who had consented, after the grant
	SupportRented    SupportEnd = "rented"    // a renter arrived after the grant
	SupportReported  SupportEnd = "reported"  // the node closed the session and sent the transcript's hash
	SupportNode      SupportEnd = "node"      // the node is gone
)

// SupportState is the state of a request for support access.
type SupportState uint8

// States of support requests.
const (
	SupportAsked   SupportState = 1
	SupportGranted SupportState = 2
	SupportEnded   SupportState = 3
)

// String is the state's name.
func (s SupportState) String() string {
	return [...]string{"unknown", "asked", "granted", "ended"}[min(s, 4)%4]
}

// MarshalText writes the name.
func (s SupportState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Publisher is the record of a publisher.
type Publisher struct {
	Name  string               `cbor:"1,keyasint" json:"name"`
	Owner identity.Party       `cbor:"2,keyasint" json:"owner"`
	Keys  []identity.PublicKey `cbor:"3,keyasint" json:"keys"`
}

// Release is the newest release of one name of a publisher.
type Release struct {
	Version uint64 `cbor:"1,keyasint" json:"version"`
	Root    Hash   `cbor:"2,keyasint" json:"root"`
	Time    int64  `cbor:"3,keyasint" json:"time"` // unix seconds
}

// Meta is what the whole chain shares.
type Meta struct {
	Version    uint32         `cbor:"1,keyasint" json:"version"` // of the state's rules
	LastParty  identity.Party `cbor:"2,keyasint" json:"last_party"`
	LastFarm   uint32         `cbor:"3,keyasint" json:"last_farm"`
	LastID     uint64         `cbor:"4,keyasint" json:"last_id"`    // of proposals, support requests and usage items
	Supply     uint64         `cbor:"5,keyasint" json:"supply"`     // nano-credits
	Gap        int64          `cbor:"6,keyasint" json:"gap"`        // seconds that the billing clock lost to halts
	Governance identity.Party `cbor:"7,keyasint" json:"governance"` // the group that governs; 0: nobody
	Chain      string         `cbor:"8,keyasint" json:"chain"`
}

// Upgrade is a scheduled change of the binary.
type Upgrade struct {
	Height  uint64 `cbor:"1,keyasint" json:"height"`
	Release Hash   `cbor:"2,keyasint" json:"release"`
	Version uint32 `cbor:"3,keyasint" json:"version"`
}

// Validators is the record of the machines that make blocks.
type Validators struct {
	Validators []Validator `cbor:"1,keyasint" json:"validators"`
}
