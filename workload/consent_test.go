package workload

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func requirement(need uint32, requests ...SignatureRequest) *Requirement {
	return &Requirement{Requests: requests, WeightRequired: need}
}

func set(twins ...identity.Party) map[identity.Party]bool {
	m := make(map[identity.Party]bool)
	for _, t := range twins {
		m[t] = true
	}
	return m
}

func TestConsent(t *testing.T) {
	two := requirement(2, SignatureRequest{TwinID: 1, Weight: 1}, SignatureRequest{TwinID: 2, Weight: 1}, SignatureRequest{TwinID: 9, Weight: 1})
	must := requirement(2, SignatureRequest{TwinID: 1, Weight: 1}, SignatureRequest{TwinID: 2, Weight: 1}, SignatureRequest{TwinID: 9, Weight: 1, Required: true})
	weak := requirement(1, SignatureRequest{TwinID: 1, Weight: 1})
	for _, tt := range []struct {
		name          string
		next, running *Requirement
		first, group  bool // first: nothing runs yet
		signers       map[identity.Party]bool
		want          string
	}{
		{"owner", nil, nil, true, false, set(17), ""},
		{"nobody", nil, nil, true, false, set(), "owner, twin 17, has not signed"},
		{"somebody else", nil, nil, true, false, set(1, 2), "owner, twin 17, has not signed"},
		{"group with the chain's proof", nil, nil, true, true, set(), ""},
		{"two of three", two, nil, true, false, set(1, 9), ""},
		{"one of three", two, nil, true, false, set(1), "signatures weigh 1 of 2"},
		{"strangers weigh nothing", two, nil, true, false, set(1, 17, 18, 19), "signatures weigh 1 of 2"},
		{"required is missing", must, nil, true, false, set(1, 2), "required twin 9 has not signed"},
		{"weight and required are missing", must, nil, true, false, set(1), "signatures weigh 1 of 2; required twin 9 has not signed"},
		{"required alone is not enough", must, nil, true, false, set(9), "signatures weigh 1 of 2"},
		{"required and one", must, nil, true, false, set(9, 2), ""},
		{"nobody weakens it alone", weak, two, false, false, set(1), "running version 1: signatures weigh 1 of 2"},
		{"together they may", weak, two, false, false, set(1, 2), ""},
		{"its own counts too", must, weak, false, false, set(1, 2), "version 2: required twin 9"},
		{"dropping it needs those who run it and the owner", nil, two, false, false, set(1, 2), "version 2: the owner"},
		{"dropping it, all agree", nil, two, false, false, set(1, 2, 17), ""},
		{"a group's requirement is not replaced by its proof", weak, two, false, true, set(1), "signatures weigh 1 of 2"},
	} {
		next := &Document{TwinID: 17, Version: 2, Requirement: tt.next}
		var running *Document
		if !tt.first {
			running = &Document{TwinID: 17, Version: 1, Requirement: tt.running}
		}
		err := Consent(next, running, tt.signers, tt.group)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, fault.Denied)):
			t.Errorf("%s: %v, want denied: %s", tt.name, err, tt.want)
		}
	}
}

// The rule, written another way: a requirement is met exactly when the signers
// include everyone who is required and a subset that weighs enough; another
// signer never takes consent away.
func TestRequirementProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "requests")
		q := &Requirement{WeightRequired: rapid.Uint32Range(1, 12).Draw(t, "need")}
		for i := range n {
			q.Requests = append(q.Requests, SignatureRequest{TwinID: identity.Party(i + 1), Weight: rapid.Uint32Range(1, 4).Draw(t, "weight"), Required: rapid.Bool().Draw(t, "required")})
		}
		signers := make(map[identity.Party]bool)
		for _, s := range rapid.SliceOfN(rapid.Uint32Range(1, 9), 0, 9).Draw(t, "signers") {
			signers[identity.Party(s)] = true // twice is once
		}
		left, ok := int(q.WeightRequired), true
		for twin := identity.Party(1); int(twin) <= n; twin++ {
			if signers[twin] {
				left -= int(q.Requests[twin-1].Weight)
			} else if q.Requests[twin-1].Required {
				ok = false
			}
		}
		ok = ok && left <= 0
		if err := q.Met(signers); (err == nil) != ok {
			t.Fatalf("Met = %v, want %v for %+v signed by %v", err, ok, q, signers)
		}
		if ok {
			signers[identity.Party(rapid.Uint32Range(1, 99).Draw(t, "one more"))] = true
			if err := q.Met(signers); err != nil {
				t.Fatalf("one more signer takes consent away: %v", err)
			}
		}
	})
}

