package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func governVerbs() []verb {
	return []verb{governMint(), governBurn(), governParams(), governValidators(), governUpgrade()}
}

// govern sends messages of governance: directly when the key's party governs,
// else as a proposal to the group that does.
func (g *grid) govern(ctx context.Context, ms ...chain.Message) error {
	var meta chain.Meta
	if err := g.get(ctx, "/v1/meta", &meta); err != nil {
		return err
	}
	if meta.Governance == 0 {
		return fault.Errorf(fault.Denied, "nobody governs chain %s; it was made like that", meta.Chain)
	}
	me, err := g.me(ctx, false)
	if err != nil {
		return err
	}
	if g.o.group == 0 && meta.Governance != me.party.ID {
		var p chain.PartyAnswer
		if err := g.get(ctx, fmt.Sprintf("/v1/parties/%d", meta.Governance), &p); err != nil {
			return err
		}
		if p.Group == nil {
			return fault.Errorf(fault.Denied, "party %d governs chain %s, you are party %d", meta.Governance, meta.Chain, me.party.ID)
		}
		g.a.note("group %d governs chain %s; this is a proposal to it", meta.Governance, meta.Chain)
		g.o.group = uint32(meta.Governance)
	}
	return g.act(ctx, ms...)
}

func governMint() verb {
	return verb{
		use: "mint PARTY AMOUNT", short: "Make credits", least: 2, most: 2,
		run: func(ctx context.Context, g *grid, args []string) error {
			n, err := parseCredits("amount", args[1])
			if err != nil {
				return err
			}
			to, err := g.partyArg(ctx, args[0])
			if err != nil {
				return err
			}
			return g.govern(ctx, &chain.Mint{To: to, Amount: n})
		},
	}
}

func governBurn() verb {
	return verb{
		use: "burn AMOUNT", short: "Destroy credits of the treasury or the governing party", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			n, err := parseCredits("amount", args[0])
			if err != nil {
				return err
			}
			return g.govern(ctx, &chain.Burn{Amount: n})
		},
	}
}

// paramFlags are the parameters that people set by name.
type paramFlags struct {
	fees              []string
	network, name     string
	protocol          float64
	treasury, arbiter uint32
	auditors          []string
}

func governParams() verb {
	var f paramFlags
	return verb{
		use: "params", short: "Show the parameters of the chain, or change some",
		long:    "Without a flag, show the parameters. With some, change those and keep the rest.",
		example: "  zos govern params\n  zos govern params --fee 0.001 --fee Send=0.01 --name-rate 1/month --protocol 5",
		flags: func(cmd *cobra.Command) {
			c := cmd.Flags()
			c.StringArrayVar(&f.fees, "fee", nil, "`[MESSAGE=]CREDITS`: the fee of a message, or of all others; none removes it; repeat")
			c.StringVar(&f.network, "network-rate", "", "`price` of a network contract, credits an hour")
			c.StringVar(&f.name, "name-rate", "", "`price` of a name contract, credits an hour")
			c.Float64Var(&f.protocol, "protocol", 0, "`percent` of what contracts earn that goes to the treasury")
			c.Uint32Var(&f.treasury, "treasury", 0, "`party` that receives fees and the protocol's share; 0: who governs")
			c.Uint32Var(&f.arbiter, "arbiter", 0, "`party` that decides disputes; 0: who governs")
			c.StringSliceVar(&f.auditors, "auditor", nil, "`party` that may attest; names all of them")
		},
		run: func(ctx context.Context, g *grid, _ []string) error {
			p, err := read[chain.Params](ctx, g, "the parameters", "/v1/params", chain.ParamsKey())
			if err != nil {
				return err
			}
			changed, err := f.apply(g.cmd, p)
			if err != nil {
				return err
			}
			if changed {
				return g.govern(ctx, &chain.SetParams{Params: *p})
			}
			pairs := []string{"network", hourly(p.NetworkRate), "name", hourly(p.NameRate), "protocol's share", percent(uint64(p.Protocol)),
				"treasury", orGovernance(p.Treasury), "arbiter", orGovernance(p.Arbiter)}
			for _, fee := range p.Fees {
				name := "fee"
				if fee.Code != 0 {
					name += " " + fee.Code.String()
				}
				pairs = append(pairs, name, credits(fee.Fee))
			}
			for _, a := range p.Auditors {
				pairs = append(pairs, "auditor", fmt.Sprint(a))
			}
			return g.a.print(p, facts(pairs...), "params")
		},
	}
}

func orGovernance(p identity.Party) string {
	if p == 0 {
		return "who governs"
	}
	return fmt.Sprint(p)
}

