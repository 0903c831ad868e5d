package executables_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"zos.internal/block"
	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
)

// elf makes small ELF files: what a linker writes and what an attacker writes.
type elf struct {
	class, order byte // 1 or 2
	etype        uint16
	phsize       uint16 // 0: the right one
	segs         []seg
}

type seg struct {
	kind, flags uint32
	body        []byte
	vaddr       uint64
	off         uint64 // 0: where body was put
}

func (e elf) bytes() []byte {
	var o binary.AppendByteOrder = binary.LittleEndian
	if e.order == 2 {
		o = binary.BigEndian
	}
	hdr, ph := 64, 56
	if e.class == 1 {
		hdr, ph = 52, 32
	}
	b := append([]byte("\x7fELF"), e.class, max(e.order, 1), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = o.AppendUint16(b, e.etype)
	b = o.AppendUint16(b, 62)
	b = o.AppendUint32(b, 1)
	word := func(b []byte, v uint64) []byte {
		if e.class == 1 {
			return o.AppendUint32(b, uint32(v))
		}
		return o.AppendUint64(b, v)
	}
	b = word(b, 0x1000)
	b = word(b, uint64(hdr))
	b = word(b, 0)
	b = o.AppendUint32(b, 0)
	b = o.AppendUint16(b, uint16(hdr))
	size := uint16(ph)
	if e.phsize != 0 {
		size = e.phsize
	}
	b = o.AppendUint16(b, size)
	b = o.AppendUint16(b, uint16(len(e.segs)))
	b = append(b, make([]byte, hdr-len(b))...)
	off := uint64(hdr + ph*len(e.segs))
	var body []byte
	for _, s := range e.segs {
		at := off + uint64(len(body))
		if s.off != 0 {
			at = s.off
		}
		b = o.AppendUint32(b, s.kind)
		if e.class == 2 {
			b = o.AppendUint32(b, s.flags)
		}
		b = word(b, at)
		b = word(b, s.vaddr)
		b = word(b, s.vaddr)
		b = word(b, uint64(len(s.body)))
		b = word(b, uint64(len(s.body)))
		if e.class == 1 {
			b = o.AppendUint32(b, s.flags)
		}
		b = word(b, 0)
		body = append(body, s.body...)
	}
	return append(b, body...)
}

func dyn64(pairs ...uint64) []byte {
	var b []byte
	for _, p := range pairs {
		b = binary.LittleEndian.AppendUint64(b, p)
	}
	return append(b, make([]byte, 16)...)
}

const (
	ptLoad, ptDynamic, ptInterp, ptStack = 1, 2, 3, 0x6474e551
	dtSoname, dtTextRel, dtFlags1        = 14, 22, 0x6ffffffb
)

func TestInspect(t *testing.T) {
	stack := seg{kind: ptStack, flags: 6}
	interp := seg{kind: ptInterp, body: []byte("/lib/ld.so\x00")}
	pie := seg{kind: ptDynamic, body: dyn64(dtFlags1, 0x08000000), vaddr: 1 << 20}
	so := seg{kind: ptDynamic, body: dyn64(dtSoname, 1), vaddr: 1 << 20}
	// A section header that a loader does not believe: the file offset shows
	// innocent bytes, the address (what is mapped) shows the text relocation.
	hidden := dyn64(dtTextRel, 0, dtFlags1, 0x08000000)
	lying := []seg{
		{kind: ptLoad, flags: 5, body: hidden, vaddr: 0x4000},
		{kind: ptDynamic, body: dyn64(dtSoname, 1), vaddr: 0x4000},
		stack, interp,
	}
	x := func(k executables.Kind, i string, f executables.Flags) *executables.Info {
		return &executables.Info{Kind: k, Interpreter: i, Flags: f}
	}
	tests := []struct {
		name string
		file []byte
		want *executables.Info // nil: nothing that runs
	}{
		{"empty", nil, nil},
		{"text", []byte("hello\n"), nil},
		{"magic only", []byte("\x7fELF"), nil},
		{"script", []byte("#!/bin/sh\necho\n"), x(executables.Script, "/bin/sh", 0)},
		{"script with argument and blanks", []byte("#! \t/usr/bin/env  -S python3\n"), x(executables.Script, "/usr/bin/env", 0)},
		{"script without end of line", []byte("#!/bin/sh"), x(executables.Script, "/bin/sh", 0)},
		{"script without interpreter", []byte("#!\n"), x(executables.Script, "", 0)},
		{"static", elf{class: 2, etype: 2, segs: []seg{stack}}.bytes(), x(executables.Static, "", 0)},
		{"static without stack header", elf{class: 2, etype: 2, segs: []seg{{kind: ptLoad, flags: 5}}}.bytes(), x(executables.Static, "", 0)},
		{"static pie", elf{class: 2, etype: 3, segs: []seg{stack, pie}}.bytes(), x(executables.Static, "", 0)},
		{"dynamic", elf{class: 2, etype: 3, segs: []seg{stack, interp, pie}}.bytes(), x(executables.Dynamic, "/lib/ld.so", 0)},
		{"library", elf{class: 2, etype: 3, segs: []seg{stack, so}}.bytes(), x(executables.SharedObject, "", 0)},
		{"library that runs", elf{class: 2, etype: 3, segs: []seg{stack, interp, so}}.bytes(), x(executables.SharedObject, "/lib/ld.so", 0)},
		{"library without stack header", elf{class: 2, etype: 3, segs: []seg{so}}.bytes(), x(executables.SharedObject, "", executables.ExecStack)},
		{"executable stack", elf{class: 2, etype: 2, segs: []seg{{kind: ptStack, flags: 7}}}.bytes(), x(executables.Static, "", executables.ExecStack)},
		{"second stack header", elf{class: 2, etype: 2, segs: []seg{stack, {kind: ptStack, flags: 7}}}.bytes(), x(executables.Static, "", executables.ExecStack)},
		{"rwx", elf{class: 2, etype: 2, segs: []seg{stack, {kind: ptLoad, flags: 7}}}.bytes(), x(executables.Static, "", executables.RWX)},
		{"text relocation", elf{class: 2, etype: 3, segs: []seg{stack, {kind: ptDynamic, body: dyn64(dtTextRel, 0)}}}.bytes(), x(executables.SharedObject, "", executables.TextRel)},
		{"text relocation behind the offset", elf{class: 2, etype: 3, segs: lying}.bytes(), x(executables.Dynamic, "/lib/ld.so", executables.TextRel)},
		{"endless dynamic section", elf{class: 2, etype: 3, segs: []seg{stack, {kind: ptDynamic, body: bytes.Repeat([]byte{1}, 2<<20)}}}.bytes(), x(executables.SharedObject, "", executables.TextRel)},
		{"32-bit", elf{class: 1, etype: 2, segs: []seg{stack}}.bytes(), x(executables.Static, "", executables.Bits32)},
		{"32-bit without stack header", elf{class: 1, etype: 2, segs: []seg{{kind: ptLoad, flags: 5}}}.bytes(), x(executables.Static, "", executables.Bits32|executables.ExecStack)},
		{"big-endian", elf{class: 2, order: 2, etype: 2, segs: []seg{stack, {kind: ptLoad, flags: 7}}}.bytes(), x(executables.Static, "", executables.RWX)},
		{"object file", elf{class: 2, etype: 1, segs: []seg{stack}}.bytes(), nil},
		{"core file", elf{class: 2, etype: 4, segs: []seg{stack}}.bytes(), nil},
		{"wrong header size", elf{class: 2, etype: 2, phsize: 57, segs: []seg{stack}}.bytes(), nil},
		{"no program headers", elf{class: 2, etype: 2}.bytes(), nil},
		{"cut program headers", elf{class: 2, etype: 2, segs: []seg{stack}}.bytes()[:100], nil},
		{"interpreter outside of the file", elf{class: 2, etype: 2, segs: []seg{stack, {kind: ptInterp, body: []byte("/l\x00"), off: 1 << 60}}}.bytes(), x(executables.Static, "", 0)},
		{"interpreter without end", elf{class: 2, etype: 2, segs: []seg{stack, {kind: ptInterp, body: []byte("/lib/ld.so")}}}.bytes(), x(executables.Static, "", 0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := executables.Inspect(bytes.NewReader(tt.file), int64(len(tt.file)))
			if err != nil {
				t.Fatal(err)
			}
			if ok != (tt.want != nil) {
				t.Fatalf("Inspect: ok = %v, want %v (%+v)", ok, tt.want != nil, got)
			}
			if ok {
				if diff := cmp.Diff(*tt.want, got); diff != "" {
					t.Errorf("Inspect (-want +got):\n%s", diff)
				}
			}
		})
	}
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, errors.New("disk broke") }

func TestInspectReadError(t *testing.T) {
	if _, _, err := executables.Inspect(brokenReader{}, 100); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Inspect of a broken reader: %v, want unavailable", err)
	}
}

