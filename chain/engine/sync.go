package engine

import (
	"context"

	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/statesync"
	"github.com/cometbft/cometbft/types"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// SyncFrom begins an empty folder from a snapshot of peers. What is believed is
// what the trusted header leads to.
type SyncFrom struct {
	Servers []string // URLs of chain servers, at least two
	Height  uint64   // of the trusted header
	Hash    []byte   // of the trusted header
}

func (s *SyncFrom) configure(c *config.StateSyncConfig) {
	c.Enable = true
}

func (s *SyncFrom) provider(ctx context.Context, id string, doc *types.GenesisDoc, clk clock.Clock) (statesync.StateProvider, error) {
	return nil, fault.Errorf(fault.Unsupported, "state sync")
}
