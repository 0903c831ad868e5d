package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// A clock that is before the genesis is waited for on a new chain, and on one
// that has blocks it is wrong.
func TestAClockBeforeTheGenesis(t *testing.T) {
	dir, _ := newChain(t)
	cfg := testConfig(t, dir)
	cfg.Clock = clock.Fixed(clock.System{}.Now().Add(-time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := Start(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("Start before the genesis = %v, %v, want to wait until the context ends", n, err)
	}
	n, err := Start(t.Context(), testConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	until(t, n, 1)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := Start(t.Context(), cfg); fault.Of(err) != fault.Unavailable {
		t.Errorf("Start with blocks before the genesis = %v, %v, want unavailable", n, err)
	}
}

// TestClockBehindTheLastBlock: a machine whose clock was set back says so.
func TestClockBehindTheLastBlock(t *testing.T) {
	dir, _ := newChain(t)
	n := start(t, testConfig(t, dir))
	wire, _ := joinTx(t)
	submit(t, n, wire)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, dir)
	cfg.Clock = clock.Fixed(clock.System{}.Now().Add(-15 * time.Minute))
	if n, err := Start(t.Context(), cfg); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "set the clock of this machine") {
		t.Errorf("Start with a clock 15 min behind = %v, %v", n, err)
	}
}
