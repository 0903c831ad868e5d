package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

func farmVerbs() []verb {
	return []verb{farmCreate(), farmShow(), farmList(), farmUpdate(), farmTicket(),
		{use: "ip", short: "Public addresses of a farm", verbs: []verb{farmIPAdd(), farmIPRemove()}}}
}

// termFlags are what a farm asks for. What isn't given stays as it is.
type termFlags struct {
	prices    map[string]*string
	dedicated float64
	share     float64
	notice    uint32
}

// priceNames are the prices in the order in which they are shown.
func priceNames() []string {
	return []string{"cpu", "memory", "ssd", "hdd", "ipv4", "ipv6", "gpu", "egress"}
}

func (t *termFlags) flags(cmd *cobra.Command) {
	units := map[string]string{"cpu": "of a virtual CPU", "memory": "of a GiB of memory", "ssd": "of a GiB of SSD", "hdd": "of a GiB of hard disk",
		"ipv4": "of a public IPv4 address", "ipv6": "of a public IPv6 address", "gpu": "of a GPU"}
	t.prices = make(map[string]*string)
	for _, n := range priceNames() {
		text := "`price` " + units[n] + ", credits an hour (or 0.1/day, 3/month)"
		if n == "egress" {
			text = "`credits` for a GiB sent to the public network"
		}
		t.prices[n] = cmd.Flags().String("price-"+n, "", text)
	}
	cmd.Flags().Float64Var(&t.dedicated, "dedicated", 0, "rent out whole nodes, at this `factor` of the sum of their parts, such as 0.5")
	cmd.Flags().Float64Var(&t.share, "share", 0, "the most `percent` of its earnings that a contract may give to others (--split)")
	cmd.Flags().Uint32Var(&t.notice, "notice-days", 0, "`days` of notice before a reclaim (least 7, for a whole node 30)")
}

func priceOf(p *chain.Prices, name string) *uint64 {
	return map[string]*uint64{"cpu": &p.CPU, "memory": &p.Memory, "ssd": &p.SSD, "hdd": &p.HDD, "ipv4": &p.IPv4, "ipv6": &p.IPv6, "gpu": &p.GPU, "egress": &p.Egress}[name]
}

func (t *termFlags) apply(cmd *cobra.Command, terms *chain.Terms) (err error) {
	for _, n := range priceNames() {
		text := *t.prices[n]
		if text == "" {
			continue
		}
		to := priceOf(&terms.Prices, n)
		if n == "egress" {
			*to, err = parsePicoCredits("--price-egress", text)
		} else {
			*to, err = parseRate("--price-"+n, text)
		}
		if err != nil {
			return err
		}
	}
	if cmd.Flags().Changed("dedicated") {
		if !(t.dedicated >= 0 && t.dedicated <= 10) {
			return fault.Errorf(fault.Invalid, "--dedicated %v: a factor from 0 (no whole nodes) to 10", t.dedicated)
		}
		terms.Dedicated = uint32(t.dedicated*chain.Million + 0.5)
	}
	if cmd.Flags().Changed("share") {
		if !(t.share >= 0 && t.share <= 100) {
			return fault.Errorf(fault.Invalid, "--share %v: a percentage from 0 to 100", t.share)
		}
		terms.Share = uint32(t.share*chain.Million/100 + 0.5)
	}
	if cmd.Flags().Changed("notice-days") {
		terms.NoticeDays = t.notice
	}
	return nil
}

func farmCreate() verb {
	var t termFlags
	return verb{
		use: "create NAME", short: "Make a farm", least: 1, most: 1, flags: t.flags,
		long:    "Make a farm. Prices that aren't given are 0: what nobody asks money for is free.",
		example: "  zos farm create my-farm --price-cpu 0.01 --price-memory 0.005 --price-ssd 0.0001",
		run: func(ctx context.Context, g *grid, args []string) error {
			m := &chain.CreateFarm{Name: args[0]}
			if err := t.apply(g.cmd, &m.Terms); err != nil {
				return err
			}
			return g.act(ctx, m)
		},
	}
}

