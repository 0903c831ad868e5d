package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmtversion "github.com/cometbft/cometbft/proto/tendermint/version"
	"github.com/cometbft/cometbft/types"
	cmtprotocol "github.com/cometbft/cometbft/version"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/chain/engine"
	"zos.internal/internal/clock"
)

// provenReads compares a contract read by the light client, whose header is
// known, with the answer of the same server that is believed.
func provenReads(ctx context.Context, b *bench) error {
	e, err := newEmbedded(ctx, b.path("proven"), 8)
	if err != nil {
		return err
	}
	defer e.Close()
	var wires [][]byte
	for range chain.MaxPending {
		for i := 1; i < 8; i++ {
			wires = append(wires, e.sign(i, e.contract(i)))
		}
	}
	if err := e.pour(ctx, wires); err != nil {
		return err
	}
	s := httptest.NewServer(e.Handler())
	defer s.Close()
	c, err := client.New(s.URL, nil)
	if err != nil {
		return err
	}
	var first chain.BlockAnswer
	if err := c.Get(ctx, "/v1/blocks/1", &first); err != nil {
		return err
	}
	l, err := client.NewLight(ctx, client.Options{Chain: "bench-1", Primary: c, Trust: client.Trust{Height: 1, Hash: first.Hash}})
	if err != nil {
		return err
	}
	made := e.contract(2)
	a, err := e.must(ctx, e.sign(2, made))
	if err != nil {
		return err
	}
	l.After(a.Height)
	id := made.ID
	const times = 200
	var took []float64
	checked := func() (float64, error) {
		return spent(func() error {
			for range times {
				s, err := timed(func() error {
					r, _, err := client.Record[chain.Contract](ctx, l, chain.ContractKey(id))
					if err == nil && (r == nil || r.ID != id) {
						err = fmt.Errorf("the contract is %+v", r)
					}
					return err
				})
				if err != nil {
					return err
				}
				took = append(took, s)
			}
			return nil
		})
	}
	path := fmt.Sprintf("/v1/contracts/%d", uint64(id))
	believed := func() (float64, error) {
		return spent(func() error {
			for range times {
				var r chain.Contract
				if err := c.Get(ctx, path, &r); err != nil || r.ID != id {
					return fmt.Errorf("the contract is %s, %v", r.ID, err)
				}
			}
			return nil
		})
	}
	if _, err := checked(); err != nil { // the header is known after that
		return err
	}
	took = took[:0]
	per := func(x float64) string { return micros(x / times) }
	if err := b.compare("processor time of a proven read, client and server", "the same read, not proven", atMost(3), per, believed, checked); err != nil {
		return err
	}
	slices.Sort(took)
	b.absolute("proven read, p50", atMost(10), median(took)*1000, millis(median(took)))
	return nil
}

// catchUp measures a light client that was away for 100,000 blocks, in which
// all four validators were replaced one by one.
func catchUp(ctx context.Context, b *bench) error {
	const blocks = 100_000
	p, err := newPast(b.path("past"), blocks)
	if err != nil {
		return err
	}
	defer p.tree.Close()
	s := httptest.NewServer(p)
	defer s.Close()
	c, err := client.New(s.URL, nil)
	if err != nil {
		return err
	}
	trusted, err := p.light(1)
	if err != nil {
		return err
	}
	var took []float64
	for range b.rounds {
		p.asked.Store(0)
		x, err := timed(func() error {
			l, err := client.NewLight(ctx, client.Options{Chain: "bench-1", Primary: c, Trust: client.Trust{Height: 1, Hash: chain.Hash(trusted.Hash())}})
			if err != nil {
				return err
			}
			at, err := l.Head(ctx)
			if err == nil && at.Height != blocks {
				err = fmt.Errorf("the light client is at %d", at.Height)
			}
			return err
		})
		if err != nil {
			return err
		}
		took = append(took, x)
	}
	b.absolute(fmt.Sprintf("light client catches up over %d blocks", blocks), must{}, median(took),
		fmt.Sprintf("%s, %d requests", millis(median(took)), p.asked.Load()))
	return nil
}

// past serves a chain that has headers only, made when they are asked for.
type past struct {
	tree  *engine.Tree
	root  []byte
	keys  []ed25519.PrivKey
	now   time.Time
	last  int64
	asked atomic.Int64
}

