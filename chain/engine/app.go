package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmtcrypto "github.com/cometbft/cometbft/proto/tendermint/crypto"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// app is the application that the consensus engine drives: it applies blocks to
// the state machine and says which transactions may wait.
//
// Blocks are applied in FinalizeBlock to the working version of the tree and
// saved in Commit. Anything that goes wrong there is final: failed is called,
// and the process must end and replay.
type app struct {
	abci.BaseApplication // vote extensions and the parts for other mempools, unused

	cfg     appConfig
	mu      sync.Mutex // of all below; the tree has its own
	machine *state.Machine
	height  uint64         // of the last committed block
	time    int64          // of the last committed block
	waiting waiting        // sequences of transactions that wait
	current *finished      // the block between FinalizeBlock and Commit
	halt    *chain.Upgrade // no further block is made
	dead    error
	restore *restore
}

// appConfig is what an app needs from its node.
type appConfig struct {
	tree      *Tree
	clock     clock.Clock
	log       *slog.Logger
	keep      uint64                            // committed versions
	retain    time.Duration                     // blocks
	snapshots *snapshots                        // nil: none are made
	committed func(finished)                    // a block was saved
	failed    func(error)                       // the process must end
	satisfied func(chain.Upgrade) bool          // this program is the one that an upgrade asks for
	lastTime  func(height uint64) (int64, bool) // of a block that the engine has proven
	audit     bool
	restored  func(height uint64) error // the tree is that of a snapshot
}

// finished is a block with what it did.
type finished struct {
	height  uint64
	time    int64
	txs     [][]byte
	result  state.Result
	root    []byte
	changed []string
	retain  uint64 // blocks below it are dropped; 0: none now
}

func newApp(cfg appConfig) *app {
	a := &app{cfg: cfg}
	a.load()
	return a
}

// load takes over the tree's last version.
func (a *app) load() {
	a.machine = state.New(a.cfg.tree)
	a.height = a.cfg.tree.Height()
	a.time, _ = a.cfg.tree.Time(a.height)
	a.waiting.reset()
}

// Info says where the state is, so that the engine replays what is missing.
func (a *app) Info(context.Context, *abci.RequestInfo) (*abci.ResponseInfo, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &abci.ResponseInfo{Data: "zos", AppVersion: appVersion, LastBlockHeight: int64(a.height)}
	if a.height > 0 {
		r.LastBlockAppHash = a.cfg.tree.Root()
	}
	return r, nil
}

// appVersion is the version of what this engine and the consensus engine agree
// on. It isn't the version of the state's rules, which changes with upgrades.
const appVersion = 1

