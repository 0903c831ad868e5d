package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func groupVerbs() []verb {
	return []verb{groupCreate(), groupShow(), groupUpdate(), groupPropose(), groupInspect(), groupApprove(), groupExecute()}
}

// membersFlags are members and policies of a group.
type membersFlags struct {
	name      string
	members   []string
	threshold uint32
	expiry    string
	policies  []string
}

func (m *membersFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&m.name, "name", "", "`name` of the group, for people")
	f.StringSliceVar(&m.members, "member", nil, "`PARTY[:WEIGHT][:operator]`; repeat for each; the weight is 1 when it isn't said")
	f.Uint32Var(&m.threshold, "threshold", 0, "`weight` that has to approve whatever has no --policy")
	f.StringVar(&m.expiry, "expiry", "7d", "`span` after which a proposal ends, where a policy doesn't say")
	f.StringArrayVar(&m.policies, "policy", nil, "`CLASS=WEIGHT[,must=PARTY+…][,delay=SPAN][,expiry=SPAN][,limit=CREDITS]`; CLASS=never forbids; repeat")
}

func (m *membersFlags) parse() (members []chain.Member, policies []chain.Policy, err error) {
	for _, text := range m.members {
		parts := strings.Split(text, ":")
		p, err := identity.ParseParty(parts[0])
		if err != nil {
			return nil, nil, fault.Errorf(fault.Of(err), "--member %.60q: %w", text, err)
		}
		member := chain.Member{Party: p, Weight: 1}
		for _, part := range parts[1:] {
			if part == "operator" {
				member.Operator = true
				continue
			}
			w, err := strconv.ParseUint(part, 10, 32)
			if err != nil {
				return nil, nil, fault.Errorf(fault.Invalid, "--member %.60q: write PARTY, PARTY:WEIGHT or PARTY:WEIGHT:operator", text)
			}
			member.Weight = uint32(w)
		}
		members = append(members, member)
	}
	slices.SortFunc(members, func(a, b chain.Member) int { return cmp.Compare(a.Party, b.Party) })
	expiry, err := parseSpan("--expiry", m.expiry)
	if err != nil {
		return nil, nil, err
	}
	by := make(map[chain.Class]*chain.Policy)
	for _, text := range m.policies {
		class, rest, _ := strings.Cut(text, "=")
		if !slices.Contains(chain.Classes(), chain.Class(class)) {
			return nil, nil, fault.Errorf(fault.Invalid, "--policy %.60q: the class is one of %v", text, chain.Classes())
		}
		if rest == "never" {
			by[chain.Class(class)] = nil
			continue
		}
		p, err := parsePolicy(chain.Class(class), rest, uint32(expiry))
		if err != nil {
			return nil, nil, fault.Errorf(fault.Of(err), "--policy %.100q: %w", text, err)
		}
		by[p.Class] = p
	}
	for _, c := range chain.Classes() {
		p, said := by[c]
		switch {
		case said && p != nil:
			policies = append(policies, *p)
		case !said && m.threshold > 0:
			policies = append(policies, chain.Policy{Class: c, Threshold: m.threshold, Expiry: uint32(expiry)})
		}
	}
	return members, policies, nil
}

