package main

import (
	"context"
	"fmt"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// statement is everything about a contract's money, itemised.
type statement struct {
	Contract identity.ContractID `json:"contract"`
	State    chain.State         `json:"state"`
	Rate     uint64              `json:"rate"` // pico-credits a second while it runs
	Lines    []chain.Line        `json:"lines"`
	Flat     uint64              `json:"flat,omitempty"`
	Entries  []entry             `json:"entries"`
	Shares   []portion           `json:"shares"`
	Totals   totals              `json:"totals"` // nano-credits
}

// entry is one line of what happened to the money.
type entry struct {
	chain.Bill
	Seconds int64  `json:"seconds,omitempty"`
	In      uint64 `json:"in,omitempty"`
	Out     uint64 `json:"out,omitempty"`
}

// portion is what somebody got of what the contract paid.
type portion struct {
	Who    string         `json:"who"`
	Party  identity.Party `json:"party,omitempty"`
	Amount uint64         `json:"amount"`
}

// totals add up: in = before + paid + usage held + refund + fees + left.
type totals struct {
	Before uint64 `json:"before,omitempty"` // paid before the server's history begins; in is then what must have come in
	In     uint64 `json:"in"`               // deposits and top-ups
	Paid   uint64 `json:"paid"`             // for time, kept data and usage
	Held   uint64 `json:"held,omitempty"`   // reported usage that isn't decided yet
	Refund uint64 `json:"refund"`           // when it was closed
	Fees   uint64 `json:"fees,omitempty"`   // of its owner's transactions about it
	Left   uint64 `json:"left"`             // in it now
	Proven bool   `json:"proven,omitempty"` // paid and left are what the validators signed
}

func contractBills() verb {
	return verb{
		use: "bills CONTRACT", short: "Show what a contract cost, line by line", least: 1, most: 1,
		long: `Show the rate with a line for each resource, every settlement with the time it is
for, who got what, and totals that add up: what came in is what was paid, what
came back, fees, and what is left. The sums of the lines must be those of the
contract's record, which with --prove the validators signed.

The shares are those of today's parameters.`,
		run: func(ctx context.Context, g *grid, args []string) error {
			c, bills, err := g.billed(ctx, args[0])
			if err != nil {
				return err
			}
			var p chain.Params
			if err := g.get(ctx, "/v1/params", &p); err != nil {
				return err
			}
			farm, err := g.earner(ctx, c, &p)
			if err != nil {
				return err
			}
			s, err := itemise(c, bills, &p, farm)
			if err != nil {
				return err
			}
			s.Totals.Proven = g.o.prove
			return g.printBills(s)
		},
	}
}

// billed reads a contract and its bills, of the same moment.
func (g *grid) billed(ctx context.Context, text string) (*chain.Contract, []chain.Bill, error) {
	c, err := g.contract(ctx, text)
	for range 3 {
		if err != nil {
			return nil, nil, err
		}
		bills, err := client.All[chain.Bill](ctx, g.c, contractPath(c.ID, "/bills"))
		if err != nil {
			return nil, nil, err
		}
		again, err := g.contract(ctx, text)
		if err != nil {
			return nil, nil, err
		}
		if again.Money == c.Money && again.State == c.State {
			return c, bills, nil
		}
		c = again
	}
	return nil, nil, fault.Errorf(fault.Unavailable, "contract %s was settled again and again while it was read; try again", c.ID)
}

// earner is who gets the rest of what a contract pays: the farm's owner, or the
// treasury.
func (g *grid) earner(ctx context.Context, c *chain.Contract, p *chain.Params) (identity.Party, error) {
	if c.Node != 0 {
		n, err := g.readNode(ctx, c.Node)
		if err == nil {
			f, err := g.farm(ctx, fmt.Sprint(n.Farm))
			if err != nil {
				return 0, err
			}
			return f.Owner, nil
		}
		if fault.Of(err) != fault.NotFound {
			return 0, err
		}
	}
	if p.Treasury != 0 {
		return p.Treasury, nil
	}
	var m chain.Meta
	err := g.get(ctx, "/v1/meta", &m)
	return m.Governance, err
}

// itemise makes a statement of a contract's record and its events.
func itemise(c *chain.Contract, bills []chain.Bill, p *chain.Params, farm identity.Party) (*statement, error) {
	s := &statement{Contract: c.ID, State: c.State, Rate: fullRate(c), Lines: c.Prices.Lines(c.Agreed.Capacity), Flat: c.Flat}
	t := &s.Totals
	var protocol, toFarm uint64
	split := make([]uint64, len(c.Split))
	earn := func(due uint64, shared bool) {
		part := chain.MulDiv(due, uint64(p.Protocol), chain.Million)
		rest := due - part
		protocol += part
		left := rest
		if shared {
			for i, sh := range c.Split {
				n := chain.MulDiv(rest, uint64(sh.PPM), chain.Million)
				split[i] += n
				left -= n
			}
		}
		toFarm += left
		t.Paid += due
	}
	for _, b := range bills {
		e := entry{Bill: b}
		switch b.Type {
		case "contract.created", "contract.funded":
			e.In = b.Amount
			t.In += b.Amount
		case "contract.billed":
			e.Out, e.Seconds = b.Amount, b.Until-b.From
			earn(b.Amount, true)
		case "contract.kept":
			e.Out = b.Amount
			earn(b.Amount, true)
		case "usage.reported":
			t.Held += b.Amount
			e.Out = b.Amount
		case "usage.paid":
			t.Held -= min(t.Held, b.Amount)
			earn(b.Amount, false)
		case "usage.returned":
			t.Held -= min(t.Held, b.Amount)
			if c.State == chain.StateClosed && b.Time >= c.Closed {
				t.Refund += b.Amount
			} else {
				e.In = b.Amount
			}
		case "contract.closed":
			e.Out = b.Amount
			t.Refund += b.Amount
		}
		s.Entries = append(s.Entries, e)
	}
	t.Left = c.Money.Sum()
	if len(bills) == 0 || bills[0].Type != "contract.created" { // this server came later
		t.Before = c.Money.Paid - min(c.Money.Paid, t.Paid)
		t.In = t.Before + t.Paid + t.Held + t.Refund + t.Left
	}
	out := t.Before + t.Paid + t.Held + t.Refund + t.Left
	if t.Before+t.Paid != c.Money.Paid || out > t.In {
		return nil, fault.Errorf(fault.Internal, "the bills of contract %s don't add up: its lines say %s paid, its record %s; %s came in, %s went out or is left. Does the server lie, or keep only part of the history?",
			c.ID, credits(t.Paid), credits(c.Money.Paid), credits(t.In), credits(out))
	}
	t.Fees = t.In - out
	s.Shares = append(s.Shares, portion{"farm", farm, toFarm})
	for i, sh := range c.Split {
		s.Shares = append(s.Shares, portion{"share of " + percent(uint64(sh.PPM)), sh.Party, split[i]})
	}
	if p.Protocol > 0 {
		s.Shares = append(s.Shares, portion{"protocol, " + percent(uint64(p.Protocol)), p.Treasury, protocol})
	}
	return s, nil
}

func (g *grid) printBills(s *statement) error {
	if f := g.a.format; f == "json" || f == "yaml" || f == "name" {
		return g.a.print(s, table{}, s.Contract.String())
	}
	lines := table{columns: []string{"rate", "amount", "price", "costs"}}
	for _, l := range s.Lines {
		amount, unit := capacityLine(l)
		lines.rows = append(lines.rows, []string{l.Resource, amount, hourly(l.Price) + unit, hourly(l.Rate)})
	}
	if s.Flat > 0 {
		lines.rows = append(lines.rows, []string{"flat", "", "", hourly(s.Flat)})
	}
	lines.rows = append(lines.rows, []string{"together", "", "", hourly(s.Rate)})
	entries := table{columns: []string{"time", "what", "for", "in", "out"}}
	blank := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return credits(n)
	}
	for _, e := range s.Entries {
		what, length := e.Type, ""
		if e.Reason != "" && e.Type != "contract.reported" {
			what += " (" + e.Reason + ")"
		}
		if e.ID != 0 {
			what += fmt.Sprintf(" item %d", e.ID)
		}
		if e.Seconds > 0 {
			length = span(e.Seconds)
		}
		entries.rows = append(entries.rows, []string{clockTime(e.Time), what, length, blank(e.In), blank(e.Out)})
	}
	shares := table{columns: []string{"paid to", "party", "credits"}}
	for _, p := range s.Shares {
		who := "who governs"
		if p.Party != 0 {
			who = fmt.Sprint(p.Party)
		}
		shares.rows = append(shares.rows, []string{p.Who, who, credits(p.Amount)})
	}
	t := s.Totals
	sums := []string{"came in", credits(t.In)}
	if t.Before > 0 {
		g.a.note("the server's history begins after the contract; the lines and shares are of the time since")
		sums = append(sums, "paid before", credits(t.Before))
	}
	sums = append(sums, "paid", credits(t.Paid))
	for _, x := range []struct {
		name string
		n    uint64
	}{{"held for usage", t.Held}, {"came back", t.Refund}, {"fees", t.Fees}} {
		if x.n > 0 {
			sums = append(sums, x.name, credits(x.n))
		}
	}
	for _, part := range []table{lines, entries, shares, facts(append(sums, "left", credits(t.Left))...)} {
		if err := g.a.print(s, part); err != nil {
			return err
		}
		fmt.Fprintln(g.a.stdout)
	}
	return nil
}

