package identity

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"zos.internal/internal/fault"
)

func openJournal(t testing.TB, path string, most int, now time.Time) *Journal {
	t.Helper()
	j, err := OpenReplays(path, most, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestReplayedEnvelopes(t *testing.T) {
	g := newGrid(t)
	path := filepath.Join(t.TempDir(), "replays")
	j := openJournal(t, path, 100, g.clock.Now())
	g.node.Replays = j
	m := g.request()
	m.TTL = MaxTTL
	wire := seal(t, g.user, m)
	if _, err := g.node.Open(t.Context(), wire); err != nil {
		t.Fatal(err)
	}
	again := func(when string) {
		t.Helper()
		_, err := g.node.Open(t.Context(), wire)
		var r *Repeat
		if !errors.As(err, &r) || r.From != 17 || r.ID != m.ID || fault.Of(err) != fault.Conflict || !errors.Is(err, fault.Conflict) {
			t.Errorf("replay %s: Open = %v, want a repeat", when, err)
		}
	}
	again("at once")
	g.clock.pass(MaxTTL)
	again("at the end of its ttl")

	// The same by a receiver that was started anew.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	g.node.Replays = openJournal(t, path, 100, g.clock.Now())
	again("after a restart")
	g.clock.pass(time.Millisecond)
	if _, err := g.node.Open(t.Context(), wire); !errors.Is(err, fault.Expired) {
		t.Errorf("replay after its ttl: %v, want expired", err)
	}
	// A clock that is set back brings nothing back.
	g.clock.pass(Skew)
	if _, err := g.node.Open(t.Context(), seal(t, g.user, g.request())); err != nil {
		t.Fatal(err)
	}
	g.clock.pass(-MaxTTL)
	if _, err := g.node.Open(t.Context(), wire); !errors.Is(err, fault.Expired) {
		t.Errorf("replay with the clock set back: %v, want expired", err)
	}
	if m, err := g.user.Open(t.Context(), wire); !errors.Is(err, fault.Denied) {
		t.Errorf("reflected to its sender: %v, %v, want denied", m, err)
	}
}

func TestReplaysWhenFull(t *testing.T) {
	now := newTicker().Now()
	m := NewMemory(8)
	until := now.Add(time.Minute)
	add := func(p Party, n byte, at time.Time) error { return m.Add(p, MessageID{n}, at, until) }
	for n := range byte(2) {
		if err := add(1, n, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(1, 2, now); !errors.Is(err, fault.Exhausted) {
		t.Errorf("more than a sender's share: %v, want exhausted", err)
	}
	for p := Party(2); p <= 4; p++ {
		for n := range byte(2) {
			if err := add(p, n, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := add(5, 0, until); !errors.Is(err, fault.Exhausted) {
		t.Errorf("full: %v, want exhausted", err)
	}
	if err := add(1, 0, until); !errors.Is(err, fault.Conflict) {
		t.Errorf("a full memory forgot a message: %v, want a repeat", err)
	}
	later := until.Add(time.Millisecond)
	if err := m.Add(5, MessageID{}, later, later.Add(time.Minute)); err != nil {
		t.Errorf("after their time: %v", err)
	}
	if len(m.until) != 1 || len(m.queue) != 1 || len(m.per) != 1 {
		t.Errorf("%d messages, %d in the queue and %d senders are left, want 1 of each", len(m.until), len(m.queue), len(m.per))
	}
}

// Of many who bring the same message one is told that it is new.
func TestReplaysAreAtomic(t *testing.T) {
	now := newTicker().Now()
	j := openJournal(t, filepath.Join(t.TempDir(), "replays"), 100, now)
	for name, r := range map[string]Replays{"memory": NewMemory(100), "journal": j} {
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { errs[i] = r.Add(1, MessageID{1}, now, now.Add(time.Minute)) })
		}
		wg.Wait()
		first := 0
		for _, err := range errs {
			if err == nil {
				first++
			} else if !errors.Is(err, fault.Conflict) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if first != 1 {
			t.Errorf("%s: the message was new %d times", name, first)
		}
	}
}

// Memory and Journal, over restarts, against a map that is searched.
func TestReplaysRememberExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "replays")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "j")
		now := newTicker().Now()
		memory := NewMemory(1000)
		j, err := OpenReplays(path, 1000, now)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { j.Close() }()
		known := make(map[opened]time.Time)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "pass")) * time.Second)
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				j.Close()
				if j, err = OpenReplays(path, 1000, now); err != nil {
					t.Fatal(err)
				}
			}
			o := opened{Party(rapid.IntRange(1, 2).Draw(t, "from")), MessageID{byte(rapid.IntRange(1, 5).Draw(t, "id"))}}
			until := now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "for")) * time.Second)
			over, here := known[o]
			here = here && !now.After(over)
			for name, r := range map[string]Replays{"memory": memory, "journal": j} {
				err := r.Add(o.from, o.id, now, until)
				if here != errors.Is(err, fault.Conflict) || !here && err != nil {
					t.Fatalf("%s: Add(%v) = %v, remembered: %v", name, o, err, here)
				}
			}
			if !here {
				known[o] = until
			}
		}
	})
}

