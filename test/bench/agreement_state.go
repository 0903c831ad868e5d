package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"zos.internal/chain"
	"zos.internal/chain/engine"
	"zos.internal/identity"
	states "zos.internal/test/chain/machine"
)

// filledState is the state machine over its tree with live contracts.
type filledState struct{ *states.Machine }

func filled(dir string, contracts int) (filledState, error) {
	if err := os.RemoveAll(dir); err != nil {
		return filledState{}, err
	}
	m, err := states.New(dir, 3)
	if err != nil {
		return filledState{}, err
	}
	m.Record = false
	m.Fill(contracts)
	return filledState{m}, nil
}

// spentHere is the processor time that f takes on its own thread: what the
// database does beside it, such as tidying up after the filling, isn't counted.
func spentHere(f func() error) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var begin, end unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &begin); err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	err := unix.Getrusage(unix.RUSAGE_THREAD, &end)
	return float64(end.Utime.Nano()+end.Stime.Nano()-begin.Utime.Nano()-begin.Stime.Nano()) / 1e9, err
}

// empties is the processor time of a block in which nothing is due.
func (m filledState) empties() (float64, error) {
	const blocks = 5000
	s, err := spentHere(func() error {
		for range blocks {
			if r := m.Empty(); len(r.Events) > 0 {
				return fmt.Errorf("something was due: %+v", r.Events)
			}
			m.Tree.WorkingRoot()
		}
		return nil
	})
	return s / blocks, err
}

// creates is the processor time of a transaction that makes a contract, in a
// block of many, which is saved.
func (m filledState) creates() (float64, error) {
	const many = 500
	node := m.Node(chain.Capacity{CPU: 1 << 24, Memory: 1 << 44})
	var txs [][]byte
	for range many {
		txs = append(txs, m.Sign(3, &chain.CreateNodeContract{ID: m.NextID(3), Node: node, Capacity: chain.Capacity{CPU: 100, Memory: 64 << 20}, MaxRate: 1 << 50, Deadline: 3600, Deposit: chain.Credit / 10}))
	}
	s, err := spentHere(func() error { m.Must(m.Block(1, txs...)); return nil })
	return s / many, err
}

// proofs records the size of the proof of a contract.
func (m filledState) proofs(b *bench) error {
	id, err := identity.NewContractID(2, 50_000)
	if err != nil {
		return err
	}
	return m.Tree.View(0, func(v engine.View) error {
		r, err := v.Prove(chain.ContractKey(id))
		if err == nil {
			b.absolute("proof of a contract among 100,000", atMost(2048), float64(len(r.Path)), fmt.Sprintf("%d bytes", len(r.Path)))
		}
		return err
	})
}
