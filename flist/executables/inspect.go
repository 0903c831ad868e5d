package executables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/zeebo/blake3"

	"zos.internal/internal/fault"
)

// Info is what the bytes of a file say about how it runs.
type Info struct {
	Kind        Kind
	Interpreter string
	Flags       Flags
}

// Bounds of what Inspect reads of one file.
const (
	scriptLine  = 256     // the kernel looks no further for the interpreter
	maxDynamic  = 1 << 20 // bytes of one dynamic section; a longer one is flagged
	maxSections = 4       // dynamic headers that are read; more are flagged
)

// File inspects and hashes a regular file and makes its entry. ok is false if
// the file is neither program, library nor script; then nothing is hashed.
func File(path string, r io.ReaderAt, size int64) (e Entry, ok bool, err error) {
	info, ok, err := Inspect(r, size)
	if err != nil || !ok {
		return Entry{}, false, err
	}
	h := blake3.New()
	n, err := io.Copy(h, io.NewSectionReader(r, 0, size))
	if err != nil {
		return Entry{}, false, fault.Errorf(fault.Unavailable, "read %q: %w", path, err)
	}
	if n != size {
		return Entry{}, false, fault.Errorf(fault.Conflict, "read %q: it has %d bytes where %d were promised; build again when nothing writes to it", path, n, size)
	}
	e = Entry{Path: path, Kind: info.Kind, Interpreter: info.Interpreter, Flags: info.Flags}
	h.Sum(e.Hash[:0])
	return e, true, nil
}

// Inspect says what the kernel or a dynamic loader would make of the size
// bytes of r. ok is false for files that neither takes: text without #!, data,
// object files, and ELF files whose headers both refuse. err is only an error
// of r; no content is an error. At most a few MiB are read.
func Inspect(r io.ReaderAt, size int64) (info Info, ok bool, err error) {
	head, err := readAt(r, 0, min(size, scriptLine))
	if err != nil {
		return Info{}, false, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		return script(head), true, nil
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		f := elfFile{r: r, size: size}
		return f.inspect(head)
	}
	return Info{}, false, nil
}

// script takes the interpreter from the first line as the kernel does: up to
// the first blank after leading blanks.
func script(head []byte) Info {
	line := head[2:]
	if i := bytes.IndexAny(line, "\n\x00"); i >= 0 {
		line = line[:i]
	}
	line = bytes.TrimLeft(line, " \t")
	if i := bytes.IndexAny(line, " \t"); i >= 0 {
		line = line[:i]
	}
	return Info{Kind: Script, Interpreter: string(line)}
}

// readAt reads exactly n bytes at off; fewer if the source ends early.
func readAt(r io.ReaderAt, off, n int64) ([]byte, error) {
	if n <= 0 || off < 0 {
		return nil, nil
	}
	b := make([]byte, n)
	got, err := r.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.Errorf(fault.Unavailable, "read the file's headers: %w", err)
	}
	return b[:got], nil
}

// ELF constants that matter here.
const (
	etExec, etDyn = 2, 3

	ptLoad, ptDynamic, ptInterp, ptGNUStack = 1, 2, 3, 0x6474e551

	pfX, pfW = 1, 2

	dtSoname, dtTextRel, dtFlags, dtFlags1 = 14, 22, 30, 0x6ffffffb

	dfTextRel = 4
	df1PIE    = 0x08000000
)

type segment struct {
	kind, flags       uint32
	off, vaddr, files uint64
}

type elfFile struct {
	r     io.ReaderAt
	size  int64
	order binary.ByteOrder
	wide  bool // 64-bit

	pie, soname bool
}

func (f *elfFile) inspect(head []byte) (Info, bool, error) {
	none := func() (Info, bool, error) { return Info{}, false, nil }
	if len(head) < 52 {
		return none()
	}
	switch head[5] {
	case 1:
		f.order = binary.LittleEndian
	case 2:
		f.order = binary.BigEndian
	default:
		return none()
	}
	var phoff uint64
	var phsize, phnum, want uint16
	switch head[4] {
	case 1:
		phoff, phsize, phnum, want = uint64(f.order.Uint32(head[28:])), f.order.Uint16(head[42:]), f.order.Uint16(head[44:]), 32
	case 2:
		if len(head) < 64 {
			return none()
		}
		f.wide = true
		phoff, phsize, phnum, want = f.order.Uint64(head[32:]), f.order.Uint16(head[54:]), f.order.Uint16(head[56:]), 56
	default:
		return none()
	}
	etype := f.order.Uint16(head[16:])
	length := uint64(phsize) * uint64(phnum)
	if etype != etExec && etype != etDyn || phsize != want || phnum == 0 ||
		phoff > uint64(f.size) || length > uint64(f.size)-phoff {
		return none() // the kernel and the loaders refuse it too
	}
	raw, err := readAt(f.r, int64(phoff), int64(length))
	if err != nil {
		return Info{}, false, err
	}
	if uint64(len(raw)) != length {
		return none()
	}
	segs := make([]segment, phnum)
	for i := range segs {
		segs[i] = f.segment(raw[i*int(want):])
	}
	info, err := f.judge(etype, segs)
	return info, err == nil, err
}

