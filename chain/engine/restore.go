package engine

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	dbm "github.com/cosmos/cosmos-db"
	"github.com/klauspost/compress/zstd"

	"zos.internal/internal/fault"
)

// restore builds the tree of a snapshot in a folder of its own, and puts it in
// the place of this empty one when its root is right.
func (t *Tree) restore(x *restore) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tree.Version() != 0 || t.dir == "" {
		return fault.Errorf(fault.Conflict, "restore snapshot: the state is at block %d, it must be empty", t.tree.Version())
	}
	const beside = "restored"
	place := func(name string) string { return filepath.Join(t.dir, name+".db") }
	if err := os.RemoveAll(place(beside)); err != nil {
		return err
	}
	if err := build(t.dir, beside, x); err != nil {
		os.RemoveAll(place(beside))
		return err
	}
	// From here on an error leaves the process without a state: it must end,
	// and starts with an empty one or with the restored one.
	if err := errors.Join(t.tree.Close(), t.db.Close(), os.RemoveAll(place(t.name)), os.Rename(place(beside), place(t.name))); err != nil {
		panic("chain state: replace by snapshot: " + err.Error())
	}
	db, err := dbm.NewDB(t.name, dbm.GoLevelDBBackend, t.dir)
	if err != nil {
		panic("chain state: open after snapshot: " + err.Error())
	}
	fresh, err := newTree(db)
	if err != nil {
		panic("chain state: open after snapshot: " + err.Error())
	}
	t.db, t.tree, t.changed = fresh.db, fresh.tree, nil
	t.firsts.forget()
	return nil
}

// build imports the chunks into a new folder and checks the root. Chunks come
// from strangers: nothing in them may do more than fail.
func build(dir, name string, x *restore) (err error) {
	db, err := dbm.NewDB(name, dbm.GoLevelDBBackend, dir)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	fresh, err := newTree(db)
	if err != nil {
		return err
	}
	err = guarded(func() error {
		im, err := fresh.tree.Import(int64(x.height))
		if err != nil {
			return err
		}
		defer im.Close()
		r, size, closeAll, err := x.open()
		if err != nil {
			return err
		}
		defer closeAll()
		limited := &io.LimitedReader{R: r, N: size*maxRatio + 1<<20}
		b := bufio.NewReaderSize(limited, 64<<10)
		for {
			n, err := readNode(b)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if n.Version > int64(x.height) {
				return fault.Errorf(fault.Invalid, "snapshot of block %d: node of block %d", x.height, n.Version)
			}
			if err := im.Add(n); err != nil {
				return fault.Errorf(fault.Invalid, "snapshot: %w", err)
			}
		}
		if limited.N <= 0 {
			return fault.Errorf(fault.Invalid, "snapshot: %d bytes unpack to more than %d times as much", size, maxRatio)
		}
		return im.Commit()
	})
	if err != nil {
		return err
	}
	if got := fresh.tree.Hash(); !bytes.Equal(got, x.root) {
		return fault.Errorf(fault.Invalid, "the snapshot of block %d has root %x, signed was %x", x.height, got, x.root)
	}
	return nil
}

// open reads the chunks as one stream.
func (x *restore) open() (r io.Reader, size int64, closeAll func(), err error) {
	var files []io.Reader
	var done []func() error
	closeAll = func() {
		for _, f := range done {
			_ = f()
		}
	}
	for i := range x.chunks() {
		f, err := os.Open(filepath.Join(x.dir, strconv.FormatUint(uint64(i), 10)))
		if err != nil {
			closeAll()
			return nil, 0, nil, err
		}
		done = append(done, f.Close)
		info, err := f.Stat()
		if err != nil {
			closeAll()
			return nil, 0, nil, err
		}
		size += info.Size()
		files = append(files, f)
	}
	z, err := zstd.NewReader(io.MultiReader(files...), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(32<<20))
	if err != nil {
		closeAll()
		return nil, 0, nil, err
	}
	done = append(done, func() error { z.Close(); return nil })
	return z, size, closeAll, nil
}
