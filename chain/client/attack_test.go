package client_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// serve is a server of the test's own making.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	c, err := client.New(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestWitnessesThatDisagree: what one witness denies isn't believed, a witness
// that is away makes nothing a lie, and one honest witness is enough.
func TestWitnessesThatDisagree(t *testing.T) {
	g := newGrid(t, "test-1")
	other := newGrid(t, "test-1")
	for i := range 6 {
		other.farm(fmt.Sprintf("other-%d", i))
	}
	trust := g.trust()
	evil := func() (*client.Client, *atomic.Bool) {
		var on atomic.Bool
		return liar(t, g, func(path string, body []byte) []byte {
			height, isLight := strings.CutPrefix(path, chain.PathLight)
			if !on.Load() || !isLight {
				return body
			}
			var answer chain.LightBlock
			if err := other.client.Get(t.Context(), chain.PathLight+height, &answer); err != nil {
				return body
			}
			b, err := json.Marshal(answer)
			if err != nil {
				t.Error(err)
			}
			return b
		}), &on
	}
	w, on := evil()
	l, err := client.NewLight(t.Context(), client.Options{Chain: "test-1", Trust: trust, Primary: g.client, Witnesses: []*client.Client{w}})
	if err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	l.After(g.farm("disputed"))
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err == nil {
		t.Error("a block that the only witness denies is believed")
	}
	w, on = evil()
	l, err = client.NewLight(t.Context(), client.Options{Chain: "test-1", Trust: trust, Primary: g.client, Witnesses: []*client.Client{w, g.client}})
	if err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	l.After(g.farm("witnessed"))
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
		t.Errorf("an honest witness beside a lying one: %v", err)
	}
	var away atomic.Bool
	gone := liar(t, g, func(path string, body []byte) []byte {
		if away.Load() && strings.HasPrefix(path, chain.PathLight) {
			panic(http.ErrAbortHandler)
		}
		return body
	})
	l, err = client.NewLight(t.Context(), client.Options{Chain: "test-1", Trust: trust, Primary: g.client, Witnesses: []*client.Client{gone}})
	if err != nil {
		t.Fatal(err)
	}
	away.Store(true)
	l.After(g.farm("alone"))
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); !errors.Is(err, fault.Unavailable) {
		t.Errorf("the only witness is away: %v", err)
	}
	away.Store(false)
	l.After(g.farm("together"))
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
		t.Errorf("the witness is back: %v", err)
	}
}

// TestAWitnessMayBeAway for a while, or behind, without being forgotten.
func TestAWitnessMayBeAway(t *testing.T) {
	g := newGrid(t, "test-1")
	var away [2]atomic.Bool
	var behind atomic.Bool
	var asked atomic.Int64
	var ws []*client.Client
	for i := range away {
		ws = append(ws, liar(t, g, func(path string, body []byte) []byte {
			if away[i].Load() && strings.HasPrefix(path, chain.PathLight) {
				panic(http.ErrAbortHandler)
			}
			return body
		}))
	}
	ws = append(ws, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if behind.Load() {
			asked.Add(1)
			w.WriteHeader(http.StatusConflict)
			return
		}
		var answer chain.LightBlock
		if err := g.client.Get(r.Context(), r.URL.Path, &answer); err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		b, err := json.Marshal(answer)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(b)
	}))
	l, err := client.NewLight(t.Context(), client.Options{Chain: "test-1", Trust: g.trust(), Primary: g.client, Witnesses: ws})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"one", "two", "three"} {
		away[i%2].Store(true)
		away[(i+1)%2].Store(false)
		l.After(g.farm(name))
		if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		behind.Store(true)
	}
	if n := asked.Load(); n == 0 || n > 10 {
		t.Errorf("the witness that is behind was asked %d times", n)
	}
}

// TestNothingIsLeftOut: a server can't leave out a page of a node's list, nor show
// that one key isn't there with the proof of another.
func TestNothingIsLeftOut(t *testing.T) {
	g := newGrid(t, "test-1")
	node := g.register()
	g.do(&chain.CreateNetworkContract{ID: 1<<24 | 1, Members: []identity.Party{node}})
	var change func(p *chain.Proof)
	c := liar(t, g, onProof(t, func(p *chain.Proof) {
		if change != nil {
			change(p)
		}
	}))
	l, err := client.NewLight(t.Context(), client.Options{Chain: "test-1", Trust: g.trust(), Primary: c, Witnesses: []*client.Client{g.client}})
	if err != nil {
		t.Fatal(err)
	}
	l.After(g.farm("after"))
	if all, _, err := l.List(t.Context(), node); err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	for name, lie := range map[string]func(p *chain.Proof){
		"a page left out":               func(p *chain.Proof) { p.Records[1].Value, p.Records[1].Path = nil, p.Records[2].Path },
		"a page left out with no proof": func(p *chain.Proof) { p.Records[1].Value = nil },
		"an empty page":                 func(p *chain.Proof) { p.Records[1].Value = canon.MustMarshal([]chain.ListEntry{}) },
		"an empty value":                func(p *chain.Proof) { p.Records[1].Value = chain.Bytes{} },
		"no load":                       func(p *chain.Proof) { p.Records[0].Value, p.Records[0].Path = nil, p.Records[2].Path },
		"fewer records":                 func(p *chain.Proof) { p.Records = p.Records[:2] },
		"two exchanged":                 func(p *chain.Proof) { p.Records[0], p.Records[1] = p.Records[1], p.Records[0] },
	} {
		change = lie
		if all, _, err := l.List(t.Context(), node); fault.Of(err) != fault.Denied || all != nil {
			t.Errorf("%s: %v, %v", name, all, err)
		}
	}
}

