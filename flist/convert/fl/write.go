package fl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// WriteOptions say where the blocks go and what may be lost.
type WriteOptions struct {
	convert.WriteOptions
	// Stores take the blocks ("[xx-yy=]URL"), every one those of its range, and
	// become the routes of the file. Together they must take all blocks.
	Stores []string
	// Openers are the stores by scheme; default Openers().
	Openers map[string]store.Opener
	// KeepPasswords leaves passwords in the routes. Otherwise a reader gives
	// the store with its password on the command line.
	KeepPasswords bool
	// ID is the id of the image; it becomes the tag "zos.flist.id".
	ID string
	// Strict refuses what has losses.
	Strict bool
	// Losses is told what is left out, before anything is written.
	Losses func([]Loss)
	// Workers is how many blocks are sealed and stored at once; default 2.
	Workers int
}

// Report is what a Write did.
type Report struct {
	Entries   int64    `json:"entries"`
	Bytes     int64    `json:"bytes"`     // of all files, hard links at each name
	Blocks    int64    `json:"blocks"`    // rows in the file
	NewBlocks int64    `json:"newBlocks"` // written to a store
	NewBytes  int64    `json:"newBytes"`  // stored bytes of those
	Losses    []Loss   `json:"losses,omitempty"`
	Notes     []string `json:"notes,omitempty"` // what a user of rfs will notice
}

// Write exports a tree with its configuration to file and its blocks to the
// stores. The blocks come first; the file is replaced, on disk, when all is
// well. A run that ends early leaves the old file or none, and the next one
// writes only the blocks that are missing.
//
// What a .fl can't hold is told to opts.Losses first, and refused as Conflict
// under Strict; names that are not UTF-8 are always refused. A command in cfg
// is written as /.startup.toml, labels "fl.tag.<key>" as tags.
func Write(ctx context.Context, root *tree.Node, cfg *config.Config, file string, opts WriteOptions) (rep *Report, err error) {
	p, err := plan(root, cfg, opts.ID, opts.Contents)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "write %s: %w", file, err)
	}
	if opts.Strict && len(p.losses) > 0 {
		return nil, fault.Errorf(fault.Conflict, "write %s: a .fl can't hold all of the image: %v; leave out --strict to accept that", file, p.losses)
	}
	if root, err = p.withStartup(root); err != nil {
		return nil, err
	}
	routes, err := store.ParseRoutes(opts.Stores)
	if err != nil {
		return nil, err
	}
	router, err := store.OpenRouter(ctx, routes, opts.Openers, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, router.Close()) }()
	if err := router.Writable(); err != nil {
		return nil, err
	}
	if opts.Losses != nil && len(p.losses) > 0 {
		opts.Losses(p.losses)
	}
	out, err := newPart(file)
	if err != nil {
		return nil, err
	}
	defer out.close()

	w := &writer{ctx: ctx, opts: opts, plan: p, router: router, ino: RootIno, inodes: make(map[*tree.Node]int64)}
	w.report = Report{Entries: p.entries, Losses: p.losses, Notes: p.notes(routes, opts.KeepPasswords)}
	if err := w.database(out.path, root, routes); err != nil {
		return nil, fault.Errorf(fault.Of(err), "write %s: %w", file, err)
	}
	if err := router.Flush(ctx); err != nil {
		return nil, err
	}
	if err := out.commit(); err != nil {
		return nil, fault.Errorf(fault.Of(err), "write %s: %w", file, err)
	}
	return &w.report, nil
}

func (p *planned) notes(routes []store.Route, keep bool) (notes []string) {
	if p.gids > 0 {
		notes = append(notes, fmt.Sprintf("rfs shows the uid as the gid (it reads the wrong column); %d entries have another gid, and the file holds the right one", p.gids))
	}
	for _, r := range routes {
		if !keep && store.StripPassword(r.URL) != r.URL {
			notes = append(notes, fmt.Sprintf("the password of the store %v is not in the file; readers give it with --store", r))
		}
	}
	return notes
}

// writer fills one database. All statements run in the goroutine of database;
// the workers only seal blocks and store them.
type writer struct {
	ctx    context.Context
	opts   WriteOptions
	plan   *planned
	router *store.Router
	report Report

	tx                  *sql.Tx
	inode, extra, block *sql.Stmt
	ino                 int64                // of the next inode
	inodes              map[*tree.Node]int64 // first copy of a file with several names
	pool                *sealers
	shown               int64 // bytes that progress was told about
}

