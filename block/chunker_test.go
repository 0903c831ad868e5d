package block

import (
	"bytes"
	"math/bits"
	"testing"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"github.com/google/go-cmp/cmp"
	"lukechampine.com/blake3"
	"pgregory.net/rapid"
)

// testStream is n bytes of the stream that the vectors are cut from.
func testStream(n int) []byte {
	h := blake3.New(32, nil)
	h.Write([]byte("zos block test stream v1"))
	b := make([]byte, n)
	_, _ = h.XOF().Read(b)
	return b
}

func cutAll(p Profile, b []byte) (lens []int) {
	for len(b) > 0 {
		n := p.Cut(b[:min(len(b), p.Max)])
		lens, b = append(lens, n), b[n:]
	}
	return lens
}

func TestCutVectors(t *testing.T) {
	if gear[0] != 0x8b309279770ef005 || gear[255] != 0x8263c7cb345091b1 {
		t.Fatalf("gear[0] = %x, gear[255] = %x", gear[0], gear[255])
	}
	b := testStream(64 << 20)
	for _, tt := range []struct {
		name  string
		p     Profile
		count int
		first []int
	}{
		{"image", Image, 893, []int{38133, 71406, 72627, 88861, 66860, 73338}},
		{"stream", Stream, 59, []int{546013, 1278665, 1113183}},
	} {
		got := cutAll(tt.p, b)
		if len(got) != tt.count {
			t.Errorf("%s: %d chunks, want %d", tt.name, len(got), tt.count)
		}
		if d := cmp.Diff(tt.first, got[:len(tt.first)]); d != "" {
			t.Errorf("%s: first chunks (-want +got):\n%s", tt.name, d)
		}
	}
	name := Sum(b[:38133]).String()
	if name[:8] != "ddac642b" || name[60:] != "dd1d" {
		t.Errorf("first name = %s, want ddac642b…dd1d", name)
	}
}

// cutSlow follows the text of the specification byte by byte.
func cutSlow(p Profile, b []byte) int {
	if len(b) <= p.Min {
		return len(b)
	}
	log := bits.TrailingZeros(uint(p.Avg))
	var fp uint64
	for i := p.Min; i < len(b) && i < p.Max; i++ {
		fp = fp<<1 + gear[b[i]]
		zeros := log + 2
		if i >= p.Avg {
			zeros = log - 2
		}
		if bits.LeadingZeros64(fp) >= zeros {
			return i + 1
		}
	}
	return min(len(b), p.Max)
}

func TestCutEqualsSpecification(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Profile{rapid.IntRange(1, 64).Draw(t, "min"), 64, 256}
		b := rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(t, "bytes")
		for len(b) > 0 {
			got, want := p.Cut(b), cutSlow(p, b)
			if got != want {
				t.Fatalf("%v.Cut(%d bytes) = %d, want %d", p, len(b), got, want)
			}
			b = b[got:]
		}
	})
	if n := Image.Cut(nil); n != 0 {
		t.Errorf("Cut(nil) = %d, want 0", n)
	}
}

func TestInsertChangesFewChunks(t *testing.T) {
	b := testStream(8 << 20)
	c := append(append(bytes.Clone(b[:3<<20]), 'x'), b[3<<20:]...)
	old := map[Name]bool{}
	for rest := b; len(rest) > 0; {
		n := Image.Cut(rest)
		old[Sum(rest[:n])] = true
		rest = rest[n:]
	}
	changed := 0
	for rest := c; len(rest) > 0; {
		n := Image.Cut(rest)
		if !old[Sum(rest[:n])] {
			changed++
		}
		rest = rest[n:]
	}
	if changed == 0 || changed > 4 {
		t.Errorf("%d chunks changed after one inserted byte, want 1 to 4", changed)
	}
}

func BenchmarkCut(b *testing.B) {
	data := testStream(16 << 20)
	b.Run("zos", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			cutAll(Image, data)
		}
	})
	b.Run("plakar", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			c, err := chunkers.NewChunker("fastcdc", bytes.NewReader(data), &chunkers.ChunkerOpts{MinSize: Image.Min, NormalSize: Image.Avg, MaxSize: Image.Max})
			if err != nil {
				b.Fatal(err)
			}
			for {
				if _, err := c.Next(); err != nil {
					break
				}
			}
		}
	})
}
