package block

import (
	"math"

	"zos.internal/internal/fault"
)

// The two small CBOR documents of this package are read by hand: they are on
// the hot path, and a reader that knows one shape accepts only the core
// deterministic bytes of that shape, with memory bounded by the input.

const (
	cborUint  = 0 << 5
	cborBytes = 2 << 5
	cborArray = 4 << 5
	cborMap   = 5 << 5
)

// appendHead appends the head of an item in its shortest form.
func appendHead(b []byte, major byte, v uint64) []byte {
	switch {
	case v < 24:
		return append(b, major|byte(v))
	case v <= math.MaxUint8:
		return append(b, major|24, byte(v))
	case v <= math.MaxUint16:
		return append(b, major|25, byte(v>>8), byte(v))
	case v <= math.MaxUint32:
		return append(b, major|26, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	}
	return append(b, major|27, byte(v>>56), byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// cborReader reads items from b. After the first error all reads give zero.
type cborReader struct {
	b   []byte
	err error
}

func (r *cborReader) fail(what string) {
	if r.err == nil {
		r.err = fault.Errorf(fault.Invalid, "%s %d bytes before the end", what, len(r.b))
	}
	r.b = nil
}

// head reads a head of the given major type; a longer form than needed is
// refused.
func (r *cborReader) head(major byte) uint64 {
	if len(r.b) == 0 || r.b[0]&0xe0 != major {
		r.fail("unexpected item")
		return 0
	}
	low := r.b[0] & 0x1f
	if low < 24 {
		r.b = r.b[1:]
		return uint64(low)
	}
	if low > 27 || len(r.b) < 1+1<<(low-24) {
		r.fail("bad item head")
		return 0
	}
	n := 1 << (low - 24)
	var v uint64
	for _, c := range r.b[1 : 1+n] {
		v = v<<8 | uint64(c)
	}
	if n == 1 && v < 24 || n > 1 && v>>(4*n) == 0 {
		r.fail("a number longer than needed")
		return 0
	}
	r.b = r.b[1+n:]
	return v
}

// bytes reads a byte string; it shares memory with the input.
func (r *cborReader) bytes() []byte {
	n := r.head(cborBytes)
	if n > uint64(len(r.b)) {
		r.fail("a byte string longer than the document")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *cborReader) name() (n Name) {
	b := r.bytes()
	if r.err == nil && len(b) != len(n) {
		r.fail("a name of another length")
	}
	copy(n[:], b)
	return n
}

// end checks that nothing follows.
func (r *cborReader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("more items")
	}
	return r.err
}
