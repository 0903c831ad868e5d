package block

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	second "lukechampine.com/blake3"
	"pgregory.net/rapid"

	"zos.internal/internal/fault"
)

// The secret of the vectors is the bytes 0 to 31.
func vectorDomain() Domain {
	var secret [32]byte
	for i := range secret {
		secret[i] = byte(i)
	}
	return NewDomain(secret)
}

// The vectors of docs/reference/blocks.md. A change of these breaks every
// private image.
func TestDomainVectors(t *testing.T) {
	d := vectorDomain()
	plain := []byte("zero-os")
	name := d.Name(plain)
	id := d.ID()
	for what, v := range map[string][2]string{
		"public name": {Sum(plain).String(), "d03d7494afe8e3a28e3ee382fbb7458a1d4213bafa9523cd7d778c8fb9deee89"},
		"domain id":   {hex.EncodeToString(id[:]), "7558d7774a27f8ecadd1ae5194c0e63b"},
		"name":        {name.String(), "3bfe31d18e0a8a80d5502fa84de05c417e92dfbb88f2cd6c3ba8f860550e69e1"},
		"sealed raw":  {hex.EncodeToString(d.Seal(name, Raw, len(plain), plain)), "9a7ecb82ead51e754a8aa8244e0b593114251dfa5414537cd70e25047d32c7a384d9ab"},
	} {
		if v[0] != v[1] {
			t.Errorf("%s = %s, want %s", what, v[0], v[1])
		}
	}
}

// A second implementation of the derivation, with another BLAKE3.
func TestDomainAgreesWithSecondImplementation(t *testing.T) {
	keyed := func(key []byte, parts ...[]byte) []byte {
		h := second.New(32, key)
		for _, p := range parts {
			_, _ = h.Write(p)
		}
		return h.Sum(nil)
	}
	derive := func(context string, secret []byte) []byte {
		out := make([]byte, 32)
		second.DeriveKey(out, context, secret)
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		secret := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
		plain := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "plain")
		body := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "body")
		if want := Name(second.Sum256(plain)); Sum(plain) != want {
			t.Fatalf("Sum = %v, want %v", Sum(plain), want)
		}
		d := NewDomain(secret)
		kName := derive("zos 2026 block name v1", secret[:])
		name := d.Name(plain)
		if want := keyed(kName, plain); !bytes.Equal(name[:], want) {
			t.Fatalf("Name = %v, want %x", name, want)
		}
		if id := d.ID(); !bytes.Equal(id[:], keyed(kName, []byte("domain"))[:16]) {
			t.Fatalf("ID = %x", id)
		}
		nonce := keyed(derive("zos 2026 block iv v1", secret[:]), name[:], body)[:12]
		blk, err := aes.NewCipher(keyed(derive("zos 2026 block data v1", secret[:]), name[:]))
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(blk)
		if err != nil {
			t.Fatal(err)
		}
		aad := binary.LittleEndian.AppendUint32(append(bytes.Clone(name[:]), 0x82), uint32(len(plain)))
		want := gcm.Seal(bytes.Clone(nonce), nonce, body, aad)
		if got := d.Seal(name, Zstd, len(plain), body); !bytes.Equal(got, want) {
			t.Fatalf("Seal = %x, want %x", got, want)
		}
	})
}

func TestSealOpen(t *testing.T) {
	d, other := vectorDomain(), NewDomain([32]byte{9})
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")
		enc := rapid.SampledFrom([]byte{Raw, S2, Zstd}).Draw(t, "enc")
		plain := rapid.IntRange(1, MaxPlain).Draw(t, "plain")
		name := d.Name(body)
		sealed := d.Seal(name, enc, plain, body)
		if len(sealed) != len(body)+SealOverhead {
			t.Fatalf("Seal made %d bytes of %d", len(sealed), len(body))
		}
		got, err := d.Open(name, enc|Sealed, plain, sealed)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("Open = %x, %v, want %x", got, err, body)
		}
		// Anything else that is authenticated gives an error.
		for what, open := range map[string]func() ([]byte, error){
			"other domain":   func() ([]byte, error) { return other.Open(name, enc|Sealed, plain, sealed) },
			"other name":     func() ([]byte, error) { return d.Open(Sum(body), enc|Sealed, plain, sealed) },
			"other encoding": func() ([]byte, error) { return d.Open(name, (enc+1)%3|Sealed, plain, sealed) },
			"other length":   func() ([]byte, error) { return d.Open(name, enc|Sealed, plain+1, sealed) },
			"truncated":      func() ([]byte, error) { return d.Open(name, enc|Sealed, plain, sealed[:len(sealed)-1]) },
			"too short":      func() ([]byte, error) { return d.Open(name, enc|Sealed, plain, sealed[:SealOverhead-1]) },
			"flipped": func() ([]byte, error) {
				b := bytes.Clone(sealed)
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1
				return d.Open(name, enc|Sealed, plain, b)
			},
		} {
			if got, err := open(); !errors.Is(err, fault.Invalid) {
				t.Fatalf("Open with %s = %x, %v, want invalid", what, got, err)
			}
		}
		if _, err := (Domain{}).Open(name, enc|Sealed, plain, sealed); !errors.Is(err, fault.Denied) {
			t.Fatalf("Open in the public domain = %v, want denied", err)
		}
	})
}

