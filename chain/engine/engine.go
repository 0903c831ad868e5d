// Package engine runs the agreement as a chain: validators agree on blocks with
// CometBFT, in this process, and chain/state applies them to an IAVL tree whose
// root every block signs.
//
//	n, err := engine.Start(ctx, engine.Config{Dir: "/var/lib/zos/chain", Log: log, Clock: clock.System{}})
//	answer, err := n.Submit(ctx, wire) // waits until the transaction is in a block
//	http.Serve(listener, n.Handler())  // the same for others, with proofs and events
//
// One validator embedded in the process that asks is the smallest chain, four
// and more make a federation. A block is made when there is something to put in
// it, and every ten seconds. The root doesn't change in an empty block.
//
// Everything of a chain lies in one folder: genesis.json, the keys, and data/
// with the blocks, the tree, snapshots and an index for lists and events that is
// made anew when it is missing. A process that is killed at any instruction
// starts where it was: the blocks that the tree lacks are applied again and must
// give the root that was signed, or the start is refused with both roots.
//
// The package dials only the peers it is told, and listens on loopback unless it
// is told otherwise.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/proxy"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Config says how a node runs. Dir, Log and Clock are needed, the rest has
// defaults.
type Config struct {
	Dir   string       // the folder of the chain, with genesis.json and the keys
	Log   *slog.Logger // what an operator wants to know; the engine's diary at debug level
	Clock clock.Clock

	PeerListen   string   // where other validators dial; default 127.0.0.1 and any port
	PeerExternal string   // what they dial, when it differs
	Peers        []string // id@host:port of the others

	EmptyEvery    time.Duration // between empty blocks; default 10 s
	CommitWait    time.Duration // of a federation, for late votes; default 500 ms
	KeepVersions  uint64        // of the state, for queries and proofs; default 256
	KeepBlocks    time.Duration // default 14 days; negative: for ever
	SnapshotEvery uint64        // blocks; default 10,000
	KeepSnapshots int           // default 2; one that is dropped while a peer fetches it makes the peer begin anew
	SyncFrom      *SyncFrom     // begin an empty folder from a snapshot

	Release chain.Hash // the release that this program is from, if known
	Audit   bool       // check after each block that the state adds up, and stop if not (slow)
}

// Node is a running chain.
type Node struct {
	cfg     Config
	genesis Genesis
	tree    *Tree
	index   *index
	app     *app
	comet   *node.Node
	states  sm.Store
	self    chain.Bytes // this validator's key
	news    *news
	results *results
	dbs     []dbm.DB

	once  sync.Once
	done  chan struct{}
	errMu sync.Mutex
	err   error
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.EmptyEvery, 10*time.Second)
	def(&c.CommitWait, 500*time.Millisecond)
	def(&c.KeepBlocks, 14*24*time.Hour)
	if c.KeepVersions == 0 {
		c.KeepVersions = 256
	}
	if c.SnapshotEvery == 0 {
		c.SnapshotEvery = 10_000
	}
	if c.KeepSnapshots == 0 {
		c.KeepSnapshots = keepSnapshots
	}
	if c.PeerListen == "" {
		c.PeerListen = "127.0.0.1:0"
	}
	return c
}

// Start runs the chain in a folder. The caller must Close the node, also after
// it ended by itself (Done).
func Start(ctx context.Context, cfg Config) (_ *Node, err error) {
	cfg = cfg.withDefaults()
	n := &Node{cfg: cfg, news: newNews(), results: newResults(), done: make(chan struct{})}
	if n.genesis, err = ReadGenesis(filepath.Join(cfg.Dir, genesisFile)); err != nil {
		return nil, err
	}
	doc, err := n.genesis.doc()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(cfg.Dir, dataFolder)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "start chain: %w", err)
	}
	defer func() {
		if err != nil {
			n.release()
		}
	}()
	// The tree's folder is locked by the process, so what follows is ours.
	if n.tree, err = OpenTree(data, treeName); err != nil {
		return nil, err
	}
	if n.index, err = openIndex(data); err != nil {
		return nil, err
	}
	if err := n.upgraded(); err != nil {
		return nil, err
	}
	n.app = newApp(appConfig{
		tree: n.tree, clock: cfg.Clock, log: cfg.Log, keep: cfg.KeepVersions, retain: cfg.KeepBlocks,
		snapshots: newSnapshots(filepath.Join(data, "snapshots"), n.tree, cfg.SnapshotEvery, cfg.KeepSnapshots, cfg.Log),
		committed: n.committed, failed: n.fail, satisfied: n.satisfies, lastTime: n.lastTime, restored: n.relist, audit: cfg.Audit,
	})
	if err := n.startEngine(ctx, doc); err != nil {
		return nil, err
	}
	return n, nil
}

const treeName = "tree" // the engine has a state.db of its own

