package identity

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/big"
	"slices"
	"testing"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

func TestSignedIsBoundToTagPayloadKeysAndOrder(t *testing.T) {
	other := FromSeed([32]byte{7})
	s := Signed{Payload: []byte("hello")}
	s.Sign(testKey, 0, TagTx)
	s.Sign(other, 5, TagTx)
	got, err := DecodeSigned(s.Encode(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	a, b := testKey.Public(), other.Public()
	if err := got.Verify(TagTx, a, b); err != nil {
		t.Fatal(err)
	}
	if got.Signatures[1].Key != 5 {
		t.Errorf("key index = %d, want 5", got.Signatures[1].Key)
	}
	changed := got
	changed.Payload = []byte("hellp")
	for name, err := range map[string]error{
		"other tag":     got.Verify(TagApprove, a, b),
		"other payload": changed.Verify(TagTx, a, b),
		"order":         got.Verify(TagTx, b, a),
		"one key":       got.Verify(TagTx, a),
		"no key":        got.Verify(TagTx),
		"three keys":    got.Verify(TagTx, a, b, b),
		"nothing":       Signed{}.Verify(TagTx),
	} {
		if !errors.Is(err, fault.Denied) {
			t.Errorf("%s: Verify = %v, want denied", name, err)
		}
	}
	for _, alg := range []Algorithm{0, MLDSA65, Hybrid, Secp256k1, 255} {
		sig := got.Signatures[0]
		sig.Algorithm = alg
		if err := sig.Verify(a, TagTx, got.Payload); !errors.Is(err, fault.Unsupported) {
			t.Errorf("algorithm %d: Verify = %v, want unsupported", alg, err)
		}
		if _, err := PublicKeyFromBytes(append([]byte{byte(alg)}, a[1:]...)); !errors.Is(err, fault.Unsupported) {
			t.Errorf("algorithm %d: PublicKeyFromBytes = %v, want unsupported", alg, err)
		}
	}
}

func TestEveryFlippedBitOfASignedIsRefused(t *testing.T) {
	s := Signed{Payload: []byte("hello")}
	s.Sign(testKey, 3, TagTx)
	wire := s.Encode()
	for i := range wire {
		for bit := range 8 {
			bad := bytes.Clone(wire)
			bad[i] ^= 1 << bit
			got, err := DecodeSigned(bad, len(bad))
			if err != nil {
				continue
			}
			// The key's index is not signed: it says which key to look up.
			if got.Signatures[0].Key != 3 {
				continue
			}
			if err := got.Verify(TagTx, testKey.Public()); err == nil {
				t.Errorf("byte %d bit %d flipped: it verifies", i, bit)
			}
		}
	}
}

func TestSignedHasBounds(t *testing.T) {
	s := Signed{Payload: []byte("x")}
	s.Sign(testKey, 0, TagTx)
	good := s.Encode()
	many := s
	many.Signatures = slices.Repeat(s.Signatures, MaxSignatures+1)
	for name, b := range map[string][]byte{
		"empty":       nil,
		"null":        {0xf6},
		"no array":    {0xa0},
		"one of two":  {0x81, 0x40},
		"nil payload": append([]byte{0x82, 0xf6}, good[3:]...),
		"none":        Signed{Payload: []byte("x")}.Encode(),
		"zero":        canon.MustMarshal([]any{[]byte("x"), []any{}}),
		"many":        many.Encode(),
		"trailing":    append(bytes.Clone(good), 0),
		"long form":   append([]byte{0x98, 2}, good[1:]...),
		"huge":        {0x82, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"huge array":  {0x82, 0x40, 0x9a, 0xff, 0xff, 0xff, 0xff},
	} {
		if _, err := DecodeSigned(b, 1<<20); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: DecodeSigned = %v, want invalid", name, err)
		}
	}
	if _, err := DecodeSigned(good, len(good)-1); !errors.Is(err, fault.Invalid) {
		t.Errorf("one byte above the limit: %v, want invalid", err)
	}
	if _, err := DecodeSigned(good, len(good)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
}

// A key of small order verifies what nobody signed, and one key must not have
// two spellings: the standard library accepts both, we don't.
func TestWeakKeysAreRefused(t *testing.T) {
	identityPoint := make([]byte, 32)
	identityPoint[0] = 1
	forged := append(bytes.Clone(identityPoint), make([]byte, 32)...)
	if !ed25519.Verify(identityPoint, []byte("anything"), forged) {
		t.Fatal("the forgery doesn't verify with the standard library: this test proves nothing")
	}
	sig := Signature{Algorithm: Ed25519, Bytes: forged}
	if err := sig.Verify(PublicKey("\x01"+string(identityPoint)), TagTx, []byte("anything")); err == nil {
		t.Error("the forgery verifies")
	}
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	encode := func(y *big.Int, sign byte) []byte {
		b := y.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		b[31] |= sign
		return b
	}
	for i := range int64(19) {
		for _, sign := range []byte{0, 0x80} {
			if _, err := PublicKeyFromBytes(append([]byte{1}, encode(new(big.Int).Add(p, big.NewInt(i)), sign)...)); !errors.Is(err, fault.Invalid) {
				t.Errorf("y = p+%d: %v, want invalid", i, err)
			}
		}
	}
	// The points of order 8 have y² = (±sqrt(1+d)-1)/d; their doubles have y = 0.
	d := new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), p))
	d.Mod(d, p)
	root := new(big.Int).ModSqrt(new(big.Int).Mod(new(big.Int).Add(d, big.NewInt(1)), p), p)
	found := 0
	for _, r := range []*big.Int{root, new(big.Int).Sub(p, root)} {
		y2 := new(big.Int).Sub(r, big.NewInt(1))
		y2.Mod(y2.Mul(y2, new(big.Int).ModInverse(d, p)), p)
		y := new(big.Int).ModSqrt(y2, p)
		if y == nil {
			continue
		}
		for _, v := range []*big.Int{y, new(big.Int).Sub(p, y)} {
			for _, sign := range []byte{0, 0x80} {
				found++
				if _, err := PublicKeyFromBytes(append([]byte{1}, encode(v, sign)...)); !errors.Is(err, fault.Invalid) {
					t.Errorf("order 8, y = %v: %v, want invalid", v, err)
				}
			}
		}
	}
	if found != 4 {
		t.Errorf("computed %d points of order 8, want 4", found)
	}
	for _, y := range []*big.Int{big.NewInt(0), big.NewInt(1), new(big.Int).Sub(p, big.NewInt(1))} {
		if _, err := PublicKeyFromBytes(append([]byte{1}, encode(y, 0)...)); !errors.Is(err, fault.Invalid) {
			t.Errorf("small order, y = %v: %v, want invalid", y, err)
		}
	}
}