// keyring is the keys of twins, as chain/client has them.
type keyring map[identity.Party]struct {
	key  *identity.PrivateKey
	role identity.Role
}

func (k keyring) Key(twin identity.Party, index uint32) (identity.PublicKey, identity.Role, error) {
	e, ok := k[twin]
	if !ok || index != 0 {
		return "", 0, fault.Errorf(fault.NotFound, "twin %d has no key %d", twin, index)
	}
	return e.key.Public(), e.role, nil
}

func TestSigners(t *testing.T) {
	ring := keyring{}
	for i, role := range []identity.Role{identity.RoleFull, identity.RoleDeploy, identity.RoleRead} {
		ring[identity.Party(i+1)] = struct {
			key  *identity.PrivateKey
			role identity.Role
		}{identity.FromSeed([32]byte{byte(i)}), role}
	}
	d := mustParse(t, shop(t))
	sign := func(doc *Document, twin identity.Party, index uint32) TwinSignature {
		s, err := doc.Sign(twin, ring[twin].key, index)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	other := mustParse(t, with(t, `"description":"shop"`, `"description":"shoq"`))
	stolen := sign(d, 1, 0)
	stolen.Twin = 2
	for _, tt := range []struct {
		name string
		sigs []TwinSignature
		want string
		kind fault.Kind
	}{
		{"none", nil, "map[]", ""},
		{"two", []TwinSignature{sign(d, 1, 0), sign(d, 2, 0)}, "map[1:true 2:true]", ""},
		{"twice is once", []TwinSignature{sign(d, 1, 0), sign(d, 1, 0)}, "map[1:true]", ""},
		{"read keys don't sign", []TwinSignature{sign(d, 3, 0)}, "may only read", fault.Denied},
		{"another document", []TwinSignature{sign(other, 1, 0)}, "doesn't fit", fault.Denied},
		{"another twin", []TwinSignature{stolen}, "doesn't fit", fault.Denied},
		{"no such key", []TwinSignature{sign(d, 1, 7)}, "no key 7", fault.NotFound},
	} {
		b, err := d.Envelope(tt.sigs...).Encode()
		if err != nil {
			t.Fatal(err)
		}
		e, err := DecodeEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		signers, err := e.Signers(ring)
		got := fmt.Sprint(signers)
		if err != nil {
			got = err.Error()
		}
		if fault.Of(err) != tt.kind || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s (%v), want %s", tt.name, got, fault.Of(err), tt.want)
		}
	}
}

func TestEnvelopeRefuses(t *testing.T) {
	d := mustParse(t, shop(t))
	sig, err := d.Sign(17, identity.FromSeed([32]byte{}), 0)
	if err != nil {
		t.Fatal(err)
	}
	good, err := d.Envelope(sig).Encode()
	if err != nil {
		t.Fatal(err)
	}
	many := make([]TwinSignature, MaxSignatures+1)
	for i := range many {
		many[i] = sig
	}
	tooMany, err := d.Envelope(many...).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "a byte more": append(append([]byte{}, good...), 0), "cut": good[:len(good)-1],
		"too many signatures": tooMany, "too big": make([]byte, MaxEnvelope+1), "no document": {0xa2, 1, 0x40, 2, 0x80}} {
		if _, err := DecodeEnvelope(b); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	draft, err := Read([]byte(draftYAML), Draft)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft.Sign(17, identity.FromSeed([32]byte{}), 0); fault.Of(err) != fault.Invalid {
		t.Errorf("a draft is signed: %v", err)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte{0xa2, 1, 0x41, '{', 2, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEnvelope(b)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || string(again) != string(b) {
			t.Fatalf("%x encodes again as %x, %v", b, again, err)
		}
	})
}
