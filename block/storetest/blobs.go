package storetest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// Blobs checks a store of named blobs. open returns an empty one.
func Blobs(t *testing.T, open func(t *testing.T) block.Blobs) {
	contents := [][]byte{[]byte("x"), Bytes(1, 5000), Bytes(2, 200000), {}}
	fill := func(t *testing.T) (block.Blobs, []block.Name) {
		s := open(t)
		var names []block.Name
		for _, c := range contents {
			n := block.Sum(c)
			if err := s.Put(t.Context(), n, bytes.NewReader(c)); err != nil {
				t.Fatalf("Put: %v", err)
			}
			names = append(names, n)
		}
		return s, names
	}
	t.Run("Read", func(t *testing.T) {
		s, names := fill(t)
		for i, c := range contents {
			n := int64(len(c))
			for _, r := range [][2]int64{{0, n}, {n / 2, n - n/2}, {n / 3, n / 3}, {n, 0}} {
				got, err := s.Read(t.Context(), names[i], r[0], r[1])
				if err != nil || !bytes.Equal(got, c[r[0]:r[0]+r[1]]) {
					t.Errorf("Read(%d, %d) of %d bytes = %d bytes, %v", r[0], r[1], n, len(got), err)
				}
			}
			if got, err := s.Read(t.Context(), names[i], 0, n+1); err == nil {
				t.Errorf("Read of more than there is = %d bytes, want an error", len(got))
			}
			if size, err := s.Stat(t.Context(), names[i]); err != nil || size != n {
				t.Errorf("Stat = %d, %v, want %d", size, err, n)
			}
		}
		none := block.Sum([]byte("none"))
		if _, err := s.Read(t.Context(), none, 0, 1); !errors.Is(err, fault.NotFound) {
			t.Errorf("Read of a missing blob = %v, want not found", err)
		}
		if _, err := s.Stat(t.Context(), none); !errors.Is(err, fault.NotFound) {
			t.Errorf("Stat of a missing blob = %v, want not found", err)
		}
	})
	t.Run("PutIsIdempotent", func(t *testing.T) {
		s, names := fill(t)
		if err := s.Put(t.Context(), names[1], onlyReader{bytes.NewReader(contents[1])}); err != nil {
			t.Errorf("second Put: %v", err)
		}
		got, err := s.Read(t.Context(), names[1], 0, 5000)
		if err != nil || !bytes.Equal(got, contents[1]) {
			t.Errorf("Read after a second Put = %d bytes, %v", len(got), err)
		}
	})
	t.Run("WrongBytesStayInvisible", func(t *testing.T) {
		s := open(t)
		good := Bytes(7, 100000)
		n := block.Sum(good)
		flipped := bytes.Clone(good)
		flipped[50000] ^= 1
		for what, bad := range map[string]io.Reader{
			"flipped":   bytes.NewReader(flipped),
			"truncated": bytes.NewReader(good[:99999]),
			"too much":  onlyReader{bytes.NewReader(append(bytes.Clone(good), 0))},
			"empty":     bytes.NewReader(nil),
		} {
			if err := s.Put(t.Context(), n, bad); !errors.Is(err, fault.Invalid) {
				t.Errorf("Put of %s bytes = %v, want invalid", what, err)
			}
			if _, err := s.Stat(t.Context(), n); !errors.Is(err, fault.NotFound) {
				t.Errorf("Stat after Put of %s bytes = %v, want not found", what, err)
			}
		}
		broken := fault.Errorf(fault.Denied, "the source broke")
		if err := s.Put(t.Context(), n, io.MultiReader(bytes.NewReader(good[:5]), failing{broken})); !errors.Is(err, fault.Denied) {
			t.Errorf("Put of a failing reader = %v, want its error", err)
		}
		if got, err := collect(s.List(t.Context())); err != nil || len(got) > 0 {
			t.Errorf("List = %v, %v, want nothing", got, err)
		}
		if err := s.Put(t.Context(), n, bytes.NewReader(good)); err != nil {
			t.Errorf("Put of the right bytes afterwards: %v", err)
		}
	})
	t.Run("ListDelete", func(t *testing.T) {
		s, names := fill(t)
		want := slices.SortedFunc(slices.Values(names), compare)
		got, err := collect(s.List(t.Context()))
		slices.SortFunc(got, compare)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("List = %v, %v, want %v", got, err, want)
		}
		for range 2 {
			if err := s.Delete(t.Context(), names[0]); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
		if _, err := s.Stat(t.Context(), names[0]); !errors.Is(err, fault.NotFound) {
			t.Errorf("Stat after Delete = %v, want not found", err)
		}
		if got, err := collect(s.List(t.Context())); err != nil || len(got) != len(names)-1 {
			t.Errorf("List after Delete = %v, %v", got, err)
		}
	})
}

func compare(a, b block.Name) int { return bytes.Compare(a[:], b[:]) }
