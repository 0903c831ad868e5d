package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/client"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
)

func dirOf(path string) string { return filepath.Dir(path) }

type pushResult struct {
	client.Report
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (a *app) pushCommand() *cobra.Command {
	return &cobra.Command{
		Use: "push IMAGE NAME[:TAG]", Short: "Publish a local image on a hub; only what it lacks is sent", Args: args(2, 2),
		Long: `Publish an image of the local store as the newest version of NAME, and as TAG if
one is given. Only packs and chunks that the hub lacks are sent. If the local store
has the version that NAME had, the difference from it is sent, too: who has that
version pulls the new one in few bytes. To move a tag alone, use zos flist tag --remote.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			id, err := a.resolveLocal(ctx, args[0])
			if err != nil {
				return err
			}
			rep, err := a.push(ctx, id, args[1])
			if err != nil {
				return err
			}
			return a.print(rep, facts(
				"image", rep.ID, "name", rep.Name, "version", fmt.Sprint(rep.Seq),
				"sent", progress.Size(rep.Sent), "the hub had", progress.Size(rep.Skipped),
			), rep.Name)
		},
	}
}

func (a *app) push(ctx context.Context, id flist.ID, as string) (*pushResult, error) {
	hub, err := a.mustHub()
	if err != nil {
		return nil, err
	}
	key, err := a.key()
	if err != nil {
		return nil, err
	}
	n, err := a.parseName(as)
	if err != nil {
		return nil, err
	}
	if n.owner != key.Public().Address() {
		return nil, fault.Errorf(fault.Denied, "push %s: the name belongs to another key than yours (%v)", as, key.Public().Address())
	}
	store, _, err := a.images()
	if err != nil {
		return nil, err
	}
	dom, _, err := a.domain()
	if err != nil {
		return nil, err
	}
	bar := a.reporter()
	defer bar.Close()
	rep, err := hub.Push(ctx, store, id, client.PushOptions{Key: key, Name: n.name, Tag: n.tag, Domain: dom,
		Progress: func(done, total int64) { bar.Update("push", done, total) }})
	if err != nil {
		return nil, err
	}
	return &pushResult{rep, id.String(), n.String()}, nil
}

func (a *app) pullCommand() *cobra.Command {
	var metadata bool
	cmd := &cobra.Command{
		Use: "pull IMAGE", Short: "Copy an image from a hub to the local store", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			hub, err := a.mustHub()
			if err != nil {
				return err
			}
			id, _, err := a.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			store, _, err := a.images()
			if err != nil {
				return err
			}
			dom, _, err := a.domain()
			if err != nil {
				return err
			}
			bar := a.reporter()
			defer bar.Close()
			rep, err := hub.Pull(ctx, store, id, client.PullOptions{MetadataOnly: metadata, Domain: dom,
				Progress: func(done, total int64) { bar.Update("pull", done, total) }})
			if err != nil {
				return err
			}
			bar.Close()
			if !isHex(args[0]) {
				if err := a.copyPointer(ctx, hub, store, args[0]); err != nil {
					return err
				}
			}
			out := struct {
				client.PullReport
				ID   string `json:"id"`
				Base string `json:"base,omitempty"`
			}{PullReport: rep, ID: id.String()}
			lines := []string{"image", out.ID, "received", progress.Size(rep.Received), "was here", progress.Size(rep.Skipped)}
			if rep.Base != nil {
				out.Base = rep.Base.String()
				lines = append(lines, "made of", out.Base)
			}
			return a.print(out, facts(lines...), out.ID)
		},
	}
	cmd.Flags().BoolVar(&metadata, "metadata", false, "leave the content where it is; it is fetched when it is touched")
	return cmd
}

// copyPointer keeps what a name means, so that it works without the hub.
func (a *app) copyPointer(ctx context.Context, hub *client.Client, store block.Bucket, ref string) error {
	n, err := a.parseName(ref)
	if err != nil {
		return err
	}
	b, err := hub.Read(ctx, n.pointerKey(), 0, flist.MaxRoot+1)
	if err != nil {
		return err
	}
	p, _, err := flist.OpenPointer(b)
	if err != nil {
		return err
	}
	if p.Key() != n.pointerKey() {
		return fault.Errorf(fault.Denied, "the hub answered %s with the pointer of %s", n, p.Key())
	}
	return writeBytes(ctx, store, p.Key(), b)
}

func (a *app) tagCommand() *cobra.Command {
	var onHub bool
	cmd := &cobra.Command{
		Use: "tag IMAGE NAME[:TAG]", Short: "Give an image a name or tag in the local store, or on the hub", Args: args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			id, _, err := a.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			n, err := a.parseName(args[1])
			if err != nil {
				return err
			}
			if !onHub {
				store, _, err := a.images()
				if err != nil {
					return err
				}
				return a.point(ctx, store, n, id)
			}
			hub, err := a.mustHub()
			if err != nil {
				return err
			}
			key, err := a.key()
			if err != nil {
				return err
			}
			seq, moved, err := hub.Point(ctx, key, n.name, n.tag, id)
			if err != nil {
				return err
			}
			if !moved {
				a.note("%s was there already", n)
			}
			return a.print(map[string]any{"name": n.String(), "id": id.String(), "version": seq}, facts("name", n.String(), "version", fmt.Sprint(seq)), n.String())
		},
	}
	cmd.Flags().BoolVar(&onHub, "remote", false, "move the name on the hub")
	return cmd
}

func (a *app) signCommand() *cobra.Command {
	var claims []string
	cmd := &cobra.Command{
		Use: "sign IMAGE", Short: "Add your signature to an image in the local store", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			id, err := a.resolveLocal(ctx, args[0])
			if err != nil {
				return err
			}
			store, _, err := a.images()
			if err != nil {
				return err
			}
			return a.sign(ctx, store, id, claims)
		},
	}
	cmd.Flags().StringArrayVar(&claims, "claim", nil, "`KEY=VALUE` to say about the image; repeat for several")
	return cmd
}

func (a *app) sign(ctx context.Context, store block.Bucket, id flist.ID, claims []string) error {
	key, err := a.key()
	if err != nil {
		return err
	}
	said := make(map[string]string)
	for _, c := range claims {
		k, v, ok := strings.Cut(c, "=")
		if !ok || k == "" {
			return fault.Errorf(fault.Invalid, "the claim %q is not KEY=VALUE", c)
		}
		said[k] = v
	}
	var list []flist.Claim
	for k, v := range said {
		list = append(list, flist.Claim{Name: k, Value: v})
	}
	old, err := store.Read(ctx, flist.SignaturesKey(id), 0, flist.MaxSignatures+1)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	if _, bad := flist.OpenSignatures(old, id); len(old) > 0 && bad != nil {
		a.note("warning: the signatures that were there are replaced: %v", bad)
		old = nil
	}
	b, err := flist.SignImage(old, id, list, key)
	if err != nil {
		return err
	}
	return writeBytes(ctx, store, flist.SignaturesKey(id), b)
}
