package chunkmap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

func name(s string) block.Name { return block.Sum([]byte(s)) }

func small() *Map {
	return &Map{
		Chunks: []Chunk{{name("a"), 5000}, {name("b"), 100}},
		Extents: []Extent{
			{Off: 0, Len: 5000, Chunk: 0},
			{Off: 8192, Len: 65536, Chunk: Zeros},
			{Off: 73728, Len: 50, Chunk: 1, In: 50},
			{Off: 77824, Len: 10, Chunk: 0, In: 4990},
		},
	}
}

const device = 1 << 20

// vector is the example of docs/reference/chunkmap.md.
const vector = "5a4f53464d4150310200000003000000000000000000000017762fddd969a453" +
	"925d65717ac3eea21320b66b54342fde15128d6caf21215f8813000010e5cf3d" +
	"3c8a4f9f3468c8cc58eea84892a22fdadbc1acb22410190044c1d55364000000" +
	"0000000000000000881300000000000000000000002000000000000000000100" +
	"ffffffff000000000020010000000000320000000100000032000000"

func TestVector(t *testing.T) {
	m := small()
	m.Extents = m.Extents[:3]
	if got := hex.EncodeToString(m.Encode()); got != vector {
		t.Errorf("Encode = %s, want %s", got, vector)
	}
}

func TestRoundTrip(t *testing.T) {
	m := small()
	got, err := Parse(m.Encode(), device)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		why    string
		change func(*Map)
	}{
		{"overlap", func(m *Map) { m.Extents[1].Off = 4999 }},
		{"order", func(m *Map) { m.Extents[0], m.Extents[1] = m.Extents[1], m.Extents[0] }},
		{"outside", func(m *Map) { m.Extents[3].Off = device - 9 }},
		{"offset wraps", func(m *Map) { m.Extents[3].Off = ^uint64(0) - 3 }},
		{"empty extent", func(m *Map) { m.Extents[2].Len = 0 }},
		{"no such chunk", func(m *Map) { m.Extents[3].Chunk = 2 }},
		{"behind the chunk", func(m *Map) { m.Extents[2].In = 51 }},
		{"in wraps", func(m *Map) { m.Extents[2].In = ^uint32(0) }},
		{"zeros with offset", func(m *Map) { m.Extents[1].In = 1 }},
		{"order of first use", func(m *Map) { m.Extents[0].Chunk, m.Extents[0].Len = 1, 50 }},
		{"unused chunk", func(m *Map) { m.Chunks = append(m.Chunks, Chunk{name("c"), 1}) }},
		{"empty chunk", func(m *Map) { m.Chunks[1].Plain = 0 }},
		{"large chunk", func(m *Map) { m.Chunks[1].Plain = MaxPlain + 1 }},
		{"name twice", func(m *Map) { m.Chunks[1].Name = m.Chunks[0].Name }},
	} {
		m := small()
		tt.change(m)
		if _, err := Parse(m.Encode(), device); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Parse = %v, want Invalid", tt.why, err)
		}
	}
	good := small().Encode()
	for n := range good {
		if _, err := Parse(good[:n], device); !errors.Is(err, fault.Invalid) {
			t.Fatalf("Parse of the first %d bytes = %v, want Invalid", n, err)
		}
	}
	if _, err := Parse(append(bytes.Clone(good), 0), device); !errors.Is(err, fault.Invalid) {
		t.Errorf("Parse with a byte too much = %v, want Invalid", err)
	}
	reserved := bytes.Clone(good)
	reserved[20] = 1
	if _, err := Parse(reserved, device); !errors.Is(err, fault.Invalid) {
		t.Errorf("Parse with a reserved bit = %v, want Invalid", err)
	}
	if _, err := Parse((&Map{}).Encode(), MaxDevice+1); !errors.Is(err, fault.Invalid) {
		t.Errorf("Parse of a device over the limit = %v, want Invalid", err)
	}
}

// drawMap makes a map that follows the rules.
func drawMap(t *rapid.T) *Map {
	m := &Map{}
	off := uint64(0)
	for range rapid.IntRange(0, 40).Draw(t, "extents") {
		off += uint64(rapid.IntRange(0, 3).Draw(t, "gap")) * 4096
		x := Extent{Off: off}
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind == 0:
			x.Chunk, x.Len = Zeros, uint32(rapid.IntRange(1, 1<<18).Draw(t, "zeros"))
		case kind < 3 && len(m.Chunks) > 0:
			x.Chunk = uint32(rapid.IntRange(0, len(m.Chunks)-1).Draw(t, "chunk"))
			plain := int(m.Chunks[x.Chunk].Plain)
			x.In = uint32(rapid.IntRange(0, plain-1).Draw(t, "in"))
			x.Len = uint32(rapid.IntRange(1, plain-int(x.In)).Draw(t, "len"))
		default:
			x.Chunk = uint32(len(m.Chunks))
			x.Len = uint32(rapid.IntRange(1, 1<<18).Draw(t, "plain"))
			m.Chunks = append(m.Chunks, Chunk{block.Sum([]byte{byte(x.Chunk)}), x.Len})
		}
		m.Extents = append(m.Extents, x)
		off = x.End()
	}
	return m
}

func TestFindIsTheLinearScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMap(t)
		v, err := NewView(m.Encode(), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		off := rapid.Uint64Range(0, 8<<20).Draw(t, "off")
		end := off + rapid.Uint64Range(0, 1<<20).Draw(t, "size")
		var got, want []Extent
		for x := range v.Range(off, end) {
			got = append(got, x)
		}
		for _, x := range m.Extents {
			if x.End() > off && x.Off < end {
				want = append(want, x)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOpenMapsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "map")
	m := small()
	if err := os.WriteFile(path, m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := Open(path, device)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, v.Map()); diff != "" {
		t.Error(diff)
	}
	if n := testing.AllocsPerRun(100, func() { v.Extent(v.Find(77830)) }); n != 0 {
		t.Errorf("Find and Extent allocate %v times, want 0", n)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, device); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open of a short file = %v, want Invalid with the path", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(small().Encode(), uint64(device))
	f.Add((&Map{}).Encode(), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, deviceBytes uint64) {
		m, err := Parse(b, deviceBytes)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("Parse = %v, want Invalid", err)
			}
			return
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Fatal("Encode(Parse(b)) differs from b")
		}
		end := uint64(0)
		for _, x := range m.Extents {
			if x.Off < end || x.End() > deviceBytes {
				t.Fatalf("extent %+v overlaps or lies outside %d bytes", x, deviceBytes)
			}
			end = x.End()
		}
	})
}
