package block

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"zos.internal/internal/fault"
)

// drawPlain draws 1 to 20000 bytes that compress well, a little or not at all.
func drawPlain(t *rapid.T) []byte {
	n := rapid.IntRange(1, 20000).Draw(t, "length")
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	letters := rapid.IntRange(1, 256).Draw(t, "letters")
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(letters))
	}
	return b
}

func TestEncodeDecode(t *testing.T) {
	encoders := map[byte]*Encoder{Raw: NewEncoder(Raw), S2: NewEncoder(S2), Zstd: NewEncoder(Zstd)}
	var dec Decoder
	used := map[byte]int{}
	rapid.Check(t, func(t *rapid.T) {
		plain := drawPlain(t)
		want := rapid.SampledFrom([]byte{Raw, S2, Zstd}).Draw(t, "enc")
		enc, body := encoders[want].Encode(plain)
		used[enc]++
		if enc != want && enc != Raw {
			t.Fatalf("Encode with %d used %d", want, enc)
		}
		if enc == Raw && !bytes.Equal(body, plain) || enc != Raw && len(body)*100 > len(plain)*97 {
			t.Fatalf("encoding %d made %d bytes of %d", enc, len(body), len(plain))
		}
		got, err := dec.Decode(enc, len(plain), body)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("Decode = %d bytes, %v", len(got), err)
		}
		if want == Zstd && DeriveEnc(len(plain), len(body), false) != enc {
			t.Fatalf("DeriveEnc(%d, %d) is not %d", len(plain), len(body), enc)
		}
		if want == Zstd && DeriveEnc(len(plain), len(body)+SealOverhead, true) != enc|Sealed {
			t.Fatalf("DeriveEnc(%d, %d) of a sealed chunk is not %d", len(plain), len(body), enc)
		}
		for _, plainLen := range []int{len(plain) - 1, len(plain) + 1, 0, -1, MaxPlain + 1} {
			if b, err := dec.Decode(enc, plainLen, body); !errors.Is(err, fault.Invalid) {
				t.Fatalf("Decode of %d plain bytes as %d = %d bytes, %v, want invalid", len(plain), plainLen, len(b), err)
			}
		}
	})
	for _, enc := range []byte{Raw, S2, Zstd} {
		if used[enc] == 0 {
			t.Errorf("encoding %d was never used", enc)
		}
	}
}

// One frame with content size and no dictionary; nothing before, between or
// behind.
func TestDecodeRefusesOtherFrames(t *testing.T) {
	plain := bytes.Repeat([]byte("plain text "), 1000)
	make1 := func(opts ...zstd.EOption) []byte {
		zw, err := zstd.NewWriter(nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return zw.EncodeAll(plain, nil)
	}
	stream := func() []byte { // a frame without content size
		var b bytes.Buffer
		zw, _ := zstd.NewWriter(&b)
		_, _ = zw.Write(plain[:5000])
		_ = zw.Flush()
		_, _ = zw.Write(plain[5000:])
		_ = zw.Close()
		return b.Bytes()
	}()
	good := make1()
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	empty := func() []byte {
		zw, _ := zstd.NewWriter(nil, zstd.WithZeroFrames(true))
		return zw.EncodeAll(nil, nil)
	}()
	half := func(b []byte) []byte {
		zw, _ := zstd.NewWriter(nil)
		return zw.EncodeAll(b, nil)
	}
	var dec Decoder
	for _, ok := range [][]byte{good, make1(zstd.WithEncoderCRC(false)), make1(zstd.WithEncoderLevel(zstd.SpeedBestCompression))} {
		if got, err := dec.Decode(Zstd, len(plain), ok); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("Decode of a good frame = %d bytes, %v", len(got), err)
		}
	}
	for what, body := range map[string][]byte{
		"no content size":       stream,
		"dictionary":            make1(zstd.WithEncoderDictRaw(77, []byte("plain text dictionary"))),
		"two frames":            append(half(plain[:5000]), half(plain[5000:])...),
		"skippable frame":       append(bytes.Clone(skippable), good...),
		"skippable frame after": append(bytes.Clone(good), skippable...),
		"empty frame after":     append(bytes.Clone(good), empty...),
		"a byte more":           append(bytes.Clone(good), 0),
		"a byte less":           good[:len(good)-1],
		"nothing":               {},
		"magic only":            good[:4],
		"wrong checksum":        append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1),
	} {
		if got, err := dec.Decode(Zstd, len(plain), body); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Decode = %d bytes, %v, want invalid", what, len(got), err)
		}
	}
}

