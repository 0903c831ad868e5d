package block

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"zos.internal/internal/fault"
)

// makePack packs plains and returns the bytes, the name and the entries.
func makePack(t testing.TB, dom Domain, plains ...[]byte) ([]byte, Name, []PackEntry) {
	t.Helper()
	var b bytes.Buffer
	w := NewPackWriter(&b)
	enc := NewEncoder(Zstd)
	for _, p := range plains {
		e, body := enc.Encode(p)
		n := dom.Name(p)
		stored := dom.Seal(n, e, len(p), body)
		if dom.Private() {
			e |= Sealed
		}
		if err := w.Add(n, e, len(p), stored); err != nil {
			t.Fatal(err)
		}
	}
	if bound := w.Size(); w.Len() > 0 {
		defer func() {
			if int64(b.Len()) > bound {
				t.Errorf("the pack has %d bytes, more than its bound %d", b.Len(), bound)
			}
		}()
	}
	name, size, entries, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(b.Len()) || name != Sum(b.Bytes()) {
		t.Fatalf("Close = %v, %d bytes, want %v, %d", name, size, Sum(b.Bytes()), b.Len())
	}
	return b.Bytes(), name, entries
}

func smallPlains() [][]byte {
	return [][]byte{
		[]byte("first chunk"),
		bytes.Repeat([]byte("second chunk, which compresses. "), 8),
		{0},
		[]byte("the last one"),
	}
}

func TestPackVector(t *testing.T) {
	b, name, entries := makePack(t, Domain{}, []byte("hello"), []byte("zero-os"))
	want := "68656c6c6f" + "7a65726f2d6f73" +
		"82" +
		"855820" + Sum([]byte("hello")).String() + "00" + "05" + "05" + "00" +
		"855820" + Sum([]byte("zero-os")).String() + "05" + "07" + "07" + "00" +
		"0c00000000000000" + "4f000000" + "5a504b31"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("pack =\n%s\nwant\n%s", got, want)
	}
	if want := "64a75f86c026477bea3997d1ba5f17f280541b3e48b102af708b46f56dccbb20"; name.String() != want {
		t.Errorf("name = %v, want %s", name, want)
	}
	wantEntries := []PackEntry{
		{Sum([]byte("hello")), 0, 5, 5, Raw},
		{Sum([]byte("zero-os")), 5, 7, 7, Raw},
	}
	if d := cmp.Diff(wantEntries, entries); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
}

// The directory is core deterministic CBOR, as a general implementation writes
// and reads it.
func TestPackDirAgreesWithCBOR(t *testing.T) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		var entries []PackEntry
		var plain [][]any
		off := 0
		for i := range rapid.IntRange(1, 40).Draw(t, "chunks") {
			p := rapid.IntRange(1, MaxPlain).Draw(t, "plain")
			enc, stored := Raw, p
			if p > 1 && rapid.Bool().Draw(t, "compressed") {
				enc, stored = Zstd, rapid.IntRange(1, p-1).Draw(t, "stored")
			}
			if rapid.Bool().Draw(t, "sealed") {
				enc, stored = enc|Sealed, stored+SealOverhead
			}
			n := Sum([]byte{byte(i)})
			entries = append(entries, PackEntry{n, int64(off), stored, p, enc})
			plain = append(plain, []any{n[:], off, stored, p, enc})
			off += stored
		}
		want, err := mode.Marshal(plain)
		if err != nil {
			t.Fatal(err)
		}
		got := appendPackDir(nil, entries)
		if !bytes.Equal(got, want) {
			t.Fatalf("directory = %x, want %x", got, want)
		}
		back, err := parsePackDir(got, int64(off))
		if d := cmp.Diff(entries, back); err != nil || d != "" {
			t.Fatalf("parsePackDir: %v (-want +got):\n%s", err, d)
		}
	})
}

func TestPackRoundTrip(t *testing.T) {
	for _, dom := range []Domain{{}, vectorDomain()} {
		plains := smallPlains()
		b, _, entries := makePack(t, dom, append(plains, plains[1])...) // one of them twice
		if len(entries) != len(plains) {
			t.Errorf("%v: %d entries, want %d", dom, len(entries), len(plains))
		}
		got, err := ReadPackDir(bytes.NewReader(b), int64(len(b)))
		if d := cmp.Diff(entries, got); err != nil || d != "" {
			t.Errorf("%v: ReadPackDir: %v (-want +got):\n%s", dom, err, d)
		}
		if err := VerifyPack(bytes.NewReader(b), int64(len(b)), dom); err != nil {
			t.Errorf("%v: VerifyPack: %v", dom, err)
		}
	}
	// A hub can't open sealed chunks and takes the pack all the same.
	b, _, _ := makePack(t, vectorDomain(), smallPlains()...)
	if err := VerifyPack(bytes.NewReader(b), int64(len(b)), Domain{}); err != nil {
		t.Errorf("VerifyPack of a sealed pack in the public domain: %v", err)
	}
	if err := VerifyPack(bytes.NewReader(b), int64(len(b)), NewDomain([32]byte{5})); !errors.Is(err, fault.Invalid) {
		t.Errorf("VerifyPack with another secret = %v, want invalid", err)
	}
}

