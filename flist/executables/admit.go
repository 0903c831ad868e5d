package executables

import (
	_ "embed"
	"path"
	"strings"

	"zos.internal/internal/fault"
)

// Level says how tightly a workload is sealed (docs/reference/seal.md).
type Level string

// The levels. The zero value means Files.
const (
	Off    Level = "off"
	Files  Level = "files"
	Strict Level = "strict"
)

// ParseLevel reads the text form; "" is Files.
func ParseLevel(s string) (Level, error) {
	switch l := Level(s); l {
	case "":
		return Files, nil
	case Off, Files, Strict:
		return l, nil
	}
	return "", fault.Errorf(fault.Invalid, "the seal level %.40q is not known; use off, files or strict", s)
}

// interpreters is the list of program names that run code read as data. One
// name a line; a name ending in * matches every name that starts so.
//
//go:embed interpreters.txt
var interpreters string

// Admit reports why an image with this record may not run at the level. A nil
// slice means that the image has no record; an empty one that it was scanned
// and has no executables. Refusals are Denied and name the file.
//
// Off admits everything. Files refuses 32-bit programs. Strict also refuses
// images without a record, with interpreters, with scripts whose interpreter
// is in the image, executable stacks, writable executable segments and text
// relocations.
func Admit(level Level, entries []Entry) error {
	level, err := ParseLevel(string(level))
	if err != nil || level == Off {
		return err
	}
	if entries == nil {
		if level == Strict {
			return fault.Errorf(fault.Denied, "admit the image at strict: it has no executables record; build it again with a builder that sees its files, or run it with sealed: files")
		}
		return nil
	}
	paths := make(map[string]bool, len(entries))
	for _, e := range entries {
		paths[e.Path] = true
	}
	for _, e := range entries {
		if why := refused(level, e, paths); why != "" {
			return fault.Errorf(fault.Denied, "admit the image at %s: %s", level, why)
		}
	}
	return nil
}

func refused(level Level, e Entry, paths map[string]bool) string {
	if e.Flags&Bits32 != 0 {
		return "/" + e.Path + " is a 32-bit program; take it out of the image, or use sealed: off"
	}
	if level != Strict {
		return ""
	}
	const next = "; take it out of the image, or use sealed: files"
	switch {
	case e.Flags != 0:
		return "/" + e.Path + " has: " + e.Flags.String() + next
	case e.Kind == Script && paths[strings.TrimPrefix(path.Clean("/"+e.Interpreter), "/")]:
		return "/" + e.Path + " is a script for " + e.Interpreter + next
	case (e.Kind == Static || e.Kind == Dynamic) && Interpreter(e.Path):
		return "/" + e.Path + " is an interpreter: it runs code that no image describes" + next
	}
	return ""
}

// Interpreter reports whether the file's name is on the list of known
// interpreters. Renamed ones are not found; the publisher's word is needed
// for those.
func Interpreter(file string) bool {
	name := path.Base(file)
	for line := range strings.Lines(interpreters) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if prefix, ok := strings.CutSuffix(line, "*"); ok && strings.HasPrefix(name, prefix) || line == name {
			return true
		}
	}
	return false
}
