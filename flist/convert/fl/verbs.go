package fl

import (
	"context"
	"errors"
	"slices"
	"sync"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
)

// Info is what a file says about itself; no store is asked for it.
type Info struct {
	Entries  int64    `json:"entries"`
	Files    int64    `json:"files"`
	Dirs     int64    `json:"dirs"`
	Links    int64    `json:"links"` // symbolic
	Others   int64    `json:"others"`
	Bytes    int64    `json:"bytes"` // of all files
	Blocks   int64    `json:"blocks"`
	Distinct int64    `json:"distinct"` // blocks that differ
	Tags     []Tag    `json:"tags"`
	Routes   []string `json:"routes"` // passwords are not shown
}

// Inspect reads and checks the metadata of a file.
func Inspect(ctx context.Context, file string) (*Info, error) {
	m, err := loadFile(ctx, file, convert.Limits{}, &checker{file: file})
	if err != nil {
		return nil, err
	}
	info := &Info{Tags: m.tags, Routes: []string{}}
	sortTags(info.Tags)
	for _, r := range m.routes {
		info.Routes = append(info.Routes, r.String())
	}
	distinct := make(map[store.ID]bool)
	for _, in := range m.inodes {
		info.Entries++
		switch in.node.Type() {
		case tree.Regular:
			info.Files++
			info.Bytes += in.node.Size
		case tree.Directory:
			info.Dirs++
		case tree.Symlink:
			info.Links++
		default:
			info.Others++
		}
		info.Blocks += int64(len(in.blocks))
		for _, b := range in.blocks {
			distinct[b.ID] = true
		}
	}
	info.Distinct = int64(len(distinct))
	return info, nil
}

// List reads and checks the metadata of a file and returns its tree. The
// files have no Content, because no store is asked.
func List(ctx context.Context, file string) (*tree.Node, error) {
	m, err := loadFile(ctx, file, convert.Limits{}, &checker{file: file})
	if err != nil {
		return nil, err
	}
	return m.root, nil
}

// CloneOptions say where the blocks come from and go to.
type CloneOptions struct {
	Stores   []string                // to: "[xx-yy=]URL"; together they must take all blocks
	From     []string                // default the routes in the file
	Openers  map[string]store.Opener // default Openers()
	Workers  int                     // default 4
	Progress convert.Progress        // phase "clone", in blocks
}

// CloneReport is what a Clone did.
type CloneReport struct {
	Blocks  int64 `json:"blocks"`  // distinct ones in the file
	Copied  int64 `json:"copied"`  // that a store did not have
	Present int64 `json:"present"` // that every store had, whole
	Bytes   int64 `json:"bytes"`   // stored bytes that were copied
}

// Clone copies the blocks of a file to other stores and checks each by id, tag
// and key, those that are there already too. The file stays as it is; AddRoutes
// tells it of the new stores. A Clone that ended early goes on where it stopped.
func Clone(ctx context.Context, file string, opts CloneOptions) (rep *CloneReport, err error) {
	m, err := loadFile(ctx, file, convert.Limits{}, &checker{file: file})
	if err != nil {
		return nil, err
	}
	from := m.routes
	if len(opts.From) > 0 {
		if from, err = store.ParseRoutes(opts.From); err != nil {
			return nil, err
		}
	}
	to, err := store.ParseRoutes(opts.Stores)
	if err != nil {
		return nil, err
	}
	dst, err := store.OpenRouter(ctx, to, opts.Openers, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Writable(); err != nil {
		return nil, err
	}
	src, err := store.OpenRouter(ctx, from, opts.Openers, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()

	img := &image{ctx: ctx, file: file, router: src}
	blocks, first := m.unique()
	rep = &CloneReport{Blocks: int64(len(blocks))}
	var mu sync.Mutex
	err = each(ctx, blocks, opts.Workers, func(ctx context.Context, b store.Block) error {
		n, err := cloneBlock(ctx, src, dst, b)
		if err != nil {
			return img.blockFault(first[b].in, first[b].i, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			rep.Present++
		} else {
			rep.Copied++
			rep.Bytes += n
		}
		return nil
	}, func(n int) { opts.Progress.Report("clone", int64(n), int64(len(blocks))) })
	if err != nil {
		return nil, err
	}
	return rep, dst.Flush(ctx)
}

// cloneBlock copies one block and returns its stored size, or 0 if it was
// everywhere.
func cloneBlock(ctx context.Context, src, dst *store.Router, b store.Block) (int64, error) {
	stored, missing, err := dst.Has(ctx, b)
	if err != nil {
		return 0, err
	}
	if stored == nil {
		if stored, err = src.Fetch(ctx, b); err != nil {
			return 0, err
		}
	}
	if _, err := b.Open(slices.Clone(stored)); err != nil {
		return 0, err
	}
	if !missing {
		return 0, nil
	}
	if _, err := dst.Put(ctx, b.ID, stored); err != nil {
		return 0, err
	}
	return int64(len(stored)), nil
}
