package engine

import (
	"context"
	"errors"
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
