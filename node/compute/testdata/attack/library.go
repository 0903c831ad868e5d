package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
)

// mark writes payload-ran to standard output and returns 1: what the dropped
// library runs when it is loaded, and what its symbols are.
var mark = append([]byte{
	0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
	0xbf, 1, 0, 0, 0, // mov edi, 1
	0x48, 0x8d, 0x35, 13, 0, 0, 0, // lea rsi, [rip+13]
	0xba, 12, 0, 0, 0, // mov edx, 12
	0x0f, 0x05, // syscall
	0xb8, 1, 0, 0, 0, // mov eax, 1
	0xc3, // ret
}, "payload-ran\n"...)

// dropLibrary writes a shared library that runs mark when it is loaded. It is
// an auditor (la_version) and a character set (gconv).
func dropLibrary(path string) error {
	const page = 0x1000
	le := binary.LittleEndian
	u32 := func(b []byte, v ...uint32) []byte {
		for _, x := range v {
			b = le.AppendUint32(b, x)
		}
		return b
	}
	u64 := func(b []byte, v ...uint64) []byte {
		for _, x := range v {
			b = le.AppendUint64(b, x)
		}
		return b
	}
	names := []byte("\x00la_version\x00gconv\x00")
	const codeAt, symAt, strAt, hashAt = 0x400, 0x500, 0x600, 0x700
	symbol := func(name uint32) []byte { // global function in section 1
		return u64(append(u32(nil, name), 0x12, 0, 1, 0), codeAt, uint64(len(mark)))
	}
	symbols := append(append(make([]byte, 24), symbol(1)...), symbol(uint32(bytes.Index(names, []byte("gconv"))))...)
	hash := u32(nil, 1, 3, 1, 0, 2, 0) // one bucket with both symbols
	var dyn []byte
	for _, d := range [][2]uint64{
		{4, hashAt}, {5, strAt}, {6, symAt}, {10, uint64(len(names))}, {11, 24}, {12, codeAt}, {0, 0},
	} {
		dyn = u64(dyn, d[0], d[1])
	}

	head := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00\x01\x00\x00\x00")
	head = u64(head, 0, 64, 0)                                         // entry, program headers, no sections
	head = append(u32(head, 0), 64, 0, 56, 0, 4, 0, 64, 0, 0, 0, 0, 0) // sizes, four headers
	segment := func(kind, flags uint32, at, size, align uint64) {
		head = u64(u32(head, kind, flags), at, at, at, size, size, align)
	}
	segment(1, 5, 0, page, page)                // LOAD, read and execute
	segment(1, 6, page, uint64(len(dyn)), page) // LOAD, read and write
	segment(2, 6, page, uint64(len(dyn)), 8)    // DYNAMIC
	segment(0x6474e551, 6, 0, 0, 16)            // GNU_STACK
	b := make([]byte, page)
	for at, part := range map[int][]byte{0: head, codeAt: mark, symAt: symbols, strAt: names, hashAt: hash} {
		copy(b[at:], part)
	}
	return os.WriteFile(path, append(b, dyn...), 0o755)
}

// loads reports whether the mark of a library came out of a program.
func loads(env, path string, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.Env = []string{env}
	out, _ := cmd.Output()
	if bytes.Contains(out, []byte("payload-ran")) {
		return ran
	}
	return strange("not loaded")
}

// audit has the dynamic loader load an auditor.
func audit() error {
	if err := dropLibrary("/data/libaudit.so"); err != nil {
		return err
	}
	return loads("LD_AUDIT=/data/libaudit.so", "/bin/true")
}

// gconv has the C library of a program of the image load a character set.
func gconv() error {
	if err := os.MkdirAll("/data/gconv", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/data/gconv/gconv-modules", []byte("module DROPPED// INTERNAL dropped 1\nmodule INTERNAL DROPPED// dropped 1\n"), 0o644); err != nil {
		return err
	}
	if err := dropLibrary("/data/gconv/dropped.so"); err != nil {
		return err
	}
	if err := os.WriteFile("/data/text", []byte("text\n"), 0o644); err != nil {
		return err
	}
	return loads("GCONV_PATH="+filepath.Dir("/data/gconv/dropped.so"), "/bin/iconv", "-f", "DROPPED", "-t", "UTF-8", "/data/text")
}
