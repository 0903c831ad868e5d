package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func twinVerbs() []verb {
	return []verb{twinCreate(), twinShow(), twinUpdate(), {use: "key", short: "Keys of your twin", verbs: []verb{twinKeyAdd(), twinKeyRevoke(), twinKeyRotate()}}}
}

// relayFlags are relays and URL of a twin.
type relayFlags struct {
	relays []uint
	url    string
}

func (r *relayFlags) flags(cmd *cobra.Command) {
	cmd.Flags().UintSliceVar(&r.relays, "relay", nil, "`party` of a relay; repeat for up to three")
	cmd.Flags().StringVar(&r.url, "url", "", "of a relay: the `URL` where it is dialled")
}

func (r *relayFlags) parties() (out []identity.Party, err error) {
	for _, n := range r.relays {
		p, err := identity.ParseParty(strconv.FormatUint(uint64(n), 10))
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "--relay: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

func twinCreate() verb {
	var r relayFlags
	return verb{
		use: "create", short: "Make a twin of your key",
		long: `Make a twin: the number under which your key acts on the chain. Where joining
costs something a sponsor pays: --sponsor and --sign-only, then zos tx sponsor.`,
		example: "  zos twin create\n  zos twin create --sponsor 1 --sign-only join.tx",
		flags:   r.flags,
		run: func(ctx context.Context, g *grid, _ []string) error {
			k, err := g.key()
			if err != nil {
				return err
			}
			if k.Role != identity.RoleFull {
				return fault.Errorf(fault.Denied, "the key is a %v key of %v; a twin is made by a key of its own", k.Role, k.Owner)
			}
			m := &chain.CreateTwin{Keys: []chain.NewKey{{Key: k.Sign.Public(), Role: identity.RoleFull}}, URL: r.url}
			if k.KEM != nil {
				m.KEM = k.KEM.Public().Bytes()
			}
			if m.Relays, err = r.parties(); err != nil {
				return err
			}
			return g.join(ctx, m)
		},
	}
}

func twinShow() verb {
	return verb{
		use: "show [TWIN]", short: "Show a twin or a group", most: 1,
		long: "Show a twin: its number, its address, or self, which is the key that signs.",
		run: func(ctx context.Context, g *grid, args []string) error {
			id, err := g.partyArg(ctx, argument(args, 0))
			if err != nil {
				return err
			}
			p, err := g.readParty(ctx, id)
			if err != nil {
				return err
			}
			if p.Group != nil {
				return g.printGroup(p)
			}
			pairs := []string{"twin", fmt.Sprint(p.ID), "address", p.Address.String(), "balance", credits(p.Account.Balance), "sequence", fmt.Sprint(p.Account.Sequence)}
			if p.Account.Serial > 0 {
				pairs = append(pairs, "last contract", fmt.Sprintf("%d/%d", p.ID, p.Account.Serial))
			}
			if len(p.KEM) > 0 {
				kem, err := identity.NewKEMPublic(p.Epoch, p.KEM)
				if err != nil {
					return err
				}
				h := kem.Hash()
				pairs = append(pairs, "kem epoch", fmt.Sprint(p.Epoch), "kem hash", hex.EncodeToString(h[:]))
			}
			for _, r := range p.Relays {
				pairs = append(pairs, "relay", fmt.Sprint(r))
			}
			if p.URL != "" {
				pairs = append(pairs, "url", p.URL)
			}
			for _, key := range p.Keys {
				text := fmt.Sprintf("%v %v", key.Role, key.Key)
				if key.Limit > 0 {
					text += ", at most " + credits(key.Limit) + " a day"
				}
				pairs = append(pairs, fmt.Sprintf("key %d", key.Index), text)
			}
			return g.a.print(p, facts(pairs...), fmt.Sprint(p.ID))
		},
	}
}

func twinUpdate() verb {
	var r relayFlags
	return verb{
		use: "update", short: "Replace relays, URL and the key that others seal to",
		long:  "Replace the relays and the URL of your twin, and publish the sealing key of your\nkey file when it is a newer one. What isn't given is kept.",
		flags: r.flags,
		run: func(ctx context.Context, g *grid, _ []string) error {
			k, err := g.key()
			if err != nil {
				return err
			}
			me, err := g.me(ctx, false)
			if err != nil {
				return err
			}
			m := &chain.UpdateTwin{Relays: me.party.Relays, KEM: me.party.KEM, Epoch: me.party.Epoch, URL: me.party.URL}
			if g.cmd.Flags().Changed("relay") {
				if m.Relays, err = r.parties(); err != nil {
					return err
				}
			}
			if g.cmd.Flags().Changed("url") {
				m.URL = r.url
			}
			if k.KEM != nil && string(k.KEM.Public().Bytes()) != string(m.KEM) {
				m.KEM, m.Epoch = k.KEM.Public().Bytes(), m.Epoch+1
			}
			return g.own(ctx, m)
		},
	}
}

func twinKeyAdd() verb {
	var role, limit string
	return verb{
		use: "add KEY", short: "Add a key to your twin", least: 1, most: 1,
		long: `Add a key: its text (ed25519:…), or the name or file of a key. A deploy key is for
programs; it creates, updates, cancels and tops up contracts, and commits at most
--limit credits a day.`,
		example: "  zos key export work --role deploy --to ./ci-key\n  zos twin key add ./ci-key --limit 10",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&role, "role", "", "`role`: full, deploy or read (default that of the key file, else deploy)")
			cmd.Flags().StringVar(&limit, "limit", "0", "`credits` a day that a deploy key may commit")
		},
		run: func(ctx context.Context, g *grid, args []string) (err error) {
			m := &chain.AddKey{Key: chain.NewKey{Role: identity.RoleDeploy}}
			if m.Key.Key, err = identity.ParsePublicKey(args[0]); err != nil {
				f, ferr := identity.ReadKeyFile(g.a.findKey(args[0]))
				if ferr != nil {
					return fault.Errorf(fault.Of(ferr), "key %.80q is neither a key's text nor a file: %w", args[0], ferr)
				}
				m.Key.Key, m.Key.Role = f.Key, f.Role
			}
			if role != "" {
				if m.Key.Role, err = identity.ParseRole(role); err != nil {
					return err
				}
			}
			if m.Key.Limit, err = parseCredits("--limit", limit); err != nil {
				return err
			}
			return g.own(ctx, m)
		},
	}
}

