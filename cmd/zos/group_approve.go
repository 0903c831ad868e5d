package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/workload"
)

// approvalFile is what members of a group sign off-chain, one after the other.
type approvalFile struct {
	Chain    string          `json:"chain"`
	Group    identity.Party  `json:"group"`
	Sequence uint64          `json:"sequence"` // of the group
	Expires  int64           `json:"expires"`
	Messages []chain.Packed  `json:"messages"`
	Consents []chain.Consent `json:"consents"` // rising by party
}

func (f *approvalFile) signed() []byte {
	return chain.Approval{Chain: f.Chain, Group: f.Group, Sequence: f.Sequence, Expires: f.Expires, Messages: f.Messages}.Encode()
}

// startApproval writes messages of a group with the consent of the one who made
// them.
func (g *grid) startApproval(ctx context.Context, packed []chain.Packed) error {
	p, err := g.groupOf(ctx, fmt.Sprint(g.o.group))
	if err != nil {
		return err
	}
	f := &approvalFile{Chain: g.status.Chain, Group: p.ID, Sequence: p.Account.Sequence + 1, Expires: g.a.clock.Now().Add(g.approvalTime(p.Group)).Unix(), Messages: packed}
	if !g.o.silent {
		if err := g.consent(ctx, f, p.Group); err != nil {
			return err
		}
	}
	return g.writeApproval(g.o.approval, f, true)
}

// approvalTime is how long an approval is good: what was said, else a day, or
// less when the group's policies want that. The chain's clock may be a bit behind.
func (g *grid) approvalTime(group *chain.Group) time.Duration {
	if g.cmd.Flags().Changed("valid") {
		return g.o.expires
	}
	d := 24 * time.Hour
	for _, p := range group.Policies {
		d = min(d, time.Duration(p.Expiry)*time.Second*9/10)
	}
	return d
}

// consent adds the signature of the key's party to an approval.
func (g *grid) consent(ctx context.Context, f *approvalFile, group *chain.Group) error {
	me, err := g.me(ctx, false)
	if err != nil {
		return err
	}
	if group.Member(me.party.ID) == nil {
		return fault.Errorf(fault.Denied, "party %d is not a member of group %d", me.party.ID, f.Group)
	}
	k, err := g.key()
	if err != nil {
		return err
	}
	c := chain.Consent{Party: me.party.ID, Signature: k.Sign.SignAs(me.index, identity.TagApprove, f.signed())}
	i, there := slices.BinarySearchFunc(f.Consents, c.Party, func(c chain.Consent, p identity.Party) int { return cmp.Compare(c.Party, p) })
	if there {
		f.Consents[i] = c
	} else {
		f.Consents = slices.Insert(f.Consents, i, c)
	}
	return nil
}

func (g *grid) writeApproval(path string, f *approvalFile, fresh bool) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(path, append(b, '\n'), fresh); err != nil {
		return err
	}
	return g.a.print(f, approvalTable(path, f), path)
}

func approvalTable(path string, f *approvalFile) table {
	pairs := []string{"file", path, "group", fmt.Sprint(f.Group), "expires", clockTime(f.Expires)}
	for _, m := range f.Messages {
		pairs = append(pairs, "message", messageText(m))
	}
	var who []string
	for _, c := range f.Consents {
		who = append(who, fmt.Sprint(c.Party))
	}
	return facts(append(pairs, "consents", strings.Join(who, ", "))...)
}

func (g *grid) readApproval(ctx context.Context, path string) (*approvalFile, *chain.PartyAnswer, error) {
	f := &approvalFile{}
	if err := readJSON(path, 256<<10, f); err != nil {
		return nil, nil, err
	}
	if _, err := chain.Unpack(f.Messages); err != nil {
		return nil, nil, fault.Errorf(fault.Of(err), "read %s: %w", path, err)
	}
	p, err := g.groupOf(ctx, fmt.Sprint(f.Group))
	switch {
	case err != nil:
		return nil, nil, err
	case f.Chain != g.status.Chain:
		return nil, nil, fault.Errorf(fault.Conflict, "%s is for chain %.60q, the server is of %s", path, f.Chain, g.status.Chain)
	case f.Sequence != p.Account.Sequence+1:
		return nil, nil, fault.Errorf(fault.Conflict, "%s has sequence %d of group %d, the next is %d: the group did something since; make the file anew", path, f.Sequence, f.Group, p.Account.Sequence+1)
	}
	return f, p, nil
}

