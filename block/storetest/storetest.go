// Package storetest holds the conformance suites of the stores of package block.
//
// Every implementation and every wrapper of block.Bucket, block.Blobs and
// block.Getter runs its suite, also on top of block.Faulty, so that the contracts
// in package block mean the same everywhere. The suites use the exported API
// only, open no network and never sleep.
//
//	func TestMem(t *testing.T) {
//		storetest.Bucket(t, func(t *testing.T) block.Bucket { return new(block.Mem) })
//	}
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// files is what the read suite expects to find.
func files() map[string][]byte {
	return map[string][]byte{
		"a":              []byte("one"),
		"a-b":            []byte("two"),
		"d/e/f":          Bytes(1, 70000),
		"d/e.g":          []byte("three"),
		"d/empty":        {},
		"d_/x":           []byte("four"),
		"p/" + long('0'): []byte("five"),
		"p/" + long('f'): []byte("six"),
	}
}

func long(c byte) string { return strings.Repeat(string(c), 64) }

// Bytes is n bytes that depend on seed and don't compress.
func Bytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}

// Text is n bytes that depend on seed and compress well.
func Text(seed uint64, n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d of text %d, nothing to see here\n", i, seed)
	}
	return b.Bytes()[:n]
}

// badKeys are refused by every bucket.
var badKeys = []string{
	"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", ".hidden", "a/.tmp", "a b", "a\x00b", "a\\b",
	"é", "a:b", "a%2e", "a?b", "a#b", strings.Repeat("a", block.MaxKey+1),
}

// ReadBucket checks the reading half of a bucket that holds the given files and
// nothing else. Buckets that can't list say so with Unsupported.
func ReadBucket(t *testing.T, open func(t *testing.T, files map[string][]byte) block.Bucket) {
	t.Run("Read", func(t *testing.T) {
		b, want := open(t, files()), files()
		for key, data := range want {
			n := int64(len(data))
			for _, r := range [][2]int64{{0, n}, {0, n + 10}, {0, 1}, {1, n}, {n / 2, 10}, {n, 5}, {n + 7, 5}, {0, 0}, {n, 0}} {
				lo := min(r[0], n)
				hi := min(lo+r[1], n)
				got, err := b.Read(t.Context(), key, r[0], r[1])
				if err != nil || !bytes.Equal(got, data[lo:hi]) {
					t.Errorf("Read(%s, %d, %d) = %d bytes, %v, want %d bytes of the file", key, r[0], r[1], len(got), err, hi-lo)
				}
			}
			if size, err := b.Stat(t.Context(), key); err != nil || size != n {
				t.Errorf("Stat(%s) = %d, %v, want %d", key, size, err, n)
			}
		}
	})
	t.Run("NotFound", func(t *testing.T) {
		b := open(t, files())
		for _, key := range []string{"nope", "d", "d/e", "d/e/f/g", "p", "p/" + long('1')} {
			if _, err := b.Read(t.Context(), key, 0, 10); !errors.Is(err, fault.NotFound) {
				t.Errorf("Read(%s) = %v, want not found", key, err)
			}
			if _, err := b.Read(t.Context(), key, 0, 0); !errors.Is(err, fault.NotFound) {
				t.Errorf("Read(%s) of nothing = %v, want not found", key, err)
			}
			if _, err := b.Stat(t.Context(), key); !errors.Is(err, fault.NotFound) {
				t.Errorf("Stat(%s) = %v, want not found", key, err)
			}
		}
	})
	t.Run("Refused", func(t *testing.T) {
		b := open(t, files())
		for _, key := range badKeys {
			if _, err := b.Read(t.Context(), key, 0, 10); !errors.Is(err, fault.Invalid) {
				t.Errorf("Read(%.80q) = %v, want invalid", key, err)
			}
			if _, err := b.Stat(t.Context(), key); !errors.Is(err, fault.Invalid) {
				t.Errorf("Stat(%.80q) = %v, want invalid", key, err)
			}
		}
		for _, r := range [][2]int64{{-1, 1}, {0, -1}, {1 << 62, 1<<63 - 1}} {
			if _, err := b.Read(t.Context(), "a", r[0], r[1]); !errors.Is(err, fault.Invalid) {
				t.Errorf("Read(a, %d, %d) = %v, want invalid", r[0], r[1], err)
			}
		}
	})
	t.Run("List", func(t *testing.T) {
		b := open(t, files())
		for _, prefix := range []string{"", "a", "d", "d/", "d/e", "d/e/", "p/", "p/0", "zz"} {
			want := []string{}
			for key := range files() {
				if strings.HasPrefix(key, prefix) {
					want = append(want, key)
				}
			}
			slices.Sort(want)
			got, err := collect(b.List(t.Context(), prefix))
			if errors.Is(err, fault.Unsupported) {
				t.Skip("this bucket does not list")
			}
			if err != nil {
				t.Fatalf("List(%q): %v", prefix, err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("List(%q) (-want +got):\n%s", prefix, d)
			}
		}
		for range b.List(t.Context(), "") {
			break // stopping early must not panic or hang
		}
		if _, err := collect(b.List(t.Context(), "../")); !errors.Is(err, fault.Invalid) {
			t.Errorf("List(../) = %v, want invalid", err)
		}
	})
	t.Run("Cancelled", func(t *testing.T) {
		b := open(t, files())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Read(ctx, "a", 0, 3); !errors.Is(err, fault.Unavailable) {
			t.Errorf("Read after cancel = %v, want unavailable", err)
		}
	})
	t.Run("Concurrent", func(t *testing.T) {
		b, want := open(t, files()), files()["d/e/f"]
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				off := int64(i * 1000)
				got, err := b.Read(t.Context(), "d/e/f", off, 1000)
				if err != nil || !bytes.Equal(got, want[off:off+1000]) {
					t.Errorf("Read at %d = %d bytes, %v", off, len(got), err)
				}
			})
		}
		wg.Wait()
	})
}

