package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/workload"
)

func nodeVerbs() []verb {
	return []verb{nodeRegister(), nodeShow(), nodeList(), nodeReport(), nodeUsage(), nodeUpdate(), nodePower(), nodeTarget(), nodeDeregister()}
}

func nodeRegister() verb {
	var m machineFlags
	return verb{
		use: "register TICKET", short: "Make a machine a node of a farm", least: 1, most: 1,
		long: `Make a node of the key that signs, with a ticket of a farm. Zero-OS does this
itself when it starts; the command is for machines that are described by hand.`,
		example: "  zos node register ticket --key node-1 --cpu 8 --memory 32GiB --ssd 1TiB",
		flags:   m.flags,
		run: func(ctx context.Context, g *grid, args []string) error {
			t, err := readTicket(args[0])
			if err != nil {
				return err
			}
			k, err := g.key()
			if err != nil {
				return err
			}
			if k.KEM == nil {
				return fault.Errorf(fault.Invalid, "the key has no sealing key, which a node needs; make one with zos key new")
			}
			join := &chain.RegisterNode{Ticket: t.Ticket, Signature: t.Signature, Signer: t.Signer, Key: k.Sign.Public(), KEM: k.KEM.Public().Bytes()}
			if err := m.apply(g.cmd, &join.Machine); err != nil {
				return err
			}
			return g.join(ctx, join)
		},
	}
}

func nodeUpdate() verb {
	var m machineFlags
	return verb{
		use: "update", short: "As a node: change what you say of yourself", flags: m.flags,
		long: "Change what is given; the rest stays. Resources are given all together.",
		run: func(ctx context.Context, g *grid, _ []string) error {
			me, err := g.me(ctx, false)
			if err != nil {
				return err
			}
			n, err := g.readNode(ctx, me.party.ID)
			if err != nil {
				return err
			}
			u := &chain.UpdateNode{Machine: n.Machine}
			if err := m.apply(g.cmd, &u.Machine); err != nil {
				return err
			}
			return g.own(ctx, u)
		},
	}
}

func nodeUsage() verb {
	var egress, root string
	return verb{
		use: "usage CONTRACT", short: "As a node: report what a deployment used since the last report", least: 1, most: 1,
		long: "Report counters from the last report, or the beginning, until now. The amount is\nheld for a day, in which the owner may dispute it, and then paid.",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&egress, "egress", "0", "`size` that was sent to the public network")
			cmd.Flags().StringVar(&root, "root", "", "Merkle root `hash` of the counters behind the sum")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			c, err := g.contract(ctx, args[0])
			if err != nil {
				return err
			}
			s, err := g.c.Status(ctx)
			if err != nil {
				return err
			}
			m := &chain.ReportUsage{ID: c.ID, From: max(c.Created, c.Usage), To: s.Time}
			if m.Egress, err = workload.ParseSize(egress); err != nil {
				return fault.Errorf(fault.Of(err), "--egress: %w", err)
			}
			if root != "" {
				if err := m.Root.UnmarshalText([]byte(root)); err != nil {
					return fault.Errorf(fault.Of(err), "--root: %w", err)
				}
			}
			return g.own(ctx, m)
		},
	}
}

func nodeShow() verb {
	return verb{
		use: "show NODE", short: "Show a node and what is free on it", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := g.partyArg(ctx, args[0])
			if err != nil {
				return err
			}
			n, err := g.readNode(ctx, id)
			if err != nil {
				return err
			}
			pairs := []string{"node", fmt.Sprint(n.ID), "farm", fmt.Sprint(n.Farm), "power", n.Power.String(), "online", online(n),
				"capacity", capacityText(n.Machine.Capacity), "reserved", capacityText(n.Load.Reserved), "contracts", fmt.Sprint(n.Load.Contracts)}
			if n.Load.Rent != 0 {
				pairs = append(pairs, "rented by", fmt.Sprintf("party %d (%s)", n.Load.Rent.Owner(), n.Load.Rent))
			}
			if n.Machine.Location != "" {
				pairs = append(pairs, "location", n.Machine.Location)
			}
			for _, c := range n.Certified {
				pairs = append(pairs, "attested", fmt.Sprintf("%s by party %d until %s", c.Claim, c.Auditor, clockTime(c.Until)))
			}
			return g.a.print(n, facts(pairs...), fmt.Sprint(n.ID))
		},
	}
}

func online(n *chain.NodeAnswer) string {
	if n.Load.OfflineAt != 0 {
		return "no"
	}
	return "yes"
}

