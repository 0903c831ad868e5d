package identity

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"zos.internal/internal/atomicfile"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

const (
	filePrefix  = "zos-key-"
	fileVersion = "1:"
	maxKeyFile  = 16 << 10
	checkSize   = 8
)

// kdf says how a passphrase becomes a key: argon2id.
type kdf struct {
	Time    uint32 `cbor:"1,keyasint"` // passes
	Memory  uint32 `cbor:"2,keyasint"` // KiB
	Threads uint8  `cbor:"3,keyasint"`
	Salt    []byte `cbor:"4,keyasint"`
}

// defaultKDF is the second recommendation of RFC 9106: 64 MiB, three passes.
func defaultKDF() kdf { return kdf{Time: 3, Memory: 64 << 10, Threads: 4} }

const saltSize = 16

// check bounds what a key file can make its reader do: at most 256 MiB and ten
// passes.
func (p *kdf) check() error {
	if p.Time < 1 || p.Time > 10 || p.Threads < 1 || p.Threads > 16 || p.Memory < 8*uint32(p.Threads) || p.Memory > 256<<10 || len(p.Salt) != saltSize {
		return fault.Errorf(fault.Invalid, "the parameters of the passphrase are out of bounds: %d passes, %d KiB, %d threads, %d bytes of salt", p.Time, p.Memory, p.Threads, len(p.Salt))
	}
	return nil
}

// aead is the cipher of a passphrase and its nonce. The salt is new for each
// file, so the pair is used once.
func (p *kdf) aead(passphrase []byte) (cipher.AEAD, []byte, error) {
	b := argon2.IDKey(passphrase, p.Salt, p.Time, p.Memory, p.Threads, chacha20poly1305.KeySize+chacha20poly1305.NonceSize)
	key, nonce := b[:chacha20poly1305.KeySize], b[chacha20poly1305.KeySize:]
	defer clear(key)
	a, err := chacha20poly1305.New(key)
	return a, nonce, err
}

// fileHeader is what a key file says to everybody who can read it.
type fileHeader struct {
	Key      PublicKey `cbor:"1,keyasint"`
	Owner    []byte    `cbor:"2,keyasint"`
	Role     Role      `cbor:"3,keyasint"`
	Epoch    uint32    `cbor:"4,keyasint,omitempty"`
	KEMEpoch uint32    `cbor:"5,keyasint,omitempty"`
	KEM      []byte    `cbor:"6,keyasint,omitempty"`
	KDF      *kdf      `cbor:"7,keyasint,omitempty"` // absent: the secrets are in clear
}

// fileSecrets is what is hidden.
type fileSecrets struct {
	Seed []byte `cbor:"1,keyasint,omitempty"` // gives the signing and the KEM key
	Sign []byte `cbor:"2,keyasint,omitempty"`
	KEM  []byte `cbor:"3,keyasint,omitempty"`
}

type fileBody struct {
	_       struct{} `cbor:",toarray"`
	Header  []byte
	Secrets []byte // fileSecrets, encrypted if the header has a kdf
	Check   []byte // first 8 bytes of the SHA-256 of header and secrets
}

func fileCheck(header, secrets []byte) []byte {
	h := sha256.New()
	h.Write(header)
	h.Write(secrets)
	return h.Sum(nil)[:checkSize]
}

// Encode is the text of a key file. An empty passphrase leaves the secrets in
// clear, to be protected by the file's mode alone.
func (k *Keys) Encode(passphrase []byte) ([]byte, error) {
	return k.encode(passphrase, defaultKDF())
}

