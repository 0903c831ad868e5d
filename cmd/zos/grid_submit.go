package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// sent is what became of a change.
type sent struct {
	chain.TxAnswer
	Created string   `json:"created,omitempty"` // the id of what was made
	Kinds   []string `json:"-"`
	facts   []string
	names   []string
	failed  string // why a proposal that the group agreed to failed
}

// act signs messages and sends them, or does with them what the flags say:
// propose them to a group, write an approval, write the signed transaction.
func (g *grid) act(ctx context.Context, ms ...chain.Message) error {
	packed := chain.Pack(ms...)
	if _, err := chain.Unpack(packed); err != nil { // what needs no chain is said at once
		return err
	}
	switch {
	case g.o.approval != "":
		return g.startApproval(ctx, packed)
	case g.o.group != 0:
		ms = []chain.Message{&chain.Propose{Group: identity.Party(g.o.group), Messages: packed, Note: g.o.note, Approve: !g.o.silent}}
	}
	return g.send(ctx, ms...)
}

// own is for what only a twin itself can do.
func (g *grid) own(ctx context.Context, ms ...chain.Message) error {
	if g.o.group != 0 || g.o.approval != "" {
		return g.usage("--group: a group can't do this; it is done by a twin itself")
	}
	return g.send(ctx, ms...)
}

// send signs messages of the key's party and sends them.
func (g *grid) send(ctx context.Context, ms ...chain.Message) error {
	for again := false; ; again = true {
		m, err := g.me(ctx, again)
		if err != nil {
			return err
		}
		body := chain.Body{Party: m.party.ID, Sequence: m.account.Sequence + 1, Messages: chain.Pack(ms...)}
		err = g.sign(ctx, body, m.index, ms)
		// Another program of the same party was faster: take the next number.
		if again || !errors.Is(err, fault.Conflict) || !strings.HasPrefix(err.Error(), fmt.Sprintf("sequence %d of party", body.Sequence)) {
			return err
		}
	}
}

// join sends the first message of a new party.
func (g *grid) join(ctx context.Context, m chain.Message) error {
	if g.o.group != 0 {
		return g.usage("--group: a group can't do this; it is done by a new key itself")
	}
	return g.sign(ctx, chain.Body{Messages: chain.Pack(m)}, 0, []chain.Message{m})
}

// sign completes a body, signs it, and sends or writes it.
func (g *grid) sign(ctx context.Context, body chain.Body, index uint32, ms []chain.Message) (err error) {
	if body.Chain, err = g.id(ctx); err != nil {
		return err
	}
	k, err := g.key()
	if err != nil {
		return err
	}
	if body.FeeLimit, err = g.fee(ctx, body.Party, ms); err != nil {
		return err
	}
	body.Sponsor = identity.Party(g.o.sponsor)
	body.Expires = g.a.clock.Now().Add(g.o.expires).Unix()
	if err := g.remember(); err != nil {
		return err
	}
	wire, err := chain.Sign(body, chain.Signer{Index: index, Key: k.Sign})
	if err != nil {
		return err
	}
	if g.o.signOnly != "" {
		if err := writeNew(g.o.signOnly, wire); err != nil {
			return err
		}
		next := "send it with zos tx send " + g.o.signOnly
		if body.Sponsor != 0 {
			next = "the sponsor signs it with zos tx sponsor " + g.o.signOnly
		}
		return g.a.print(map[string]any{"file": g.o.signOnly, "expires": body.Expires},
			facts("file", g.o.signOnly, "expires", clockTime(body.Expires), "next", next), g.o.signOnly)
	}
	return g.submit(ctx, wire)
}