// Every truncation and every flipped bit is found, and the chunks that are not
// hit are still read.
func TestPackDamage(t *testing.T) {
	for _, dom := range []Domain{{}, vectorDomain()} {
		b, name, entries := makePack(t, dom, smallPlains()...)
		body := entries[len(entries)-1].Off + int64(entries[len(entries)-1].Stored)
		var dec Decoder
		store := BlobsIn(new(Mem), "p/")
		readable := func(b []byte) map[Name]bool {
			ok := map[Name]bool{}
			for _, e := range entries { // as a locator knows them
				if end := e.Off + int64(e.Stored); end <= int64(len(b)) {
					if _, err := dec.Chunk(dom, e.Name, e.Enc, e.Plain, b[e.Off:end]); err == nil {
						ok[e.Name] = true
					}
				}
			}
			return ok
		}
		for n := range len(b) {
			cut := b[:n]
			if err := VerifyPack(bytes.NewReader(cut), int64(n), dom); !errors.Is(err, fault.Invalid) {
				t.Fatalf("%v: VerifyPack of the first %d bytes = %v, want invalid", dom, n, err)
			}
			for _, e := range entries {
				if inside := e.Off+int64(e.Stored) <= int64(n); readable(cut)[e.Name] != inside {
					t.Fatalf("%v: of the first %d bytes, chunk at %d readable: %v", dom, n, e.Off, !inside)
				}
			}
		}
		for i := range b {
			for bit := range 8 {
				bad := bytes.Clone(b)
				bad[i] ^= 1 << bit
				if err := store.Put(t.Context(), name, bytes.NewReader(bad)); !errors.Is(err, fault.Invalid) {
					t.Fatalf("%v: Put with bit %d of byte %d flipped = %v, want invalid", dom, bit, i, err)
				}
				err := VerifyPack(bytes.NewReader(bad), int64(len(bad)), dom)
				// A flip in a body may leave the plain bytes as they are: zstd has
				// bits that say nothing. It is found by the name of the pack.
				if err == nil && int64(i) >= body {
					t.Fatalf("%v: VerifyPack with bit %d of byte %d flipped = nil", dom, bit, i)
				}
				if err != nil && !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.Denied) {
					t.Fatalf("%v: VerifyPack with byte %d flipped = %v, want invalid", dom, i, err)
				}
				ok := readable(bad)
				for _, e := range entries {
					hit := int64(i) >= e.Off && int64(i) < e.Off+int64(e.Stored)
					if !hit && !ok[e.Name] {
						t.Fatalf("%v: byte %d flipped, the chunk at %d is lost", dom, i, e.Off)
					}
					if hit && e.Enc&Sealed != 0 && ok[e.Name] {
						t.Fatalf("%v: byte %d flipped inside a sealed chunk and not found", dom, i)
					}
				}
			}
		}
	}
}

// The scan tells which chunks are damaged and goes on behind them.
func TestScanPackGoesOn(t *testing.T) {
	b, _, entries := makePack(t, Domain{}, smallPlains()...)
	b[entries[2].Off] ^= 1
	var bad []int
	i := 0
	for e, err := range ScanPack(bytes.NewReader(b), int64(len(b)), Domain{}) {
		if e != entries[i] {
			t.Errorf("entry %d = %+v, want %+v", i, e, entries[i])
		}
		if err != nil {
			bad = append(bad, i)
		}
		i++
	}
	if d := cmp.Diff([]int{2}, bad); d != "" || i != len(entries) {
		t.Errorf("damaged (-want +got):\n%s", d)
	}
}

