package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func contractVerbs() []verb {
	return []verb{
		{use: "create", short: "Agree on a contract", verbs: []verb{createNode(), createNetwork(), createName(), createRent()}},
		contractShow(), contractList(), contractUpdate(), contractBills(), contractRunway(), contractTopUp(),
		simpleContract("pause", "Stop the machines of a contract; storage and addresses stay and are paid for", func(id identity.ContractID) chain.Message { return &chain.Pause{ID: id} }),
		simpleContract("resume", "End a pause, or go on when there are funds again", func(id identity.ContractID) chain.Message { return &chain.Resume{ID: id} }),
		simpleContract("cancel", "End a contract: what was earned is paid, the rest comes back at once", func(id identity.ContractID) chain.Message { return &chain.Cancel{ID: id} }),
		contractReclaim(), contractDispute(),
	}
}

func simpleContract(name, short string, message func(identity.ContractID) chain.Message) verb {
	return verb{
		use: name + " CONTRACT", short: short, least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseContractID(args[0])
			if err != nil {
				return err
			}
			return g.act(ctx, message(id))
		},
	}
}

// contract reads a contract.
func (g *grid) contract(ctx context.Context, text string) (*chain.Contract, error) {
	id, err := identity.ParseContractID(text)
	if err != nil {
		return nil, err
	}
	return read[chain.Contract](ctx, g, "contract "+id.String(), contractPath(id, ""), chain.ContractKey(id))
}

func contractPath(id identity.ContractID, rest string) string {
	return "/v1/contracts/" + strings.Replace(id.String(), "/", "-", 1) + rest
}

// stateText is a contract's state with its reason.
func stateText(c *chain.Contract) string {
	if c.Reason == "" {
		return c.State.String()
	}
	return c.State.String() + " (" + string(c.Reason) + ")"
}

// fullRate is what a contract costs while it runs.
func fullRate(c *chain.Contract) uint64 {
	return chain.AddCap(c.Prices.Rate(c.Agreed.Capacity), c.Flat)
}

func contractShow() verb {
	return verb{
		use: "show CONTRACT", short: "Show a contract", least: 1, most: 1,
		example: "  zos contract show 17/3 --prove",
		run: func(ctx context.Context, g *grid, args []string) error {
			c, err := g.contract(ctx, args[0])
			if err != nil {
				return err
			}
			pairs := []string{"contract", c.ID.String(), "kind", c.Kind.String(), "owner", fmt.Sprint(c.Owner), "state", stateText(c)}
			add := func(set bool, name, text string) {
				if set {
					pairs = append(pairs, name, text)
				}
			}
			add(c.Node != 0, "node", fmt.Sprint(c.Node))
			add(c.Name != "", "name", c.Name)
			if c.Kind == chain.KindNode || c.Kind == chain.KindNetwork {
				add(true, "version", fmt.Sprint(c.Agreed.Version))
				add(true, "document", c.Agreed.Hash.String())
			}
			add(len(c.Agreed.Members) > 0, "members", strings.Trim(fmt.Sprint(c.Agreed.Members), "[]"))
			add(c.Kind == chain.KindNode || c.Kind == chain.KindRent, "capacity", capacityText(c.Agreed.Capacity))
			if c.Next != nil {
				add(true, "next version", fmt.Sprintf("%d, %s, document %s", c.Next.Version, capacityText(c.Next.Capacity), c.Next.Hash))
			}
			add(len(c.IPs) > 0, "addresses", strings.Join(c.IPs, " "))
			add(true, "rate", hourly(fullRate(c)))
			add(c.Agreed.MaxRate > 0, "rate agreed to", hourly(c.Agreed.MaxRate))
			add(true, "escrow", credits(c.Money.Escrow))
			add(true, "grace", credits(c.Money.Grace))
			add(c.Money.Keep > 0, "for kept data", credits(c.Money.Keep))
			add(true, "paid", credits(c.Money.Paid))
			for _, s := range c.Split {
				add(true, "share", fmt.Sprintf("%s to party %d", percent(uint64(s.PPM)), s.Party))
			}
			add(true, "created", clockTime(c.Created))
			add(c.Deadline != 0, "report due", clockTime(c.Deadline))
			add(c.Agreed.Expires != 0, "expires", clockTime(c.Agreed.Expires))
			add(c.Reclaim != 0, "reclaimed at", clockTime(c.Reclaim))
			add(c.Closed != 0, "closed", clockTime(c.Closed))
			return g.a.print(c, facts(pairs...), c.ID.String())
		},
	}
}

