package engine

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/url"
	"sync"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/light/provider"
	lightdb "github.com/cometbft/cometbft/light/store/db"
	cmtstate "github.com/cometbft/cometbft/proto/tendermint/state"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/statesync"
	"github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"

	"zos.internal/chain/client"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// SyncFrom begins an empty folder from a snapshot of peers instead of from the
// genesis. Nothing is believed but what the trusted header leads to: a light
// client asks at least two servers, and the snapshot must give the root that was
// signed. Config.Peers must name somebody who has a snapshot.
type SyncFrom struct {
	Servers []string // URLs of chain servers, at least two
	Height  uint64   // of the trusted header, not older than two weeks
	Hash    []byte   // of the trusted header, 32 bytes
}

// trustPeriod is how long a header is trusted: shorter than validators can be
// shown to have voted twice.
const trustPeriod = 14 * 24 * time.Hour

func (s *SyncFrom) configure(c *config.StateSyncConfig) {
	c.Enable = true
	c.RPCServers = s.Servers // for the engine's own check; asked is the provider below
	c.TrustPeriod = trustPeriod
	c.TrustHeight = int64(s.Height)
	c.TrustHash = hex.EncodeToString(s.Hash)
	c.DiscoveryTime = 5 * time.Second
}

// check names what is wrong with the settings.
func (s *SyncFrom) check() error {
	switch {
	case len(s.Servers) < 2:
		return fault.Errorf(fault.Invalid, "sync from %d servers: at least two are needed, so that one can't lie", len(s.Servers))
	case s.Height == 0 || len(s.Hash) != 32:
		return fault.Errorf(fault.Invalid, "sync: height %d and a hash of %d bytes; a trusted header needs a height and 32 bytes", s.Height, len(s.Hash))
	}
	for _, text := range s.Servers {
		if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fault.Errorf(fault.Invalid, "sync from %.200q: a URL http[s]://HOST is needed", text)
		}
	}
	return nil
}

// provider is what the engine asks while it syncs.
func (s *SyncFrom) provider(ctx context.Context, id string, doc *types.GenesisDoc, clk clock.Clock, log logger) (statesync.StateProvider, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	var servers []provider.Provider
	for _, u := range s.Servers {
		c, err := client.New(u, nil)
		if err != nil {
			return nil, err
		}
		servers = append(servers, client.Source(id, c))
	}
	c, err := light.NewClient(ctx, id, light.TrustOptions{Period: trustPeriod, Height: int64(s.Height), Hash: s.Hash},
		servers[0], servers[1:], lightdb.New(dbm.NewMemDB(), ""), light.Logger(log), light.MaxRetryAttempts(5))
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "sync: the trusted header can't be had or isn't theirs: %w", err)
	}
	return &trusted{client: c, doc: doc, clock: clk}, nil
}

// trusted answers from verified headers.
type trusted struct {
	mu     sync.Mutex // a light client is used by one at a time
	client *light.Client
	doc    *types.GenesisDoc
	clock  clock.Clock
}

var _ statesync.StateProvider = (*trusted)(nil)

func (t *trusted) header(ctx context.Context, height uint64) (*types.LightBlock, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.client.VerifyLightBlockAtHeight(ctx, int64(height), t.clock.Now())
}

// AppHash is the root after a block. It asks for two more headers, which are
// needed for State.
func (t *trusted) AppHash(ctx context.Context, height uint64) ([]byte, error) {
	next, err := t.header(ctx, height+1)
	if err != nil {
		return nil, err
	}
	if _, err := t.header(ctx, height+2); err != nil {
		return nil, err
	}
	return next.AppHash, nil
}

// Commit is the commit of a block.
func (t *trusted) Commit(ctx context.Context, height uint64) (*types.Commit, error) {
	b, err := t.header(ctx, height)
	if err != nil {
		return nil, err
	}
	return b.Commit, nil
}

// State is the engine's state after a block. Its parameters are those of the
// genesis, which no block changes; the header says so.
func (t *trusted) State(ctx context.Context, height uint64) (sm.State, error) {
	var at [3]*types.LightBlock
	for i := range at {
		b, err := t.header(ctx, height+uint64(i))
		if err != nil {
			return sm.State{}, err
		}
		at[i] = b
	}
	last, current, next := at[0], at[1], at[2]
	if !bytes.Equal(current.ConsensusHash, t.doc.ConsensusParams.Hash()) {
		return sm.State{}, fault.Errorf(fault.Invalid, "sync: block %d has other parameters than the genesis; is it the right genesis?", current.Height)
	}
	return sm.State{
		ChainID:                          t.doc.ChainID,
		Version:                          cmtstate.Version{Consensus: current.Version, Software: version.TMCoreSemVer},
		InitialHeight:                    t.doc.InitialHeight,
		LastBlockHeight:                  last.Height,
		LastBlockTime:                    last.Time,
		LastBlockID:                      last.Commit.BlockID,
		AppHash:                          current.AppHash,
		LastResultsHash:                  current.LastResultsHash,
		LastValidators:                   last.ValidatorSet,
		Validators:                       current.ValidatorSet,
		NextValidators:                   next.ValidatorSet,
		LastHeightValidatorsChanged:      next.Height,
		ConsensusParams:                  *t.doc.ConsensusParams,
		LastHeightConsensusParamsChanged: current.Height,
	}, nil
}