// The files of this machine are what linkers really write.
func TestInspectSelf(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := executables.File("test", f, st.Size())
	if err != nil || !ok {
		t.Fatalf("File(own binary) = %v, %v", ok, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if e.Hash != block.Sum(whole) || e.Flags != 0 || e.Kind != executables.Static && e.Kind != executables.Dynamic {
		t.Errorf("File(own binary) = %+v", e)
	}
}

func entries() *rapid.Generator[[]executables.Entry] {
	return rapid.Custom(func(t *rapid.T) []executables.Entry {
		paths := rapid.SliceOfDistinct(rapid.StringMatching(`[a-z\x80-\xff]{1,8}(/[A-Za-z0-9._+-]{3,12}){0,3}`), func(s string) string { return s }).Draw(t, "paths")
		es := make([]executables.Entry, len(paths))
		for i, p := range paths {
			e := executables.Entry{Path: p, Kind: executables.Kind(rapid.IntRange(0, 3).Draw(t, "kind"))}
			copy(e.Hash[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"))
			if e.Kind != executables.Static {
				e.Interpreter = rapid.StringMatching(`(/[a-z]{1,9}){0,3}`).Draw(t, "interp")
			}
			if e.Kind != executables.Script {
				e.Flags = executables.Flags(rapid.IntRange(0, 15).Draw(t, "flags"))
			}
			es[i] = e
		}
		return es
	})
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := entries().Draw(t, "entries")
		b, err := executables.Encode(es)
		if err != nil {
			t.Fatal(err)
		}
		got, err := executables.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		less := func(a, b executables.Entry) bool { return a.Path < b.Path }
		if diff := cmp.Diff(es, got, cmpopts.SortSlices(less), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("round trip (-in +out):\n%s", diff)
		}
		if got == nil {
			t.Fatal("Parse of an empty record is nil; Admit would take it for no record")
		}
	})
}

// The bytes are a released format: this vector may not change.
func TestRecordVector(t *testing.T) {
	b, err := executables.Encode([]executables.Entry{
		{Path: "b", Kind: executables.Script, Interpreter: "/bin/sh"},
		{Path: "a", Kind: executables.Static, Hash: block.Name{1}, Flags: executables.Bits32 | executables.TextRel},
	})
	if err != nil {
		t.Fatal(err)
	}
	z := strings.Repeat("\x00", 31)
	want := "\x82" + "\x85\x41a\x00\x58\x20\x01" + z + "\x40\x09" + "\x85\x41b\x03\x58\x20\x00" + z + "\x47/bin/sh\x00"
	if string(b) != want {
		t.Errorf("Encode = %x, want %x", b, want)
	}
}

func TestParseRefuses(t *testing.T) {
	h := "\x58\x20" + strings.Repeat("\x00", 32)
	for name, in := range map[string]string{
		"empty":             "",
		"text path":         "\x81\x85\x61a\x00" + h + "\x40\x00",
		"absolute path":     "\x81\x85\x42/a\x00" + h + "\x40\x00",
		"dot-dot":           "\x81\x85\x44../a\x00" + h + "\x40\x00",
		"unsorted":          "\x82\x85\x41b\x00" + h + "\x40\x00\x85\x41a\x00" + h + "\x40\x00",
		"twice":             "\x82\x85\x41a\x00" + h + "\x40\x00\x85\x41a\x00" + h + "\x40\x00",
		"unknown kind":      "\x81\x85\x41a\x04" + h + "\x40\x00",
		"unknown flag":      "\x81\x85\x41a\x00" + h + "\x40\x10",
		"long number":       "\x81\x85\x41a\x18\x00" + h + "\x40\x00",
		"indefinite array":  "\x9f\x85\x41a\x00" + h + "\x40\x00\xff",
		"short hash":        "\x81\x85\x41a\x00\x41\x00\x40\x00",
		"trailing":          "\x80\x00",
		"huge array":        "\x9a\xff\xff\xff\xff",
		"static with ld.so": "\x81\x85\x41a\x00" + h + "\x42/l\x00",
		"script flags":      "\x81\x85\x41a\x03" + h + "\x40\x01",
		"null":              "\xf6",
	} {
		if got, err := executables.Parse([]byte(in)); !errors.Is(err, fault.Invalid) {
			t.Errorf("Parse(%s) = %v, %v; want invalid", name, got, err)
		}
	}
}

func TestAdmit(t *testing.T) {
	none := []executables.Entry{}
	one := func(e executables.Entry) []executables.Entry { return []executables.Entry{e} }
	tests := []struct {
		name          string
		entries       []executables.Entry
		files, strict string // what the refusal names; "" admits
	}{
		{"no record", nil, "", "no executables record"},
		{"no executables", none, "", ""},
		{"plain program", one(executables.Entry{Path: "bin/app", Kind: executables.Dynamic, Interpreter: "/lib/ld.so"}), "", ""},
		{"32-bit", one(executables.Entry{Path: "bin/old", Flags: executables.Bits32}), "/bin/old is a 32-bit", "/bin/old is a 32-bit"},
		{"shell", one(executables.Entry{Path: "usr/bin/dash", Kind: executables.Dynamic}), "", "/usr/bin/dash is an interpreter"},
		{"versioned", one(executables.Entry{Path: "usr/bin/python3.11"}), "", "python3.11 is an interpreter"},
		{"name of a library", one(executables.Entry{Path: "usr/lib/python3.so", Kind: executables.SharedObject}), "", ""},
		{"exec stack", one(executables.Entry{Path: "a", Flags: executables.ExecStack}), "", "/a has: executable stack"},
		{"rwx", one(executables.Entry{Path: "a", Flags: executables.RWX}), "", "writable and executable"},
		{"textrel", one(executables.Entry{Path: "a", Flags: executables.TextRel}), "", "text relocation"},
		{"script alone", one(executables.Entry{Path: "a", Kind: executables.Script, Interpreter: "/bin/x"}), "", ""},
		{"script with its interpreter", []executables.Entry{{Path: "a", Kind: executables.Script, Interpreter: "/bin/x"}, {Path: "bin/x"}}, "", "/a is a script for /bin/x"},
	}
	for _, tt := range tests {
		for level, want := range map[executables.Level]string{executables.Off: "", executables.Files: tt.files, "": tt.files, executables.Strict: tt.strict} {
			err := executables.Admit(level, tt.entries)
			switch {
			case want == "" && err != nil:
				t.Errorf("%s: Admit(%q) = %v, want it admitted", tt.name, level, err)
			case want != "" && (!errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), want)):
				t.Errorf("%s: Admit(%q) = %v, want denied with %q", tt.name, level, err, want)
			}
		}
	}
	if err := executables.Admit("loose", none); !errors.Is(err, fault.Invalid) {
		t.Errorf("Admit(unknown level) = %v, want invalid", err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte("#!/bin/sh\n"))
	f.Add(elf{class: 2, etype: 3, segs: []seg{{kind: ptInterp, body: []byte("/l\x00")}, {kind: ptDynamic, body: dyn64(dtTextRel, 0)}}}.bytes())
	f.Add(elf{class: 1, etype: 2, segs: []seg{{kind: ptStack, flags: 7}}}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok, err := executables.File("x", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
		// What Inspect says must be something that the record can hold.
		if _, err := executables.Encode([]executables.Entry{e}); err != nil {
			t.Errorf("%+v does not fit the record: %v", e, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	b, err := executables.Encode([]executables.Entry{{Path: "a/b", Kind: executables.Dynamic, Interpreter: "/l"}, {Path: "c"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := executables.Parse(b)
		if err != nil {
			return
		}
		again, err := executables.Encode(es)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("Encode(Parse(%x)) = %x, %v", b, again, err)
		}
	})
}
