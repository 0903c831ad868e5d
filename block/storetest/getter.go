package storetest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// Plains is the content that Getter asks to be stored: chunks of many lengths,
// some of which compress.
func Plains() [][]byte {
	var ps [][]byte
	for i := range uint64(24) {
		n := 1 + int(i*i*i)*11
		if i%2 == 0 {
			ps = append(ps, Text(i, n))
		} else {
			ps = append(ps, Bytes(i, n))
		}
	}
	return append(ps, Bytes(99, block.Image.Max), []byte{0}, make([]byte, 100000))
}

// Getter checks a getter of chunks. open returns one that has exactly the given
// chunks, and their names in the same order.
func Getter(t *testing.T, open func(t *testing.T, plains [][]byte) (block.Getter, []block.Name)) {
	plains := Plains()
	byName := func(names []block.Name) map[block.Name][]byte {
		m := map[block.Name][]byte{}
		for i, n := range names {
			m[n] = plains[i]
		}
		return m
	}
	t.Run("All", func(t *testing.T) {
		g, names := open(t, plains)
		Answers(t, g, t.Context(), names, byName(names))
		Answers(t, g, t.Context(), names, byName(names)) // also the second time
	})
	t.Run("Few", func(t *testing.T) {
		g, names := open(t, plains)
		Answers(t, g, t.Context(), nil, nil)
		Answers(t, g, t.Context(), names[3:4], byName(names))
		Answers(t, g, t.Context(), []block.Name{names[9], names[2], names[20]}, byName(names))
	})
	t.Run("RepeatedNames", func(t *testing.T) {
		g, names := open(t, plains)
		Answers(t, g, t.Context(), []block.Name{names[1], names[2], names[1], names[1]}, byName(names))
	})
	t.Run("Missing", func(t *testing.T) {
		g, names := open(t, plains)
		none := block.Sum([]byte("none"))
		got := Answers(t, g, t.Context(), []block.Name{names[0], none, names[1]}, byName(names))
		if !errors.Is(got[none], fault.NotFound) {
			t.Errorf("Get of a missing chunk = %v, want not found", got[none])
		}
	})
	t.Run("DataBelongsToCaller", func(t *testing.T) {
		g, names := open(t, plains)
		for range 2 {
			for c, err := range g.Get(t.Context(), names) {
				if err != nil {
					t.Fatalf("Get(%v): %v", c.Name, err)
				}
				if !bytes.Equal(c.Data, byName(names)[c.Name]) {
					t.Fatalf("Get(%v): another caller's writes are seen", c.Name)
				}
				clear(c.Data)
				_ = append(c.Data, 1)
			}
		}
	})
	t.Run("StopEarly", func(t *testing.T) {
		g, names := open(t, plains)
		for range g.Get(t.Context(), names) {
			break
		}
		Answers(t, g, t.Context(), names, byName(names))
	})
	t.Run("Cancelled", func(t *testing.T) {
		g, names := open(t, plains)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for n, err := range Answers(t, g, ctx, names, byName(names)) {
			// What is at hand may be answered all the same.
			if err != nil && !errors.Is(err, fault.Unavailable) {
				t.Errorf("Get(%v) after cancel = %v, want unavailable", n, err)
			}
		}
	})
	t.Run("Concurrent", func(t *testing.T) {
		g, names := open(t, plains)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { Answers(t, g, t.Context(), names, byName(names)) })
		}
		wg.Wait()
	})
}

// Answers gets names and checks that each is answered exactly once, by the bytes
// in want or by an error without bytes. It returns the errors by name. An error
// for a name in want is a failure of the test unless ctx ended.
func Answers(t testing.TB, g block.Getter, ctx context.Context, names []block.Name, want map[block.Name][]byte) map[block.Name]error {
	t.Helper()
	asked := map[block.Name]bool{}
	for _, n := range names {
		asked[n] = true
	}
	errs := map[block.Name]error{}
	seen := map[block.Name]bool{}
	for c, err := range g.Get(ctx, names) {
		switch {
		case !asked[c.Name]:
			t.Errorf("Get answered %v, which was not asked for (error %v)", c.Name, err)
		case seen[c.Name]:
			t.Errorf("Get answered %v twice", c.Name)
		case err != nil && c.Data != nil:
			t.Errorf("Get(%v) gave bytes beside the error %v", c.Name, err)
		case err != nil:
			errs[c.Name] = err
			if _, ok := want[c.Name]; ok && ctx.Err() == nil {
				t.Errorf("Get(%v): %v", c.Name, err)
			}
		default:
			if w, ok := want[c.Name]; !ok || !bytes.Equal(c.Data, w) {
				t.Errorf("Get(%v) = %d bytes that are not the chunk", c.Name, len(c.Data))
			}
		}
		seen[c.Name] = true
	}
	for n := range asked {
		if !seen[n] {
			t.Errorf("Get did not answer %v", n)
		}
	}
	return errs
}
