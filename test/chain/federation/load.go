package federation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Load submits transactions of many parties to random servers, and remembers
// what the servers said to be in a block. Each party works alone: it makes a
// contract on its node, which reports it, adds money, sends some, and cancels.
type Load struct {
	clients []*client.Client
	workers []*worker

	mu    sync.Mutex
	acked []chain.TxAnswer
	wake  chan struct{} // closed at the next answer
	errs  []error
}

// account is a key that acts for a party.
type account struct {
	key      *identity.PrivateKey
	party    identity.Party
	sequence uint64
}

type worker struct {
	account
	node   account
	serial uint32
	step   int
	id     identity.ContractID
}

const chainID = "test-1"

func (a *account) sign(ms ...chain.Message) ([]byte, error) {
	if a.party != 0 {
		a.sequence++
	}
	return chain.Sign(chain.Body{Chain: chainID, Party: a.party, Sequence: a.sequence, Expires: clock.System{}.Now().Unix() + 1800,
		FeeLimit: chain.Credit, Messages: chain.Pack(ms...)}, chain.Signer{Key: a.key})
}

// NewLoad makes the parties of a load: so many owners, each with a node of a
// farm of its own founder.
func NewLoad(ctx context.Context, founder *identity.PrivateKey, owners int, clients ...*client.Client) (*Load, error) {
	l := &Load{clients: clients, wake: make(chan struct{})}
	first := &account{key: founder, party: 1}
	prices := chain.Prices{CPU: 1_000_000, Memory: 500_000, SSD: 100_000}
	a, err := l.must(ctx, first, &chain.CreateFarm{Name: "load", Terms: chain.Terms{Prices: prices}})
	if err != nil {
		return nil, err
	}
	ticket := canon.MustMarshal(chain.Ticket{Chain: chainID, Farm: a.Events[0].Farm, Serial: 1, Uses: 1_000_000, NotAfter: clock.System{}.Now().Unix() + 86400})
	var all sync.WaitGroup
	made, errs := make([]*worker, owners), make([]error, owners)
	for i := range owners {
		all.Go(func() { made[i], errs[i] = l.worker(ctx, founder, ticket) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	l.workers = made
	for len(made) > 0 {
		n := min(len(made), chain.MaxMessages)
		var gifts []chain.Message
		for _, w := range made[:n] {
			gifts = append(gifts, &chain.Send{To: w.party, Amount: 100_000 * chain.Credit})
		}
		if _, err := l.must(ctx, first, gifts...); err != nil {
			return nil, err
		}
		made = made[n:]
	}
	return l, nil
}

// worker joins with a new key, and registers a node with another.
func (l *Load) worker(ctx context.Context, farmer *identity.PrivateKey, ticket []byte) (*worker, error) {
	w := &worker{}
	for _, a := range []*account{&w.account, &w.node} {
		key, err := identity.Generate()
		if err != nil {
			return nil, err
		}
		a.key = key
	}
	a, err := l.must(ctx, &w.account, &chain.CreateTwin{Keys: []chain.NewKey{{Key: w.key.Public(), Role: identity.RoleFull}}})
	if err != nil {
		return nil, err
	}
	w.party = a.Events[0].Party
	a, err = l.must(ctx, &w.node, &chain.RegisterNode{Ticket: ticket, Signature: farmer.SignAs(0, identity.TagTicket, ticket), Key: w.node.key.Public(), KEM: make([]byte, 1216),
		Machine: chain.Machine{Capacity: chain.Capacity{CPU: 64_000, Memory: 256 << 30, SSD: 4 << 40}}})
	if err != nil {
		return nil, err
	}
	w.node.party = a.Events[0].Node
	return w, nil
}

// must submits and wants the transaction to take effect.
func (l *Load) must(ctx context.Context, a *account, ms ...chain.Message) (chain.TxAnswer, error) {
	wire, err := a.sign(ms...)
	if err != nil {
		return chain.TxAnswer{}, err
	}
	answer, err := l.submit(ctx, wire)
	if err == nil && answer.Kind != "" {
		err = fmt.Errorf("%s of party %d: %s", ms[0].Code(), a.party, answer.Error)
	}
	return answer, err
}

// refusals is how often all servers together may refuse a good transaction: one
// that is behind doesn't know the sequence yet.
const refusals = 500

// submit sends the same bytes to one server after the other until one says what
// became of them.
func (l *Load) submit(ctx context.Context, wire []byte) (chain.TxAnswer, error) {
	tx, err := chain.Decode(wire)
	if err != nil {
		return chain.TxAnswer{}, err
	}
	refused := 0
	for {
		c := l.clients[rand.IntN(len(l.clients))]
		a, err := c.Submit(ctx, wire)
		if err != nil && a.Height == 0 {
			// Perhaps it is in a block all the same.
			var r chain.TxRecord
			if gerr := c.Get(ctx, chain.PathTx+"/"+chain.Hash(tx.ID).String(), &r); gerr == nil {
				a, err = r.TxAnswer, nil
			}
		}
		if a.Height > 0 {
			l.record(a)
			return a, nil
		}
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		if fault.Of(err) != fault.Unavailable {
			if refused++; refused == refusals {
				return a, fmt.Errorf("refused again and again: %w", err)
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

func (l *Load) record(a chain.TxAnswer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = append(l.acked, a)
	close(l.wake)
	l.wake = make(chan struct{})
}

// Acknowledged are the answers so far.
func (l *Load) Acknowledged() []chain.TxAnswer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked[:len(l.acked):len(l.acked)]
}

// Await waits for so many more answers.
func (l *Load) Await(ctx context.Context, more int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	want := len(l.Acknowledged()) + more
	for {
		l.mu.Lock()
		n, wake, errs := len(l.acked), l.wake, l.errs
		l.mu.Unlock()
		if n >= want || len(errs) > 0 {
			return errors.Join(errs...)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d transactions came into a block: %w", n-want+more, more, ctx.Err())
		}
	}
}

// Run lets all parties work until ctx ends, and returns what went wrong beside
// that.
func (l *Load) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, w := range l.workers {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := l.next(ctx, w); err != nil && ctx.Err() == nil {
					l.mu.Lock()
					l.errs = append(l.errs, err)
					close(l.wake)
					l.wake = make(chan struct{})
					l.mu.Unlock()
					return
				}
			}
		})
	}
	all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

// next does the worker's next step.
func (l *Load) next(ctx context.Context, w *worker) (err error) {
	switch w.step {
	case 0:
		w.serial++
		if w.id, err = identity.NewContractID(w.party, w.serial); err != nil {
			return err
		}
		_, err = l.must(ctx, &w.account, &chain.CreateNodeContract{ID: w.id, Node: w.node.party, Capacity: chain.Capacity{CPU: 1000, Memory: 1 << 30}, MaxRate: 1 << 50, Deposit: chain.Credit})
	case 1:
		_, err = l.must(ctx, &w.node, &chain.ReportState{ID: w.id, Version: 1, Outcome: chain.OutcomeActive})
	case 2:
		_, err = l.must(ctx, &w.account, &chain.TopUp{ID: w.id, Amount: chain.Credit})
	case 3:
		_, err = l.must(ctx, &w.account, &chain.Send{To: 1, Amount: 1})
	case 4:
		_, err = l.must(ctx, &w.account, &chain.Cancel{ID: w.id})
	}
	w.step = (w.step + 1) % 5
	return err
}

// One submits one transaction and waits until it is in a block.
func (l *Load) One(ctx context.Context) error {
	w := l.workers[rand.IntN(len(l.workers))]
	_, err := l.must(ctx, &w.account, &chain.Send{To: 1, Amount: 1})
	return err
}

// Burst submits as many transactions of each party as may wait, so many times,
// half of which make contracts that the other half ends, and says how many came
// into blocks.
func (l *Load) Burst(ctx context.Context, times int) (int, error) {
	before := len(l.Acknowledged())
	errs := make([]error, len(l.workers))
	var all sync.WaitGroup
	for i, w := range l.workers {
		all.Go(func() {
			for range times {
				errs[i] = errors.Join(errs[i], l.burst(ctx, w))
			}
		})
	}
	all.Wait()
	return len(l.Acknowledged()) - before, errors.Join(errs...)
}

func (l *Load) burst(ctx context.Context, w *worker) error {
	errs := make([]error, chain.MaxPending)
	var all sync.WaitGroup
	for i := range errs {
		var m chain.Message = &chain.Cancel{ID: w.id}
		if i%2 == 0 {
			var err error
			w.serial++
			if w.id, err = identity.NewContractID(w.party, w.serial); err != nil {
				return err
			}
			m = &chain.CreateNodeContract{ID: w.id, Node: w.node.party, Capacity: chain.Capacity{CPU: 1000, Memory: 1 << 30}, MaxRate: 1 << 50, Deposit: chain.Credit}
		}
		wire, err := w.sign(m)
		if err != nil {
			return err
		}
		all.Go(func() {
			a, err := l.submit(ctx, wire)
			if err == nil && a.Kind != "" {
				err = fmt.Errorf("%s: %s", m.Code(), a.Error)
			}
			errs[i] = err
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
