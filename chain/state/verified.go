package state

import (
	"crypto/sha256"
	"encoding/binary"

	"zos.internal/identity"
)

// verified remembers signatures that were right: a transaction is checked when
// it arrives, perhaps again while it waits, and in its block. Only what was
// right is remembered, so a hit and a miss have the same outcome. Two halves of
// bounded size take turns, so nothing is ranged over and little is forgotten.
type verified struct {
	young, old map[[32]byte]struct{}
}

// maxVerified is the most signatures in each half: 48 bytes each.
const maxVerified = 20_000

func newVerified() *verified { return &verified{young: make(map[[32]byte]struct{})} }

// verify is like Signature.Verify.
func (v *verified) verify(s identity.Signature, key identity.PublicKey, tag string, payload []byte) error {
	h := sha256.New()
	for _, part := range [][]byte{{byte(s.Algorithm)}, s.Bytes, []byte(key), []byte(tag), payload} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	id := [32]byte(h.Sum(nil))
	if _, ok := v.young[id]; ok {
		return nil
	}
	if _, ok := v.old[id]; !ok {
		if err := s.Verify(key, tag, payload); err != nil {
			return err
		}
	}
	if len(v.young) >= maxVerified {
		v.old, v.young = v.young, make(map[[32]byte]struct{})
	}
	v.young[id] = struct{}{}
	return nil
}
