package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	dbm "github.com/cosmos/cosmos-db"
	"github.com/cosmos/iavl"
	iavldb "github.com/cosmos/iavl/db"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/internal/fault"
)

// Tree keeps the records of a chain in a goleveldb folder. Its working version
// is the state.Tree that blocks are applied to; committed versions, one for each
// height, are read through Views. A version without changes costs a reference
// and has the root of the version before.
//
// One writer and many readers may use a Tree at a time. What can't be read or
// written panics: the process must end before half a block is stored. After a
// crash the tree is at the last version that was saved whole, never between.
type Tree struct {
	mu      sync.RWMutex
	dir     string // and name: of the folder
	name    string
	db      dbm.DB
	tree    *iavl.MutableTree
	changed []string // keys, in the order of the first change since the last commit
	firsts  firsts
}

var _ state.Tree = (*Tree)(nil)

// Keys beside the tree's own in the same folder, so that what is written first
// is never lost alone.
const timePrefix = "zos/time/"

// nodeCache is how many nodes of the tree stay in memory, about 200 bytes each.
const nodeCache = 100_000

// OpenTree opens or makes the folder name.db in dir.
func OpenTree(dir, name string) (*Tree, error) {
	db, err := dbm.NewDB(name, dbm.GoLevelDBBackend, dir)
	if err != nil {
		if strings.Contains(err.Error(), "resource temporarily unavailable") {
			return nil, fault.Errorf(fault.Conflict, "open chain state in %s: another process uses it; end that one or take another folder", dir)
		}
		return nil, fault.Errorf(fault.Internal, "open chain state in %s: %w", dir, err)
	}
	t, err := newTree(db)
	if err != nil {
		db.Close()
		return nil, fault.Errorf(fault.Internal, "open chain state in %s: %w", dir, err)
	}
	t.dir, t.name = dir, name
	return t, nil
}

func newTree(db dbm.DB) (*Tree, error) {
	// One batch for each version: a version is there wholly or not at all.
	tree := iavl.NewMutableTree(oneBatch{iavldb.NewWrapper(db)}, nodeCache, false, iavl.NewNopLogger(), iavl.FlushThresholdOption(1<<30))
	if _, err := tree.Load(); err != nil {
		return nil, err
	}
	return &Tree{db: db, tree: tree}, nil
}

// oneBatch lets batches grow as they need: the tree asks for one as large as the
// threshold after which it would cut a version in two.
type oneBatch struct{ *iavldb.Wrapper }

// NewBatchWithSize starts small.
func (d oneBatch) NewBatchWithSize(int) iavldb.Batch { return d.DB.NewBatchWithSize(16 << 10) }

// Close releases the folder. What was not committed is dropped.
func (t *Tree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.tree.Close()
	if cerr := t.db.Close(); err == nil {
		err = cerr
	}
	return err
}

// Get reads from the working version.
func (t *Tree) Get(key []byte) []byte {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.firsts.lacks(key) {
		return nil
	}
	v, err := t.tree.Get(key)
	must("read", key, err)
	if v == nil {
		t.firsts.missed(key)
	}
	return v
}

// Set writes to the working version.
func (t *Tree) Set(key, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.tree.Set(key, value)
	must("write", key, err)
	t.firsts.added(key)
	t.changed = append(t.changed, string(key))
}

// Delete removes from the working version.
func (t *Tree) Delete(key []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _, err := t.tree.Remove(key)
	must("delete", key, err)
	t.firsts.removed(key)
	t.changed = append(t.changed, string(key))
}

// Ascend walks the working version.
func (t *Tree) Ascend(from, to []byte, f func(key, value []byte) bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(from) != queuePrefix || !bytes.HasPrefix(to, from) || from[queuePrefix-1] == 0xff {
		it, err := t.tree.Iterator(from, to, true)
		must("walk from", from, err)
		walk(it, from, f)
		return
	}
	if t.firsts.none(from, to) {
		return
	}
	// Look beyond the end, so that the first key is known the next time.
	end := bytes.Clone(from)
	end[queuePrefix-1]++
	it, err := t.tree.Iterator(from, end, true)
	must("walk from", from, err)
	var first string
	walk(it, from, func(key, value []byte) bool {
		if first == "" {
			first = string(key)
		}
		return bytes.Compare(key, to) < 0 && f(key, value)
	})
	t.firsts.is(from, first)
}

func walk(it iavldb.Iterator, from []byte, f func(key, value []byte) bool) {
	defer it.Close()
	for ; it.Valid(); it.Next() {
		if !f(it.Key(), it.Value()) {
			return
		}
	}
	must("walk from", from, it.Error())
}