// TestOldStateAfterARestart: a client that starts again remembers how far it was.
func TestOldStateAfterARestart(t *testing.T) {
	g := newGrid(t, "test-1")
	c, replay := replayer(t, g)
	dir := t.TempDir()
	l, err := g.light(c, func(o *client.Options) { o.Dir = dir })
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
			t.Fatal(err)
		}
		l.After(g.farm(name))
	}
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
		t.Fatal(err)
	}
	replay.Store(true)
	again, err := client.NewLight(t.Context(), client.Options{Chain: "test-1", Dir: dir, Primary: c})
	if err != nil {
		t.Fatal(err)
	}
	if _, at, err := again.Records(t.Context(), chain.FarmKey(1)); !errors.Is(err, fault.Denied) {
		t.Errorf("the state of height %d is believed again: %v", at.Height, err)
	}
}

// TestAnswersWithoutEnd: no server makes a client read or ask for ever.
func TestAnswersWithoutEnd(t *testing.T) {
	ctx := t.Context()
	var asked atomic.Int64
	for name, h := range map[string]http.HandlerFunc{
		"a long answer": func(w http.ResponseWriter, _ *http.Request) {
			for range 9 {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<20)); err != nil {
					return
				}
			}
		},
		"a packed answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 64 {
				if _, err := io.WriteString(z, strings.Repeat(" ", 1<<20)); err != nil {
					return
				}
			}
			_ = z.Close()
		},
		"a deep answer": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("[", 1<<20)) },
		"another form":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
	} {
		if _, err := serve(t, h).Status(ctx); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	pages := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"items":[],"next":"%d"}`, asked.Add(1))
	})
	if _, err := client.All[chain.Farm](ctx, pages, "/v1/farms"); fault.Of(err) != fault.Invalid || asked.Load() > 10 {
		t.Errorf("empty pages without end: %v after %d", err, asked.Load())
	}
	asked.Store(0)
	pages = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"items":[%s{}],"next":"%d"}`, strings.Repeat("{},", 499), asked.Add(1))
	})
	if _, err := client.All[struct{}](ctx, pages, "/v1/farms"); fault.Of(err) != fault.Invalid {
		t.Errorf("pages without end: %v", err)
	}
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := slow.Status(gone); fault.Of(err) != fault.Unavailable {
		t.Errorf("a server that says nothing: %v", err)
	}
	line := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "data: ")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
				return
			}
		}
	})
	for _, err := range line.Events(ctx, 1) {
		if fault.Of(err) != fault.Unavailable {
			t.Errorf("a line without end: %v", err)
		}
	}
}

// TestRedirectsAreRefused: a server can't make its clients ask others.
func TestRedirectsAreRefused(t *testing.T) {
	var asked atomic.Bool
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Store(true)
		_, _ = io.WriteString(w, "{}")
	}))
	defer inside.Close()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, inside.URL, http.StatusTemporaryRedirect)
	})
	if _, err := c.Status(t.Context()); err == nil || asked.Load() {
		t.Errorf("%v, another server was asked: %v", err, asked.Load())
	}
	if _, err := c.Submit(t.Context(), []byte("x")); err == nil || asked.Load() {
		t.Errorf("%v, a transaction went to another server: %v", err, asked.Load())
	}
}

// do submits messages of the governing twin.
func (g *grid) do(ms ...chain.Message) chain.TxAnswer {
	g.t.Helper()
	g.sent++
	return g.submit(chain.Body{Chain: g.node.Chain(), Party: 1, Sequence: g.sent, Messages: chain.Pack(ms...)}, g.key)
}

func (g *grid) submit(b chain.Body, key *identity.PrivateKey) chain.TxAnswer {
	g.t.Helper()
	b.Expires = clock.System{}.Now().Unix() + 600
	wire, err := chain.Sign(b, chain.Signer{Key: key})
	if err != nil {
		g.t.Fatal(err)
	}
	a, err := g.client.Submit(g.t.Context(), wire)
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

// register makes a farm with a node.
func (g *grid) register() identity.Party {
	g.t.Helper()
	farm := g.do(&chain.CreateFarm{Name: "nodes"}).Events[0].Farm
	ticket := canon.MustMarshal(chain.Ticket{Chain: g.node.Chain(), Farm: farm, Uses: 1, NotAfter: 1 << 40})
	key := identity.FromSeed([32]byte{2})
	return g.submit(chain.Body{Chain: g.node.Chain(), Messages: chain.Pack(&chain.RegisterNode{Ticket: ticket,
		Signature: g.key.SignAs(0, identity.TagTicket, ticket), Key: key.Public(), KEM: make([]byte, 1216)})}, key).Events[0].Node
}
