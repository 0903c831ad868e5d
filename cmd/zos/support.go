package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func supportVerbs() []verb {
	return []verb{supportRequest(), supportList(), supportShow(),
		supportAnswer("consent", "Agree to support access, as the farm's owner or the renter", func(id uint64) chain.Message { return &chain.ConsentSupport{Request: id} }),
		supportAnswer("revoke", "Take back a consent or a request", func(id uint64) chain.Message { return &chain.RevokeSupport{Request: id} }),
		supportReport()}
}

func supportRequest() verb {
	var purpose, scope, from, length string
	return verb{
		use: "request NODE", short: "Ask for support access to a node", least: 1, most: 1,
		long: `Ask for access to a node. It is granted when the owner of the farm and whoever
rents the node have consented, for the time that was asked and for what was asked:
metrics, logs, or debug tools. Everybody else with contracts there is told.`,
		example: "  zos support request 42 --purpose \"disk errors\" --scope logs --for 2h",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&purpose, "purpose", "", "`text`: why")
			cmd.Flags().StringVar(&scope, "scope", "metrics", "`scope`: metrics, logs or debug")
			cmd.Flags().StringVar(&from, "from", "0s", "`time` at which it begins, or a span from now")
			cmd.Flags().StringVar(&length, "for", "1h", "`span` of the access, at most 24h")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseParty(args[0])
			if err != nil {
				return err
			}
			m := &chain.RequestSupport{Node: id, Purpose: purpose, Scope: chain.Scope(scope)}
			if m.From, err = when("--from", from, g.a.clock.Now()); err != nil {
				return err
			}
			n, err := parseSpan("--for", length)
			if err != nil {
				return err
			}
			m.Until = m.From + n
			return g.own(ctx, m)
		},
	}
}

func supportAnswer(name, short string, message func(uint64) chain.Message) verb {
	return verb{
		use: name + " REQUEST", short: short, least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := parseNumber("request", args[0])
			if err != nil {
				return err
			}
			return g.act(ctx, message(id))
		},
	}
}

func supportReport() verb {
	return verb{
		use: "report REQUEST TRANSCRIPT", short: "As a node: close a session and record the hash of its transcript", least: 2, most: 2,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := parseNumber("request", args[0])
			if err != nil {
				return err
			}
			m := &chain.ReportSupport{Request: id}
			if err := m.Transcript.UnmarshalText([]byte(args[1])); err != nil {
				return fault.Errorf(fault.Of(err), "transcript: %w", err)
			}
			return g.own(ctx, m)
		},
	}
}

func supportList() verb {
	return verb{
		use: "list NODE", short: "List the requests for a node that have not ended", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := identity.ParseParty(args[0])
			if err != nil {
				return err
			}
			var page chain.Page[chain.Support]
			if err := g.get(ctx, fmt.Sprintf("/v1/support?node=%d", id), &page); err != nil {
				return err
			}
			all, err := readAll(ctx, g, "a support request", page.Items, func(s chain.Support) []byte { return chain.SupportKey(s.ID) })
			if err != nil {
				return err
			}
			t := table{columns: []string{"request", "by", "scope", "state", "waits for", "from", "until", "purpose"}}
			var names []string
			for _, s := range all {
				t.rows = append(t.rows, []string{fmt.Sprint(s.ID), fmt.Sprint(s.Requester), string(s.Scope), s.State.String(), waitsFor(&s), clockTime(s.From), clockTime(s.Until), s.Purpose})
				names = append(names, fmt.Sprint(s.ID))
			}
			return g.a.print(all, t, names...)
		},
	}
}

// waitsFor is who has not consented yet.
func waitsFor(s *chain.Support) string {
	var out []string
	for _, p := range s.Needed {
		if !slices.Contains(s.Given, p) {
			out = append(out, fmt.Sprint(p))
		}
	}
	if len(out) == 0 || s.State != chain.SupportAsked {
		return "-"
	}
	return strings.Join(out, ", ")
}

func supportShow() verb {
	return verb{
		use: "show REQUEST", short: "Show a request and who consented", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := parseNumber("request", args[0])
			if err != nil {
				return err
			}
			s, err := read[chain.Support](ctx, g, "support request "+args[0], "/v1/support/"+args[0], chain.SupportKey(id))
			if err != nil {
				return err
			}
			state := s.State.String()
			if s.Why != "" {
				state += " (" + string(s.Why) + ")"
			}
			pairs := []string{"request", args[0], "node", fmt.Sprint(s.Node), "by", fmt.Sprint(s.Requester), "purpose", s.Purpose, "scope", string(s.Scope), "state", state,
				"consented", strings.Trim(fmt.Sprint(s.Given), "[]"), "waits for", waitsFor(s), "from", clockTime(s.From), "until", clockTime(s.Until)}
			if s.Transcript != (chain.Hash{}) {
				pairs = append(pairs, "transcript", s.Transcript.String())
			}
			return g.a.print(s, facts(pairs...), args[0])
		},
	}
}
