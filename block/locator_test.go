package block

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"zos.internal/internal/fault"
)

func drawLocator(t *rapid.T) Locator {
	var l Locator
	for i := range rapid.IntRange(0, 4).Draw(t, "packs") {
		l.Packs = append(l.Packs, PackRef{Sum([]byte{byte(i)}), rapid.Int64Range(1, MaxPack).Draw(t, "size")})
	}
	for range rapid.IntRange(0, 20).Draw(t, "chunks") {
		var w Location
		if len(l.Packs) > 0 && rapid.IntRange(0, 9).Draw(t, "known") > 0 {
			w.Pack = uint32(rapid.IntRange(0, len(l.Packs)-1).Draw(t, "pack"))
			size := l.Packs[w.Pack].Size
			w.Stored = uint32(rapid.Int64Range(1, min(size, maxStored)).Draw(t, "stored"))
			w.Off = uint64(rapid.Int64Range(0, size-int64(w.Stored)).Draw(t, "offset"))
		}
		l.Where = append(l.Where, w)
	}
	return l
}

func TestLocatorRoundTrip(t *testing.T) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		l := drawLocator(t)
		b, err := l.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseLocator(b, len(l.Where))
		if d := cmp.Diff(l, got, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Fatalf("ParseLocator: %v (-want +got):\n%s", err, d)
		}
		for _, n := range []int{len(l.Where) - 1, len(l.Where) + 1, -1} {
			if _, err := ParseLocator(b, n); !errors.Is(err, fault.Invalid) {
				t.Fatalf("ParseLocator for %d chunks instead of %d = %v, want invalid", n, len(l.Where), err)
			}
		}
		for n := range b {
			if _, err := ParseLocator(b[:n], len(l.Where)); !errors.Is(err, fault.Invalid) {
				t.Fatalf("ParseLocator of the first %d bytes = %v, want invalid", n, err)
			}
		}
		// A general implementation of CBOR reads and writes the same.
		var m map[int]any
		if err := cbor.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		if again, err := mode.Marshal(m); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("deterministic CBOR = %x, %v, want %x", again, err, b)
		}
	})
}

func TestLocatorVector(t *testing.T) {
	l := Locator{
		Packs: []PackRef{{Sum([]byte("a")), 1000}, {Sum([]byte("b")), 100}},
		Where: []Location{{0, 0, 300}, {0, 300, 5}, {}, {1, 10, 20}},
	}
	b, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	want := "a201" + "82" + "825820" + Sum([]byte("a")).String() + "1903e8" + "825820" + Sum([]byte("b")).String() + "1864" +
		"024e" + "0000ac02" + "00ac0205" + "000000" + "010a14"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("locator = %s, want %s", got, want)
	}
	for i, want := range []Place{
		{Sum([]byte("a")), 0, 300, 300, Raw},
		{Sum([]byte("a")), 300, 5, 33, Zstd},
	} {
		if got, ok := l.Place(i, want.Plain, false); !ok || got != want {
			t.Errorf("Place(%d) = %+v, %v, want %+v", i, got, ok, want)
		}
	}
	if got, ok := l.Place(1, 5-0, true); !ok || got.Enc != Zstd|Sealed {
		t.Errorf("Place of a sealed chunk = %+v, %v", got, ok)
	}
	for _, i := range []int{2, 4, -1} {
		if got, ok := l.Place(i, 1, false); ok {
			t.Errorf("Place(%d) = %+v, want none", i, got)
		}
	}
}

func TestLocatorRefusals(t *testing.T) {
	pack := PackRef{Sum([]byte("a")), 100}
	for what, l := range map[string]Locator{
		"no such pack":       {[]PackRef{pack}, []Location{{1, 0, 5}}},
		"past its pack":      {[]PackRef{pack}, []Location{{0, 96, 5}}},
		"far past its pack":  {[]PackRef{pack}, []Location{{0, 1 << 63, 5}}},
		"too long":           {[]PackRef{{pack.Name, MaxPack}}, []Location{{0, 0, maxStored + 1}}},
		"unknown at a place": {[]PackRef{pack}, []Location{{0, 5, 0}}},
		"empty pack":         {[]PackRef{{pack.Name, 0}}, nil},
		"huge pack":          {[]PackRef{{pack.Name, MaxPack + 1}}, nil},
	} {
		if _, err := l.Marshal(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Marshal = %v, want invalid", what, err)
		}
	}
	name := Sum([]byte("a")).String()
	for what, h := range map[string]string{
		"empty":             "",
		"other key":         "a202" + "80" + "0340",
		"three keys":        "a301" + "80" + "0240" + "0300",
		"keys in disorder":  "a202" + "40" + "0180",
		"huge pack list":    "a201" + "9affffffff",
		"short name":        "a201" + "81" + "82" + "581f" + name[2:] + "1864" + "0243000005",
		"no size":           "a201" + "81" + "81" + "5820" + name + "0243000005",
		"size not minimal":  "a201" + "81" + "82" + "5820" + name + "190064" + "0243000005",
		"varint too long":   "a201" + "81" + "82" + "5820" + name + "1864" + "0244" + "80000005",
		"varint unfinished": "a201" + "81" + "82" + "5820" + name + "1864" + "0243" + "000085",
		"varint overflows":  "a201" + "81" + "82" + "5820" + name + "1864" + "024c" + "ffffffffffffffffff7f" + "0005",
		"pack of 2^32":      "a201" + "81" + "82" + "5820" + name + "1864" + "0247" + "8080808010" + "0005",
		"past its pack":     "a201" + "81" + "82" + "5820" + name + "1864" + "0243" + "006005",
		"bytes follow":      "a201" + "81" + "82" + "5820" + name + "1864" + "0243" + "000005" + "00",
		"a byte too many":   "a201" + "81" + "82" + "5820" + name + "1864" + "0244" + "00000500",
	} {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseLocator(b, 1); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: ParseLocator = %+v, %v, want invalid", what, got, err)
		}
	}
	good, _ := hex.DecodeString("a201" + "81" + "82" + "5820" + name + "1864" + "0243" + "000005")
	if _, err := ParseLocator(good, 1); err != nil {
		t.Error(err)
	}
}

func FuzzLocator(f *testing.F) {
	l := Locator{Packs: []PackRef{{Sum([]byte("a")), 1000}}, Where: []Location{{0, 0, 300}, {}, {0, 300, 5}}}
	b, err := l.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, 3)
	f.Add([]byte{0xa2, 1, 0x80, 2, 0x40}, 0)
	f.Fuzz(func(t *testing.T, b []byte, chunks int) {
		l, err := ParseLocator(b, chunks)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("ParseLocator = %v, want invalid", err)
			}
			return
		}
		again, err := l.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("Marshal = %x, %v, want %x", again, err, b)
		}
	})
}