func (w *writer) database(path string, root *tree.Node, routes []store.Route) (err error) {
	d, err := connect(w.ctx, path, "mode=rw&_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=locking_mode(EXCLUSIVE)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(d.fault(w.ctx, err), d.Close()) }()
	if _, err := d.conn.ExecContext(w.ctx, schema); err != nil {
		return err
	}
	if w.tx, err = d.conn.BeginTx(w.ctx, nil); err != nil {
		return err
	}
	defer w.tx.Rollback() // nothing after Commit
	for _, s := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&w.inode, "INSERT INTO inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime) VALUES (?,?,?,?,?,?,?,?,?,?)"},
		{&w.extra, "INSERT INTO extra (ino, data) VALUES (?,?)"},
		{&w.block, "INSERT INTO block (ino, id, key) VALUES (?,?,?)"},
	} {
		if *s.to, err = w.tx.PrepareContext(w.ctx, s.query); err != nil {
			return err
		}
		defer (*s.to).Close()
	}
	w.pool = newSealers(w.ctx, w.router, w.opts.Workers)
	defer w.pool.close()
	if err := w.tree(root); err != nil {
		return err
	}
	for _, t := range w.plan.tags {
		if _, err := w.tx.ExecContext(w.ctx, "INSERT INTO tag (key, value) VALUES (?,?)", t.Key, t.Value); err != nil {
			return err
		}
	}
	for _, r := range routes {
		if !w.opts.KeepPasswords {
			r.URL = store.StripPassword(r.URL)
		}
		if _, err := w.tx.ExecContext(w.ctx, "INSERT INTO route (start, end, url) VALUES (?,?,?)", r.Start, r.End, r.URL); err != nil {
			return err
		}
	}
	w.report.NewBlocks, w.report.NewBytes = w.pool.written()
	return w.tx.Commit()
}

// tree writes every entry: the parent before its children, in byte order.
func (w *writer) tree(root *tree.Node) error {
	if err := w.node(0, "/", "/", root); err != nil {
		return err
	}
	if err := w.drain(0); err != nil {
		return err
	}
	w.opts.Progress.Report("write", w.report.Bytes, w.plan.bytes)
	return nil
}

func (w *writer) node(parent int64, name, path string, n *tree.Node) error {
	ino := w.ino
	w.ino++
	size, rdev := n.Size, uint64(0)
	switch n.Type() {
	case tree.Symlink:
		size = int64(len(n.Target))
	case tree.Block, tree.Char:
		rdev = unix.Mkdev(n.Major, n.Minor)
	}
	if _, err := w.inode.ExecContext(w.ctx, ino, parent, name, size, n.UID, n.GID, n.Mode, int64(rdev), n.Mtime, n.Mtime); err != nil {
		return err
	}
	switch n.Type() {
	case tree.Symlink:
		if _, err := w.extra.ExecContext(w.ctx, ino, []byte(n.Target)); err != nil {
			return err
		}
	case tree.Regular:
		return w.file(ino, path, n)
	case tree.Directory:
		for _, e := range n.Entries {
			p := path + "/" + e.Name
			if path == "/" {
				p = "/" + e.Name
			}
			if err := w.node(ino, e.Name, p, e.Node); err != nil {
				return err
			}
		}
	}
	return nil
}

// file cuts a file into blocks and queues them. A further name of the same
// file gets a copy of the rows.
func (w *writer) file(ino int64, path string, n *tree.Node) error {
	if n.Size == 0 {
		return nil
	}
	if first, ok := w.inodes[n]; ok {
		if err := w.drain(0); err != nil {
			return err
		}
		res, err := w.tx.ExecContext(w.ctx, "INSERT INTO block (ino, id, key) SELECT ?, id, key FROM block WHERE ino = ? ORDER BY rowid", ino, first)
		if err != nil {
			return err
		}
		rows, err := res.RowsAffected()
		w.report.Blocks += rows
		w.progress(n.Size)
		return err
	}
	if w.plan.links[n] > 1 {
		w.inodes[n] = ino
	}
	r, err := w.opts.Contents.Open(n)
	if err != nil {
		return fault.Errorf(fault.Of(err), "read %q: %w", path, err)
	}
	defer r.Close()
	for left := n.Size; left > 0; {
		if err := w.drain(w.pool.workers); err != nil {
			return err
		}
		buf := w.pool.buffer()[:min(left, BlockSize)]
		if _, err := io.ReadFull(r, buf); err != nil {
			return fault.Errorf(fault.Of(err), "read %q: its content ends %d bytes early or can't be read: %w", path, left, err)
		}
		left -= int64(len(buf))
		w.pool.seal(ino, path, buf)
		w.progress(int64(len(buf)))
	}
	// A source that has more than it promised has changed.
	if k, err := io.ReadFull(r, make([]byte, 1)); k > 0 || !errors.Is(err, io.EOF) {
		return fault.Errorf(fault.Conflict, "read %q: its content has more than the %d bytes it had when it was listed (%v)", path, n.Size, err)
	}
	return nil
}

// drain writes the rows of finished blocks until at most n are under way.
func (w *writer) drain(n int) error {
	for w.pool.pending() > n {
		s := w.pool.next()
		if s.err != nil {
			return fault.Errorf(fault.Of(s.err), "store a block of %q: %w", s.path, s.err)
		}
		if _, err := w.block.ExecContext(w.ctx, s.ino, s.b.ID[:], s.b.Key[:]); err != nil {
			return err
		}
		w.report.Blocks++
	}
	return nil
}

func (w *writer) progress(n int64) {
	w.report.Bytes += n
	if w.report.Bytes-w.shown >= BlockSize {
		w.shown = w.report.Bytes
		w.opts.Progress.Report("write", w.shown, w.plan.bytes)
	}
}
