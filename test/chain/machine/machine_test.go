package machine

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/identity"
)

// recorded is a chain on which contracts are made, run, starve, are fed and end,
// a group decides, and some transactions fail.
func recorded(t *testing.T) *Machine {
	t.Helper()
	m, err := New(filepath.Join(t.TempDir(), "recorded"), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	nodes := []identity.Party{m.Node(chain.Capacity{CPU: 64_000, Memory: 64 << 30}), m.Node(chain.Capacity{CPU: 8_000, Memory: 8 << 30})}
	m.Must(m.Block(1, m.Sign(2, &chain.CreateGroup{Name: "three", Members: []chain.Member{{Party: 2, Weight: 1}, {Party: 3, Weight: 1}, {Party: 4, Weight: 1}},
		Policies: []chain.Policy{{Class: "deploy", Threshold: 2, Expiry: 3600}, {Class: "spend", Threshold: 2, Expiry: 3600}}})))
	var live []identity.ContractID
	for i := range 60 {
		p := identity.Party(2 + i%3)
		node := nodes[i%2]
		id := m.NextID(p)
		txs := [][]byte{m.Sign(p, &chain.CreateNodeContract{ID: id, Node: node, Capacity: chain.Capacity{CPU: 500, Memory: 256 << 20}, MaxRate: 1 << 50, Deposit: 10_000_000})}
		if i%4 != 3 { // every fourth meets its deadline
			txs = append(txs, m.Sign(node, &chain.ReportState{ID: id, Version: 1, Outcome: chain.OutcomeActive}))
		}
		r := m.Block(int64(1+i%7*20), txs...)
		if r.Txs[0].OK() {
			live = append(live, id)
		}
		if i%5 == 4 {
			first := live[0]
			live = live[1:]
			m.Block(1, m.Sign(first.Owner(), &chain.Cancel{ID: first}), m.Sign(1, &chain.TopUp{ID: live[0], Amount: 1000}), m.Sign(2, &chain.Send{To: 3, Amount: 1 << 60}))
		}
	}
	for range 40 {
		m.Block(60)
	}
	m.Block(100_000) // the chain stood for a day
	m.Block(1, []byte("noise"), m.Sign(3, &chain.Send{To: 2, Amount: 5}))
	if err := state.Audit(m.Tree); err != nil {
		t.Fatal(err)
	}
	return m
}

// same applies the blocks of a chain and wants its roots.
func same(t *testing.T, m *Machine, blocks []state.Block, roots [][]byte, between func()) {
	t.Helper()
	for i, b := range blocks {
		if _, root := m.Apply(b); !bytes.Equal(root, roots[i]) {
			t.Fatalf("block %d: root %x, recorded was %x", b.Height, root, roots[i])
		}
		between()
	}
}

// The same blocks give the same roots: with one processor and with many, with a
// restart after every block.
func TestReplay(t *testing.T) {
	m := recorded(t)
	events := 0
	for i := 1; i < len(m.Roots); i++ {
		if !bytes.Equal(m.Roots[i], m.Roots[i-1]) {
			events++
		}
	}
	if events < 60 {
		t.Fatalf("only %d blocks of the recorded chain change its state", events)
	}
	open := func(t *testing.T) *Machine {
		r, err := Replay(filepath.Join(t.TempDir(), "replay"), 4)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		return r
	}
	for _, n := range []int{1, 2, 16} {
		t.Run(fmt.Sprintf("processors %d", n), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
			same(t, open(t), m.Blocks, m.Roots, func() {})
		})
	}
	t.Run("restart at every height", func(t *testing.T) {
		r := open(t)
		same(t, r, m.Blocks, m.Roots, func() {
			if err := r.Reopen(); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("another block", func(t *testing.T) {
		// What is compared can differ.
		r := open(t)
		b := m.Blocks[5]
		same(t, r, m.Blocks[:5], m.Roots, func() {})
		b.Txs = b.Txs[:len(b.Txs)-1]
		if _, root := r.Apply(b); bytes.Equal(root, m.Roots[5]) {
			t.Error("a block without its last transaction gives the same root")
		}
	})
}

// A contract whose money has run out is suspended at most two blocks after.
func TestOutOfFundsIsActedOn(t *testing.T) {
	m, err := New(filepath.Join(t.TempDir(), "chain"), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	node := m.Node(chain.Capacity{CPU: 64_000, Memory: 64 << 30})
	id := m.NextID(2)
	m.Must(m.Block(1, m.Sign(2, &chain.CreateNodeContract{ID: id, Node: node, Capacity: chain.Capacity{CPU: 1000}, MaxRate: 1 << 50, Deposit: 100_000_000})))
	m.Must(m.Block(1, m.Sign(node, &chain.ReportState{ID: id, Version: 1, Outcome: chain.OutcomeActive})))
	left := func() (empty bool, c *chain.Contract) {
		c = m.Contract(id)
		// What it still has by the clock of the last block.
		used := c.Agreed.Capacity.CPU / 1000 * c.Prices.CPU / chain.Pico * uint64(m.Now-c.Money.Settled)
		return used >= c.Money.Escrow, c
	}
	for blocks, late := 0, 0; ; blocks++ {
		if blocks == 100_000 {
			t.Fatal("the money doesn't run out")
		}
		r := m.Block(50)
		empty, c := left()
		if c.State == chain.StateSuspended {
			found := false
			for _, e := range r.Events {
				found = found || e.Contract == id
			}
			if !found {
				t.Error("the block that suspends the contract has no event of it")
			}
			return
		}
		if empty {
			if late++; late > 2 {
				t.Fatalf("%d blocks after the money ran out the contract is %s: %+v", late, c.State, c.Money)
			}
		}
	}
}
