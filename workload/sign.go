package workload

import (
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Envelope is a document with signatures over it, as it travels to a node: CBOR
// {1 document, 2 [[twin, signature]…]}.
type Envelope struct {
	Document   []byte          `cbor:"1,keyasint" json:"document"`
	Signatures []TwinSignature `cbor:"2,keyasint" json:"signatures"`
}

// TwinSignature is the signature of one twin.
type TwinSignature struct {
	_         struct{}           `cbor:",toarray"`
	Twin      identity.Party     `json:"twin"`
	Signature identity.Signature `json:"signature"`
}

// MaxSignatures is how many signatures an envelope carries.
const MaxSignatures = 16

// MaxEnvelope is the most bytes of an envelope: a document and its signatures.
const MaxEnvelope = MaxBytes + 16<<10

// SigningBytes is exactly what a signature covers:
// "zos/deployment/1", a zero byte, SHA-256 of the document.
func SigningBytes(h Hash) []byte {
	return append([]byte(identity.TagDeployment+"\x00"), h[:]...)
}

// Sign signs the document with a key of twin. A draft can't be signed.
func (d *Document) Sign(twin identity.Party, k *identity.PrivateKey, index uint32) (TwinSignature, error) {
	if d.draft {
		return TwinSignature{}, fault.Errorf(fault.Invalid, "sign document: it is a draft; fill in chain, twin_id, contract_id, node_id and image roots first")
	}
	if err := twin.Check(); err != nil {
		return TwinSignature{}, err
	}
	h := d.Hash()
	return TwinSignature{Twin: twin, Signature: k.SignAs(index, identity.TagDeployment, h[:])}, nil
}

// Envelope puts signatures to the document's own bytes.
func (d *Document) Envelope(sigs ...TwinSignature) Envelope {
	return Envelope{Document: d.Bytes(), Signatures: sigs}
}

// Encode is the canonical CBOR of e.
func (e Envelope) Encode() ([]byte, error) {
	if e.Signatures == nil {
		e.Signatures = []TwinSignature{}
	}
	b, err := canon.Marshal(e)
	return b, fault.As(fault.Invalid, err)
}

// DecodeEnvelope reads what Encode wrote. Nothing is verified and the document
// is not looked at. Too many bytes are refused before anything is decoded.
func DecodeEnvelope(b []byte) (Envelope, error) {
	var e Envelope
	if len(b) > MaxEnvelope {
		return e, fault.Errorf(fault.Invalid, "the envelope has %d bytes; at most %d are allowed", len(b), MaxEnvelope)
	}
	if err := canon.Unmarshal(b, &e); err != nil {
		return Envelope{}, fault.Errorf(fault.Invalid, "the bytes are no document envelope: %w", err)
	}
	if len(e.Document) == 0 || len(e.Document) > MaxBytes {
		return Envelope{}, fault.Errorf(fault.Invalid, "the document in the envelope has %d bytes; 1 to %d are allowed", len(e.Document), MaxBytes)
	}
	if len(e.Signatures) > MaxSignatures {
		return Envelope{}, fault.Errorf(fault.Invalid, "the envelope has %d signatures; at most %d are allowed", len(e.Signatures), MaxSignatures)
	}
	return e, nil
}

// Keys finds the key that a twin keeps under an index, and its role. A key that
// there isn't, or that was revoked, is NotFound. chain/client has one.
type Keys interface {
	Key(twin identity.Party, index uint32) (identity.PublicKey, identity.Role, error)
}

// Signers are the twins whose signatures over the document are valid and made
// with a full or deploy key. A twin that signed twice counts once. One signature
// that doesn't verify makes the whole envelope Denied: somebody changed it.
func (e Envelope) Signers(keys Keys) (map[identity.Party]bool, error) {
	h := HashOf(e.Document)
	out := make(map[identity.Party]bool)
	for _, s := range e.Signatures {
		key, role, err := keys.Key(s.Twin, s.Signature.Key)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "signature of twin %d by key %d: %w", s.Twin, s.Signature.Key, err)
		}
		if role != identity.RoleFull && role != identity.RoleDeploy {
			return nil, fault.Errorf(fault.Denied, "signature of twin %d: key %d may only %v; sign with a full or deploy key", s.Twin, s.Signature.Key, role)
		}
		if err := s.Signature.Verify(key, identity.TagDeployment, h[:]); err != nil {
			return nil, fault.Errorf(fault.Of(err), "signature of twin %d by key %d: %w", s.Twin, s.Signature.Key, err)
		}
		out[s.Twin] = true
	}
	return out, nil
}