func groupInspect() verb {
	var documents []string
	return verb{
		use: "inspect FILE", short: "Show what --approval wrote and who has signed it", least: 1, most: 1,
		flags: documentFlag(&documents),
		run: func(ctx context.Context, g *grid, args []string) error {
			f, _, err := g.readApproval(ctx, args[0])
			if err != nil {
				return err
			}
			if err := g.matches(documents, f.Messages); err != nil {
				return err
			}
			return g.a.print(f, approvalTable(args[0], f), args[0])
		},
	}
}

// documentFlag names the deployments that messages are about.
func documentFlag(to *[]string) func(*cobra.Command) {
	return func(cmd *cobra.Command) {
		cmd.Flags().StringArrayVar(to, "document", nil, "final `file` of a deployment: refuse when the contracts are about another one; repeat")
	}
}

// matches wants each document to be what a message creates or updates: the same
// bytes, contract, node and capacity.
func (g *grid) matches(documents []string, packed []chain.Packed) error {
	ms, err := chain.Unpack(packed)
	if err != nil {
		return err
	}
	for _, path := range documents {
		src, err := os.ReadFile(path)
		if err != nil {
			return fault.Errorf(fault.Of(err), "read document: %w", err)
		}
		doc, err := workload.Parse(src, workload.Final)
		if err != nil {
			return fault.Errorf(fault.Invalid, "document %s: %w", path, err)
		}
		hash, found := chain.Hash(doc.Hash()), false
		for _, m := range ms {
			switch m := m.(type) {
			case *chain.CreateNodeContract:
				found = found || m.Hash == hash && m.ID == doc.ContractID && m.Node == doc.NodeID && m.Capacity.Equal(capacityOf(doc))
			case *chain.UpdateContract:
				found = found || m.Hash == hash && m.ID == doc.ContractID && m.Version == doc.Version && (doc.IsNetwork() || m.Capacity.Equal(capacityOf(doc)))
			case *chain.CreateNetworkContract:
				found = found || m.Hash == hash && m.ID == doc.ContractID && doc.IsNetwork()
			}
		}
		if !found || doc.Chain != g.status.Chain {
			return fault.Errorf(fault.Conflict, "document %s (%s, contract %s) is not what is proposed; ask for the one that is", path, hash, doc.ContractID)
		}
		g.a.note("document %s is what the contract %s will hold", path, doc.ContractID)
	}
	return nil
}

func groupApprove() verb {
	var documents []string
	return verb{
		use: "approve FILE", short: "Sign what --approval wrote, as a member", least: 1, most: 1,
		long: `Add your signature to a file that another command wrote with --group and
--approval; zos group inspect shows it first. You agree to exactly that, once,
until it expires. When enough members have signed, any of them runs zos group
execute.`,
		flags:   documentFlag(&documents),
		example: "  zos contract cancel 9/1 --group 9 --approval cancel.json\n  zos group approve cancel.json --key bob\n  zos group execute cancel.json --key bob",
		run: func(ctx context.Context, g *grid, args []string) error {
			f, p, err := g.readApproval(ctx, args[0])
			if err != nil {
				return err
			}
			if err := g.matches(documents, f.Messages); err != nil {
				return err
			}
			if err := g.consent(ctx, f, p.Group); err != nil {
				return err
			}
			return g.writeApproval(args[0], f, false)
		},
	}
}

func groupExecute() verb {
	return verb{
		use: "execute FILE", short: "Carry out what enough members have signed", least: 1, most: 1,
		run: func(ctx context.Context, g *grid, args []string) error {
			f, _, err := g.readApproval(ctx, args[0])
			if err != nil {
				return err
			}
			return g.own(ctx, &chain.Execute{Group: f.Group, Sequence: f.Sequence, Expires: f.Expires, Messages: f.Messages, Consents: f.Consents})
		},
	}
}
