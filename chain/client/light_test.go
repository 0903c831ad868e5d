package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/chain/engine"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// grid is a chain with one validator behind HTTP.
type grid struct {
	t      *testing.T
	node   *engine.Node
	server *httptest.Server
	key    *identity.PrivateKey
	client *client.Client
	sent   uint64
}

func newGrid(t *testing.T, name string) *grid {
	t.Helper()
	dir := t.TempDir()
	validator, _, err := engine.NewValidator(dir)
	if err != nil {
		t.Fatal(err)
	}
	g := &grid{t: t, key: identity.FromSeed([32]byte{1})}
	genesis := engine.Genesis{Time: clock.System{}.Now().Add(-time.Minute).UTC().Truncate(time.Second), State: state.Genesis{
		Chain: name, Governance: 1, Validators: []chain.Validator{{Key: validator, Power: 10}},
		Parties: []state.GenesisParty{{Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: g.key.Public(), Role: identity.RoleFull}}}, Balance: 1000 * chain.Credit}},
	}}
	if err := engine.WriteGenesis(dir, genesis); err != nil {
		t.Fatal(err)
	}
	if g.node, err = engine.Start(t.Context(), engine.Config{Dir: dir, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	g.server = httptest.NewServer(g.node.Handler())
	t.Cleanup(func() {
		g.server.Close()
		if err := g.node.Close(); err != nil {
			t.Error(err)
		}
	})
	g.client = dial(t, g.server.URL)
	return g
}

func dial(t *testing.T, url string) *client.Client {
	t.Helper()
	c, err := client.New(url, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// farm creates a farm and returns the height of its block.
func (g *grid) farm(name string) uint64 {
	g.t.Helper()
	g.sent++
	wire, err := chain.Sign(chain.Body{Chain: g.node.Chain(), Party: 1, Sequence: g.sent, Expires: clock.System{}.Now().Unix() + 600,
		Messages: chain.Pack(&chain.CreateFarm{Name: name})}, chain.Signer{Key: g.key})
	if err != nil {
		g.t.Fatal(err)
	}
	answer, err := g.client.Submit(g.t.Context(), wire)
	if err != nil {
		g.t.Fatal(err)
	}
	return answer.Height
}

// trust is a checkpoint of the chain's first block with a farm.
func (g *grid) trust() client.Trust {
	g.t.Helper()
	g.farm(fmt.Sprintf("checkpoint-%d", g.sent))
	var blocks chain.Page[chain.BlockAnswer]
	if err := g.client.Get(g.t.Context(), "/v1/blocks?limit=1", &blocks); err != nil {
		g.t.Fatal(err)
	}
	b := blocks.Items[0]
	return client.Trust{Height: b.Height, Hash: b.Hash}
}

func (g *grid) light(primary *client.Client, change func(*client.Options)) (*client.Light, error) {
	o := client.Options{Chain: g.node.Chain(), Trust: g.trust(), Primary: primary}
	if change != nil {
		change(&o)
	}
	return client.NewLight(g.t.Context(), o)
}

func TestProvenRecords(t *testing.T) {
	g := newGrid(t, "test-1")
	l, err := g.light(g.client, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := g.farm("proven")
	l.After(at)
	farm, seen, err := client.Record[chain.Farm](t.Context(), l, chain.FarmKey(2))
	if err != nil {
		t.Fatal(err)
	}
	if farm == nil || farm.Name != "proven" || seen.Height < at {
		t.Fatalf("Record = %+v from height %d, want the farm of height %d", farm, seen.Height, at)
	}
	if none, _, err := client.Record[chain.Farm](t.Context(), l, chain.FarmKey(99)); err != nil || none != nil {
		t.Errorf("a farm that isn't there: %+v, %v", none, err)
	}
	if _, _, err := l.List(t.Context(), 5); !errors.Is(err, fault.NotFound) {
		t.Errorf("the list of a node that isn't there: %v", err)
	}
	if _, _, err := l.Records(t.Context()); !errors.Is(err, fault.Invalid) {
		t.Errorf("no key: %v", err)
	}
}

// TestHeadersAreKept: a client that starts again needs no checkpoint, and no
// request for what it verified.
func TestHeadersAreKept(t *testing.T) {
	g := newGrid(t, "test-1")
	dir := t.TempDir()
	l, err := g.light(g.client, func(o *client.Options) { o.Dir = dir })
	if err != nil {
		t.Fatal(err)
	}
	before, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	later := g.farm("later")
	again, err := client.NewLight(t.Context(), client.Options{Chain: "test-1", Dir: dir, Primary: g.client})
	if err != nil {
		t.Fatal(err)
	}
	again.After(later)
	if after, err := again.Head(t.Context()); err != nil || after.Height <= before.Height {
		t.Errorf("Head = %+v, %v, want a state after %d", after, err, before.Height)
	}
	if _, err := client.NewLight(t.Context(), client.Options{Chain: "test-1", Dir: t.TempDir(), Primary: g.client}); !errors.Is(err, fault.Invalid) {
		t.Errorf("without a checkpoint: %v", err)
	}
}

// liar changes the answers of a server.
func liar(t *testing.T, g *grid, change func(path string, body []byte) []byte) *client.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, g.server.URL+r.URL.RequestURI(), nil)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		b = change(r.URL.Path, b)
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(b)
	}))
	t.Cleanup(s.Close)
	return dial(t, s.URL)
}

