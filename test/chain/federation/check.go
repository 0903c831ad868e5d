package federation

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"zos.internal/chain"
	"zos.internal/chain/engine"
	"zos.internal/chain/state"
)

// Agree waits until the members have the newest block of them all, and says
// whether they agree: on the hash and the root of every block that two of them
// keep, and on every transaction that was acknowledged.
func Agree(ctx context.Context, acked []chain.TxAnswer, members ...*Member) error {
	var newest uint64
	for _, m := range members {
		h, err := m.Height(ctx)
		if err != nil {
			return fmt.Errorf("member %d: %w\n%s", m.number, err, m.Log())
		}
		newest = max(newest, h)
	}
	for _, a := range acked {
		newest = max(newest, a.Height)
	}
	type place struct {
		height uint64
		index  int
		kind   string
	}
	seen := make(map[uint64]chain.BlockAnswer)
	var errs []error
	for _, m := range members {
		if err := m.Await(ctx, func() bool { h, err := m.Height(ctx); return err == nil && h >= newest }); err != nil {
			return fmt.Errorf("member %d doesn't reach block %d: %w\n%s", m.number, newest, err, m.Log())
		}
		blocks, err := m.blocks(ctx)
		if err != nil {
			return err
		}
		in := make(map[chain.Hash]place)
		earliest := newest
		for _, b := range blocks {
			earliest = min(earliest, b.Height)
			if old, ok := seen[b.Height]; ok && (old.Hash != b.Hash || old.Root != b.Root) {
				errs = append(errs, fmt.Errorf("block %d: member %d has hash %s and root %s, another one has %s and %s", b.Height, m.number, b.Hash, b.Root, old.Hash, old.Root))
			}
			seen[b.Height] = b
			for _, tx := range b.Txs {
				if other, ok := in[tx.ID]; ok && other.kind == "" && tx.Kind == "" {
					errs = append(errs, fmt.Errorf("transaction %s took effect in blocks %d and %d", tx.ID, other.height, tx.Height))
				}
				in[tx.ID] = place{tx.Height, tx.Index, tx.Kind}
			}
		}
		for i, a := range acked {
			if got := in[a.ID]; a.Height >= earliest && got != (place{a.Height, a.Index, a.Kind}) {
				errs = append(errs, fmt.Errorf("transaction %s was acknowledged in block %d as number %d, %q; member %d says %+v", a.ID, a.Height, a.Index, a.Kind, m.number, got))
			}
			if i%50 != 0 || a.Height < earliest {
				continue // the index behind /v1/tx is asked for some
			}
			var r chain.TxRecord
			if err := m.Client.Get(ctx, chain.PathTx+"/"+a.ID.String(), &r); err != nil || r.Height != a.Height {
				errs = append(errs, fmt.Errorf("transaction %s of block %d: member %d says %d, %w", a.ID, a.Height, m.number, r.Height, err))
			}
		}
		if len(errs) > 20 {
			break
		}
	}
	return errors.Join(errs...)
}

// blocks are all blocks that a member keeps.
func (m *Member) blocks(ctx context.Context) ([]chain.BlockAnswer, error) {
	var all []chain.BlockAnswer
	for cursor := ""; ; {
		var page chain.Page[chain.BlockAnswer]
		if err := m.Client.Get(ctx, "/v1/blocks?limit=50&cursor="+cursor, &page); err != nil {
			return nil, fmt.Errorf("blocks of member %d: %w", m.number, err)
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			return all, nil
		}
		cursor = page.Next
	}
}

// Audit checks every invariant over the state of a member that doesn't run.
func (m *Member) Audit() error {
	t, err := engine.OpenTree(filepath.Join(m.Dir, "data"), "tree")
	if err != nil {
		return err
	}
	err = state.Audit(t)
	if err != nil {
		err = fmt.Errorf("member %d at block %d: %w", m.number, t.Height(), err)
	}
	return errors.Join(err, t.Close())
}
