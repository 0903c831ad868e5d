package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/dir"
	"zos.internal/flist/convert/fl"
	"zos.internal/flist/convert/oci"
	"zos.internal/flist/convert/tar"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
)

// sources are the places that images are built from.
func (a *app) sources(flStores []string) convert.Table {
	return convert.Table{
		"dir":            dir.Read,
		"tar":            tar.Read,
		"oci":            oci.ReadLayout,
		"docker-archive": oci.ReadArchive,
		"registry":       oci.ReadRegistry,
		"fl":             fl.Opener(fl.ReadOptions{Stores: flStores, Openers: fl.Openers()}),
	}
}

type buildOptions struct {
	names      []string
	push       string
	clamp      string
	exclude    []string
	platform   string
	labels     []string
	entrypoint []string
	cmd        []string
	env        []string
	workdir    string
	user       string
	bases      []string
	noBase     bool
	oneFS      bool
	skip       bool
	insecure   bool
	flStores   []string
	claims     []string
}

// buildResult is what build prints.
type buildResult struct {
	*flist.BuildReport
	ID      string            `json:"id"`
	Source  string            `json:"source"`
	Names   []string          `json:"names,omitempty"`
	Skipped []convert.Skipped `json:"skipped,omitempty"`
	Pushed  *pushResult       `json:"pushed,omitempty"`
}

func (a *app) buildCommand() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build SOURCE",
		Short: "Build an image from a directory, tar, container image or .fl",
		Long: `Build an image and put it into the local store.

SOURCE is dir:PATH, tar:FILE (plain, gzip, zstd or xz; - is stdin), oci:DIR (an OCI layout),
docker-archive:FILE, registry:HOST/NAME[:TAG] or fl:FILE. A bare path is recognised.`,
		Example: "  zos flist build ./rootfs --name web\n  zos flist build registry:localhost:5000/nginx:1.25 --name nginx:1.25 --push nginx:1.25",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, err := a.build(cmd.Context(), args[0], &o)
			if err != nil {
				return err
			}
			return a.print(res, res.table(), res.ID)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.names, "name", nil, "`NAME[:TAG]` to give the image in the local store; repeat for several")
	f.StringVar(&o.push, "push", "", "publish on the hub as `NAME[:TAG]`")
	f.StringVar(&o.clamp, "clamp-mtime", "", "no file is newer than this `time` (seconds since 1970 or RFC 3339)")
	f.StringArrayVar(&o.exclude, "exclude", nil, "leave out paths that match `pattern`; repeat for several")
	f.StringVar(&o.platform, "platform", "", "`os/arch` of the image, and which to take from a source that has several")
	f.StringArrayVar(&o.labels, "label", nil, "`KEY=VALUE` label")
	f.StringArrayVar(&o.entrypoint, "entrypoint", nil, "entrypoint; repeat for several words")
	f.StringArrayVar(&o.cmd, "cmd", nil, "default command; repeat for several words")
	f.StringArrayVar(&o.env, "env", nil, "`KEY=VALUE` environment")
	f.StringVar(&o.workdir, "workdir", "", "working `directory`")
	f.StringVar(&o.user, "user", "", "`user[:group]` that the command runs as")
	f.StringArrayVar(&o.bases, "base", nil, "`image` whose chunks are used again (default: all in the store)")
	f.BoolVar(&o.noBase, "no-base", false, "pack every chunk again")
	f.BoolVar(&o.oneFS, "one-file-system", false, "don't descend into other file systems")
	f.BoolVar(&o.skip, "skip-unreadable", false, "leave out and list what can't be read")
	f.BoolVar(&o.insecure, "insecure", false, "plain HTTP to registries beside this machine's")
	f.StringArrayVar(&o.flStores, "fl-store", nil, "`URL` that replaces the routes of a .fl source")
	f.StringArrayVar(&o.claims, "claim", nil, "`KEY=VALUE` to sign about the image beside its source")
	return cmd
}

