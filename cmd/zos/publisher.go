package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func publisherVerbs() []verb {
	var keys []string
	return []verb{
		{
			use: "register NAME", short: "Take a publisher's name", least: 1, most: 1,
			long: "Take a name under which your party (or --group) publishes images, with the keys\nthat sign them.",
			flags: func(cmd *cobra.Command) {
				cmd.Flags().StringArrayVar(&keys, "image-key", nil, "`key` that signs images, ed25519:…, or a name or file; repeat (default the key that signs)")
			},
			run: func(ctx context.Context, g *grid, args []string) error {
				m := &chain.RegisterPublisher{Name: args[0]}
				for _, text := range keys {
					k, err := identity.ParsePublicKey(text)
					if err != nil {
						f, ferr := identity.ReadKeyFile(g.a.findKey(text))
						if ferr != nil {
							return fault.Errorf(fault.Of(ferr), "--image-key %.80q is neither a key's text nor a file: %w", text, ferr)
						}
						k = f.Key
					}
					m.Keys = append(m.Keys, k)
				}
				if len(keys) == 0 {
					k, err := g.key()
					if err != nil {
						return err
					}
					m.Keys = append(m.Keys, k.Sign.Public())
				}
				return g.act(ctx, m)
			},
		},
		{
			use: "show NAME", short: "Show a publisher", least: 1, most: 1,
			run: func(ctx context.Context, g *grid, args []string) error {
				p, err := read[chain.Publisher](ctx, g, "publisher "+args[0], "/v1/publishers/"+url.PathEscape(args[0]), chain.PublisherKey(args[0]))
				if err != nil {
					return err
				}
				pairs := []string{"publisher", p.Name, "owner", fmt.Sprint(p.Owner)}
				for _, k := range p.Keys {
					pairs = append(pairs, "key", k.String())
				}
				return g.a.print(p, facts(pairs...), p.Name)
			},
		},
	}
}

// splitRelease reads PUBLISHER/NAME.
func splitRelease(text string) (publisher, name string, err error) {
	publisher, name, ok := strings.Cut(text, "/")
	if !ok || publisher == "" || name == "" {
		return "", "", fault.Errorf(fault.Invalid, "release %.100q: write PUBLISHER/NAME", text)
	}
	return publisher, name, nil
}

func releaseVerbs() []verb {
	return []verb{
		{
			use: "publish PUBLISHER/NAME VERSION ROOT", short: "Record a release; its version must rise", least: 3, most: 3,
			long: "Record a release and the root hash of its image, so that no hub can swap it or\nroll it back.",
			run: func(ctx context.Context, g *grid, args []string) (err error) {
				m := &chain.PublishRelease{}
				if m.Publisher, m.Name, err = splitRelease(args[0]); err != nil {
					return err
				}
				if m.Version, err = parseNumber("version", args[1]); err != nil {
					return err
				}
				if err := m.Root.UnmarshalText([]byte(args[2])); err != nil {
					return fault.Errorf(fault.Of(err), "root: %w", err)
				}
				return g.act(ctx, m)
			},
		},
		{
			use: "show PUBLISHER/NAME", short: "Show the newest release", least: 1, most: 1,
			run: func(ctx context.Context, g *grid, args []string) error {
				publisher, name, err := splitRelease(args[0])
				if err != nil {
					return err
				}
				r, err := read[chain.Release](ctx, g, "release "+args[0], "/v1/releases/"+url.PathEscape(publisher)+"/"+url.PathEscape(name), chain.ReleaseKey(publisher, name))
				if err != nil {
					return err
				}
				return g.a.print(r, facts("release", args[0], "version", fmt.Sprint(r.Version), "root", r.Root.String(), "time", clockTime(r.Time)), r.Root.String())
			},
		},
	}
}
