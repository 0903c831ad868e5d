package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/workload"
)

// dealFlags are what every new contract needs.
type dealFlags struct {
	deposit, funds, expires string
	serial                  uint32
}

func (d *dealFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&d.deposit, "deposit", "", "`credits` to move into the contract")
	f.StringVar(&d.funds, "for", "", "instead of --deposit: enough for a `span` such as 30d")
	f.StringVar(&d.expires, "expires", "", "`time` at which the contract ends, or a span from now (default none)")
	f.Uint32Var(&d.serial, "serial", 0, "`number` of the contract among yours (default the next)")
}

// id is the next contract of the owner.
func (d *dealFlags) id(ctx context.Context, g *grid) (identity.ContractID, error) {
	if (d.deposit == "") == (d.funds == "") {
		return 0, g.usage("say how much with --deposit, or for how long with --for")
	}
	owner, err := g.owner(ctx)
	if err != nil {
		return 0, err
	}
	serial := d.serial
	if serial == 0 {
		var p chain.PartyAnswer
		if err := g.get(ctx, fmt.Sprintf("/v1/parties/%d", owner), &p); err != nil {
			return 0, err
		}
		if g.o.group != 0 && p.Group == nil {
			return 0, fault.Errorf(fault.Invalid, "--group %d: party %d is a twin, not a group", owner, owner)
		}
		serial = p.Account.Serial + 1
	}
	return identity.NewContractID(owner, serial)
}

func (d *dealFlags) end(g *grid) (int64, error) {
	if d.expires == "" {
		return 0, nil
	}
	return when("--expires", d.expires, g.a.clock.Now())
}

// money is the deposit: what was said, or enough for the span that was said. Too
// little is refused before a group votes on it.
func (d *dealFlags) money(g *grid, full, storage uint64, keepDays uint32) (uint64, error) {
	// As docs/reference/chain.md divides it: the grace, the kept data, the escrow.
	grace := chain.AddCap(costs(full, 3600), costs(storage, 72*3600))
	kept := costs(storage, int64(keepDays)*86400)
	least := chain.AddCap(costs(full, 3600), chain.AddCap(grace, kept))
	if d.deposit != "" {
		sum, err := parseCredits("--deposit", d.deposit)
		if err == nil && sum < least {
			err = fault.Errorf(fault.Funds, "deposit %s, at least %s are needed (1 h %s, grace %s, data kept after the end %s)",
				credits(sum), credits(least), credits(costs(full, 3600)), credits(grace), credits(kept))
		}
		return sum, err
	}
	span, err := parseSpan("--for", d.funds)
	if err != nil {
		return 0, err
	}
	sum := chain.AddCap(costs(full, max(span, 3600)), chain.AddCap(grace, kept))
	g.a.note("%s for %s at %s, and %s that are kept for after the funds", credits(sum), d.funds, hourly(full), credits(chain.AddCap(grace, kept)))
	return sum, nil
}

// costs is a rate times seconds in nano-credits, rounded up.
func costs(rate uint64, seconds int64) uint64 {
	hi, lo := bits.Mul64(rate, uint64(seconds))
	lo, carry := bits.Add64(lo, chain.Pico-1, 0)
	if hi += carry; hi >= chain.Pico {
		return ^uint64(0)
	}
	q, _ := bits.Div64(hi, lo, chain.Pico)
	return q
}

