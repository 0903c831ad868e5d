package engine

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/clock"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("ZOS_ENGINE_CHILD"); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// child runs a chain and says which transactions are in blocks, until it is
// killed.
func child(dir string) {
	n, err := Start(context.Background(), Config{Dir: dir, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for {
		key, err := identity.Generate()
		if err != nil {
			os.Exit(1)
		}
		wire, err := chain.Sign(chain.Body{Chain: "test-1", Expires: clock.System{}.Now().Unix() + 600, FeeLimit: chain.Credit,
			Messages: chain.Pack(&chain.CreateTwin{Keys: []chain.NewKey{{Key: key.Public(), Role: identity.RoleFull}}})}, chain.Signer{Key: key})
		if err != nil {
			os.Exit(1)
		}
		a, err := n.Submit(context.Background(), wire)
		if err != nil || a.Kind != "" {
			fmt.Println("error", a.Kind, a.Error, err)
			os.Exit(1)
		}
		fmt.Println("in", a.ID, a.Height)
	}
}

// crash runs a child until it has said so many transactions or ended, kills it,
// and returns what it said.
func crash(t *testing.T, dir string, count int, env ...string) []chain.Hash {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "ZOS_ENGINE_CHILD="+dir), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []chain.Hash
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var id chain.Hash
		if text, ok := strings.CutPrefix(lines.Text(), "in "); ok && id.UnmarshalText([]byte(text[:64])) == nil {
			if said = append(said, id); len(said) == count {
				break
			}
			continue
		}
		t.Logf("the child says: %s", lines.Text())
	}
	_ = cmd.Process.Kill()
	for lines.Scan() { // what it said before it was killed counts
		var id chain.Hash
		if text, ok := strings.CutPrefix(lines.Text(), "in "); ok && id.UnmarshalText([]byte(text[:64])) == nil {
			said = append(said, id)
		}
	}
	_ = cmd.Wait() // it was killed
	return said
}

// Whatever the child said to be in a block is there after a restart, and the
// chain goes on.
func survived(t *testing.T, dir string, said []chain.Hash) {
	t.Helper()
	n, err := Start(t.Context(), testConfig(t, dir))
	if err != nil {
		t.Fatalf("start after a crash: %v", err)
	}
	for _, id := range said {
		if a, err := n.Tx(id); err != nil || a.Kind != "" {
			t.Errorf("transaction %s was in a block and now: %+v, %v", id, a, err)
		}
	}
	wire, _ := joinTx(t)
	if a := submit(t, n, wire); a.Kind != "" {
		t.Errorf("after a crash: %+v", a)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

func TestKill(t *testing.T) {
	dir, _ := newChain(t)
	var said []chain.Hash
	for round := range 4 {
		now := crash(t, dir, 3+5*round)
		if len(now) < 3+5*round {
			t.Fatalf("round %d: the child said %d transactions", round, len(now))
		}
		said = append(said, now...)
		survived(t, dir, said)
	}
}

// The engine ends the process at its n-th crash point when this variable is
// set: before and after each step between a block's decision and its end.
func TestEveryCrashPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process for each crash point")
	}
	dir, _ := newChain(t)
	var said []chain.Hash
	// Two blocks have 16 points. When the first one of a child is empty, which
	// depends on the time, more are needed before its transaction is in one.
	for i := 0; i < 16 || len(said) == 0 && i < 40; i++ {
		now := crash(t, dir, 20, fmt.Sprintf("FAIL_TEST_INDEX=%d", i))
		if len(now) == 20 {
			t.Fatalf("crash point %d did not end the child", i)
		}
		said = append(said, now...)
		survived(t, dir, said)
	}
	if len(said) == 0 {
		t.Error("no transaction came into a block between the crashes; the crash points are too early")
	}
}
