package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cometbft/cometbft/crypto"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/types"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// Genesis is the beginning of a chain: all its validators start from the same
// bytes of genesis.json.
type Genesis struct {
	Time  time.Time     `json:"time"`
	State state.Genesis `json:"state"`
}

// Files of a data folder.
const (
	genesisFile   = "genesis.json"
	validatorFile = "validator.json" // the key that votes; never in two folders
	votesFile     = "votes.json"     // what was voted for last, so that nothing is voted for twice
	nodeKeyFile   = "peer.json"      // the key of connections
	dataFolder    = "data"
)

// maxGenesis is the most bytes of a genesis file.
const maxGenesis = 64 << 20

// ReadGenesis reads a genesis file. Unknown fields are refused.
func ReadGenesis(path string) (Genesis, error) {
	var g Genesis
	f, err := os.Open(path)
	if err != nil {
		return g, fault.Errorf(fault.Of(err), "read genesis: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxGenesis+1))
	if err != nil {
		return g, fault.Errorf(fault.Of(err), "read genesis: %w", err)
	}
	if len(b) > maxGenesis {
		return g, fault.Errorf(fault.Invalid, "read genesis %s: more than %d bytes", path, maxGenesis)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		return g, fault.Errorf(fault.Invalid, "read genesis %s: %w", path, err)
	}
	if d.More() {
		return g, fault.Errorf(fault.Invalid, "read genesis %s: something follows the object", path)
	}
	return g, nil
}

// Encode is the genesis as its file.
func (g Genesis) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(g, "", "  ")
	return append(b, '\n'), err
}

// doc is the genesis as the consensus engine wants it.
func (g Genesis) doc() (*types.GenesisDoc, error) {
	if g.Time.IsZero() {
		return nil, fault.Errorf(fault.Invalid, "genesis: time is missing")
	}
	if err := chain.CheckValidators(sorted(g.State.Validators), g.State.Force); err != nil {
		return nil, fault.Errorf(fault.Of(err), "genesis: %w", err)
	}
	b, err := json.Marshal(g.State)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	p := types.DefaultConsensusParams()
	p.Block.MaxBytes = MaxBlock
	p.Evidence.MaxAgeDuration = evidenceAge
	p.Evidence.MaxBytes = 64 << 10
	p.Version.App = appVersion
	doc := &types.GenesisDoc{GenesisTime: g.Time.UTC(), ChainID: g.State.Chain, InitialHeight: 1, ConsensusParams: p, AppState: b}
	for _, v := range sorted(g.State.Validators) {
		key := ed25519.PubKey(v.Key)
		doc.Validators = append(doc.Validators, types.GenesisValidator{Address: key.Address(), PubKey: key, Power: int64(v.Power), Name: v.Name})
	}
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, fault.Errorf(fault.Invalid, "genesis: %w", err)
	}
	return doc, nil
}

func sorted(vs []chain.Validator) []chain.Validator {
	vs = slices.Clone(vs)
	slices.SortFunc(vs, func(a, b chain.Validator) int { return bytes.Compare(a.Key, b.Key) })
	return vs
}

// MaxBlock is the most bytes of a block.
const MaxBlock = 2 << 20

// evidenceAge is how long a validator may be shown to have voted twice: as long
// as a light client trusts a header.
const evidenceAge = 14 * 24 * time.Hour

// NewValidator makes the keys of a validator in a folder and returns the public
// ones. Keys that are there are left alone.
func NewValidator(dir string) (key chain.Bytes, peer string, err error) {
	if err := os.MkdirAll(filepath.Join(dir, dataFolder), 0o700); err != nil {
		return nil, "", fault.Errorf(fault.Of(err), "make validator: %w", err)
	}
	pv, err := loadValidator(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(filepath.Join(dir, dataFolder, votesFile)); serr == nil {
			return nil, "", fault.Errorf(fault.Conflict, "make validator in %s: %s is gone but %s is there; put the key back, or take an empty folder", dir, validatorFile, votesFile)
		}
		pv = privval.GenFilePV(filepath.Join(dir, validatorFile), filepath.Join(dir, dataFolder, votesFile))
		err = save(func() { pv.Save() })
	}
	if err != nil {
		return nil, "", fault.Errorf(fault.Of(err), "make validator: %w", err)
	}
	nk, err := loadNodeKey(dir)
	if err != nil {
		return nil, "", fault.Errorf(fault.Of(err), "make validator: %w", err)
	}
	return pv.Key.PubKey.Bytes(), string(nk.ID()), nil
}

// save turns the panic with which the engine's files report errors into one.
func save(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fault.Errorf(fault.Internal, "%v", p)
		}
	}()
	f()
	return nil
}

// loadValidator reads the key and the last votes. The engine's own reader ends
// the process on a bad file, so the files are checked before.
func loadValidator(dir string) (*privval.FilePV, error) {
	key, votes := filepath.Join(dir, validatorFile), filepath.Join(dir, dataFolder, votesFile)
	b, err := os.ReadFile(key)
	if err != nil {
		return nil, err
	}
	var k privval.FilePVKey
	if err := cmtjson.Unmarshal(b, &k); err != nil || k.PrivKey == nil {
		return nil, fault.Errorf(fault.Invalid, "validator key %s can't be read: %v; put the right file back", key, err)
	}
	b, err = os.ReadFile(votes)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "the record of votes %s can't be read: %v; without it this key could vote twice: put the file back, or take a new key", votes, err)
	}
	var s privval.FilePVLastSignState
	if err := cmtjson.Unmarshal(b, &s); err != nil {
		return nil, fault.Errorf(fault.Invalid, "the record of votes %s can't be read: %v; put the right file back", votes, err)
	}
	return privval.LoadFilePV(key, votes), nil
}

func loadNodeKey(dir string) (*p2p.NodeKey, error) {
	k, err := p2p.LoadOrGenNodeKey(filepath.Join(dir, nodeKeyFile))
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "peer key %s: %w; delete it to get a new one", filepath.Join(dir, nodeKeyFile), err)
	}
	return k, nil
}

// WriteGenesis puts a genesis into a folder. Another one that is there is a
// conflict.
func WriteGenesis(dir string, g Genesis) error {
	if _, err := g.doc(); err != nil {
		return err
	}
	b, err := g.Encode()
	if err != nil {
		return fault.As(fault.Invalid, err)
	}
	path := filepath.Join(dir, genesisFile)
	old, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(old, b):
		return nil
	case err == nil:
		return fault.Errorf(fault.Conflict, "write genesis: %s is there and another one; take an empty folder", path)
	case !errors.Is(err, fs.ErrNotExist):
		return fault.Errorf(fault.Of(err), "write genesis: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Errorf(fault.Of(err), "write genesis: %w", err)
	}
	return atomicfile.Write(path, b, 0o644)
}

// HasGenesis says whether a folder holds a chain.
func HasGenesis(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, genesisFile))
	return err == nil
}

// address is how the engine names a validator.
func address(key chain.Bytes) crypto.Address { return ed25519.PubKey(key).Address() }