func newPast(dir string, blocks int64) (*past, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	tree, err := engine.OpenTree(dir, "tree")
	if err != nil {
		return nil, err
	}
	tree.Set(chain.MetaKey(), []byte("meta"))
	root, _, err := tree.Commit(1, 1, 0)
	if err != nil {
		return nil, err
	}
	p := &past{tree: tree, root: root, now: clock.System{}.Now().UTC().Truncate(time.Second), last: blocks + 1}
	for i := range 8 {
		p.keys = append(p.keys, ed25519.GenPrivKeyFromSecret([]byte{byte(i)}))
	}
	return p, nil
}

// validators are four of the keys; one is replaced after each fifth of the past.
func (p *past) validators(height int64) (*types.ValidatorSet, map[string]ed25519.PrivKey) {
	var vs []*types.Validator
	keys := make(map[string]ed25519.PrivKey)
	first := min(height*5/p.last, 4)
	for _, k := range p.keys[first : first+4] {
		vs = append(vs, types.NewValidator(k.PubKey(), 10))
		keys[string(k.PubKey().Address())] = k
	}
	return types.NewValidatorSet(vs), keys
}

func (p *past) light(height int64) (*types.LightBlock, error) {
	set, keys := p.validators(height)
	next, _ := p.validators(height + 1)
	hash := func(n int64) []byte { return append(make([]byte, 24), fmt.Sprintf("%08d", n)...) }
	h := &types.Header{Version: cmtversion.Consensus{Block: cmtprotocol.BlockProtocol, App: 1}, ChainID: "bench-1", Height: height,
		Time:        p.now.Add(time.Duration(height-p.last) * 10 * time.Second),
		LastBlockID: types.BlockID{Hash: hash(height - 1), PartSetHeader: types.PartSetHeader{Total: 1, Hash: hash(height - 1)}}, LastCommitHash: hash(1), DataHash: hash(2),
		ValidatorsHash: set.Hash(), NextValidatorsHash: next.Hash(), ConsensusHash: hash(3), AppHash: p.root, LastResultsHash: hash(4), EvidenceHash: hash(5),
		ProposerAddress: set.Validators[0].Address}
	id := types.BlockID{Hash: h.Hash(), PartSetHeader: types.PartSetHeader{Total: 1, Hash: hash(height)}}
	commit := &types.Commit{Height: height, Round: 0, BlockID: id}
	for i, v := range set.Validators {
		vote := &types.Vote{Type: cmtproto.PrecommitType, Height: height, BlockID: id, Timestamp: h.Time, ValidatorAddress: v.Address, ValidatorIndex: int32(i)}
		sig, err := keys[string(v.Address)].Sign(types.VoteSignBytes("bench-1", vote.ToProto()))
		if err != nil {
			return nil, err
		}
		commit.Signatures = append(commit.Signatures, types.CommitSig{BlockIDFlag: types.BlockIDFlagCommit, ValidatorAddress: v.Address, Timestamp: h.Time, Signature: sig})
	}
	return &types.LightBlock{SignedHeader: &types.SignedHeader{Header: h, Commit: commit}, ValidatorSet: set}, nil
}

func (p *past) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked.Add(1)
	v, err := p.answer(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(v) // who went away needs no answer
}

func (p *past) answer(r *http.Request) (any, error) {
	encode := func(height int64) ([]byte, error) {
		b, err := p.light(height)
		if err != nil {
			return nil, err
		}
		pb, err := b.ToProto()
		if err != nil {
			return nil, err
		}
		return pb.Marshal()
	}
	if text, ok := strings.CutPrefix(r.URL.Path, chain.PathLight); ok {
		height, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, err
		}
		if height == 0 {
			height = p.last
		}
		block, err := encode(height)
		return chain.LightBlock{Height: uint64(height), Block: block}, err
	}
	key, err := hex.DecodeString(r.URL.Query().Get("key"))
	if err != nil {
		return nil, err
	}
	proof := chain.Proof{Height: uint64(p.last - 1)}
	err = p.tree.View(0, func(v engine.View) error {
		record, err := v.Prove(key)
		proof.Records = append(proof.Records, record)
		return err
	})
	if err == nil {
		proof.Block, err = encode(p.last)
	}
	return proof, err
}