func contractList() verb {
	var owner, node, state string
	return verb{
		use: "list", short: "List contracts of a party, or on a node",
		long: "List contracts of a party (yours when nothing is said, or those of --group), or\non a node.",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&owner, "owner", "", "those of this `party`")
			cmd.Flags().StringVar(&node, "node", "", "those on this `node`")
			cmd.Flags().StringVar(&state, "state", "", "only those that are created, active, suspended, closed, or live")
		},
		run: func(ctx context.Context, g *grid, _ []string) (err error) {
			var path string
			switch {
			case node != "":
				id, err := identity.ParseParty(node)
				if err != nil {
					return err
				}
				path = fmt.Sprintf("/v1/contracts?node=%d", id)
			default:
				id := identity.Party(g.o.group)
				if id == 0 {
					if id, err = g.partyArg(ctx, owner); err != nil {
						return err
					}
				}
				path = fmt.Sprintf("/v1/contracts?owner=%d", id)
			}
			switch state {
			case "", "created", "active", "suspended", "closed", "live":
			default:
				return g.usage("--state %q: created, active, suspended, closed or live", state)
			}
			if _, err := g.id(ctx); err != nil {
				return err
			}
			all, err := client.All[chain.Contract](ctx, g.c, path+"&state="+state)
			if err != nil {
				return err
			}
			if all, err = readAll(ctx, g, "a contract", all, func(c chain.Contract) []byte { return chain.ContractKey(c.ID) }); err != nil {
				return err
			}
			t := table{columns: []string{"contract", "kind", "state", "node", "version", "rate", "escrow", "paid", "+capacity", "+created"}}
			var names []string
			for _, c := range all {
				on := "-"
				if c.Node != 0 {
					on = fmt.Sprint(c.Node)
				}
				t.rows = append(t.rows, []string{c.ID.String(), c.Kind.String(), stateText(&c), on, fmt.Sprint(c.Agreed.Version), hourly(fullRate(&c)),
					credits(c.Money.Escrow), credits(c.Money.Paid), capacityText(c.Agreed.Capacity), clockTime(c.Created)})
				names = append(names, c.ID.String())
			}
			return g.a.print(all, t, names...)
		},
	}
}

func contractTopUp() verb {
	return verb{
		use: "top-up CONTRACT AMOUNT", short: "Add credits to a contract; anyone may", least: 2, most: 2,
		example: "  zos contract top-up 17/3 10",
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseContractID(args[0])
			if err != nil {
				return err
			}
			n, err := parseCredits("amount", args[1])
			if err != nil {
				return err
			}
			return g.act(ctx, &chain.TopUp{ID: id, Amount: n})
		},
	}
}

func contractReclaim() verb {
	var reason, at string
	return verb{
		use: "reclaim CONTRACT", short: "As a farmer: give notice that a contract will end", least: 1, most: 1,
		long: "Give the farm's notice. --at is the end, after the days that the farm promises;\n--at never takes a notice back.",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&reason, "reason", "", "`text` for the owner")
			cmd.Flags().StringVar(&at, "at", "", "`time` of the end, a span from now, or never")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseContractID(args[0])
			if err != nil {
				return err
			}
			if reason == "" || at == "" {
				return g.usage("--reason and --at are needed")
			}
			m := &chain.Reclaim{ID: id, Reason: reason}
			if at != "never" {
				if m.At, err = when("--at", at, g.a.clock.Now()); err != nil {
					return err
				}
			}
			return g.act(ctx, m)
		},
	}
}

func contractDispute() verb {
	return verb{
		use: "dispute CONTRACT ITEM [concede|pay]", short: "Stop the payment of a usage item, or decide about it", least: 2, most: 3,
		long: "Dispute an item of usage as the owner; its number is in the bills. The farm may\nconcede, the arbiter decides either way.",
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseContractID(args[0])
			if err != nil {
				return err
			}
			m := &chain.Dispute{ID: id}
			if m.Item, err = strconv.ParseUint(args[1], 10, 64); err != nil {
				return fault.Errorf(fault.Invalid, "item %.40q: the number of a usage item", args[1])
			}
			switch argument(args, 2) {
			case "":
			case "concede":
				m.Verdict = chain.DisputeConcede
			case "pay":
				m.Verdict = chain.DisputePay
			default:
				return g.usage("verdict %q: concede or pay", args[2])
			}
			return g.act(ctx, m)
		},
	}
}
