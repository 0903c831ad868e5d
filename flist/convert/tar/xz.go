package tar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"zos.internal/internal/fault"
)

// newXZ decodes xz streams. The library behind it takes as much memory as a
// block header asks for (up to 4 GiB) and ends without an error where a stream
// is cut between blocks, so a guard follows the structure of the stream first.
func newXZ(br *bufio.Reader) (io.Reader, error) {
	return xz.NewReader(&xzGuard{r: br})
}

var errXZ = errors.New("xz: bad structure")

// xzGuard passes xz streams on in pieces whose structure it has checked: it
// refuses dictionaries over maxWindow and tells a whole file from a cut one.
// Checksums are left to the decoder.
type xzGuard struct {
	r     *bufio.Reader
	buf   []byte // checked bytes to pass on
	pass  int64  // bytes of a chunk to pass on as they are
	state xzState
	check int   // bytes of the checksum after each block
	block int64 // compressed bytes of the block so far, for its padding
	err   error
}

type xzState int

const (
	xzStart xzState = iota // before a stream header
	xzBlock                // before a block header or the index
	xzChunk                // before an LZMA2 chunk
)

func (g *xzGuard) Read(p []byte) (int, error) {
	for len(g.buf) == 0 && g.pass == 0 {
		if g.err == nil {
			g.err = g.step()
		}
		if g.err != nil {
			return 0, g.err
		}
	}
	if len(g.buf) > 0 {
		n := copy(p, g.buf)
		g.buf = g.buf[n:]
		return n, nil
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.pass)])
	g.pass -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// take moves n bytes from the source to what is passed on.
func (g *xzGuard) take(n int) ([]byte, error) {
	at := len(g.buf)
	g.buf = append(g.buf, make([]byte, n)...)
	if _, err := io.ReadFull(g.r, g.buf[at:]); err != nil {
		g.buf = nil
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return g.buf[at:], nil
}

func (g *xzGuard) step() error {
	g.buf = nil
	switch g.state {
	case xzStart:
		return g.start()
	case xzBlock:
		return g.header()
	}
	return g.chunk()
}

func (g *xzGuard) start() error {
	if _, err := g.r.Peek(1); err == io.EOF {
		return io.EOF // the only good place for an end
	}
	h, err := g.take(4)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(h) == 0 {
		return nil // padding between streams
	}
	h, err = g.take(8)
	if err != nil {
		return err
	}
	sizes := [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}
	g.check = sizes[h[3]&15]
	g.state = xzBlock
	return nil
}

func (g *xzGuard) header() error {
	size, err := g.take(1)
	if err != nil {
		return err
	}
	if size[0] == 0 {
		return g.index()
	}
	n := (int(size[0]) + 1) * 4
	h, err := g.take(n - 1)
	if err != nil {
		return err
	}
	flags, h := h[0], h[1:n-5] // without the CRC
	for bit := byte(0x40); bit != 0; bit <<= 1 {
		if flags&bit != 0 {
			_, k := binary.Uvarint(h)
			if k <= 0 {
				return errXZ
			}
			h = h[k:]
		}
	}
	if flags&0x3f != 0 || len(h) < 3 || h[0] != 0x21 || h[1] != 1 {
		return fault.Errorf(fault.Unsupported, "the xz stream uses filters other than LZMA2; recompress it with xz -6, gzip or zstd")
	}
	dict, err := lzma.DecodeDictCap(h[2])
	if err != nil {
		return errXZ
	}
	if dict > maxWindow {
		return fault.Errorf(fault.Exhausted, "the xz stream needs %d bytes of memory, at most %d are given; recompress it with xz -9 or zstd", dict, int64(maxWindow))
	}
	g.state, g.block = xzChunk, 0
	return nil
}

// chunk reads the head of one LZMA2 chunk; its bytes follow as they are.
func (g *xzGuard) chunk() error {
	c, err := g.take(1)
	if err != nil {
		return err
	}
	control := c[0]
	g.block++
	switch {
	case control == 0: // the end of the block
		g.state = xzBlock
		_, err := g.take(int((4-g.block%4)%4) + g.check)
		return err
	case control <= 2: // uncompressed
		h, err := g.take(2)
		if err != nil {
			return err
		}
		g.pass = int64(binary.BigEndian.Uint16(h)) + 1
		g.block += 2 + g.pass
	case control >= 0x80:
		h, err := g.take(4)
		if err != nil {
			return err
		}
		g.pass = int64(binary.BigEndian.Uint16(h[2:])) + 1
		g.block += 4
		if control >= 0xc0 { // new properties
			if _, err := g.take(1); err != nil {
				return err
			}
			g.block++
		}
		g.block += g.pass
	default:
		return errXZ
	}
	return nil
}

// index passes the records and the footer of the stream on.
func (g *xzGuard) index() error {
	size := int64(1)
	number := func() (uint64, error) {
		var v uint64
		for i := range 9 {
			b, err := g.take(1)
			if err != nil {
				return 0, err
			}
			size++
			v |= uint64(b[0]&0x7f) << (7 * i)
			if b[0] < 0x80 {
				return v, nil
			}
		}
		return 0, errXZ
	}
	records, err := number()
	if err != nil {
		return err
	}
	if records > 1<<16 {
		return fault.Errorf(fault.Exhausted, "the xz stream has %d blocks, 65536 are allowed; recompress it with larger blocks", records)
	}
	for range 2 * records {
		if _, err := number(); err != nil {
			return err
		}
	}
	g.state = xzStart
	_, err = g.take(int((4-size%4)%4) + 4 + 12)
	return err
}
