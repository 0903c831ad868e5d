// Package state is the agreement as a pure machine: a block of transactions goes
// in, changed records, events and answers come out.
//
//	m := state.New(tree)
//	result := m.Apply(state.Block{Height: 7, Time: now, Prev: before, Txs: txs})
//
// The same blocks give the same bytes in every record on every machine and in
// every run. The machine uses integers only, ranges over no map, reads no clock,
// starts no goroutine and does no I/O but through the Tree it is given. It
// imports no consensus engine.
//
// Nothing that a transaction or the proposal of a group does can stop a block: a
// transaction that fails, or even panics, leaves nothing behind but its fee and
// its sequence. Work per transaction is bounded by the bounds of its messages,
// and work per block without transactions by what is due, at most MaxDue.
package state

import (
	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// Version is the version of the rules in this package. A state of an older
// version is applied by the older rules.
const Version = 1

// Tree keeps the records. A Tree can't fail: what it can't read or write must
// end the process before half a block is stored.
type Tree interface {
	Get(key []byte) []byte // nil when there is none
	Set(key, value []byte)
	Delete(key []byte)
	// Ascend calls f with the records from one key up to, and without, another,
	// rising, until f returns false. f must not change the tree.
	Ascend(from, to []byte, f func(key, value []byte) bool)
}

// Block is what validators agreed on.
type Block struct {
	Height uint64
	Time   int64 // unix seconds
	Prev   int64 // time of the block before, or of the genesis
	Txs    [][]byte
}

// Result is what a block did.
type Result struct {
	Txs        []TxResult
	Events     []chain.Event     // of begin-block: what was due
	Validators []chain.Validator // changes: power 0 removes
	Halt       *chain.Upgrade    // the binary must be replaced before the next block
}

// TxResult is the answer to one transaction.
type TxResult struct {
	ID     chain.TxID
	Kind   fault.Kind // "": it took effect
	Error  string     // one sentence that names field and value
	Fee    uint64     // nano-credits charged
	Events []chain.Event
}

// OK says whether the transaction took effect.
func (r TxResult) OK() bool { return r.Kind == "" }

// Machine applies blocks to a tree. It keeps nothing but a cache of verified
// signatures. It is used by one goroutine at a time.
type Machine struct {
	tree     Tree
	verified *verified
}

// New returns a machine over a tree that has a genesis or will get one.
func New(tree Tree) *Machine { return &Machine{tree: tree, verified: newVerified()} }

// Apply carries out a block. It can't fail: each transaction has its own answer.
func (m *Machine) Apply(b Block) Result {
	blk := m.begin(b)
	r := Result{Events: blk.due()}
	for _, wire := range b.Txs {
		r.Txs = append(r.Txs, blk.apply(wire))
	}
	r.Validators = blk.validatorChanges(m.tree)
	if u := get[chain.Upgrade](blk.base, chain.UpgradeKey()); u != nil && u.Height == b.Height+1 {
		r.Halt = u
	}
	blk.base.flush(m.tree)
	return r
}

// Check says whether a transaction could be in a block with this time: it is
// well formed, correctly signed by a key that may, in time, with a sequence
// among the next MaxPending, and the fee can be paid. The state isn't changed.
func (m *Machine) Check(wire []byte, b Block) error {
	blk := m.begin(b)
	tx, err := chain.Decode(wire)
	if err != nil {
		return err
	}
	t := blk.newTx(tx)
	return t.within(func() error {
		if _, err := t.admit(true); err != nil {
			return err
		}
		if t.by.joins != "" {
			return t.run()
		}
		return nil
	})
}

// block is the work on one block.
type block struct {
	Block
	base     *layer
	clock    int64 // the billing clock
	lists    int   // changes of nodes' lists so far
	verified *verified
}

// begin loads what every transaction of a block shares. The billing clock follows
// the time of the blocks, by at most maxStep a block: while the chain stands
// nobody pays.
func (m *Machine) begin(b Block) *block {
	blk := &block{Block: b, base: newLayer(m.tree), verified: m.verified}
	meta := metaOf(blk.base)
	if step := b.Time - b.Prev; step > maxStep {
		meta.Gap += step - maxStep
		put(blk.base, chain.MetaKey(), meta)
	}
	blk.clock = b.Time - meta.Gap
	return blk
}

// maxStep is the most seconds that the billing clock advances in a block.
const maxStep = 60

func metaOf(l *layer) *chain.Meta {
	m := get[chain.Meta](l, chain.MetaKey())
	if m == nil {
		m = &chain.Meta{Version: Version}
	}
	return m
}

func (w *work) meta() *chain.Meta { return metaOf(w.l) }
