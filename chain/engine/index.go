package engine

import (
	"encoding/binary"
	"encoding/json"

	dbm "github.com/cosmos/cosmos-db"
	"github.com/fxamacker/cbor/v2"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// index answers what the tree can't: events by height and by contract, blocks of
// transactions, and lists by owner, node, farm and group. It is made from the
// blocks and the tree and may be deleted at any time; what is older than the
// blocks that are kept is then gone. Nothing is believed because of it.
type index struct {
	db   dbm.DB
	last uint64 // the height without a gap
}

// Prefixes of the index.
const (
	ixHeight     = "h"  // the last block in it
	ixEvents     = "e"  // height: chain.BlockEvents as JSON
	ixTx         = "t"  // id: height, place
	ixPlaces     = "p"  // height: the ids of its transactions, so that they can be dropped
	ixBill       = "b"  // contract, height, number: chain.Bill as JSON
	ixByOwner    = "co" // owner, contract
	ixByNode     = "cn" // node, contract
	ixFarmNodes  = "fn" // farm, node
	ixFarmOwner  = "fo" // owner, farm
	ixGroup      = "gm" // group: its members, so that they can be taken out
	ixMembership = "mg" // member, group
	ixProposals  = "gp" // group, proposal
)

func openIndex(dir string) (*index, error) {
	db, err := dbm.NewDB("index", dbm.GoLevelDBBackend, dir)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "open the index in %s: %w; it may be deleted and is made anew", dir, err)
	}
	x := &index{db: db}
	if b, err := db.Get([]byte(ixHeight)); err == nil && len(b) == 8 {
		x.last = binary.BigEndian.Uint64(b)
	}
	return x, nil
}

func (x *index) close() error { return x.db.Close() }

// blockEvents are the events of a block, with their transactions.
func blockEvents(f finished) chain.BlockEvents {
	out := chain.BlockEvents{Height: f.height, Time: f.time}
	for _, e := range f.result.Events {
		out.Events = append(out.Events, chain.BlockEvent{Event: e})
	}
	for _, tx := range f.result.Txs {
		id := chain.Hash(tx.ID)
		for _, e := range tx.Events {
			out.Events = append(out.Events, chain.BlockEvent{Tx: &id, Event: e})
		}
	}
	return out
}

// write puts a block and the records it changed into the index.
func (x *index) write(f finished, records func(key []byte) []byte) error {
	b := x.db.NewBatch()
	defer b.Close()
	if err := x.putBlock(b, f); err != nil {
		return err
	}
	for _, key := range f.changed {
		if err := x.putRecord(b, []byte(key), records([]byte(key))); err != nil {
			return err
		}
	}
	// After a crash blocks may come again, or the index may lack some.
	next := f.height == x.last+1
	if next {
		if err := b.Set([]byte(ixHeight), be8(f.height)); err != nil {
			return err
		}
	}
	if err := b.Write(); err != nil {
		return err
	}
	if next {
		x.last = f.height
	}
	return nil
}

func (x *index) putBlock(b dbm.Batch, f finished) error {
	events := blockEvents(f)
	if len(events.Events) > 0 {
		text, err := json.Marshal(events)
		if err != nil {
			return err
		}
		if err := b.Set(join(ixEvents, f.height), text); err != nil {
			return err
		}
	}
	var ids []byte
	for i, tx := range f.result.Txs {
		if err := b.Set(append([]byte(ixTx), tx.ID[:]...), append(be8(f.height), be8(uint64(i))...)); err != nil {
			return err
		}
		ids = append(ids, tx.ID[:]...)
	}
	if ids != nil {
		if err := b.Set(join(ixPlaces, f.height), ids); err != nil {
			return err
		}
	}
	for i, e := range events.Events {
		if e.Contract == 0 {
			continue
		}
		text, err := json.Marshal(chain.Bill{Height: f.height, Time: f.time, Event: e.Event})
		if err != nil {
			return err
		}
		if err := b.Set(join(ixBill, uint64(e.Contract), f.height, uint64(i)), text); err != nil {
			return err
		}
	}
	return nil
}

