package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/engine"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// chainStart are the flags of zos chain start.
type chainStart struct {
	data, listen, id string
	dev              bool
	peers            []string
	peerListen       string
	peerExternal     string
	keep             time.Duration
	release          string
	audit            bool
	syncFrom         []string
	trust            string
	snapshotEvery    uint64
}

func (a *app) chainStartCommand() *cobra.Command {
	var o chainStart
	cmd := &cobra.Command{
		Use: "start", Short: "Run a validator, or follow a chain", Args: args(0, 0),
		Long: `Run the chain in a folder until it is interrupted: as a validator when the
genesis names the folder's key, else as a follower. With --dev an empty folder
becomes a chain with this one validator, no fees, and a faucet.`,
		Example: "  zos chain start --dev\n  zos chain start --data v0 --listen 127.0.0.1:8491 --peer-listen 127.0.0.1:26650",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.data == "" {
				o.data = filepath.Join(a.dataDir(), "chain")
			}
			cfg, err := o.config()
			if err != nil {
				return err
			}
			if !engine.HasGenesis(o.data) {
				if !o.dev {
					return fault.Errorf(fault.NotFound, "there is no chain in %s; make one with --dev or zos chain init, or put genesis.json of an existing one there", o.data)
				}
				if err := a.devGenesis(o.data, o.id); err != nil {
					return err
				}
			}
			level := slog.LevelInfo
			if a.verbose {
				level = slog.LevelDebug
			}
			cfg.Log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
			cfg.Clock = a.clock
			return engine.Serve(cmd.Context(), cfg, o.listen, func(n *engine.Node, url string) {
				if _, err := os.Stat(filepath.Join(o.data, faucetFile)); err == nil {
					a.note("faucet: party 1, key %s", filepath.Join(o.data, faucetFile))
				}
				if p := n.Peer(); p != "" {
					a.note("peer: %s", p)
				}
				a.note("chain: %s", url)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "`folder` of the chain (default $ZOS_DATA/chain)")
	f.StringVar(&o.listen, "listen", engine.DefaultListen, "`address` to answer on; loopback unless you say otherwise")
	f.BoolVar(&o.dev, "dev", false, "make a chain with one validator and a faucet when the folder has none")
	f.StringVar(&o.id, "chain", "dev", "with --dev: `id` of the new chain")
	f.StringArrayVar(&o.peers, "peer", nil, "other validator, `ID@HOST:PORT`; repeat for several (default the lines of the file peers in the folder)")
	f.StringVar(&o.peerListen, "peer-listen", "", "`address` for other validators; loopback unless you say otherwise")
	f.StringVar(&o.peerExternal, "peer-external", "", "`address` that they dial, when it differs")
	f.DurationVar(&o.keep, "keep-blocks", 14*24*time.Hour, "how long blocks are kept; -1s is for ever")
	f.StringVar(&o.release, "release", "", "`hash` of the release that this program is from: what a scheduled upgrade asks for")
	f.BoolVar(&o.audit, "audit", false, "check after each block that the state adds up, and stop if not (slow)")
	f.StringArrayVar(&o.syncFrom, "state-sync-from", nil, "`URL` of a chain server to begin from with a snapshot; give two or more, and --trust")
	f.Uint64Var(&o.snapshotEvery, "snapshot-every", 10_000, "`blocks` between snapshots, which new validators begin from")
	f.StringVar(&o.trust, "trust", "", "with --state-sync-from: `HEIGHT:HASH` of a block that you know to be right (zos chain blocks -o wide)")
	return cmd
}

// config checks the flags.
func (o *chainStart) config() (engine.Config, error) {
	cfg := engine.Config{Dir: o.data, PeerListen: o.peerListen, PeerExternal: o.peerExternal, Peers: o.peers, KeepBlocks: o.keep, SnapshotEvery: o.snapshotEvery, Audit: o.audit}
	if o.snapshotEvery == 0 {
		return cfg, fault.Errorf(fault.Invalid, "--snapshot-every 0: 1 block or more")
	}
	if o.release != "" {
		if err := cfg.Release.UnmarshalText([]byte(o.release)); err != nil {
			return cfg, fault.Errorf(fault.Of(err), "--release: %w", err)
		}
	}
	if len(cfg.Peers) == 0 {
		b, err := os.ReadFile(filepath.Join(o.data, peersFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cfg, fault.Errorf(fault.Of(err), "read peers: %w", err)
		}
		cfg.Peers = strings.Fields(string(b))
	}
	for _, p := range cfg.Peers {
		id, addr, ok := strings.Cut(p, "@")
		if _, err := hex.DecodeString(id); !ok || err != nil || len(id) != 40 {
			return cfg, fault.Errorf(fault.Invalid, "peer %.100q: ID@HOST:PORT is needed, as zos chain start of the other one says it", p)
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return cfg, fault.Errorf(fault.Invalid, "peer %.100q: %w", p, err)
		}
	}
	if (len(o.syncFrom) > 0) != (o.trust != "") {
		return cfg, fault.Errorf(fault.Invalid, "--state-sync-from and --trust go together")
	}
	if len(o.syncFrom) > 0 {
		h, hash, _ := strings.Cut(o.trust, ":")
		height, err := strconv.ParseUint(h, 10, 63)
		raw, herr := hex.DecodeString(hash)
		if err != nil || herr != nil || len(raw) != 32 {
			return cfg, fault.Errorf(fault.Invalid, "--trust %.100q: HEIGHT:HASH, the hash with 64 hexadecimal digits", o.trust)
		}
		cfg.SyncFrom = &engine.SyncFrom{Servers: o.syncFrom, Height: height, Hash: raw}
	}
	return cfg, nil
}

// Files that the commands add to a folder of a chain.
const (
	faucetFile  = "faucet.key"
	founderFile = "founder.key"
	peersFile   = "peers"
)

// devBalance is what the faucet of a new chain holds.
const devBalance = 1_000_000_000 * chain.Credit

// devGenesis makes a chain of one validator, whose first party holds all credits
// and governs.
func (a *app) devGenesis(dir, id string) error {
	key, _, err := engine.NewValidator(dir)
	if err != nil {
		return err
	}
	first, err := newFounder(filepath.Join(dir, faucetFile), devBalance)
	if err != nil {
		return err
	}
	return engine.WriteGenesis(dir, engine.Genesis{Time: a.clock.Now().UTC().Truncate(time.Second), State: state.Genesis{
		Chain: id, Governance: 1, Parties: []state.GenesisParty{first},
		Validators: []chain.Validator{{Key: key, Power: 10, Name: "dev"}},
	}})
}

// newFounder makes the key of the first party.
func newFounder(path string, balance uint64) (state.GenesisParty, error) {
	k, err := identity.Generate()
	if err != nil {
		return state.GenesisParty{}, err
	}
	if err := k.Save(path); err != nil {
		return state.GenesisParty{}, err
	}
	return state.GenesisParty{Balance: balance, Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: k.Public(), Role: identity.RoleFull}}}}, nil
}

