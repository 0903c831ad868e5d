package identity

import (
	"crypto/hpke"
	"fmt"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Sizes of the hybrid KEM MLKEM768-X25519 (HPKE KEM 0x647a), in bytes.
const (
	KEMPublicSize = 1216
	encSize       = 1120
)

// Keep is how long a replaced KEM key still opens what was sealed to it.
const Keep = 24 * time.Hour

// maxOldKEMs bounds the replaced keys that are kept at the same time.
const maxOldKEMs = 8

// The cipher suite: KEM 0x647a, HKDF-SHA256, ChaCha20-Poly1305, base mode.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305()
}

// KEMPublic is what others seal to: a public key and its epoch.
type KEMPublic struct {
	epoch uint32
	key   hpke.PublicKey
}

// NewKEMPublic checks the bytes of a public key (KEMPublicSize).
func NewKEMPublic(epoch uint32, key []byte) (*KEMPublic, error) {
	if len(key) != KEMPublicSize {
		return nil, fault.Errorf(fault.Invalid, "the KEM key has %d bytes, an MLKEM768-X25519 key has %d", len(key), KEMPublicSize)
	}
	if epoch == 0 {
		return nil, fault.Errorf(fault.Invalid, "the KEM key has epoch 0; epochs start at %d", FirstEpoch)
	}
	kem, _, _ := suite()
	k, err := kem.NewPublicKey(key)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "the bytes are no MLKEM768-X25519 key: %w", err)
	}
	return &KEMPublic{epoch, k}, nil
}

// Epoch counts the party's KEM keys, from FirstEpoch.
func (k *KEMPublic) Epoch() uint32 { return k.epoch }

// Bytes is the public key, KEMPublicSize bytes.
func (k *KEMPublic) Bytes() []byte { return k.key.Bytes() }

// Hash is BLAKE3("zos/kem/1" 00 key): what people compare.
func (k *KEMPublic) Hash() [32]byte {
	return blake3.Sum256(append([]byte("zos/kem/1\x00"), k.Bytes()...))
}

// seal encrypts plain to k. enc goes to the receiver beside the ciphertext.
func (k *KEMPublic) seal(info string, aad func(enc []byte) []byte, plain []byte) (enc, ciphertext []byte, err error) {
	_, kdf, aead := suite()
	enc, s, err := hpke.NewSender(k.key, kdf, aead, []byte(info))
	if err != nil {
		return nil, nil, fault.Errorf(fault.Invalid, "seal to KEM epoch %d: %w", k.epoch, err)
	}
	ciphertext, err = s.Seal(aad(enc), plain)
	return enc, ciphertext, err
}

// KEMPrivate opens what was sealed to its public key.
type KEMPrivate struct {
	redacted
	epoch uint32
	key   hpke.PrivateKey
}

// GenerateKEM makes a random key. Nodes use these and replace them monthly.
func GenerateKEM(epoch uint32) (*KEMPrivate, error) {
	kem, _, _ := suite()
	k, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make KEM key: %w", err)
	}
	return &KEMPrivate{epoch: epoch, key: k}, nil
}

// KEMFromSecret is the key whose Secret this is.
func KEMFromSecret(epoch uint32, secret [32]byte) *KEMPrivate { return kemFromSecret(epoch, secret) }

func kemFromSecret(epoch uint32, secret [32]byte) *KEMPrivate {
	kem, _, _ := suite()
	k, err := kem.NewPrivateKey(secret[:])
	if err != nil {
		panic(fmt.Sprintf("identity: KEM key of 32 bytes: %v", err))
	}
	return &KEMPrivate{epoch: epoch, key: k}
}

// Public is what others seal to.
func (k *KEMPrivate) Public() *KEMPublic { return &KEMPublic{k.epoch, k.key.PublicKey()} }

// Epoch counts the party's KEM keys.
func (k *KEMPrivate) Epoch() uint32 { return k.epoch }