// InitChain writes the genesis. It becomes part of the first block.
func (a *app) InitChain(_ context.Context, r *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var g state.Genesis
	d := json.NewDecoder(bytes.NewReader(r.AppStateBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		return nil, fault.Errorf(fault.Invalid, "read genesis: %w", err)
	}
	if err := a.machine.Init(g); err != nil {
		return nil, fault.Errorf(fault.Of(err), "apply genesis: %w", err)
	}
	a.time = r.Time.Unix()
	if err := a.cfg.tree.SetTime(0, a.time); err != nil {
		return nil, err
	}
	// The engine checks its own validators against these.
	return &abci.ResponseInitChain{Validators: r.Validators, AppHash: a.cfg.tree.WorkingRoot()}, nil
}

// CheckTx says whether a transaction may wait for a block.
func (a *app) CheckTx(_ context.Context, r *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.check(r.Tx); err != nil {
		return &abci.ResponseCheckTx{Code: Code(fault.Of(err)), Log: err.Error(), Codespace: codespace}, nil
	}
	return &abci.ResponseCheckTx{Code: abci.CodeTypeOK, GasWanted: 1}, nil
}

func (a *app) check(wire []byte) (err error) {
	switch {
	case a.dead != nil:
		return fault.Errorf(fault.Unavailable, "the chain stands: %w", a.dead)
	case a.halt != nil:
		return fault.Errorf(fault.Unavailable, "the chain waits for the upgrade to %s; try again later", a.halt.Release)
	case a.height == 0:
		return fault.Errorf(fault.Unavailable, "the chain has no block yet; try again in a moment")
	}
	defer func() {
		if p := recover(); p != nil {
			a.cfg.log.Error("check of a transaction hit a bug", "panic", p)
			err = fault.Errorf(fault.Internal, "the check of the transaction hit a bug: %v", p)
		}
	}()
	// The time of the next block is between that of the last one and now. On a
	// chain that stood the first block is empty, see PrepareProposal.
	at := max(a.time, a.cfg.clock.Now().Unix()-clockSlack)
	if err := a.machine.Check(wire, state.Block{Height: a.height + 1, Time: at, Prev: a.time}); err != nil {
		return err
	}
	return a.waiting.add(wire)
}

// clockSlack is how far the time of a block may be behind the clock, in seconds.
const clockSlack = 15

// staleAfter is the age of the last block's time from which the next one is
// empty, so that the transactions get a block with a time of today.
const staleAfter = 60

// PrepareProposal chooses transactions for a block: in the order of their
// arrival, but those of one party in sequence and without gaps.
func (a *app) PrepareProposal(_ context.Context, r *abci.RequestPrepareProposal) (*abci.ResponsePrepareProposal, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.halt != nil || a.dead != nil || r.Time.Unix() < a.cfg.clock.Now().Unix()-staleAfter {
		return &abci.ResponsePrepareProposal{}, nil
	}
	next := func(p identity.Party) uint64 { return sequenceOf(a.cfg.tree, p) + 1 }
	return &abci.ResponsePrepareProposal{Txs: arrange(r.Txs, r.MaxTxBytes, next)}, nil
}

// ProcessProposal accepts every block of bounded size: what a transaction does
// is decided when it is applied, and can't stop a block.
func (a *app) ProcessProposal(_ context.Context, r *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ok := a.halt == nil && a.dead == nil
	for _, tx := range r.Txs {
		ok = ok && len(tx) <= chain.MaxTx
	}
	if !ok {
		return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}, nil
	}
	return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}, nil
}

// FinalizeBlock applies a block.
func (a *app) FinalizeBlock(_ context.Context, r *abci.RequestFinalizeBlock) (_ *abci.ResponseFinalizeBlock, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.final("apply", r.Height, &err)
	if err := a.mayApply(); err != nil {
		return nil, err
	}
	if want := a.height + 1; uint64(r.Height) != want {
		return nil, fault.Errorf(fault.Internal, "apply block %d: the next one is %d", r.Height, want)
	}
	prev, err := a.prevTime()
	if err != nil {
		return nil, err
	}
	b := state.Block{Height: uint64(r.Height), Time: r.Time.Unix(), Prev: prev, Txs: r.Txs}
	result := a.machine.Apply(b)
	if a.cfg.audit {
		if err := state.Audit(a.cfg.tree); err != nil {
			return nil, err
		}
	}
	f := finished{height: b.Height, time: b.Time, txs: r.Txs, result: result, root: a.cfg.tree.WorkingRoot()}
	out := &abci.ResponseFinalizeBlock{AppHash: f.root, Events: abciEvents(result.Events)}
	for _, tx := range result.Txs {
		out.TxResults = append(out.TxResults, execResult(tx))
	}
	for _, v := range result.Validators {
		out.ValidatorUpdates = append(out.ValidatorUpdates, abci.ValidatorUpdate{
			PubKey: cmtcrypto.PublicKey{Sum: &cmtcrypto.PublicKey_Ed25519{Ed25519: v.Key}}, Power: int64(v.Power)})
	}
	a.current = &f
	return out, nil
}

func (a *app) mayApply() error {
	switch {
	case a.dead != nil:
		return a.dead
	case a.halt != nil:
		return haltError(*a.halt)
	}
	return nil
}

// prevTime is the time of the last block. After a snapshot it comes from the
// header that the engine has verified.
func (a *app) prevTime() (int64, error) {
	if t, ok := a.cfg.tree.Time(a.height); ok {
		return t, nil
	}
	if a.cfg.lastTime != nil {
		if t, ok := a.cfg.lastTime(a.height); ok {
			return t, a.cfg.tree.SetTime(a.height, t)
		}
	}
	return 0, fault.Errorf(fault.Internal, "the time of block %d is not known; restore the data folder or sync again", a.height)
}