// Bucket checks all of a bucket. open returns an empty one.
func Bucket(t *testing.T, open func(t *testing.T) block.Bucket) {
	ReadBucket(t, func(t *testing.T, files map[string][]byte) block.Bucket {
		b := open(t)
		for key, data := range files {
			if err := b.Write(t.Context(), key, bytes.NewReader(data)); err != nil {
				t.Fatalf("Write(%s): %v", key, err)
			}
		}
		return b
	})
	t.Run("Write", func(t *testing.T) {
		b := open(t)
		for _, data := range [][]byte{[]byte("first"), []byte("the second is longer"), {}, Bytes(2, 300000)} {
			// A plain reader: neither its length nor its start can be found.
			if err := b.Write(t.Context(), "x/y", onlyReader{bytes.NewReader(data)}); err != nil {
				t.Fatalf("Write: %v", err)
			}
			got, err := b.Read(t.Context(), "x/y", 0, int64(len(data))+100)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("Read after Write of %d bytes = %d bytes, %v", len(data), len(got), err)
			}
		}
	})
	t.Run("AllOrNothing", func(t *testing.T) {
		b := open(t)
		if err := b.Write(t.Context(), "x", strings.NewReader("old")); err != nil {
			t.Fatal(err)
		}
		broken := fault.Errorf(fault.Denied, "the source broke")
		for _, key := range []string{"x", "new/y"} {
			err := b.Write(t.Context(), key, io.MultiReader(bytes.NewReader(Bytes(3, 100000)), failing{broken}))
			if !errors.Is(err, fault.Denied) {
				t.Errorf("Write(%s) of a failing reader = %v, want its error", key, err)
			}
		}
		if got, err := b.Read(t.Context(), "x", 0, 10); err != nil || string(got) != "old" {
			t.Errorf("Read after a failed Write = %q, %v, want the old bytes", got, err)
		}
		got, err := collect(b.List(t.Context(), ""))
		if err != nil || !slices.Equal(got, []string{"x"}) {
			t.Errorf("List after failed writes = %q, %v, want only x", got, err)
		}
	})
	t.Run("WriteRefused", func(t *testing.T) {
		b := open(t)
		for _, key := range badKeys {
			if err := b.Write(t.Context(), key, strings.NewReader("x")); !errors.Is(err, fault.Invalid) {
				t.Errorf("Write(%.80q) = %v, want invalid", key, err)
			}
			if err := b.Delete(t.Context(), key); !errors.Is(err, fault.Invalid) {
				t.Errorf("Delete(%.80q) = %v, want invalid", key, err)
			}
		}
		if got, err := collect(b.List(t.Context(), "")); err != nil || len(got) > 0 {
			t.Errorf("List after refused writes = %q, %v, want nothing", got, err)
		}
	})
	t.Run("Delete", func(t *testing.T) {
		b := open(t)
		for _, key := range []string{"x", "x.y", "z/x"} {
			if err := b.Write(t.Context(), key, strings.NewReader(key)); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range []string{"x", "z/x", "x", "never", "x.y/below"} {
			if err := b.Delete(t.Context(), key); err != nil {
				t.Errorf("Delete(%s): %v", key, err)
			}
		}
		got, err := collect(b.List(t.Context(), ""))
		if err != nil || !slices.Equal(got, []string{"x.y"}) {
			t.Errorf("List after Delete = %q, %v, want x.y", got, err)
		}
	})
	t.Run("WriteCancelled", func(t *testing.T) {
		b := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Write(ctx, "x", strings.NewReader("x")); !errors.Is(err, fault.Unavailable) {
			t.Errorf("Write after cancel = %v, want unavailable", err)
		}
		if _, err := b.Stat(t.Context(), "x"); !errors.Is(err, fault.NotFound) {
			t.Errorf("Stat after a cancelled Write = %v, want not found", err)
		}
	})
	t.Run("Writers", func(t *testing.T) {
		b := open(t)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				if err := b.Write(t.Context(), "same", bytes.NewReader(bytes.Repeat([]byte{byte(i)}, 5000))); err != nil {
					t.Errorf("Write: %v", err)
				}
			})
		}
		wg.Wait()
		got, err := b.Read(t.Context(), "same", 0, 9000)
		if err != nil || len(got) != 5000 || !bytes.Equal(got, bytes.Repeat(got[:1], 5000)) {
			t.Errorf("Read = %d bytes, %v, want those of one writer", len(got), err)
		}
	})
}

type onlyReader struct{ io.Reader }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	out := []T{}
	for v, err := range seq {
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}