// chainInit are the flags of zos chain init.
type chainInit struct {
	validators int
	dir, id    string
	hosts      []string
	force      bool
	founder    string
	credits    uint64
}

func (a *app) chainInitCommand() *cobra.Command {
	var o chainInit
	cmd := &cobra.Command{
		Use: "init", Short: "Make the folders of a new chain's validators", Args: args(0, 0),
		Long: `Make a folder for each validator of a new chain, all with the same genesis. The
first party holds all credits and governs; its key is written beside the folders
unless --founder names one. Two and three validators tolerate no fault and are
refused without --force.`,
		Example: "  zos chain init --validators 4 --output-dir grid --host a.example:26650 --host b.example:26650 --host c.example:26650 --host d.example:26650",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.dir == "" {
				return &usageError{cmd, errors.New("--output-dir is needed")}
			}
			if len(o.hosts) > 0 && len(o.hosts) != o.validators {
				return &usageError{cmd, fmt.Errorf("--host is given %d times for %d validators", len(o.hosts), o.validators)}
			}
			return a.initChain(o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.validators, "validators", 4, "how many `validators`: 1, or 4 and more")
	f.StringVar(&o.dir, "output-dir", "", "`folder` for the folders v0, v1, …")
	f.StringVar(&o.id, "chain", "grid-1", "`id` of the chain: a-z, 0-9 and hyphens")
	f.StringArrayVar(&o.hosts, "host", nil, "`HOST:PORT` of each validator for the others (default 127.0.0.1 from port 26650 on)")
	f.BoolVar(&o.force, "force", false, "accept 2 or 3 validators")
	f.StringVar(&o.founder, "founder", "", "public `key` of the first party (default a new one)")
	f.Uint64Var(&o.credits, "credits", 1_000_000_000, "`credits` of the first party")
	return cmd
}

type initializedValidator struct {
	Folder string      `json:"folder"`
	Key    chain.Bytes `json:"key"`
	Peer   string      `json:"peer"`
	Start  string      `json:"start"`
}

func (a *app) initChain(o chainInit) error {
	switch {
	case o.validators < 1 || o.validators > chain.MaxValidators:
		return fault.Errorf(fault.Invalid, "--validators %d: 1 to %d", o.validators, chain.MaxValidators)
	case (o.validators == 2 || o.validators == 3) && !o.force:
		return fault.Errorf(fault.Invalid, "--validators %d: they tolerate no fault, so they are worse than 1; take 1, or 4 and more, or --force", o.validators)
	case o.credits > 1<<63/chain.Credit:
		return fault.Errorf(fault.Invalid, "--credits %d: at most %d", o.credits, uint64(1<<63/chain.Credit))
	}
	if entries, err := os.ReadDir(o.dir); err == nil && len(entries) > 0 {
		return fault.Errorf(fault.Conflict, "%s is not empty; choose another folder", o.dir)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fault.Errorf(fault.Of(err), "make chain: %w", err)
	}
	var founder state.GenesisParty
	if o.founder != "" {
		k, err := identity.ParsePublicKey(o.founder)
		if err != nil {
			return fault.Errorf(fault.Of(err), "--founder: %w", err)
		}
		founder = state.GenesisParty{Balance: o.credits * chain.Credit, Twin: &chain.CreateTwin{Keys: []chain.NewKey{{Key: k, Role: identity.RoleFull}}}}
	} else {
		var err error
		if founder, err = newFounder(filepath.Join(o.dir, founderFile), o.credits*chain.Credit); err != nil {
			return err
		}
	}
	g := engine.Genesis{Time: a.clock.Now().UTC().Truncate(time.Second), State: state.Genesis{Chain: o.id, Governance: 1, Force: o.force, Parties: []state.GenesisParty{founder}}}
	all := make([]initializedValidator, o.validators)
	for i := range all {
		v := &all[i]
		v.Folder = filepath.Join(o.dir, "v"+strconv.Itoa(i))
		key, peer, err := engine.NewValidator(v.Folder)
		if err != nil {
			return err
		}
		host := fmt.Sprintf("127.0.0.1:%d", 26650+i)
		if len(o.hosts) > 0 {
			host = o.hosts[i]
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			return fault.Errorf(fault.Invalid, "--host %q: HOST:PORT is needed", host)
		}
		v.Key, v.Peer = key, peer+"@"+host
		v.Start = fmt.Sprintf("zos chain start --data %s --listen 127.0.0.1:%d --peer-listen %s", v.Folder, 8490+i, host)
		g.State.Validators = append(g.State.Validators, chain.Validator{Key: key, Power: 10, Name: "v" + strconv.Itoa(i)})
	}
	t := table{columns: []string{"folder", "peer", "start", "+key"}}
	names := make([]string, 0, len(all))
	for i, v := range all {
		if err := engine.WriteGenesis(v.Folder, g); err != nil {
			return err
		}
		var peers strings.Builder
		for j, other := range all {
			if j != i {
				peers.WriteString(other.Peer + "\n")
			}
		}
		if err := atomicfile.Write(filepath.Join(v.Folder, peersFile), []byte(peers.String()), 0o644); err != nil {
			return err
		}
		t.rows = append(t.rows, []string{v.Folder, v.Peer, v.Start, hex.EncodeToString(v.Key)})
		names = append(names, v.Folder)
	}
	return a.print(all, t, names...)
}