func TestJournalAfterACrash(t *testing.T) {
	now := newTicker().Now()
	path := filepath.Join(t.TempDir(), "replays")
	j := openJournal(t, path, 100, now)
	for n := range byte(3) {
		if err := j.Add(1, MessageID{n}, now, now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenReplays(path, 100, now); !errors.Is(err, fault.Conflict) {
		t.Fatalf("a second process: %v, want conflict", err)
	}
	j.Close()
	whole, err := os.ReadFile(path)
	if err != nil || len(whole) != len(journalMagic)+3*recordSize {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	for cut := len(whole); cut >= len(journalMagic); cut-- {
		os.WriteFile(path, whole[:cut], 0o600)
		j := openJournal(t, path, 100, now)
		complete := (cut - len(journalMagic)) / recordSize
		for n := range 3 {
			err := j.Add(1, MessageID{byte(n)}, now, now.Add(time.Minute))
			if (n < complete) != errors.Is(err, fault.Conflict) || n >= complete && err != nil {
				t.Fatalf("cut at %d: Add of message %d = %v, %d were complete", cut, n, err, complete)
			}
		}
		j.Close()
	}
	// A record that a power cut left as zeros is as good as none; one in the middle
	// is damage.
	torn := append(append([]byte{}, whole...), make([]byte, recordSize)...)
	os.WriteFile(path, torn, 0o600)
	openJournal(t, path, 100, now).Close()
	for name, b := range map[string][]byte{
		"no magic":    append([]byte("hello"), whole[5:]...),
		"short":       whole[:4],
		"middle":      append(append(append([]byte{}, whole[:len(journalMagic)]...), make([]byte, recordSize)...), whole[len(journalMagic):]...),
		"much longer": append(whole, make([]byte, maxJournal)...),
	} {
		os.WriteFile(path, b, 0o600)
		if _, err := OpenReplays(path, 100, now); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: OpenReplays = %v, want invalid", name, err)
		}
	}
}

func TestJournalStaysSmall(t *testing.T) {
	now := newTicker().Now()
	path := filepath.Join(t.TempDir(), "replays")
	j := openJournal(t, path, 4, now)
	for n := range 1100 {
		now = now.Add(time.Minute)
		if err := j.Add(1, MessageID{byte(n), byte(n >> 8)}, now, now.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Size() > 10<<10 {
		t.Errorf("the file has %d bytes after 1100 messages, %v", st.Size(), err)
	}
}

// A disk that takes nothing loses nothing and lets nothing through.
func TestJournalOnABrokenDisk(t *testing.T) {
	now := newTicker().Now()
	path := filepath.Join(t.TempDir(), "replays")
	j := openJournal(t, path, 100, now)
	if err := j.Add(1, MessageID{1}, now, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	j.file.Close() // the next write fails
	if err := j.Add(1, MessageID{2}, now, now.Add(time.Minute)); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("Add = %v, want unavailable", err)
	}
	if err := j.Add(1, MessageID{2}, now, now.Add(time.Minute)); err != nil {
		t.Errorf("the same message again: %v", err)
	}
	if err := j.Add(1, MessageID{1}, now, now.Add(time.Minute)); !errors.Is(err, fault.Conflict) {
		t.Errorf("the message of before: %v, want a repeat", err)
	}
	j.Close()
	for range 2 {
		if err := j.Add(1, MessageID{3}, now, now.Add(time.Minute)); !errors.Is(err, fault.Unavailable) {
			t.Errorf("Add after Close = %v, want unavailable", err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(journalMagic))
	f.Add(appendRecord([]byte(journalMagic), opened{1, MessageID{1}}, time.UnixMilli(1_900_000_000_000)))
	dir := f.TempDir()
	now := newTicker().Now()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "j")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := OpenReplays(path, 10, now)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		defer j.Close()
		if n := len(j.memory.until); n > len(b)/recordSize {
			t.Fatalf("%d messages from %d bytes", n, len(b))
		}
	})
}
