package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"zos.internal/chain"
	"zos.internal/chain/engine"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/clock"
)

// agreement measures the deployment document, the chain and its proofs.
func agreement(ctx context.Context, b *bench) error {
	for _, f := range []func(context.Context, *bench) error{document, oneValidator, idleChain, dueWork, provenReads, catchUp, fourValidators} {
		if err := f(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// embedded is a chain with one validator in this process, whose genesis has many
// parties, a farm and nodes.
type embedded struct {
	*engine.Node
	dir      string
	keys     []*identity.PrivateKey // of parties from 1 on
	sequence []uint64
	serial   []uint32
	nodes    []identity.Party
}

func benchKey(n uint64) *identity.PrivateKey {
	return identity.FromSeed(sha256.Sum256(binary.BigEndian.AppendUint64([]byte("bench"), n)))
}

func newEmbedded(ctx context.Context, dir string, parties int) (*embedded, error) {
	key, _, err := engine.NewValidator(dir)
	if err != nil {
		return nil, err
	}
	e := &embedded{dir: dir, sequence: make([]uint64, parties), serial: make([]uint32, parties)}
	g := engine.Genesis{Time: clock.System{}.Now().Add(-time.Minute).UTC().Truncate(time.Second),
		State: state.Genesis{Chain: "bench-1", Governance: 1, Validators: []chain.Validator{{Key: key, Power: 10, Name: "one"}}}}
	for i := range parties {
		e.keys = append(e.keys, benchKey(uint64(i)))
		g.State.Parties = append(g.State.Parties, state.GenesisParty{Balance: 1_000_000 * chain.Credit,
			Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: e.keys[i].Public(), Role: identity.RoleFull}}}})
	}
	if err := engine.WriteGenesis(dir, g); err != nil {
		return nil, err
	}
	if e.Node, err = engine.Start(ctx, e.config()); err != nil {
		return nil, err
	}
	farm, err := e.must(ctx, e.sign(0, &chain.CreateFarm{Name: "farm", Terms: chain.Terms{Prices: chain.Prices{CPU: 1_000_000, Memory: 500_000}}}))
	if err != nil {
		return nil, err
	}
	ticket := canon.MustMarshal(chain.Ticket{Chain: "bench-1", Farm: farm.Events[0].Farm, Serial: 1, Uses: 1_000_000, NotAfter: clock.System{}.Now().Unix() + 86400})
	for i := range 8 {
		k := benchKey(1<<32 + uint64(i))
		wire, err := chain.Sign(chain.Body{Chain: "bench-1", Expires: clock.System{}.Now().Unix() + 600, Messages: chain.Pack(&chain.RegisterNode{Ticket: ticket,
			Signature: e.keys[0].SignAs(0, identity.TagTicket, ticket), Key: k.Public(), KEM: make([]byte, 1216),
			Machine: chain.Machine{Capacity: chain.Capacity{CPU: 1 << 20, Memory: 1 << 40}}})}, chain.Signer{Key: k})
		if err != nil {
			return nil, err
		}
		a, err := e.must(ctx, wire)
		if err != nil {
			return nil, err
		}
		e.nodes = append(e.nodes, a.Events[0].Node)
	}
	return e, nil
}

func (e *embedded) config() engine.Config {
	return engine.Config{Dir: e.dir, Log: slog.New(slog.DiscardHandler), Clock: clock.System{}}
}

// sign makes the next transaction of the i-th party.
func (e *embedded) sign(i int, ms ...chain.Message) []byte {
	e.sequence[i]++
	wire, err := chain.Sign(chain.Body{Chain: "bench-1", Party: identity.Party(i + 1), Sequence: e.sequence[i], Expires: clock.System{}.Now().Unix() + 1800,
		FeeLimit: chain.Credit, Messages: chain.Pack(ms...)}, chain.Signer{Key: e.keys[i]})
	if err != nil {
		panic(err) // all of it is ours
	}
	return wire
}

// contract makes the next contract of the i-th party.
func (e *embedded) contract(i int) *chain.CreateNodeContract {
	e.serial[i]++
	id, err := identity.NewContractID(identity.Party(i+1), e.serial[i])
	if err != nil {
		panic(err)
	}
	return &chain.CreateNodeContract{ID: id, Node: e.nodes[i%len(e.nodes)], Capacity: chain.Capacity{CPU: 100, Memory: 64 << 20}, MaxRate: 1 << 50, Deposit: chain.Credit}
}

func (e *embedded) must(ctx context.Context, wire []byte) (chain.TxAnswer, error) {
	a, err := e.Submit(ctx, wire)
	if err == nil && a.Kind != "" {
		err = fmt.Errorf("transaction in block %d: %s: %s", a.Height, a.Kind, a.Error)
	}
	return a, err
}

