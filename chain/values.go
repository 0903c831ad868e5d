package chain

import (
	"encoding/hex"
	"math/bits"
	"slices"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Hash is a SHA-256 or BLAKE3 hash, as text 64 lower-case hex digits.
type Hash [32]byte

// String is the text form.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the text form.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the text form.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 64 {
		return fault.Errorf(fault.Invalid, "hash %.80q: 64 hex digits are needed", b)
	}
	if _, err := hex.Decode(h[:], b); err != nil || h.String() != string(b) {
		return fault.Errorf(fault.Invalid, "hash %.80q: 64 lower-case hex digits are needed", b)
	}
	return nil
}

// Bytes is a byte string, as text lower-case hex digits.
type Bytes []byte

// MarshalText writes hex digits.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

// UnmarshalText reads hex digits.
func (b *Bytes) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil {
		return fault.Errorf(fault.Invalid, "bytes %.40q: hex digits are needed", text)
	}
	*b = raw
	return nil
}

// Capacity is what a contract reserves and a node has.
type Capacity struct {
	CPU    uint64   `cbor:"1,keyasint,omitempty" json:"cru,omitempty"`  // thousandths of a virtual CPU
	Memory uint64   `cbor:"2,keyasint,omitempty" json:"mru,omitempty"`  // bytes
	SSD    uint64   `cbor:"3,keyasint,omitempty" json:"sru,omitempty"`  // bytes
	HDD    uint64   `cbor:"4,keyasint,omitempty" json:"hru,omitempty"`  // bytes
	IPv4   uint64   `cbor:"5,keyasint,omitempty" json:"ipv4,omitempty"` // public addresses
	IPv6   uint64   `cbor:"6,keyasint,omitempty" json:"ipv6,omitempty"`
	GPU    []string `cbor:"7,keyasint,omitempty" json:"gpu,omitempty"` // slot/vendor/device, sorted
}

// Bounds of a capacity vector: large enough for any machine, small enough that
// sums never overflow.
const (
	maxCPU   = 1 << 24 // 16,777 virtual CPUs
	maxBytes = 1 << 53
	maxIPs   = 1 << 12
	maxGPUs  = 32
)

func (c Capacity) check(field string) error {
	switch {
	case c.CPU > maxCPU:
		return fault.Errorf(fault.Invalid, "%s.cru %d: at most %d", field, c.CPU, maxCPU)
	case c.Memory > maxBytes || c.SSD > maxBytes || c.HDD > maxBytes:
		return fault.Errorf(fault.Invalid, "%s: mru %d, sru %d, hru %d: at most %d bytes each", field, c.Memory, c.SSD, c.HDD, maxBytes)
	case c.IPv4 > maxIPs || c.IPv6 > maxIPs:
		return fault.Errorf(fault.Invalid, "%s: ipv4 %d, ipv6 %d: at most %d each", field, c.IPv4, c.IPv6, maxIPs)
	case len(c.GPU) > maxGPUs:
		return fault.Errorf(fault.Invalid, "%s.gpu: %d devices, at most %d", field, len(c.GPU), maxGPUs)
	}
	for i, g := range c.GPU {
		if len(g) == 0 || len(g) > 64 || i > 0 && c.GPU[i-1] >= g {
			return fault.Errorf(fault.Invalid, "%s.gpu[%d] %q: 1 to 64 characters, sorted, each once", field, i, g)
		}
	}
	return nil
}

// Zero says whether nothing is asked for.
func (c Capacity) Zero() bool {
	return c.CPU|c.Memory|c.SSD|c.HDD|c.IPv4|c.IPv6 == 0 && len(c.GPU) == 0
}

// Add is the sum of two vectors.
func (c Capacity) Add(d Capacity) Capacity {
	s := Capacity{CPU: c.CPU + d.CPU, Memory: c.Memory + d.Memory, SSD: c.SSD + d.SSD, HDD: c.HDD + d.HDD,
		IPv4: c.IPv4 + d.IPv4, IPv6: c.IPv6 + d.IPv6}
	s.GPU = append(slices.Clone(c.GPU), d.GPU...)
	slices.Sort(s.GPU)
	return s
}

// Sub is c without d, which must be within c.
func (c Capacity) Sub(d Capacity) Capacity {
	s := Capacity{CPU: c.CPU - d.CPU, Memory: c.Memory - d.Memory, SSD: c.SSD - d.SSD, HDD: c.HDD - d.HDD,
		IPv4: c.IPv4 - d.IPv4, IPv6: c.IPv6 - d.IPv6}
	for _, g := range c.GPU {
		if !slices.Contains(d.GPU, g) {
			s.GPU = append(s.GPU, g)
		}
	}
	return s
}

// Max is the larger of both, resource by resource.
func (c Capacity) Max(d Capacity) Capacity {
	s := Capacity{CPU: max(c.CPU, d.CPU), Memory: max(c.Memory, d.Memory), SSD: max(c.SSD, d.SSD), HDD: max(c.HDD, d.HDD),
		IPv4: max(c.IPv4, d.IPv4), IPv6: max(c.IPv6, d.IPv6)}
	s.GPU = append(slices.Clone(c.GPU), d.GPU...)
	slices.Sort(s.GPU)
	s.GPU = slices.Compact(s.GPU)
	if len(s.GPU) == 0 {
		s.GPU = nil
	}
	return s
}