// submit sends a signed transaction and shows what it did.
func (g *grid) submit(ctx context.Context, wire []byte) error {
	answer, err := g.c.Submit(ctx, wire)
	if errors.Is(err, fault.Unavailable) && ctx.Err() == nil {
		answer, err = g.c.Submit(ctx, wire) // the same bytes take effect once
	}
	if errors.Is(err, fault.Unavailable) {
		if tx, derr := chain.Decode(wire); derr == nil {
			err = fault.Errorf(fault.Unavailable, "%w; it may still come into a block: zos chain tx %s says so", err, chain.Hash(tx.ID))
		}
	}
	if err != nil {
		return hint(err)
	}
	s := describe(answer)
	if s.failed != "" {
		return fault.Errorf(fault.Conflict, "the group agreed to proposal %s, but it failed and nothing was changed: %s", s.Created, s.failed)
	}
	pairs := append(s.facts, "tx", answer.ID.String(), "block", fmt.Sprint(answer.Height), "fee", credits(answer.Fee))
	names := s.names
	if len(names) == 0 {
		names = []string{answer.ID.String()}
	}
	return g.a.print(s, facts(pairs...), names[0])
}

// describe finds in the events of a transaction what people want to know.
func describe(answer chain.TxAnswer) *sent {
	s := &sent{TxAnswer: answer}
	made := func(what, id string) {
		s.facts, s.names = append(s.facts, what, id), append(s.names, id)
		if s.Created == "" {
			s.Created = id
		}
	}
	tell := func(what, text string) { s.facts = append(s.facts, what, text) }
	for _, e := range answer.Events {
		switch e.Type {
		case "twin.created":
			made("twin", fmt.Sprint(e.Party))
		case "group.created":
			made("group", fmt.Sprint(e.Party))
		case "farm.created":
			made("farm", fmt.Sprint(e.Farm))
		case "node.registered":
			made("node", fmt.Sprint(e.Node))
		case "contract.created":
			made("contract", e.Contract.String())
			tell("rate", hourly(e.Rate))
			tell("deposit", credits(e.Amount))
		case "proposal.created":
			made("proposal", fmt.Sprint(e.ID))
		case "support.requested":
			made("request", fmt.Sprint(e.ID))
		case "support.granted":
			tell("granted until", clockTime(e.Until))
		case "key.added":
			made("key", fmt.Sprint(e.ID))
		case "key.rotated":
			made("key", fmt.Sprint(e.Version))
		case "proposal.executed", "proposal.rejected", "proposal.withdrawn":
			tell("state", strings.TrimPrefix(e.Type, "proposal."))
		case "proposal.failed":
			s.failed = e.Reason
			if s.Created == "" {
				s.Created = fmt.Sprint(e.ID)
			}
		case "contract.billed":
			tell("settled", fmt.Sprintf("%s for %s", credits(e.Amount), span(e.Until-e.From)))
		case "contract.kept":
			tell("kept data", credits(e.Amount))
		case "contract.closed":
			tell("closed", e.Contract.String())
			tell("refund", credits(e.Amount))
		case "contract.resumed", "contract.suspended":
			tell("contract", e.Contract.String()+" "+strings.TrimPrefix(e.Type, "contract."))
		case "contract.waiting":
			tell("waiting", e.Reason)
		}
	}
	return s
}

// fee is the most that a transaction may cost: what was allowed, or what the
// parameters say now.
func (g *grid) fee(ctx context.Context, by identity.Party, ms []chain.Message) (uint64, error) {
	if g.o.feeLimit != "" {
		return parseCredits("--fee-limit", g.o.feeLimit)
	}
	var p chain.Params
	if err := g.get(ctx, "/v1/params", &p); err != nil {
		return 0, err
	}
	if len(p.Fees) == 0 {
		return 0, nil
	}
	var sum uint64
	for _, m := range ms {
		sum = chain.AddCap(sum, feeOf(p, m.Code()))
		var inner []chain.Packed
		switch m := m.(type) {
		case *chain.Propose:
			inner = m.Messages
		case *chain.Execute:
			inner = m.Messages
		}
		for _, i := range inner {
			sum = chain.AddCap(sum, feeOf(p, i.Code))
		}
	}
	return sum, nil
}

// feeOf is what a message costs: its own entry, or that of code 0.
func feeOf(p chain.Params, code chain.Code) (fee uint64) {
	for _, f := range p.Fees {
		if f.Code == code || f.Code == 0 {
			fee = f.Fee // code 0 comes first
		}
	}
	return fee
}
