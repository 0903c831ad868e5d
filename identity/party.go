package identity

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"

	"zos.internal/internal/fault"
)

// Party is the number of a twin or a group on a chain, 1 to MaxParty. A node is
// a party too; its node id is its party. 0 is nobody.
type Party uint32

// MaxParty is the highest number of a party.
const MaxParty Party = 1<<28 - 1

// Check is Invalid for a number that no party has.
func (p Party) Check() error {
	if p == 0 || p > MaxParty {
		return fault.Errorf(fault.Invalid, "party %d: a party is 1 to %d", uint32(p), MaxParty)
	}
	return nil
}

// ParseParty reads a decimal number from 1 to MaxParty.
func ParseParty(s string) (Party, error) {
	n, err := parseNumber(s)
	if err != nil || n == 0 || n > uint64(MaxParty) {
		return 0, fault.Errorf(fault.Invalid, "party %.40q: a party is a number from 1 to %d", s, MaxParty)
	}
	return Party(n), nil
}

// ContractID names a contract: the owner's party times 2^24, plus a serial of
// the owner's. It is below 2^52, so that JSON numbers hold it exactly. Owners
// choose the serial, each higher than their last, so a document can contain the
// id of a contract that is made later. In CBOR and JSON it is the number, for
// people it is 17/3. 0 is none.
type ContractID uint64

// MaxSerial is the highest serial of a contract.
const MaxSerial = 1<<24 - 1

// NewContractID joins an owner and a serial from 1 to MaxSerial.
func NewContractID(owner Party, serial uint32) (ContractID, error) {
	id := ContractID(owner)<<24 | ContractID(serial)
	if serial > MaxSerial {
		return 0, fault.Errorf(fault.Invalid, "contract %d/%d: a serial is 1 to %d", uint32(owner), serial, MaxSerial)
	}
	return id, id.Check()
}

// Owner is the party that made the contract.
func (c ContractID) Owner() Party { return Party(c >> 24) }

// Serial is the owner's number for the contract.
func (c ContractID) Serial() uint32 { return uint32(c & MaxSerial) }

// Check is Invalid for a number that no contract has.
func (c ContractID) Check() error {
	if c>>52 != 0 || c.Owner() == 0 || c.Serial() == 0 {
		return fault.Errorf(fault.Invalid, "contract %d: not an owner (1 to %d) times 16777216 plus a serial (1 to %d)", uint64(c), MaxParty, MaxSerial)
	}
	return nil
}

// String is the form for people, 17/3.
func (c ContractID) String() string {
	return fmt.Sprintf("%d/%d", uint64(c>>24), c.Serial())
}

// ParseContractID reads 17/3 or the plain number, 285212675.
func ParseContractID(s string) (ContractID, error) {
	owner, serial, parts := strings.Cut(s, "/")
	n, err := parseNumber(owner)
	if err == nil && parts {
		var low uint64
		if low, err = parseNumber(serial); err == nil && low <= MaxSerial && n <= uint64(MaxParty) {
			n = n<<24 | low
		} else {
			n = 0
		}
	}
	if id := ContractID(n); err == nil && id.Check() == nil {
		return id, nil
	}
	return 0, fault.Errorf(fault.Invalid, "contract %.60q: write OWNER/SERIAL, such as 17/3 (owner 1 to %d, serial 1 to %d), or the one number", s, MaxParty, MaxSerial)
}

// parseNumber reads a decimal number that has one spelling: no sign, no leading
// zero.
func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && strconv.FormatUint(n, 10) != s {
		err = strconv.ErrSyntax
	}
	return n, err
}

// GroupAddress is the address of the group that creator makes with a serial.
func GroupAddress(creator Address, serial uint64) Address {
	b := append([]byte("zos/group/1\x00"), creator[:]...)
	return blake3.Sum256(binary.BigEndian.AppendUint64(b, serial))
}

// Role says what a party lets one of its keys do.
type Role uint8

// The roles. Only a full key changes the keys of its party.
const (
	RoleFull   Role = 1 // everything
	RoleDeploy Role = 2 // sign documents; create, update, cancel and top up contracts within a limit per day
	RoleRead   Role = 3 // call what changes nothing
)

// String is full, deploy or read.
func (r Role) String() string {
	switch r {
	case RoleFull:
		return "full"
	case RoleDeploy:
		return "deploy"
	case RoleRead:
		return "read"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// ParseRole reads full, deploy or read.
func ParseRole(s string) (Role, error) {
	for r := RoleFull; r <= RoleRead; r++ {
		if s == r.String() {
			return r, nil
		}
	}
	return 0, fault.Errorf(fault.Invalid, "role %.40q: use full, deploy or read", s)
}

// Check is Invalid for a role that there isn't.
func (r Role) Check() error {
	if r < RoleFull || r > RoleRead {
		return fault.Errorf(fault.Invalid, "role %d: 1 is full, 2 deploy, 3 read", uint8(r))
	}
	return nil
}

// MarshalText and UnmarshalText put roles into JSON and YAML by name; in CBOR
// they are numbers.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), r.Check() }

// UnmarshalText reads the name.
func (r *Role) UnmarshalText(b []byte) (err error) { *r, err = ParseRole(string(b)); return err }
