package dataserver

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// The FUSE protocol as in linux/fuse.h, as much of it as is used here. All
// integers are in host order; Zero-OS runs on little-endian machines only.

const (
	protoMajor = 7
	protoMinor = 40 // the minor that brought RESEND
	rootNode   = 1

	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opRelease     = 18
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42

	flagAsyncRead    = 1 << 0
	flagAsyncDIO     = 1 << 15 // without it the kernel has one read of a file under way
	flagParallelDirs = 1 << 18
	flagMaxPages     = 1 << 22
	flagInitExt      = 1 << 30
	flagHasResend    = 1 << 39

	fopenDirectIO = 1 << 0

	// uniqueResend marks a request that the kernel sends again.
	uniqueResend = 1 << 63

	notifyResend = 7

	inHeaderLen  = 40
	outHeaderLen = 16

	pageSize  = 4096
	maxPages  = 256
	maxRead   = maxPages * pageSize
	maxWrite  = pageSize
	bufferLen = 8192 // FUSE_MIN_READ_BUFFER; holds every request we negotiated
)

// header is fuse_in_header.
type header struct {
	Len    uint32
	Opcode uint32
	Unique uint64
	Node   uint64
}

// parseRequest takes one message of the kernel apart. The body is a part of b.
func parseRequest(b []byte) (header, []byte, error) {
	if len(b) < inHeaderLen {
		return header{}, nil, fault.Errorf(fault.Invalid, "read a FUSE request: %d bytes are less than a header", len(b))
	}
	h := header{
		Len:    binary.LittleEndian.Uint32(b[0:]),
		Opcode: binary.LittleEndian.Uint32(b[4:]),
		Unique: binary.LittleEndian.Uint64(b[8:]),
		Node:   binary.LittleEndian.Uint64(b[16:]),
	}
	if int64(h.Len) != int64(len(b)) {
		return header{}, nil, fault.Errorf(fault.Invalid, "read a FUSE request: the header says %d bytes, %d came", h.Len, len(b))
	}
	return h, b[inHeaderLen:], nil
}

func short(what string, body []byte, want int) error {
	return fault.Errorf(fault.Invalid, "read a FUSE %s request: %d bytes instead of %d", what, len(body), want)
}

// readIn is the part of fuse_read_in that is used.
type readIn struct {
	Handle uint64
	Offset uint64
	Size   uint32
}

func parseRead(body []byte) (readIn, error) {
	if len(body) < 24 {
		return readIn{}, short("read", body, 24)
	}
	return readIn{
		Handle: binary.LittleEndian.Uint64(body[0:]),
		Offset: binary.LittleEndian.Uint64(body[8:]),
		Size:   binary.LittleEndian.Uint32(body[16:]),
	}, nil
}

func parseName(body []byte) (string, error) {
	name, rest, ok := strings.Cut(string(body), "\x00")
	if !ok || rest != "" {
		return "", fault.Errorf(fault.Invalid, "read a FUSE lookup request: the name does not end where the request does")
	}
	return name, nil
}

// parseUint64 reads the first field of a body: the handle of a RELEASE or the
// unique of an INTERRUPT.
func parseUint64(what string, body []byte) (uint64, error) {
	if len(body) < 8 {
		return 0, short(what, body, 8)
	}
	return binary.LittleEndian.Uint64(body), nil
}

// Params is what was negotiated with the kernel. INIT is sent once in the life
// of a connection, so a data server that takes over is told the result.
type Params struct {
	Minor  uint32 `json:"minor"`  // protocol 7.Minor
	Resend bool   `json:"resend"` // the kernel can send requests again
}

// parseInit reads fuse_init_in.
func parseInit(body []byte) (Params, error) {
	if len(body) < 16 {
		return Params{}, short("init", body, 16)
	}
	major := binary.LittleEndian.Uint32(body[0:])
	minor := binary.LittleEndian.Uint32(body[4:])
	flags := uint64(binary.LittleEndian.Uint32(body[12:]))
	if flags&flagInitExt != 0 && len(body) >= 20 {
		flags |= uint64(binary.LittleEndian.Uint32(body[16:])) << 32
	}
	if major != protoMajor || minor < 28 {
		return Params{}, fault.Errorf(fault.Unsupported, "the kernel speaks FUSE %d.%d, at least 7.28 (Linux 4.20) is needed", major, minor)
	}
	return Params{Minor: min(minor, protoMinor), Resend: flags&flagHasResend != 0}, nil
}

