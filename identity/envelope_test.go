package identity

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"zos.internal/internal/canon"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// grid is two parties and a stranger that know each other.
type grid struct {
	book             *Book
	clock            *ticker
	user, node, evil *Endpoint
}

func newGrid(t testing.TB) *grid {
	t.Helper()
	g := &grid{book: new(Book), clock: newTicker()}
	join := func(p Party, seed byte) *Endpoint {
		k := KeysOf(SeedFrom([32]byte{seed}))
		g.book.Put(p, Entry{Address: k.Owner, Keys: []Key{{Index: 0, Role: RoleFull, Key: k.Sign.Public()}}, KEM: k.KEM.Public(), Relays: []Party{7}})
		return &Endpoint{Party: p, Key: k.Sign, KEM: NewKEMKeys(p, g.clock, k.KEM), Directory: g.book, Replays: NewMemory(100), Clock: g.clock}
	}
	g.user, g.node, g.evil = join(17, 1), join(42, 2), join(66, 3)
	return g
}

func (g *grid) request() *Message {
	return &Message{Class: Request, To: 42, Method: "zos.system.version", Body: []byte("body")}
}

func seal(t testing.TB, e *Endpoint, m *Message) []byte {
	t.Helper()
	b, err := e.Seal(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMessagesArrive(t *testing.T) {
	g := newGrid(t)
	ask := g.request()
	wire := seal(t, g.user, ask)
	if n := len(wire) - len("zos.system.version") - len("body"); n > 1300 {
		t.Errorf("the envelope adds %d bytes, 1300 are promised", n)
	}
	if bytes.Contains(wire, []byte("version")) {
		t.Error("the method is in clear")
	}
	got, err := g.node.Open(t.Context(), wire)
	if err != nil {
		t.Fatal(err)
	}
	want := *ask
	want.Role = RoleFull
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("-sent +arrived:\n%s", diff)
	}
	reply := &Message{Class: Reply, To: got.From, Request: got.ID, Code: string(fault.NotFound), Text: "there is no such thing"}
	back, err := g.user.Open(t.Context(), seal(t, g.node, reply))
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Answers(ask); err != nil {
		t.Error(err)
	}
	other := g.request()
	seal(t, g.user, other)
	foreign := *back
	foreign.From = 66
	for name, err := range map[string]error{"another request": back.Answers(other), "another party": foreign.Answers(ask), "a request": got.Answers(ask)} {
		if !errors.Is(err, fault.Denied) {
			t.Errorf("answer to %s: %v, want denied", name, err)
		}
	}
}

func TestEveryFlippedByteOfAnEnvelopeIsRefused(t *testing.T) {
	g := newGrid(t)
	wire := seal(t, g.user, g.request())
	for i := range wire {
		for _, flip := range []byte{1, 0x80} {
			bad := bytes.Clone(wire)
			bad[i] ^= flip
			if m, err := g.node.Open(t.Context(), bad); err == nil {
				t.Errorf("byte %d ^ %#x: it opens as %+v", i, flip, m)
			}
		}
	}
	for i := range wire {
		if _, err := g.node.Open(t.Context(), wire[:i]); err == nil {
			t.Errorf("cut at %d: it opens", i)
		}
	}
	if _, err := g.node.Open(t.Context(), append(bytes.Clone(wire), 0)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a byte more: %v, want invalid", err)
	}
	if _, err := g.node.Open(t.Context(), wire); err != nil {
		t.Errorf("the envelope itself doesn't open any more: %v", err)
	}
}

// A thief takes the signature off and passes the message on as his own.
func TestStrippedAndSignedAgain(t *testing.T) {
	g := newGrid(t)
	env, h, err := decodeEnvelope(seal(t, g.user, g.request()))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(e envelope) []byte {
		e.Signature = g.evil.Key.SignAs(0, TagMessage, e.covered())
		return canon.MustMarshal(e)
	}
	if m, err := g.node.Open(t.Context(), sign(*env)); !errors.Is(err, fault.Denied) {
		t.Errorf("signed by another with the header as it was: %v, %v, want denied", m, err)
	}
	mine := *h
	mine.From = 66
	if m, err := g.node.Open(t.Context(), sign(envelope{Header: canon.MustMarshal(mine), Ciphertext: env.Ciphertext})); !errors.Is(err, fault.Denied) {
		t.Errorf("signed by another who names himself: %v, %v, want denied", m, err)
	}
	// The same by the sender himself, so that only the AAD stands against it.
	for name, change := range map[string]func(*header){
		"id":      func(h *header) { h.ID[0]++ },
		"created": func(h *header) { h.Created++ },
		"ttl":     func(h *header) { h.TTL++ },
		"class":   func(h *header) { h.Class = Event },
	} {
		changed := *h
		change(&changed)
		e := envelope{Header: canon.MustMarshal(changed), Ciphertext: env.Ciphertext}
		e.Signature = g.user.Key.SignAs(0, TagMessage, e.covered())
		if m, err := g.node.Open(t.Context(), canon.MustMarshal(e)); !errors.Is(err, fault.Denied) {
			t.Errorf("%s changed and signed again: %v, %v, want denied", name, m, err)
		}
	}
}

func TestTimeOfAnEnvelope(t *testing.T) {
	g := newGrid(t)
	fresh := func(m *Message) []byte {
		g.node.Replays = NewMemory(100)
		return seal(t, g.user, m)
	}
	for _, c := range []struct {
		name string
		ttl  time.Duration
		pass time.Duration // on the receiver's clock
		want error
	}{
		{"at once", 0, 0, nil},
		{"default, at the end", 0, DefaultTTL, nil},
		{"default, after", 0, DefaultTTL + time.Millisecond, fault.Expired},
		{"one second, at the end", time.Second, time.Second, nil},
		{"one second, after", time.Second, time.Second + time.Millisecond, fault.Expired},
		{"longest, at the end", MaxTTL, MaxTTL, nil},
		{"a day late", MaxTTL, 24 * time.Hour, fault.Expired},
		{"a minute early", 0, -Skew, nil},
		{"more than a minute early", 0, -Skew - time.Millisecond, fault.Invalid},
		{"a day early", 0, -24 * time.Hour, fault.Invalid},
	} {
		m := g.request()
		m.TTL = c.ttl
		wire := fresh(m)
		g.clock.pass(c.pass)
		_, err := g.node.Open(t.Context(), wire)
		g.clock.pass(-c.pass)
		if !errors.Is(err, c.want) && err != c.want {
			t.Errorf("%s: Open = %v, want %v", c.name, err, c.want)
		}
	}
	for _, ttl := range []time.Duration{-time.Second, time.Millisecond, MaxTTL + time.Second} {
		m := g.request()
		m.TTL = ttl
		if _, err := g.user.Seal(t.Context(), m); !errors.Is(err, fault.Invalid) {
			t.Errorf("Seal with ttl %v = %v, want invalid", ttl, err)
		}
	}
}

// What a sender who breaks the rules signs is refused as well.
func TestHeadersAgainstTheRules(t *testing.T) {
	g := newGrid(t)
	good := func() header {
		return header{Version: 1, Class: Request, From: 17, To: 42, ID: MessageID{1}, Created: uint64(g.clock.Now().UnixMilli()), TTL: 60, Epoch: FirstEpoch}
	}
	forge := func(h header) []byte {
		to, _ := g.book.Lookup(t.Context(), 42)
		var e envelope
		_, ct, err := to.KEM.seal(TagMessage, func(enc []byte) []byte {
			if h.Enc == nil {
				h.Enc = enc
			}
			e.Header = canon.MustMarshal(h)
			return e.Header
		}, canon.MustMarshal(plain{Method: "m"}))
		if err != nil {
			t.Fatal(err)
		}
		e.Ciphertext = ct
		e.Signature = g.user.Key.SignAs(0, TagMessage, e.covered())
		return canon.MustMarshal(e)
	}
	if _, err := g.node.Open(t.Context(), forge(good())); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, c := range map[string]struct {
		change func(*header)
		want   error
	}{
		"version":         {func(h *header) { h.Version = 2 }, fault.Unsupported},
		"class 0":         {func(h *header) { h.Class = 0 }, fault.Invalid},
		"class 4":         {func(h *header) { h.Class = 4 }, fault.Invalid},
		"from nobody":     {func(h *header) { h.From = 0 }, fault.Invalid},
		"from above":      {func(h *header) { h.From = MaxParty + 1 }, fault.Invalid},
		"from unknown":    {func(h *header) { h.From = 99 }, fault.NotFound},
		"for another":     {func(h *header) { h.To = 43 }, fault.Denied},
		"zero id":         {func(h *header) { h.ID = MessageID{} }, fault.Invalid},
		"no ttl":          {func(h *header) { h.TTL = 0 }, fault.Invalid},
		"long ttl":        {func(h *header) { h.TTL = 1801 }, fault.Invalid},
		"huge ttl":        {func(h *header) { h.TTL = 1<<32 - 1 }, fault.Invalid},
		"no time":         {func(h *header) { h.Created = 0 }, fault.Invalid},
		"huge time":       {func(h *header) { h.Created = 1<<64 - 1 }, fault.Invalid},
		"epoch 0":         {func(h *header) { h.Epoch = 0 }, fault.Invalid},
		"next epoch":      {func(h *header) { h.Epoch = 2 }, fault.Conflict},
		"reply to none":   {func(h *header) { h.Class = Reply }, fault.Invalid},
		"short request":   {func(h *header) { h.Class, h.Request = Reply, []byte{1} }, fault.Invalid},
		"request request": {func(h *header) { h.Request = bytes.Repeat([]byte{1}, 16) }, fault.Invalid},
		"short enc":       {func(h *header) { h.Enc = []byte{1} }, fault.Invalid},
		"other enc":       {func(h *header) { h.Enc = bytes.Repeat([]byte{1}, encSize) }, fault.Denied},
	} {
		h := good()
		h.ID = MessageID{2}
		c.change(&h)
		if m, err := g.node.Open(t.Context(), forge(h)); !errors.Is(err, c.want) {
			t.Errorf("%s: Open = %v, %v, want %v", name, m, err, c.want)
		}
	}
}

func TestKeysOfTheSender(t *testing.T) {
	g := newGrid(t)
	agent := FromSeed([32]byte{88})
	e, _ := g.book.Lookup(t.Context(), 17)
	e.Keys = append(e.Keys, Key{Index: 5, Role: RoleDeploy, Key: agent.Public()})
	g.book.Put(17, e)
	program := *g.user
	program.Key, program.Index = agent, 5
	m, err := g.node.Open(t.Context(), seal(t, &program, g.request()))
	if err != nil || m.Role != RoleDeploy || m.Key != 5 {
		t.Fatalf("a program's key: %+v, %v", m, err)
	}
	wire := seal(t, &program, g.request())
	e.Keys = e.Keys[:1]
	g.book.Put(17, e)
	if _, err := g.node.Open(t.Context(), wire); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "key 5") {
		t.Errorf("a revoked key: %v, want denied", err)
	}
	program.Index = 0
	if _, err := g.node.Open(t.Context(), seal(t, &program, g.request())); !errors.Is(err, fault.Denied) {
		t.Errorf("the revoked key under another index: %v, want denied", err)
	}
}