// Equal compares two vectors.
func (c Capacity) Equal(d Capacity) bool {
	return c.CPU == d.CPU && c.Memory == d.Memory && c.SSD == d.SSD && c.HDD == d.HDD &&
		c.IPv4 == d.IPv4 && c.IPv6 == d.IPv6 && slices.Equal(c.GPU, d.GPU)
}

// Storage is the part that stays while a workload is suspended: disks and
// addresses.
func (c Capacity) Storage() Capacity {
	return Capacity{SSD: c.SSD, HDD: c.HDD, IPv4: c.IPv4, IPv6: c.IPv6}
}

// Prices are pico-credits per second for a unit of each resource.
type Prices struct {
	CPU    uint64 `cbor:"1,keyasint,omitempty" json:"cru,omitempty"`    // a virtual CPU
	Memory uint64 `cbor:"2,keyasint,omitempty" json:"mru,omitempty"`    // a GiB
	SSD    uint64 `cbor:"3,keyasint,omitempty" json:"sru,omitempty"`    // a GiB
	HDD    uint64 `cbor:"4,keyasint,omitempty" json:"hru,omitempty"`    // a GiB
	IPv4   uint64 `cbor:"5,keyasint,omitempty" json:"ipv4,omitempty"`   // an address
	IPv6   uint64 `cbor:"6,keyasint,omitempty" json:"ipv6,omitempty"`   // an address
	GPU    uint64 `cbor:"7,keyasint,omitempty" json:"gpu,omitempty"`    // a device
	Egress uint64 `cbor:"8,keyasint,omitempty" json:"egress,omitempty"` // a GiB sent, pico-credits, not per second
}

// maxPrice bounds a price so that no sum of a bill leaves 64 bits: a thousand
// credits a second.
const maxPrice = 1_000_000_000_000_000

func (p Prices) check(field string) error {
	for _, v := range []uint64{p.CPU, p.Memory, p.SSD, p.HDD, p.IPv4, p.IPv6, p.GPU, p.Egress} {
		if v > maxPrice {
			return fault.Errorf(fault.Invalid, "%s: %d pico-credits a second, at most %d", field, v, uint64(maxPrice))
		}
	}
	return nil
}

// Line is one line of a bill: an amount of a resource and what it costs a second.
type Line struct {
	Resource string `json:"resource"`
	Amount   uint64 `json:"amount"` // thousandths of a virtual CPU, bytes, or pieces
	Unit     uint64 `json:"unit"`   // the amount that the price is for
	Price    uint64 `json:"price"`  // pico-credits a second for a unit
	Rate     uint64 `json:"rate"`   // pico-credits a second: amount x price / unit, rounded down
}

// Lines is the itemised rate of a capacity vector at these prices.
func (p Prices) Lines(c Capacity) []Line {
	const gib = 1 << 30
	all := []Line{
		{"cru", c.CPU, 1000, p.CPU, 0}, {"mru", c.Memory, gib, p.Memory, 0}, {"sru", c.SSD, gib, p.SSD, 0}, {"hru", c.HDD, gib, p.HDD, 0},
		{"ipv4", c.IPv4, 1, p.IPv4, 0}, {"ipv6", c.IPv6, 1, p.IPv6, 0}, {"gpu", uint64(len(c.GPU)), 1, p.GPU, 0},
	}
	out := all[:0]
	for _, l := range all {
		if l.Amount == 0 {
			continue
		}
		l.Rate = MulDiv(l.Amount, l.Price, l.Unit)
		out = append(out, l)
	}
	return out
}

// Rate is what a capacity vector costs, in pico-credits a second. A sum that
// leaves 64 bits is the largest number, which no deposit can pay.
func (p Prices) Rate(c Capacity) uint64 {
	var sum uint64
	for _, l := range p.Lines(c) {
		sum = AddCap(sum, l.Rate)
	}
	return sum
}

// MulDiv is a x b / c rounded down with 128 bits between, or the largest number
// when the result doesn't fit. c is not 0.
func MulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return ^uint64(0)
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}

// AddCap is a + b, or the largest number when that doesn't fit.
func AddCap(a, b uint64) uint64 {
	s, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return ^uint64(0)
	}
	return s
}

// Share is a part of what a contract earns, for a party other than the farm.
type Share struct {
	Party identity.Party `cbor:"1,keyasint" json:"party"`
	PPM   uint32         `cbor:"2,keyasint" json:"ppm"` // parts per million
}

func checkShares(field string, shares []Share) error {
	if len(shares) > 4 {
		return fault.Errorf(fault.Invalid, "%s: %d receivers, at most 4", field, len(shares))
	}
	var sum uint64
	for i, s := range shares {
		if s.Party == 0 || s.PPM == 0 {
			return fault.Errorf(fault.Invalid, "%s[%d]: party %d, ppm %d: both are needed", field, i, s.Party, s.PPM)
		}
		sum += uint64(s.PPM)
	}
	if sum > Million {
		return fault.Errorf(fault.Invalid, "%s: the shares add up to %d ppm, at most %d", field, sum, Million)
	}
	return nil
}

// checkName wants least to most characters of a-z, 0-9 and inner hyphens.
func checkName(field, name string, least, most int) error {
	ok := len(name) >= least && len(name) <= most && name[0] != '-' && name[len(name)-1] != '-'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z'
	}
	if !ok {
		return fault.Errorf(fault.Invalid, "%s %.80q: %d to %d of a-z, 0-9 and inner hyphens", field, name, least, most)
	}
	return nil
}

func checkParty(field string, p identity.Party) error {
	if err := p.Check(); err != nil {
		return fault.Errorf(fault.Of(err), "%s: %w", field, err)
	}
	return nil
}
