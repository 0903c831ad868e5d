package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"zos.internal/block"
	"zos.internal/block/storetest"
	"zos.internal/internal/fault"
)

// events collects what a Mirrors reports.
type events struct {
	mu  sync.Mutex
	all []block.Event
}

func (e *events) add(ev block.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) count(kind block.EventKind, source string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Kind == kind && ev.Source == source {
			n++
		}
	}
	return n
}

func TestMirrors(t *testing.T) {
	t.Run("Sound", func(t *testing.T) {
		storetest.ReadBucket(t, func(t *testing.T, files map[string][]byte) block.Bucket {
			b := filled(t, files)
			return block.NewMirrors(nil, block.Source{Name: "a", Bucket: b}, block.Source{Name: "b", Bucket: b})
		})
	})
	t.Run("FirstIsDown", func(t *testing.T) {
		files := map[string][]byte{"k": []byte("v"), "l": nil}
		down := &block.Faulty{Bucket: filled(t, files), N: 1, Plan: func(_ int, op, _ string) block.Damage {
			if op == "list" {
				return block.Breaks // after the first key
			}
			return block.Fails
		}}
		m := block.NewMirrors(nil, block.Source{Name: "down", Bucket: down}, block.Source{Name: "up", Bucket: filled(t, files)})
		if got, err := m.Read(t.Context(), "k", 0, 9); err != nil || string(got) != "v" {
			t.Errorf("Read = %q, %v", got, err)
		}
		if n, err := m.Stat(t.Context(), "k"); err != nil || n != 1 {
			t.Errorf("Stat = %d, %v", n, err)
		}
		var keys []string
		for key, err := range m.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
		}
		if !slices.Equal(keys, []string{"k", "l"}) {
			t.Errorf("List = %q", keys)
		}
		// The one that is down may have it.
		if _, err := m.Read(t.Context(), "none", 0, 9); !errors.Is(err, fault.Unavailable) {
			t.Errorf("Read of what the other source lacks = %v, want unavailable", err)
		}
	})
	t.Run("FirstIsEmpty", func(t *testing.T) {
		b := filled(t, map[string][]byte{"k": []byte("v")})
		m := block.NewMirrors(nil, block.Source{Name: "empty", Bucket: new(block.Mem)}, block.Source{Name: "full", Bucket: b})
		if got, err := m.Read(t.Context(), "k", 0, 9); err != nil || string(got) != "v" {
			t.Errorf("Read = %q, %v", got, err)
		}
	})
	t.Run("ReadOnly", func(t *testing.T) {
		m := block.NewMirrors(nil)
		if err := m.Write(t.Context(), "k", strings.NewReader("")); !errors.Is(err, fault.Unsupported) {
			t.Errorf("Write = %v, want unsupported", err)
		}
		if err := m.Delete(t.Context(), "k"); !errors.Is(err, fault.Unsupported) {
			t.Errorf("Delete = %v, want unsupported", err)
		}
		if _, err := m.Read(t.Context(), "k", 0, 1); !errors.Is(err, fault.NotFound) {
			t.Errorf("Read without a source = %v, want not found", err)
		}
	})
}

// A source that lies is asked last afterwards, and one that is down is asked
// last for a while.
func TestMirrorsDemote(t *testing.T) {
	b := filled(t, map[string][]byte{"k": []byte("value")})
	var ev events
	liar := &block.Counting{Bucket: &block.Faulty{Bucket: b, Plan: block.Always(block.Flips)}}
	honest := &block.Counting{Bucket: b}
	m := block.NewMirrors(ev.add, block.Source{Name: "liar", Bucket: liar}, block.Source{Name: "honest", Bucket: honest})
	check := func(p []byte) error {
		if string(p) != "value" {
			return errors.New("not the value")
		}
		return nil
	}
	for range 5 {
		got, err := m.ReadChecked(t.Context(), "k", 0, 10, check)
		if err != nil || string(got) != "value" {
			t.Fatalf("ReadChecked = %q, %v", got, err)
		}
	}
	if liar.Reads.Load() != 1 || honest.Reads.Load() != 5 || ev.count(block.WrongBytes, "liar") != 1 {
		t.Errorf("%d reads of the liar, %d of the honest, %d events, want 1, 5, 1",
			liar.Reads.Load(), honest.Reads.Load(), ev.count(block.WrongBytes, "liar"))
	}
}

