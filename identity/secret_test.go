package identity

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// ticker is a clock that a test moves.
type ticker struct{ now time.Time }

func (t *ticker) Now() time.Time { return t.now }

func (t *ticker) pass(d time.Duration) { t.now = t.now.Add(d) }

func newTicker() *ticker { return &ticker{time.UnixMilli(1_800_000_000_000).UTC()} }

func contract(t testing.TB, owner Party, serial uint32) ContractID {
	id, err := NewContractID(owner, serial)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSecretOpensAtItsPlaceOnly(t *testing.T) {
	seed := SeedFrom([32]byte{1})
	keys := NewKEMKeys(42, clock.System{}, seed.KEM(3))
	at := Place{Contract: contract(t, 17, 3), Node: 42, Workload: "db", Field: "secrets.PGPASS"}
	s, err := SealSecret(keys.Current(), at, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Epoch(); err != nil || e != 3 || s.Check() != nil {
		t.Errorf("Epoch = %d, %v, %v", e, err, s.Check())
	}
	if got, err := keys.OpenSecret(at, s); err != nil || string(got) != "hunter2" {
		t.Fatalf("OpenSecret = %q, %v", got, err)
	}
	for name, change := range map[string]func(*Place){
		"contract": func(p *Place) { p.Contract++ },
		"node":     func(p *Place) { p.Node++ },
		"workload": func(p *Place) { p.Workload = "dbs" },
		"field":    func(p *Place) { p.Field = "ecrets.PGPASS" },
		"border":   func(p *Place) { p.Workload, p.Field = "dbs", "ecrets.PGPASS" },
	} {
		other := at
		change(&other)
		if got, err := keys.OpenSecret(other, s); !errors.Is(err, fault.Denied) {
			t.Errorf("other %s: OpenSecret = %q, %v, want denied", name, got, err)
		}
	}
	raw, _ := base64.RawURLEncoding.DecodeString(s.Sealed)
	for i := range raw {
		raw[i] ^= 1
		if got, err := keys.OpenSecret(at, SealedSecret{base64.RawURLEncoding.EncodeToString(raw)}); err == nil {
			t.Errorf("byte %d flipped: it opens as %q", i, got)
		}
		raw[i] ^= 1
	}
	long := base64.RawURLEncoding.EncodeToString(make([]byte, 4+encSize+aeadTag+MaxSecret+1))
	for _, bad := range []string{"", "AAAA", s.Sealed + "=", s.Sealed[:len(s.Sealed)-3] + "\n" + s.Sealed[len(s.Sealed)-3:], strings.ReplaceAll(s.Sealed, "A", "+"), long} {
		if _, err := keys.OpenSecret(at, SealedSecret{bad}); !errors.Is(err, fault.Invalid) {
			t.Errorf("OpenSecret(%.20q…) = %v, want invalid", bad, err)
		}
	}
	if _, err := SealSecret(keys.Current(), at, make([]byte, MaxSecret+1)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a secret that is too long: %v, want invalid", err)
	}
	if s, err := SealSecret(keys.Current(), at, make([]byte, MaxSecret)); err != nil || s.Check() != nil {
		t.Errorf("the longest secret: %v, %v", err, s.Check())
	}
}

func TestKEMEpochs(t *testing.T) {
	now := newTicker()
	seed := SeedFrom([32]byte{1})
	keys := NewKEMKeys(42, now, seed.KEM(7))
	at := Place{Contract: contract(t, 17, 3), Node: 42, Workload: "db", Field: "env.X"}
	old, _ := SealSecret(keys.Current(), at, []byte("x"))
	future, _ := SealSecret(seed.KEM(12).Public(), at, []byte("x"))
	if err := keys.Rotate(seed.KEM(7)); !errors.Is(err, fault.Conflict) {
		t.Errorf("Rotate to the same epoch = %v, want conflict", err)
	}
	if err := keys.Rotate(seed.KEM(9)); err != nil || keys.Current().Epoch() != 9 {
		t.Fatalf("Rotate = %v, epoch %d", err, keys.Current().Epoch())
	}
	if _, err := keys.OpenSecret(at, future); !errors.Is(err, fault.Conflict) {
		t.Errorf("epoch of the future: %v, want conflict", err)
	}
	now.pass(Keep - time.Second)
	if _, err := keys.OpenSecret(at, old); err != nil {
		t.Errorf("a second before the old key goes: %v", err)
	}
	now.pass(time.Second)
	_, err := keys.OpenSecret(at, old)
	if !errors.Is(err, fault.Expired) || !strings.Contains(err.Error(), "secret sealed to epoch 7, node is at 9") {
		t.Errorf("after the old key went: %v, want expired with both epochs", err)
	}
	if len(keys.old) != 0 {
		t.Error("the old key is still in memory")
	}

	// A node that starts again has its old keys from the disk.
	again := NewKEMKeys(42, now, seed.KEM(9))
	if err := again.Restore(seed.KEM(7), now.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := again.OpenSecret(at, old); err != nil {
		t.Errorf("after Restore: %v", err)
	}
	if err := again.Restore(seed.KEM(9), now.Now().Add(time.Hour)); !errors.Is(err, fault.Conflict) {
		t.Errorf("Restore of the current epoch = %v, want conflict", err)
	}
	for e := uint32(10); e < 17; e++ {
		if err := again.Rotate(seed.KEM(e)); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.Rotate(seed.KEM(17)); !errors.Is(err, fault.Exhausted) || again.Current().Epoch() != 16 {
		t.Errorf("too many rotations: %v at %d, want exhausted at 16", err, again.Current().Epoch())
	}
	if _, err := again.OpenSecret(at, old); err != nil {
		t.Errorf("the oldest key was lost: %v", err)
	}
}

func TestKEMPublicKeys(t *testing.T) {
	k := SeedFrom([32]byte{1}).KEM(2).Public()
	got, err := NewKEMPublic(2, k.Bytes())
	if err != nil || got.Hash() != k.Hash() || got.Epoch() != 2 {
		t.Errorf("NewKEMPublic = %v", err)
	}
	bad := make([]byte, KEMPublicSize)
	for i := range bad {
		bad[i] = 0xff // coefficients that are not reduced
	}
	for name, c := range map[string]struct {
		epoch uint32
		key   []byte
	}{"none": {1, nil}, "short": {1, k.Bytes()[1:]}, "long": {1, append(k.Bytes(), 0)}, "epoch": {0, k.Bytes()}, "garbage": {1, bad}} {
		if _, err := NewKEMPublic(c.epoch, c.key); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: NewKEMPublic = %v, want invalid", name, err)
		}
	}
}

func FuzzSealedSecret(f *testing.F) {
	keys := NewKEMKeys(42, clock.System{}, SeedFrom([32]byte{1}).KEM(1))
	s, _ := SealSecret(keys.Current(), Place{Node: 42}, []byte("x"))
	f.Add(s.Sealed)
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := keys.OpenSecret(Place{Node: 42, Field: "y"}, SealedSecret{text}); err == nil {
			t.Fatalf("%q opens as %q", text, got)
		}
	})
}