func (f *elfFile) segment(b []byte) segment {
	o := f.order
	if f.wide {
		return segment{kind: o.Uint32(b), flags: o.Uint32(b[4:]), off: o.Uint64(b[8:]), vaddr: o.Uint64(b[16:]), files: o.Uint64(b[32:])}
	}
	return segment{kind: o.Uint32(b), flags: o.Uint32(b[24:]), off: uint64(o.Uint32(b[4:])), vaddr: uint64(o.Uint32(b[8:])), files: uint64(o.Uint32(b[16:]))}
}

func (f *elfFile) judge(etype uint16, segs []segment) (Info, error) {
	var info Info
	if !f.wide {
		info.Flags |= Bits32
	}
	hasStack, hasInterp, dynamics := false, false, 0
	for _, s := range segs {
		switch s.kind {
		case ptLoad:
			if s.flags&(pfW|pfX) == pfW|pfX {
				info.Flags |= RWX
			}
		case ptGNUStack:
			hasStack = true
			if s.flags&pfX != 0 {
				info.Flags |= ExecStack
			}
		case ptInterp:
			if hasInterp {
				continue // the kernel takes the first
			}
			hasInterp = true
			path, err := f.interpreter(s)
			if err != nil {
				return info, err
			}
			info.Interpreter = path
		case ptDynamic:
			if dynamics++; dynamics > maxSections {
				info.Flags |= TextRel // cannot be ruled out at a bounded cost
				continue
			}
			flags, err := f.dynamic(s, segs)
			if err != nil {
				return info, err
			}
			info.Flags |= flags
		}
	}
	switch {
	case etype == etDyn && f.soname && !f.pie:
		info.Kind = SharedObject
	case hasInterp && info.Interpreter != "":
		info.Kind = Dynamic
	case etype == etExec || f.pie || dynamics == 0:
		info.Kind = Static
	default:
		info.Kind = SharedObject
	}
	// Without the header, a 32-bit program gets an executable stack from the
	// kernel, and a library gets one from the C library that loads it.
	if !hasStack && (!f.wide || info.Kind != Static) {
		info.Flags |= ExecStack
	}
	return info, nil
}

// interpreter is the path of a PT_INTERP header, "" if the kernel refuses it.
func (f *elfFile) interpreter(s segment) (string, error) {
	if s.files < 2 || s.files > maxPath || s.off > uint64(f.size) {
		return "", nil
	}
	b, err := readAt(f.r, int64(s.off), int64(s.files))
	if err != nil {
		return "", err
	}
	if uint64(len(b)) != s.files || b[len(b)-1] != 0 {
		return "", nil
	}
	return string(b[:bytes.IndexByte(b, 0)]), nil
}

// dynamic reads a dynamic section as a loader does: at its address in memory,
// so through the segment that maps it, up to the null entry.
func (f *elfFile) dynamic(d segment, segs []segment) (Flags, error) {
	off, limit := d.off, d.files
	for _, s := range segs {
		if s.kind == ptLoad && d.vaddr >= s.vaddr && d.vaddr-s.vaddr < s.files {
			off, limit = s.off+(d.vaddr-s.vaddr), s.files-(d.vaddr-s.vaddr)
		}
	}
	if off > uint64(f.size) {
		return 0, nil
	}
	limit = min(limit, uint64(f.size)-off)
	n := min(limit, maxDynamic)
	b, err := readAt(f.r, int64(off), int64(n))
	if err != nil {
		return 0, err
	}
	var flags Flags
	step := 8
	if f.wide {
		step = 16
	}
	for ; len(b) >= step; b = b[step:] {
		var tag, val uint64
		if f.wide {
			tag, val = f.order.Uint64(b), f.order.Uint64(b[8:])
		} else {
			tag, val = uint64(f.order.Uint32(b)), uint64(f.order.Uint32(b[4:]))
		}
		switch {
		case tag == 0:
			return flags, nil
		case tag == dtTextRel, tag == dtFlags && val&dfTextRel != 0:
			flags |= TextRel
		case tag == dtFlags1 && val&df1PIE != 0:
			f.pie = true
		case tag == dtSoname:
			f.soname = true
		}
	}
	if limit > n {
		flags |= TextRel // no end within the bound: cannot be ruled out
	}
	return flags, nil
}