func TestSealRefuses(t *testing.T) {
	g := newGrid(t)
	g.book.Put(50, Entry{Keys: []Key{{Key: g.user.Key.Public()}}})
	for name, c := range map[string]struct {
		m    Message
		want error
	}{
		"no KEM key":        {Message{Class: Request, To: 50}, fault.Unavailable},
		"unknown receiver":  {Message{Class: Request, To: 51}, fault.NotFound},
		"nobody":            {Message{Class: Request}, fault.Invalid},
		"no class":          {Message{To: 42}, fault.Invalid},
		"another's":         {Message{Class: Request, From: 66, To: 42}, fault.Denied},
		"request to answer": {Message{Class: Request, To: 42, Request: MessageID{1}}, fault.Invalid},
		"too large":         {Message{Class: Request, To: 42, Body: make([]byte, MaxEnvelope)}, fault.Invalid},
		"just too large":    {Message{Class: Request, To: 42, Body: make([]byte, MaxEnvelope-1200)}, fault.Invalid},
	} {
		if _, err := g.user.Seal(t.Context(), &c.m); !errors.Is(err, c.want) {
			t.Errorf("%s: Seal = %v, want %v", name, err, c.want)
		}
	}
	big := Message{Class: Event, To: 42, Body: make([]byte, MaxEnvelope-1400)}
	if _, err := g.node.Open(t.Context(), seal(t, g.user, &big)); err != nil {
		t.Errorf("a message of nearly 1 MiB: %v", err)
	}
	if _, err := g.node.Open(t.Context(), make([]byte, MaxEnvelope+1)); !errors.Is(err, fault.Invalid) {
		t.Errorf("1 MiB and a byte: %v, want invalid", err)
	}
}

