package engine

import (
	"log/slog"
	"testing"
	"time"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/clock"
)

// newChain writes the genesis of a chain with one validator into a folder.
func newChain(t testing.TB) (dir string, faucet *identity.PrivateKey) {
	t.Helper()
	dir = t.TempDir()
	faucet, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := NewValidator(dir)
	if err != nil {
		t.Fatal(err)
	}
	writeGenesis(t, dir, faucet, chain.Validator{Key: key, Power: 10, Name: "one"})
	return dir, faucet
}

func writeGenesis(t testing.TB, dir string, faucet *identity.PrivateKey, vs ...chain.Validator) {
	t.Helper()
	if err := WriteGenesis(dir, genesisOf(faucet, vs...)); err != nil {
		t.Fatal(err)
	}
}

func genesisOf(faucet *identity.PrivateKey, vs ...chain.Validator) Genesis {
	return Genesis{Time: clock.System{}.Now().Add(-time.Minute).UTC().Truncate(time.Second), State: state.Genesis{
		Chain: "test-1", Governance: 1, Validators: vs,
		Parties: []state.GenesisParty{{Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: faucet.Public(), Role: identity.RoleFull}}}, Balance: 1000 * chain.Credit}},
	}}
}

func testConfig(t testing.TB, dir string) Config {
	return Config{Dir: dir, Clock: clock.System{}, Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func start(t testing.TB, cfg Config) *Node {
	t.Helper()
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func joinTx(t testing.TB) ([]byte, *identity.PrivateKey) {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, key, 0, 0, &chain.CreateTwin{Keys: []chain.NewKey{{Key: key.Public(), Role: identity.RoleFull}}}), key
}

func sign(t testing.TB, key *identity.PrivateKey, party identity.Party, sequence uint64, ms ...chain.Message) []byte {
	t.Helper()
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: party, Sequence: sequence, Expires: clock.System{}.Now().Unix() + 600,
		FeeLimit: chain.Credit, Messages: chain.Pack(ms...)}, chain.Signer{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func submit(t testing.TB, n *Node, wire []byte) chain.TxAnswer {
	t.Helper()
	a, err := n.Submit(t.Context(), wire)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestATwinIsCreated(t *testing.T) {
	dir, _ := newChain(t)
	n := start(t, testConfig(t, dir))
	wire, _ := joinTx(t)
	a := submit(t, n, wire)
	if a.Kind != "" || a.Height == 0 || len(a.Events) == 0 {
		t.Fatalf("Submit(CreateTwin) = %+v, want an event in a block", a)
	}
}
