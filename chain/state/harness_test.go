package state

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// memory is a Tree in memory.
type memory struct {
	keys   []string
	values map[string][]byte
	sets   int
}

func newMemory() *memory { return &memory{values: make(map[string][]byte)} }

func (m *memory) Get(key []byte) []byte { return m.values[string(key)] }

func (m *memory) Set(key, value []byte) {
	m.sets++
	k := string(key)
	if _, ok := m.values[k]; !ok {
		i, _ := slices.BinarySearch(m.keys, k)
		m.keys = slices.Insert(m.keys, i, k)
	}
	m.values[k] = slices.Clone(value)
}

func (m *memory) Delete(key []byte) {
	m.sets++
	k := string(key)
	if i, ok := slices.BinarySearch(m.keys, k); ok {
		m.keys = slices.Delete(m.keys, i, i+1)
	}
	delete(m.values, k)
}

func (m *memory) Ascend(from, to []byte, f func(key, value []byte) bool) {
	i, _ := slices.BinarySearch(m.keys, string(from))
	for _, k := range slices.Clone(m.keys[i:]) {
		if k >= string(to) || !f([]byte(k), m.values[k]) {
			return
		}
	}
}

// root stands for the hash of a tree.
func (m *memory) root() [32]byte {
	h := sha256.New()
	for _, k := range m.keys {
		fmt.Fprintf(h, "%d %s %d ", len(k), k, len(m.values[k]))
		h.Write(m.values[k])
	}
	return [32]byte(h.Sum(nil))
}

// grid is a chain in memory whose clock the test moves.
type grid struct {
	t      *testing.T
	tree   *memory
	m      *Machine
	height uint64
	now    int64
	prev   int64
	blocks []Block // for a replay
	keys   map[identity.Party]*identity.PrivateKey
	serial map[identity.Party]uint32
	audit  bool
}

const begin = 1_800_000_000

// newGrid makes a chain with n twins that have 1000 credits each; twin 1 governs.
func newGrid(t *testing.T, n int) *grid {
	t.Helper()
	return newGridWith(t, n, func(*Genesis) {})
}

func newGridWith(t *testing.T, n int, change func(*Genesis)) *grid {
	t.Helper()
	g := &grid{t: t, tree: newMemory(), now: begin, prev: begin, audit: true,
		keys: make(map[identity.Party]*identity.PrivateKey), serial: make(map[identity.Party]uint32)}
	gen := Genesis{Chain: "test-1", Governance: 1, Validators: []chain.Validator{{Key: make([]byte, 32), Power: 1}}}
	for i := range n {
		p := identity.Party(i + 1)
		g.keys[p] = testKey(uint64(p))
		gen.Parties = append(gen.Parties, GenesisParty{
			Twin:    &chain.CreateTwin{Keys: []chain.NewKey{{Key: g.keys[p].Public(), Role: identity.RoleFull}}},
			Balance: 1000 * chain.Credit,
		})
	}
	change(&gen)
	g.m = New(g.tree)
	if err := g.m.Init(gen); err != nil {
		t.Fatal(err)
	}
	return g
}

func testKey(n uint64) *identity.PrivateKey {
	return identity.FromSeed(sha256.Sum256(fmt.Append(nil, "key ", n)))
}

// block applies transactions in one block, one second after the last.
func (g *grid) block(txs ...[]byte) Result { return g.after(1, txs...) }

// after applies transactions in a block some seconds after the last.
func (g *grid) after(seconds int64, txs ...[]byte) Result {
	g.t.Helper()
	g.height++
	g.prev, g.now = g.now, g.now+seconds
	b := Block{Height: g.height, Time: g.now, Prev: g.prev, Txs: txs}
	g.blocks = append(g.blocks, b)
	r := g.m.Apply(b)
	if g.audit {
		if err := Audit(g.tree); err != nil {
			g.t.Fatalf("height %d: %v", g.height, err)
		}
	}
	return r
}

// pass lets time go by in steps that the billing clock follows.
func (g *grid) pass(seconds int64) []chain.Event {
	g.t.Helper()
	audit := g.audit
	var events []chain.Event
	for seconds > 0 {
		step := min(seconds, maxStep)
		seconds -= step
		g.audit = audit && seconds == 0
		events = append(events, g.after(step).Events...)
	}
	g.audit = audit
	return events
}

// sign makes a transaction of a party with its next sequence.
func (g *grid) sign(p identity.Party, ms ...chain.Message) []byte {
	g.t.Helper()
	return g.signAt(p, g.get(p).Sequence+1, ms...)
}

