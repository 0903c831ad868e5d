package engine

import (
	"context"
	"sync"

	"github.com/cometbft/cometbft/types"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/internal/fault"
)

// committed is told of each block after it was saved, in order.
func (n *Node) committed(f finished) {
	if err := n.index.write(f, n.tree.Get); err != nil {
		// The index follows at the next start; the chain doesn't depend on it.
		n.cfg.Log.Error("index can't be written", "height", f.height, "error", err)
	}
	if f.retain > 0 {
		if err := n.index.prune(f.retain); err != nil {
			n.cfg.Log.Error("old events can't be dropped", "below", f.retain, "error", err)
		}
	}
	n.results.deliver(f)
	n.news.tell(f.height)
}

// catchUp brings the index to the height of the tree: from the results of the
// blocks, and the lists from the tree when anything was missed.
func (n *Node) catchUp() error {
	from, to := n.index.last, n.tree.Height()
	if from >= to {
		return nil
	}
	store := n.comet.BlockStore()
	for h := max(from+1, uint64(store.Base())); h <= to && store.Base() > 0; h++ {
		f, err := n.block(h)
		if err != nil {
			return fault.Errorf(fault.Of(err), "make index: %w", err)
		}
		b := n.index.db.NewBatch()
		err = n.index.putBlock(b, f)
		if err == nil {
			err = b.Write()
		}
		b.Close()
		if err != nil {
			return fault.Errorf(fault.Internal, "make index: %w", err)
		}
	}
	return n.relist(to)
}