func nodeList() verb {
	var c capacityFlags
	var farm uint32
	var only bool
	return verb{
		use: "list", short: "List nodes, those with room for what is asked",
		flags: func(cmd *cobra.Command) {
			c.flags(cmd)
			cmd.Flags().Uint32Var(&farm, "farm", 0, "only those of this `farm`")
			cmd.Flags().BoolVar(&only, "online", false, "only those that are online")
		},
		run: func(ctx context.Context, g *grid, _ []string) error {
			need, err := c.capacity()
			if err != nil {
				return err
			}
			path := fmt.Sprintf("/v1/nodes?cru=%d&mru=%d&sru=%d&hru=%d", need.CPU, need.Memory, need.SSD, need.HDD)
			if farm != 0 {
				path += fmt.Sprintf("&farm=%d", farm)
			}
			if only {
				path += "&online=1"
			}
			if _, err := g.id(ctx); err != nil {
				return err
			}
			all, err := client.All[chain.NodeAnswer](ctx, g.c, path)
			if err != nil {
				return err
			}
			if g.o.prove {
				for i := range all {
					n, err := g.readNode(ctx, all[i].ID)
					if err != nil {
						return err
					}
					all[i] = *n
				}
			}
			t := table{columns: []string{"node", "farm", "power", "online", "capacity", "reserved", "contracts", "+location"}}
			var names []string
			for _, n := range all {
				t.rows = append(t.rows, []string{fmt.Sprint(n.ID), fmt.Sprint(n.Farm), n.Power.String(), online(&n), capacityText(n.Machine.Capacity),
					capacityText(n.Load.Reserved), fmt.Sprint(n.Load.Contracts), n.Machine.Location})
				names = append(names, fmt.Sprint(n.ID))
			}
			return g.a.print(all, t, names...)
		},
	}
}

func nodeReport() verb {
	var version uint32
	var receipt string
	return verb{
		use: "report CONTRACT active|failed|stopped", short: "As a node: report what became of a deployment", least: 2, most: 2,
		long: "Report, with the node's key, that every workload of a version runs (active: now it\nis billed), that it could not be run (failed), or that it doesn't run any more.",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().Uint32Var(&version, "version", 0, "`version` of the deployment (default the one that waits, else the agreed one)")
			cmd.Flags().StringVar(&receipt, "receipt", "", "`hash` of the receipt that the owner got")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			m := &chain.ReportState{Version: version}
			switch args[1] {
			case "active":
				m.Outcome = chain.OutcomeActive
			case "failed":
				m.Outcome = chain.OutcomeFailed
			case "stopped":
				m.Outcome = chain.OutcomeStopped
			default:
				return g.usage("outcome %q: active, failed or stopped", args[1])
			}
			if receipt != "" {
				if err := m.Receipt.UnmarshalText([]byte(receipt)); err != nil {
					return err
				}
			}
			c, err := g.contract(ctx, args[0])
			if err != nil {
				return err
			}
			m.ID = c.ID
			switch {
			case m.Version != 0:
			case c.Next != nil:
				m.Version = c.Next.Version
			default:
				m.Version = c.Agreed.Version
			}
			return g.own(ctx, m)
		},
	}
}

func nodePower() verb {
	var reason string
	return verb{
		use: "power up|standby|down", short: "As a node: report your own power", least: 1, most: 1,
		flags: func(cmd *cobra.Command) { cmd.Flags().StringVar(&reason, "reason", "", "`text`: why") },
		run: func(ctx context.Context, g *grid, args []string) error {
			m := &chain.ReportPower{Reason: reason}
			if err := m.State.UnmarshalText([]byte(args[0])); err != nil {
				return &usageError{g.cmd, err}
			}
			return g.own(ctx, m)
		},
	}
}

func nodeTarget() verb {
	return verb{
		use: "wake NODE", short: "As a farmer: wake a node that sleeps, or let it with --sleep", least: 1, most: 1,
		flags: func(cmd *cobra.Command) { cmd.Flags().Bool("sleep", false, "let it sleep; it must have no contracts") },
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseParty(args[0])
			if err != nil {
				return err
			}
			sleep, err := g.cmd.Flags().GetBool("sleep")
			if err != nil {
				return err
			}
			return g.act(ctx, &chain.SetPowerTarget{Node: id, Up: !sleep})
		},
	}
}

func nodeDeregister() verb {
	return verb{
		use: "deregister NODE", short: "As a farmer: end an empty node", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseParty(args[0])
			if err != nil {
				return err
			}
			return g.act(ctx, &chain.DeregisterNode{Node: id})
		},
	}
}