func farmUpdate() verb {
	var t termFlags
	return verb{
		use: "update FARM", short: "Change prices and terms", least: 1, most: 1, flags: t.flags,
		long: "Change what is given; the rest stays. Running contracts keep their prices until\ntheir owner updates them or tops them up.",
		run: func(ctx context.Context, g *grid, args []string) error {
			f, err := g.farm(ctx, args[0])
			if err != nil {
				return err
			}
			m := &chain.UpdateFarm{Farm: f.ID, Terms: f.Terms}
			if err := t.apply(g.cmd, &m.Terms); err != nil {
				return err
			}
			return g.act(ctx, m)
		},
	}
}

// farm reads a farm by its number or name.
func (g *grid) farm(ctx context.Context, text string) (*chain.Farm, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		var f chain.Farm
		if err := g.get(ctx, "/v1/farms/"+url.PathEscape(text), &f); err != nil {
			return nil, err
		}
		id = uint64(f.ID)
	}
	f, err := read[chain.Farm](ctx, g, "farm "+text, fmt.Sprintf("/v1/farms/%d", id), chain.FarmKey(uint32(id)))
	if err == nil && f.Name != text && strconv.FormatUint(id, 10) != text {
		err = fault.Errorf(fault.Denied, "chain server %s lies: farm %d is %s, not %s", g.c.Server(), id, f.Name, text)
	}
	return f, err
}

func farmShow() verb {
	return verb{
		use: "show FARM", short: "Show a farm by its number or name", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			f, err := g.farm(ctx, args[0])
			if err != nil {
				return err
			}
			pairs := []string{"farm", fmt.Sprint(f.ID), "name", f.Name, "owner", fmt.Sprint(f.Owner), "nodes", fmt.Sprint(f.Nodes)}
			for _, n := range priceNames() {
				switch p := *priceOf(&f.Terms.Prices, n); {
				case p == 0:
				case n == "egress":
					pairs = append(pairs, "price "+n, credits(p/chain.Pico)+" a GiB")
				default:
					pairs = append(pairs, "price "+n, hourly(p))
				}
			}
			if f.Terms.Dedicated > 0 {
				pairs = append(pairs, "whole nodes", percent(uint64(f.Terms.Dedicated))+" of the sum of their parts")
			}
			if f.Terms.Share > 0 {
				pairs = append(pairs, "gives to others", "at most "+percent(uint64(f.Terms.Share)))
			}
			for _, ip := range f.IPs {
				text := ip.IP.Address + " via " + ip.IP.Gateway
				if ip.Contract != 0 {
					text += ", held by " + ip.Contract.String()
				}
				pairs = append(pairs, "ip", text)
			}
			return g.a.print(f, facts(pairs...), fmt.Sprint(f.ID))
		},
	}
}

func farmList() verb {
	var owner string
	return verb{
		use: "list", short: "List farms",
		flags: func(cmd *cobra.Command) { cmd.Flags().StringVar(&owner, "owner", "", "only those of this `party`") },
		run: func(ctx context.Context, g *grid, _ []string) error {
			path := "/v1/farms"
			if owner != "" {
				id, err := g.partyArg(ctx, owner)
				if err != nil {
					return err
				}
				path += fmt.Sprintf("?owner=%d", id)
			}
			if _, err := g.id(ctx); err != nil {
				return err
			}
			all, err := client.All[chain.Farm](ctx, g.c, path)
			if err != nil {
				return err
			}
			if all, err = readAll(ctx, g, "a farm", all, func(f chain.Farm) []byte { return chain.FarmKey(f.ID) }); err != nil {
				return err
			}
			t := table{columns: []string{"farm", "name", "owner", "nodes", "cpu", "memory", "ssd"}}
			var names []string
			for _, f := range all {
				p := f.Terms.Prices
				t.rows = append(t.rows, []string{fmt.Sprint(f.ID), f.Name, fmt.Sprint(f.Owner), fmt.Sprint(f.Nodes), hourly(p.CPU), hourly(p.Memory), hourly(p.SSD)})
				names = append(names, fmt.Sprint(f.ID))
			}
			return g.a.print(all, t, names...)
		},
	}
}