// initOut is the answer to INIT: fuse_init_out, 64 bytes.
func initOut(p Params) []byte {
	flags := uint64(flagAsyncRead | flagAsyncDIO | flagParallelDirs | flagMaxPages)
	if p.Resend {
		flags |= flagInitExt | flagHasResend
	}
	b := make([]byte, 64)
	le := binary.LittleEndian
	le.PutUint32(b[0:], protoMajor)
	le.PutUint32(b[4:], p.Minor)
	le.PutUint32(b[8:], maxRead) // max_readahead
	le.PutUint32(b[12:], uint32(flags))
	le.PutUint16(b[16:], 4096) // max_background: one image that hangs must not stop the others
	le.PutUint16(b[18:], 3072) // congestion_threshold
	le.PutUint32(b[20:], maxWrite)
	le.PutUint32(b[24:], 1) // time_gran, ns
	le.PutUint16(b[28:], maxPages)
	le.PutUint32(b[32:], uint32(flags>>32))
	return b
}

// putAttr writes fuse_attr (88 bytes) of a slot, or of the root if s is nil.
func putAttr(b []byte, s *Slot) {
	le := binary.LittleEndian
	ino, size, mode, nlink := uint64(rootNode), uint64(0), uint32(unix.S_IFDIR|0o500), uint32(2)
	if s != nil {
		ino, size, mode, nlink = s.Num, uint64(s.Size), unix.S_IFREG|0o400, 1
	}
	le.PutUint64(b[0:], ino)
	le.PutUint64(b[8:], size)
	le.PutUint64(b[16:], (size+511)/512)
	le.PutUint32(b[60:], mode)
	le.PutUint32(b[64:], nlink)
	le.PutUint32(b[80:], pageSize) // blksize
}

// attrValid: sizes never change, so attributes are valid for an hour.
const attrValid = 3600

func attrOut(s *Slot) []byte {
	b := make([]byte, 16+88)
	binary.LittleEndian.PutUint64(b, attrValid)
	putAttr(b[16:], s)
	return b
}

// entryOut answers a LOOKUP. Names are looked up each time (entry_valid 0),
// since a removed name may come back under another node id.
func entryOut(s *Slot) []byte {
	b := make([]byte, 40+88)
	le := binary.LittleEndian
	le.PutUint64(b[0:], s.Num)
	le.PutUint64(b[24:], attrValid)
	putAttr(b[40:], s)
	return b
}

func openOut(handle uint64, flags uint32) []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint64(b, handle)
	binary.LittleEndian.PutUint32(b[8:], flags)
	return b
}

// statfsOut is fuse_kstatfs, 80 bytes: full, as a read-only file system is.
func statfsOut(slots []Slot) []byte {
	var blocks uint64
	for _, s := range slots {
		blocks += uint64(s.Size) / pageSize
	}
	b := make([]byte, 80)
	le := binary.LittleEndian
	le.PutUint64(b[0:], blocks)
	le.PutUint64(b[24:], uint64(len(slots)))
	le.PutUint32(b[40:], pageSize)
	le.PutUint32(b[44:], 255) // namelen
	le.PutUint32(b[48:], pageSize)
	return b
}

// direntsOut fills at most size bytes with fuse_dirent from the index off on.
func direntsOut(slots []Slot, off uint64, size uint32) []byte {
	var b []byte
	le := binary.LittleEndian
	for i := off; i < uint64(len(slots)); i++ {
		name := slots[i].Name
		n := (24 + len(name) + 7) &^ 7
		if len(b)+n > int(min(size, bufferLen)) {
			break
		}
		b = le.AppendUint64(b, slots[i].Num)
		b = le.AppendUint64(b, i+1)
		b = le.AppendUint32(b, uint32(len(name)))
		b = le.AppendUint32(b, unix.DT_REG)
		b = append(b, name...)
		b = append(b, make([]byte, n-24-len(name))...)
	}
	return b
}

// outHeader is fuse_out_header of an answer with n body bytes.
func outHeader(unique uint64, errno unix.Errno, n int) []byte {
	b := make([]byte, outHeaderLen)
	binary.LittleEndian.PutUint32(b[0:], uint32(outHeaderLen+n))
	binary.LittleEndian.PutUint32(b[4:], uint32(-int32(errno)))
	binary.LittleEndian.PutUint64(b[8:], unique)
	return b
}

// resendMessage is the notification that asks for all requests again.
func resendMessage() []byte {
	b := make([]byte, outHeaderLen)
	binary.LittleEndian.PutUint32(b[0:], outHeaderLen)
	binary.LittleEndian.PutUint32(b[4:], notifyResend)
	return b
}
