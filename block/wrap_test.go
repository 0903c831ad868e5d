package block_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"zos.internal/block"
	"zos.internal/block/storetest"
	"zos.internal/internal/fault"
)

func noSleep(context.Context, time.Duration) error { return nil }

// Every wrapper is a bucket: it passes the suite around a sound store.
func TestWrappers(t *testing.T) {
	for name, wrap := range map[string]func(block.Bucket) block.Bucket{
		"Retry":    func(b block.Bucket) block.Bucket { return &block.Retry{Bucket: b, Sleep: noSleep} },
		"Limit":    func(b block.Bucket) block.Bucket { return block.NewLimit(b, 2) },
		"Counting": func(b block.Bucket) block.Bucket { return &block.Counting{Bucket: b} },
		"Faulty":   func(b block.Bucket) block.Bucket { return &block.Faulty{Bucket: b} },
		// Every third operation fails or breaks, and nobody notices.
		"RetryFaulty": func(b block.Bucket) block.Bucket {
			return &block.Retry{Tries: 100, Sleep: noSleep, Bucket: &block.Faulty{Bucket: b, N: 3, Plan: func(n int, op, _ string) block.Damage {
				switch {
				case op == "write": // its reader can't always be rewound
					return block.NoDamage
				case n%3 == 0:
					return block.Fails
				case n%3 == 1:
					return block.Breaks
				}
				return block.NoDamage
			}}}
		},
		"All": func(b block.Bucket) block.Bucket {
			return block.NewLimit(&block.Retry{Bucket: &block.Counting{Bucket: b}, Sleep: noSleep}, 1)
		},
	} {
		open := func(*testing.T) block.Bucket { return wrap(new(block.Mem)) }
		t.Run(name, func(t *testing.T) {
			storetest.Bucket(t, open)
			blobsSuite(t, open)
		})
	}
	t.Run("ReadOnly", func(t *testing.T) {
		storetest.ReadBucket(t, func(t *testing.T, files map[string][]byte) block.Bucket {
			return block.ReadOnly{Bucket: filled(t, files)}
		})
		b := block.ReadOnly{Bucket: filled(t, map[string][]byte{"x": nil})}
		if err := b.Write(t.Context(), "x", strings.NewReader("")); !errors.Is(err, fault.Denied) {
			t.Errorf("Write = %v, want denied", err)
		}
		if err := b.Delete(t.Context(), "x"); !errors.Is(err, fault.Denied) {
			t.Errorf("Delete = %v, want denied", err)
		}
	})
}

func filled(t testing.TB, files map[string][]byte) *block.Mem {
	t.Helper()
	m := new(block.Mem)
	for key, data := range files {
		if err := m.Write(t.Context(), key, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestRetryOnlyWhatMayHelp(t *testing.T) {
	for _, kind := range fault.Kinds() {
		tries := 0
		b := &block.Retry{Tries: 3, Sleep: noSleep, Bucket: failingBucket{func() error {
			tries++
			return fault.Errorf(kind, "no")
		}}}
		_, err := b.Read(t.Context(), "k", 0, 1)
		want := 1
		if kind == fault.Unavailable {
			want = 3
		}
		if !errors.Is(err, kind) || tries != want {
			t.Errorf("Read that fails as %q: %d tries, error %v, want %d", kind, tries, err, want)
		}
	}
}

type failingBucket struct{ fail func() error }

func (f failingBucket) Read(context.Context, string, int64, int64) ([]byte, error) {
	return nil, f.fail()
}
func (f failingBucket) Write(_ context.Context, _ string, r io.Reader) error {
	if _, err := io.ReadAll(r); err != nil {
		return err
	}
	return f.fail()
}
func (f failingBucket) Stat(context.Context, string) (int64, error) { return 0, f.fail() }
func (f failingBucket) List(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", f.fail()) }
}
func (f failingBucket) Delete(context.Context, string) error { return f.fail() }

func TestRetryWaits(t *testing.T) {
	var waits []time.Duration
	b := &block.Retry{Tries: 6, Base: 100 * time.Millisecond, Max: 400 * time.Millisecond,
		Sleep: func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil },
		Bucket: failingBucket{func() error {
			return fault.Errorf(fault.Unavailable, "no")
		}}}
	_, _ = b.Stat(t.Context(), "k")
	bounds := []time.Duration{100, 200, 400, 400, 400}
	if len(waits) != len(bounds) {
		t.Fatalf("%d waits, want %d", len(waits), len(bounds))
	}
	for i, w := range waits {
		if most := bounds[i] * time.Millisecond; w < most/2 || w > most {
			t.Errorf("wait %d = %v, want %v to %v", i, w, most/2, most)
		}
	}
}

// A Put through a Retry goes back to the start of the bytes, and the name is
// still checked over all of them.
func TestRetryRewindsPut(t *testing.T) {
	data := storetest.Bytes(1, 100000)
	for _, tt := range []struct {
		name string
		r    io.Reader
		ok   bool
	}{
		{"seekable", bytes.NewReader(data), true},
		{"stream", struct{ io.Reader }{bytes.NewReader(data)}, false},
	} {
		m := new(block.Mem)
		b := block.BlobsIn(&block.Retry{Sleep: noSleep, Bucket: &block.Faulty{Bucket: m, N: 777, Plan: func(n int, _, _ string) block.Damage {
			if n < 2 {
				return block.Breaks
			}
			return block.NoDamage
		}}}, "p/")
		err := b.Put(t.Context(), block.Sum(data), tt.r)
		if tt.ok && err != nil || !tt.ok && !errors.Is(err, fault.Unavailable) {
			t.Errorf("%s: Put = %v", tt.name, err)
		}
		_, err = b.Stat(t.Context(), block.Sum(data))
		if (err == nil) != tt.ok {
			t.Errorf("%s: Stat = %v, want there: %v", tt.name, err, tt.ok)
		}
	}
}

func TestLimitHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		b := block.NewLimit(failingBucket{func() error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second) // the clock of the bubble
			now.Add(-1)
			return nil
		}}, 3)
		for range 10 {
			go func() { _, _ = b.Stat(t.Context(), "k") }()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if most.Load() != 3 {
			t.Errorf("%d operations at a time, want 3", most.Load())
		}
	})
}

func TestCounting(t *testing.T) {
	c := &block.Counting{Bucket: new(block.Mem)}
	ctx := t.Context()
	_ = c.Write(ctx, "a", strings.NewReader("hello"))
	_, _ = c.Read(ctx, "a", 1, 3)
	_, _ = c.Read(ctx, "none", 1, 3)
	_, _ = c.Stat(ctx, "a")
	for range c.List(ctx, "") {
	}
	_ = c.Delete(ctx, "a")
	got := []int64{c.Writes.Load(), c.Reads.Load(), c.Stats.Load(), c.Lists.Load(), c.Deletes.Load(), c.Errors.Load(), c.BytesRead.Load(), c.BytesWritten.Load(), c.Requests()}
	if want := []int64{1, 2, 1, 1, 1, 1, 3, 5, 6}; !slices.Equal(got, want) {
		t.Errorf("counters = %v, want %v", got, want)
	}
}
