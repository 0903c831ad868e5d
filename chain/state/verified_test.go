package state

import (
	"bytes"
	"testing"

	"zos.internal/identity"
)

func TestOnlyWhatWasRightIsRemembered(t *testing.T) {
	k, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	other, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	v := newVerified()
	good := k.SignAs(0, identity.TagTx, []byte("payload"))
	for i := range 3 {
		if err := v.verify(good, k.Public(), identity.TagTx, []byte("payload")); err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
	}
	if len(v.young) != 1 {
		t.Errorf("%d signatures are remembered, want 1", len(v.young))
	}
	forged := good
	forged.Bytes = bytes.Clone(good.Bytes)
	forged.Bytes[5] ^= 1
	for range 2 {
		if v.verify(forged, k.Public(), identity.TagTx, []byte("payload")) == nil ||
			v.verify(good, other.Public(), identity.TagTx, []byte("payload")) == nil ||
			v.verify(good, k.Public(), identity.TagApprove, []byte("payload")) == nil ||
			v.verify(good, k.Public(), identity.TagTx, []byte("payloae")) == nil {
			t.Error("a wrong signature is accepted after the right one")
		}
	}
	if len(v.young) != 1 {
		t.Errorf("%d signatures are remembered, want 1", len(v.young))
	}
	// What is forgotten is verified again; what was used lately stays.
	for i := range maxVerified {
		v.young[[32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}] = struct{}{}
	}
	if err := v.verify(k.SignAs(0, identity.TagTx, []byte("more")), k.Public(), identity.TagTx, []byte("more")); err != nil {
		t.Fatal(err)
	}
	if len(v.young) != 1 || len(v.old) < maxVerified {
		t.Errorf("%d and %d signatures are remembered", len(v.young), len(v.old))
	}
	if err := v.verify(good, k.Public(), identity.TagTx, []byte("payload")); err != nil || len(v.young) != 2 {
		t.Errorf("%v, %d", err, len(v.young))
	}
}