// onProof changes the proofs of a server.
func onProof(t *testing.T, change func(p *chain.Proof)) func(string, []byte) []byte {
	return func(path string, body []byte) []byte {
		if path != chain.PathProof {
			return body
		}
		var p chain.Proof
		if err := json.Unmarshal(body, &p); err != nil {
			t.Error(err)
		}
		change(&p)
		b, err := json.Marshal(p)
		if err != nil {
			t.Error(err)
		}
		return b
	}
}

// TestLyingServers: whatever a server changes, the client notices.
func TestLyingServers(t *testing.T) {
	g := newGrid(t, "test-1")
	other := newGrid(t, "test-1") // same id, other validators
	other.farm("farm-of-others")
	trust := g.trust()
	for name, change := range map[string]func(p *chain.Proof){
		"another owner": func(p *chain.Proof) {
			p.Records[0].Value = canon.MustMarshal(chain.Farm{ID: 1, Owner: 2, Name: "checkpoint-0"})
		},
		"nothing there":  func(p *chain.Proof) { p.Records[0].Value = nil },
		"another record": func(p *chain.Proof) { p.Records[0].Key = chain.FarmKey(2) },
		"no record":      func(p *chain.Proof) { p.Records = nil },
		"no path":        func(p *chain.Proof) { p.Records[0].Path = nil },
		"a cut path":     func(p *chain.Proof) { p.Records[0].Path = p.Records[0].Path[:len(p.Records[0].Path)/2] },
		"a flipped path": func(p *chain.Proof) { p.Records[0].Path[len(p.Records[0].Path)/2] ^= 1 },
		"no block":       func(p *chain.Proof) { p.Block = nil },
		"a flipped block": func(p *chain.Proof) {
			i := bytes.Index(p.Block, []byte("test-1"))
			p.Block[i+40] ^= 1
		},
		"another height": func(p *chain.Proof) { p.Height++ },
		"other validators": func(p *chain.Proof) {
			foreign, err := other.node.Prove(t.Context(), 0, chain.FarmKey(1))
			if err != nil {
				t.Error(err)
			}
			*p = foreign
		},
	} {
		t.Run(name, func(t *testing.T) {
			var on atomic.Bool
			c := liar(t, g, onProof(t, func(p *chain.Proof) {
				if on.Load() {
					change(p)
				}
			}))
			o := client.Options{Chain: "test-1", Trust: trust, Primary: c, Witnesses: []*client.Client{g.client}}
			l, err := client.NewLight(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			l.After(trust.Height) // the farm is there
			if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
				t.Fatalf("while the server is honest: %v", err)
			}
			on.Store(true)
			_, _, err = l.Records(t.Context(), chain.FarmKey(1))
			if err == nil {
				t.Fatal("the lie was believed")
			}
			if k := fault.Of(err); k != fault.Denied {
				t.Errorf("the lie is answered with %s: %v", k, err)
			}
			on.Store(false)
			if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
				t.Errorf("after the lie the honest answer is refused: %v", err)
			}
		})
	}
}

