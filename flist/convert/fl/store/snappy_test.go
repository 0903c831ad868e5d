package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// unsnappy decodes raw snappy as its specification has it, and nothing of the
// S2 extensions that rfs does not know (an offset of 0 repeats there).
func unsnappy(b []byte) ([]byte, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 {
		return nil, fmt.Errorf("no length")
	}
	var out []byte
	for b = b[k:]; len(b) > 0; {
		tag := b[0]
		b = b[1:]
		length, offset := int(tag>>2)+1, 0
		size := 0 // of the number after the tag
		switch tag & 3 {
		case 0:
			if length > 60 {
				size = length - 60
			}
		case 1:
			length, size = int(tag>>2&7)+4, 1
		case 2:
			size = 2
		case 3:
			size = 4
		}
		if len(b) < size {
			return nil, fmt.Errorf("cut")
		}
		var num [8]byte
		copy(num[:], b[:size])
		v := int(binary.LittleEndian.Uint64(num[:]))
		b = b[size:]
		if tag&3 == 0 {
			if size > 0 {
				length = v + 1
			}
			if len(b) < length {
				return nil, fmt.Errorf("literal cut")
			}
			out, b = append(out, b[:length]...), b[length:]
			continue
		}
		offset = v
		if tag&3 == 1 {
			offset = int(tag>>5)<<8 | v
		}
		if offset == 0 || offset > len(out) {
			return nil, fmt.Errorf("offset %d at %d", offset, len(out))
		}
		for range length {
			out = append(out, out[len(out)-offset])
		}
	}
	if uint64(len(out)) != n {
		return nil, fmt.Errorf("%d bytes instead of %d", len(out), n)
	}
	return out, nil
}

// What Seal writes is what every reader of the format can read.
func TestSealWritesPlainSnappy(t *testing.T) {
	check := func(plain []byte) error {
		stored, b, err := Seal(plain)
		if err != nil {
			return err
		}
		c, err := aes.NewCipher(b.Key[:])
		if err != nil {
			return err
		}
		gcm, err := cipher.NewGCM(c)
		if err != nil {
			return err
		}
		body, err := gcm.Open(nil, b.Key[:12], stored, nil)
		if err != nil {
			return err
		}
		got, err := unsnappy(body)
		if err == nil && !bytes.Equal(got, plain) {
			err = fmt.Errorf("%d other bytes", len(got))
		}
		return err
	}
	for _, s := range []string{"x", pattern(BlockSize, 1), strings.Repeat("\x00", BlockSize), strings.Repeat("abcdefg", 9000), strings.Repeat(pattern(70000, 2), 7)} {
		if err := check([]byte(s)); err != nil {
			t.Errorf("%d bytes of %.10q: %v", len(s), s, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SliceOfN(rapid.Byte(), 1, 50)
		var plain []byte
		for range rapid.IntRange(1, 30).Draw(t, "words") {
			plain = append(plain, bytes.Repeat(word.Draw(t, "word"), rapid.IntRange(1, 40).Draw(t, "times"))...)
		}
		if err := check(plain); err != nil {
			t.Fatal(err)
		}
	})
}