func TestMirrorsErrorKinds(t *testing.T) {
	b := filled(t, map[string][]byte{"k": []byte("value")})
	sources := map[string]block.Bucket{
		"empty": new(block.Mem),
		"down":  &block.Faulty{Bucket: b, Plan: block.Always(block.Fails)},
		"liar":  &block.Faulty{Bucket: b, Plan: block.Always(block.Flips)},
	}
	for _, tt := range []struct {
		names string
		want  fault.Kind
	}{
		{"empty", fault.NotFound},
		{"liar", fault.Invalid},
		{"liar empty", fault.Invalid},
		{"empty down liar", fault.Unavailable},
		{"down", fault.Unavailable},
	} {
		var srcs []block.Source
		for name := range strings.FieldsSeq(tt.names) {
			srcs = append(srcs, block.Source{Name: name, Bucket: sources[name]})
		}
		_, err := block.NewMirrors(nil, srcs...).ReadChecked(t.Context(), "k", 0, 10, func(p []byte) error {
			if string(p) != "value" {
				return errors.New("not the value")
			}
			return nil
		})
		if fault.Of(err) != tt.want {
			t.Errorf("%s: %v is %q, want %q", tt.names, err, fault.Of(err), tt.want)
		}
	}
}

// The times below are those of the bubble: nothing waits.
func TestMirrorsHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := filled(t, map[string][]byte{"k": []byte("value")})
		var ev events
		slow := &block.Counting{Bucket: &block.Faulty{Bucket: b, Delay: time.Hour}}
		fast := &block.Counting{Bucket: &block.Faulty{Bucket: b, Delay: 20 * time.Millisecond}}
		m := block.NewMirrors(ev.add, block.Source{Name: "slow", Bucket: slow}, block.Source{Name: "fast", Bucket: fast})
		begin := time.Now()
		for range 25 {
			if got, err := m.Read(t.Context(), "k", 0, 10); err != nil || string(got) != "value" {
				t.Fatalf("Read = %q, %v", got, err)
			}
		}
		// 20 reads wait 500 ms for the slow source; then the percentile is known.
		if took := time.Since(begin); took > 20*520*time.Millisecond+5*70*time.Millisecond {
			t.Errorf("25 reads took %v", took)
		}
		if n := ev.count(block.Hedged, "slow"); n != 25 {
			t.Errorf("%d hedges, want 25", n)
		}
		// A fast source is never hedged.
		m = block.NewMirrors(ev.add, block.Source{Name: "fast", Bucket: fast}, block.Source{Name: "slow", Bucket: slow})
		asked := slow.Reads.Load()
		for range 25 {
			if _, err := m.Read(t.Context(), "k", 0, 10); err != nil {
				t.Fatal(err)
			}
		}
		if n := slow.Reads.Load() - asked; n != 0 {
			t.Errorf("%d reads of the second source behind a fast one, want 0", n)
		}
	})
}

func TestMirrorsForgiveAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := filled(t, map[string][]byte{"k": []byte("value")})
		first := &block.Counting{Bucket: &block.Faulty{Bucket: b, Plan: func(n int, _, _ string) block.Damage {
			if n == 0 {
				return block.Fails
			}
			return block.NoDamage
		}}}
		m := block.NewMirrors(nil, block.Source{Name: "first", Bucket: first}, block.Source{Name: "second", Bucket: b})
		read := func(want int64) {
			t.Helper()
			if _, err := m.Read(t.Context(), "k", 0, 10); err != nil {
				t.Fatal(err)
			}
			if n := first.Reads.Load(); n != want {
				t.Errorf("%d reads of the first source, want %d", n, want)
			}
		}
		read(1) // fails, the second answers
		read(1) // not asked
		time.Sleep(31 * time.Second)
		read(2) // asked again
	})
}