func farmIPAdd() verb {
	return verb{
		use: "add FARM ADDRESS GATEWAY", short: "Add a public address", least: 3, most: 3,
		example: "  zos farm ip add 1 185.69.166.10/24 185.69.166.1",
		run: func(ctx context.Context, g *grid, args []string) error {
			f, err := g.farm(ctx, args[0])
			if err != nil {
				return err
			}
			return g.act(ctx, &chain.AddIPs{Farm: f.ID, IPs: []chain.IP{{Address: args[1], Gateway: args[2]}}})
		},
	}
}

func farmIPRemove() verb {
	return verb{
		use: "remove FARM ADDRESS…", short: "Take public addresses away", least: 2, most: -1,
		long: "Take addresses away. One that a contract holds stays.",
		run: func(ctx context.Context, g *grid, args []string) error {
			f, err := g.farm(ctx, args[0])
			if err != nil {
				return err
			}
			return g.act(ctx, &chain.RemoveIPs{Farm: f.ID, Addresses: args[1:]})
		},
	}
}

// ticketFile is a farm ticket as it lies in a boot medium.
type ticketFile struct {
	Ticket    chain.Bytes        `json:"ticket"`           // the bytes of a chain.Ticket
	Signer    identity.Party     `json:"signer,omitempty"` // 0: the farm's owner
	Signature identity.Signature `json:"signature"`
	About     chain.Ticket       `json:"about"` // the same for people
}

func farmTicket() verb {
	var uses uint32
	var valid string
	return verb{
		use: "ticket FARM FILE", short: "Sign a ticket with which machines join a farm", least: 2, most: 2,
		long: `Sign a ticket for the boot medium of machines: who has it can make that many nodes
of the farm. The key must be of the farm's owner, or of an operator when a group
owns it. It is only known to the chain once it is used.`,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().Uint32Var(&uses, "uses", 1, "`number` of machines that may join")
			cmd.Flags().StringVar(&valid, "until", "7d", "`time` at which it ends, or a span from now")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			until, err := when("--until", valid, g.a.clock.Now())
			if err != nil {
				return err
			}
			f, err := g.farm(ctx, args[0])
			if err != nil {
				return err
			}
			me, err := g.me(ctx, false)
			if err != nil {
				return err
			}
			k, err := g.key()
			if err != nil {
				return err
			}
			t := ticketFile{About: chain.Ticket{Chain: g.status.Chain, Farm: f.ID, Serial: rand.Uint32(), Uses: uses, NotAfter: until}}
			if me.party.ID != f.Owner {
				t.Signer = me.party.ID
			}
			t.Ticket = canon.MustMarshal(t.About)
			t.Signature = k.Sign.SignAs(me.index, identity.TagTicket, t.Ticket)
			b, err := json.MarshalIndent(t, "", "  ")
			if err != nil {
				return err
			}
			if err := writeNew(args[1], append(b, '\n')); err != nil {
				return err
			}
			return g.a.print(t, facts("file", args[1], "farm", fmt.Sprint(f.ID), "uses", fmt.Sprint(uses), "ends", clockTime(until)), args[1])
		},
	}
}

// readTicket reads a ticket file.
func readTicket(path string) (*ticketFile, error) {
	b, err := readSmall(path, 4<<10)
	if err != nil {
		return nil, err
	}
	t, err := parseTicket(b)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "read %s: %w", path, err)
	}
	return t, nil
}

func parseTicket(b []byte) (*ticketFile, error) {
	t := &ticketFile{}
	if err := parseJSON(b, t); err != nil {
		return nil, err
	}
	var inner chain.Ticket
	if err := canon.Unmarshal(t.Ticket, &inner); err != nil {
		return nil, fault.Errorf(fault.Invalid, "ticket: %w", err)
	}
	if inner != t.About {
		return nil, fault.Errorf(fault.Invalid, "it says something else to people than to the chain; ask for another ticket")
	}
	return t, nil
}
