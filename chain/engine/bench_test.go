package engine

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/clock"
)

// cpu is the processor time of this process in milliseconds.
func cpu() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// BenchmarkCommit is the time from Submit to the answer from a block, one after
// another.
func BenchmarkCommit(b *testing.B) {
	dir, faucet := newChain(b)
	n := start(b, testConfig(b, dir))
	ctx := context.Background()
	sequence := uint64(0)
	var took []time.Duration
	used := cpu()
	for b.Loop() {
		sequence++
		wire := sign(b, faucet, 1, sequence, &chain.Send{To: 1, Amount: 1})
		at := clock.System{}.Now()
		if _, err := n.Submit(ctx, wire); err != nil {
			b.Fatal(err)
		}
		took = append(took, clock.Since(clock.System{}, at))
	}
	b.ReportMetric((cpu()-used)/float64(len(took)), "cpu-ms/tx")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkThroughput submits from many parties at once.
func BenchmarkThroughput(b *testing.B) {
	dir, faucet := newChain(b)
	n := start(b, testConfig(b, dir))
	ctx := context.Background()
	const parties, each = 64, 8
	type sender struct {
		key      *identity.PrivateKey
		party    identity.Party
		sequence uint64
	}
	var senders []*sender
	for i := range parties {
		wire, key := joinTx(b)
		submit(b, n, wire)
		p := identity.Party(2 + i)
		submit(b, n, sign(b, faucet, 1, uint64(i+1), &chain.Send{To: p, Amount: chain.Credit}))
		senders = append(senders, &sender{key, p, 0})
	}
	var used float64
	round := func() {
		var wires [][]byte
		for range each {
			for _, s := range senders {
				s.sequence++
				wires = append(wires, sign(b, s.key, s.party, s.sequence, &chain.Send{To: 1, Amount: 1}))
			}
		}
		b.StartTimer()
		used -= cpu()
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				var all sync.WaitGroup
				for j := i; j < len(wires); j += parties {
					all.Go(func() {
						if a, err := n.Submit(ctx, wires[j]); err != nil || a.Kind != "" {
							b.Error(a, err)
						}
					})
				}
				all.Wait()
			})
		}
		wg.Wait()
		used += cpu()
		b.StopTimer()
	}
	b.ResetTimer()
	b.StopTimer()
	for range b.N {
		round()
	}
	b.ReportMetric(used/float64(b.N*parties*each), "cpu-ms/tx")
	b.ReportMetric(float64(b.N*parties*each)/b.Elapsed().Seconds(), "tx/s")
}