// Over every liar, alone and beside an honest mirror, a getter finds every
// wrong byte and never hands one out.
func TestPackGetterOverLiars(t *testing.T) {
	plains := storetest.Plains()
	for _, d := range block.Lies() {
		for seed := range int64(4) {
			t.Run(fmt.Sprintf("%d/%d", d, seed), func(t *testing.T) {
				good := new(block.Mem)
				names, places := packs(t, good, block.Domain{}, plains, 200000)
				want := map[block.Name][]byte{}
				for i, n := range names {
					want[n] = plains[i]
				}
				liar := &block.Faulty{Bucket: good, Plan: block.Always(d), Seed: seed*1001 + seed}
				// An honest mirror behind it: everything is answered right.
				var ev events
				m := block.NewMirrors(ev.add, block.Source{Name: "liar", Bucket: liar}, block.Source{Name: "honest", Bucket: good})
				storetest.Answers(t, block.NewPackGetter(m, "p/", block.Domain{}, lookup(places)), t.Context(), names, want)
				if ev.count(block.WrongBytes, "liar") == 0 {
					t.Error("no event names the liar")
				}
				if n := ev.count(block.WrongBytes, "honest"); n != 0 {
					t.Errorf("%d events blame the honest source", n)
				}
				// Alone: each chunk is right or an error.
				m = block.NewMirrors(nil, block.Source{Name: "liar", Bucket: liar})
				seen := 0
				for c, err := range block.NewPackGetter(m, "p/", block.Domain{}, lookup(places)).Get(t.Context(), names) {
					seen++
					if err == nil && !bytes.Equal(c.Data, want[c.Name]) {
						t.Errorf("Get(%v) handed out wrong bytes", c.Name)
					}
					if err != nil && !errors.Is(err, fault.Invalid) {
						t.Errorf("Get(%v) = %v, want invalid", c.Name, err)
					}
				}
				if seen != len(names) {
					t.Errorf("%d answers, want %d", seen, len(names))
				}
			})
		}
	}
}

// A wrong place is not the fault of mirrors that agree.
func TestPackGetterWrongPlace(t *testing.T) {
	b := new(block.Mem)
	plains := [][]byte{storetest.Bytes(1, 5000), storetest.Bytes(2, 5000)}
	names, places := packs(t, b, block.Domain{}, plains, 1<<20)
	places[names[0]] = places[names[1]]
	var ev events
	m := block.NewMirrors(ev.add, block.Source{Name: "a", Bucket: b}, block.Source{Name: "b", Bucket: b})
	errs := storetest.Answers(t, block.NewPackGetter(m, "p/", block.Domain{}, lookup(places)), t.Context(), names, map[block.Name][]byte{names[1]: plains[1]})
	if !errors.Is(errs[names[0]], fault.Invalid) {
		t.Errorf("Get = %v, want invalid", errs[names[0]])
	}
	if ev.count(block.WrongPlace, "") != 1 || ev.count(block.WrongBytes, "a")+ev.count(block.WrongBytes, "b") != 0 {
		t.Errorf("events = %+v, want one wrong place", ev.all)
	}
}

// Neighbours are read together, distant chunks are not, and no range is longer
// than it may be.
func TestPackGetterRequests(t *testing.T) {
	mem := new(block.Mem)
	var plains [][]byte
	for i := range uint64(200) {
		plains = append(plains, storetest.Bytes(i, 64<<10))
	}
	names, places := packs(t, mem, block.Domain{}, plains, 1<<30) // one pack, 12.5 MiB
	c := &block.Counting{Bucket: mem}
	g := block.NewPackGetter(block.NewMirrors(nil, block.Source{Name: "mem", Bucket: c}), "p/", block.Domain{}, lookup(places))
	read := func(names []block.Name) (requests, bytes int64) {
		r, b := c.Requests(), c.BytesRead.Load()
		for _, err := range g.Get(t.Context(), names) {
			if err != nil {
				t.Fatal(err)
			}
		}
		return c.Requests() - r, c.BytesRead.Load() - b
	}
	pick := func(step int) (out []block.Name) {
		for i := 0; i < len(names); i += step {
			out = append(out, names[i])
		}
		return out
	}
	for _, tt := range []struct {
		step            int
		requests, bytes int64
	}{
		{1, 2, 200 * 64 << 10},        // 8 MiB and the rest
		{3, 2, 198*64<<10 - 2*64<<10}, // gaps of 128 KiB are read over
		{4, 50, 50 * 64 << 10},        // gaps of 192 KiB are not
		{len(names), 1, 64 << 10},     // one chunk
	} {
		r, b := read(pick(tt.step))
		if r != tt.requests || b > tt.bytes+64<<10*4 || b < tt.bytes-64<<10*4 {
			t.Errorf("every %d. chunk: %d requests for %d bytes, want %d for about %d", tt.step, r, b, tt.requests, tt.bytes)
		}
	}
}