func twinKeyRevoke() verb {
	return verb{
		use: "revoke INDEX", short: "End a key of your twin at once", least: 1, most: 1,
		long: "End a key by its index; zos twin show lists them. The last full key can't be revoked.",
		run: func(ctx context.Context, g *grid, args []string) error {
			i, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return fault.Errorf(fault.Invalid, "index %.40q: the number of a key; zos twin show lists them", args[0])
			}
			return g.own(ctx, &chain.RevokeKey{Index: uint32(i)})
		},
	}
}

func twinKeyRotate() verb {
	var index int
	return verb{
		use: "rotate NEWKEY", short: "Replace a key of your twin by another", least: 1, most: 1,
		long: `Replace a key by another one of yours, a name or a file, which proves itself. The
address of the twin stays. Without --index it is the key that signs.`,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().IntVar(&index, "index", -1, "`index` of the key to replace")
		},
		run: func(ctx context.Context, g *grid, args []string) error {
			k, err := g.a.openKey(g.a.findKey(args[0]))
			if err != nil {
				return err
			}
			defer k.Erase()
			me, err := g.me(ctx, false)
			if err != nil {
				return err
			}
			m := &chain.RotateKey{Index: me.index, Key: k.Sign.Public()}
			if index >= 0 {
				m.Index = uint32(index)
			}
			m.Proof = k.Sign.Sign(state.TagRotate, state.RotateProof(g.status.Chain, me.party.ID, m.Index, m.Key))
			return g.own(ctx, m)
		},
	}
}

// argument is the nth argument, or "".
func argument(args []string, n int) string {
	if n < len(args) {
		return args[n]
	}
	return ""
}
