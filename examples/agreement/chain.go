package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/chain/engine"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/canon"
)

// chainID is the id of the chain of this example.
const chainID = "agreement"

// supply is what the founder of the chain begins with.
const supply = 1000 * chain.Credit

// startChain runs a chain with one validator, whose first party is the founder:
// it holds all credits and governs. Five percent of what contracts pay go to it.
func (j *job) startChain(ctx context.Context) (stop func() error, founder *person, err error) {
	dir := filepath.Join(j.dir, "chain")
	validator, _, err := engine.NewValidator(dir)
	if err != nil {
		return nil, nil, err
	}
	if founder, err = newPerson("founder"); err != nil {
		return nil, nil, err
	}
	founder.party = 1
	err = engine.WriteGenesis(dir, engine.Genesis{Time: j.clock.Now().UTC().Truncate(time.Second), State: state.Genesis{
		Chain: chainID, Governance: founder.party, Params: chain.Params{Protocol: 50_000, NameRate: 1_000_000},
		Validators: []chain.Validator{{Key: validator, Power: 10, Name: "one"}},
		Parties:    []state.GenesisParty{{Twin: &chain.CreateTwin{Keys: founder.keys()}, Balance: supply}},
	}})
	if err != nil {
		return nil, nil, err
	}
	base, cancel := context.WithCancel(ctx)
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		cfg := engine.Config{Dir: dir, Clock: j.clock, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), EmptyEvery: time.Second, Audit: true}
		ended <- engine.Serve(base, cfg, "127.0.0.1:0", func(_ *engine.Node, url string) { ready <- url })
	}()
	stop = func() error { cancel(); return <-ended }
	select {
	case url := <-ready:
		if j.client, err = client.New(url, nil); err == nil {
			err = j.startLight(ctx)
		}
		if err != nil {
			stop()
		}
		return stop, founder, err
	case err := <-ended:
		cancel()
		return nil, nil, fmt.Errorf("start the chain: %w", err)
	}
}

// startLight begins the light client at the first block. That is the one thing
// that has to be believed; here it is our own validator's.
func (j *job) startLight(ctx context.Context) error {
	var first chain.BlockAnswer
	if err := j.await(ctx, func() (bool, error) {
		err := j.client.Get(ctx, "/v1/blocks/1", &first)
		return err == nil, nil
	}); err != nil {
		return fmt.Errorf("the first block: %w", err)
	}
	var err error
	j.light, err = client.NewLight(ctx, client.Options{Chain: chainID, Trust: client.Trust{Height: first.Height, Hash: first.Hash}, Primary: j.client, Clock: j.clock})
	return err
}

// await asks until something is so, for at most half a minute.
func (j *job) await(ctx context.Context, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := is()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// pass waits until the chain's clock has moved on.
func (j *job) pass(ctx context.Context, seconds int64) error {
	s, err := j.client.Status(ctx)
	if err != nil {
		return err
	}
	until := s.Time + seconds
	return j.await(ctx, func() (bool, error) {
		s, err := j.client.Status(ctx)
		return s.Time >= until, err
	})
}

// proven reads a record that the validators signed.
func proven[T any](ctx context.Context, j *job, key []byte) (*T, error) {
	values, _, err := j.light.Records(ctx, key)
	if err != nil {
		return nil, err
	}
	if values[0] == nil {
		return nil, fmt.Errorf("record %x does not exist, which is proven", key)
	}
	j.checked++
	v := new(T)
	return v, canon.Unmarshal(values[0], v)
}

// person is somebody with a key.
type person struct {
	name  string
	key   *identity.PrivateKey
	party identity.Party
	sent  uint64
}

func newPerson(name string) (*person, error) {
	k, err := identity.Generate()
	return &person{name: name, key: k}, err
}

func (p *person) keys() []chain.NewKey {
	return []chain.NewKey{{Key: p.key.Public(), Role: identity.RoleFull}}
}

// send signs messages of a person and waits for their block, and for the light
// client to see nothing older any more.
func (j *job) send(ctx context.Context, p *person, ms ...chain.Message) (chain.TxAnswer, error) {
	body := chain.Body{Chain: chainID, Party: p.party, Expires: j.clock.Now().Unix() + 600, Messages: chain.Pack(ms...)}
	if p.party != 0 {
		p.sent++
		body.Sequence = p.sent
	}
	wire, err := chain.Sign(body, chain.Signer{Key: p.key})
	if err != nil {
		return chain.TxAnswer{}, err
	}
	a, err := j.client.Submit(ctx, wire)
	if err != nil {
		return a, fmt.Errorf("%s of %s: %w", ms[0].Code(), p.name, err)
	}
	j.light.After(a.Height)
	return a, nil
}

// event is the first event of a type.
func event(a chain.TxAnswer, kind string) (chain.Event, error) {
	var seen []string
	for _, e := range a.Events {
		if e.Type == kind {
			return e, nil
		}
		seen = append(seen, e.Type)
	}
	return chain.Event{}, fmt.Errorf("transaction %s did %s, not %s", a.ID, strings.Join(seen, ", "), kind)
}

// credits shows nano-credits.
func credits(nano uint64) string {
	if nano == chain.Credit {
		return "1 credit"
	}
	s := strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%09d", nano/chain.Credit, nano%chain.Credit), "0"), ".")
	return s + " credits"
}
