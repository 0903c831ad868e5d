// Package chain is the agreement: who may do what on which machine, and who pays.
//
// It defines what is written down: transactions and their messages, the records
// of the state with their keys, and the kinds of events. chain/state is the pure
// machine that applies transactions to records, chain/engine runs it under a
// consensus engine, and chain/client asks a server and believes only what is
// proven.
//
//	body := chain.Body{Chain: "grid-1", Party: 17, Sequence: 5, Expires: now + 600,
//		Messages: chain.Pack(&chain.TopUp{Contract: id, Amount: 5 * chain.Credit})}
//	wire, err := chain.Sign(body, chain.Signer{Index: 0, Key: key})
//
// Everything that is hashed or signed is canonical CBOR with integer keys; the
// exact bytes are what counts. Money is in nano-credits, rates in pico-credits
// per second, times in unix seconds, sizes in bytes.
//
// The package does no I/O and holds no state.
package chain

import (
	"crypto/sha256"

	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Amounts of money. Balances are nano-credits, rates pico-credits a second.
const (
	Credit  = 1_000_000_000 // one credit in nano-credits
	Pico    = 1000          // pico-credits in a nano-credit
	Million = 1_000_000     // parts per million in the whole
)

// Bounds of a transaction.
const (
	MaxTx       = 64 << 10 // bytes on the wire
	MaxMessages = 16       // messages in a transaction
	MaxExpiry   = 3600     // seconds that a transaction may be valid ahead
	MaxPending  = 16       // transactions of one party that may wait
	maxLevels   = 10       // of CBOR in a body: a proposal that changes the policies of its group
)

// Body is what a party signs to change the state: all its messages take effect
// or none does.
type Body struct {
	Version  uint32         `cbor:"1,keyasint" json:"version"`                     // 1
	Chain    string         `cbor:"2,keyasint" json:"chain"`                       // the id of the chain
	Party    identity.Party `cbor:"3,keyasint" json:"party"`                       // who acts; 0 for one who joins
	Sequence uint64         `cbor:"4,keyasint" json:"sequence"`                    // the party's last one + 1; 0 for one who joins
	Expires  int64          `cbor:"5,keyasint" json:"expires"`                     // unix seconds, at most MaxExpiry ahead
	FeeLimit uint64         `cbor:"6,keyasint" json:"fee_limit"`                   // the most that may be charged, nano-credits
	Messages []Packed       `cbor:"7,keyasint" json:"messages"`                    // 1 to MaxMessages
	Sponsor  identity.Party `cbor:"8,keyasint,omitempty" json:"sponsor,omitempty"` // who pays the fee and signs second
}

// TxID is the hash of the bytes of a body: the name of a transaction, which no
// change of a signature alters.
type TxID [32]byte

// Tx is a decoded transaction. Its signatures have not been verified.
type Tx struct {
	ID         TxID
	Body       Body
	Messages   []Message // Body.Messages, unpacked
	Payload    []byte    // the bytes of the body, which are what is signed
	Signatures []identity.Signature
}

// Signer is a key of a party by its index in the party's list.
type Signer struct {
	Index uint32
	Key   *identity.PrivateKey
}

// Sign encodes and signs a body. The second signer is the sponsor.
func Sign(body Body, signers ...Signer) ([]byte, error) {
	if body.Version == 0 {
		body.Version = 1
	}
	payload, err := canon.Marshal(body)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	s := identity.Signed{Payload: payload}
	for _, by := range signers {
		s.Signatures = append(s.Signatures, by.Key.SignAs(by.Index, identity.TagTx, payload))
	}
	wire := s.Encode()
	if len(wire) > MaxTx {
		return nil, fault.Errorf(fault.Invalid, "the transaction has %d bytes, at most %d are allowed; split it", len(wire), MaxTx)
	}
	return wire, nil
}

// Decode reads a transaction and checks everything that needs no state: size,
// canonical form, number of messages, and the bounds of each message.
func Decode(wire []byte) (*Tx, error) {
	s, err := identity.DecodeSigned(wire, MaxTx)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "decode transaction: %w", err)
	}
	tx := &Tx{Payload: s.Payload, Signatures: s.Signatures, ID: sha256.Sum256(s.Payload)}
	if err := canon.UnmarshalDepth(s.Payload, &tx.Body, maxLevels); err != nil {
		return nil, fault.Errorf(fault.Invalid, "the body of the transaction is not canonical CBOR: %w", err)
	}
	b := &tx.Body
	switch {
	case b.Version != 1:
		return nil, fault.Errorf(fault.Unsupported, "transaction version %d, only 1 is known", b.Version)
	case len(b.Messages) == 0 || len(b.Messages) > MaxMessages:
		return nil, fault.Errorf(fault.Invalid, "the transaction has %d messages, 1 to %d are allowed", len(b.Messages), MaxMessages)
	case len(s.Signatures) == 0 || len(s.Signatures) > 2:
		return nil, fault.Errorf(fault.Invalid, "the transaction has %d signatures, 1 or 2 (with a sponsor) are allowed", len(s.Signatures))
	case (b.Sponsor != 0) != (len(s.Signatures) == 2):
		return nil, fault.Errorf(fault.Invalid, "the transaction names sponsor %d and has %d signatures: a sponsor signs second", b.Sponsor, len(s.Signatures))
	}
	if tx.Messages, err = Unpack(b.Messages); err != nil {
		return nil, err
	}
	return tx, nil
}