// Commit saves the block that was applied last.
func (a *app) Commit(context.Context, *abci.RequestCommit) (_ *abci.ResponseCommit, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.current
	if f == nil {
		return nil, fault.Errorf(fault.Internal, "commit: no block was applied")
	}
	defer a.final("commit", int64(f.height), &err)
	root, changed, err := a.cfg.tree.Commit(f.height, f.time, a.cfg.keep)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(root, f.root) {
		return nil, fault.Errorf(fault.Internal, "commit block %d: root %x, applied was %x", f.height, root, f.root)
	}
	f.changed = changed
	a.current, a.height, a.time = nil, f.height, f.time
	a.waiting.reset()
	if u := f.result.Halt; u != nil && (a.cfg.satisfied == nil || !a.cfg.satisfied(*u)) {
		a.halt = u
	}
	if a.cfg.snapshots != nil {
		a.cfg.snapshots.consider(f.height)
	}
	f.retain = uint64(a.retainHeight())
	if a.cfg.committed != nil {
		a.cfg.committed(*f)
	}
	if a.halt != nil {
		a.cfg.failed(haltError(*a.halt))
	}
	return &abci.ResponseCommit{RetainHeight: int64(f.retain)}, nil
}

// final makes errors and panics of applying a block known to the node: the
// engine would otherwise stand with the process alive.
func (a *app) final(verb string, height int64, err *error) {
	if p := recover(); p != nil {
		*err = fault.Errorf(fault.Internal, "%s block %d: %v", verb, height, p)
	}
	if *err == nil {
		return
	}
	if a.dead == nil && a.halt == nil {
		a.dead = *err
	}
	a.cfg.failed(*err)
}

// retainHeight is the lowest block to be kept, 0 for all. It looks at few times
// in each block, so it follows slowly when there is much to drop.
func (a *app) retainHeight() int64 {
	if a.cfg.retain <= 0 || a.height%retainEvery != 0 {
		return 0
	}
	oldest := a.time - int64(a.cfg.retain/time.Second)
	low, high := uint64(1), a.height
	for low < high { // times never fall, so halving finds the first one to keep
		mid := (low + high) / 2
		if t, ok := a.cfg.tree.Time(mid); !ok || t < oldest {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low <= 1 {
		return 0
	}
	if low > 2 {
		if err := a.cfg.tree.DropTimes(low - 1); err != nil {
			a.cfg.log.Warn("old times can't be dropped", "error", err)
		}
	}
	return int64(low)
}

// retainEvery is how often old blocks are looked for, in blocks.
const retainEvery = 32

// haltError is why a node stops for an upgrade.
func haltError(u chain.Upgrade) error {
	return fault.Errorf(fault.Unsupported, "the chain stops before block %d for an upgrade: start the program of release %s (state version %d) on this data folder", u.Height, u.Release, u.Version)
}

// Query answers with a record and its proof: path "/record", data the key.
func (a *app) Query(_ context.Context, r *abci.RequestQuery) (*abci.ResponseQuery, error) {
	if r.Path != "/record" || len(r.Data) == 0 || len(r.Data) > maxKey {
		return &abci.ResponseQuery{Code: Code(fault.Invalid), Codespace: codespace, Log: fmt.Sprintf("path %.40q: /record with a key of 1 to %d bytes is known", r.Path, maxKey)}, nil
	}
	out := &abci.ResponseQuery{Key: r.Data, Height: r.Height}
	if out.Height == 0 {
		out.Height = int64(a.cfg.tree.Height())
	}
	err := a.cfg.tree.View(uint64(out.Height), func(v View) error {
		if !r.Prove {
			out.Value = v.Get(r.Data)
			return nil
		}
		rec, err := v.Prove(r.Data)
		out.Value = rec.Value
		out.ProofOps = &cmtcrypto.ProofOps{Ops: []cmtcrypto.ProofOp{{Type: "ics23:iavl", Key: r.Data, Data: rec.Path}}}
		return err
	})
	if err != nil {
		return &abci.ResponseQuery{Code: Code(fault.Of(err)), Codespace: codespace, Log: err.Error()}, nil
	}
	return out, nil
}

const maxKey = 256
