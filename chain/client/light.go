package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/light/provider"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"
	ics23 "github.com/cosmos/ics23/go"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// TrustPeriod is how long a header may be trusted: validators who signed it can
// be held to account for that long. A client that slept longer needs a new
// checkpoint.
const TrustPeriod = 14 * 24 * time.Hour

// Bounds of what is asked of a witness.
const (
	witnessTime = 8 * time.Second        // for a block
	behindTries = 5                      // when it hasn't a block yet
	behindWait  = 400 * time.Millisecond // between them
)

// Trust is a checkpoint: a block that the caller got from somebody it trusts,
// such as the signed image of the operating system.
type Trust struct {
	Height uint64     `json:"height"`
	Hash   chain.Hash `json:"hash"` // of the block's header
}

// Options make a Light.
type Options struct {
	Chain     string
	Dir       string // where headers are kept; "": in memory only
	Trust     Trust  // needed when Dir holds no header yet
	Primary   *Client
	Witnesses []*Client     // other servers that would have to lie too; at least one, or the primary itself is asked twice
	MaxAge    time.Duration // a newest block older than this is refused as stale; 0: any age
	Clock     clock.Clock
}

// Light checks records against the signatures of the validators. It is safe for
// concurrent use.
type Light struct {
	opts    Options
	primary *source
	mu      sync.Mutex // the light client beneath is used by one at a time
	light   *light.Client
	newest  uint64 // height of the newest state seen, below which no answer is accepted
}