// capacityLine is the amount of a line and the unit of its price.
func capacityLine(l chain.Line) (amount, unit string) {
	switch l.Resource {
	case "cru":
		return cpus(l.Amount) + " CPU", " each"
	case "mru", "sru", "hru":
		return trimDecimal(fmt.Sprintf("%.6f", float64(l.Amount)/(1<<30))) + " GiB", " a GiB"
	}
	return fmt.Sprint(l.Amount), " each"
}

func contractRunway() verb {
	return verb{
		use: "runway CONTRACT", short: "Say when the funds of a contract end", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseContractID(args[0])
			if err != nil {
				return err
			}
			var r chain.Runway
			if err := g.get(ctx, contractPath(id, "/runway"), &r); err != nil {
				return err
			}
			if g.o.prove {
				c, err := g.contract(ctx, args[0])
				if err != nil {
					return err
				}
				if r.State != c.State || r.Left > c.Money.Sum() {
					return fault.Errorf(fault.Denied, "chain server %s lies: the contract is %s with %s, it says %s with %s left", g.c.Server(), c.State, credits(c.Money.Sum()), r.State, credits(r.Left))
				}
			}
			pairs := []string{"contract", id.String(), "state", r.State.String(), "pays", hourly(r.Rate), "left", credits(r.Left), "funds", runwayText(&r)}
			if r.Seconds >= 0 {
				pairs = append(pairs, "until", clockTime(r.Empty))
			}
			return g.a.print(r, facts(pairs...), clockTime(r.Empty))
		},
	}
}

// runwayText says in words how long the funds last.
func runwayText(r *chain.Runway) string {
	switch {
	case r.State == chain.StateClosed:
		return "it is closed and pays nothing"
	case r.State == chain.StateCreated:
		return "it pays nothing until the node reports that it runs"
	case r.Seconds < 0:
		return "it pays nothing, so they never end"
	case r.Seconds == 0:
		return "they end now"
	case r.State == chain.StateSuspended:
		return "the data is kept for " + span(r.Seconds) + " more; top it up to go on"
	}
	return "they last for " + span(r.Seconds)
}