// priced is the node of a new contract with the prices that hold there.
func (g *grid) priced(ctx context.Context, id identity.Party) (*chain.NodeAnswer, *chain.Farm, error) {
	n, err := g.readNode(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	f, err := g.farm(ctx, fmt.Sprint(n.Farm))
	return n, f, err
}

// ceiling is the rate that the owner agrees to: what was said, or the rate now.
func (g *grid) ceiling(text string, now uint64) (uint64, error) {
	if text == "" {
		g.a.note("the rate is %s; the contract never costs more than that", hourly(now))
		return now, nil
	}
	return parseRate("--max-rate", text)
}

func createNode() verb {
	var d dealFlags
	var c capacityFlags
	var document, final, hash, maxRate, deadline string
	var node, keep uint32
	var split []string
	return verb{
		use: "node", short: "Agree on a deployment on one node",
		long: `Agree on a deployment on one node. --document names the deployment: its hash is
what the contract holds and its workloads say what is reserved. A draft is made
final, with chain, owner, contract, node and version filled in, and written to
--final; the node gets exactly that file. Without a document, --hash and the
resources say the same.

Capacity is reserved at once; billing begins when the node reports that
everything runs. If it doesn't in time, all but the fee comes back.`,
		example: "  zos contract create node --document shop.yaml --final shop.json --node 42 --for 30d\n  zos contract create node --node 42 --hash 9f2c… --cpu 2 --memory 4GiB --ssd 50GiB --deposit 10 --group 9",
		flags: func(cmd *cobra.Command) {
			d.flags(cmd)
			c.flags(cmd)
			f := cmd.Flags()
			f.StringVar(&document, "document", "", "`file` with the deployment, JSON or YAML")
			f.StringVar(&final, "final", "", "`file` to write the final document to, when --document is a draft")
			f.StringVar(&hash, "hash", "", "SHA-256 `hash` of the document, when it isn't here")
			f.Uint32Var(&node, "node", 0, "`node` to run it (default that of the document)")
			f.StringVar(&maxRate, "max-rate", "", "highest `price` that you agree to, credits an hour (default the rate now)")
			f.StringVar(&deadline, "deadline", "10m", "`span` for the node to report, at most 1h")
			f.Uint32Var(&keep, "keep-days", 0, "`days` that data is kept after the end, paid in advance, at most 7")
			f.StringSliceVar(&split, "split", nil, "`PARTY=PERCENT` of what it earns for another than the farm; repeat for up to four")
		},
		run: func(ctx context.Context, g *grid, _ []string) error {
			id, err := d.id(ctx, g)
			if err != nil {
				return err
			}
			m := &chain.CreateNodeContract{ID: id, Node: identity.Party(node), KeepDays: keep}
			if m.Split, err = parseSplit(split); err != nil {
				return err
			}
			wait, err := parseSpan("--deadline", deadline)
			if err != nil {
				return err
			}
			m.Deadline = uint32(min(wait, 1<<31))
			if m.Expires, err = d.end(g); err != nil {
				return err
			}
			var doc *workload.Document
			if document != "" {
				if doc, err = g.document(document, final, completion{id: id, node: m.Node, version: 1, expires: m.Expires}); err != nil {
					return err
				}
				if doc.IsNetwork() {
					return fault.Errorf(fault.Invalid, "document %s describes a private network; use zos contract create network", document)
				}
				m.Node, m.Hash, m.Capacity, m.Expires = doc.NodeID, chain.Hash(doc.Hash()), capacityOf(doc), int64(doc.Expiration)
			} else if m.Hash, m.Capacity, err = described(g, hash, &c); err != nil {
				return err
			}
			if m.Node == 0 {
				return g.usage("--node is needed")
			}
			n, f, err := g.priced(ctx, m.Node)
			if err != nil {
				return err
			}
			p := f.Terms.Prices
			if n.Load.Rent != 0 { // the rent pays for the rest
				p = chain.Prices{IPv4: p.IPv4, IPv6: p.IPv6, Egress: p.Egress}
			}
			if m.MaxRate, err = g.ceiling(maxRate, p.Rate(m.Capacity)); err != nil {
				return err
			}
			if m.Deposit, err = d.money(g, p.Rate(m.Capacity), p.Rate(m.Capacity.Storage()), keep); err != nil {
				return err
			}
			if err := g.keep(final, doc); err != nil {
				return err
			}
			return g.act(ctx, m)
		},
	}
}

// described is a deployment whose document isn't here.
func described(g *grid, hash string, c *capacityFlags) (h chain.Hash, out chain.Capacity, err error) {
	if hash == "" {
		return h, out, g.usage("--document is needed, or --hash with the resources")
	}
	if err = h.UnmarshalText([]byte(hash)); err != nil {
		return h, out, err
	}
	out, err = c.capacity()
	return h, out, err
}

func capacityOf(d *workload.Document) chain.Capacity {
	c := d.Capacity()
	return chain.Capacity{CPU: c.CRU, Memory: c.MRU, SSD: c.SRU, HDD: c.HRU, IPv4: c.IPv4, IPv6: c.IPv6, GPU: c.GPU}
}

// completion is what a draft leaves open.
type completion struct {
	id      identity.ContractID
	node    identity.Party
	version uint32
	expires int64
	network bool
}

// document reads a deployment. A draft is completed and written to final. What
// a document says must be what the contract will say.
func (g *grid) document(path, final string, c completion) (*workload.Document, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read document: %w", err)
	}
	doc, err := workload.Read(src, workload.Final)
	if err != nil || final != "" {
		if final == "" {
			return nil, fault.Errorf(fault.Invalid, "document %s is not ready to be signed; if it is a draft, name a file for the final one with --final: %w", path, err)
		}
		if doc, err = g.complete(src, c); err != nil {
			return nil, fault.Errorf(fault.Of(err), "document %s: %w", path, err)
		}
	}
	wrong := func(field string, got, want any) error {
		return fault.Errorf(fault.Conflict, "document %s: %s is %v, the contract has %v; change one of them", path, field, got, want)
	}
	switch {
	case doc.Chain != g.status.Chain:
		return nil, wrong("chain", doc.Chain, g.status.Chain)
	case doc.TwinID != c.id.Owner():
		return nil, wrong("twin_id", doc.TwinID, c.id.Owner())
	case doc.ContractID != c.id:
		return nil, wrong("contract_id", uint64(doc.ContractID), fmt.Sprintf("%d (%s)", uint64(c.id), c.id))
	case doc.Version != c.version:
		return nil, wrong("version", doc.Version, c.version)
	case c.node != 0 && doc.NodeID != c.node:
		return nil, wrong("node_id", doc.NodeID, c.node)
	case c.expires != 0 && doc.Expiration != uint64(c.expires):
		return nil, wrong("expiration", doc.Expiration, c.expires)
	}
	return doc, nil
}