// NewLight starts from the headers kept in a folder, or from a checkpoint.
func NewLight(ctx context.Context, o Options) (*Light, error) {
	if o.Primary == nil || o.Chain == "" {
		return nil, fault.Errorf(fault.Invalid, "light client: a chain and a server are needed")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if len(o.Witnesses) == 0 {
		o.Witnesses = []*Client{o.Primary}
	}
	l := &Light{opts: o, primary: &source{chain: o.Chain, c: o.Primary}}
	var witnesses []provider.Provider
	for _, w := range o.Witnesses {
		witnesses = append(witnesses, &source{chain: o.Chain, c: w})
	}
	kept, err := openHeaders(o.Dir)
	if err != nil {
		return nil, err
	}
	options := []light.Option{light.PruningSize(keepHeaders), light.MaxClockDrift(10 * time.Second)}
	if o.Trust.Height == 0 || kept.holds(o.Trust.Height) {
		if kept.Size() == 0 {
			return nil, fault.Errorf(fault.Invalid, "light client: there is no header to start from; give a trusted height and hash")
		}
		l.light, err = light.NewClientFromTrustedStore(o.Chain, TrustPeriod, l.primary, witnesses, kept, options...)
	} else {
		trust := light.TrustOptions{Period: TrustPeriod, Height: int64(o.Trust.Height), Hash: o.Trust.Hash[:]}
		l.light, err = light.NewClient(ctx, o.Chain, trust, l.primary, witnesses, kept, options...)
	}
	if err != nil {
		return nil, lightError(err)
	}
	if err := l.fresh(); err != nil {
		return nil, err
	}
	if err := l.agrees(ctx, o.Trust); err != nil {
		return nil, err
	}
	// What was verified before, here or by another process, isn't undone.
	if height, err := l.light.LastTrustedHeight(); err == nil && height > 0 {
		l.newest = uint64(height - 1)
	}
	return l, nil
}

// agrees holds a checkpoint against the headers that were kept: they may have
// been verified from another one, of another chain.
func (l *Light) agrees(ctx context.Context, t Trust) error {
	if t.Height == 0 {
		return nil
	}
	b, err := l.light.VerifyLightBlockAtHeight(ctx, int64(t.Height), l.opts.Clock.Now())
	if err != nil {
		if err = lightError(err); errors.Is(err, fault.Unavailable) {
			return nil // no server has that block any more; what was kept counts
		}
		return err
	}
	if !bytes.Equal(b.Hash(), t.Hash[:]) {
		return fault.Errorf(fault.Denied, "the headers kept in %s are of a chain whose block %d is %s, the checkpoint says %s; use another folder or the right checkpoint",
			l.opts.Dir, t.Height, b.Hash(), t.Hash)
	}
	return nil
}

// fresh says whether the newest header may still be trusted.
func (l *Light) fresh() error {
	height, err := l.light.LastTrustedHeight()
	if err != nil {
		return lightError(err)
	}
	b, err := l.light.TrustedLightBlock(height)
	if err != nil {
		return lightError(err)
	}
	if now := l.opts.Clock.Now(); light.HeaderExpired(b.SignedHeader, TrustPeriod, now) {
		return lightError(light.ErrOldHeaderExpired{At: b.Time.Add(TrustPeriod), Now: now})
	}
	return nil
}

// lightError gives an error of the light client a kind: what is proven wrong is
// Denied, what could not be asked is Unavailable.
func lightError(err error) error {
	var bad provider.ErrBadLightBlock
	var old light.ErrOldHeaderExpired
	switch {
	case errors.As(err, &old):
		return fault.Errorf(fault.Expired, "the header that was trusted is older than %d days; get a new checkpoint: %w", int(TrustPeriod.Hours()/24), err)
	case errors.As(err, &bad), errors.Is(err, light.ErrLightClientAttack):
		return fault.Errorf(fault.Denied, "a chain server lies: %w", err)
	case errors.Is(err, provider.ErrNoResponse), errors.Is(err, provider.ErrHeightTooHigh), errors.Is(err, provider.ErrLightBlockNotFound),
		errors.Is(err, light.ErrNoWitnesses), errors.Is(err, light.ErrFailedHeaderCrossReferencing), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fault.Errorf(fault.Unavailable, "no chain server could show a block: %w", err)
	}
	return fault.Errorf(fault.Denied, "the chain server's block is not proven: %w", err)
}

// At says which state a proven answer is from.
type At struct {
	Height uint64    // of the last block in the state
	Time   time.Time // of the block that proves it
	Root   chain.Hash
}

// Records reads records by key, all from one state, and checks them. A record
// that doesn't exist, which is proven too, is nil. The state is never older than
// one seen before.
func (l *Light) Records(ctx context.Context, keys ...[]byte) ([][]byte, At, error) {
	if len(keys) == 0 || len(keys) > chain.MaxProofKeys {
		return nil, At{}, fault.Errorf(fault.Invalid, "%d keys: 1 to %d can be asked for at once", len(keys), chain.MaxProofKeys)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.opts.Primary.proof(ctx, l.newest, keys)
	if err != nil {
		return nil, At{}, err
	}
	if p.Height < l.newest {
		return nil, At{}, fault.Errorf(fault.Denied, "chain server %s answers from height %d, height %d was seen before", l.opts.Primary.base, p.Height, l.newest)
	}
	header, err := l.verify(ctx, p)
	if err != nil {
		return nil, At{}, err
	}
	at := At{Height: p.Height, Time: header.Time, Root: chain.Hash(header.AppHash)}
	if age := l.opts.Clock.Now().Sub(header.Time); l.opts.MaxAge > 0 && age > l.opts.MaxAge {
		return nil, at, fault.Errorf(fault.Unavailable, "chain head is %d s old, at most %d s are accepted; the chain stands or the server is behind", int(age.Seconds()), int(l.opts.MaxAge.Seconds()))
	}
	values, err := check(header.AppHash, keys, p.Records)
	if err != nil {
		return nil, at, fault.Errorf(fault.Denied, "chain server %s: %w", l.opts.Primary.base, err)
	}
	l.newest = p.Height
	return values, at, nil
}

// After makes all later answers be from a state that includes the block of a
// height, such as the one that a transaction of the caller's was in.
func (l *Light) After(height uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = max(l.newest, height)
}

// verify makes sure that the validators signed the block of a proof.
func (l *Light) verify(ctx context.Context, p chain.Proof) (*types.Header, error) {
	block, err := decodeBlock(p.Block)
	if err != nil {
		return nil, fault.Errorf(fault.Denied, "chain server %s: the block of its proof: %w", l.opts.Primary.base, err)
	}
	if block.ChainID != l.opts.Chain || uint64(block.Height) != p.Height+1 || len(block.AppHash) != 32 {
		return nil, fault.Errorf(fault.Denied, "chain server %s: the block of its proof is %d of chain %q, %d of %q is needed", l.opts.Primary.base, block.Height, block.ChainID, p.Height+1, l.opts.Chain)
	}
	// The light client asks the primary for this block; it is here already.
	l.primary.has(block)
	if err := l.light.VerifyHeader(ctx, block.Header, l.opts.Clock.Now()); err != nil {
		return nil, lightError(err)
	}
	return block.Header, nil
}

// check holds records against a root.
func check(root []byte, keys [][]byte, records []chain.ProvenRecord) ([][]byte, error) {
	if len(records) != len(keys) {
		return nil, fmt.Errorf("%d records for %d keys", len(records), len(keys))
	}
	values := make([][]byte, len(keys))
	for i, r := range records {
		if !bytes.Equal(r.Key, keys[i]) {
			return nil, fmt.Errorf("record %d is of key %x, %x was asked for", i, []byte(r.Key), keys[i])
		}
		var path ics23.CommitmentProof
		if err := path.Unmarshal(r.Path); err != nil {
			return nil, fmt.Errorf("record %d: the path can't be read: %w", i, err)
		}
		ok := false
		if r.Value == nil {
			ok = ics23.VerifyNonMembership(ics23.IavlSpec, root, &path, keys[i])
		} else {
			ok = ics23.VerifyMembership(ics23.IavlSpec, root, &path, keys[i], r.Value)
		}
		if !ok {
			return nil, fmt.Errorf("record %d (key %x) is not what the validators signed", i, keys[i])
		}
		values[i] = r.Value
	}
	return values, nil
}

// Record reads and checks one record. When there is none, which is proven too,
// it is nil.
func Record[T any](ctx context.Context, l *Light, key []byte) (*T, At, error) {
	values, at, err := l.Records(ctx, key)
	if err != nil || values[0] == nil {
		return nil, at, err
	}
	v := new(T)
	if err := canon.Unmarshal(values[0], v); err != nil {
		return nil, at, fault.Errorf(fault.Unsupported, "the record at %x is of a newer version of the chain; upgrade: %w", key, err)
	}
	return v, at, nil
}

// List reads the complete list of a node's contracts: the pages are from one
// state and their number is proven.
func (l *Light) List(ctx context.Context, n identity.Party) ([]chain.ListEntry, At, error) {
	keys := [][]byte{chain.LoadKey(n)}
	for page := range uint32(chain.MaxOnNode / chain.PageSize) {
		keys = append(keys, chain.ListKey(n, page))
	}
	values, at, err := l.Records(ctx, keys...)
	if err != nil {
		return nil, at, err
	}
	if values[0] == nil {
		return nil, at, fault.Errorf(fault.NotFound, "node %d does not exist", n)
	}
	var load chain.Load
	if err := canon.Unmarshal(values[0], &load); err != nil {
		return nil, at, err
	}
	var all []chain.ListEntry
	for _, v := range values[1:] {
		if v == nil {
			continue
		}
		var page []chain.ListEntry
		if err := canon.Unmarshal(v, &page); err != nil {
			return nil, at, err
		}
		all = append(all, page...)
	}
	if len(all) != int(load.Contracts) {
		return nil, at, fault.Errorf(fault.Internal, "node %d counts %d contracts and lists %d", n, load.Contracts, len(all))
	}
	return all, at, nil
}

// Head verifies the newest block.
func (l *Light) Head(ctx context.Context) (At, error) {
	_, at, err := l.Records(ctx, chain.MetaKey())
	return at, err
}

// source is a server as the light client sees it.
type source struct {
	chain string
	c     *Client
	mu    sync.Mutex
	held  *types.LightBlock // came with a proof
}

// Source is a server as a light client of the consensus engine sees it, for a new
// validator that begins from a snapshot.
func Source(chainID string, c *Client) provider.Provider { return &source{chain: chainID, c: c} }

func (s *source) has(b *types.LightBlock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = b
}

// ChainID is the chain that is asked for.
func (s *source) ChainID() string { return s.chain }

// LightBlock asks for a block; 0 is the newest.
func (s *source) LightBlock(ctx context.Context, height int64) (*types.LightBlock, error) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil && held.Height == height {
		return held, nil
	}
	// One slow witness holds up all the others, so it has not much time. Whoever
	// says nothing useful has given no answer, neither more nor less: the light
	// client would sleep for one who is behind, and forget one who is away.
	ctx, cancel := context.WithTimeout(ctx, witnessTime)
	defer cancel()
	var answer chain.LightBlock
	for try := 1; ; try++ {
		err := s.c.Get(ctx, fmt.Sprintf("%s%d", chain.PathLight, height), &answer)
		if err == nil {
			break
		}
		if fault.Of(err) == fault.NotFound {
			return nil, provider.ErrLightBlockNotFound
		}
		if fault.Of(err) != fault.Conflict || try == behindTries {
			return nil, provider.ErrNoResponse
		}
		wait := time.NewTimer(behindWait) // it will have the block soon
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, provider.ErrNoResponse
		}
	}
	b, err := decodeBlock(answer.Block)
	if err != nil {
		return nil, provider.ErrBadLightBlock{Reason: err}
	}
	if err := b.ValidateBasic(s.chain); err != nil {
		return nil, provider.ErrBadLightBlock{Reason: err}
	}
	if height != 0 && b.Height != height {
		return nil, provider.ErrBadLightBlock{Reason: fmt.Errorf("height %d was asked for, %d came", height, b.Height)}
	}
	return b, nil
}

// ReportEvidence keeps evidence to itself: validators are known people here, and
// the error that the caller gets names the server.
func (s *source) ReportEvidence(context.Context, types.Evidence) error { return nil }

// String names the server in errors of the light client.
func (s *source) String() string { return s.c.base }

func decodeBlock(b []byte) (*types.LightBlock, error) {
	if len(b) == 0 || len(b) > 1<<20 {
		return nil, fmt.Errorf("%d bytes, 1 to %d are possible", len(b), 1<<20)
	}
	var pb cmtproto.LightBlock
	if err := pb.Unmarshal(b); err != nil {
		return nil, fmt.Errorf("%s…: %w", hex.EncodeToString(b[:min(8, len(b))]), err)
	}
	block, err := types.LightBlockFromProto(&pb)
	if err != nil {
		return nil, err
	}
	if block.SignedHeader == nil || block.Header == nil || block.ValidatorSet == nil {
		return nil, errors.New("header, commit and validators are needed")
	}
	return block, nil
}