// build makes an image, signs and names it, and publishes it if asked to.
func (a *app) build(ctx context.Context, source string, o *buildOptions) (out *buildResult, err error) {
	store, _, err := a.images()
	if err != nil {
		return nil, err
	}
	dom, _, err := a.domain()
	if err != nil {
		return nil, err
	}
	var names []name
	for _, s := range o.names {
		n, err := a.parseName(s)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	bar := a.reporter()
	defer bar.Close()
	copts := convert.Options{Progress: bar.Update, Stdin: a.stdin, Exclude: o.exclude, OneFileSystem: o.oneFS,
		SkipUnreadable: o.skip, Platform: o.platform, Insecure: o.insecure, Auth: oci.AuthFromEnv(a.getenv)}
	if o.clamp != "" {
		t, err := parseTime(o.clamp)
		if err != nil {
			return nil, err
		}
		copts.ClampMtime = &t
	}
	res, err := convert.Open(ctx, source, a.sources(o.flStores), copts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	if err := o.configure(res); err != nil {
		return nil, err
	}
	bases, near, err := a.bases(ctx, store, o)
	if err != nil {
		return nil, err
	}
	rep, err := flist.Build(ctx, res.Root, store, flist.BuildOptions{
		Config: res.Config, Platform: first(o.platform, res.Platform), Domain: dom, Bases: bases, Near: near,
		Progress: func(done, total int64) { bar.Update("build", done, total) },
	})
	if err != nil {
		return nil, err
	}
	bar.Close()
	out = &buildResult{BuildReport: rep, ID: rep.ID.String(), Source: res.Source, Names: o.names, Skipped: res.Skipped}
	claims := append([]string{"source=" + res.Source, "builder=zos " + release, "built=" + a.clock.Now().UTC().Format(time.RFC3339)}, o.claims...)
	if err := a.sign(ctx, store, rep.ID, claims); err != nil {
		return nil, err
	}
	for _, n := range names {
		if err := a.point(ctx, store, n, rep.ID); err != nil {
			return nil, err
		}
	}
	if o.push != "" {
		if out.Pushed, err = a.push(ctx, rep.ID, o.push); err != nil {
			return nil, err
		}
	}
	for _, s := range res.Skipped {
		a.note("skipped %s: %s", printable(s.Path), s.Reason)
	}
	return out, nil
}

func (r *buildResult) table() table {
	return facts(
		"image", r.ID,
		"files", fmt.Sprint(r.Entries),
		"content", progress.Size(r.Content)+" in "+strconv.Itoa(r.Chunks)+" chunks",
		"new", progress.Size(r.PackedBytes)+" in "+strconv.Itoa(r.Packs)+" packs",
		"metadata", progress.Size(r.Published)+" to fetch before it can be listed",
	)
}

// configure changes the configuration that the source brought.
func (o *buildOptions) configure(res *convert.Result) error {
	c := res.Config
	if len(o.entrypoint) > 0 {
		c.Entrypoint = o.entrypoint
	}
	if len(o.cmd) > 0 {
		c.Cmd = o.cmd
	}
	c.Env = append(c.Env, o.env...)
	c.Workdir = first(o.workdir, c.Workdir)
	c.User = first(o.user, c.User)
	for _, l := range o.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return fault.Errorf(fault.Invalid, "the label %q is not KEY=VALUE", l)
		}
		if c.Labels == nil {
			c.Labels = make(map[string]string)
		}
		c.Labels[k] = v
	}
	return nil
}

// bases are the images whose chunks a build uses again: those that the user
// named, or any in the store.
func (a *app) bases(ctx context.Context, store block.Bucket, o *buildOptions) (named, near []flist.ID, err error) {
	if o.noBase {
		return nil, nil, nil
	}
	for _, ref := range o.bases {
		id, _, err := a.resolve(ctx, ref)
		if err != nil {
			return nil, nil, err
		}
		named = append(named, id)
	}
	if len(named) > 0 {
		return named, nil, nil
	}
	for key, err := range store.List(ctx, "r/") {
		if err != nil {
			return nil, nil, err
		}
		if id, err := block.ParseName(strings.TrimPrefix(key, "r/")); err == nil {
			near = append(near, id)
		}
	}
	return nil, near, nil
}

func parseTime(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, fault.Errorf(fault.Invalid, "the time %q is neither seconds since 1970 nor RFC 3339", s)
	}
	return t.Unix(), nil
}

func (a *app) exportCommand() *cobra.Command {
	var to []string
	var strict bool
	var flStores []string
	cmd := &cobra.Command{
		Use:     "export IMAGE --to tar:FILE|oci:DIR|dir:DIR|fl:FILE",
		Short:   "Write an image as a directory, tar, OCI layout or .fl",
		Example: "  zos flist export web --to tar:web.tar --to oci:web-layout",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(to) == 0 {
				return &usageError{cmd, fmt.Errorf("say where to with --to")}
			}
			ctx := cmd.Context()
			img, m, err := a.open(ctx, args[0])
			if err != nil {
				return err
			}
			dev, done, err := a.device(ctx, img, m)
			if err != nil {
				return err
			}
			defer done()
			img.Attach(ctx, dev)
			bar := a.reporter()
			defer bar.Close()
			for _, target := range to {
				if err := a.export(ctx, img, target, strict, flStores, bar); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&to, "to", nil, "`target`; repeat for several")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail instead of losing what the target can't hold")
	cmd.Flags().StringArrayVar(&flStores, "fl-store", nil, "`URL` where the blocks of a .fl go")
	return cmd
}

func (a *app) export(ctx context.Context, img *flist.Image, target string, strict bool, flStores []string, bar *progress.Reporter) error {
	scheme, path, _ := strings.Cut(target, ":")
	w := convert.WriteOptions{Progress: bar.Update}
	switch scheme {
	case "dir":
		lost, err := a.writeDir(ctx, path, img.Tree, w)
		if err == nil && strict && lost > 0 {
			return fault.Errorf(fault.Unsupported, "export to %s: %d things could not be kept; run it as root", target, lost)
		}
		return err
	case "tar":
		return a.exportTar(ctx, img, path, w)
	case "oci":
		_, err := oci.Write(ctx, path, img.Tree, img.Config, oci.WriteOptions{WriteOptions: w, Platform: img.Root.Platform})
		return err
	case "fl":
		_, err := fl.Write(ctx, img.Tree, img.Config, path, fl.WriteOptions{WriteOptions: w, Stores: flStores, Strict: strict, ID: img.ID.String(), Losses: a.noteLosses})
		return err
	}
	return fault.Errorf(fault.Invalid, "the target %q is none of tar:FILE, oci:DIR, dir:DIR, fl:FILE", target)
}
