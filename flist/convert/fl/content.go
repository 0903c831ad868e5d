package fl

import (
	"context"
	"io"
	"sync"

	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// readAhead is how many blocks of one open file are fetched at once. With
// store.MaxBlock it bounds the memory of a reader.
const readAhead = 4

// image is what the contents of one .fl share. ctx lives as long as the
// image: Content.Open has none of its own.
type image struct {
	ctx    context.Context
	file   string
	router *store.Router
}

// content is a file whose blocks are fetched when it is read.
type content struct {
	img *image
	in  *inode
}

var _ tree.Content = (*content)(nil)

// Open returns a reader that hands out the bytes of a block after its id, tag
// and key were checked, and the last block only if all blocks together have
// the size of the file.
func (c *content) Open() (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(c.img.ctx)
	return &reader{c: c, ctx: ctx, cancel: cancel}, nil
}

type fetched struct {
	plain []byte
	err   error
}

type reader struct {
	c      *content
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ahead  []chan fetched // of the blocks from next on
	next   int            // index of the block that is read next
	cur    []byte         // what is left of the block before it
	total  int64          // bytes of all blocks before next
	err    error          // once set, for ever
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.cur) == 0 {
		if r.err == nil {
			r.cur, r.err = r.block()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.cur)
	r.cur = r.cur[n:]
	return n, nil
}

// block is the next block of the file, or io.EOF.
func (r *reader) block() ([]byte, error) {
	in := r.c.in
	for i := r.next + len(r.ahead); i < len(in.blocks) && len(r.ahead) < readAhead; i++ {
		ch := make(chan fetched, 1)
		r.ahead = append(r.ahead, ch)
		r.wg.Go(func() {
			plain, err := r.c.img.router.Open(r.ctx, in.blocks[i])
			ch <- fetched{plain, err}
		})
	}
	if len(r.ahead) == 0 {
		return nil, io.EOF
	}
	f := <-r.ahead[0]
	r.ahead = r.ahead[1:]
	if f.err != nil {
		return nil, r.c.img.blockFault(in, r.next, f.err)
	}
	r.next++
	r.total += int64(len(f.plain))
	if size := in.node.Size; r.total > size || r.next == len(in.blocks) && r.total < size {
		return nil, sumFault(r.c.img.file, in, r.next-1, r.total)
	}
	return f.plain, nil
}

// Close ends what is still being fetched.
func (r *reader) Close() error {
	r.cancel()
	r.wg.Wait()
	r.ahead, r.cur, r.err = nil, nil, fault.Errorf(fault.Invalid, "read %s: the file is closed", r.c.img.file)
	return nil
}

func sumFault(file string, in *inode, i int, sum int64) error {
	return fault.Errorf(fault.Invalid, "read %s: %v block %d: the blocks up to this one have %d bytes, the size of the file is %d; the .fl is damaged", file, in, i, sum, in.node.Size)
}

// blockFault says which block of which file could not be had.
func (img *image) blockFault(in *inode, i int, err error) error {
	next := "get the block from another store with --store"
	if fault.Of(err) == fault.Unavailable {
		next = "try again, or give another store with --store"
	}
	return fault.Errorf(fault.Of(err), "read %s: %v block %d of %d (id %v): %w; %s", img.file, in, i, len(in.blocks), in.blocks[i].ID, err, next)
}
