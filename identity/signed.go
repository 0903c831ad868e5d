package identity

import (
	"crypto/ed25519"
	"fmt"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Tags name what a signature is for. Bytes that were signed under one tag never
// verify under another. An identity key signs nothing but bytes that its owner
// made under one of these tags; what a peer chooses, such as a nonce, is signed
// by a session key.
const (
	TagTx         = "zos/tx/1"         // a transaction's body
	TagApprove    = "zos/approve/1"    // a vote on a group's messages, collected outside the chain
	TagDeployment = "zos/deployment/1" // the hash of a deployment document
	TagMessage    = "zos/msg/1"        // a sealed envelope
	TagReceipt    = "zos/receipt/1"    // what a node did with a document
	TagUsage      = "zos/usage/1"      // counters of one hour
	TagQuote      = "zos/quote/1"      // a price that holds for a few minutes
	TagTicket     = "zos/ticket/1"     // the right to join a farm
	TagHeartbeat  = "zos/heartbeat/1"  // a node lives
	TagSession    = "zos/session/1"    // the certificate of a relay session's key
)

// Reserved algorithms: nothing signs with them yet, and they are answered with
// Unsupported.
const (
	MLDSA65   Algorithm = 2
	Hybrid    Algorithm = 3 // ed25519 and ML-DSA-65; both must verify
	Secp256k1 Algorithm = 4
)

// String is the name of the algorithm.
func (a Algorithm) String() string {
	switch a {
	case Ed25519:
		return "ed25519"
	case MLDSA65:
		return "ML-DSA-65"
	case Hybrid:
		return "ed25519 with ML-DSA-65"
	case Secp256k1:
		return "secp256k1"
	}
	return fmt.Sprintf("algorithm %d", byte(a))
}

func (a Algorithm) supported() error {
	if a == Ed25519 {
		return nil
	}
	return fault.Errorf(fault.Unsupported, "unsupported algorithm %d (%v); only ed25519 (1) is known", byte(a), a)
}

// MaxSignatures is the most signatures that one Signed carries.
const MaxSignatures = 64

// Signature is a signature by the key that a party keeps under an index. In
// CBOR it is the array [key index, algorithm, bytes].
type Signature struct {
	_         struct{}  `cbor:",toarray"`
	Key       uint32    `json:"key"`       // index of the key in the party's list
	Algorithm Algorithm `json:"algorithm"` // of the key and of the signature
	Bytes     []byte    `json:"bytes"`     // ed25519: 64 bytes
}

// SignAs signs tag, a zero byte and msg with the key that its party lists under
// index.
func (k *PrivateKey) SignAs(index uint32, tag string, msg []byte) Signature {
	return Signature{Key: index, Algorithm: Ed25519, Bytes: ed25519.Sign(k.key, signed(tag, msg))}
}

// Verify checks that s was made by key under tag over msg. It is Denied when it
// was not, and Unsupported for an algorithm that this build doesn't know.
// Whether key is the one that its party lists under s.Key is for the caller.
func (s Signature) Verify(key PublicKey, tag string, msg []byte) error {
	if err := s.Algorithm.supported(); err != nil {
		return err
	}
	return key.verify(tag, msg, s.Bytes)
}

// Signed is bytes with signatures over them, in CBOR the array [payload,
// [signature…]]. The signatures cover the payload as it came; decode it after
// Verify, never before.
type Signed struct {
	_          struct{}    `cbor:",toarray"`
	Payload    []byte      `json:"payload"`
	Signatures []Signature `json:"signatures"`
}

// Sign adds a signature.
func (s *Signed) Sign(k *PrivateKey, index uint32, tag string) {
	s.Signatures = append(s.Signatures, k.SignAs(index, tag, s.Payload))
}

// Encode is the canonical CBOR of s.
func (s Signed) Encode() []byte {
	if s.Payload == nil {
		s.Payload = []byte{}
	}
	return canon.MustMarshal(s)
}

// DecodeSigned reads what Encode wrote. More than most bytes are refused before
// anything is decoded; so is a form that isn't canonical, and a number of
// signatures that is not 1 to MaxSignatures. Nothing is verified.
func DecodeSigned(b []byte, most int) (Signed, error) {
	var s Signed
	if len(b) > most {
		return s, fault.Errorf(fault.Invalid, "the signed data has %d bytes, at most %d are allowed", len(b), most)
	}
	if err := canon.Unmarshal(b, &s); err != nil {
		return Signed{}, fault.Errorf(fault.Invalid, "the bytes are not a signed payload in canonical CBOR: %w", err)
	}
	if n := len(s.Signatures); s.Payload == nil || n == 0 || n > MaxSignatures {
		return Signed{}, fault.Errorf(fault.Invalid, "the signed data has %d signatures, 1 to %d and a payload are needed", n, MaxSignatures)
	}
	return s, nil
}

// Verify checks that there is one signature for each of keys, in their order,
// under tag. Nothing but the payload that s carries is believed after it.
func (s Signed) Verify(tag string, keys ...PublicKey) error {
	if len(keys) == 0 || len(s.Signatures) != len(keys) {
		return fault.Errorf(fault.Denied, "there are %d signatures, %d are needed", len(s.Signatures), len(keys))
	}
	for i, sig := range s.Signatures {
		if err := sig.Verify(keys[i], tag, s.Payload); err != nil {
			return fmt.Errorf("signature %d: %w", i+1, err)
		}
	}
	return nil
}

// weak says why an ed25519 key is refused even where the mathematics would
// accept it: a second spelling of a point (y not below 2^255-19), or one of the
// eight points of small order, for which one signature fits many messages.
// Whoever verifies gets the same answer everywhere.
func weak(key []byte) error {
	y := [32]byte(key)
	y[31] &= 0x7f
	if y[31] == 0x7f && y[0] >= 0xed {
		high := true
		for _, b := range y[1:31] {
			high = high && b == 0xff
		}
		if high {
			return fault.Errorf(fault.Invalid, "the ed25519 key is not in its canonical form")
		}
	}
	for _, small := range [][32]byte{
		{},  // order 4
		{1}, // order 1
		{0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // order 2
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, // order 8
			0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
		{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, // order 8
			0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
	} {
		if y == small {
			return fault.Errorf(fault.Invalid, "the ed25519 key is a point of small order, which signs for anybody; make a key with zos key new")
		}
	}
	return nil
}