func TestPackGetterSingles(t *testing.T) {
	mem := new(block.Mem)
	open := func(t *testing.T, plains [][]byte) (block.Getter, []block.Name) {
		enc := block.NewEncoder(block.Zstd)
		var names []block.Name
		for _, p := range plains {
			n := block.Sum(p)
			e, body := enc.Encode(p)
			rec, err := block.AppendRecord(nil, block.Record{Name: n, Enc: e, Plain: len(p), Body: body})
			if err != nil {
				t.Fatal(err)
			}
			if err := mem.Write(t.Context(), "c/"+n.String(), bytes.NewReader(rec)); err != nil {
				t.Fatal(err)
			}
			names = append(names, n)
		}
		m := block.NewMirrors(nil, block.Source{Name: "mem", Bucket: mem})
		return block.NewPackGetter(m, "p/", block.Domain{}, lookup(nil), block.Singles("c/"), block.Parallel(2)), names
	}
	storetest.Getter(t, open)
	g, _ := open(t, nil)
	absent := block.Sum([]byte("absent"))
	rec, err := block.AppendRecord(nil, block.Record{Name: absent, Enc: block.Absent})
	if err != nil {
		t.Fatal(err)
	}
	if err := mem.Write(t.Context(), "c/"+absent.String(), bytes.NewReader(rec)); err != nil {
		t.Fatal(err)
	}
	if errs := storetest.Answers(t, g, t.Context(), []block.Name{absent}, nil); !errors.Is(errs[absent], fault.NotFound) {
		t.Errorf("Get of an absent chunk = %v, want not found", errs[absent])
	}
}

// A chunk whose pack is gone or wrong comes by its name, as after a hub repacked.
func TestPackGetterAfterRepacking(t *testing.T) {
	mem := new(block.Mem)
	names, places := packs(t, mem, block.Domain{}, storetest.Plains(), 100000)
	want := storetest.Plains()
	enc := block.NewEncoder(block.Zstd)
	for _, p := range want {
		e, body := enc.Encode(p)
		rec, err := block.AppendRecord(nil, block.Record{Name: block.Sum(p), Enc: e, Plain: len(p), Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if err := mem.Write(t.Context(), "c/"+block.Sum(p).String(), bytes.NewReader(rec)); err != nil {
			t.Fatal(err)
		}
	}
	m := block.NewMirrors(nil, block.Source{Name: "mem", Bucket: mem})
	plain := block.NewPackGetter(m, "p/", block.Domain{}, lookup(places))
	g := block.NewPackGetter(m, "p/", block.Domain{}, lookup(places), block.Singles("c/"))
	for _, damage := range []string{"wrong", "gone"} {
		for key, err := range mem.List(t.Context(), "p/") {
			if err != nil {
				t.Fatal(err)
			}
			size, err := mem.Stat(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if damage == "gone" {
				err = mem.Delete(t.Context(), key)
			} else {
				err = mem.Write(t.Context(), key, bytes.NewReader(bytes.Repeat([]byte{0xa5}, int(size))))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if errs := storetest.Answers(t, plain, t.Context(), names, nil); len(errs) != len(names) {
			t.Errorf("%s packs: %d errors without singles, want %d", damage, len(errs), len(names))
		}
		got := 0
		for c, err := range g.Get(t.Context(), names) {
			if err != nil {
				t.Errorf("%s packs: Get(%v) = %v", damage, c.Name, err)
				continue
			}
			if block.Sum(c.Data) != c.Name {
				t.Errorf("%s packs: wrong bytes for %v", damage, c.Name)
			}
			got++
		}
		if got != len(names) {
			t.Errorf("%s packs: %d chunks, want %d", damage, got, len(names))
		}
	}
}

// A caller who gives up is answered at once for every name, though no source
// moves.
func TestPackGetterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := new(block.Mem)
		names, places := packs(t, mem, block.Domain{}, storetest.Plains(), 100000)
		stuck := &block.Faulty{Bucket: mem, Delay: 24 * time.Hour}
		m := block.NewMirrors(nil, block.Source{Name: "stuck", Bucket: stuck}, block.Source{Name: "stuck too", Bucket: stuck})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		errs := storetest.Answers(t, block.NewPackGetter(m, "p/", block.Domain{}, lookup(places)), ctx, names, nil)
		for n, err := range errs {
			if !errors.Is(err, fault.Unavailable) {
				t.Errorf("Get(%v) = %v, want unavailable", n, err)
			}
		}
		if len(errs) != len(names) || time.Since(begin) != time.Minute {
			t.Errorf("%d errors for %d names after %v, want one each after a minute", len(errs), len(names), time.Since(begin))
		}
	})
}