func (g *grid) signAt(p identity.Party, sequence uint64, ms ...chain.Message) []byte {
	g.t.Helper()
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: p, Sequence: sequence, Expires: g.now + 600, FeeLimit: chain.Credit,
		Messages: chain.Pack(ms...)}, chain.Signer{Key: g.keys[p]})
	if err != nil {
		g.t.Fatal(err)
	}
	return wire
}

// do applies messages of a party in a block of their own and wants them to succeed.
func (g *grid) do(p identity.Party, ms ...chain.Message) TxResult {
	g.t.Helper()
	r := g.try(p, ms...)
	if !r.OK() {
		g.t.Fatalf("party %d, %s: %s: %s", p, ms[0].Code(), r.Kind, r.Error)
	}
	return r
}

// try applies messages of a party in a block of their own.
func (g *grid) try(p identity.Party, ms ...chain.Message) TxResult {
	g.t.Helper()
	return g.block(g.sign(p, ms...)).Txs[0]
}

// refuse wants messages to be refused with a kind, and to leave nothing behind.
func (g *grid) refuse(kind fault.Kind, p identity.Party, ms ...chain.Message) string {
	g.t.Helper()
	r := g.try(p, ms...)
	if r.Kind != kind {
		g.t.Fatalf("party %d, %s: %q %s, want %q", p, ms[0].Code(), r.Kind, r.Error, kind)
	}
	return r.Error
}

func (g *grid) get(p identity.Party) *chain.Account {
	w := g.work()
	return w.account(p)
}

// work looks at the state between blocks.
func (g *grid) work() *work {
	blk := &block{Block: Block{Height: g.height, Time: g.now, Prev: g.prev}, base: newLayer(g.tree)}
	blk.clock = g.now - metaOf(blk.base).Gap
	return &work{block: blk, l: blk.base}
}

func (g *grid) contract(id identity.ContractID) *chain.Contract { return g.work().contract(id) }

// id is the next contract id of a party.
func (g *grid) id(p identity.Party) identity.ContractID {
	g.serial[p]++
	id, err := identity.NewContractID(p, g.serial[p])
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// prices that make sums easy: a vCPU costs 1000 nano-credits a second, a GiB of
// memory 500, of SSD 100, an IPv4 200.
func testPrices() chain.Prices {
	return chain.Prices{CPU: 1_000_000, Memory: 500_000, SSD: 100_000, HDD: 50_000, IPv4: 200_000, Egress: 1_000_000_000}
}

func testMachine() chain.Machine {
	return chain.Machine{Capacity: chain.Capacity{CPU: 8000, Memory: 32 << 30, SSD: 1 << 40, HDD: 1 << 40, GPU: []string{"0/10de/2204"}}}
}

// farm makes a farm of a party.
func (g *grid) farm(owner identity.Party) uint32 {
	g.t.Helper()
	r := g.do(owner, &chain.CreateFarm{Name: fmt.Sprintf("farm-%d", g.height), Terms: chain.Terms{Prices: testPrices(), Dedicated: 500_000}})
	return r.Events[0].Farm
}

// node registers a machine in a farm.
func (g *grid) node(farm uint32, owner identity.Party, machine chain.Machine) identity.Party {
	g.t.Helper()
	ticket := canon.MustMarshal(chain.Ticket{Chain: "test-1", Farm: farm, Serial: 1, Uses: 1000, NotAfter: begin + 1<<30})
	key := testKey(1_000_000 + g.height)
	m := &chain.RegisterNode{Ticket: ticket, Signature: g.keys[owner].SignAs(0, identity.TagTicket, ticket), Key: key.Public(),
		KEM: make([]byte, 1216), Machine: machine}
	if f, err := g.work().farm(farm); err == nil && f.Owner != owner {
		m.Signer = owner // an operator of the owning group
	}
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Expires: g.now + 600, Messages: chain.Pack(m)}, chain.Signer{Key: key})
	if err != nil {
		g.t.Fatal(err)
	}
	r := g.block(wire).Txs[0]
	if !r.OK() {
		g.t.Fatalf("register node: %s: %s", r.Kind, r.Error)
	}
	p := r.Events[0].Node
	g.keys[p] = key
	return p
}

// deploy makes a contract and lets its node report it active.
func (g *grid) deploy(owner, node identity.Party, c chain.Capacity, deposit uint64) identity.ContractID {
	g.t.Helper()
	id := g.id(owner)
	g.do(owner, &chain.CreateNodeContract{ID: id, Node: node, Capacity: c, MaxRate: 1 << 60, Deposit: deposit})
	g.do(node, &chain.ReportState{ID: id, Version: 1, Outcome: chain.OutcomeActive})
	return id
}
