package engine

import (
	"slices"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// waiting knows the sequences of the transactions that wait for a block, so
// that one party can't fill the queue with many transactions of which one at
// most can succeed. It is made anew after each block, when the engine checks
// what is left again.
type waiting struct {
	taken map[slot]chain.TxID
}

type slot struct {
	party    identity.Party
	sequence uint64
}

func (w *waiting) reset() { w.taken = make(map[slot]chain.TxID) }

// add takes the place of a transaction that was checked.
func (w *waiting) add(wire []byte) error {
	tx, err := chain.Decode(wire)
	if err != nil {
		return err
	}
	s := slot{tx.Body.Party, tx.Body.Sequence}
	if s.party == 0 {
		return nil // a joining key has no sequence; it can join once
	}
	if other, ok := w.taken[s]; ok && other != tx.ID {
		return fault.Errorf(fault.Conflict, "sequence %d of party %d: transaction %s waits with it already; use %d", s.sequence, s.party, chain.Hash(other), s.sequence+1)
	}
	w.taken[s] = tx.ID
	return nil
}

// arrange keeps the order of transactions, but puts those of one party in
// sequence, and leaves out what has a gap before it or exceeds the bytes.
func arrange(txs [][]byte, most int64, next func(identity.Party) uint64) [][]byte {
	type waitingTx struct {
		slot
		wire []byte
	}
	all := make([]waitingTx, 0, len(txs))
	places := make(map[identity.Party][]int) // of a party's transactions
	for _, wire := range txs {
		tx, err := chain.Decode(wire)
		if err != nil {
			continue // it was checked when it came; whatever it is, it can only fail
		}
		if p := tx.Body.Party; p != 0 {
			places[p] = append(places[p], len(all))
		}
		all = append(all, waitingTx{slot{tx.Body.Party, tx.Body.Sequence}, wire})
	}
	for _, at := range places {
		if len(at) < 2 {
			continue
		}
		mine := make([]waitingTx, len(at))
		for i, n := range at {
			mine[i] = all[n]
		}
		slices.SortStableFunc(mine, func(a, b waitingTx) int {
			switch {
			case a.sequence < b.sequence:
				return -1
			case a.sequence > b.sequence:
				return 1
			}
			return 0
		})
		for i, n := range at {
			all[n] = mine[i]
		}
	}
	want := make(map[identity.Party]uint64, len(places))
	out := make([][]byte, 0, len(all))
	var size int64
	for _, tx := range all {
		if tx.party != 0 {
			if want[tx.party] == 0 {
				want[tx.party] = next(tx.party)
			}
			if tx.sequence != want[tx.party] {
				continue
			}
		}
		// The engine counts a few bytes of framing for each transaction.
		if n := int64(len(tx.wire)) + 8; size+n <= most {
			size += n
			out = append(out, tx.wire)
			if tx.party != 0 {
				want[tx.party]++
			}
		}
	}
	return out
}

// sequenceOf is the sequence of a party's last transaction.
func sequenceOf(t state.Tree, p identity.Party) uint64 {
	var a chain.Account
	if b := t.Get(chain.AccountKey(p)); b != nil && cbor.Unmarshal(b, &a) != nil {
		return 0
	}
	return a.Sequence
}