// pour submits transactions at once and waits until all are in blocks.
func (e *embedded) pour(ctx context.Context, wires [][]byte) error {
	var all sync.WaitGroup
	var mu sync.Mutex
	var first error
	for _, w := range wires {
		all.Go(func() {
			if _, err := e.must(ctx, w); err != nil {
				mu.Lock()
				defer mu.Unlock()
				first = err
			}
		})
	}
	all.Wait()
	return first
}

// contracts are transactions of all parties, as many as may wait of each: half of
// them make a contract, the other half ends it.
func (e *embedded) contracts(parties int) [][]byte {
	var wires [][]byte
	ids := make([]identity.ContractID, parties)
	for n := range chain.MaxPending {
		for i := range parties {
			if n%2 == 0 {
				c := e.contract(i)
				ids[i] = c.ID
				wires = append(wires, e.sign(i, c))
			} else {
				wires = append(wires, e.sign(i, &chain.Cancel{ID: ids[i]}))
			}
		}
	}
	return wires
}

// oneValidator measures one validator in this process: how long a transaction
// takes, how many it does, and how long it needs to start again.
func oneValidator(ctx context.Context, b *bench) (err error) {
	const parties = 128
	e, err := newEmbedded(ctx, b.path("one"), parties)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }() // it may be closed below
	var took []float64
	for range 100 * b.rounds {
		wire := e.sign(0, &chain.Send{To: 2, Amount: 1})
		s, err := timed(func() error { _, err := e.must(ctx, wire); return err })
		if err != nil {
			return err
		}
		took = append(took, s)
	}
	b.times("submit to committed, one validator", took, 0.020, 0.100)

	var per, cpu []float64
	total := 0
	round := func() error {
		wires := e.contracts(parties)
		var used float64
		s, err := timed(func() (err error) {
			used, err = spent(func() error { return e.pour(ctx, wires) })
			return err
		})
		per, cpu = append(per, float64(len(wires))/s), append(cpu, used/float64(len(wires)))
		total += len(wires)
		return err
	}
	for range b.rounds + 1 {
		if err := round(); err != nil {
			return err
		}
	}
	per, cpu = per[1:], cpu[1:] // the first one warms up
	b.absolute("contract transactions a second, one validator", atLeast(2000), median(per),
		fmt.Sprintf("%.0f (%.0f–%.0f), %.2f ms of a processor each", median(per), slices.Min(per), slices.Max(per), median(cpu)*1000))

	// Starts, with this little history and with a lot.
	start := func() (float64, error) {
		if err := e.Close(); err != nil {
			return 0, err
		}
		return spent(func() (err error) { e.Node, err = engine.Start(ctx, e.config()); return err })
	}
	few := total
	little, err := start()
	if err != nil {
		return err
	}
	for total < history {
		if err := round(); err != nil {
			return err
		}
	}
	much, err := start()
	if err != nil {
		return err
	}
	s, err := timed(func() error { _, err := start(); return err })
	if err != nil {
		return err
	}
	b.absolute(fmt.Sprintf("start with a history of %d transactions", total), atMost(1), s,
		fmt.Sprintf("%.0f ms, %.0f ms of a processor; with %d: %.0f ms", s*1000, much*1000, few, little*1000))
	return nil
}

// history is how many transactions a chain has that is started. A million take
// several minutes to make; what a start reads doesn't grow with them.
const history = 100_000

// times records the median and the 99th percentile.
func (b *bench) times(name string, took []float64, p50, p99 float64) {
	slices.Sort(took)
	mid, high := median(took), took[len(took)*99/100]
	b.absolute(name+", p50", must{most: p50 * 1000}, mid*1000, millis(mid))
	b.absolute(name+", p99", must{most: p99 * 1000}, high*1000, fmt.Sprintf("%s of %d", millis(high), len(took)))
}

// dueWork compares what a block without transactions costs, and what a contract
// costs, in a large state and in a small one.
func dueWork(_ context.Context, b *bench) error {
	small, err := filled(filepath.Join(b.dir, "small"), 100)
	if err != nil {
		return err
	}
	defer small.Close()
	middle, err := filled(filepath.Join(b.dir, "middle"), 1_000)
	if err != nil {
		return err
	}
	defer middle.Close()
	large, err := filled(filepath.Join(b.dir, "large"), 100_000)
	if err != nil {
		return err
	}
	defer large.Close()
	if err := b.compare("processor time of an empty block, 100,000 live contracts", "100 live contracts", atMost(1.5), micros, small.empties, large.empties); err != nil {
		return err
	}
	if err := large.proofs(b); err != nil {
		return err
	}
	// A million would take a quarter of an hour to make.
	large.Fill(100_000)
	return b.compare("processor time to make a contract, 200,000 in state", "1,000 in state", atMost(3), micros, middle.creates, large.creates)
}
