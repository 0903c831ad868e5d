// Package identity holds keys, addresses, signatures, and sealed messages.
//
// Every key and signature starts with an algorithm byte, so that another
// algorithm can join without a new format. Every signature covers a domain
// tag: bytes signed for one purpose never verify for another. Secrets print as
// [redacted] and are stored in files that only their owner can read, encrypted
// if there is a passphrase.
//
//	seed, err := identity.NewSeed() // seed.Phrase() is its 24 words
//	keys := identity.KeysOf(seed)
//	s := identity.Signed{Payload: body}
//	s.Sign(keys.Sign, 0, identity.TagTx)
//	err = s.Verify(identity.TagTx, keys.Sign.Public())
//
// An Endpoint seals messages to other parties, whose keys it asks a Directory
// for, and opens what comes: from a known sender, unchanged, in time, and once.
// The formats are in docs/reference/identity.md, with vectors.
//
// The package doesn't know the chain: an address is the hash of the first key
// of a party, and which keys speak for it later is the Directory's business.
// What the Go runtime or the standard library copies of a secret can't be
// erased; Erase and the functions here clear what they own.
package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/btcsuite/btcd/btcutil/bech32"
	"github.com/zeebo/blake3"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Algorithm is the first byte of every key and signature.
type Algorithm byte

// Ed25519 is the only algorithm so far.
const Ed25519 Algorithm = 1

const (
	addressPrefix = "zos"
	addressTag    = "zos/addr/1"
	textPrefix    = "ed25519:"
	secretPrefix  = "ed25519-secret:"
)

// PublicKey is an algorithm byte followed by the key (ed25519: 32 bytes). It is
// a string so that it can be compared and used as a map key.
type PublicKey string

// PublicKeyFromBytes checks the algorithm and length of b.
func PublicKeyFromBytes(b []byte) (PublicKey, error) {
	if len(b) == 0 {
		return "", fault.Errorf(fault.Invalid, "the key is empty; a key is an algorithm byte and the key itself")
	}
	if err := Algorithm(b[0]).supported(); err != nil {
		return "", err
	}
	if len(b) != 1+ed25519.PublicKeySize {
		return "", fault.Errorf(fault.Invalid, "the ed25519 key has %d bytes instead of %d", len(b)-1, ed25519.PublicKeySize)
	}
	if err := weak(b[1:]); err != nil {
		return "", err
	}
	return PublicKey(b), nil
}

// ParsePublicKey reads the text form, "ed25519:" and 43 base64url characters.
func ParsePublicKey(s string) (PublicKey, error) {
	rest, ok := strings.CutPrefix(s, textPrefix)
	if !ok {
		return "", fault.Errorf(fault.Invalid, "the key %.60q doesn't start with %q", s, textPrefix)
	}
	raw, err := unbase64(rest)
	if err != nil {
		return "", fault.Errorf(fault.Invalid, "the key %.60q is not base64url: %w", s, err)
	}
	return PublicKeyFromBytes(append([]byte{byte(Ed25519)}, raw...))
}

