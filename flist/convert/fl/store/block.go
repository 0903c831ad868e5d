package store

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"

	"github.com/klauspost/compress/snappy"
	"golang.org/x/crypto/blake2b"

	"zos.internal/internal/fault"
)

// ID is the BLAKE2b-256 of a stored block: what stores name it by.
type ID [32]byte

// String is the name of the block in a store: 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Key is the BLAKE2b-256 of the plain bytes of a block: what it is encrypted
// with.
type Key [32]byte

// Block is a row of the table block: where a block is and how it opens.
type Block struct {
	ID  ID
	Key Key
}

// Limits of what is accepted.
const (
	MaxBlock = 4 << 20 // plain bytes of one block
	MaxURL   = 2048    // bytes of a store URL
)

// maxStored is the most bytes that a block of MaxBlock plain bytes can take:
// the snappy bound and the authentication tag.
var maxStored = int64(snappy.MaxEncodedLen(MaxBlock) + 16)

// Seal encodes and encrypts plain (1 to MaxBlock bytes) for a store. Equal
// bytes give equal blocks on one machine; another snappy encoder may give
// other stored bytes, which still open.
func Seal(plain []byte) (stored []byte, b Block, err error) {
	if len(plain) == 0 || len(plain) > MaxBlock {
		return nil, b, fault.Errorf(fault.Invalid, "seal a block of %d bytes: 1 to %d are allowed", len(plain), MaxBlock)
	}
	b.Key = blake2b.Sum256(plain)
	gcm, err := newGCM(b.Key)
	if err != nil {
		return nil, b, err
	}
	body := snappy.Encode(nil, plain)
	stored = gcm.Seal(body[:0], b.Key[:gcm.NonceSize()], body, nil)
	b.ID = blake2b.Sum256(stored)
	return stored, b, nil
}

// Open checks stored against the id, decrypts it, decodes it and checks the
// plain bytes against the key. The error is Invalid and says which of the
// checks did not hold. stored is overwritten.
func (b Block) Open(stored []byte) ([]byte, error) {
	if err := b.check(stored); err != nil {
		return nil, err
	}
	gcm, err := newGCM(b.Key)
	if err != nil {
		return nil, err
	}
	body, err := gcm.Open(stored[:0], b.Key[:gcm.NonceSize()], stored, nil)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "its tag does not fit its key: the key in the .fl is wrong")
	}
	n, err := snappy.DecodedLen(body)
	if err != nil || n < 1 || n > MaxBlock {
		return nil, fault.Errorf(fault.Invalid, "it claims %d plain bytes where 1 to %d are allowed", n, MaxBlock)
	}
	// A snappy body can't grow more than 64 times, so a lying length is seen
	// before memory is taken for it.
	if n > 64*len(body) {
		return nil, fault.Errorf(fault.Invalid, "it claims %d plain bytes, its %d encoded ones can't hold so many", n, len(body))
	}
	plain, err := snappy.Decode(make([]byte, n), body)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "its snappy encoding is broken: %w", err)
	}
	if blake2b.Sum256(plain) != [32]byte(b.Key) {
		return nil, fault.Errorf(fault.Invalid, "its plain bytes do not hash to its key")
	}
	return plain, nil
}

// check compares the stored bytes with the id.
func (b Block) check(stored []byte) error {
	if int64(len(stored)) > maxStored {
		return fault.Errorf(fault.Invalid, "the store's copy has more than %d bytes", maxStored)
	}
	if got := ID(blake2b.Sum256(stored)); got != b.ID {
		return fault.Errorf(fault.Invalid, "the store's copy (%d bytes) hashes to %v", len(stored), got)
	}
	return nil
}

func newGCM(k Key) (cipher.AEAD, error) {
	c, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	gcm, err := cipher.NewGCM(c)
	return gcm, fault.As(fault.Internal, err)
}
