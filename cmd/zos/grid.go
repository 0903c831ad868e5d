package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// gridOptions are the flags of every command about the agreement.
type gridOptions struct {
	server, chain string

	group     uint32
	note      string
	silent    bool
	approval  string
	feeLimit  string
	sponsor   uint32
	signOnly  string
	expires   time.Duration
	prove     bool
	trust     string
	trustNow  bool
	witnesses []string
}

func (o *gridOptions) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&o.server, "server", "", "`URL` of a chain server (default $ZOS_CHAIN, else "+localChain+")")
	f.StringVar(&o.chain, "chain", "", "`id` of the chain: a server of another one is refused")
	f.Uint32Var(&o.group, "group", 0, "put the change before this `group`, as a proposal with your approval")
	f.StringVar(&o.note, "note", "", "`text` for the members who vote")
	f.BoolVar(&o.silent, "no-vote", false, "propose without approving")
	f.StringVar(&o.approval, "approval", "", "with --group: don't propose, write a `file` that members approve off-chain")
	f.StringVar(&o.feeLimit, "fee-limit", "", "most `credits` that the fee may be (default: what it is now)")
	f.Uint32Var(&o.sponsor, "sponsor", 0, "`party` that pays the fee and signs too, with zos tx sponsor; needs --sign-only")
	f.StringVar(&o.signOnly, "sign-only", "", "write the signed transaction to a `file` instead of sending it")
	f.DurationVar(&o.expires, "valid", 10*time.Minute, "how long the signatures are good; a transaction at most 1h (an approval: 24h, or what the group's policies allow)")
	f.BoolVar(&o.prove, "prove", false, "show only what the validators signed")
	f.StringVar(&o.trust, "trust", "", "with --prove, the first time: `HEIGHT:HASH` of a block that you know to be right")
	f.BoolVar(&o.trustNow, "trust-first", false, "with --prove, the first time: trust the server's newest block")
	f.StringArrayVar(&o.witnesses, "witness", nil, "`URL` of another server that must agree with --prove; repeat for several")
}

// verb is a command of a noun about the agreement.
type verb struct {
	use, short, long, example string
	least, most               int // arguments
	flags                     func(*cobra.Command)
	run                       func(ctx context.Context, g *grid, args []string) error
	verbs                     []verb // a noun within the noun
}

// gridCommands are the commands by which people act on the chain.
func (a *app) gridCommands() []*cobra.Command {
	return []*cobra.Command{
		a.noun("twin", "Twins: who acts on the chain", twinVerbs()),
		a.noun("credit", "Balances, and sending credits", creditVerbs()),
		a.noun("farm", "Farms: prices, addresses, tickets for nodes", farmVerbs()),
		a.noun("node", "Nodes of farms", nodeVerbs()),
		a.noun("contract", "Contracts: what runs where, until when, and what it costs", contractVerbs()),
		a.noun("group", "Groups of people who decide together", groupVerbs()),
		a.noun("proposal", "What is before a group", proposalVerbs()),
		a.noun("support", "Support access to nodes, with consent", supportVerbs()),
		a.noun("publisher", "Publishers of images", publisherVerbs()),
		a.noun("release", "Releases of publishers", releaseVerbs()),
		a.noun("govern", "Credits, parameters, validators and upgrades of the chain", governVerbs()),
		a.noun("tx", "Signed transactions in files", txVerbs()),
	}
}

func (a *app) noun(name, short string, verbs []verb) *cobra.Command {
	o := &gridOptions{}
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs, RunE: group}
	o.flags(cmd)
	a.addVerbs(cmd, o, verbs)
	return cmd
}

func (a *app) addVerbs(parent *cobra.Command, o *gridOptions, verbs []verb) {
	for _, v := range verbs {
		c := &cobra.Command{Use: v.use, Short: v.short, Long: v.long, Example: v.example}
		if v.verbs != nil {
			c.Args, c.RunE = cobra.ArbitraryArgs, group
			a.addVerbs(c, o, v.verbs)
		} else {
			c.Args = args(v.least, v.most)
			c.RunE = func(cmd *cobra.Command, args []string) error {
				g := &grid{a: a, o: o, cmd: cmd}
				if err := g.check(); err != nil {
					return err
				}
				return v.run(cmd.Context(), g, args)
			}
		}
		if v.flags != nil {
			v.flags(c)
		}
		parent.AddCommand(c)
	}
}

// grid is one command's view of a chain.
type grid struct {
	a   *app
	o   *gridOptions
	cmd *cobra.Command

	c      *client.Client
	status *chain.Status
	keys   *identity.Keys
	self   *member
	light  *client.Light
}

// check refuses flags that make no sense together, and dials nothing.
func (g *grid) check() (err error) {
	o := g.o
	switch {
	case o.approval != "" && o.group == 0:
		return g.usage("--approval needs --group")
	case o.approval != "" && o.signOnly != "":
		return g.usage("--approval and --sign-only write different files; choose one")
	case (o.note != "" || o.silent) && o.group == 0:
		return g.usage("--note and --no-vote need --group")
	case o.sponsor != 0 && o.signOnly == "":
		return g.usage("--sponsor needs --sign-only: the sponsor signs the file")
	case (o.trust != "" || o.trustNow || len(o.witnesses) > 0) && !o.prove:
		return g.usage("--trust, --trust-first and --witness need --prove")
	case o.trust != "" && o.trustNow:
		return g.usage("--trust and --trust-first: choose one")
	case o.expires <= 0 || o.approval == "" && o.expires > chain.MaxExpiry*time.Second:
		return g.usage("--valid %v: more than 0 and at most 1h", o.expires)
	}
	g.c, err = g.a.chainClient(chainFlags{server: o.server})
	return err
}

