package protocol

import (
	"zos.internal/block"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// ParseLocator reads a locator for as many chunks as it has places for: the
// number of chunks of a private image is known to its tenant only.
func ParseLocator(b []byte) (block.Locator, error) {
	var raw struct {
		Packs []struct {
			_    struct{} `cbor:",toarray"`
			Name block.Name
			Size uint64
		} `cbor:"1,keyasint"`
		Where []byte `cbor:"2,keyasint"`
	}
	if err := canon.Unmarshal(b, &raw); err != nil {
		return block.Locator{}, fault.Errorf(fault.Invalid, "the locator is malformed: %w", err)
	}
	numbers := 0
	for _, c := range raw.Where {
		if c < 0x80 {
			numbers++
		}
	}
	return block.ParseLocator(b, numbers/3)
}
