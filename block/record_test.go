package block

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/internal/fault"
)

func TestRecords(t *testing.T) {
	d := vectorDomain()
	plain := bytes.Repeat([]byte("text "), 40)
	_, body := NewEncoder(Zstd).Encode(plain)
	recs := []Record{
		{Sum([]byte("zero-os")), Raw, 7, []byte("zero-os")},
		{Sum(plain), Zstd, len(plain), body},
		{d.Name(plain), Zstd | Sealed, len(plain), d.Seal(d.Name(plain), Zstd, len(plain), body)},
		{Name: Sum([]byte("gone")), Enc: Absent},
	}
	var wire []byte
	for _, r := range recs {
		var err error
		if wire, err = AppendRecord(wire, r); err != nil {
			t.Fatal(err)
		}
	}
	r := bytes.NewReader(wire)
	var dec Decoder
	for i, want := range recs {
		got, err := ReadRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Body) == 0 {
			got.Body = nil
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("record %d (-want +got):\n%s", i, d)
		}
		_, err = got.Open(d, &dec)
		if want.Enc == Absent && !errors.Is(err, fault.NotFound) || want.Enc != Absent && err != nil {
			t.Errorf("Open of record %d: %v", i, err)
		}
	}
	if _, err := ReadRecord(r); err != io.EOF {
		t.Errorf("ReadRecord at the end = %v, want EOF", err)
	}
	// The vector of the specification.
	want := "5a434b31" + "00" + "000000" + "07000000" + "07000000" + recs[0].Name.String() + "9298408f" + "7a65726f2d6f73"
	if got := hex.EncodeToString(wire[:recordSize+7]); got != want {
		t.Errorf("record = %s, want %s", got, want)
	}
	// Damage: each flip in a header and each cut is found by ReadRecord, each in a
	// body by Open.
	one := wire[:recordSize+7]
	for i := range one {
		bad := bytes.Clone(one)
		bad[i] ^= 0x10
		rec, err := ReadRecord(bytes.NewReader(bad))
		if err == nil {
			_, err = rec.Open(Domain{}, &dec)
			if i < recordSize {
				t.Errorf("ReadRecord with byte %d of the header flipped = nil", i)
			}
		}
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("a record with byte %d flipped = %v, want invalid", i, err)
		}
		if i > 0 {
			if _, err := ReadRecord(bytes.NewReader(one[:i])); !errors.Is(err, fault.Invalid) {
				t.Errorf("ReadRecord of %d bytes = %v, want invalid", i, err)
			}
		}
	}
	for what, bad := range map[string]Record{
		"absent with a body":  {Enc: Absent, Body: []byte("x")},
		"absent with length":  {Enc: Absent, Plain: 1},
		"empty":               {Enc: Raw},
		"raw of other length": {Enc: Raw, Plain: 2, Body: []byte("x")},
		"unknown":             {Enc: 5, Plain: 2, Body: []byte("x")},
	} {
		if _, err := AppendRecord(nil, bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("AppendRecord of a record that is %s = %v, want invalid", what, err)
		}
	}
	broken := fault.Errorf(fault.Denied, "no")
	if _, err := ReadRecord(io.MultiReader(strings.NewReader("ZCK1"), errReader{broken})); !errors.Is(err, fault.Denied) {
		t.Errorf("ReadRecord of a failing stream = %v, want its error", err)
	}
}

// A promise of 4 MiB that doesn't arrive costs little.
func TestRecordAllocatesAsItArrives(t *testing.T) {
	b, err := AppendRecord(nil, Record{Sum(nil), Raw, MaxPlain, make([]byte, MaxPlain)})
	if err != nil {
		t.Fatal(err)
	}
	head := b[:recordSize+10]
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := ReadRecord(bytes.NewReader(head)); !errors.Is(err, fault.Invalid) {
		t.Errorf("ReadRecord = %v, want invalid", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated for a promise of %d", n, MaxPlain)
	}
}

func FuzzRecord(f *testing.F) {
	b, _ := AppendRecord(nil, Record{Sum([]byte("zero-os")), Raw, 7, []byte("zero-os")})
	f.Add(b)
	b, _ = AppendRecord(b, Record{Name: Sum([]byte("gone")), Enc: Absent})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var again []byte
		for {
			rec, err := ReadRecord(r)
			if err == io.EOF {
				break
			}
			if err != nil {
				if !errors.Is(err, fault.Invalid) {
					t.Fatalf("ReadRecord = %v, want invalid", err)
				}
				return
			}
			if again, err = AppendRecord(again, rec); err != nil {
				t.Fatalf("what was read can't be written: %v", err)
			}
		}
		if !bytes.Equal(again, b) {
			t.Fatal("the records are not what a writer writes")
		}
	})
}