// usage is a wrong invocation.
func (g *grid) usage(format string, args ...any) error {
	return &usageError{g.cmd, fmt.Errorf(format, args...)}
}

// id is the id of the chain, which the server says and --chain confirms.
func (g *grid) id(ctx context.Context) (string, error) {
	if g.status == nil {
		s, err := g.c.Status(ctx)
		if err != nil {
			return "", hint(err)
		}
		if !validChain(s.Chain) {
			return "", fault.Errorf(fault.Invalid, "chain server %s says it is of chain %.60q, which is no id of a chain", g.c.Server(), s.Chain)
		}
		if err := g.known(s.Chain); err != nil {
			return "", err
		}
		g.status = &s
	}
	if g.o.chain != "" && g.o.chain != g.status.Chain {
		return "", fault.Errorf(fault.Denied, "chain server %s is of chain %s, --chain says %.60s; name a server of that chain", g.c.Server(), g.status.Chain, g.o.chain)
	}
	return g.status.Chain, nil
}

// serversFile remembers of which chain a server was when something was signed
// for it: a server that changes its mind wants a signature for another chain.
func (g *grid) serversFile() string { return filepath.Join(g.a.dataDir(), "trust", "servers.json") }

func (g *grid) servers() (map[string]string, error) {
	all := make(map[string]string)
	if err := readJSON(g.serversFile(), 1<<20, &all); err != nil && !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	return all, nil
}

func (g *grid) known(id string) error {
	all, err := g.servers()
	if was := all[g.c.Server()]; err == nil && was != "" && was != id && g.o.chain != id {
		err = fault.Errorf(fault.Denied, "chain server %s was of chain %s when you signed for it, now it says %s; if that is right give --chain %s", g.c.Server(), was, id, id)
	}
	return err
}

// remember notes the chain of a server for which something is signed.
func (g *grid) remember() error {
	all, err := g.servers()
	if err != nil || all[g.c.Server()] == g.status.Chain {
		return err
	}
	all[g.c.Server()] = g.status.Chain
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(g.serversFile()), 0o700); err != nil {
		return fault.Errorf(fault.Of(err), "remember the chain of the server: %w", err)
	}
	return atomicfile.Write(g.serversFile(), b, 0o600)
}

func validChain(id string) bool {
	return id != "" && len(id) <= 50 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// member is who signs: a party, one of its keys, and its account.
type member struct {
	party   chain.PartyAnswer
	index   uint32
	account chain.Account
}

// key loads the key that signs.
func (g *grid) key() (*identity.Keys, error) {
	if g.keys == nil {
		k, err := g.a.keys()
		if err != nil {
			return nil, err
		}
		g.keys = k
	}
	return g.keys, nil
}

// me finds the party that the key speaks for. again asks the server anew.
func (g *grid) me(ctx context.Context, again bool) (*member, error) {
	if g.self != nil && !again {
		return g.self, nil
	}
	k, err := g.key()
	if err != nil {
		return nil, err
	}
	if _, err := g.id(ctx); err != nil {
		return nil, err
	}
	var at chain.AddressAnswer
	if err := g.c.Get(ctx, "/v1/keys/"+k.Owner.String(), &at); err != nil {
		if errors.Is(err, fault.NotFound) {
			return nil, fault.Errorf(fault.NotFound, "the key %s has no twin on chain %s; make one with zos twin create", k.Owner, g.status.Chain)
		}
		return nil, err
	}
	m := &member{}
	if err := g.c.Get(ctx, fmt.Sprintf("/v1/parties/%d", at.Party), &m.party); err != nil {
		return nil, err
	}
	m.account = m.party.Account
	for _, key := range m.party.Keys {
		if key.Key == k.Sign.Public() {
			m.index = key.Index
			g.self = m
			return m, nil
		}
	}
	return nil, fault.Errorf(fault.Denied, "the key %s is not one of party %d; was it revoked? zos twin show %d lists them", k.Sign.Public(), at.Party, at.Party)
}

// owner is the party for which a command acts: the group of --group, or the
// party of the key.
func (g *grid) owner(ctx context.Context) (identity.Party, error) {
	if g.o.group != 0 {
		p := identity.Party(g.o.group)
		return p, p.Check()
	}
	m, err := g.me(ctx, false)
	if err != nil {
		return 0, err
	}
	return m.party.ID, nil
}

// party reads a party from an argument: a number, an address, or self.
func (g *grid) partyArg(ctx context.Context, text string) (identity.Party, error) {
	switch {
	case text == "self" || text == "":
		m, err := g.me(ctx, false)
		if err != nil {
			return 0, err
		}
		return m.party.ID, nil
	case strings.HasPrefix(text, "zos1"):
		address, err := identity.ParseAddress(text)
		if err != nil {
			return 0, err
		}
		var at chain.AddressAnswer
		err = g.get(ctx, "/v1/keys/"+address.String(), &at)
		return at.Party, err
	}
	return identity.ParseParty(text)
}

// get asks the server, of the right chain.
func (g *grid) get(ctx context.Context, path string, out any) error {
	if _, err := g.id(ctx); err != nil {
		return err
	}
	return g.c.Get(ctx, path, out)
}
