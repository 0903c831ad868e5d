package identity

import (
	"encoding/base64"
	"encoding/binary"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

const (
	secretInfo = "zos/secret/1"
	aeadTag    = 16
)

// MaxSecret is the most bytes of one sealed secret.
const MaxSecret = 64 << 10

// Place is where in which document a secret stands. A sealed secret opens at its
// place only: copied to another field, workload, contract or node it is useless.
type Place struct {
	_        struct{} `cbor:",toarray"`
	Contract ContractID
	Node     Party
	Workload string // name of the workload
	Field    string // path of the field in the workload's data, such as secrets.PGPASS
}

// SealedSecret is a secret inside a document: {"sealed": "…"}, where the text is
// unpadded base64url of epoch (4 bytes) ‖ enc (1120) ‖ ciphertext.
type SealedSecret struct {
	Sealed string `json:"sealed"`
}

// SealSecret encrypts a secret to the node of a place.
func SealSecret(to *KEMPublic, at Place, secret []byte) (SealedSecret, error) {
	if len(secret) > MaxSecret {
		return SealedSecret{}, fault.Errorf(fault.Invalid, "seal %s: the secret has %d bytes, at most %d are allowed", at.Field, len(secret), MaxSecret)
	}
	enc, ciphertext, err := to.seal(secretInfo, func([]byte) []byte { return canon.MustMarshal(at) }, secret)
	if err != nil {
		return SealedSecret{}, err
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(enc)+len(ciphertext)), to.epoch)
	return SealedSecret{base64.RawURLEncoding.EncodeToString(append(append(b, enc...), ciphertext...))}, nil
}

// Check is Invalid for a text that can't be a sealed secret. Only the node can
// tell whether it opens.
func (s SealedSecret) Check() error {
	_, _, _, err := s.parts()
	return err
}

// Epoch is the KEM epoch that s is sealed to.
func (s SealedSecret) Epoch() (uint32, error) {
	epoch, _, _, err := s.parts()
	return epoch, err
}

func (s SealedSecret) parts() (epoch uint32, enc, ciphertext []byte, err error) {
	const least = 4 + encSize + aeadTag
	if n := base64.RawURLEncoding.DecodedLen(len(s.Sealed)); n < least || n > least+MaxSecret {
		return 0, nil, nil, fault.Errorf(fault.Invalid, "the sealed secret has %d bytes, %d to %d are possible; seal it anew", n, least, least+MaxSecret)
	}
	b, err := unbase64(s.Sealed)
	if err != nil || len(b) < least {
		return 0, nil, nil, fault.Errorf(fault.Invalid, "the sealed secret is not unpadded base64url; seal it anew")
	}
	return binary.BigEndian.Uint32(b), b[4 : 4+encSize], b[4+encSize:], nil
}

// OpenSecret decrypts a secret that stands at a place. It is Expired when its
// epoch is over, Denied when it was sealed for another place or changed. The
// caller clears what is returned after use.
func (k *KEMKeys) OpenSecret(at Place, s SealedSecret) ([]byte, error) {
	epoch, enc, ciphertext, err := s.parts()
	if err != nil {
		return nil, err
	}
	key, err := k.find("secret", "node", epoch)
	if err != nil {
		return nil, err
	}
	plain, err := key.open(secretInfo, enc, canon.MustMarshal(at), ciphertext)
	if err != nil {
		return nil, fault.Errorf(fault.Denied, "the secret %s of workload %s doesn't open: it was changed, or sealed for another contract, node, workload or field", at.Field, at.Workload)
	}
	return plain, nil
}