// A second spelling of a valid signature, s plus the order of the group, is
// refused.
func TestSignatureHasOneSpelling(t *testing.T) {
	sig := testKey.SignAs(0, TagTx, []byte("m"))
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	le := bytes.Clone(sig.Bytes[32:])
	slices.Reverse(le)
	s := new(big.Int).SetBytes(le)
	b := s.Add(s, order).FillBytes(make([]byte, 32))
	slices.Reverse(b)
	sig.Bytes = append(bytes.Clone(sig.Bytes[:32]), b...)
	if err := sig.Verify(testKey.Public(), TagTx, []byte("m")); !errors.Is(err, fault.Denied) {
		t.Errorf("Verify = %v, want denied", err)
	}
}

func FuzzSigned(f *testing.F) {
	s := Signed{Payload: []byte("hello")}
	s.Sign(testKey, 3, TagTx)
	f.Add(s.Encode())
	f.Add([]byte{0x82, 0x40, 0x81, 0x83, 0, 1, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSigned(b, 64<<10)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Encode(), b) {
			t.Fatalf("%x encodes again as %x", b, s.Encode())
		}
		keys := make([]PublicKey, len(s.Signatures))
		for i := range keys {
			keys[i] = FromSeed([32]byte{9}).Public()
		}
		if s.Verify(TagTx, keys...) == nil {
			t.Fatalf("%x is signed by a key that signed nothing", b)
		}
	})
}
