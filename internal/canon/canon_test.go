package canon

import (
	"errors"
	"testing"

	"zos.internal/internal/fault"
)

type doc struct {
	A uint64 `cbor:"1,keyasint"`
	B string `cbor:"2,keyasint,omitempty"`
}

func TestOneSpelling(t *testing.T) {
	good := []byte{0xa2, 1, 5, 2, 0x61, 'x'}
	var d doc
	if err := Unmarshal(good, &d); err != nil || d != (doc{5, "x"}) {
		t.Fatalf("Unmarshal = %v, %v", d, err)
	}
	for name, bad := range map[string][]byte{
		"other order":      {0xa2, 2, 0x61, 'x', 1, 5},
		"long integer":     {0xa2, 1, 0x18, 5, 2, 0x61, 'x'},
		"double key":       {0xa2, 1, 5, 1, 6},
		"unknown key":      {0xa2, 1, 5, 3, 6},
		"trailing byte":    {0xa2, 1, 5, 2, 0x61, 'x', 0},
		"indefinite":       {0xbf, 1, 5, 2, 0x61, 'x', 0xff},
		"tag":              {0xc1, 0xa1, 1, 5},
		"empty string":     {0xa2, 1, 5, 2, 0x60},
		"nothing":          {},
		"length that lies": {0xa2, 1, 5, 2, 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		var d doc
		if err := Unmarshal(bad, &d); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Unmarshal = %v, %v, want invalid", name, d, err)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte{0xa2, 1, 5, 2, 0x61, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d doc
		if Unmarshal(b, &d) == nil && string(MustMarshal(d)) != string(b) {
			t.Errorf("accepted %x, which is not canonical", b)
		}
	})
}