// startEngine makes and starts the consensus engine.
func (n *Node) startEngine(ctx context.Context, doc *types.GenesisDoc) (err error) {
	if _, _, err := NewValidator(n.cfg.Dir); err != nil {
		return err
	}
	pv, err := loadValidator(n.cfg.Dir)
	if err != nil {
		return err
	}
	n.self = pv.Key.PubKey.Bytes()
	key, err := loadNodeKey(n.cfg.Dir)
	if err != nil {
		return err
	}
	c := n.engineConfig(len(doc.Validators) == 1 && string(doc.Validators[0].PubKey.Bytes()) == string(n.self))
	if err := c.ValidateBasic(); err != nil {
		return fault.Errorf(fault.Invalid, "start chain: %w", err)
	}
	open := func(ctx *config.DBContext) (dbm.DB, error) {
		db, err := config.DefaultDBProvider(ctx)
		if err == nil {
			n.dbs = append(n.dbs, db)
			if ctx.ID == "state" {
				n.states = sm.NewStore(db, sm.StoreOptions{})
			}
		}
		return db, err
	}
	provider := func() (*types.GenesisDoc, error) { return doc, nil }
	log := logger{log: n.cfg.Log, failed: n.fail}
	var options []node.Option
	if n.cfg.SyncFrom != nil && n.tree.Height() == 0 {
		p, err := n.cfg.SyncFrom.provider(ctx, n.genesis.State.Chain, doc, n.cfg.Clock, log)
		if err != nil {
			return err
		}
		options = append(options, node.StateProvider(p))
	}
	err = guarded(func() (err error) {
		n.comet, err = node.NewNodeWithContext(ctx, c, pv, key, proxy.NewConnSyncLocalClientCreator(n.app),
			provider, open, node.DefaultMetricsProvider(c.Instrumentation), log, options...)
		return err
	})
	if err != nil {
		return fault.Errorf(kindOr(err, fault.Internal), "start chain: %w", err)
	}
	if err := n.catchUp(); err != nil {
		return err
	}
	if err := n.begun(ctx); err != nil {
		return err
	}
	if err := guarded(n.comet.Start); err != nil {
		return fault.Errorf(fault.Unavailable, "start chain: %w", err)
	}
	return nil
}

// clockBehind is how far behind the last block a clock may be, in seconds: with
// one further back the consensus engine would panic at the block it left off.
const clockBehind = 60

// begun refuses a clock that is far behind, and waits for the time of the genesis; the engine would do so too, but deaf
// and silent.
func (n *Node) begun(ctx context.Context) error {
	now, at := n.cfg.Clock.Now(), n.genesis.Time
	if last, ok := n.tree.Time(n.tree.Height()); ok && n.tree.Height() > 0 && now.Unix() < last-clockBehind {
		return fault.Errorf(fault.Unavailable, "start chain: it is %s by the clock of this machine, and the last block is of %s; set the clock of this machine and start again",
			now.UTC().Format(time.RFC3339), time.Unix(last, 0).UTC().Format(time.RFC3339))
	}
	wait := at.Sub(now)
	if wait <= 0 {
		return nil
	}
	if n.tree.Height() > 0 {
		return fault.Errorf(fault.Unavailable, "start chain: it is %s by the clock of this machine, and the chain began at %s; set the clock", now.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	n.cfg.Log.InfoContext(ctx, "the chain begins later", "at", at.UTC())
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func kindOr(err error, k fault.Kind) fault.Kind {
	if f := fault.Of(err); f != fault.Internal {
		return f
	}
	return k
}

// guarded turns the panics with which the engine refuses to start into errors.
// Among them is the one for a state whose root isn't the one that was signed,
// with both roots.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			text, _, _ := strings.Cut(fmt.Sprint(p), "\n\n")
			err = fault.Errorf(fault.Internal, "%s", strings.Join(strings.Fields(text), " "))
		}
	}()
	return f()
}