func TestRotationOfTheReceiver(t *testing.T) {
	g := newGrid(t)
	before := seal(t, g.user, g.request())
	if err := g.node.KEM.Rotate(SeedFrom([32]byte{2}).KEM(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.node.Open(t.Context(), before); err != nil {
		t.Errorf("sealed to the replaced key: %v", err)
	}
	stale := seal(t, g.user, g.request())
	g.node.KEM.forget()
	g.node.KEM.old = nil
	if _, err := g.node.Open(t.Context(), stale); !errors.Is(err, fault.Expired) || !strings.Contains(err.Error(), "epoch 1, party 42 is at 2") {
		t.Errorf("sealed to a key that is gone: %v, want expired", err)
	}
}

func TestHostileSizesTakeLittleMemory(t *testing.T) {
	g := newGrid(t)
	huge := [][]byte{
		{0x83, 0x5b, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff},
		{0x9b, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff},
		append([]byte{0x99, 0xff, 0xff}, bytes.Repeat([]byte{0x40}, 0xffff)...),
		bytes.Repeat([]byte{0x81}, 1<<20),
		bytes.Repeat([]byte{0xbf}, 1<<20),
	}
	for i, b := range huge {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := g.node.Open(t.Context(), b)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("envelope %d opens", i)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("envelope %d of %d bytes: %d bytes were allocated", i, len(b), n)
		}
	}
}

// Nothing opens but the one envelope that was sealed.
func FuzzEnvelope(f *testing.F) {
	v := readVectors(f).Envelope
	wire := unhex(f, v.CBOR)
	book := new(Book)
	book.Put(v.From, Entry{Keys: []Key{{Index: 3, Role: RoleFull, Key: KeysOf(SeedFrom(counting())).Sign.Public()}}})
	at := clock.Fixed(time.UnixMilli(v.Created))
	end := Endpoint{Party: v.To, KEM: NewKEMKeys(v.To, at, SeedFrom([32]byte{}).KEM(FirstEpoch)), Directory: book, Replays: forgetful{}, Clock: at}
	if _, err := end.Open(context.Background(), wire); err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add([]byte{0x83, 0x40, 0x40, 0x83, 0, 1, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := end.Open(context.Background(), b)
		if err == nil && !bytes.Equal(b, wire) {
			t.Fatalf("%x opens as %+v, and nobody sealed it", b, m)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	g := newGrid(b)
	m := Message{Class: Request, To: 42, Method: "m", Body: make([]byte, 1024)}
	b.ReportAllocs()
	for b.Loop() {
		m.ID = MessageID{}
		if _, err := g.user.Seal(b.Context(), &m); err != nil {
			b.Fatal(err)
		}
	}
}

// forgetful lets a benchmark open one envelope again and again.
type forgetful struct{}

func (forgetful) Add(Party, MessageID, time.Time, time.Time) error { return nil }

func BenchmarkOpen(b *testing.B) {
	g := newGrid(b)
	g.node.Replays = forgetful{}
	wire, err := g.user.Seal(b.Context(), &Message{Class: Request, To: 42, Method: "m", Body: make([]byte, 1024)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.node.Open(b.Context(), wire); err != nil {
			b.Fatal(err)
		}
	}
}
