package block

import (
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"zos.internal/internal/fault"
)

// Encodings of a stored body. Sealed is a bit beside the others. Absent stands
// only in wire records that answer "not here".
const (
	Raw    byte = 0    // the plain bytes
	S2     byte = 1    // an s2 block: live commits of file systems
	Zstd   byte = 2    // one zstd frame with content size, no dictionary: images
	Sealed byte = 0x80 // the encoded body is sealed, see Domain.Seal
	Absent byte = 0xff
)

// ValidEnc reports whether enc is an encoding of a stored chunk.
func ValidEnc(enc byte) bool { return enc&^Sealed <= Zstd }

// DeriveEnc is the encoding of a chunk of an image of which only the lengths in
// bytes are known, as in a locator: raw if nothing was saved, else zstd.
func DeriveEnc(plain, stored int, sealed bool) byte {
	enc := Zstd
	var bit byte
	if sealed {
		bit = Sealed
		stored -= SealOverhead
	}
	if stored == plain {
		enc = Raw
	}
	return enc | bit
}

// checkLengths refuses lengths that no writer makes: encoding never makes a
// body longer than its plain bytes.
func checkLengths(enc byte, plain, stored int) error {
	if !ValidEnc(enc) {
		return fault.Errorf(fault.Invalid, "encoding %d is unknown; a newer program may read it", enc)
	}
	if plain < 1 || plain > MaxPlain {
		return fault.Errorf(fault.Invalid, "a plain length of %d is outside 1..%d", plain, MaxPlain)
	}
	if enc&Sealed != 0 {
		stored -= SealOverhead
	}
	switch {
	case enc&^Sealed == Raw && stored != plain:
		return fault.Errorf(fault.Invalid, "a raw body of %d bytes is not its plain length of %d", stored, plain)
	case enc&^Sealed != Raw && (stored < 1 || stored >= plain):
		return fault.Errorf(fault.Invalid, "an encoded body of %d bytes is not shorter than its %d plain bytes", stored, plain)
	}
	return nil
}

// Encoder makes chunk bodies. It is reused for many chunks by one goroutine at a
// time; its memory is bounded by MaxPlain.
type Encoder struct {
	enc byte
	zw  *zstd.Encoder
	buf []byte
}

// NewEncoder returns an encoder that tries enc: Raw, S2 or Zstd. Another value
// panics.
func NewEncoder(enc byte) *Encoder {
	e := &Encoder{enc: enc}
	switch enc {
	case Raw, S2:
	case Zstd:
		zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithSingleSegment(true), zstd.WithWindowSize(MaxPlain))
		if err != nil {
			panic(err) // only options can be wrong
		}
		e.zw = zw
	default:
		panic("block: no such encoding")
	}
	return e
}

// Encode returns the body of plain and its encoding, Raw unless at least 3 % is
// saved. The body is valid until the next call and may be plain itself.
func (e *Encoder) Encode(plain []byte) (enc byte, body []byte) {
	switch e.enc {
	case S2:
		if m := s2.MaxEncodedLen(len(plain)); cap(e.buf) < m {
			e.buf = make([]byte, m)
		}
		body = s2.Encode(e.buf[:cap(e.buf)], plain)
	case Zstd:
		e.buf = e.zw.EncodeAll(plain, e.buf[:0])
		body = e.buf
	default:
		return Raw, plain
	}
	if len(body) > len(plain)-(len(plain)*3+99)/100 {
		return Raw, plain
	}
	return e.enc, body
}

// Decoder turns stored chunks into plain ones. The zero value works and is safe
// for concurrent use. It allocates the promised plain length and never more,
// whatever the bytes say, beside working memory of fixed size.
type Decoder struct {
	pool sync.Pool // of *zstd.Decoder
}

// Decode returns the plain bytes of an encoded, unsealed body. A body that is
// malformed or has another plain length is Invalid. The result doesn't share
// memory with body.
func (d *Decoder) Decode(enc byte, plain int, body []byte) ([]byte, error) {
	if err := checkLengths(enc&^Sealed, plain, len(body)); err != nil {
		return nil, err
	}
	switch enc &^ Sealed {
	case S2:
		n, err := s2.DecodedLen(body)
		if err != nil || n != plain {
			return nil, fault.Errorf(fault.Invalid, "decode s2 body: it does not promise %d plain bytes", plain)
		}
		out, err := s2.Decode(make([]byte, plain), body)
		if err != nil || len(out) != plain {
			return nil, fault.Errorf(fault.Invalid, "decode s2 body of %d bytes: it is malformed", len(body))
		}
		return out, nil
	case Zstd:
		if err := checkFrame(body, plain); err != nil {
			return nil, err
		}
		zr, _ := d.pool.Get().(*zstd.Decoder)
		if zr == nil {
			var err error
			zr, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxMemory(MaxPlain), zstd.WithDecodeAllCapLimit(true))
			if err != nil {
				return nil, fault.As(fault.Internal, err)
			}
		}
		defer d.pool.Put(zr)
		out, err := zr.DecodeAll(body, make([]byte, 0, plain))
		if err != nil || len(out) != plain {
			return nil, fault.Errorf(fault.Invalid, "decode zstd body of %d bytes: it is malformed", len(body))
		}
		return out, nil
	}
	return append(make([]byte, 0, plain), body...), nil
}

// Chunk opens, decodes and checks one stored chunk: the result has the name in
// dom, or the error says why not. Its kind is Invalid, or Denied if the chunk
// is sealed and dom is public.
func (d *Decoder) Chunk(dom Domain, name Name, enc byte, plain int, stored []byte) ([]byte, error) {
	if err := checkLengths(enc, plain, len(stored)); err != nil {
		return nil, fault.Errorf(fault.Of(err), "read chunk %v: %w", name, err)
	}
	body, err := dom.Open(name, enc, plain, stored)
	if err != nil {
		return nil, err
	}
	b, err := d.Decode(enc, plain, body)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read chunk %v: %w", name, err)
	}
	if !dom.check(name, enc, b) {
		return nil, fault.Errorf(fault.Invalid, "read chunk %v: the bytes have the name %v", name, dom.Name(b))
	}
	return b, nil
}

// checkFrame walks the blocks of a zstd frame without decoding them. It demands
// exactly one frame that fills body, has the content size and no dictionary.
func checkFrame(body []byte, plain int) error {
	bad := func(what string) error {
		return fault.Errorf(fault.Invalid, "decode zstd body of %d bytes: %s", len(body), what)
	}
	var h zstd.Header
	if err := h.Decode(body); err != nil {
		return bad("it has no frame header")
	}
	switch {
	case h.Skippable:
		return bad("it is a skippable frame")
	case h.DictionaryID != 0:
		return bad("it needs a dictionary")
	case !h.HasFCS || h.FrameContentSize != uint64(plain):
		return bad("its frame does not promise the plain length")
	}
	rest := body[h.HeaderSize:]
	for {
		if len(rest) < 3 {
			return bad("it ends inside a frame")
		}
		v := binary.LittleEndian.Uint32([]byte{rest[0], rest[1], rest[2], 0})
		size := int(v >> 3)
		if v>>1&3 == 1 {
			size = 1 // run length: one byte stands for all
		}
		rest = rest[3:]
		if size > len(rest) {
			return bad("it ends inside a block")
		}
		rest = rest[size:]
		if v&1 != 0 {
			break
		}
	}
	if h.HasCheckSum {
		if len(rest) < 4 {
			return bad("it ends before the checksum")
		}
		rest = rest[4:]
	}
	if len(rest) > 0 {
		return bad("bytes follow its frame")
	}
	return nil
}