func parsePolicy(class chain.Class, text string, expiry uint32) (*chain.Policy, error) {
	p := &chain.Policy{Class: class, Expiry: expiry}
	for i, part := range strings.Split(text, ",") {
		key, value, pair := strings.Cut(part, "=")
		var err error
		var n int64
		switch {
		case i == 0 && !pair:
			var w uint64
			w, err = strconv.ParseUint(part, 10, 32)
			p.Threshold = uint32(w)
		case key == "must" && pair:
			for member := range strings.SplitSeq(value, "+") {
				var id identity.Party
				if id, err = identity.ParseParty(member); err != nil {
					break
				}
				p.Must = append(p.Must, id)
			}
			slices.Sort(p.Must)
		case key == "delay" && pair:
			n, err = parseSpan("delay", value)
			p.MinDelay = uint32(n)
		case key == "expiry" && pair:
			n, err = parseSpan("expiry", value)
			p.Expiry = uint32(n)
		case key == "limit" && pair:
			p.Limit, err = parseCredits("limit", value)
		default:
			err = fault.Errorf(fault.Invalid, "%q: a weight first, then must=, delay=, expiry= or limit=", part)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func groupCreate() verb {
	var m membersFlags
	return verb{
		use: "create", short: "Make a group", flags: m.flags,
		long: `Make a group of parties that decides by weight, in classes of actions: cancel,
deploy, farm, govern, members, release, spend, support, update. A class without a
policy is one in which the group does nothing.`,
		example: "  zos group create --name shop --member 17 --member 18 --member 23:2 --threshold 2\n  zos group create --member 17 --member 18 --threshold 2 --policy spend=2,must=17,limit=100 --policy govern=never",
		run: func(ctx context.Context, g *grid, _ []string) error {
			members, policies, err := m.parse()
			if err != nil {
				return err
			}
			return g.own(ctx, &chain.CreateGroup{Name: m.name, Members: members, Policies: policies})
		},
	}
}

// groupOf reads a party that must be a group.
func (g *grid) groupOf(ctx context.Context, text string) (*chain.PartyAnswer, error) {
	id, err := identity.ParseParty(text)
	if err != nil {
		return nil, err
	}
	p, err := g.readParty(ctx, id)
	if err == nil && p.Group == nil {
		err = fault.Errorf(fault.NotFound, "party %d is a twin, not a group", id)
	}
	return p, err
}

func groupShow() verb {
	return verb{
		use: "show GROUP", short: "Show members and policies of a group", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			p, err := g.groupOf(ctx, args[0])
			if err != nil {
				return err
			}
			return g.printGroup(p)
		},
	}
}

func (g *grid) printGroup(p *chain.PartyAnswer) error {
	pairs := []string{"group", fmt.Sprint(p.ID), "name", p.Group.Name, "address", p.Address.String(), "balance", credits(p.Account.Balance),
		"last contract", fmt.Sprintf("%d/%d", p.ID, p.Account.Serial)}
	for _, m := range p.Group.Members {
		text := fmt.Sprintf("%d, weight %d", m.Party, m.Weight)
		if m.Operator {
			text += ", operator"
		}
		pairs = append(pairs, "member", text)
	}
	for _, q := range p.Group.Policies {
		text := fmt.Sprintf("weight %d", q.Threshold)
		if len(q.Must) > 0 {
			text += ", with " + strings.Trim(fmt.Sprint(q.Must), "[]")
		}
		if q.MinDelay > 0 {
			text += ", not before " + span(int64(q.MinDelay))
		}
		text += ", within " + span(int64(q.Expiry))
		if q.Limit > 0 {
			text += ", at most " + credits(q.Limit) + " a day"
		}
		pairs = append(pairs, string(q.Class), text)
	}
	return g.a.print(p, facts(pairs...), fmt.Sprint(p.ID))
}

func groupUpdate() verb {
	var m membersFlags
	return verb{
		use: "update GROUP", short: "Propose other members or policies", least: 1, most: 1, flags: m.flags,
		long: "Propose to the group itself to change its name, its members (all of them are\nnamed), or its policies (all of them are given). What isn't given stays.",
		run: func(ctx context.Context, g *grid, args []string) error {
			p, err := g.groupOf(ctx, args[0])
			if err != nil {
				return err
			}
			members, policies, err := m.parse()
			if err != nil {
				return err
			}
			u := &chain.UpdateGroup{Name: p.Group.Name, Members: p.Group.Members, Policies: p.Group.Policies}
			if g.cmd.Flags().Changed("name") {
				u.Name = m.name
			}
			if len(members) > 0 {
				u.Members = members
			}
			if len(policies) > 0 {
				u.Policies = policies
			}
			g.o.group = uint32(p.ID)
			return g.act(ctx, u)
		},
	}
}

func groupPropose() verb {
	return verb{
		use: "propose GROUP MESSAGES", short: "Put messages in a file before a group", least: 2, most: 2,
		long: `Propose messages from a JSON file: a list of objects, each with the "type" of the
message beside its fields, as docs/reference/chain-messages.md lists them and as
zos proposal show -o json prints them. Other commands propose with --group.`,
		example: `  echo '[{"type":"Send","to":17,"amount":1000000000}]' > pay.json
  zos group propose 9 pay.json --note "the invoice of May"`,
		run: func(ctx context.Context, g *grid, args []string) error {
			p, err := g.groupOf(ctx, args[0])
			if err != nil {
				return err
			}
			var packed []chain.Packed
			if err := readJSON(args[1], 256<<10, &packed); err != nil {
				return err
			}
			ms, err := chain.Unpack(packed)
			if err != nil {
				return fault.Errorf(fault.Of(err), "read %s: %w", args[1], err)
			}
			g.o.group = uint32(p.ID)
			return g.act(ctx, ms...)
		},
	}
}