// engineConfig is the whole configuration of the engine; it reads no file of
// its own.
func (n *Node) engineConfig(alone bool) *config.Config {
	c := config.DefaultConfig()
	c.SetRoot(n.cfg.Dir)
	c.DBPath = dataFolder
	c.DBBackend = "goleveldb"
	c.RPC.ListenAddress, c.RPC.GRPCListenAddress, c.RPC.PprofListenAddress = "", "", ""
	c.Instrumentation.Prometheus = false
	c.TxIndex.Indexer = "null"
	c.P2P.ListenAddress = "tcp://" + n.cfg.PeerListen
	c.P2P.ExternalAddress = n.cfg.PeerExternal
	c.P2P.PersistentPeers = strings.Join(n.cfg.Peers, ",")
	c.P2P.AddrBook = filepath.Join(dataFolder, "peers.json")
	c.P2P.AddrBookStrict = false
	c.P2P.AllowDuplicateIP = true
	c.P2P.PexReactor = false
	c.P2P.FlushThrottleTimeout = 5 * time.Millisecond
	c.P2P.MaxPacketMsgPayloadSize = 16 << 10
	c.P2P.SendRate, c.P2P.RecvRate = 50<<20, 50<<20
	c.P2P.PersistentPeersMaxDialPeriod = 5 * time.Second
	c.Mempool.Size = maxWaiting
	c.Mempool.CacheSize = 2 * maxWaiting
	c.Mempool.MaxTxsBytes = 64 << 20
	c.Mempool.MaxTxBytes = chain.MaxTx
	c.Consensus.WalPath = filepath.Join(dataFolder, "wal", "wal")
	c.Consensus.CreateEmptyBlocks = true
	c.Consensus.CreateEmptyBlocksInterval = n.cfg.EmptyEvery
	if alone {
		c.Consensus.SkipTimeoutCommit = true
		c.Consensus.TimeoutCommit = 0
	} else {
		c.Consensus.TimeoutCommit = n.cfg.CommitWait
		c.Consensus.TimeoutPropose = 1500 * time.Millisecond
		c.Consensus.TimeoutPrevote = 500 * time.Millisecond
		c.Consensus.TimeoutPrecommit = 500 * time.Millisecond
		c.Consensus.PeerGossipSleepDuration = 20 * time.Millisecond
	}
	if n.cfg.SyncFrom != nil && n.tree.Height() == 0 {
		n.cfg.SyncFrom.configure(c.StateSync)
	}
	return c
}

// maxWaiting is the most transactions that wait for a block.
const maxWaiting = 10_000

// upgraded refuses to go on with a program that the chain was to replace.
func (n *Node) upgraded() error {
	if n.tree.Height() == 0 {
		return nil
	}
	var u *chain.Upgrade
	var meta *chain.Meta
	err := n.tree.View(0, func(v View) (err error) {
		if u, err = read[chain.Upgrade](v, chain.UpgradeKey()); err != nil {
			return err
		}
		meta, err = read[chain.Meta](v, chain.MetaKey())
		return err
	})
	switch {
	case err != nil:
		return err
	case meta != nil && meta.Version > state.Version:
		return fault.Errorf(fault.Unsupported, "start chain: the state has version %d, this program knows %d; use the newer program", meta.Version, state.Version)
	case u != nil && u.Height == n.tree.Height()+1 && !n.satisfies(*u):
		return haltError(*u)
	}
	return nil
}

// satisfies says whether this program may go on after an upgrade.
func (n *Node) satisfies(u chain.Upgrade) bool {
	if u.Version > state.Version {
		return false
	}
	return u.Release == chain.Hash{} || u.Release == n.cfg.Release
}

// lastTime is the time of the last block as the engine knows it: after a
// snapshot from a header that was verified.
func (n *Node) lastTime(height uint64) (int64, bool) {
	if n.states == nil {
		return 0, false
	}
	s, err := n.states.Load()
	if err != nil || uint64(s.LastBlockHeight) != height {
		return 0, false
	}
	return s.LastBlockTime.Unix(), true
}

// fail ends the node: it stands and waits for Close.
func (n *Node) fail(err error) {
	n.once.Do(func() {
		n.errMu.Lock()
		n.err = err
		n.errMu.Unlock()
		close(n.done)
	})
}

// Done is closed when the node ended by itself; Err says why.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is why the node ended by itself, or nil.
func (n *Node) Err() error {
	n.errMu.Lock()
	defer n.errMu.Unlock()
	return n.err
}

// Close stops the node and releases its folder.
func (n *Node) Close() error {
	var err error
	if n.comet != nil && n.comet.IsRunning() {
		if serr := n.comet.Stop(); serr != nil {
			err = fault.Errorf(fault.Internal, "stop chain: %w", serr)
		}
	}
	if n.comet != nil && n.comet.ProxyApp().IsRunning() {
		_ = n.comet.ProxyApp().Stop() // nothing is behind it but our app
	}
	n.news.close()
	return errors.Join(err, n.release())
}

// release closes files.
func (n *Node) release() error {
	var errs []error
	if n.app != nil && n.app.cfg.snapshots != nil {
		n.app.cfg.snapshots.close()
	}
	for _, db := range n.dbs {
		// The engine closes some of them itself, and then says so.
		_ = guarded(db.Close)
	}
	if n.index != nil {
		errs = append(errs, n.index.close())
	}
	if n.tree != nil {
		errs = append(errs, n.tree.Close())
	}
	n.dbs, n.index, n.tree = nil, nil, nil
	return errors.Join(errs...)
}

// Chain is the id of the chain.
func (n *Node) Chain() string { return n.genesis.State.Chain }

// Tree is the state of the chain.
func (n *Node) Tree() *Tree { return n.tree }

// Peer is where other validators reach this one: id@host:port, or nothing when
// it listens on a port that nobody chose.
func (n *Node) Peer() string {
	addr, err := n.comet.NodeInfo().NetAddress()
	if err != nil || addr.Port == 0 {
		return ""
	}
	return addr.String()
}