// Two compressors encode one plaintext differently; the pair of key and nonce
// must never repeat for two messages.
func TestNoncesAreUnique(t *testing.T) {
	d := vectorDomain()
	type pair struct {
		name  Name
		nonce [12]byte
	}
	bodies := map[pair][]byte{}
	distinct := 0
	own := []*Encoder{NewEncoder(Raw), NewEncoder(S2), NewEncoder(Zstd)}
	var others []*zstd.Encoder
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression} {
		zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, zw)
	}
	for i := range 40 {
		plain := make([]byte, 5000+i)
		r := rand.New(rand.NewPCG(uint64(i), 0))
		for j := range plain {
			plain[j] = "some words in it"[r.IntN(2+j%13)]
		}
		name := d.Name(plain)
		var encoded [][]byte
		for _, e := range own {
			_, body := e.Encode(plain)
			encoded = append(encoded, bytes.Clone(body))
		}
		for _, zw := range others {
			encoded = append(encoded, zw.EncodeAll(plain, nil))
		}
		for _, body := range encoded {
			p := pair{name, [12]byte(d.Seal(name, Raw, len(plain), body)[:12])}
			if old, ok := bodies[p]; ok {
				if !bytes.Equal(old, body) {
					t.Fatalf("chunk %v: two bodies are sealed under one key and nonce", name)
				}
				continue
			}
			bodies[p] = body
			distinct++
		}
	}
	if distinct < 40*5 {
		t.Errorf("only %d different bodies, so the test shows little", distinct)
	}
}

// Who holds a file but not the secret can't tell from names or stored bytes
// whether it is there.
func TestConfirmationOfFileFails(t *testing.T) {
	file := bytes.Repeat([]byte("the file that the attacker holds too. "), 500)
	victim := vectorDomain()
	var pack bytes.Buffer
	w := NewPackWriter(&pack)
	enc, body := NewEncoder(Zstd).Encode(file)
	name := victim.Name(file)
	if err := w.Add(name, enc|Sealed, len(file), victim.Seal(name, enc, len(file), body)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for what, guess := range map[string]Domain{"public": {}, "the attacker's": NewDomain([32]byte{7}), "the zero secret": NewDomain([32]byte{})} {
		n := guess.Name(file)
		if n == name || bytes.Contains(pack.Bytes(), n[:]) {
			t.Errorf("the name in domain %s is in the pack", what)
		}
		key := guess.Seal(n, enc, len(file), body)
		if bytes.Contains(pack.Bytes(), body) || bytes.Contains(pack.Bytes(), key[nonceSize:]) {
			t.Errorf("the bytes sealed in domain %s are in the pack", what)
		}
		if _, err := new(Decoder).Chunk(guess, name, enc|Sealed, len(file), pack.Bytes()[:len(body)+SealOverhead]); err == nil {
			t.Errorf("domain %s opens the chunk", what)
		}
	}
	if err := VerifyPack(bytes.NewReader(pack.Bytes()), int64(pack.Len()), victim); err != nil {
		t.Errorf("the owner can't read it: %v", err)
	}
}

// No way of printing or encoding a domain shows its keys.
func TestDomainHidesSecret(t *testing.T) {
	secret := [32]byte([]byte("this is a secret of 32 characters!")[:32])
	d := NewDomain(secret)
	var secrets []string
	for _, k := range [][]byte{secret[:], d.keys().name[:], d.keys().data[:], d.keys().iv[:]} {
		secrets = append(secrets, string(k), hex.EncodeToString(k), strings.ToUpper(hex.EncodeToString(k)), strings.Trim(fmt.Sprint(k), "[]"))
	}
	holder := struct {
		Public  Domain
		private Domain
		P       *Domain
	}{d, d, &d}
	var out strings.Builder
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p"} {
		fmt.Fprintf(&out, f+f, d, holder)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "domain", d, "holder", holder)
	}
	if b, err := json.Marshal(holder); err == nil {
		t.Errorf("json.Marshal = %s, want an error", b)
	}
	for _, s := range secrets {
		if strings.Contains(out.String(), s) {
			t.Fatalf("a secret shows in\n%s", out.String())
		}
	}
	if !strings.Contains(out.String(), fmt.Sprintf("%x", d.ID())) {
		t.Error("the id does not show")
	}
}

func TestDomainKinds(t *testing.T) {
	var public Domain
	body := []byte("body")
	if public.Private() || public.ID() != [16]byte{} || public.Name(body) != Sum(body) || !bytes.Equal(public.Seal(Sum(body), Raw, 4, body), body) {
		t.Error("the zero domain is not public")
	}
	d := vectorDomain()
	if !d.Private() || d.ID() == [16]byte{} {
		t.Error("a domain of a secret is not private")
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], 5)
	n := NewNamingDomain(key, [32]byte{1})
	if n.ID() == NewDomain([32]byte{1}).ID() || n.Name(body) == NewDomain([32]byte{1}).Name(body) {
		t.Error("the given name key is not used")
	}
	sealed := n.Seal(n.Name(body), Raw, 4, body)
	if got, err := NewDomain([32]byte{1}).Open(n.Name(body), Sealed, 4, sealed); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the other keys don't come from the secret: %v", err)
	}
}
