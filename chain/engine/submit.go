package engine

import (
	"context"
	"errors"
	"sync"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/mempool"

	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// results hands the answers of transactions to those who wait for them.
type results struct {
	mu      sync.Mutex
	waiters map[chain.Hash][]chan chain.TxAnswer
}

func newResults() *results { return &results{waiters: make(map[chain.Hash][]chan chain.TxAnswer)} }

func (r *results) wait(id chain.Hash) chan chain.TxAnswer {
	c := make(chan chain.TxAnswer, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiters[id] = append(r.waiters[id], c)
	return c
}

func (r *results) forget(id chain.Hash, c chan chain.TxAnswer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.waiters[id][:0]
	for _, w := range r.waiters[id] {
		if w != c {
			left = append(left, w)
		}
	}
	if r.waiters[id] = left; len(left) == 0 {
		delete(r.waiters, id)
	}
}

func (r *results) deliver(f finished) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiters) == 0 {
		return
	}
	for i, tx := range f.result.Txs {
		id := chain.Hash(tx.ID)
		for _, c := range r.waiters[id] {
			c <- answer(f.height, i, tx)
		}
		delete(r.waiters, id)
	}
}

// Submit puts a transaction before the validators and waits until it is in a
// block, or until ctx ends. What is refused before gives an error; what failed in
// a block gives an answer with its kind. After Unavailable the transaction may
// still come into a block: ask for it by its id before it is sent anew, or send
// the same bytes again.
func (n *Node) Submit(ctx context.Context, wire []byte) (chain.TxAnswer, error) {
	tx, err := chain.Decode(wire)
	if err != nil {
		return chain.TxAnswer{}, err
	}
	id := chain.Hash(tx.ID)
	c := n.results.wait(id)
	defer n.results.forget(id, c)
	if a, err := n.Tx(id); err == nil && a.Kind == "" {
		return a, nil
	}
	if err := n.firstBlock(ctx); err != nil {
		return chain.TxAnswer{}, err
	}
	var refused error
	err = n.comet.Mempool().CheckTx(wire, func(r *abci.ResponseCheckTx) {
		if r.Code != abci.CodeTypeOK {
			refused = fault.Errorf(KindOf(r.Code), "%s", r.Log)
		}
	}, mempool.TxInfo{})
	var full mempool.ErrMempoolIsFull
	switch {
	case errors.Is(err, mempool.ErrTxInCache):
		// It waits already, or it was in a block a moment ago.
		if a, err := n.Tx(id); err == nil {
			return a, nil
		}
	case errors.As(err, &full), errors.Is(err, mempool.ErrRecheckFull):
		return chain.TxAnswer{}, fault.Errorf(fault.Unavailable, "too many transactions wait for a block; try again in a moment")
	case err != nil:
		return chain.TxAnswer{}, fault.Errorf(fault.Unavailable, "submit transaction: %w", err)
	case refused != nil:
		return chain.TxAnswer{}, refused
	}
	select {
	case a := <-c:
		return a, nil
	case <-n.done:
		return chain.TxAnswer{}, fault.Errorf(fault.Unavailable, "the chain stands: %w", n.Err())
	case <-ctx.Done():
		return chain.TxAnswer{ID: id}, fault.Errorf(fault.Unavailable, "transaction %s is in no block yet; ask for it by its id, or send the same bytes again", id)
	}
}

// firstBlock waits until the genesis is in a block: before, there is no state
// to check a transaction against.
func (n *Node) firstBlock(ctx context.Context) error {
	for {
		changed := n.news.wait()
		if n.tree.Height() > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-n.done:
			return fault.Errorf(fault.Unavailable, "the chain stands: %w", n.Err())
		case <-ctx.Done():
			return fault.Errorf(fault.Unavailable, "the chain has no block yet: are the other validators there? Try again in a moment")
		}
	}
}

// Tx is the answer to a transaction that is in a block.
func (n *Node) Tx(id chain.Hash) (chain.TxAnswer, error) {
	height, i, ok := n.index.place(id)
	if ok {
		r, err := n.states.LoadFinalizeBlockResponse(int64(height))
		if err == nil && i < len(r.TxResults) {
			a := answer(height, i, txResult(r.TxResults[i]))
			if a.ID == id {
				return a, nil
			}
		}
	}
	return chain.TxAnswer{}, fault.Errorf(fault.NotFound, "transaction %s is in no block that is kept here", id)
}