func TestPackRefusals(t *testing.T) {
	good := PackEntry{Sum([]byte("a")), 0, 5, 5, Raw}
	second := PackEntry{Sum([]byte("b")), 5, 5, 5, Raw}
	for what, es := range map[string][]PackEntry{
		"empty":               {},
		"gap at the start":    {{good.Name, 1, 4, 4, Raw}},
		"gap":                 {good, {second.Name, 6, 4, 4, Raw}},
		"overlap":             {good, {second.Name, 4, 6, 6, Raw}},
		"twice":               {good, {good.Name, 5, 5, 5, Raw}},
		"wrong order":         {second, good},
		"raw of other length": {good, {second.Name, 5, 5, 6, Raw}},
		"longer than plain":   {good, {second.Name, 5, 5, 4, Zstd}},
		"plain of zero":       {good, {second.Name, 5, 5, 0, Zstd}},
		"plain too long":      {good, {second.Name, 5, 5, MaxPlain + 1, Zstd}},
		"unknown encoding":    {good, {second.Name, 5, 5, 10, 3}},
		"absent":              {good, {second.Name, 5, 5, 10, Absent}},
		"short of the body":   {good},
		"past the body":       {good, {second.Name, 5, 6, 6, Raw}},
	} {
		if got, err := parsePackDir(appendPackDir(nil, es), 10); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: parsePackDir = %v, %v, want invalid", what, got, err)
		}
	}
	dir := appendPackDir(nil, []PackEntry{good, second})
	if _, err := parsePackDir(dir, 10); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"more bytes":     append(bytes.Clone(dir), 0),
		"huge array":     {0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"large array":    {0x9a, 0x7f, 0xff, 0xff, 0xff, 0x85},
		"long head":      append([]byte{0x98, 2}, dir[1:]...),
		"indefinite":     append(append([]byte{0x9f}, dir[1:]...), 0xff),
		"text":           bytes.Replace(dir, []byte{0x58, 0x20}, []byte{0x78, 0x20}, 1),
		"four items":     bytes.Replace(dir, []byte{0x85}, []byte{0x84}, 1),
		"long number":    bytes.Replace(dir, append(bytes.Clone(good.Name[:]), 0), append(bytes.Clone(good.Name[:]), 0x18, 0), 1),
		"negative":       bytes.Replace(dir, append(bytes.Clone(good.Name[:]), 0), append(bytes.Clone(good.Name[:]), 0x20), 1),
		"nothing":        {},
		"offset of 2^64": bytes.Replace(dir, append(bytes.Clone(good.Name[:]), 0), append(bytes.Clone(good.Name[:]), 0x1b, 255, 255, 255, 255, 255, 255, 255, 255), 1),
	} {
		if got, err := parsePackDir(b, 10); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: parsePackDir = %v, %v, want invalid", what, got, err)
		}
	}
	footer := func(off uint64, n uint32, magic string) []byte {
		b := append([]byte("0123456789"), dir...)
		b = binary.LittleEndian.AppendUint64(b, off)
		b = binary.LittleEndian.AppendUint32(b, n)
		return append(b, magic...)
	}
	n := uint32(len(dir))
	if _, err := ReadPackDir(bytes.NewReader(footer(10, n, packMagic)), int64(len(footer(10, n, packMagic)))); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"other magic":     footer(10, n, "ZPK2"),
		"offset":          footer(9, n, packMagic),
		"huge offset":     footer(1<<63, n, packMagic),
		"wrapping offset": footer(^uint64(0)-9, n+20, packMagic),
		"length":          footer(10, n+1, packMagic),
		"huge length":     footer(10, ^uint32(0), packMagic),
	} {
		if got, err := ReadPackDir(bytes.NewReader(b), int64(len(b))); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: ReadPackDir = %v, %v, want invalid", what, got, err)
		}
	}
	for _, size := range []int64{-1, 0, 15, MaxPack + 1} {
		if _, err := ReadPackDir(bytes.NewReader(nil), size); !errors.Is(err, fault.Invalid) {
			t.Errorf("ReadPackDir of %d bytes = %v, want invalid", size, err)
		}
	}
}

func TestPackWriterErrors(t *testing.T) {
	w := NewPackWriter(io.Discard)
	if err := w.Add(Sum(nil), Raw, 5, []byte("four")); !errors.Is(err, fault.Invalid) {
		t.Errorf("Add of another length = %v, want invalid", err)
	}
	if _, _, _, err := w.Close(); !errors.Is(err, fault.Invalid) {
		t.Errorf("Close of nothing = %v, want invalid", err)
	}
	full := NewPackWriter(io.Discard)
	chunk := make([]byte, MaxPlain)
	n := 0
	for err := error(nil); err == nil; n++ {
		binary.LittleEndian.PutUint32(chunk, uint32(n))
		err = full.Add(Sum(chunk[:4]), Raw, len(chunk), chunk)
		if err != nil && !errors.Is(err, fault.Exhausted) {
			t.Fatalf("Add to a full pack = %v, want exhausted", err)
		}
	}
	if _, size, es, err := full.Close(); err != nil || len(es) != n-1 || size > MaxPack || n != MaxPack/MaxPlain {
		t.Errorf("Close of a full pack = %d bytes, %d chunks, %v", size, len(es), err)
	}
	if _, _, _, err := full.Close(); err == nil {
		t.Error("Close works twice")
	}
	broken := NewPackWriter(failWriter{})
	for range 2 {
		if err := broken.Add(Sum([]byte("x")), Raw, 1, []byte("x")); !errors.Is(err, fault.Exhausted) {
			t.Errorf("Add to a broken writer = %v, want its error", err)
		}
	}
	if _, _, _, err := broken.Close(); !errors.Is(err, fault.Exhausted) {
		t.Errorf("Close of a broken writer = %v, want its error", err)
	}
}

type failWriter struct{}

func (failWriter) Write([]byte) (int, error) { return 0, fault.Errorf(fault.Exhausted, "full") }

func FuzzPackDir(f *testing.F) {
	b, _, _ := makePack(f, Domain{}, smallPlains()...)
	f.Add(b)
	b, _, _ = makePack(f, vectorDomain(), smallPlains()...)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := ReadPackDir(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("ReadPackDir = %v, want invalid", err)
			}
			return
		}
		last := entries[len(entries)-1]
		dir := appendPackDir(nil, entries)
		if !bytes.Equal(dir, b[last.Off+int64(last.Stored):len(b)-packFooter]) {
			t.Fatal("the directory is not what a writer writes")
		}
		_ = VerifyPack(bytes.NewReader(b), int64(len(b)), Domain{})
	})
}
