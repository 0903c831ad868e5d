package main

import (
	"context"
	"fmt"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func txVerbs() []verb {
	return []verb{
		{
			use: "show FILE", short: "Show what a signed transaction does", least: 1, most: 1,
			long: "Show what a transaction does, before you sponsor or send it. No server is asked.",
			run: func(_ context.Context, g *grid, args []string) error {
				s, err := readTx(args[0])
				if err != nil {
					return err
				}
				return g.printTx(args[0], s)
			},
		},
		{
			use: "sponsor FILE", short: "Sign a transaction whose fee you pay", least: 1, most: 1,
			long: "Add the sponsor's signature to a transaction that names you, and write it back.\nSend it with zos tx send.",
			run: func(ctx context.Context, g *grid, args []string) error {
				s, err := readTx(args[0])
				if err != nil {
					return err
				}
				me, err := g.me(ctx, false)
				if err != nil {
					return err
				}
				switch {
				case s.body.Sponsor != me.party.ID:
					return fault.Errorf(fault.Denied, "%s names sponsor %d, you are party %d; ask for one that was made with --sponsor %d", args[0], s.body.Sponsor, me.party.ID, me.party.ID)
				case s.body.Chain != g.status.Chain:
					return fault.Errorf(fault.Conflict, "%s is for chain %.60q, the server is of %s", args[0], s.body.Chain, g.status.Chain)
				}
				k, err := g.key()
				if err != nil {
					return err
				}
				s.signed.Signatures = append(s.signed.Signatures[:1], k.Sign.SignAs(me.index, identity.TagTx, s.signed.Payload))
				if err := writeFile(args[0], s.signed.Encode(), false); err != nil {
					return err
				}
				return g.printTx(args[0], s)
			},
		},
		{
			use: "send FILE", short: "Send a signed transaction", least: 1, most: 1,
			long: "Send a transaction that --sign-only wrote. Sending it twice is harmless: it takes\neffect once.",
			run: func(ctx context.Context, g *grid, args []string) error {
				s, err := readTx(args[0])
				if err != nil {
					return err
				}
				if s.body.Sponsor != 0 && len(s.signed.Signatures) != 2 {
					return fault.Errorf(fault.Denied, "%s names sponsor %d, who has not signed it: zos tx sponsor %s", args[0], s.body.Sponsor, args[0])
				}
				return g.submit(ctx, s.signed.Encode())
			},
		},
	}
}

// signedTx is a transaction in a file.
type signedTx struct {
	signed identity.Signed
	body   chain.Body
}

func readTx(path string) (*signedTx, error) {
	b, err := readSmall(path, chain.MaxTx)
	if err != nil {
		return nil, err
	}
	s, err := parseTx(b)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read transaction %s: %w", path, err)
	}
	return s, nil
}

func parseTx(b []byte) (s *signedTx, err error) {
	s = &signedTx{}
	if s.signed, err = identity.DecodeSigned(b, chain.MaxTx); err != nil {
		return nil, err
	}
	return s, s.decode()
}

func (g *grid) printTx(path string, s *signedTx) error {
	by := fmt.Sprintf("party %d, sequence %d", s.body.Party, s.body.Sequence)
	if s.body.Party == 0 {
		by = "a new party"
	}
	pairs := []string{"file", path, "chain", s.body.Chain, "by", by}
	for _, m := range s.body.Messages {
		pairs = append(pairs, "message", messageText(m))
	}
	if s.body.Sponsor != 0 {
		state := "has not signed"
		if len(s.signed.Signatures) > 1 {
			state = "has signed"
		}
		pairs = append(pairs, "sponsor", fmt.Sprintf("party %d, which %s", s.body.Sponsor, state))
	}
	pairs = append(pairs, "fee", "at most "+credits(s.body.FeeLimit), "expires", clockTime(s.body.Expires))
	return g.a.print(s.body, facts(pairs...), path)
}

// decode reads the body, whose sponsor may not have signed yet.
func (s *signedTx) decode() error {
	probe := s.signed
	if len(probe.Signatures) == 1 {
		probe.Signatures = append(probe.Signatures[:1:1], probe.Signatures[0])
	}
	tx, err := chain.Decode(probe.Encode())
	if err != nil { // without a sponsor there is one signature
		if tx, err = chain.Decode(s.signed.Encode()); err != nil {
			return err
		}
	}
	s.body = tx.Body
	return nil
}