// unbase64 reads unpadded base64url that has one spelling.
func unbase64(s string) ([]byte, error) {
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		return nil, base64.CorruptInputError(i)
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// String is the text form.
func (k PublicKey) String() string {
	if len(k) < 1 {
		return ""
	}
	return textPrefix + base64.RawURLEncoding.EncodeToString([]byte(k[1:]))
}

// MarshalText and UnmarshalText put keys into JSON and YAML. The empty key is
// the empty text.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the text form.
func (k *PublicKey) UnmarshalText(b []byte) (err error) {
	if *k = ""; len(b) > 0 {
		*k, err = ParsePublicKey(string(b))
	}
	return err
}

// MarshalCBOR makes k a byte string.
func (k PublicKey) MarshalCBOR() ([]byte, error) { return canon.Marshal([]byte(k)) }

// UnmarshalCBOR reads a byte string. It doesn't look into it: Check does.
func (k *PublicKey) UnmarshalCBOR(b []byte) error {
	var raw []byte
	err := canon.Unmarshal(b, &raw)
	*k = PublicKey(raw)
	return err
}

// Check is Invalid for bytes that are no key, and Unsupported for a key of an
// algorithm that this build doesn't know.
func (k PublicKey) Check() error { _, err := PublicKeyFromBytes([]byte(k)); return err }

// Address is the address of a party whose first key is k.
func (k PublicKey) Address() Address {
	return blake3.Sum256([]byte(addressTag + "\x00" + string(k)))
}

// Fingerprint is what people compare: the first 10 bytes of BLAKE3("zos/fpr/1"
// 00 key) as five groups of four hexadecimal digits.
func (k PublicKey) Fingerprint() string {
	sum := blake3.Sum256([]byte("zos/fpr/1\x00" + string(k)))
	groups := make([]string, 5)
	for i := range groups {
		groups[i] = hex.EncodeToString(sum[2*i : 2*i+2])
	}
	return strings.Join(groups, "-")
}

// Verify checks a signature that Sign made with the same tag and message. The
// error is Denied, or Unsupported for an unknown algorithm.
func (k PublicKey) Verify(tag string, msg, sig []byte) error {
	if len(sig) == 0 {
		return fault.Errorf(fault.Denied, "there is no signature by %v", k)
	}
	if err := Algorithm(sig[0]).supported(); err != nil {
		return err
	}
	return k.verify(tag, msg, sig[1:])
}

// verify checks a bare ed25519 signature. The standard library refuses an s
// that isn't reduced and an r that isn't the canonical spelling of its point,
// and weak refuses the keys on which implementations disagree, so that every
// machine gives the same answer.
func (k PublicKey) verify(tag string, msg, sig []byte) error {
	if err := k.Check(); err != nil {
		return err
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(ed25519.PublicKey(k[1:]), signed(tag, msg), sig) {
		return fault.Errorf(fault.Denied, "the signature by %v doesn't fit; the data was changed or signed for something else", k)
	}
	return nil
}

func signed(tag string, msg []byte) []byte {
	return append(append(make([]byte, 0, len(tag)+1+len(msg)), tag+"\x00"...), msg...)
}

// Address names a party for ever: the BLAKE3 of its first key. Keys may rotate
// beneath it.
type Address [32]byte

// String is the text form: bech32m with the prefix "zos", 62 characters.
func (a Address) String() string {
	data, err := bech32.ConvertBits(a[:], 8, 5, true)
	if err != nil {
		panic(fmt.Sprintf("identity: 32 bytes don't convert: %v", err))
	}
	s, err := bech32.EncodeM(addressPrefix, data)
	if err != nil {
		panic(fmt.Sprintf("identity: address doesn't encode: %v", err))
	}
	return s
}

// ParseAddress reads the text form. Only lower case is accepted, so that one
// address has one spelling.
func ParseAddress(s string) (Address, error) {
	var a Address
	hrp, data, version, err := bech32.DecodeGeneric(s)
	switch {
	case err != nil:
		return a, fault.Errorf(fault.Invalid, "the address %.80q is mistyped: %w", s, err)
	case hrp != addressPrefix || version != bech32.VersionM || s != strings.ToLower(s):
		return a, fault.Errorf(fault.Invalid, "%.80q is not an address of this system; addresses start with %q", s, addressPrefix+"1")
	}
	raw, err := bech32.ConvertBits(data, 5, 8, false)
	if err != nil || len(raw) != len(a) {
		return a, fault.Errorf(fault.Invalid, "the address %.80q has a wrong length", s)
	}
	copy(a[:], raw)
	return a, nil
}

// MarshalText and UnmarshalText put addresses into JSON and YAML.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the text form.
func (a *Address) UnmarshalText(b []byte) (err error) { *a, err = ParseAddress(string(b)); return err }

// PrivateKey signs. It never prints its secret.
type PrivateKey struct {
	redacted
	key ed25519.PrivateKey
}

// Generate makes a new ed25519 key from the system's randomness.
func Generate() (*PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return &PrivateKey{key: key}, nil
}

// FromSeed makes the key of a 32-byte secret.
func FromSeed(seed [32]byte) *PrivateKey {
	return &PrivateKey{key: ed25519.NewKeyFromSeed(seed[:])}
}

// Public is the key that verifies what k signs.
func (k *PrivateKey) Public() PublicKey {
	return PublicKey(append([]byte{byte(Ed25519)}, k.key.Public().(ed25519.PublicKey)...))
}

// Sign signs tag, a zero byte and msg. The result starts with the algorithm
// byte. A tag must not be chosen by a peer.
func (k *PrivateKey) Sign(tag string, msg []byte) []byte {
	return append([]byte{byte(Ed25519)}, ed25519.Sign(k.key, signed(tag, msg))...)
}

// Erase overwrites the secret. k doesn't sign any more.
func (k *PrivateKey) Erase() { clear(k.key) }

// Save writes the key to a new file of mode 0600, in the older form without a
// seed. An existing file is a Conflict: a key is never overwritten.
func (k *PrivateKey) Save(path string) error {
	text := []byte("# " + k.Public().Address().String() + "\n" + secretPrefix + hex.EncodeToString(k.key.Seed()) + "\n")
	defer clear(text)
	return create(path, text)
}

// Load reads the signing key of a file that needs no passphrase. A file that
// others can read is Denied, and so is an encrypted one: see ReadKeyFile.
func Load(path string) (*PrivateKey, error) {
	f, err := ReadKeyFile(path)
	if err != nil {
		return nil, err
	}
	k, err := f.Open(nil)
	if err != nil {
		return nil, err
	}
	return k.Sign, nil
}

func parsePlain(line string) (*KeyFile, error) {
	seed, err := hex.DecodeString(strings.TrimPrefix(line, secretPrefix))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fault.Errorf(fault.Invalid, "this is no key file: after %s are not 64 hexadecimal digits; make one with zos key new", secretPrefix)
	}
	defer clear(seed)
	k := FromSeed([32]byte(seed))
	return &KeyFile{Key: k.Public(), Owner: k.Public().Address(), Role: RoleFull, Plain: true, secrets: k}, nil
}
