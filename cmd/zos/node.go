package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
	"zos.internal/workload"
)

func nodeVerbs() []verb {
	return []verb{nodeRegister(), nodeShow(), nodeList(), nodeReport(), nodePower(), nodeTarget(), nodeDeregister()}
}

// capacityFlags are resources by flag.
type capacityFlags struct {
	cpu, memory, ssd, hdd string
	ipv4, ipv6            uint32
	gpu                   []string
}

func (c *capacityFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.cpu, "cpu", "", "virtual `CPUs`, such as 1.5")
	f.StringVar(&c.memory, "memory", "", "`size` of memory, such as 512MiB")
	f.StringVar(&c.ssd, "ssd", "", "`size` of SSD")
	f.StringVar(&c.hdd, "hdd", "", "`size` of hard disk")
	f.Uint32Var(&c.ipv4, "ipv4", 0, "`number` of public IPv4 addresses")
	f.Uint32Var(&c.ipv6, "ipv6", 0, "`number` of public IPv6 addresses")
	f.StringSliceVar(&c.gpu, "gpu", nil, "`slot/vendor/device` of a GPU; repeat for several")
}

func (c *capacityFlags) capacity() (out chain.Capacity, err error) {
	for _, f := range []struct {
		name, text string
		to         *uint64
		parse      func(string) (uint64, error)
	}{{"--cpu", c.cpu, &out.CPU, workload.ParseCPU}, {"--memory", c.memory, &out.Memory, workload.ParseSize}, {"--ssd", c.ssd, &out.SSD, workload.ParseSize}, {"--hdd", c.hdd, &out.HDD, workload.ParseSize}} {
		if f.text == "" {
			continue
		}
		if *f.to, err = f.parse(f.text); err != nil {
			return out, fault.Errorf(fault.Of(err), "%s: %w", f.name, err)
		}
	}
	out.IPv4, out.IPv6 = uint64(c.ipv4), uint64(c.ipv6)
	if len(c.gpu) > 0 {
		out = out.Add(chain.Capacity{GPU: c.gpu}) // sorted
	}
	return out, nil
}

// capacityText shows resources.
func capacityText(c chain.Capacity) string {
	var out []string
	add := func(n uint64, text string) {
		if n > 0 {
			out = append(out, text)
		}
	}
	add(c.CPU, cpus(c.CPU)+" CPU")
	for _, s := range []struct {
		n    uint64
		name string
	}{{c.Memory, "memory"}, {c.SSD, "SSD"}, {c.HDD, "HDD"}} {
		add(s.n, progress.Size(int64(s.n))+" "+s.name)
	}
	add(c.IPv4, fmt.Sprintf("%d IPv4", c.IPv4))
	add(c.IPv6, fmt.Sprintf("%d IPv6", c.IPv6))
	add(uint64(len(c.GPU)), fmt.Sprintf("%d GPU", len(c.GPU)))
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

func cpus(milli uint64) string { return trimDecimal(fmt.Sprintf("%d.%03d", milli/1000, milli%1000)) }

func nodeRegister() verb {
	var c capacityFlags
	var r relayFlags
	var location string
	var virtual bool
	return verb{
		use: "register TICKET", short: "Make a machine a node of a farm", least: 1, most: 1,
		long: `Make a node of the key that signs, with a ticket of a farm. Zero-OS does this
itself when it starts; the command is for machines that are described by hand.`,
		example: "  zos node register ticket --key node-1 --cpu 8 --memory 32GiB --ssd 1TiB",
		flags: func(cmd *cobra.Command) {
			c.flags(cmd)
			cmd.Flags().UintSliceVar(&r.relays, "relay", nil, "`party` of a relay that the node uses; repeat for several")
			cmd.Flags().StringVar(&location, "location", "", "`text`: where it stands")
			cmd.Flags().BoolVar(&virtual, "virtual", false, "it is a virtual machine")
		},
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
			m := &chain.RegisterNode{Ticket: t.Ticket, Signature: t.Signature, Signer: t.Signer, Key: k.Sign.Public(), KEM: k.KEM.Public().Bytes(),
				Machine: chain.Machine{Location: location, Virtual: virtual}}
			if m.Machine.Capacity, err = c.capacity(); err != nil {
				return err
			}
			if m.Machine.Relays, err = r.parties(); err != nil {
				return err
			}
			return g.join(ctx, m)
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

// readSmall reads a file of a bounded size.
func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read %s: %w", path, err)
	}
	if int64(len(b)) > most {
		return nil, fault.Errorf(fault.Invalid, "read %s: more than %d bytes; this is no such file", path, most)
	}
	return b, nil
}

// readJSON reads a small file strictly.
func readJSON(path string, most int64, into any) error {
	b, err := readSmall(path, most)
	if err != nil {
		return err
	}
	if err := parseJSON(b, into); err != nil {
		return fault.Errorf(fault.Invalid, "read %s: %w", path, err)
	}
	return nil
}

func parseJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}
