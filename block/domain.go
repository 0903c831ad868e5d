package block

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"

	"github.com/zeebo/blake3"

	"zos.internal/internal/fault"
)

// Bytes that sealing adds to a body: a nonce before it, a tag after it.
const (
	nonceSize = 12
	tagSize   = 16
	// SealOverhead is how many bytes longer a sealed body is.
	SealOverhead = nonceSize + tagSize
)

// Domain says how chunks are named and whether they are sealed. Equal content
// has equal names inside a domain and unrelated names across domains.
//
// The zero value is the public domain: names are plain BLAKE3 and nothing is
// sealed. A private domain is made from the secret of a tenant: names are keyed
// and bodies sealed with AES-256-GCM, so that who lacks the secret can neither
// read a chunk nor test whether a file he holds is stored.
//
// A Domain is safe for concurrent use, is copied freely and never shows its
// secret in a log or with fmt.
type Domain struct {
	// keys is nil in the public domain. It is a function because fmt follows a
	// pointer in an unexported field of somebody else's struct, and prints what
	// it finds, but doesn't call a function.
	keys func() *domainKeys
}

type domainKeys struct {
	id             [16]byte
	name, data, iv [32]byte
}

// NewDomain derives the private domain of a tenant from its secret, 32 random
// bytes.
func NewDomain(secret [32]byte) Domain {
	k := new(domainKeys)
	blake3.DeriveKey("zos 2026 block name v1", secret[:], k.name[:])
	blake3.DeriveKey("zos 2026 block data v1", secret[:], k.data[:])
	blake3.DeriveKey("zos 2026 block iv v1", secret[:], k.iv[:])
	return k.domain()
}

// NewNamingDomain derives a private domain whose name key is given instead of
// derived; a file system brings its own. The other keys come from secret.
func NewNamingDomain(name, secret [32]byte) Domain {
	k := *NewDomain(secret).keys()
	k.name = name
	return k.domain()
}

func (k *domainKeys) domain() Domain {
	id := keyed(&k.name, []byte("domain"))
	copy(k.id[:], id[:])
	return Domain{func() *domainKeys { return k }}
}

// keyed is the keyed BLAKE3-256 of the parts, one after the other.
func keyed(key *[32]byte, parts ...[]byte) (sum [32]byte) {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// ID identifies a private domain without telling its secret. The public
// domain's is zero.
func (d Domain) ID() (id [16]byte) {
	if d.keys != nil {
		id = d.keys().id
	}
	return id
}

// Private reports whether d names and seals with a secret.
func (d Domain) Private() bool { return d.keys != nil }

// Name is the name of plain in d.
func (d Domain) Name(plain []byte) Name {
	if d.keys == nil {
		return Sum(plain)
	}
	return keyed(&d.keys().name, plain)
}

// Seal encrypts an encoded body under the chunk's own key and returns nonce,
// ciphertext and tag. The nonce depends on the body, because two compressors
// encode one plaintext differently and a fixed nonce would then seal two
// messages under one key and nonce. enc (with or without the sealed bit) and
// the plain length are authenticated. In the public domain Seal is body itself.
func (d Domain) Seal(name Name, enc byte, plainLen int, body []byte) []byte {
	if d.keys == nil {
		return body
	}
	nonce := keyed(&d.keys().iv, name[:], body)
	out := make([]byte, nonceSize, len(body)+SealOverhead)
	copy(out, nonce[:nonceSize])
	return d.aead(name).Seal(out, out[:nonceSize], body, sealData(name, enc, plainLen))
}

// Open is the inverse of Seal: it returns the encoded body of a stored chunk.
// Bytes that were not sealed in d under this name, encoding and plain length
// are Invalid. In the public domain a sealed chunk is Denied.
func (d Domain) Open(name Name, enc byte, plainLen int, stored []byte) ([]byte, error) {
	if enc&Sealed == 0 {
		return stored, nil
	}
	if d.keys == nil {
		return nil, fault.Errorf(fault.Denied, "open chunk %v: it is sealed for a private domain; give the secret of its tenant", name)
	}
	if len(stored) < SealOverhead {
		return nil, fault.Errorf(fault.Invalid, "open chunk %v: %d stored bytes are too few for a sealed chunk", name, len(stored))
	}
	body, err := d.aead(name).Open(nil, stored[:nonceSize], stored[nonceSize:], sealData(name, enc, plainLen))
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "open chunk %v: the stored bytes are damaged or belong to another domain", name)
	}
	return body, nil
}

// Check reports whether plain has the given name. A private domain also accepts
// public names of chunks that are not sealed, so that packs may hold both.
func (d Domain) check(name Name, enc byte, plain []byte) bool {
	if d.Name(plain) == name {
		return true
	}
	return d.Private() && enc&Sealed == 0 && Sum(plain) == name
}

func (d Domain) aead(name Name) cipher.AEAD {
	key := keyed(&d.keys().data, name[:])
	b, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return g
}

// sealData is the associated data: name, enc with the sealed bit, plain length.
func sealData(name Name, enc byte, plainLen int) []byte {
	var b bytes.Buffer
	b.Write(name[:])
	b.WriteByte(enc | Sealed)
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(plainLen)))
	return b.Bytes()
}

// String names the domain by its id.
func (d Domain) String() string {
	if d.keys == nil {
		return "public"
	}
	return fmt.Sprintf("private %x", d.keys().id)
}

// GoString is String, for %#v.
func (d Domain) GoString() string { return d.String() }

// Format writes String for every verb, so that no verb shows a key.
func (d Domain) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, d.String()) }

// LogValue is the id; the secret is never logged.
func (d Domain) LogValue() slog.Value { return slog.StringValue(d.String()) }

// MarshalText refuses, so that no encoder writes a domain by accident.
func (d Domain) MarshalText() ([]byte, error) {
	return nil, fault.Errorf(fault.Unsupported, "a domain is not written anywhere; write its id")
}
