package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/block/s3"
	"zos.internal/hub"
	"zos.internal/internal/fault"
)

func (a *app) hubCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hub", Short: "Publish images over HTTP", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.hubServeCommand())
	return cmd
}

func (a *app) hubServeCommand() *cobra.Command {
	var cfg hub.Config
	var dir, bucket string
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve images from a directory or an S3 bucket", Args: args(0, 0),
		Example: "  zos hub serve --dir /srv/images --publishers publishers\n  zos hub serve --s3 https://s3.example.org/images --publishers publishers",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			switch {
			case bucket != "" && dir != "":
				return &usageError{cmd, fmt.Errorf("give --dir or --s3, not both")}
			case bucket != "":
				b, err := a.openS3(bucket)
				if err != nil {
					return err
				}
				cfg.Store = b
			case dir != "":
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return fault.Errorf(fault.Of(err), "open hub store: %w", err)
				}
				cfg.Store = block.OpenDir(dir)
			default:
				store, _, err := a.images()
				if err != nil {
					return err
				}
				cfg.Store = store
			}
			cfg.Log = slog.New(slog.NewTextHandler(a.stderr, nil))
			cfg.Clock = a.clock
			cfg.Ready = func(url string) { a.note("hub: %s", url) }
			return hub.Serve(ctx, cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:8480", "`address` to listen on; loopback unless you say otherwise")
	f.StringVar(&dir, "dir", "", "`directory` to serve (default the local image store)")
	f.StringVar(&bucket, "s3", "", "S3 bucket to serve: `URL` of the endpoint and bucket; keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	f.StringVar(&cfg.Publishers, "publishers", "", "`file` of who may upload: lines of ADDRESS ALIAS QUOTA")
	f.StringVar(&cfg.Title, "title", "", "title of the pages")
	f.StringVar(&cfg.URL, "url", "", "`URL` where people reach the pages")
	f.StringArrayVar(&cfg.Audience, "audience", nil, "`host` that publishers use for this hub; repeat for several")
	f.StringVar(&cfg.Cert, "cert", "", "TLS certificate `file`")
	f.StringVar(&cfg.Key, "cert-key", "", "TLS key `file`")
	f.IntVar(&cfg.Keep.Versions, "keep-versions", 0, "how many past versions of a name a collection leaves; 0 is all")
	f.DurationVar(&cfg.Keep.For, "keep-for", 0, "how long a collection leaves past versions; 0 is for ever")
	f.DurationVar(&cfg.CollectEvery, "collect", 0, "how often to delete what no name points to; 0 is never")
	return cmd
}

// openS3 opens the bucket at http[s]://HOST[:PORT]/BUCKET[/PREFIX].
func (a *app) openS3(address string) (*s3.Bucket, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fault.Errorf(fault.Invalid, "the S3 address %q is not http[s]://HOST/BUCKET[/PREFIX]", address)
	}
	bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if prefix != "" {
		prefix += "/"
	}
	return s3.Open(s3.Config{Endpoint: u.Host, Bucket: bucket, Prefix: prefix, Region: first(a.getenv("AWS_REGION"), "us-east-1"), Plain: u.Scheme == "http",
		AccessKey: a.getenv("AWS_ACCESS_KEY_ID"), SecretKey: a.getenv("AWS_SECRET_ACCESS_KEY")})
}