// Secret is the 32 bytes to be stored, under a disk key or in a TPM.
func (k *KEMPrivate) Secret() [32]byte {
	b, err := k.key.Bytes()
	if err != nil {
		panic(fmt.Sprintf("identity: KEM key without its secret: %v", err))
	}
	return [32]byte(b)
}

func (k *KEMPrivate) open(info string, enc, aad, ciphertext []byte) ([]byte, error) {
	_, kdf, aead := suite()
	r, err := hpke.NewRecipient(enc, k.key, kdf, aead, []byte(info))
	if err != nil {
		return nil, fault.As(fault.Denied, err)
	}
	plain, err := r.Open(aad, ciphertext)
	return plain, fault.As(fault.Denied, err)
}

// KEMKeys are a party's own KEM keys: the current one and those that it
// replaced less than Keep ago. It is safe for concurrent use.
type KEMKeys struct {
	redacted
	party Party
	clock clock.Clock

	mu      sync.Mutex
	current *KEMPrivate
	old     []oldKEM
}

type oldKEM struct {
	key   *KEMPrivate
	until time.Time
}

// NewKEMKeys starts with one key. The party is named in errors.
func NewKEMKeys(party Party, c clock.Clock, current *KEMPrivate) *KEMKeys {
	return &KEMKeys{party: party, clock: c, current: current}
}

// Current is the key to publish.
func (k *KEMKeys) Current() *KEMPublic {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current.Public()
}

// Rotate replaces the current key by one of a higher epoch and keeps the
// current one for Keep. It is Conflict when the epoch doesn't rise, Exhausted
// when too many replaced keys are still kept.
func (k *KEMKeys) Rotate(next *KEMPrivate) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if next.epoch <= k.current.epoch {
		return fault.Errorf(fault.Conflict, "rotate the KEM key: epoch %d doesn't follow %d", next.epoch, k.current.epoch)
	}
	if err := k.keep(k.current, k.clock.Now().Add(Keep)); err != nil {
		return err
	}
	k.current = next
	return nil
}

// Restore adds a replaced key after a restart, until the time that Rotate gave
// it.
func (k *KEMKeys) Restore(key *KEMPrivate, until time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key.epoch >= k.current.epoch {
		return fault.Errorf(fault.Conflict, "restore the KEM key of epoch %d: the current one has %d", key.epoch, k.current.epoch)
	}
	return k.keep(key, until)
}

func (k *KEMKeys) keep(key *KEMPrivate, until time.Time) error {
	k.forget()
	if len(k.old) >= maxOldKEMs {
		return fault.Errorf(fault.Exhausted, "rotate the KEM key: %d replaced keys are still needed; wait until %v", len(k.old), k.old[0].until.UTC().Format(time.RFC3339))
	}
	k.old = append(k.old, oldKEM{key, until})
	return nil
}

// forget drops the keys whose time is over.
func (k *KEMKeys) forget() {
	now := k.clock.Now()
	kept := k.old[:0]
	for _, o := range k.old {
		if now.Before(o.until) {
			kept = append(kept, o)
		}
	}
	clear(k.old[len(kept):])
	k.old = kept
}

// find is the key of an epoch. What is sealed to another one, and who can't open
// it, is named in the error: Expired for an epoch that is over, Conflict for one that is yet to
// come.
func (k *KEMKeys) find(what, who string, epoch uint32) (*KEMPrivate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget()
	if epoch == k.current.epoch {
		return k.current, nil
	}
	for _, o := range k.old {
		if o.key.epoch == epoch {
			return o.key, nil
		}
	}
	kind := fault.Expired
	if epoch > k.current.epoch {
		kind = fault.Conflict
	}
	return nil, fault.Errorf(kind, "%s sealed to epoch %d, %s is at %d; fetch the key of party %d again and seal anew", what, epoch, who, k.current.epoch, k.party)
}
