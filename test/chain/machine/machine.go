// Package machine drives the state machine of the chain over its tree, without a
// consensus engine: blocks come from the caller, with times that it chooses.
//
//	m, err := machine.New(dir, 3)                    // three twins, a farm of the first
//	node := m.Node(chain.Capacity{CPU: 64_000})
//	id := m.NextID(2)
//	r := m.Block(1, m.Sign(2, &chain.CreateNodeContract{ID: id, Node: node, …}))
//
// It is for tests of determinism and for benchmarks. What can't happen in them
// panics.
package machine

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"zos.internal/chain"
	"zos.internal/chain/engine"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/canon"
)

// Machine is a chain whose blocks are made by the caller.
type Machine struct {
	Tree   *engine.Tree
	Blocks []state.Block // all of them, if Record
	Roots  [][]byte      // after each, if Record
	Record bool
	Height uint64
	Now    int64 // unix seconds of the last block

	state    *state.Machine
	dir      string
	keys     map[identity.Party]*identity.PrivateKey
	sequence map[identity.Party]uint64
	serial   map[identity.Party]uint32
	farm     uint32
	ticket   []byte
	nodes    int
}

// ID is the chain's.
const ID = "test-1"

// begin is the time of the genesis.
const begin = 1_800_000_000

// Genesis is that of every Machine with so many twins.
func Genesis(twins int) state.Genesis {
	g := state.Genesis{Chain: ID, Governance: 1, Validators: []chain.Validator{{Key: make([]byte, 32), Power: 1}}}
	for i := range twins {
		g.Parties = append(g.Parties, state.GenesisParty{Balance: 10_000_000 * chain.Credit,
			Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: key(uint64(i + 1)).Public(), Role: identity.RoleFull}}}})
	}
	return g
}

func key(n uint64) *identity.PrivateKey {
	return identity.FromSeed(sha256.Sum256(binary.BigEndian.AppendUint64(nil, n)))
}

// New makes a chain in a folder, with so many twins and a farm of the first.
func New(dir string, twins int) (*Machine, error) {
	m, err := open(dir, twins)
	if err != nil {
		return nil, err
	}
	for i := range twins {
		m.keys[identity.Party(i+1)] = key(uint64(i + 1))
	}
	prices := chain.Prices{CPU: 1_000_000, Memory: 500_000, SSD: 100_000}
	m.farm = m.Must(m.Block(1, m.Sign(1, &chain.CreateFarm{Name: "farm", Terms: chain.Terms{Prices: prices}})))[0].Events[0].Farm
	m.ticket = canon.MustMarshal(chain.Ticket{Chain: ID, Farm: m.farm, Serial: 1, Uses: 1_000_000, NotAfter: begin + 1<<30})
	return m, nil
}

