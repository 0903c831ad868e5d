package block

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"zos.internal/internal/fault"
)

const (
	recordMagic = "ZCK1"
	recordSize  = 52 // of the header in bytes
)

// Record is one stored chunk on the wire: its encoding, plain length and stored
// body. Enc is Absent, and the rest but the name empty, where a source says that
// it does not have the chunk.
type Record struct {
	Name  Name
	Enc   byte
	Plain int
	Body  []byte
}

// AppendRecord appends the wire form of r to b. A record that can't be right is
// Invalid.
func AppendRecord(b []byte, r Record) ([]byte, error) {
	if err := r.check(len(r.Body)); err != nil {
		return b, err
	}
	start := len(b)
	b = append(b, recordMagic...)
	b = append(b, r.Enc, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Plain))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Body)))
	b = append(b, r.Name[:]...)
	b = binary.LittleEndian.AppendUint32(b, crc(b[start:]))
	return append(b, r.Body...), nil
}

// ReadRecord reads the next record of a stream; io.EOF means that there is none.
// A malformed record or a stream that ends inside one is Invalid. At most
// MaxPlain + SealOverhead bytes are allocated, and only as they arrive. The body
// is not checked against the name: Record.Open does.
func ReadRecord(r io.Reader) (Record, error) {
	head := make([]byte, recordSize)
	if n, err := io.ReadFull(r, head); err != nil {
		if n == 0 && err == io.EOF {
			return Record{}, io.EOF
		}
		return Record{}, streamErr(err)
	}
	if string(head[:4]) != recordMagic || head[5]|head[6]|head[7] != 0 {
		return Record{}, fault.Errorf(fault.Invalid, "read record: it does not start with %q and zeros", recordMagic)
	}
	if crc(head[:48]) != binary.LittleEndian.Uint32(head[48:]) {
		return Record{}, fault.Errorf(fault.Invalid, "read record: the checksum of the header is wrong")
	}
	rec := Record{Name: Name(head[16:48]), Enc: head[4]}
	plain, stored := binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[12:])
	if plain > MaxPlain || stored > maxStored {
		return Record{}, fault.Errorf(fault.Invalid, "read record of %v: a length is out of range", rec.Name)
	}
	rec.Plain = int(plain)
	if err := rec.check(int(stored)); err != nil {
		return Record{}, err
	}
	body, err := readExactly(r, int(stored))
	if err != nil {
		return Record{}, streamErr(err)
	}
	rec.Body = body
	return rec, nil
}

// Open returns the plain bytes of r, checked against its name in dom. An absent
// chunk is NotFound.
func (r Record) Open(dom Domain, dec *Decoder) ([]byte, error) {
	if r.Enc == Absent {
		return nil, fault.Errorf(fault.NotFound, "read chunk %v: the source does not have it", r.Name)
	}
	return dec.Chunk(dom, r.Name, r.Enc, r.Plain, r.Body)
}

func (r Record) check(stored int) error {
	if r.Enc == Absent {
		if r.Plain != 0 || stored != 0 {
			return fault.Errorf(fault.Invalid, "record of %v: absent and yet not empty", r.Name)
		}
		return nil
	}
	if err := checkLengths(r.Enc, r.Plain, stored); err != nil {
		return fault.Errorf(fault.Of(err), "record of %v: %w", r.Name, err)
	}
	return nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func streamErr(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fault.Errorf(fault.Invalid, "read record: the stream ends inside it")
	}
	return fault.Errorf(fault.Of(err), "read record: %w", err)
}

// readExactly reads n bytes and grows as they arrive, so that a promise alone
// allocates little. Beside an error it returns the bytes that arrived.
func readExactly(r io.Reader, n int) ([]byte, error) {
	const step = 256 << 10
	b := make([]byte, 0, min(n, step))
	for len(b) < n {
		if len(b) == cap(b) {
			b = append(make([]byte, 0, min(n, 2*cap(b))), b...)
		}
		m, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+m]
		if err != nil && len(b) < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return b, err
		}
	}
	return b, nil
}
