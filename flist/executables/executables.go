// Package executables records which files of an image can become a process or
// a mapped library, and decides which records a seal level admits.
//
// The record is made by whoever sees the bytes of an image (the builder),
// lies under the signature of the image's root and is read again on the node:
// by admission before a start and by the guard at every exec. It is derived
// from content only, so equal trees have equal records.
//
// Inspect looks at the first bytes and headers of a file, reads a bounded part
// of it, and answers what the Linux kernel or a dynamic loader would make of
// it. It is safe on hostile files: a header it cannot vouch for is flagged,
// never believed. The package neither runs nor maps anything, and it says
// nothing about what an interpreter does with a file that is data.
//
//	e, ok, err := executables.File("bin/true", f, size)
//	record, err := executables.Encode([]executables.Entry{e})
//	err = executables.Admit(executables.Files, entries)
package executables

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/block"
	"zos.internal/flist/tree"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Kind says how a file becomes code.
type Kind uint8

// The kinds, with their numbers in the record.
const (
	Static       Kind = iota // runs by itself
	Dynamic                  // runs with the interpreter (dynamic loader) it names
	SharedObject             // is mapped by a process that runs; may name an interpreter
	Script                   // starts with #! and names an interpreter
	kinds
)

// String is the name of the kind.
func (k Kind) String() string {
	switch k {
	case Static:
		return "static"
	case Dynamic:
		return "dynamic"
	case SharedObject:
		return "shared object"
	case Script:
		return "script"
	}
	return "unknown"
}

// Flags are properties that a seal level may refuse.
type Flags uint8

// The flags, with their bits in the record.
const (
	Bits32    Flags = 1 << iota // 32-bit ELF: i386, or x32
	ExecStack                   // asks for an executable stack, or gets one for want of a header
	RWX                         // a segment that is writable and executable
	TextRel                     // relocations in read-only segments
	allFlags  = Bits32 | ExecStack | RWX | TextRel
)

// String lists the flags, comma-separated; "" if none is set.
func (f Flags) String() string {
	var b []byte
	for i, name := range []string{"32-bit", "executable stack", "writable and executable segment", "text relocation"} {
		if f&(1<<i) != 0 {
			if len(b) > 0 {
				b = append(b, ", "...)
			}
			b = append(b, name...)
		}
	}
	return string(b)
}

// Limits of a record, checked by Encode and Parse.
const (
	MaxEntries = 1 << 20
	MaxRecord  = 256 << 20 // bytes
	maxPath    = 4096
)

// Entry is one line of the record.
type Entry struct {
	Path        string // relative to the root of the image, slash-separated; any bytes but zero
	Kind        Kind
	Hash        block.Name // BLAKE3 of the whole file
	Interpreter string     // as written in the file; "" if it names none
	Flags       Flags
}

// wire is an Entry as it is encoded: paths of a file system are bytes, not
// text, so they travel as byte strings.
type wire struct {
	_           struct{} `cbor:",toarray"`
	Path        []byte
	Kind        uint8
	Hash        []byte
	Interpreter []byte
	Flags       uint8
}

// Encode makes the record of entries: core deterministic CBOR, an array sorted
// by path of [path bytes, kind, hash bytes, interpreter bytes, flags]. The
// order of entries does not matter; two entries of one path are Invalid.
func Encode(entries []Entry) ([]byte, error) {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	if err := check(sorted); err != nil {
		return nil, err
	}
	out := make([]wire, len(sorted))
	for i, e := range sorted {
		out[i] = wire{Path: []byte(e.Path), Kind: uint8(e.Kind), Hash: e.Hash[:], Interpreter: []byte(e.Interpreter), Flags: uint8(e.Flags)}
	}
	b, err := canon.Marshal(out)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "encode the executables record: %w", err)
	}
	if len(b) > MaxRecord {
		return nil, fault.Errorf(fault.Exhausted, "the executables record has %d bytes, %d are allowed; split the image", len(b), MaxRecord)
	}
	return b, nil
}

// Parse reads a record. Bytes that Encode would not have written are Invalid.
func Parse(b []byte) ([]Entry, error) {
	if len(b) > MaxRecord {
		return nil, fault.Errorf(fault.Exhausted, "the executables record has %d bytes, %d are allowed", len(b), MaxRecord)
	}
	mode, err := cbor.DecOptions{
		MaxArrayElements: MaxEntries,
		MaxNestedLevels:  4,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
	}.DecMode()
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	var in []wire
	if err := mode.Unmarshal(b, &in); err != nil {
		return nil, fault.Errorf(fault.Invalid, "read the executables record: %w; build the image again", err)
	}
	out := make([]Entry, len(in))
	for i, w := range in {
		if len(w.Hash) != len(block.Name{}) {
			return nil, fault.Errorf(fault.Invalid, "read the executables record: the hash of %.80q has %d bytes instead of 32", w.Path, len(w.Hash))
		}
		out[i] = Entry{Path: string(w.Path), Kind: Kind(w.Kind), Hash: block.Name(w.Hash), Interpreter: string(w.Interpreter), Flags: Flags(w.Flags)}
	}
	if err := check(out); err != nil {
		return nil, err
	}
	again, err := Encode(out)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fault.Errorf(fault.Invalid, "read the executables record: it is not in canonical form; build the image again")
	}
	return out, nil
}

// check reports the first entry that the format forbids; entries are sorted.
func check(entries []Entry) error {
	if len(entries) > MaxEntries {
		return fault.Errorf(fault.Exhausted, "the executables record has %d entries, %d are allowed; split the image", len(entries), MaxEntries)
	}
	for i, e := range entries {
		bad := func(why string) error {
			return fault.Errorf(fault.Invalid, "executables record, entry %d (%.80q): %s", i, e.Path, why)
		}
		names, err := tree.Split(e.Path)
		switch {
		case err != nil:
			return bad(err.Error())
		case len(names) == 0 || len(e.Path) > maxPath || canonical(names) != e.Path:
			return bad("the path is not relative and clean")
		case i > 0 && entries[i-1].Path >= e.Path:
			return bad("paths are not sorted, or one occurs twice")
		case e.Kind >= kinds:
			return bad("unknown kind")
		case e.Flags&^allFlags != 0:
			return bad("unknown flag")
		case len(e.Interpreter) > maxPath || bytes.IndexByte([]byte(e.Interpreter), 0) >= 0:
			return bad("bad interpreter path")
		case e.Kind == Static && e.Interpreter != "":
			return bad("a static program has an interpreter")
		case e.Kind == Script && e.Flags != 0:
			return bad("a script has ELF flags")
		}
	}
	return nil
}

func canonical(names []string) string {
	var b []byte
	for i, n := range names {
		if i > 0 {
			b = append(b, '/')
		}
		b = append(b, n...)
	}
	return string(b)
}