func (f *paramFlags) apply(cmd *cobra.Command, p *chain.Params) (changed bool, err error) {
	set := func(flag string) bool {
		is := cmd.Flags().Changed(flag)
		changed = changed || is
		return is
	}
	if set("network-rate") {
		if p.NetworkRate, err = parseRate("--network-rate", f.network); err != nil {
			return false, err
		}
	}
	if set("name-rate") {
		if p.NameRate, err = parseRate("--name-rate", f.name); err != nil {
			return false, err
		}
	}
	if set("protocol") {
		if !(f.protocol >= 0 && f.protocol <= 50) {
			return false, fault.Errorf(fault.Invalid, "--protocol %v: 0 to 50 percent", f.protocol)
		}
		p.Protocol = uint32(f.protocol*10_000 + 0.5)
	}
	if set("treasury") {
		p.Treasury = identity.Party(f.treasury)
	}
	if set("arbiter") {
		p.Arbiter = identity.Party(f.arbiter)
	}
	if set("auditor") {
		if p.Auditors, err = parseNodes(f.auditors); err != nil {
			return false, err
		}
	}
	if set("fee") {
		if p.Fees, err = parseFees(p.Fees, f.fees); err != nil {
			return false, err
		}
	}
	return changed, nil
}

// parseFees changes fees as flags say.
func parseFees(old []chain.Fee, texts []string) ([]chain.Fee, error) {
	fees := make(map[chain.Code]uint64)
	for _, f := range old {
		fees[f.Code] = f.Fee
	}
	for _, text := range texts {
		name, value, named := strings.Cut(text, "=")
		var code chain.Code
		if !named {
			value = text
		} else {
			for _, c := range chain.Codes() {
				if c.String() == name {
					code = c
				}
			}
			if code == 0 {
				return nil, fault.Errorf(fault.Invalid, "--fee %.80q: there is no message %.40q; docs/reference/chain-messages.md lists them", text, name)
			}
		}
		if value == "none" {
			delete(fees, code)
			continue
		}
		n, err := parseCredits("--fee", value)
		if err != nil {
			return nil, err
		}
		fees[code] = n
	}
	var out []chain.Fee
	for _, c := range append([]chain.Code{0}, chain.Codes()...) {
		if n, there := fees[c]; there {
			out = append(out, chain.Fee{Code: c, Fee: n})
		}
	}
	return out, nil
}

func governValidators() verb {
	var set string
	var force bool
	return verb{
		use: "validators", short: "Show the machines that make blocks, or replace them",
		long: "Show the validators. With --set, replace all of them by a JSON file as\n-o json shows it.",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&set, "set", "", "`file` with the new set")
			cmd.Flags().BoolVar(&force, "force", false, "accept 2 or 3 validators, which tolerate no fault")
		},
		run: func(ctx context.Context, g *grid, _ []string) error {
			if set != "" {
				var v chain.Validators
				if err := readJSON(set, 64<<10, &v); err != nil {
					return err
				}
				return g.govern(ctx, &chain.SetValidators{Validators: v.Validators, Force: force})
			}
			v, err := read[chain.Validators](ctx, g, "the validators", "/v1/validators", chain.ValidatorsKey())
			if err != nil {
				return err
			}
			t := table{columns: []string{"name", "power", "key"}}
			var names []string
			for _, x := range v.Validators {
				t.rows = append(t.rows, []string{x.Name, fmt.Sprint(x.Power), fmt.Sprintf("%x", []byte(x.Key))})
				names = append(names, fmt.Sprintf("%x", []byte(x.Key)))
			}
			return g.a.print(v, t, names...)
		},
	}
}

func governUpgrade() verb {
	var version uint32
	return verb{
		use: "upgrade [HEIGHT RELEASE | cancel]", short: "Show, schedule or cancel the upgrade of the chain", most: 2,
		long: "Name the block at which validators stop for another program, and the hash of the\nrelease that brings it. Without arguments, show what is scheduled.",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().Uint32Var(&version, "version", 1, "`version` of the state's rules that the new program brings")
		},
		run: func(ctx context.Context, g *grid, args []string) (err error) {
			m := &chain.ScheduleUpgrade{Version: version}
			switch {
			case len(args) == 0:
				u, err := read[chain.Upgrade](ctx, g, "a scheduled upgrade", "/v1/upgrade", chain.UpgradeKey())
				if errors.Is(err, fault.NotFound) {
					return g.a.print(chain.Upgrade{}, facts("upgrade", "none is scheduled"))
				}
				if err != nil {
					return err
				}
				return g.a.print(u, facts("block", fmt.Sprint(u.Height), "release", u.Release.String(), "version", fmt.Sprint(u.Version)), fmt.Sprint(u.Height))
			case len(args) == 1 && args[0] == "cancel":
			case len(args) == 2:
				if m.Height, err = strconv.ParseUint(args[0], 10, 62); err != nil || m.Height == 0 {
					return fault.Errorf(fault.Invalid, "height %.40q: the number of a block", args[0])
				}
				if err := m.Release.UnmarshalText([]byte(args[1])); err != nil {
					return fault.Errorf(fault.Of(err), "release: %w", err)
				}
			default:
				return g.usage("HEIGHT and RELEASE are needed, or cancel")
			}
			return g.govern(ctx, m)
		},
	}
}
