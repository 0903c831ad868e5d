package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// read asks for a record. With --prove it is what the validators signed.
func read[T any](ctx context.Context, g *grid, what, path string, key []byte) (*T, error) {
	v := new(T)
	if !g.o.prove {
		return v, g.get(ctx, path, v)
	}
	values, err := g.proven(ctx, key)
	if err != nil {
		return nil, err
	}
	return v, decode(what, values[0], v)
}

func decode(what string, b []byte, into any) error {
	if b == nil {
		return fault.Errorf(fault.NotFound, "%s does not exist, which is proven", what)
	}
	if err := canon.Unmarshal(b, into); err != nil {
		return fault.Errorf(fault.Unsupported, "the record of %s is of a newer version of the chain; upgrade: %w", what, err)
	}
	return nil
}

// readParty is a party with its account.
func (g *grid) readParty(ctx context.Context, id identity.Party) (*chain.PartyAnswer, error) {
	p := &chain.PartyAnswer{}
	if !g.o.prove {
		return p, g.get(ctx, fmt.Sprintf("/v1/parties/%d", id), p)
	}
	values, err := g.proven(ctx, chain.PartyKey(id), chain.AccountKey(id))
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("party %d", id)
	if err := decode(what, values[0], &p.Party); err != nil || values[1] == nil {
		return p, err
	}
	return p, decode("the account of "+what, values[1], &p.Account)
}

// readNode is a node with its load.
func (g *grid) readNode(ctx context.Context, id identity.Party) (*chain.NodeAnswer, error) {
	n := &chain.NodeAnswer{}
	if !g.o.prove {
		return n, g.get(ctx, fmt.Sprintf("/v1/nodes/%d", id), n)
	}
	values, err := g.proven(ctx, chain.NodeKey(id), chain.LoadKey(id))
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("node %d", id)
	if err := decode(what, values[0], &n.Node); err != nil || values[1] == nil {
		return n, err
	}
	return n, decode("the load of "+what, values[1], &n.Load)
}

// readAll replaces the items of a list by what is proven. That the list is
// complete is not: a server can leave something out.
func readAll[T any](ctx context.Context, g *grid, what string, items []T, key func(T) []byte) ([]T, error) {
	if !g.o.prove || len(items) == 0 {
		return items, nil
	}
	out := make([]T, len(items))
	for from := 0; from < len(items); from += chain.MaxProofKeys {
		var keys [][]byte
		for _, i := range items[from:min(len(items), from+chain.MaxProofKeys)] {
			keys = append(keys, key(i))
		}
		values, err := g.proven(ctx, keys...)
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			if err := decode(what, v, &out[from+i]); err != nil {
				return nil, err
			}
		}
	}
	g.a.note("each record is proven; that none is missing isn't")
	return out, nil
}

// proven reads records, all of one state, that the validators signed.
func (g *grid) proven(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	if g.light == nil {
		if err := g.trust(ctx); err != nil {
			return nil, err
		}
	}
	values, at, err := g.light.Records(ctx, keys...)
	if err != nil {
		return nil, err
	}
	g.a.note("proven: state of block %d, signed at %s", at.Height, at.Time.UTC().Format(time.RFC3339))
	return values, nil
}

// trust starts the light client from headers that were kept, or from a block
// that the user trusts.
func (g *grid) trust(ctx context.Context) error {
	id, err := g.id(ctx)
	if err != nil {
		return err
	}
	o := client.Options{Chain: id, Dir: filepath.Join(g.a.dataDir(), "trust", id), Primary: g.c, Clock: g.a.clock}
	for _, w := range g.o.witnesses {
		c, err := client.New(w, nil)
		if err != nil {
			return err
		}
		o.Witnesses = append(o.Witnesses, c)
	}
	kept, err := os.ReadDir(o.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Errorf(fault.Of(err), "read the headers that are trusted: %w", err)
	}
	switch {
	case g.o.trust != "":
		if err := g.trustBlock(ctx, o); err != nil {
			return err
		}
	case len(kept) > 0:
	case g.o.trustNow:
		var page chain.Page[chain.BlockAnswer]
		if err := g.get(ctx, "/v1/blocks?limit=1", &page); err != nil {
			return err
		}
		if len(page.Items) == 0 {
			return fault.Errorf(fault.Unavailable, "the chain has no block yet; try again in a moment")
		}
		o.Trust = client.Trust{Height: page.Items[0].Height, Hash: page.Items[0].Hash}
		g.a.note("from now on block %d:%s of chain %s is trusted, because this server says so; compare it with somebody else's", o.Trust.Height, o.Trust.Hash, id)
	default:
		return fault.Errorf(fault.Denied, "no block of chain %s is trusted yet: give --trust HEIGHT:HASH of one that you know to be right (zos chain blocks shows them), or --trust-first to believe this server once", id)
	}
	g.light, err = client.NewLight(ctx, o)
	return err
}

// trustBlock replaces what was trusted by what a block that the user named
// proves. When it proves nothing, all stays as it was.
func (g *grid) trustBlock(ctx context.Context, o client.Options) (err error) {
	dir := o.Dir
	if o.Trust, err = parseTrust(g.o.trust); err != nil {
		return err
	}
	o.Dir += ".new"
	defer os.RemoveAll(o.Dir) // of an attempt that failed
	if err := os.RemoveAll(o.Dir); err != nil {
		return err
	}
	if _, err := client.NewLight(ctx, o); err != nil {
		return fault.Errorf(fault.Of(err), "--trust %s: %w", g.o.trust, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(o.Dir, dir)
}

func parseTrust(text string) (t client.Trust, err error) {
	height, hash, _ := strings.Cut(text, ":")
	if t.Height, err = strconv.ParseUint(height, 10, 62); err != nil || t.Height == 0 {
		return t, fault.Errorf(fault.Invalid, "--trust %.100q: write HEIGHT:HASH, such as 812:9f2c…", text)
	}
	if err := t.Hash.UnmarshalText([]byte(hash)); err != nil {
		return t, fault.Errorf(fault.Invalid, "--trust %.100q: %w", text, err)
	}
	return t, nil
}
