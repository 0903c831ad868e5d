package main

import (
	"context"
	"fmt"

	"zos.internal/chain"
)

func creditVerbs() []verb {
	return []verb{
		{
			use: "send PARTY AMOUNT", short: "Send credits", least: 2, most: 2,
			example: "  zos credit send 17 1.5",
			run: func(ctx context.Context, g *grid, args []string) error {
				n, err := parseCredits("amount", args[1])
				if err != nil {
					return err
				}
				to, err := g.partyArg(ctx, args[0])
				if err != nil {
					return err
				}
				return g.act(ctx, &chain.Send{To: to, Amount: n})
			},
		},
		{
			use: "balance [PARTY]", short: "Show what a party has", most: 1,
			run: func(ctx context.Context, g *grid, args []string) error {
				id, err := g.partyArg(ctx, argument(args, 0))
				if err != nil {
					return err
				}
				p, err := g.readParty(ctx, id)
				if err != nil {
					return err
				}
				return g.a.print(map[string]any{"party": p.ID, "balance": p.Account.Balance},
					facts("party", fmt.Sprint(p.ID), "balance", credits(p.Account.Balance)), fmt.Sprint(p.Account.Balance))
			},
		},
	}
}
