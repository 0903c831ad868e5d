package engine

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/clock"
)

// federation makes the folders of validators that know each other.
func federation(t testing.TB, count int) (cfgs []Config, faucet *identity.PrivateKey) {
	t.Helper()
	faucet, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	var vs []chain.Validator
	peers := make([]string, count)
	for i := range count {
		dir := t.TempDir()
		key, peer, err := NewValidator(dir)
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, chain.Validator{Key: key, Power: 10, Name: fmt.Sprint("v", i)})
		cfg := testConfig(t, dir)
		cfg.PeerListen = freeAddress(t)
		cfg.CommitWait = 50 * time.Millisecond
		cfgs = append(cfgs, cfg)
		peers[i] = peer + "@" + cfg.PeerListen
	}
	for i := range cfgs {
		for j, p := range peers {
			if i != j {
				cfgs[i].Peers = append(cfgs[i].Peers, p)
			}
		}
	}
	g := genesisOf(faucet, vs...)
	for _, cfg := range cfgs {
		if err := WriteGenesis(cfg.Dir, g); err != nil {
			t.Fatal(err)
		}
	}
	return cfgs, faucet
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// rootAt is the root that a node has signed for a height.
func rootAt(t testing.TB, n *Node, height uint64) []byte {
	t.Helper()
	until(t, n, height+1)
	return n.comet.BlockStore().LoadBlockMeta(int64(height) + 1).Header.AppHash
}

func TestFourValidatorsAndAFollower(t *testing.T) {
	if testing.Short() {
		t.Skip("runs five engines")
	}
	cfgs, faucet := federation(t, 4)
	nodes := make([]*Node, len(cfgs))
	for i := range cfgs {
		cfgs[i].SnapshotEvery, cfgs[i].KeepSnapshots = 5, 1000
		cfgs[i].KeepVersions = 10_000
		cfgs[i].EmptyEvery = 200 * time.Millisecond
		n, err := Start(t.Context(), cfgs[i])
		if err != nil {
			t.Fatal(err)
		}
		nodes[i] = n
	}
	defer func() {
		for _, n := range nodes {
			if n != nil {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	// Each validator takes transactions, all have the same state.
	var last uint64
	for i := range 8 {
		a := submit(t, nodes[i%4], sign(t, faucet, 1, uint64(i+1), &chain.Send{To: 1, Amount: 1}))
		if a.Kind != "" {
			t.Fatalf("transaction %d = %+v", i, a)
		}
		last = a.Height
	}
	same := func(height uint64) {
		t.Helper()
		want := rootAt(t, nodes[0], height)
		for i, n := range nodes {
			if n != nil && !bytes.Equal(rootAt(t, n, height), want) {
				t.Errorf("validator %d has another root at block %d", i, height)
			}
		}
	}
	same(last)

	// One goes away: the others go on, and it catches up.
	if err := nodes[3].Close(); err != nil {
		t.Fatal(err)
	}
	nodes[3] = nil
	for i := range 4 {
		a := submit(t, nodes[i%3], sign(t, faucet, 1, uint64(9+i), &chain.Send{To: 1, Amount: 1}))
		last = a.Height
	}
	var err error
	if nodes[3], err = Start(t.Context(), cfgs[3]); err != nil {
		t.Fatal(err)
	}
	same(last)

	// Somebody new follows from a snapshot, without the blocks before.
	first, second := serveTest(t, nodes[0]), serveTest(t, nodes[1])
	trusted, err := nodes[0].blockHash(last)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := WriteGenesis(dir, nodes[0].genesis); err != nil {
		t.Fatal(err)
	}
	follower := testConfig(t, dir)
	follower.Peers = append(slices.Clone(cfgs[0].Peers), nodes[0].Peer())
	follower.SyncFrom = &SyncFrom{Servers: []string{first.URL, second.URL}, Height: last, Hash: trusted}
	f := start(t, follower)
	until(t, f, last+2)
	if base := f.comet.BlockStore().Base(); base < 2 {
		t.Errorf("the follower has blocks from %d on; it did not begin with a snapshot", base)
	}
	a := submit(t, f, sign(t, faucet, 1, 13, &chain.Send{To: 1, Amount: 1}))
	if a.Kind != "" || !bytes.Equal(rootAt(t, f, a.Height), rootAt(t, nodes[0], a.Height)) {
		t.Errorf("the follower's transaction = %+v", a)
	}
	if status, err := f.Status(); err != nil || len(status.Validator) != 0 || status.Validators != 4 {
		t.Errorf("Status of the follower = %+v, %v", status, err)
	}
}

func TestWrongTrustIsRefused(t *testing.T) {
	dir, _ := newChain(t)
	n := start(t, testConfig(t, dir))
	wire, _ := joinTx(t)
	submit(t, n, wire)
	s := serveTest(t, n)
	other := t.TempDir()
	if err := WriteGenesis(other, n.genesis); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, other)
	for name, from := range map[string]*SyncFrom{
		"hash":       {Servers: []string{s.URL, s.URL}, Height: 1, Hash: bytes.Repeat([]byte{7}, 32)},
		"one server": {Servers: []string{s.URL}, Height: 1, Hash: bytes.Repeat([]byte{7}, 32)},
		"no hash":    {Servers: []string{s.URL, s.URL}, Height: 1},
		"no URL":     {Servers: []string{"nonsense", s.URL}, Height: 1, Hash: bytes.Repeat([]byte{7}, 32)},
	} {
		cfg.SyncFrom = from
		if n, err := Start(t.Context(), cfg); err == nil {
			n.Close()
			t.Errorf("%s: a follower starts", name)
		}
	}
}

// BenchmarkFederation has four validators in one process, with the time-outs of
// a federation: the time to a block, and transactions in a second.
func BenchmarkFederation(b *testing.B) {
	cfgs, faucet := federation(b, 4)
	nodes := make([]*Node, len(cfgs))
	for i := range cfgs {
		cfgs[i].CommitWait = 0
		nodes[i] = start(b, cfgs[i])
	}
	ctx := context.Background()
	const parties = 80
	keys := make([]*identity.PrivateKey, parties)
	for i := range keys {
		wire, key := joinTx(b)
		submit(b, nodes[0], wire)
		keys[i] = key
		submit(b, nodes[0], sign(b, faucet, 1, uint64(i+1), &chain.Send{To: identity.Party(i + 2), Amount: chain.Credit}))
	}
	var mu sync.Mutex
	var took []time.Duration
	count := 0
	sequences := make([]uint64, parties)
	used := cpu()
	b.ResetTimer()
	for b.Loop() {
		var wg sync.WaitGroup
		for i, key := range keys {
			for range 14 {
				sequences[i]++
				wire := sign(b, key, identity.Party(i+2), sequences[i], &chain.Send{To: 1, Amount: 1})
				count++
				wg.Go(func() {
					at := clock.System{}.Now()
					if _, err := nodes[i%4].Submit(ctx, wire); err != nil {
						b.Error(err)
					}
					mu.Lock()
					took = append(took, clock.Since(clock.System{}, at))
					mu.Unlock()
				})
			}
		}
		wg.Wait()
	}
	b.ReportMetric((cpu()-used)/float64(count), "cpu-ms/tx")
	slices.Sort(took)
	b.ReportMetric(float64(count)/b.Elapsed().Seconds(), "tx/s")
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "p99-ms")
}
