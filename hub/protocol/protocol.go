// Package protocol holds what a hub and its clients must agree on: how an
// upload is signed, the bodies of /have, /locate and /batch, and problem
// documents. It does no I/O besides reading a body that it bounds.
//
// The protocol is specified in docs/reference/hub.md.
//
//	auth := protocol.Sign(key, protocol.Upload{Method: "PUT", Key: "p/" + name.String(),
//		Size: size, Digest: digest, Audience: "hub.example.org", Expires: deadline})
//	req.Header.Set("Authorization", auth)
package protocol

import (
	"io"

	"zos.internal/block"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Limits of one request.
const (
	MaxHave    = 16384   // names and keys of one /have or /locate
	MaxBatch   = 1024    // names of one /batch
	MaxKey     = 320     // bytes of a key
	MaxRequest = 2 << 20 // bytes of the body of a query
	MaxTrace   = 1 << 20
	MaxLocator = 256 << 20
	MaxObject  = 1<<30 + 16<<20 // stored bytes of metadata or a map
)

// Media types of the bodies.
const (
	TypeCBOR    = "application/cbor"
	TypeRecords = "application/vnd.zos.records" // wire records, /c and /batch
	TypeBytes   = "application/octet-stream"
	TypeProblem = "application/problem+json"
)

// Query is the body of POST /have, /locate and /batch. Names are chunks; Keys
// are keys of the bucket ("p/…") and only used by /have. Sealed asks for chunks
// that are sealed for a tenant; without it only open ones count, except in
// /batch, which doesn't look at it.
type Query struct {
	Names  []block.Name `cbor:"1,keyasint,omitempty"`
	Keys   []string     `cbor:"2,keyasint,omitempty"`
	Sealed bool         `cbor:"3,keyasint,omitempty"`
}

// Located answers /locate: one Place for each name asked, in order.
type Located struct {
	Packs  []Pack  `cbor:"1,keyasint"`
	Places []Place `cbor:"2,keyasint"`
}

// Pack is a pack and its size in bytes.
type Pack struct {
	_    struct{} `cbor:",toarray"`
	Name block.Name
	Size int64
}

// Absent is the pack index of a chunk that the hub doesn't have.
const Absent = 0xFFFFFFFF

// Place is where a chunk's stored body lies. Pack is an index into Packs.
type Place struct {
	_      struct{} `cbor:",toarray"`
	Pack   uint32
	Offset uint32
	Stored uint32
}

// ReadQuery reads a query of at most max names and keys together.
func ReadQuery(r io.Reader, max int) (Query, error) {
	var q Query
	b, err := io.ReadAll(io.LimitReader(r, MaxRequest+1))
	if err != nil {
		return q, fault.Errorf(fault.Invalid, "read the request: %w", err)
	}
	if len(b) > MaxRequest {
		return q, fault.Errorf(fault.Exhausted, "the request has more than %d bytes; ask in several requests", MaxRequest)
	}
	if err := canon.Unmarshal(b, &q); err != nil {
		return q, fault.Errorf(fault.Invalid, "the request is not the CBOR map {1: [names], 2: [keys]}: %w", err)
	}
	n := len(q.Names) + len(q.Keys)
	if n == 0 || n > max {
		return q, fault.Errorf(fault.Exhausted, "the request asks for %d things; 1 to %d are allowed in one request", n, max)
	}
	for _, k := range q.Keys {
		if len(k) > MaxKey {
			return q, fault.Errorf(fault.Invalid, "the key %.40q… has %d bytes, %d are allowed", k, len(k), MaxKey)
		}
	}
	return q, nil
}

// ParseLocated reads the answer to a query of n names and checks every index.
func ParseLocated(b []byte, n int) (Located, error) {
	var l Located
	if err := canon.Unmarshal(b, &l); err != nil {
		return l, fault.Errorf(fault.Invalid, "the hub's answer is not the CBOR of /locate: %w", err)
	}
	if len(l.Places) != n {
		return l, fault.Errorf(fault.Invalid, "the hub answered %d of %d places", len(l.Places), n)
	}
	for _, p := range l.Places {
		if p.Pack != Absent && int64(p.Pack) >= int64(len(l.Packs)) {
			return l, fault.Errorf(fault.Invalid, "the hub named pack %d of %d", p.Pack, len(l.Packs))
		}
	}
	return l, nil
}

// Bitmap packs bits: bit i is bit i%8 of byte i/8.
func Bitmap(bits []bool) []byte {
	b := make([]byte, (len(bits)+7)/8)
	for i, set := range bits {
		if set {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// ParseBitmap takes n bits apart. Another length, or a bit set after the last,
// is Invalid.
func ParseBitmap(b []byte, n int) ([]bool, error) {
	if len(b) != (n+7)/8 {
		return nil, fault.Errorf(fault.Invalid, "the bitmap has %d bytes instead of %d", len(b), (n+7)/8)
	}
	bits := make([]bool, n)
	for i := range bits {
		bits[i] = b[i/8]&(1<<(i%8)) != 0
	}
	if n%8 != 0 && b[n/8]>>(n%8) != 0 {
		return nil, fault.Errorf(fault.Invalid, "the bitmap has bits after the last")
	}
	return bits, nil
}
