package main

import (
	"context"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/workload"
)

func createNetwork() verb {
	var d dealFlags
	var document, final, hash string
	return verb{
		use: "network NODE…", short: "Agree on a private network between nodes", least: 1, most: 254,
		long: "Agree on a private network: one document, the same on all its nodes. It costs a\nsmall flat rate from the start.",
		flags: func(cmd *cobra.Command) {
			d.flags(cmd)
			cmd.Flags().StringVar(&document, "document", "", "`file` with the network document")
			cmd.Flags().StringVar(&final, "final", "", "`file` to write the final document to, when --document is a draft")
			cmd.Flags().StringVar(&hash, "hash", "", "SHA-256 `hash` of the document, when it isn't here")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := d.id(ctx, g)
			if err != nil {
				return err
			}
			m := &chain.CreateNetworkContract{ID: id}
			if m.Members, err = parseNodes(args); err != nil {
				return err
			}
			if m.Expires, err = d.end(g); err != nil {
				return err
			}
			var doc *workload.Document
			if document != "" {
				if doc, err = g.document(document, final, completion{id: id, version: 1, expires: m.Expires, network: true}); err != nil {
					return err
				}
				if !doc.IsNetwork() {
					return fault.Errorf(fault.Invalid, "document %s is for one node; use zos contract create node", document)
				}
				m.Hash, m.Expires = chain.Hash(doc.Hash()), int64(doc.Expiration)
			} else if m.Hash, _, err = described(g, hash, &capacityFlags{}); err != nil {
				return err
			}
			var p chain.Params
			if err := g.get(ctx, "/v1/params", &p); err != nil {
				return err
			}
			if m.Deposit, err = d.money(g, p.NetworkRate, p.NetworkRate, 0); err != nil {
				return err
			}
			if err := g.keep(final, doc); err != nil {
				return err
			}
			return g.act(ctx, m)
		},
	}
}

func createName() verb {
	var d dealFlags
	return verb{
		use: "name NAME", short: "Hold a name for the gateways of the grid", least: 1, most: 1, flags: d.flags,
		example: "  zos contract create name shop --for 365d",
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := d.id(ctx, g)
			if err != nil {
				return err
			}
			m := &chain.CreateNameContract{ID: id, Name: args[0]}
			if m.Expires, err = d.end(g); err != nil {
				return err
			}
			var p chain.Params
			if err := g.get(ctx, "/v1/params", &p); err != nil {
				return err
			}
			if m.Deposit, err = d.money(g, p.NameRate, p.NameRate, 0); err != nil {
				return err
			}
			return g.act(ctx, m)
		},
	}
}

func createRent() verb {
	var d dealFlags
	var maxRate string
	return verb{
		use: "rent NODE", short: "Rent a whole node", least: 1, most: 1,
		long: "Rent a whole node, which must be empty or hold only your contracts. While it\nlives only you create contracts there, and they pay for addresses and usage alone.",
		flags: func(cmd *cobra.Command) {
			d.flags(cmd)
			cmd.Flags().StringVar(&maxRate, "max-rate", "", "highest `price` that you agree to, credits an hour (default the rate now)")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := d.id(ctx, g)
			if err != nil {
				return err
			}
			node, err := identity.ParseParty(args[0])
			if err != nil {
				return err
			}
			m := &chain.CreateRentContract{ID: id, Node: node}
			if m.Expires, err = d.end(g); err != nil {
				return err
			}
			n, f, err := g.priced(ctx, node)
			if err != nil {
				return err
			}
			prices := f.Terms.Prices
			for _, p := range []*uint64{&prices.CPU, &prices.Memory, &prices.SSD, &prices.HDD, &prices.GPU} {
				*p = chain.MulDiv(*p, uint64(f.Terms.Dedicated), chain.Million)
			}
			prices.IPv4, prices.IPv6 = 0, 0
			full := chain.AddCap(prices.Rate(n.Machine.Capacity), n.Machine.Extra)
			if m.MaxRate, err = g.ceiling(maxRate, full); err != nil {
				return err
			}
			if m.Deposit, err = d.money(g, full, full, 0); err != nil {
				return err
			}
			return g.act(ctx, m)
		},
	}
}

func contractUpdate() verb {
	var c capacityFlags
	var document, final, hash, maxRate, deadline, expires string
	return verb{
		use: "update CONTRACT [NODE…]", short: "Agree on the next version of a deployment or network", least: 1, most: 255,
		long: `Agree on the next version. Until the node reports it, the larger of both
capacities is held and the old rate paid; a failure or the deadline brings the
old version back. For a network, name all its nodes.`,
		flags: func(cmd *cobra.Command) {
			c.flags(cmd)
			f := cmd.Flags()
			f.StringVar(&document, "document", "", "`file` with the next document")
			f.StringVar(&final, "final", "", "`file` to write the final document to, when --document is a draft")
			f.StringVar(&hash, "hash", "", "SHA-256 `hash` of the document, when it isn't here")
			f.StringVar(&maxRate, "max-rate", "", "highest `price` that you agree to, credits an hour (default what was agreed, or the new rate if it is higher)")
			f.StringVar(&deadline, "deadline", "10m", "`span` for the node to report, at most 1h")
			f.StringVar(&expires, "expires", "", "`time` at which the contract ends, or a span from now (default as agreed)")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			old, err := g.contract(ctx, args[0])
			if err != nil {
				return err
			}
			m := &chain.UpdateContract{ID: old.ID, Version: old.Highest + 1, Expires: old.Agreed.Expires, MaxRate: old.Agreed.MaxRate}
			network := old.Kind == chain.KindNetwork
			if network != (len(args) > 1) {
				return g.usage("contract %s is a %s contract; nodes are named for a network, all of them", old.ID, old.Kind)
			}
			if m.Members, err = parseNodes(args[1:]); err != nil {
				return err
			}
			if expires != "" {
				if m.Expires, err = when("--expires", expires, g.a.clock.Now()); err != nil {
					return err
				}
			}
			wait, err := parseSpan("--deadline", deadline)
			if err != nil {
				return err
			}
			m.Deadline = uint32(min(wait, 1<<31))
			var doc *workload.Document
			if document != "" {
				if doc, err = g.document(document, final, completion{id: old.ID, node: old.Node, version: m.Version, expires: m.Expires, network: network}); err != nil {
					return err
				}
				m.Hash, m.Expires = chain.Hash(doc.Hash()), int64(doc.Expiration)
				if !network {
					m.Capacity = capacityOf(doc)
				}
			} else if m.Hash, m.Capacity, err = described(g, hash, &c); err != nil {
				return err
			}
			switch {
			case maxRate != "":
				if m.MaxRate, err = parseRate("--max-rate", maxRate); err != nil {
					return err
				}
			case !network:
				n, f, err := g.priced(ctx, old.Node)
				if err != nil {
					return err
				}
				p := f.Terms.Prices
				if n.Load.Rent != 0 {
					p = chain.Prices{IPv4: p.IPv4, IPv6: p.IPv6, Egress: p.Egress}
				}
				if now := p.Rate(m.Capacity); now > m.MaxRate {
					m.MaxRate = now
				}
				g.a.note("the rate of version %d is %s", m.Version, hourly(p.Rate(m.Capacity)))
			}
			if err := g.keep(final, doc); err != nil {
				return err
			}
			return g.act(ctx, m)
		},
	}
}
