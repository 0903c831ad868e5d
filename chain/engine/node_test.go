package engine

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"
	ics23 "github.com/cosmos/ics23/go"
	"github.com/google/go-cmp/cmp"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// until waits for a block of at least a height.
func until(t testing.TB, n *Node, height uint64) {
	t.Helper()
	for {
		changed := n.news.wait()
		if n.tree.Height() >= height {
			return
		}
		select {
		case <-changed:
		case <-n.Done():
			t.Fatalf("the chain stands at block %d: %v", n.tree.Height(), n.Err())
		case <-t.Context().Done():
			t.Fatalf("the chain is at block %d, want %d", n.tree.Height(), height)
		}
	}
}

func TestRestartGoesOnWhereItWas(t *testing.T) {
	dir, faucet := newChain(t)
	before := goroutines()
	n, err := Start(t.Context(), testConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	wire, _ := joinTx(t)
	joined := submit(t, n, wire)
	sent := submit(t, n, sign(t, faucet, 1, 1, &chain.Send{To: 2, Amount: 7}))
	if sent.Kind != "" {
		t.Fatalf("Send = %+v", sent)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// Everything that was started has ended.
	for i := 0; goroutines() > before; i++ {
		if i == 20_000 {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left of %d:\n%s", goroutines(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
	n = start(t, testConfig(t, dir))
	if a, err := n.Tx(joined.ID); err != nil || !cmp.Equal(a, joined) {
		t.Errorf("Tx after a restart: %v, %s", err, cmp.Diff(a, joined))
	}
	if got := balance(t, n, 2); got != 7 {
		t.Errorf("the balance is %d, want 7", got)
	}
	if a := submit(t, n, sign(t, faucet, 1, 2, &chain.Send{To: 2, Amount: 1})); a.Height <= sent.Height {
		t.Errorf("the next transaction is in block %d, the last one was in %d", a.Height, sent.Height)
	}
}

// goroutines counts those that are ours to end. The engine leaves two for the
// file of its log of votes (a ticker and a signal handler), whatever one does.
func goroutines() int {
	buf := make([]byte, 4<<20)
	n := 0
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if !strings.Contains(stack, "libs/autofile") && !strings.Contains(stack, "os/signal") {
			n++
		}
	}
	return n
}

func balance(t testing.TB, n *Node, p identity.Party) uint64 {
	t.Helper()
	var a *chain.Account
	err := n.tree.View(0, func(v View) (err error) {
		a, err = read[chain.Account](v, chain.AccountKey(p))
		return err
	})
	if err != nil || a == nil {
		t.Fatalf("account of %d: %v", p, err)
	}
	return a.Balance
}

func TestASecondProcessIsRefused(t *testing.T) {
	dir, _ := newChain(t)
	start(t, testConfig(t, dir))
	if _, err := Start(t.Context(), testConfig(t, dir)); fault.Of(err) != fault.Conflict {
		t.Errorf("Start of a folder in use = %v, want a conflict", err)
	}
}

func TestEmptyBlocksLeaveTheRoot(t *testing.T) {
	dir, _ := newChain(t)
	cfg := testConfig(t, dir)
	cfg.EmptyEvery = 20 * time.Millisecond
	n := start(t, cfg)
	wire, _ := joinTx(t)
	h := submit(t, n, wire).Height
	until(t, n, h+6)
	root := n.tree.Root()
	for i := h + 1; i <= h+6; i++ {
		if got := n.comet.BlockStore().LoadBlockMeta(int64(i)).Header.AppHash; !bytes.Equal(got, root) {
			t.Errorf("header %d has root %x, want %x", i, got, root)
		}
	}
}

// With nothing to do and blocks every ten seconds the engine must not spin: the
// time between two blocks that it makes by itself is bounded by its own timers,
// so the blocks after the proof of the first one can be counted.
func TestAnIdleChainMakesFewBlocks(t *testing.T) {
	dir, _ := newChain(t)
	n := start(t, testConfig(t, dir))
	wire, _ := joinTx(t)
	h := submit(t, n, wire).Height
	if _, err := n.Prove(t.Context(), h, chain.MetaKey()); err != nil {
		t.Fatal(err)
	}
	other, _ := joinTx(t)
	if got := submit(t, n, other).Height; got > h+2 {
		t.Errorf("%d blocks were made between two transactions, want at most the one with the root", got-h-1)
	}
}

// verify checks a proof like a client that has the validators' keys.
func verify(t testing.TB, n *Node, p chain.Proof) bool {
	t.Helper()
	var pb cmtproto.LightBlock
	if pb.Unmarshal(p.Block) != nil {
		return false
	}
	lb, err := types.LightBlockFromProto(&pb)
	if err != nil || lb.ValidateBasic(n.Chain()) != nil || lb.Height != int64(p.Height)+1 {
		return false
	}
	if !bytes.Equal(lb.ValidatorSet.Validators[0].PubKey.Bytes(), n.self) {
		return false
	}
	if lb.ValidatorSet.VerifyCommitLight(n.Chain(), lb.Commit.BlockID, lb.Height, lb.Commit) != nil {
		return false
	}
	for _, r := range p.Records {
		var path ics23.CommitmentProof
		if path.Unmarshal(r.Path) != nil {
			return false
		}
		if r.Value == nil {
			if !ics23.VerifyNonMembership(ics23.IavlSpec, lb.AppHash.Bytes(), &path, r.Key) {
				return false
			}
		} else if !ics23.VerifyMembership(ics23.IavlSpec, lb.AppHash.Bytes(), &path, r.Key, r.Value) {
			return false
		}
	}
	return len(p.Records) > 0
}

func TestProofs(t *testing.T) {
	dir, _ := newChain(t)
	n := start(t, testConfig(t, dir))
	var last chain.TxAnswer
	for range 8 {
		wire, _ := joinTx(t)
		last = submit(t, n, wire)
	}
	p, err := n.Prove(t.Context(), last.Height, chain.PartyKey(9), chain.PartyKey(1), chain.PartyKey(1000))
	if err != nil {
		t.Fatal(err)
	}
	if p.Height < last.Height || p.Records[0].Value == nil || p.Records[1].Value == nil || p.Records[2].Value != nil {
		t.Fatalf("Prove(9, 1, 1000) at %d = %+v, want two records and an absence after block %d", p.Height, p.Records, last.Height)
	}
	if !verify(t, n, p) {
		t.Fatal("the proof is not valid")
	}
	if size := len(p.Records[0].Path); size > 2048 {
		t.Errorf("a proof has %d bytes, at most 2,048 are allowed", size)
	}
	if a, err := n.Prove(t.Context(), 0, chain.PartyKey(5)); err != nil || !verify(t, n, a) {
		t.Errorf("Prove(5) of the newest state: %v", err)
	}
	// Every byte counts.
	flip := func(b []byte) {
		for i := range b {
			b[i] ^= 0x40
			if verify(t, n, p) {
				t.Errorf("byte %d of %d may be changed", i, len(b))
			}
			b[i] ^= 0x40
		}
	}
	flip(p.Records[0].Key)
	flip(p.Records[0].Value)
	p.Records[2].Value = []byte{1}
	if verify(t, n, p) {
		t.Error("an absent record may be claimed")
	}
	p.Records[2].Value = nil
	p.Height++
	if verify(t, n, p) {
		t.Error("a proof may claim another height")
	}
}

func TestOldStatesAreDropped(t *testing.T) {
	dir, _ := newChain(t)
	cfg := testConfig(t, dir)
	cfg.EmptyEvery, cfg.KeepVersions = time.Millisecond, 8
	n := start(t, cfg)
	until(t, n, 48)
	err := n.tree.View(2, func(View) error { return nil })
	if fault.Of(err) != fault.NotFound {
		t.Errorf("View(2) at block %d with 8 versions kept = %v, want not found", n.tree.Height(), err)
	}
	if err := n.tree.View(n.tree.Height()-4, func(v View) error { v.Get(chain.MetaKey()); return nil }); err != nil {
		t.Errorf("View of four blocks ago: %v", err)
	}
}

func TestOldBlocksAreDropped(t *testing.T) {
	dir, _ := newChain(t)
	cfg := testConfig(t, dir)
	cfg.EmptyEvery, cfg.KeepBlocks = time.Millisecond, time.Second
	n := start(t, cfg)
	// The genesis is a minute old, the first blocks with it; the engine keeps
	// what evidence may need, so only the request is looked at.
	until(t, n, 64)
	n.app.mu.Lock()
	defer n.app.mu.Unlock()
	n.app.height, n.app.time = 64, n.app.time+2
	if got := n.app.retainHeight(); got < 2 {
		t.Errorf("retainHeight two seconds later = %d, want blocks to be dropped", got)
	}
}

// What can't be undone by restarting must be seen when starting.
func TestAnotherRootIsRefused(t *testing.T) {
	dir, _ := newChain(t)
	n, err := Start(t.Context(), testConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	wire, _ := joinTx(t)
	h := submit(t, n, wire).Height
	until(t, n, h+1)
	height := n.tree.Height()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// Somebody changes a record behind the chain's back.
	tree, err := OpenTree(dir+"/data", treeName)
	if err != nil {
		t.Fatal(err)
	}
	good := tree.Root()
	if err := tree.tree.LoadVersionForOverwriting(int64(height) - 1); err != nil {
		t.Fatal(err)
	}
	tree.Set(chain.AccountKey(1), []byte{0xa0})
	if _, _, err := tree.Commit(height, 1, 0); err != nil {
		t.Fatal(err)
	}
	bad := tree.Root()
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), testConfig(t, dir))
	if err == nil {
		t.Fatal("a changed state was accepted")
	}
	for _, root := range [][]byte{good, bad} {
		if !strings.Contains(err.Error(), fmt.Sprintf("%X", root)) {
			t.Errorf("Start = %v, want both roots %X and %X", err, good, bad)
		}
	}
}

func TestBadFolders(t *testing.T) {
	start := func(dir string) error {
		n, err := Start(t.Context(), testConfig(t, dir))
		if err == nil {
			n.Close()
		}
		return err
	}
	if err := start(t.TempDir()); fault.Of(err) != fault.NotFound {
		t.Errorf("Start without genesis = %v, want not found", err)
	}
	for _, tc := range []struct{ name, file, text, want string }{
		{"genesis", genesisFile, "{", "genesis"},
		{"unknown field", genesisFile, `{"nope":1}`, "nope"},
		{"no time", genesisFile, `{"state":{}}`, "time"},
		{"validator key", validatorFile, "{}", "validator key"},
		{"votes", "data/" + votesFile, "nonsense", "record of votes"},
		{"peer key", nodeKeyFile, "nonsense", "peer key"},
	} {
		dir, _ := newChain(t)
		if err := os.WriteFile(dir+"/"+tc.file, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := start(dir); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Start = %v, want a sentence about %q", tc.name, err, tc.want)
		}
	}
	dir, _ := newChain(t)
	if err := os.Remove(dir + "/" + validatorFile); err != nil {
		t.Fatal(err)
	}
	if err := start(dir); fault.Of(err) != fault.Conflict {
		t.Errorf("Start with votes but without the key = %v, want a conflict", err)
	}
}

func TestUpgradeStopsTheChain(t *testing.T) {
	dir, faucet := newChain(t)
	cfg := testConfig(t, dir)
	cfg.EmptyEvery = 50 * time.Millisecond
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	release := chain.Hash{1, 2, 3}
	wire, _ := joinTx(t)
	h := submit(t, n, wire).Height
	at := h + 20
	if a := submit(t, n, sign(t, faucet, 1, 1, &chain.ScheduleUpgrade{Height: at, Release: release, Version: 1})); a.Kind != "" {
		t.Skipf("ScheduleUpgrade = %+v", a)
	}
	var last error
	for i := range 40 {
		if _, last = n.Submit(t.Context(), sign(t, faucet, 1, uint64(i+2), &chain.Send{To: 2, Amount: 1})); last != nil {
			break
		}
	}
	<-n.Done()
	if err := n.Err(); err == nil || !strings.Contains(err.Error(), release.String()) || n.tree.Height() != at-1 {
		t.Errorf("the chain stands at block %d with %v, want %d and the release", n.tree.Height(), err, at-1)
	}
	if fault.Of(last) != fault.Unavailable {
		t.Errorf("a transaction meanwhile = %v, want unavailable", last)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), cfg); fault.Of(err) != fault.Unsupported {
		t.Errorf("Start of the old program = %v, want unsupported", err)
	}
	cfg.Release = release
	n = start(t, cfg)
	until(t, n, at+1)
}

// A chain that stood for a day takes transactions at once: its first block
// brings the time forward.
func TestAChainThatStoodTakesTransactions(t *testing.T) {
	dir, faucet := newChain(t)
	cfg := testConfig(t, dir)
	n := start(t, cfg)
	wire, _ := joinTx(t)
	submit(t, n, wire)
	n.app.mu.Lock()
	n.app.time -= 86400 // as if the last block were old
	n.app.mu.Unlock()
	if a := submit(t, n, sign(t, faucet, 1, 1, &chain.Send{To: 2, Amount: 1})); a.Kind != "" {
		t.Errorf("Send = %+v", a)
	}
}

func TestSubmitRefusals(t *testing.T) {
	dir, faucet := newChain(t)
	n := start(t, testConfig(t, dir))
	for _, tc := range []struct {
		name string
		wire []byte
		want fault.Kind
	}{
		{"nothing", nil, fault.Invalid},
		{"noise", []byte("hello"), fault.Invalid},
		{"stranger", sign(t, faucet, 77, 1, &chain.Send{To: 1, Amount: 1}), fault.NotFound},
		{"sequence", sign(t, faucet, 1, 50, &chain.Send{To: 1, Amount: 1}), fault.Conflict},
	} {
		if _, err := n.Submit(t.Context(), tc.wire); fault.Of(err) != tc.want {
			t.Errorf("%s: Submit = %v, want %s", tc.name, err, tc.want)
		}
	}
	// A transaction with a gap before it waits; a second one with its sequence
	// doesn't.
	ctx, cancel := context.WithCancel(t.Context())
	late := make(chan error, 1)
	go func() {
		_, err := n.Submit(ctx, sign(t, faucet, 1, 2, &chain.Send{To: 1, Amount: 2}))
		late <- err
	}()
	for n.comet.Mempool().Size() == 0 {
		runtime.Gosched()
	}
	if _, err := n.Submit(t.Context(), sign(t, faucet, 1, 2, &chain.Send{To: 1, Amount: 3})); fault.Of(err) != fault.Conflict {
		t.Errorf("a second transaction with the same sequence = %v, want a conflict", err)
	}
	if a := submit(t, n, sign(t, faucet, 1, 1, &chain.Send{To: 1, Amount: 1})); a.Kind != "" {
		t.Errorf("sequence 1 = %+v", a)
	}
	if err := <-late; err != nil {
		t.Errorf("the transaction that waited = %v", err)
	}
	cancel()
	if len(n.results.waiters) != 0 {
		t.Errorf("%d waiters are left", len(n.results.waiters))
	}
}

func serveTest(t testing.TB, n *Node) *httptest.Server {
	s := httptest.NewServer(n.Handler())
	t.Cleanup(s.Close)
	return s
}
