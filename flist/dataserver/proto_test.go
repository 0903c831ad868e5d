package dataserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// request makes the bytes of one request.
func request(op uint32, unique, node uint64, body []byte) []byte {
	b := make([]byte, inHeaderLen, inHeaderLen+len(body))
	binary.LittleEndian.PutUint32(b[0:], uint32(inHeaderLen+len(body)))
	binary.LittleEndian.PutUint32(b[4:], op)
	binary.LittleEndian.PutUint64(b[8:], unique)
	binary.LittleEndian.PutUint64(b[16:], node)
	return append(b, body...)
}

func words(ws ...uint32) []byte {
	var b []byte
	for _, w := range ws {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

func readBody(off uint64, size uint32) []byte {
	b := make([]byte, 40)
	binary.LittleEndian.PutUint64(b[8:], off)
	binary.LittleEndian.PutUint32(b[16:], size)
	return b
}

// memory is a Reader of bytes in memory.
type memory []byte

func (m memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if n := copy(p, m[off:]); n < len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// harness is a server whose kernel is the other end of a socket, where each
// message is one packet as on /dev/fuse.
type harness struct {
	*server
	kernel int
}

func newHarness(t testing.TB, open Opener, slots ...Slot) *harness {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Answers of a megabyte must fit.
	unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<20)
	table := new(Table)
	for _, s := range slots {
		if err := table.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	s, err := newServer(pair[0], table, open, Options{})
	unix.Close(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(s.fd)
		unix.Close(s.stop)
		unix.Close(pair[1])
	})
	return &harness{s, pair[1]}
}

// ask handles one request and returns its answer, nil if there is none.
func (h *harness) ask(t testing.TB, msg []byte) (errno unix.Errno, body []byte) {
	t.Helper()
	h.handle(t.Context(), msg)
	buf := make([]byte, 2<<20)
	n, _, err := unix.Recvfrom(h.kernel, buf, unix.MSG_DONTWAIT)
	if err != nil {
		return ^unix.Errno(0), nil
	}
	if n < outHeaderLen || int(binary.LittleEndian.Uint32(buf)) != n {
		t.Fatalf("an answer of %d bytes says it has %d", n, binary.LittleEndian.Uint32(buf))
	}
	if got, want := binary.LittleEndian.Uint64(buf[8:]), binary.LittleEndian.Uint64(msg[8:]); got != want {
		t.Fatalf("answer to request %x, want %x", got, want)
	}
	return unix.Errno(-int32(binary.LittleEndian.Uint32(buf[4:]))), buf[outHeaderLen:n]
}

func TestRequests(t *testing.T) {
	data := memory(bytes.Repeat([]byte("0123456789abcdef"), 1000))
	slot := Slot{Num: 7, Name: "image", Size: int64(len(data))}
	bad := Slot{Num: 8, Name: "bad", Size: 4096}
	h := newHarness(t, func(s Slot) (Reader, error) {
		if s.Num == 8 {
			return nil, errors.New("no source")
		}
		return data, nil
	}, slot, bad)
	for name, tt := range map[string]struct {
		msg   []byte
		errno unix.Errno
		n     int // bytes of the body
	}{
		"init":             {request(opInit, 1, 0, append(words(7, 45, 1<<20, 1<<30, 1<<7), make([]byte, 44)...)), 0, 64},
		"init too old":     {request(opInit, 1, 0, words(7, 20, 0, 0)), unix.EPROTO, 0},
		"init short":       {request(opInit, 1, 0, words(7)), unix.EPROTO, 0},
		"lookup":           {request(opLookup, 2, 1, []byte("image\x00")), 0, 128},
		"lookup unknown":   {request(opLookup, 2, 1, []byte("other\x00")), unix.ENOENT, 0},
		"lookup in a file": {request(opLookup, 2, 7, []byte("image\x00")), unix.ENOENT, 0},
		"lookup open end":  {request(opLookup, 2, 1, []byte("image")), unix.EINVAL, 0},
		"getattr root":     {request(opGetattr, 3, 1, make([]byte, 16)), 0, 104},
		"getattr":          {request(opGetattr, 3, 7, make([]byte, 16)), 0, 104},
		"getattr unknown":  {request(opGetattr, 3, 99, make([]byte, 16)), unix.ENOENT, 0},
		"open":             {request(opOpen, 4, 7, words(0, 0)), 0, 16},
		"open for writing": {request(opOpen, 4, 7, words(unix.O_RDWR, 0)), unix.EROFS, 0},
		"open unknown":     {request(opOpen, 4, 99, words(0, 0)), unix.ENOENT, 0},
		"open short":       {request(opOpen, 4, 7, nil), unix.EINVAL, 0},
		"read":             {request(opRead, 5, 7, readBody(16, 4096)), 0, 4096},
		"read at the end":  {request(opRead, 5, 7, readBody(15990, 4096)), 0, 10},
		"read behind it":   {request(opRead, 5, 7, readBody(1<<40, 4096)), 0, 0},
		"read at -1":       {request(opRead, 5, 7, readBody(1<<64-1, 4096)), 0, 0},
		"read everything":  {request(opRead, 5, 7, readBody(0, 1<<32-1)), 0, 16000},
		"read nothing":     {request(opRead, 5, 7, readBody(0, 0)), 0, 0},
		"read unknown":     {request(opRead, 5, 99, readBody(0, 1)), unix.EIO, 0},
		"read unopenable":  {request(opRead, 5, 8, readBody(0, 1)), unix.EIO, 0},
		"read short":       {request(opRead, 5, 7, make([]byte, 8)), unix.EIO, 0},
		"release":          {request(opRelease, 6, 7, make([]byte, 24)), 0, 0},
		"statfs":           {request(opStatfs, 7, 1, nil), 0, 80},
		"opendir":          {request(opOpendir, 8, 1, make([]byte, 8)), 0, 16},
		"opendir a file":   {request(opOpendir, 8, 7, make([]byte, 8)), unix.ENOTDIR, 0},
		"readdir":          {request(opReaddir, 9, 1, readBody(0, 4096)), 0, 64},
		"readdir rest":     {request(opReaddir, 9, 1, readBody(1, 4096)), 0, 32},
		"readdir end":      {request(opReaddir, 9, 1, readBody(2, 4096)), 0, 0},
		"releasedir":       {request(opReleasedir, 9, 1, make([]byte, 24)), 0, 0},
		"write":            {request(16, 10, 7, make([]byte, 40)), unix.ENOSYS, 0},
		"destroy":          {request(opDestroy, 11, 0, nil), 0, 0},
		"forget":           {request(opForget, 12, 7, make([]byte, 8)), ^unix.Errno(0), 0},
		"interrupt":        {request(opInterrupt, 13, 0, make([]byte, 8)), ^unix.Errno(0), 0},
		"resent read":      {request(opRead, 5|uniqueResend, 7, readBody(0, 16)), 0, 16},
	} {
		t.Run(name, func(t *testing.T) {
			errno, body := h.ask(t, tt.msg)
			if errno != tt.errno || len(body) != tt.n {
				t.Fatalf("answer = errno %d and %d bytes, want %d and %d", errno, len(body), tt.errno, tt.n)
			}
			if name == "read" && !bytes.Equal(body, data[16:16+4096]) {
				t.Error("other bytes")
			}
		})
	}
	if st := h.stats(); st.Resent != 1 || st.Errors != 1 || st.Inflight != 0 {
		t.Errorf("stats = %+v, want 1 resent, 1 error, none under way", st)
	}
}

// TestHandles: a request that is sent again counts its handle once.
func TestHandles(t *testing.T) {
	h := newHarness(t, nil, Slot{Num: 7, Name: "image", Size: 1})
	open := map[uint64]bool{}
	h.opened = func(_, handle uint64) { open[handle] = true }
	h.closed = func(_, handle uint64) { delete(open, handle) }
	for _, unique := range []uint64{100, 100 | uniqueResend, 102} {
		h.ask(t, request(opOpen, unique, 7, words(0, 0)))
	}
	if len(open) != 2 {
		t.Errorf("handles = %v, want two", open)
	}
	_, body := h.ask(t, request(opOpen, 100, 7, words(0, 0)))
	h.ask(t, request(opRelease, 200, 7, append(body[:8:8], make([]byte, 16)...)))
	if len(open) != 1 || !open[102] {
		t.Errorf("handles = %v, want 102", open)
	}
}

func TestInitParams(t *testing.T) {
	p, err := parseInit(words(7, 45, 0, 1<<30, 1<<7, 0))
	if err != nil || p != (Params{Minor: 40, Resend: true}) {
		t.Errorf("parseInit = %+v, %v", p, err)
	}
	p, err = parseInit(words(7, 31, 0, 0, 1<<7))
	if err != nil || p != (Params{Minor: 31}) {
		t.Errorf("parseInit without extended flags = %+v, %v", p, err)
	}
	if _, err := parseInit(words(8, 1, 0, 0)); fault.Of(err) != fault.Unsupported {
		t.Errorf("parseInit of version 8 = %v, want unsupported", err)
	}
}

// FuzzRequest: whatever comes on the descriptor, the server answers at most
// once and doesn't panic. A hostile kernel is no danger; a bug would be.
func FuzzRequest(f *testing.F) {
	f.Add(request(opInit, 1, 0, append(words(7, 45, 1<<20, 1<<30, 1<<7), make([]byte, 44)...)))
	f.Add(request(opLookup, 2, 1, []byte("image\x00")))
	f.Add(request(opRead, 3, 7, readBody(100, 65536)))
	f.Add(request(opReaddir, 4, 1, readBody(0, 4096)))
	f.Add(request(opBatchForget, 5, 0, words(1<<31, 0)))
	data := make(memory, 1<<16)
	f.Fuzz(func(t *testing.T, msg []byte) {
		h := newHarness(t, func(Slot) (Reader, error) { return data, nil }, Slot{Num: 7, Name: "image", Size: 1 << 16})
		hd, body, err := parseRequest(msg)
		if err != nil {
			if fault.Of(err) != fault.Invalid {
				t.Fatalf("parseRequest = %v, want invalid", err)
			}
			h.handle(t.Context(), msg)
			return
		}
		if len(body) != len(msg)-inHeaderLen {
			t.Fatalf("a body of %d bytes in a message of %d", len(body), len(msg))
		}
		h.ask(t, msg)
		if n, _, err := unix.Recvfrom(h.kernel, make([]byte, 16), unix.MSG_DONTWAIT); err == nil {
			t.Fatalf("a second answer of %d bytes to request %d", n, hd.Opcode)
		}
	})
}

// FuzzMessage: a line is refused, or it means the same after being written.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{
		`{"op":"ping"}`, `{"op":"add","slot":{"num":0,"name":"a","size":4096,"spec":{"x":[1,2]}}}`,
		`{"op":"remove","name":"a"}`, `{"op":"upgrade","cmd":["/bin/true"]}`, `{"op":"hello","params":{"minor":40,"resend":true}}`,
		`{"op":"add","slot":{"name":"../x"}}`, `{"op":"ping"}{}`, `{"op":"ping","other":1}`, `[]`, `{"op":"event","event":{"kind":"read","slot":2}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseMessage(line)
		if err != nil {
			if fault.Of(err) != fault.Invalid {
				t.Fatalf("parseMessage(%q) = %v, want invalid", line, err)
			}
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := parseMessage(again)
		if err != nil {
			t.Fatalf("parseMessage(%q), written from %q = %v", again, line, err)
		}
		if third, err := json.Marshal(m2); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%q changes to %q when it is read and written (%v)", again, third, err)
		}
		if m.Slot != nil && (m.Slot.Name == "" || strings.ContainsAny(m.Slot.Name, "/\x00\n")) {
			t.Fatalf("the slot name %q was taken", m.Slot.Name)
		}
		if m.Op == "" {
			t.Fatalf("parseMessage(%q) has no op", line)
		}
	})
}

func TestSlotNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", ".x", "a/b", "a b", "a\x00", "ä", strings.Repeat("a", 129)} {
		if err := new(Table).Add(Slot{Num: 2, Name: name}); fault.Of(err) != fault.Invalid {
			t.Errorf("Add(%q) = %v, want invalid", name, err)
		}
	}
	tb := new(Table)
	ok := Slot{Num: 2, Name: hex.EncodeToString(make([]byte, 32)), Size: 1 << 40}
	if err := tb.Add(ok); err != nil {
		t.Error(err)
	}
	for what, s := range map[string]Slot{
		"root's number": {Num: 1, Name: "a"}, "negative size": {Num: 3, Name: "a", Size: -1}, "too large": {Num: 3, Name: "a", Size: 1<<44 + 1},
	} {
		if err := tb.Add(s); fault.Of(err) != fault.Invalid {
			t.Errorf("Add with %s = %v, want invalid", what, err)
		}
	}
	for what, s := range map[string]Slot{"used number": {Num: 2, Name: "a"}, "used name": {Num: 3, Name: ok.Name}} {
		if err := tb.Add(s); fault.Of(err) != fault.Conflict {
			t.Errorf("Add with a %s = %v, want conflict", what, err)
		}
	}
	if !tb.Remove(2) || tb.Remove(2) || len(tb.Slots()) != 0 {
		t.Error("Remove does not remove once")
	}
	if _, ok := tb.Lookup(ok.Name); ok {
		t.Error("a removed name is found")
	}
}
