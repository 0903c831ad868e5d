package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/internal/fault"
)

// chainFlags are the flags of commands that look at a chain.
type chainFlags struct{ server string }

func (a *app) chainCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "chain", Short: "Run a chain, and look at one", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.chainStartCommand(), a.chainInitCommand(), a.chainStatusCommand(), a.chainBlocksCommand(), a.chainTxCommand(), a.chainExportCommand())
	return cmd
}

func (c *chainFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.server, "server", "", "`URL` of a chain server (default $ZOS_CHAIN, else "+localChain+")")
}

// localChain is where a chain on this machine answers.
const localChain = "http://127.0.0.1:8490"

func (a *app) chainClient(c chainFlags) (*client.Client, error) {
	return client.New(first(c.server, a.getenv("ZOS_CHAIN"), localChain), nil)
}

// hint tells who has no server where to get one.
func hint(err error) error {
	if errors.Is(err, fault.Unavailable) {
		return fault.Errorf(fault.Unavailable, "%w; name a chain server with --server or $ZOS_CHAIN, or start one with zos chain start", err)
	}
	return err
}

func (a *app) chainStatusCommand() *cobra.Command {
	var c chainFlags
	cmd := &cobra.Command{
		Use: "status", Short: "Show where a chain is", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.chainClient(c)
			if err != nil {
				return err
			}
			s, err := cl.Status(cmd.Context())
			if err != nil {
				return hint(err)
			}
			role := "no validator"
			if len(s.Validator) > 0 {
				role = fmt.Sprintf("validator %x", []byte(s.Validator))
			}
			if s.Syncing {
				role += ", syncing"
			}
			return a.print(s, facts("chain", s.Chain, "server", cl.Server(), "block", fmt.Sprintf("%d, %s", s.Height, chainTime(s.Time)), "root", s.Root.String(),
				"validators", strconv.Itoa(s.Validators), "this server", role, "peers", strconv.Itoa(s.Peers), "waiting", fmt.Sprintf("%d transactions", s.Waiting),
				"blocks kept", fmt.Sprintf("from %d", s.Earliest)), s.Chain)
		},
	}
	c.add(cmd)
	return cmd
}

func chainTime(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04:05 UTC") }

func (a *app) chainBlocksCommand() *cobra.Command {
	var c chainFlags
	var limit int
	cmd := &cobra.Command{
		Use: "blocks [HEIGHT]", Short: "Show the newest blocks, or one", Args: args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.chainClient(c)
			if err != nil {
				return err
			}
			var blocks []chain.BlockAnswer
			if len(args) == 1 {
				h, err := strconv.ParseUint(args[0], 10, 63)
				if err != nil || h == 0 {
					return &usageError{cmd, fmt.Errorf("the height %q is not a number from 1", args[0])}
				}
				var b chain.BlockAnswer
				if err := cl.Get(cmd.Context(), "/v1/blocks/"+args[0], &b); err != nil {
					return hint(err)
				}
				blocks = append(blocks, b)
			} else {
				if limit < 1 || limit > 100 {
					return &usageError{cmd, fmt.Errorf("--limit %d: 1 to 100", limit)}
				}
				var page chain.Page[chain.BlockAnswer]
				if err := cl.Get(cmd.Context(), fmt.Sprintf("/v1/blocks?limit=%d", limit), &page); err != nil {
					return hint(err)
				}
				blocks = page.Items
			}
			t := table{columns: []string{"height", "time", "transactions", "failed", "events", "+hash", "+root", "+proposer"}}
			names := make([]string, 0, len(blocks))
			for _, b := range blocks {
				failed, events := 0, len(b.Events)
				for _, tx := range b.Txs {
					if events += len(tx.Events); tx.Kind != "" {
						failed++
					}
				}
				t.rows = append(t.rows, []string{strconv.FormatUint(b.Height, 10), chainTime(b.Time), strconv.Itoa(len(b.Txs)), strconv.Itoa(failed), strconv.Itoa(events),
					b.Hash.String(), b.Root.String(), b.Proposer})
				names = append(names, strconv.FormatUint(b.Height, 10))
			}
			return a.print(blocks, t, names...)
		},
	}
	c.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "how many `blocks` to show")
	return cmd
}

func (a *app) chainTxCommand() *cobra.Command {
	var c chainFlags
	cmd := &cobra.Command{
		Use: "tx ID", Short: "Show a transaction in a block", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var id chain.Hash
			if err := id.UnmarshalText([]byte(args[0])); err != nil {
				return err
			}
			cl, err := a.chainClient(c)
			if err != nil {
				return err
			}
			var tx chain.TxRecord
			if err := cl.Get(cmd.Context(), chain.PathTx+"/"+id.String(), &tx); err != nil {
				return hint(err)
			}
			result := "took effect"
			if tx.Kind != "" {
				result = tx.Kind + ": " + tx.Error
			}
			f := facts("transaction", tx.ID.String(), "block", fmt.Sprintf("%d, number %d", tx.Height, tx.Index), "result", result, "fee", credits(tx.Fee))
			if tx.Body != nil {
				f.rows = append(f.rows, []string{"by:", fmt.Sprintf("party %d, sequence %d", tx.Body.Party, tx.Body.Sequence)})
				for _, m := range tx.Body.Messages {
					f.rows = append(f.rows, []string{"message:", m.Code.String()})
				}
			}
			for _, e := range tx.Events {
				f.rows = append(f.rows, []string{"event:", e.Type})
			}
			return a.print(tx, f, tx.ID.String())
		},
	}
	c.add(cmd)
	return cmd
}

func (a *app) chainExportCommand() *cobra.Command {
	var c chainFlags
	var from, to uint64
	cmd := &cobra.Command{
		Use: "export", Short: "Write all blocks with their transactions and events, a line of JSON for each", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.chainClient(c)
			if err != nil {
				return err
			}
			s, err := cl.Status(cmd.Context())
			if err != nil {
				return hint(err)
			}
			if from == 0 {
				from = s.Earliest
			}
			if to == 0 {
				to = s.Height
			}
			if from < s.Earliest || to > s.Height || from > to {
				return fault.Errorf(fault.Invalid, "blocks %d to %d: the server has %d to %d", from, to, s.Earliest, s.Height)
			}
			return a.exportBlocks(cmd.Context(), cl, from, to)
		},
	}
	c.add(cmd)
	cmd.Flags().Uint64Var(&from, "from", 0, "first `height` (default the oldest that the server has)")
	cmd.Flags().Uint64Var(&to, "to", 0, "last `height` (default the newest)")
	return cmd
}

// exportedBlock is a line of an export.
type exportedBlock struct {
	chain.BlockAnswer
	Txs []chain.TxRecord `json:"txs"`
}

func (a *app) exportBlocks(ctx context.Context, cl *client.Client, from, to uint64) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	for h := from; h <= to; h++ {
		var b exportedBlock
		if err := cl.Get(ctx, fmt.Sprintf("/v1/blocks/%d", h), &b.BlockAnswer); err != nil {
			return hint(err)
		}
		b.Txs = make([]chain.TxRecord, 0, len(b.BlockAnswer.Txs))
		for _, tx := range b.BlockAnswer.Txs {
			r := chain.TxRecord{TxAnswer: tx}
			if tx.ID != (chain.Hash{}) {
				if err := cl.Get(ctx, chain.PathTx+"/"+tx.ID.String(), &r); err != nil && !errors.Is(err, fault.NotFound) {
					return hint(err)
				}
			}
			b.Txs = append(b.Txs, r)
		}
		if err := enc.Encode(b); err != nil {
			return err
		}
	}
	return nil
}
