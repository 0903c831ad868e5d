// Package canon encodes values as canonical CBOR: the core deterministic
// encoding of RFC 8949, where one value has exactly one spelling.
//
// Unmarshal refuses everything that Marshal would not have written: unknown or
// double keys, other orders, longer integers, indefinite lengths, trailing
// bytes. So what is hashed or signed can be decoded and compared as bytes.
package canon

import (
	"bytes"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/internal/fault"
)

// Marshal is the one encoding of v. Types use cbor struct tags (keyasint,
// toarray, omitempty).
func Marshal(v any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(v)
}

// MustMarshal is Marshal for types that always encode.
func MustMarshal(v any) []byte {
	b, err := Marshal(v)
	if err != nil {
		panic("canon: " + err.Error())
	}
	return b
}

// Unmarshal decodes b into v, a pointer to a zero value. Bytes that don't
// encode again identically are Invalid. Memory is bounded by the length of b.
func Unmarshal(b []byte, v any) error { return UnmarshalDepth(b, v, 8) }

// UnmarshalDepth is Unmarshal for values that nest up to some levels instead of
// 8: messages that contain messages.
func UnmarshalDepth(b []byte, v any, levels int) error {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   levels,
		MaxArrayElements:  1 << 24,
		MaxMapPairs:       1 << 16,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return err
	}
	if err := mode.Unmarshal(b, v); err != nil {
		return fault.As(fault.Invalid, err)
	}
	again, err := Marshal(v)
	if err != nil {
		return fault.As(fault.Invalid, err)
	}
	if !bytes.Equal(again, b) {
		return fault.Errorf(fault.Invalid, "the CBOR is not in its canonical form")
	}
	return nil
}
