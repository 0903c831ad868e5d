package cache

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const recordSize = 64

// Kinds of records.
const (
	recordPut  = 1
	recordDrop = 2
)

// record is one line of the index file.
type record struct {
	kind   byte
	sealed bool
	slab   uint16
	page   uint16
	size   uint32 // bytes in the slot
	key    key
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// append writes r: "ZCI1" | kind u8 | flags u8 | slab u16 | page u32 | size
// u32 | key 32 | 12 zero bytes | crc32c u32 of the 60 bytes before.
func (r record) append(b []byte) []byte {
	var a [recordSize]byte
	le := binary.LittleEndian
	copy(a[:], "ZCI1")
	a[4] = r.kind
	if r.sealed {
		a[5] = 1
	}
	le.PutUint16(a[6:], r.slab)
	le.PutUint32(a[8:], uint32(r.page))
	le.PutUint32(a[12:], r.size)
	copy(a[16:], r.key[:])
	le.PutUint32(a[60:], crc32.Checksum(a[:60], castagnoli()))
	return append(b, a[:]...)
}

// parseRecord reads one record; ok is false for anything append doesn't write.
func parseRecord(b []byte) (r record, ok bool) {
	le := binary.LittleEndian
	if len(b) != recordSize || string(b[:4]) != "ZCI1" || le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli()) {
		return r, false
	}
	r = record{kind: b[4], sealed: b[5] == 1, slab: le.Uint16(b[6:]), size: le.Uint32(b[12:]), key: key(b[16:48])}
	p := le.Uint32(b[8:])
	r.page = uint16(p)
	if b[5] > 1 || p >= maxSlots || r.slab == noSlab || r.size > sizeMask {
		return r, false
	}
	for _, z := range b[48:60] {
		if z != 0 {
			return r, false
		}
	}
	switch r.kind {
	case recordPut:
		return r, r.size > 0 && int(p)+roundUp(int(r.size))/page <= maxSlots
	case recordDrop:
		return r, r.size == 0 && r.slab == 0 && p == 0
	}
	return r, false
}

// indexLog is the index file.
type indexLog struct {
	path     string
	f        *os.File
	records  int64
	reserved int64 // bytes that have their blocks
	damaged  bool  // must be written anew
}

func (l *indexLog) close() {
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// each calls fn for every record of the file, with ok false for what is none.
// A piece at the end that is shorter than a record counts as one of those.
func (l *indexLog) each(fn func(r record, ok bool)) error {
	f, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	var b [recordSize]byte
	for {
		_, err := io.ReadFull(in, b[:])
		if err == io.EOF {
			return nil
		}
		if err == io.ErrUnexpectedEOF {
			fn(record{}, false)
			return nil
		}
		if err != nil {
			return err
		}
		l.records++
		fn(parseRecord(b[:]))
	}
}

// reserveBytes of the disk are the index's before it needs them, so that it can
// be written when chunks have filled the rest.
const reserveBytes = 256 << 10

// open opens the file for writing and reserves space. What fails here fails
// again, and is told, when something is written.
func (l *indexLog) open() error {
	if l.f == nil {
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		l.f = f
	}
	if end := l.records * recordSize; end+reserveBytes/2 > l.reserved {
		if unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, end, reserveBytes) == nil {
			l.reserved = end + reserveBytes
		}
	}
	return nil
}

// append writes records behind the last whole one and syncs them.
func (l *indexLog) append(records []byte) error {
	if err := l.open(); err != nil {
		return err
	}
	if _, err := l.f.WriteAt(records, l.records*recordSize); err != nil {
		return err
	}
	l.records += int64(len(records)) / recordSize
	return datasync(l.f)
}

// rewrite replaces the file by the records that next returns until it returns
// none.
func (l *indexLog) rewrite(next func([]byte) []byte) error {
	tmp := l.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n := int64(0)
	var b []byte
	for err == nil {
		if b = next(b[:0]); len(b) == 0 {
			break
		}
		n += int64(len(b)) / recordSize
		_, err = f.Write(b)
	}
	if err == nil {
		err = datasync(f)
	}
	if err == nil {
		err = os.Rename(tmp, l.path)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return err
	}
	l.close()
	l.f, l.records, l.reserved = f, n, 0
	if err := l.open(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(l.path))
}