// keep writes the final document, before its hash is agreed on.
func (g *grid) keep(final string, doc *workload.Document) error {
	if final == "" || doc == nil {
		return nil
	}
	if old, err := os.ReadFile(final); err != nil || !bytes.Equal(old, doc.Bytes()) {
		if err := writeNew(final, doc.Bytes()); err != nil {
			return err
		}
	}
	g.a.note("final document: %s, %s", final, chain.Hash(doc.Hash()))
	return nil
}

// complete fills in what a draft leaves open.
func (g *grid) complete(src []byte, c completion) (*workload.Document, error) {
	draft, err := workload.Read(src, workload.Draft)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(draft.Bytes(), &fields); err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	set := func(field string, v any) {
		if _, there := fields[field]; there {
			return
		}
		b, err := json.Marshal(v)
		if err != nil {
			panic("zos: " + err.Error())
		}
		fields[field] = b
	}
	set("chain", g.status.Chain)
	set("twin_id", c.id.Owner())
	set("contract_id", uint64(c.id))
	set("version", c.version)
	set("expiration", c.expires)
	if c.node != 0 && !c.network {
		set("node_id", c.node)
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	if b, err = completeWorkloads(b, c.version); err != nil {
		return nil, err
	}
	return workload.Parse(b, workload.Final)
}

// completeWorkloads gives the workloads without a version that of the document.
func completeWorkloads(b []byte, version uint32) ([]byte, error) {
	var doc map[string]json.RawMessage
	var all []map[string]json.RawMessage
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	if err := json.Unmarshal(doc["workloads"], &all); err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	for _, w := range all {
		if _, there := w["version"]; !there {
			w["version"] = fmt.Append(nil, version)
		}
	}
	var err error
	if doc["workloads"], err = json.Marshal(all); err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	return json.Marshal(doc)
}

// parseSplit reads PARTY=PERCENT.
func parseSplit(texts []string) (out []chain.Share, err error) {
	for _, text := range texts {
		party, part, _ := strings.Cut(text, "=")
		p, err := identity.ParseParty(party)
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "--split %.60q: write PARTY=PERCENT, such as 17=12.5", text)
		}
		n, err := parseCredits("--split", strings.TrimSuffix(part, "%"))
		if err != nil || n > 100*chain.Credit || n%100_000 != 0 {
			return nil, fault.Errorf(fault.Invalid, "--split %.60q: a percentage from 0 to 100 with at most four decimals", text)
		}
		out = append(out, chain.Share{Party: p, PPM: uint32(n / 100_000)})
	}
	return out, nil
}

// parseNodes reads nodes, in any order.
func parseNodes(texts []string) (out []identity.Party, err error) {
	for _, text := range texts {
		p, err := identity.ParseParty(text)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "member: %w", err)
		}
		out = append(out, p)
	}
	slices.Sort(out)
	return out, nil
}
