package flist

import (
	"slices"

	"zos.internal/flist/fetch"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

const (
	pointerTag   = "zos.flist.pointer.1"
	signatureTag = "zos.flist.sig.1"
	traceTag     = "zos.flist.trace.1"
)

// Signed is a payload with the key and signature of who vouches for it. It is
// verified on the bytes and decoded after.
type Signed struct {
	_         struct{} `cbor:",toarray"`
	Payload   []byte
	Key       []byte
	Signature []byte
}

func sign(key *identity.PrivateKey, tag string, payload []byte) Signed {
	return Signed{Payload: payload, Key: []byte(key.Public()), Signature: key.Sign(tag, payload)}
}

func (s Signed) verify(tag string) (identity.PublicKey, error) {
	key, err := identity.PublicKeyFromBytes(s.Key)
	if err != nil {
		return "", err
	}
	return key, key.Verify(tag, s.Payload, s.Signature)
}

// Pointer says which image a name means. It is the only mutable thing about
// images: a higher Seq replaces a lower one and never the other way.
type Pointer struct {
	Owner    identity.Address `cbor:"1,keyasint"`
	Name     string           `cbor:"2,keyasint"`
	Tag      string           `cbor:"3,keyasint,omitempty"` // empty: the name itself
	Seq      uint64           `cbor:"4,keyasint"`
	ID       ID               `cbor:"5,keyasint"`
	Time     int64            `cbor:"6,keyasint"`           // seconds since 1970
	NotAfter int64            `cbor:"7,keyasint,omitempty"` // 0: no end
}

// Key is where the pointer is published.
func (p Pointer) Key() string {
	if p.Tag != "" {
		return TagKey(p.Owner, p.Name, p.Tag)
	}
	return PointerKey(p.Owner, p.Name)
}

func (p Pointer) check() error {
	if err := CheckName(p.Name); err != nil {
		return err
	}
	if p.Tag != "" {
		if err := CheckName(p.Tag); err != nil {
			return err
		}
	}
	if p.Seq == 0 {
		return fault.Errorf(fault.Invalid, "pointer %s: sequence numbers start with 1", p.Name)
	}
	return nil
}

// Sign returns the published bytes of p. The key's address must be the owner.
func (p Pointer) Sign(key *identity.PrivateKey) ([]byte, error) {
	if key.Public().Address() != p.Owner {
		return nil, fault.Errorf(fault.Denied, "sign pointer %s: the key belongs to %v, the name to %v", p.Name, key.Public().Address(), p.Owner)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	payload, err := canon.Marshal(p)
	if err != nil {
		return nil, err
	}
	return canon.Marshal(sign(key, pointerTag, payload))
}

// OpenPointer checks the signature and that the key's address is the owner.
// The caller compares Owner, Name and Tag with what was asked for, Seq with
// what was seen before and NotAfter with the clock.
func OpenPointer(b []byte) (Pointer, identity.PublicKey, error) {
	var s Signed
	var p Pointer
	if len(b) > MaxRoot {
		return p, "", fault.Errorf(fault.Invalid, "open pointer: more than %d bytes", MaxRoot)
	}
	if err := canon.Unmarshal(b, &s); err != nil {
		return p, "", fault.Errorf(fault.Invalid, "open pointer: %w", err)
	}
	key, err := s.verify(pointerTag)
	if err != nil {
		return p, "", fault.Errorf(fault.Of(err), "open pointer: %w", err)
	}
	if err := canon.Unmarshal(s.Payload, &p); err != nil {
		return Pointer{}, "", fault.Errorf(fault.Invalid, "open pointer: %w", err)
	}
	if err := p.check(); err != nil {
		return Pointer{}, "", err
	}
	if key.Address() != p.Owner {
		return Pointer{}, "", fault.Errorf(fault.Denied, "open pointer %s: signed by %v, which is not its owner %v", p.Name, key, p.Owner)
	}
	return p, key, nil
}

// Claim is a statement about an image, such as source, builder or time.
type Claim struct {
	_     struct{} `cbor:",toarray"`
	Name  string
	Value string
}

// Statement is what one key says of an image.
type Statement struct {
	Key    identity.PublicKey
	Claims []Claim // sorted by name, each name once
}

type statement struct {
	ID     ID      `cbor:"1,keyasint"`
	Claims []Claim `cbor:"2,keyasint"`
}

// SignImage appends a statement about id to the published signatures (nil for
// none). A statement that the same key made before is replaced.
func SignImage(existing []byte, id ID, claims []Claim, key *identity.PrivateKey) ([]byte, error) {
	claims = slices.Clone(claims)
	slices.SortFunc(claims, func(a, b Claim) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	if claims == nil {
		claims = []Claim{}
	}
	payload, err := canon.Marshal(statement{id, claims})
	if err != nil {
		return nil, err
	}
	if len(payload) > MaxRoot {
		return nil, fault.Errorf(fault.Invalid, "sign image %v: the claims have more than %d bytes", id, MaxRoot)
	}
	var all []Signed
	if len(existing) > 0 {
		if _, err := OpenSignatures(existing, id); err != nil {
			return nil, err
		}
		if err := canon.Unmarshal(existing, &all); err != nil {
			return nil, err
		}
	}
	all = slices.DeleteFunc(all, func(s Signed) bool { return string(s.Key) == string(key.Public()) })
	b, err := canon.Marshal(append(all, sign(key, signatureTag, payload)))
	if err == nil && len(b) > MaxSignatures {
		return nil, fault.Errorf(fault.Exhausted, "sign image %v: its signatures have more than %d bytes", id, MaxSignatures)
	}
	if _, err := OpenSignatures(b, id); err != nil {
		return nil, err
	}
	return b, err
}

// OpenSignatures checks every signature over id and returns the statements.
// One bad signature makes the file Denied or Invalid.
func OpenSignatures(b []byte, id ID) ([]Statement, error) {
	if len(b) > MaxSignatures {
		return nil, fault.Errorf(fault.Invalid, "open signatures of %v: more than %d bytes", id, MaxSignatures)
	}
	var all []Signed
	if err := canon.Unmarshal(b, &all); err != nil {
		return nil, fault.Errorf(fault.Invalid, "open signatures of %v: they are damaged (%w); fetch them again or sign the image anew", id, err)
	}
	out := make([]Statement, 0, len(all))
	for _, s := range all {
		key, err := s.verify(signatureTag)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "open signatures of %v: %w", id, err)
		}
		var st statement
		if err := canon.Unmarshal(s.Payload, &st); err != nil {
			return nil, fault.Errorf(fault.Invalid, "open signatures of %v: %w", id, err)
		}
		if st.ID != id {
			return nil, fault.Errorf(fault.Denied, "open signatures of %v: %v signed the image %v", id, key, st.ID)
		}
		for i, c := range st.Claims {
			if i > 0 && st.Claims[i-1].Name >= c.Name {
				return nil, fault.Errorf(fault.Invalid, "open signatures of %v: claims are not sorted at %.40q", id, c.Name)
			}
		}
		if slices.ContainsFunc(out, func(o Statement) bool { return o.Key == key }) {
			return nil, fault.Errorf(fault.Invalid, "open signatures of %v: %v signed twice", id, key)
		}
		out = append(out, Statement{key, st.Claims})
	}
	return out, nil
}

// SignTrace returns the published bytes of the recorded start of an image.
func SignTrace(t fetch.Trace, key *identity.PrivateKey) ([]byte, error) {
	payload, err := t.Encode()
	if err != nil {
		return nil, err
	}
	return canon.Marshal(sign(key, traceTag, payload))
}

// MaxTrace is the most bytes of a published trace.
const MaxTrace = fetch.MaxTraceBytes + MaxRoot

// OpenTrace checks who signed the trace of id.
func OpenTrace(b []byte, id ID) (fetch.Trace, identity.PublicKey, error) {
	var s Signed
	if err := canon.Unmarshal(b, &s); err != nil {
		return fetch.Trace{}, "", fault.Errorf(fault.Invalid, "open trace of %v: %w", id, err)
	}
	key, err := s.verify(traceTag)
	if err != nil {
		return fetch.Trace{}, "", fault.Errorf(fault.Of(err), "open trace of %v: %w", id, err)
	}
	t, err := fetch.ParseTrace(s.Payload)
	if err != nil {
		return fetch.Trace{}, "", fault.Errorf(fault.Invalid, "open trace of %v: %w", id, err)
	}
	if t.Image != id {
		return fetch.Trace{}, "", fault.Errorf(fault.Denied, "open trace of %v: it was recorded for %v", id, t.Image)
	}
	return t, key, nil
}