// replayer is a server that, once told to, answers with its first proof again.
func replayer(t *testing.T, g *grid) (*client.Client, *atomic.Bool) {
	t.Helper()
	var old []byte
	replay := new(atomic.Bool)
	return liar(t, g, func(path string, body []byte) []byte {
		if path != chain.PathProof {
			return body
		}
		if old == nil {
			old = body
		}
		if replay.Load() {
			return old
		}
		return body
	}), replay
}

// TestStaleServer: a state older than one seen before is refused, and one older
// than the age that the caller accepts.
func TestStaleServer(t *testing.T) {
	g := newGrid(t, "test-1")
	c, replay := replayer(t, g)
	l, err := g.light(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
		t.Fatal(err)
	}
	l.After(g.farm("newer"))
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); err != nil {
		t.Fatal(err)
	}
	replay.Store(true)
	if _, _, err := l.Records(t.Context(), chain.FarmKey(1)); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "was seen before") {
		t.Errorf("an old state: %v", err)
	}
	late, err := g.light(g.client, func(o *client.Options) {
		o.MaxAge = 30 * time.Second
		o.Clock = clock.Fixed(clock.System{}.Now().Add(95 * time.Second))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := late.Records(t.Context(), chain.FarmKey(1)); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "chain head is 9") {
		t.Errorf("a head of 95 s: %v", err)
	}
	if _, err := g.light(g.client, func(o *client.Options) { o.Clock = clock.Fixed(clock.System{}.Now().Add(15 * 24 * time.Hour)) }); !errors.Is(err, fault.Expired) {
		t.Errorf("after the trust period: %v", err)
	}
}

func TestWrongCheckpoint(t *testing.T) {
	g := newGrid(t, "test-1")
	if _, err := g.light(g.client, func(o *client.Options) { o.Trust.Hash[0] ^= 1 }); !errors.Is(err, fault.Denied) {
		t.Errorf("a checkpoint of another chain: %v", err)
	}
	if _, err := g.light(g.client, func(o *client.Options) { o.Chain = "test-2" }); err == nil {
		t.Error("a checkpoint of another chain id is accepted")
	}
}

// TestCheckpointAgainstKeptHeaders: what was kept from another chain doesn't make
// a checkpoint worthless.
func TestCheckpointAgainstKeptHeaders(t *testing.T) {
	g := newGrid(t, "test-1")
	dir := t.TempDir()
	early := g.trust()
	g.farm("between")
	if _, err := g.light(g.client, func(o *client.Options) { o.Dir = dir }); err != nil {
		t.Fatal(err)
	}
	kept := func(trust client.Trust) error {
		_, err := client.NewLight(t.Context(), client.Options{Chain: "test-1", Dir: dir, Trust: trust, Primary: g.client})
		return err
	}
	if err := kept(early); err != nil {
		t.Errorf("an earlier checkpoint of the same chain: %v", err)
	}
	early.Hash[0] ^= 1
	if err := kept(early); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "another folder") {
		t.Errorf("a checkpoint of another chain: %v", err)
	}
}

func TestRefusalsKeepTheirKind(t *testing.T) {
	g := newGrid(t, "test-1")
	g.farm("first-block")
	if _, err := g.client.Submit(t.Context(), []byte("noise")); !errors.Is(err, fault.Invalid) {
		t.Errorf("noise: %v", err)
	}
	if err := g.client.Get(t.Context(), "/v1/contracts/7-3", new(chain.Contract)); !errors.Is(err, fault.NotFound) {
		t.Errorf("a contract that isn't there: %v", err)
	}
	for _, bad := range []string{"", "localhost", "ftp://x", "http://", "http://u@h", "http://h?x"} {
		if _, err := client.New(bad, nil); !errors.Is(err, fault.Invalid) {
			t.Errorf("New(%q) = %v", bad, err)
		}
	}
	g.server.CloseClientConnections()
	gone := dial(t, "http://127.0.0.1:1")
	if _, err := gone.Status(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestEventsResume(t *testing.T) {
	g := newGrid(t, "test-1")
	first := g.farm("one")
	g.farm("two")
	var names []string
	for b, err := range g.client.Events(t.Context(), first, "farm.") {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Events {
			names = append(names, e.Name)
		}
		if len(names) == 2 {
			break
		}
	}
	if strings.Join(names, " ") != "one two" {
		t.Errorf("events of the farms %v", names)
	}
}