// putRecord updates the lists for one record; value is nil when it is gone.
func (x *index) putRecord(b dbm.Batch, key, value []byte) error {
	switch {
	case key[0] == 'c' && len(key) == 9:
		id := identity.ContractID(binary.BigEndian.Uint64(key[1:]))
		own := join(ixByOwner, uint64(id.Owner()), uint64(id))
		if value == nil {
			node, err := x.db.Get(own)
			if err == nil && len(node) == 8 {
				err = b.Delete(join(ixByNode, binary.BigEndian.Uint64(node), uint64(id)))
			}
			if err != nil {
				return err
			}
			return b.Delete(own)
		}
		var c chain.Contract
		if err := cbor.Unmarshal(value, &c); err != nil {
			return err
		}
		if c.Node != 0 {
			if err := b.Set(join(ixByNode, uint64(c.Node), uint64(id)), []byte{1}); err != nil {
				return err
			}
		}
		return b.Set(own, be8(uint64(c.Node)))
	case key[0] == 'n' && len(key) == 5 && value != nil:
		var n chain.Node
		if err := cbor.Unmarshal(value, &n); err != nil {
			return err
		}
		return b.Set(join(ixFarmNodes, uint64(n.Farm), uint64(n.ID)), []byte{1})
	case key[0] == 'f' && len(key) == 5 && value != nil:
		var f chain.Farm
		if err := cbor.Unmarshal(value, &f); err != nil {
			return err
		}
		return b.Set(join(ixFarmOwner, uint64(f.Owner), uint64(f.ID)), []byte{1})
	case key[0] == 'p' && len(key) == 5 && value != nil:
		return x.putParty(b, value)
	case key[0] == 'g' && len(key) == 9 && value != nil:
		var p chain.Proposal
		if err := cbor.Unmarshal(value, &p); err != nil {
			return err
		}
		return b.Set(join(ixProposals, uint64(p.Group), p.ID), []byte{1})
	}
	return nil
}

// putParty follows the members of a group.
func (x *index) putParty(b dbm.Batch, value []byte) error {
	var p chain.Party
	if err := cbor.Unmarshal(value, &p); err != nil {
		return err
	}
	if p.Group == nil {
		return nil
	}
	at := join(ixGroup, uint64(p.ID))
	old, err := x.db.Get(at)
	if err != nil {
		return err
	}
	for ; len(old) >= 8; old = old[8:] {
		if err := b.Delete(join(ixMembership, binary.BigEndian.Uint64(old), uint64(p.ID))); err != nil {
			return err
		}
	}
	var members []byte
	for _, m := range p.Group.Members {
		members = binary.BigEndian.AppendUint64(members, uint64(m.Party))
		if err := b.Set(join(ixMembership, uint64(m.Party), uint64(p.ID)), []byte{1}); err != nil {
			return err
		}
	}
	return b.Set(at, members)
}

// place is the block of a transaction and its number there.
func (x *index) place(id chain.Hash) (height uint64, i int, ok bool) {
	b, err := x.db.Get(append([]byte(ixTx), id[:]...))
	if err != nil || len(b) != 16 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b), int(binary.BigEndian.Uint64(b[8:])), true
}

// ids lists the last numbers below a prefix after one of them, at most limit.
func (x *index) ids(prefix []byte, after uint64, limit int) ([]uint64, error) {
	var out []uint64
	err := x.walk(prefix, binary.BigEndian.AppendUint64(clone(prefix), after+1), func(key, _ []byte) bool {
		if len(key) == len(prefix)+8 {
			out = append(out, binary.BigEndian.Uint64(key[len(prefix):]))
		}
		return len(out) < limit
	})
	return out, err
}

// walk visits the entries of a prefix from a key on.
func (x *index) walk(prefix, from []byte, f func(key, value []byte) bool) error {
	it, err := x.db.Iterator(from, after(prefix))
	if err != nil {
		return fault.Errorf(fault.Internal, "read index: %w", err)
	}
	defer it.Close()
	for ; it.Valid(); it.Next() {
		if !f(it.Key(), it.Value()) {
			break
		}
	}
	return it.Error()
}

// prune drops the events and the places of transactions of blocks below a height,
// at most 1,000 blocks at once. Events of contracts stay, for bills.
func (x *index) prune(below uint64) error {
	b := x.db.NewBatch()
	defer b.Close()
	for _, prefix := range []string{ixEvents, ixPlaces} {
		n := 0
		var failed error
		err := x.walk([]byte(prefix), []byte(prefix), func(key, value []byte) bool {
			if len(key) != 9 || binary.BigEndian.Uint64(key[1:]) >= below || n == 1000 {
				return false
			}
			n++
			for ; prefix == ixPlaces && len(value) >= 32 && failed == nil; value = value[32:] {
				failed = b.Delete(append([]byte(ixTx), value[:32]...))
			}
			if failed == nil {
				failed = b.Delete(clone(key))
			}
			return failed == nil
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return err
		}
	}
	return b.Write()
}

// join makes a key of a prefix and big-endian numbers.
func join(prefix string, ns ...uint64) []byte {
	b := []byte(prefix)
	for _, n := range ns {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func be8(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// after is the first key that doesn't begin with a prefix.
func after(prefix []byte) []byte {
	b := clone(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}
