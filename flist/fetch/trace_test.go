package fetch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// vector is the example of docs/reference/chunkmap.md.
const vector = "a300697a6f732e747261636501582017762fddd969a453925d65717ac3eea213" +
	"20b66b54342fde15128d6caf21215f028282186403820002"

func TestTraceVector(t *testing.T) {
	tr := Trace{Image: block.Sum([]byte("a")), Runs: []Run{run(100, 3), run(0, 2)}}
	b, err := tr.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != vector {
		t.Errorf("Encode = %s, want %s", got, vector)
	}
	back, err := ParseTrace(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tr, back); diff != "" {
		t.Error(diff)
	}
}

func TestTraceRefuses(t *testing.T) {
	for why, runs := range map[string][]Run{
		"empty run":  {run(1, 0)},
		"too long":   {run(1, 0xFFFFFFFF)},
		"continues":  {run(1, 2), run(3, 1)},
		"twice":      {run(1, 5), run(100, 1), run(5, 1)},
		"same start": {run(1, 5), run(100, 1), run(1, 5)},
	} {
		if _, err := (Trace{Runs: runs}).Encode(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Encode = %v, want Invalid", why, err)
		}
	}
	good, err := Trace{Runs: []Run{run(1, 2)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := ParseTrace(good[:n]); !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseTrace of %d bytes = %v, want Invalid", n, err)
		}
	}
	long := bytes.Replace(good, []byte{0x01, 0x02}, []byte{0x18, 0x01, 0x02}, 1)
	if _, err := ParseTrace(long); !errors.Is(err, fault.Invalid) {
		t.Errorf("ParseTrace of a long integer = %v, want Invalid", err)
	}
}

func TestMergeTakesWhatMostStartsNeeded(t *testing.T) {
	a := Trace{Runs: []Run{run(10, 3), run(1, 2)}}
	b := Trace{Runs: []Run{run(10, 2), run(50, 1), run(1, 2)}}
	c := Trace{Runs: []Run{run(90, 1), run(1, 1), run(10, 3)}}
	got, err := Merge(1000, a, b, c)
	if err != nil {
		t.Fatal(err)
	}
	want := Trace{Runs: []Run{run(10, 2), run(1, 1), run(12, 1), run(2, 1)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := got.Encode(); err != nil {
		t.Errorf("the merged trace is refused: %v", err)
	}
	if _, err := Merge(1000, a, Trace{Image: block.Name{1}}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Merge of two images = %v, want Invalid", err)
	}
	if _, err := Merge(1000, Trace{Runs: []Run{run(0, 1<<31)}}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Merge of a forged trace = %v, want Invalid", err)
	}
}

func FuzzParseTrace(f *testing.F) {
	b, err := Trace{Image: block.Name{1}, Runs: []Run{run(100, 3), run(0, 2)}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := ParseTrace(b)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("ParseTrace = %v, want Invalid", err)
			}
			return
		}
		again, err := tr.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("Encode(ParseTrace(b)) = %x, %v, want %x", again, err, b)
		}
	})
}