// open makes or opens the tree; an empty one gets the genesis.
func open(dir string, twins int) (*Machine, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	tree, err := engine.OpenTree(dir, "tree")
	if err != nil {
		return nil, err
	}
	m := &Machine{Tree: tree, dir: dir, Height: tree.Height(), Now: begin, state: state.New(tree), Record: true,
		keys: make(map[identity.Party]*identity.PrivateKey), sequence: make(map[identity.Party]uint64), serial: make(map[identity.Party]uint32)}
	if m.Height == 0 {
		if err := m.state.Init(Genesis(twins)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Reopen closes the tree and opens it again, with a new state machine.
func (m *Machine) Reopen() error {
	if err := m.Tree.Close(); err != nil {
		return err
	}
	tree, err := engine.OpenTree(m.dir, "tree")
	if err != nil {
		return err
	}
	if tree.Height() != m.Height {
		return fmt.Errorf("the tree was at block %d and opens at %d", m.Height, tree.Height())
	}
	m.Tree, m.state = tree, state.New(tree)
	return nil
}

// Replay opens an empty folder for the blocks of another Machine.
func Replay(dir string, twins int) (*Machine, error) { return open(dir, twins) }

// Apply applies a block and saves it, and returns the root.
func (m *Machine) Apply(b state.Block) (state.Result, []byte) {
	r := m.state.Apply(b)
	root, _, err := m.Tree.Commit(b.Height, b.Time, 8)
	if err != nil {
		panic(err)
	}
	m.Height, m.Now = b.Height, b.Time
	return r, root
}

// Block makes the next block, some seconds after the last.
func (m *Machine) Block(seconds int64, txs ...[]byte) state.Result {
	b := state.Block{Height: m.Height + 1, Time: m.Now + seconds, Prev: m.Now, Txs: txs}
	r, root := m.Apply(b)
	if m.Record {
		m.Blocks, m.Roots = append(m.Blocks, b), append(m.Roots, root)
	}
	return r
}

// Empty applies an empty block without saving it: the work that each block has.
func (m *Machine) Empty() state.Result {
	return m.state.Apply(state.Block{Height: m.Height + 1, Time: m.Now + 1, Prev: m.Now})
}

// Must wants every transaction of a block to have taken effect.
func (m *Machine) Must(r state.Result) []state.TxResult {
	for i, tx := range r.Txs {
		if !tx.OK() {
			panic(fmt.Sprintf("block %d, transaction %d: %s: %s", m.Height, i, tx.Kind, tx.Error))
		}
	}
	return r.Txs
}

// Sign makes a party's next transaction.
func (m *Machine) Sign(p identity.Party, ms ...chain.Message) []byte {
	m.sequence[p]++
	wire, err := chain.Sign(chain.Body{Chain: ID, Party: p, Sequence: m.sequence[p], Expires: m.Now + 600, FeeLimit: chain.Credit, Messages: chain.Pack(ms...)},
		chain.Signer{Key: m.keys[p]})
	if err != nil {
		panic(err)
	}
	return wire
}

// NextID is the next contract of a party.
func (m *Machine) NextID(p identity.Party) identity.ContractID {
	m.serial[p]++
	id, err := identity.NewContractID(p, m.serial[p])
	if err != nil {
		panic(err)
	}
	return id
}

// Node registers a machine with the farm, in a block of its own.
func (m *Machine) Node(c chain.Capacity) identity.Party {
	m.nodes++
	k := key(1<<32 + uint64(m.nodes))
	wire, err := chain.Sign(chain.Body{Chain: ID, Expires: m.Now + 600, Messages: chain.Pack(&chain.RegisterNode{Ticket: m.ticket,
		Signature: m.keys[1].SignAs(0, identity.TagTicket, m.ticket), Key: k.Public(), KEM: make([]byte, 1216), Machine: chain.Machine{Capacity: c}})}, chain.Signer{Key: k})
	if err != nil {
		panic(err)
	}
	p := m.Must(m.Block(1, wire))[0].Events[0].Node
	m.keys[p] = k
	return p
}

// Fill makes so many live contracts on nodes of their own, several in each
// transaction. Nothing of them is due for an hour.
func (m *Machine) Fill(contracts int) {
	const most = chain.MaxOnNode
	for have := 0; have < contracts; {
		node := m.Node(chain.Capacity{CPU: most * 1000, Memory: most << 30})
		here := min(most, contracts-have)
		var txs [][]byte
		for i := 0; i < here; i += chain.MaxMessages {
			var ms []chain.Message
			for range min(chain.MaxMessages, here-i) {
				ms = append(ms, &chain.CreateNodeContract{ID: m.NextID(2), Node: node, Capacity: chain.Capacity{CPU: 100, Memory: 64 << 20}, MaxRate: 1 << 50, Deadline: 3600, Deposit: chain.Credit})
			}
			txs = append(txs, m.Sign(2, ms...))
		}
		m.Must(m.Block(0, txs...))
		have += here
	}
}

// Close closes the tree.
func (m *Machine) Close() error { return m.Tree.Close() }

// Data is the folder of the tree.
func (m *Machine) Data() string { return filepath.Join(m.dir, "tree.db") }

// Contract is a contract's record after the last block.
func (m *Machine) Contract(id identity.ContractID) *chain.Contract {
	var c chain.Contract
	if err := canon.Unmarshal(m.Tree.Get(chain.ContractKey(id)), &c); err != nil {
		panic(err)
	}
	return &c
}