func (k *Keys) encode(passphrase []byte, p kdf) ([]byte, error) {
	h := fileHeader{Key: k.Sign.Public(), Owner: k.Owner[:], Role: k.Role, Epoch: k.Epoch}
	if k.KEM != nil {
		h.KEMEpoch, h.KEM = k.KEM.Epoch(), k.KEM.Public().Bytes()
	}
	var s fileSecrets
	if k.Seed != nil {
		s.Seed = bytes.Clone(k.Seed.b[:])
	} else {
		s.Sign = bytes.Clone(k.Sign.key.Seed())
		if k.KEM != nil {
			b := k.KEM.Secret()
			s.KEM = b[:]
		}
	}
	secrets := canon.MustMarshal(s)
	for _, b := range [][]byte{s.Seed, s.Sign, s.KEM} {
		clear(b)
	}
	lock := "not encrypted"
	if len(passphrase) > 0 {
		p.Salt = make([]byte, saltSize)
		if _, err := rand.Read(p.Salt); err != nil {
			return nil, fmt.Errorf("encrypt key: %w", err)
		}
		h.KDF, lock = &p, "encrypted"
	}
	f := fileBody{Header: canon.MustMarshal(h), Secrets: secrets}
	if h.KDF != nil {
		aead, nonce, err := p.aead(passphrase)
		if err != nil {
			return nil, err
		}
		f.Secrets = aead.Seal(nil, nonce, secrets, f.Header)
		clear(secrets)
	}
	f.Check = fileCheck(f.Header, f.Secrets)
	text := fmt.Sprintf("# %v\n# %v key, %s\n%s%s%s\n", k.Owner, k.Role, lock, filePrefix, fileVersion, base64.RawURLEncoding.EncodeToString(canon.MustMarshal(f)))
	if h.KDF == nil {
		clear(f.Secrets)
	}
	return []byte(text), nil
}

// Save writes the keys to a new file of mode 0600. An existing file is a
// Conflict: a key is never overwritten.
func (k *Keys) Save(path string, passphrase []byte) error {
	b, err := k.Encode(passphrase)
	if err != nil {
		return err
	}
	defer clear(b)
	return create(path, b)
}

// SaveKeyFile writes the text of a key file as it is to a new file of mode 0600.
func SaveKeyFile(path string, text []byte) error {
	if _, err := ParseKeyFile(text); err != nil {
		return err
	}
	return create(path, text)
}

func create(path string, b []byte) error {
	err := atomicfile.Create(path, b, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fault.Errorf(fault.Conflict, "write key %s: the file exists; choose another name or remove it yourself", path)
	}
	return err
}

// KeyFile is what a key file says without its passphrase. It is believed only
// after Open, which compares it with the secrets.
type KeyFile struct {
	redacted
	Key    PublicKey
	Owner  Address    // of the party that the key speaks for
	Role   Role       // what the key may do
	Epoch  uint32     // of the key; 0 for one without a seed
	KEM    *KEMPublic // nil: a plain key
	Locked bool       // a passphrase is needed
	Plain  bool       // the older form: a signing key in clear, without a seed

	path    string
	header  fileHeader
	raw     fileBody
	secrets *PrivateKey // of the older form
}

// ReadKeyFile reads a key file of any form. One that others can read is Denied.
// A damaged one is Invalid.
func ReadKeyFile(path string) (*KeyFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read key: %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	switch {
	case err != nil:
		return nil, fault.Errorf(fault.Of(err), "read key: %w", err)
	case st.IsDir():
		return nil, fault.Errorf(fault.Invalid, "read key %s: this is a directory; name a key file", path)
	case st.Mode().Perm()&0o077 != 0:
		return nil, fault.Errorf(fault.Denied, "read key %s: others can read it; run chmod 600 on it", path)
	}
	b, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read key: %w", err)
	}
	defer clear(b)
	f, err := ParseKeyFile(b)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	f.path = path
	return f, nil
}