// relist makes the lists of the index anew from the tree.
func (n *Node) relist(height uint64) error {
	x := n.index
	for _, prefix := range []string{ixByOwner, ixByNode, ixFarmNodes, ixFarmOwner, ixGroup, ixMembership, ixProposals} {
		for {
			b, left := x.db.NewBatch(), 0
			err := x.walk([]byte(prefix), []byte(prefix), func(key, _ []byte) bool {
				left++
				return b.Delete(clone(key)) == nil && left < 10_000
			})
			if err == nil {
				err = b.Write()
			}
			b.Close()
			if err != nil {
				return err
			}
			if left == 0 {
				break
			}
		}
	}
	err := n.tree.View(0, func(v View) error {
		for _, prefix := range []string{"c", "n", "f", "p", "g"} {
			b := x.db.NewBatch()
			var err error
			v.Ascend([]byte(prefix), after([]byte(prefix)), func(key, value []byte) bool {
				err = x.putRecord(b, key, value)
				return err == nil
			})
			if err == nil {
				err = b.Write()
			}
			b.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fault.Errorf(fault.Internal, "make index: %w", err)
	}
	x.last = height
	return x.db.SetSync([]byte(ixHeight), be8(height))
}

// block is a block with its results, as they were when it was applied.
func (n *Node) block(height uint64) (finished, error) {
	none := fault.Errorf(fault.NotFound, "block %d is not here: blocks %d to %d are", height, n.comet.BlockStore().Base(), n.tree.Height())
	if height == 0 || height > n.tree.Height() {
		return finished{}, none
	}
	b := n.comet.BlockStore().LoadBlock(int64(height))
	if b == nil {
		return finished{}, none
	}
	r, err := n.states.LoadFinalizeBlockResponse(int64(height))
	if err != nil {
		return finished{}, fault.Errorf(fault.NotFound, "the results of block %d are not here: %w", height, err)
	}
	f := finished{height: height, time: b.Time.Unix(), txs: b.Txs.ToSliceOfBytes(), root: r.AppHash}
	f.result.Events = chainEvents(r.Events)
	for _, tx := range r.TxResults {
		f.result.Txs = append(f.result.Txs, txResult(tx))
	}
	return f, nil
}

// light is the header of a height with its commit and validators; 0 is the
// newest.
func (n *Node) light(height uint64) (chain.LightBlock, error) {
	store := n.comet.BlockStore()
	newest := uint64(store.Height())
	if height == 0 {
		height = newest
	}
	var commit *types.Commit
	meta := store.LoadBlockMeta(int64(height))
	if meta != nil {
		if commit = store.LoadBlockCommit(int64(height)); commit == nil {
			commit = store.LoadSeenCommit(int64(height))
		}
	}
	if commit == nil || commit.Height != int64(height) {
		return chain.LightBlock{}, fault.Errorf(fault.NotFound, "header %d is not here: %d to %d are", height, store.Base(), newest)
	}
	vs, err := n.states.LoadValidators(int64(height))
	if err != nil {
		return chain.LightBlock{}, fault.Errorf(fault.NotFound, "validators of block %d: %w", height, err)
	}
	lb := types.LightBlock{SignedHeader: &types.SignedHeader{Header: &meta.Header, Commit: commit}, ValidatorSet: vs}
	p, err := lb.ToProto()
	if err != nil {
		return chain.LightBlock{}, fault.As(fault.Internal, err)
	}
	b, err := p.Marshal()
	return chain.LightBlock{Height: height, Block: b}, err
}

// blockHash is the hash of a header, which others may trust.
func (n *Node) blockHash(height uint64) ([]byte, error) {
	m := n.comet.BlockStore().LoadBlockMeta(int64(height))
	if m == nil {
		return nil, fault.Errorf(fault.NotFound, "block %d is not here", height)
	}
	return m.Header.Hash(), nil
}

// Prove returns records of the state after a block, at least the one given (0:
// the newest), with their proofs. It waits for the header that contains the
// root, which follows at once when the state changed.
func (n *Node) Prove(ctx context.Context, least uint64, keys ...[]byte) (chain.Proof, error) {
	for {
		changed := n.news.wait()
		header := uint64(n.comet.BlockStore().Height())
		if header >= 2 && header-1 >= least && header-1 <= n.tree.Height() {
			return n.prove(header-1, keys)
		}
		if least > n.tree.Height()+1 {
			return chain.Proof{}, fault.Errorf(fault.NotFound, "block %d is not here, the newest is %d", least, n.tree.Height())
		}
		select {
		case <-changed:
		case <-n.done:
			return chain.Proof{}, fault.Errorf(fault.Unavailable, "the chain stands: %w", n.Err())
		case <-ctx.Done():
			return chain.Proof{}, fault.Errorf(fault.Unavailable, "the header after block %d is not made yet; try again in a moment", max(least, n.tree.Height()))
		}
	}
}

func (n *Node) prove(height uint64, keys [][]byte) (chain.Proof, error) {
	p := chain.Proof{Height: height}
	lb, err := n.light(height + 1)
	if err != nil {
		return p, err
	}
	p.Block = lb.Block
	err = n.tree.View(height, func(v View) error {
		for _, key := range keys {
			r, err := v.Prove(key)
			if err != nil {
				return err
			}
			p.Records = append(p.Records, r)
		}
		return nil
	})
	return p, err
}

// read decodes a record of a view, or returns nil when there is none.
func read[T any](v View, key []byte) (*T, error) {
	b := v.Get(key)
	if b == nil {
		return nil, nil
	}
	out := new(T)
	if err := cbor.Unmarshal(b, out); err != nil {
		return nil, fault.Errorf(fault.Internal, "record %x can't be decoded: %w", key, err)
	}
	return out, nil
}

// news wakes those who wait for the next block.
type news struct {
	mu     sync.Mutex
	next   chan struct{}
	height uint64
	closed bool
}

func newNews() *news { return &news{next: make(chan struct{})} }

// wait returns a channel that is closed at the next block.
func (w *news) wait() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

func (w *news) tell(height uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.height = height
	close(w.next)
	w.next = make(chan struct{})
}

// close wakes everybody for the last time.
func (w *news) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.next)
	}
}

func answer(height uint64, i int, r state.TxResult) chain.TxAnswer {
	return chain.TxAnswer{ID: chain.Hash(r.ID), Height: height, Index: i, Kind: string(r.Kind), Error: r.Error, Fee: r.Fee, Events: r.Events}
}