func must(verb string, key []byte, err error) {
	if err != nil {
		panic(fmt.Sprintf("chain state: %s %x: %v; is the disk full or broken?", verb, key, err))
	}
}

// WorkingRoot is the root that the working version would have.
func (t *Tree) WorkingRoot() []byte {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.WorkingHash()
}

// Height is the last committed version, 0 when there is none.
func (t *Tree) Height() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return uint64(t.tree.Version())
}

// Root is the root of the last committed version.
func (t *Tree) Root() []byte {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Hash()
}

// Commit saves the working version as that of a height with the time of its
// block, drops versions so that keep remain, and returns the keys that changed.
func (t *Tree) Commit(height uint64, time int64, keep uint64) (root []byte, changed []string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next := uint64(t.tree.WorkingVersion()); next != height {
		return nil, nil, fault.Errorf(fault.Internal, "commit block %d: the state is at %d", height, next-1)
	}
	if err := t.db.Set(timeKey(height), binary.BigEndian.AppendUint64(nil, uint64(time))); err != nil {
		return nil, nil, fault.Errorf(fault.Internal, "commit block %d: %w", height, err)
	}
	root, _, err = t.tree.SaveVersion()
	if err != nil {
		return nil, nil, fault.Errorf(fault.Internal, "commit block %d: %w", height, err)
	}
	changed, t.changed = t.changed, nil
	// Versions are dropped in portions: each portion walks the tree once.
	if keep > 0 && height > keep && height%pruneEvery == 0 {
		// A version that is being exported is kept until the next time.
		_ = t.tree.DeleteVersionsTo(int64(height - keep))
	}
	return root, changed, nil
}

const pruneEvery = 16

// SetTime records the time of a block whose version isn't saved here: the
// genesis, or the block of a snapshot.
func (t *Tree) SetTime(height uint64, time int64) error {
	return t.db.SetSync(timeKey(height), binary.BigEndian.AppendUint64(nil, uint64(time)))
}

// Time is the time of the block of a height, and whether it is known.
func (t *Tree) Time(height uint64) (int64, bool) {
	b, err := t.db.Get(timeKey(height))
	must("read", timeKey(height), err)
	if len(b) != 8 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(b)), true
}

// DropTimes forgets the times of heights below one, at most 1,000 at once.
func (t *Tree) DropTimes(below uint64) error {
	it, err := t.db.Iterator([]byte(timePrefix), timeKey(below))
	if err != nil {
		return err
	}
	var old [][]byte
	for ; it.Valid() && len(old) < 1000; it.Next() {
		old = append(old, append([]byte(nil), it.Key()...))
	}
	it.Close()
	for _, k := range old {
		if err := t.db.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func timeKey(height uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(timePrefix), height)
}

// View is one committed version. It must be read inside of Tree.View.
type View struct {
	tree *iavl.ImmutableTree
}

// View calls f with the version of a height; 0 is the last committed one. No
// version is saved or dropped meanwhile, so f should be short.
func (t *Tree) View(height uint64, f func(v View) error) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if height == 0 {
		height = uint64(t.tree.Version())
	}
	if height == 0 {
		return fault.Errorf(fault.Unavailable, "the chain has no block yet; try again in a moment")
	}
	v, err := t.tree.GetImmutable(int64(height))
	if err != nil {
		return fault.Errorf(fault.NotFound, "the state of block %d is not here: the newest is %d and older ones are dropped", height, t.tree.Version())
	}
	return f(View{v})
}

// Get reads a record, nil when there is none.
func (v View) Get(key []byte) []byte {
	b, err := v.tree.Get(key)
	must("read", key, err)
	return b
}

// Ascend walks records from a key up to and without another.
func (v View) Ascend(from, to []byte, f func(key, value []byte) bool) {
	it, err := v.tree.Iterator(from, to, true)
	must("walk from", from, err)
	walk(it, from, f)
}

// Prove returns a record with the path to the root, or the proof that there is
// none.
func (v View) Prove(key []byte) (chain.ProvenRecord, error) {
	r := chain.ProvenRecord{Key: key, Value: v.Get(key)}
	p, err := v.tree.GetProof(key)
	if err != nil {
		return r, fault.Errorf(fault.Internal, "prove record %x: %w", key, err)
	}
	r.Path, err = p.Marshal()
	return r, err
}

// Root is the root of the version.
func (v View) Root() []byte { return v.tree.Hash() }

// Height is the block that the version is the state after.
func (v View) Height() uint64 { return uint64(v.tree.Version()) }