// ParseKeyFile reads the text of a key file.
func ParseKeyFile(b []byte) (*KeyFile, error) {
	if len(b) > maxKeyFile {
		return nil, fault.Errorf(fault.Invalid, "more than %d bytes are too many for a key file", maxKeyFile)
	}
	for line := range bytes.Lines(b) {
		text := string(bytes.TrimSpace(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if strings.HasPrefix(text, secretPrefix) {
			return parsePlain(text)
		}
		rest, ok := strings.CutPrefix(text, filePrefix)
		if !ok {
			break
		}
		body, ok := strings.CutPrefix(rest, fileVersion)
		if !ok {
			return nil, fault.Errorf(fault.Unsupported, "this key file is of version %.10q, 1 is known; use a newer zos", strings.SplitN(rest, ":", 2)[0])
		}
		return parseBody(body)
	}
	return nil, fault.Errorf(fault.Invalid, "this is no key file; make one with zos key new")
}

func damaged(format string, args ...any) error {
	return fault.Errorf(fault.Invalid, "the key file is damaged: %s; take your copy of it, or make it again from the recovery phrase with zos key import", fmt.Sprintf(format, args...))
}

func parseBody(text string) (*KeyFile, error) {
	raw, err := unbase64(text)
	if err != nil {
		return nil, damaged("it is not base64url")
	}
	defer clear(raw)
	var f KeyFile
	if err := canon.Unmarshal(raw, &f.raw); err != nil {
		return nil, damaged("%v", err)
	}
	if !bytes.Equal(f.raw.Check, fileCheck(f.raw.Header, f.raw.Secrets)) {
		return nil, damaged("the checksum doesn't fit")
	}
	h := &f.header
	if err := canon.Unmarshal(f.raw.Header, h); err != nil {
		return nil, damaged("%v", err)
	}
	if err := h.Key.Check(); err != nil {
		return nil, err
	}
	if len(h.Owner) != len(f.Owner) {
		return nil, damaged("the address has %d bytes", len(h.Owner))
	}
	if err := h.Role.Check(); err != nil {
		return nil, err
	}
	if h.KDF != nil {
		if err := h.KDF.check(); err != nil {
			return nil, err
		}
	}
	if len(h.KEM) > 0 || h.KEMEpoch != 0 {
		if f.KEM, err = NewKEMPublic(h.KEMEpoch, h.KEM); err != nil {
			return nil, err
		}
	}
	f.Key, f.Owner, f.Role, f.Epoch, f.Locked = h.Key, Address(h.Owner), h.Role, h.Epoch, h.KDF != nil
	return &f, nil
}

// Open gives the secrets. A passphrase is needed if the file is Locked. It is
// Denied when the passphrase is wrong: the file was read without an error, so it
// is not damaged by accident.
func (f *KeyFile) Open(passphrase []byte) (*Keys, error) {
	k, err := f.open(passphrase)
	if err != nil && f.path != "" {
		return nil, fmt.Errorf("open key %s: %w", f.path, err)
	}
	return k, err
}

func (f *KeyFile) open(passphrase []byte) (*Keys, error) {
	if f.Plain {
		return &Keys{Sign: f.secrets, Role: RoleFull, Owner: f.Owner}, nil
	}
	plain := bytes.Clone(f.raw.Secrets)
	if f.Locked {
		if len(passphrase) == 0 {
			return nil, fault.Errorf(fault.Denied, "it is encrypted; give its passphrase on the terminal or with --passphrase-file")
		}
		aead, nonce, err := f.header.KDF.aead(passphrase)
		if err != nil {
			return nil, err
		}
		if plain, err = aead.Open(nil, nonce, f.raw.Secrets, f.raw.Header); err != nil {
			return nil, fault.Errorf(fault.Denied, "the passphrase is wrong")
		}
	}
	defer clear(plain)
	var s fileSecrets
	if err := canon.Unmarshal(plain, &s); err != nil {
		return nil, damaged("%v", err)
	}
	defer func() { clear(s.Seed); clear(s.Sign); clear(s.KEM) }()
	k := &Keys{Role: f.Role, Owner: f.Owner, Epoch: f.Epoch}
	switch {
	case len(s.Seed) == 32 && s.Sign == nil && s.KEM == nil && f.Role == RoleFull && f.KEM != nil && f.Epoch != 0:
		k.Seed = SeedFrom([32]byte(s.Seed))
		k.Sign, k.KEM = k.Seed.SigningKey(f.Epoch), k.Seed.KEM(f.KEM.Epoch())
		if k.Seed.SigningKey(FirstEpoch).Public().Address() != f.Owner {
			return nil, damaged("the address is not that of the seed")
		}
	case s.Seed == nil && len(s.Sign) == 32 && f.Epoch == 0 && (f.KEM == nil && s.KEM == nil || f.KEM != nil && len(s.KEM) == 32):
		k.Sign = FromSeed([32]byte(s.Sign))
		if f.KEM != nil {
			k.KEM = kemFromSecret(f.KEM.Epoch(), [32]byte(s.KEM))
		}
	default:
		return nil, damaged("the secrets in it don't fit its header")
	}
	if k.Sign.Public() != f.Key || k.KEM != nil && !bytes.Equal(k.KEM.Public().Bytes(), f.KEM.Bytes()) {
		return nil, damaged("the public keys are not those of the secrets")
	}
	return k, nil
}
