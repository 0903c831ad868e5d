package fl

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/blake3"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// ReadOptions say where the blocks are and how much is accepted.
type ReadOptions struct {
	convert.Options
	// Stores are used instead of the routes in the file ("[xx-yy=]URL"), for
	// example because the file has them without their passwords.
	Stores []string
	// Openers are the stores by scheme; default Openers().
	Openers map[string]store.Opener
	// CacheDir keeps fetched blocks as a dir:// store does and is asked first;
	// its blocks are checked like all others. Nothing is removed from it. Empty:
	// no cache.
	CacheDir string
	// Partial makes Read fetch and check every block at once and write a line
	// for each problem it finds in the file, instead of ending at the first.
	// With a problem there is no Result.
	Partial io.Writer
	// Workers is how many blocks Partial fetches at once; default 4.
	Workers int
}

// Opener is Read for a convert.Table; its convert.Options replace those in o.
func Opener(o ReadOptions) convert.Opener {
	return func(ctx context.Context, path string, opts convert.Options) (*convert.Result, error) {
		o := o
		o.Options = opts
		return Read(ctx, path, o)
	}
}

// Read opens a .fl. The metadata is read and checked as a whole: a database
// that is damaged, too large or not one tree is refused with the number of the
// inode. Blocks are fetched when a file is opened, with ctx, until
// Result.Close; each is checked by id, tag and key, and their sum by the size
// of the file, and an error names inode and block.
//
// Tags become labels "fl.tag.<key>". A /.startup.toml gives entrypoint,
// environment and working directory, and stays in the tree; one that says
// nothing usable is listed in Result.Skipped.
//
// The kinds of errors are NotFound (no file, no such block), Invalid (damage),
// Exhausted (over a limit), Unsupported (a store or an old format),
// Unavailable (a store does not answer) and Conflict (being written).
func Read(ctx context.Context, file string, opts ReadOptions) (*convert.Result, error) {
	c := &checker{file: file, report: opts.Partial}
	m, err := loadFile(ctx, file, opts.Limits, c)
	if err != nil {
		return nil, err
	}
	routes := m.routes
	if len(opts.Stores) > 0 {
		if routes, err = store.ParseRoutes(opts.Stores); err != nil {
			return nil, err
		}
	}
	router, err := store.OpenRouter(ctx, routes, opts.Openers, true)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read %s: %w", file, err)
	}
	if opts.CacheDir != "" {
		if router.Cache, err = store.OpenCache(opts.CacheDir); err != nil {
			return nil, errors.Join(err, router.Close())
		}
	}
	ictx, cancel := context.WithCancel(ctx)
	img := &image{ctx: ictx, file: file, router: router}
	res := &convert.Result{Root: m.root, Config: &config.Config{}}
	res.OnClose(router)
	res.OnClose(closer(cancel))
	if err := m.complete(ctx, img, res, opts, c); err != nil {
		return nil, errors.Join(err, res.Close())
	}
	return convert.Finish(res, opts.Options)
}

type closer func()

func (c closer) Close() error { c(); return nil }

// loadFile reads and checks the metadata.
func loadFile(ctx context.Context, file string, lim convert.Limits, c *checker) (m *metadata, err error) {
	lim = lim.WithDefaults()
	d, err := openDB(ctx, file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return load(ctx, d, limits{entries: min(lim.Entries, tree.MaxEntries), blocks: MaxBlocks, bytes: lim.Bytes}, c)
}

// complete gives the result its contents, configuration and provenance.
func (m *metadata) complete(ctx context.Context, img *image, res *convert.Result, opts ReadOptions, c *checker) error {
	var why [256]error
	var have [256]int
	for b := range have {
		have[b], why[b] = img.router.Candidates(byte(b))
	}
	for _, in := range m.inodes {
		if !in.node.IsRegular() {
			continue
		}
		in.node.Content = &content{img, in}
		for i, b := range in.blocks {
			if first := b.ID[0]; have[first] == 0 {
				if err := c.badBlock(img.blockFault(in, i, why[first])); err != nil {
					return err
				}
			}
		}
	}
	if c.report != nil {
		if err := m.verify(ctx, img, opts.Workers, opts.Progress, c); err != nil {
			return err
		}
		if c.problems > 0 {
			return fault.Errorf(fault.Of(c.first), "%d problems, so no image is made; the first: %w", c.problems, c.first)
		}
		if _, err := fmt.Fprintf(c.report, "read %s: no problems in %d inodes\n", c.file, len(m.inodes)); err != nil {
			return fault.Errorf(fault.Unavailable, "write the report on %s: %w", c.file, err)
		}
	}
	var err error
	if res.Source, err = source(img.file); err != nil {
		return err
	}
	return m.configure(res)
}

// configure fills the configuration from /.startup.toml and the tags.
func (m *metadata) configure(res *convert.Result) error {
	n := m.root.Lookup(StartupFile)
	if n != nil && n.IsRegular() && n.Size <= MaxStartup {
		raw, err := n.ReadAll(MaxStartup)
		if err != nil {
			return err
		}
		c, err := ParseStartup(raw)
		if err != nil {
			res.Skipped = append(res.Skipped, convert.Skipped{Path: StartupFile, Reason: "the file is in the image, its start command is not in the configuration: " + err.Error()})
		} else {
			res.Config = c
		}
	}
	tagsToLabels(m.tags, res.Config)
	_, err := res.Config.Encode()
	return err
}

// source names the file by its bytes.
func source(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := blake3.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return "fl:blake3:" + hex.EncodeToString(h.Sum(nil)), nil
}
