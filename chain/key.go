package chain

import (
	"encoding/binary"

	"zos.internal/identity"
)

// Keys of the state. A key is a prefix and big-endian numbers or a name, so that
// a client can name what it wants proven.

// PartyKey is where the Party of a number is.
func PartyKey(p identity.Party) []byte { return be32("p", uint32(p)) }

// AccountKey is where the Account of a party is.
func AccountKey(p identity.Party) []byte { return be32("b", uint32(p)) }

// AddressKey is where the number (4 bytes) of an address is.
func AddressKey(a identity.Address) []byte { return append([]byte("k"), a[:]...) }

// FarmKey is where a Farm is.
func FarmKey(id uint32) []byte { return be32("f", id) }

// FarmNameKey is where the number (4 bytes) of a farm's name is.
func FarmNameKey(name string) []byte { return []byte("F" + name) }

// NodeKey is where a Node is.
func NodeKey(p identity.Party) []byte { return be32("n", uint32(p)) }

// LoadKey is where a node's Load is.
func LoadKey(p identity.Party) []byte { return be32("o", uint32(p)) }

// ListKey is where a page ([]ListEntry) of a node's contracts is.
func ListKey(p identity.Party, page uint32) []byte { return be32(string(be32("l", uint32(p))), page) }

// ContractKey is where a Contract is.
func ContractKey(id identity.ContractID) []byte { return be64("c", uint64(id)) }

// NameKey is where the NameHolder of a gateway name is.
func NameKey(name string) []byte { return []byte("m" + name) }

// UsageKey is where a Usage item is.
func UsageKey(id uint64) []byte { return be64("u", id) }

// ProposalKey is where a Proposal is.
func ProposalKey(id uint64) []byte { return be64("g", id) }

// GroupProposalsKey is where the open proposals ([]OpenProposal) of a group are.
func GroupProposalsKey(p identity.Party) []byte { return be32("G", uint32(p)) }

// SupportKey is where a Support is.
func SupportKey(id uint64) []byte { return be64("s", id) }

// NodeSupportKey is where the support requests ([]uint64) of a node that have
// not ended are.
func NodeSupportKey(p identity.Party) []byte { return be32("S", uint32(p)) }

// PublisherKey is where a Publisher is.
func PublisherKey(name string) []byte { return []byte("hp" + name) }

// ReleaseKey is where a publisher's newest Release of a name is.
func ReleaseKey(publisher, name string) []byte { return []byte("hr" + publisher + "/" + name) }

// MetaKey is where the Meta is.
func MetaKey() []byte { return []byte("xm") }

// ParamsKey is where the Params are.
func ParamsKey() []byte { return []byte("xp") }

// ValidatorsKey is where the Validators are.
func ValidatorsKey() []byte { return []byte("xv") }

// UpgradeKey is where the Upgrade is.
func UpgradeKey() []byte { return []byte("xu") }

// Queue prefixes: a queue is keyed by time and then by what is due.
const (
	BillingQueue  = "qf" // contracts by billing clock
	DateQueue     = "qd" // contracts by unix time
	UsageQueue    = "qu" // usage items by unix time
	ProposalQueue = "qg" // proposals by the time they become ready or expire
	SupportQueue  = "qs" // support requests by the time they end
	ClosedQueue   = "qc" // closed contracts by the time their record is dropped
	NameQueue     = "qm" // gateway names by the time they become free
)

// QueueKey is the place of an id at a time in a queue.
func QueueKey(queue string, at int64, id uint64) []byte {
	return be64(string(be64(queue, uint64(at))), id)
}

// ParseQueueKey reads what QueueKey wrote.
func ParseQueueKey(key []byte) (at int64, id uint64, ok bool) {
	if len(key) != 18 {
		return 0, 0, false
	}
	return int64(binary.BigEndian.Uint64(key[2:])), binary.BigEndian.Uint64(key[10:]), true
}

func be32(prefix string, n uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte(prefix), n)
}

func be64(prefix string, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), n)
}
