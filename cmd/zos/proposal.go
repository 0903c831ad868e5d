package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/internal/fault"
)

func proposalVerbs() []verb {
	return []verb{proposalList(), proposalShow(), proposalVote(), proposalWithdraw()}
}

func parseNumber(what, text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, fault.Errorf(fault.Invalid, "%s %.40q: a number", what, text)
	}
	return n, nil
}

func proposalList() verb {
	var member, state string
	return verb{
		use: "list", short: "List what is before a group, or before all your groups",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&member, "member", "", "those of all groups of this `party` (default yours)")
			cmd.Flags().StringVar(&state, "state", "open", "only those that are open, executed, failed, rejected, expired or withdrawn; all for every one")
		},
		run: func(ctx context.Context, g *grid, _ []string) error {
			path := fmt.Sprintf("/v1/proposals?group=%d", g.o.group)
			if g.o.group == 0 {
				id, err := g.partyArg(ctx, member)
				if err != nil {
					return err
				}
				path = fmt.Sprintf("/v1/proposals?member=%d", id)
			}
			if !slices.Contains([]string{"all", "open", "executed", "failed", "rejected", "expired", "withdrawn"}, state) {
				return g.usage("--state %q: open, executed, failed, rejected, expired, withdrawn or all", state)
			}
			if state != "all" {
				path += "&state=" + state
			}
			if _, err := g.id(ctx); err != nil {
				return err
			}
			all, err := client.All[chain.Proposal](ctx, g.c, path)
			if err != nil {
				return err
			}
			if all, err = readAll(ctx, g, "a proposal", all, func(p chain.Proposal) []byte { return chain.ProposalKey(p.ID) }); err != nil {
				return err
			}
			t := table{columns: []string{"proposal", "group", "by", "state", "messages", "votes", "until", "note"}}
			var names []string
			for _, p := range all {
				var what []string
				for _, m := range p.Messages {
					what = append(what, m.Code.String())
				}
				t.rows = append(t.rows, []string{fmt.Sprint(p.ID), fmt.Sprint(p.Group), fmt.Sprint(p.By), p.State.String(), strings.Join(what, " "),
					votes(&p), clockTime(p.Expires), p.Note})
				names = append(names, fmt.Sprint(p.ID))
			}
			return g.a.print(all, t, names...)
		},
	}
}

func votes(p *chain.Proposal) string {
	var out []string
	for _, v := range p.Votes {
		word := "no"
		if v.Approve {
			word = "yes"
		}
		out = append(out, fmt.Sprintf("%d %s", v.Party, word))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// messageText shows a message as its type and its fields.
func messageText(m chain.Packed) string {
	b, err := json.Marshal(m)
	if err != nil {
		return m.Code.String()
	}
	rest := strings.TrimPrefix(string(b), fmt.Sprintf(`{"type":%q`, m.Code.String()))
	return m.Code.String() + " {" + strings.TrimPrefix(rest, ",")
}

func proposalShow() verb {
	var documents []string
	return verb{
		use: "show PROPOSAL", short: "Show what is proposed and who voted", least: 1, most: 1,
		flags: documentFlag(&documents),
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := parseNumber("proposal", args[0])
			if err != nil {
				return err
			}
			p, err := g.proposal(ctx, id)
			if err != nil {
				return err
			}
			if err := g.matches(documents, p.Messages); err != nil {
				return err
			}
			state := p.State.String()
			if p.Why != "" {
				state += " (" + p.Why + ")"
			}
			pairs := []string{"proposal", args[0], "group", fmt.Sprint(p.Group), "by", fmt.Sprint(p.By), "state", state}
			if p.Note != "" {
				pairs = append(pairs, "note", p.Note)
			}
			for _, m := range p.Messages {
				pairs = append(pairs, "message", messageText(m))
			}
			pairs = append(pairs, "votes", votes(p), "made", clockTime(p.Created), "not before", clockTime(p.Ready), "until", clockTime(p.Expires))
			if p.Ended != 0 {
				pairs = append(pairs, "ended", clockTime(p.Ended))
			}
			return g.a.print(p, facts(pairs...), args[0])
		},
	}
}

// proposal reads a proposal.
func (g *grid) proposal(ctx context.Context, id uint64) (*chain.Proposal, error) {
	return read[chain.Proposal](ctx, g, fmt.Sprintf("proposal %d", id), fmt.Sprintf("/v1/proposals/%d", id), chain.ProposalKey(id))
}

func proposalVote() verb {
	var documents []string
	return verb{
		use: "vote PROPOSAL approve|reject", short: "Approve or reject a proposal", least: 2, most: 2,
		long:  "Vote as a member. A vote may be changed until the proposal is carried out, which\nhappens in the block in which enough members agree. A member that is a group\nvotes by a proposal of its own: --group. With --document the vote is only sent when\nthe proposal is about that file; with --prove that is proven.",
		flags: documentFlag(&documents),
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := parseNumber("proposal", args[0])
			if err != nil {
				return err
			}
			if args[1] != "approve" && args[1] != "reject" {
				return g.usage("vote %q: approve or reject", args[1])
			}
			if len(documents) > 0 {
				p, err := g.proposal(ctx, id)
				if err != nil {
					return err
				}
				if err := g.matches(documents, p.Messages); err != nil {
					return err
				}
			}
			return g.act(ctx, &chain.Vote{Proposal: id, Approve: args[1] == "approve"})
		},
	}
}

func proposalWithdraw() verb {
	return verb{
		use: "withdraw PROPOSAL", short: "Take back your proposal", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := parseNumber("proposal", args[0])
			if err != nil {
				return err
			}
			return g.own(ctx, &chain.Withdraw{Proposal: id})
		},
	}
}