// A bomb dies before it allocates more than what was promised.
func TestDecodeBombs(t *testing.T) {
	huge := make([]byte, 64<<20)
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zbomb := zw.EncodeAll(huge, nil)
	// The same blocks under a header that promises only 1000 bytes.
	var h zstd.Header
	if err := h.Decode(zbomb); err != nil {
		t.Fatal(err)
	}
	liar := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xe8, 0x02}, zbomb[h.HeaderSize:]...)
	rle := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xe8, 0x02}, 0xfb, 0xff, 0xff, 'x') // one block of 2 MiB - 1
	huge = nil
	var dec Decoder
	if _, err := dec.Decode(Zstd, 500000, func() []byte { _, b := NewEncoder(Zstd).Encode(make([]byte, 500000)); return b }()); err != nil {
		t.Fatal(err) // and the working memory is there now
	}
	for _, tt := range []struct {
		name  string
		enc   byte
		plain int
		body  []byte
	}{
		{"zstd", Zstd, 1 << 20, zbomb},
		{"zstd that lies", Zstd, 1000, liar[:min(len(liar), 999)]},
		{"zstd run length", Zstd, 1000, rle},
		{"s2", S2, 1 << 20, s2.Encode(nil, make([]byte, 32<<20))},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		got, err := dec.Decode(tt.enc, tt.plain, tt.body)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Decode = %d bytes, %v, want invalid", tt.name, len(got), err)
		}
		// The pooled decoder may be gone after the collection; it has a fixed size.
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(tt.plain)+1<<20 {
			t.Errorf("%s: %d bytes allocated for %d plain ones", tt.name, n, tt.plain)
		}
	}
}

func TestDecoderChunk(t *testing.T) {
	var dec Decoder
	plain := bytes.Repeat([]byte("some text "), 100)
	for _, dom := range []Domain{{}, vectorDomain()} {
		name := dom.Name(plain)
		enc, body := NewEncoder(Zstd).Encode(plain)
		stored := dom.Seal(name, enc, len(plain), body)
		if dom.Private() {
			enc |= Sealed
		}
		got, err := dec.Chunk(dom, name, enc, len(plain), stored)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%v: Chunk = %d bytes, %v", dom, len(got), err)
		}
		if _, err := dec.Chunk(dom, Sum([]byte("x")), enc, len(plain), stored); !errors.Is(err, fault.Invalid) {
			t.Errorf("%v: Chunk with another name = %v, want invalid", dom, err)
		}
		for i := range stored {
			bad := bytes.Clone(stored)
			bad[i] ^= 1
			// Flips that the decoder ignores leave the plain bytes right.
			if got, err := dec.Chunk(dom, name, enc, len(plain), bad); err == nil && !bytes.Equal(got, plain) {
				t.Fatalf("%v: Chunk with byte %d flipped gave wrong bytes", dom, i)
			}
		}
	}
	// A private domain reads public chunks that lie beside its own, and names of
	// its own that are not sealed.
	d := vectorDomain()
	for _, name := range []Name{Sum(plain), d.Name(plain)} {
		if _, err := dec.Chunk(d, name, Raw, len(plain), plain); err != nil {
			t.Errorf("Chunk of an unsealed chunk: %v", err)
		}
	}
	if _, err := dec.Chunk(Domain{}, d.Name(plain), Raw, len(plain), plain); !errors.Is(err, fault.Invalid) {
		t.Errorf("Chunk with a private name in the public domain = %v, want invalid", err)
	}
	if _, err := dec.Chunk(Domain{}, Sum(plain), 7, len(plain), plain); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "7") {
		t.Errorf("Chunk with encoding 7 = %v, want invalid", err)
	}
}

func FuzzDecode(f *testing.F) {
	plain := bytes.Repeat([]byte("seed "), 50)
	for _, enc := range []byte{Raw, S2, Zstd} {
		e, body := NewEncoder(enc).Encode(plain)
		f.Add(e, len(plain), bytes.Clone(body))
	}
	var dec Decoder
	f.Fuzz(func(t *testing.T, enc byte, plain int, body []byte) {
		got, err := dec.Decode(enc, plain, body)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("Decode = %v, want invalid", err)
			}
			return
		}
		if len(got) != plain {
			t.Fatalf("Decode gave %d bytes instead of %d", len(got), plain)
		}
	})
}
