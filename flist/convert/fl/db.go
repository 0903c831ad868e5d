package fl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite" // registers the driver "sqlite"

	"zos.internal/internal/fault"
)

// Numbers of sqlite3_limit.
const (
	limitLength    = 0 // bytes of a value or row
	limitSQL       = 1 // bytes of a statement
	limitColumns   = 2
	limitExprDepth = 3
	limitAttached  = 7
)

// schema is what a new file holds. VARCHAR is only a word to SQLite: id, key
// and data are BLOBs.
const schema = `
CREATE TABLE inode (
	ino INTEGER PRIMARY KEY AUTOINCREMENT,
	parent INTEGER, name VARCHAR(255), size INTEGER,
	uid INTEGER, gid INTEGER, mode INTEGER, rdev INTEGER,
	ctime INTEGER, mtime INTEGER);
CREATE INDEX parents ON inode (parent);
CREATE INDEX names ON inode (name);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE INDEX block_ino ON block (ino);
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));
`

// columns are the ones that every table must have.
var columns = [...]struct {
	table string
	names string
}{
	{"inode", "ino parent name size uid gid mode rdev ctime mtime"},
	{"extra", "ino data"},
	{"block", "ino id key"},
	{"tag", "key value"},
	{"route", "start end url"},
}

// database is an open .fl. It has one connection.
type database struct {
	file string
	size int64
	db   *sql.DB
	conn *sql.Conn
}

// openDB opens the file for reading. SQLite sees it as one that never
// changes: no lock, no journal, no write, not even into a directory where
// that would be possible.
func openDB(ctx context.Context, file string) (*database, error) {
	size, err := sniff(file)
	if err != nil {
		return nil, err
	}
	d, err := connect(ctx, file, "mode=ro&immutable=1&_pragma=query_only(1)")
	if err != nil {
		return nil, err
	}
	d.size = size
	if err := d.checkSchema(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func connect(ctx context.Context, file, query string) (*database, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	dsn := "file:" + (&url.URL{Path: abs}).EscapedPath() + "?" + query +
		"&_pragma=trusted_schema(0)&_pragma=cell_size_check(1)&_pragma=mmap_size(0)&_pragma=cache_size(-4096)&_pragma=temp_store(2)"
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	db.SetMaxOpenConns(1)
	d := &database{file: file, db: db}
	if d.conn, err = db.Conn(ctx); err != nil {
		return nil, errors.Join(d.fault(ctx, err), db.Close())
	}
	for id, n := range map[int]int{limitLength: 1 << 20, limitSQL: 64 << 10, limitColumns: 64, limitExprDepth: 32, limitAttached: 0} {
		if _, err := sqlite.Limit(d.conn, id, n); err != nil {
			return nil, errors.Join(fault.As(fault.Internal, err), d.Close())
		}
	}
	return d, nil
}

// Close ends the connection.
func (d *database) Close() error {
	return errors.Join(d.conn.Close(), d.db.Close())
}

// fault gives an error of SQLite its kind and the next step.
func (d *database) fault(ctx context.Context, err error) error {
	var e *sqlite.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fault.Errorf(fault.Unavailable, "read %s: %w", d.file, ctx.Err())
	case errors.As(err, &e) && e.Code()&0xff == 13: // SQLITE_FULL
		return fault.Errorf(fault.Exhausted, "write %s: no space is left: %w", d.file, err)
	case errors.As(err, &e) && e.Code()&0xff == 10: // SQLITE_IOERR
		return fault.Errorf(fault.Unavailable, "use %s: the disk does not work: %w", d.file, err)
	case errors.As(err, &e):
		return fault.Errorf(fault.Invalid, "read %s: the database is damaged or is not a .fl (%w); get the file again from where it came from", d.file, err)
	}
	return err
}

// sniff looks at the file before SQLite does.
func sniff(file string) (size int64, err error) {
	st, err := os.Stat(file)
	if err != nil {
		return 0, fault.Errorf(fault.Of(err), "read %s: %w", file, err)
	}
	switch {
	case !st.Mode().IsRegular():
		return 0, fault.Errorf(fault.Invalid, "read %s: it is not a regular file; a .fl is one SQLite file", file)
	case st.Size() > MaxFile:
		return 0, fault.Errorf(fault.Exhausted, "read %s: it has %d bytes, a .fl has at most %d", file, st.Size(), int64(MaxFile))
	}
	for _, suffix := range []string{"-journal", "-wal"} {
		if j, err := os.Stat(file + suffix); err == nil && j.Size() > 0 {
			return 0, fault.Errorf(fault.Conflict, "read %s: %s%s lies beside it, so a program is writing it or was killed; wait for it, or repair the file with: sqlite3 %s 'pragma wal_checkpoint'", file, filepath.Base(file), suffix, file)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, fault.Errorf(fault.Of(err), "read %s: %w", file, err)
	}
	defer f.Close()
	head := make([]byte, 16)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, err
	}
	switch head = head[:n]; {
	case string(head) == "SQLite format 3\x00":
		return st.Size(), nil
	case strings.HasPrefix(string(head), "\x1f\x8b"):
		return 0, fault.Errorf(fault.Unsupported, "read %s: it is compressed, as the flists of 0-fs were; only the .fl of rfs (an SQLite file) is read. If it is a gzip of one, unpack it first", file)
	}
	return 0, fault.Errorf(fault.Invalid, "read %s: it is not a .fl: an SQLite file starts with \"SQLite format 3\"", file)
}

// checkSchema demands the five tables as plain tables with rows in order, and
// nothing that computes: a view, a trigger or a generated column could make
// memory and time out of a few bytes.
func (d *database) checkSchema(ctx context.Context) error {
	bad := func(format string, args ...any) error {
		return fault.Errorf(fault.Invalid, "read %s: "+format+"; it is not a .fl of rfs", append([]any{d.file}, args...)...)
	}
	plain := make(map[string]bool)
	err := d.scan(ctx, "SELECT rowid, +type, +name, +sql FROM sqlite_schema", 3, 256, func(_ int64, v []any) error {
		typ, _ := v[0].(string)
		name, _ := v[1].(string)
		text, _ := v[2].(string)
		// SQLite goes by the text, whatever the type says.
		switch text = strings.ToUpper(text); {
		case typ == "table" && strings.HasPrefix(text, "CREATE TABLE"):
			plain[strings.ToLower(name)] = true
		case typ == "index" && (text == "" || strings.HasPrefix(text, "CREATE INDEX") || strings.HasPrefix(text, "CREATE UNIQUE INDEX")):
		default:
			return bad("it has a %.20s named %.40q that is made by %.40q; only plain tables and indexes are read", typ, name, text)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range columns {
		if !plain[c.table] {
			return bad("the table %q is missing", c.table)
		}
		have := make(map[string]bool)
		err := d.scan(ctx, "SELECT cid, +name, +hidden FROM pragma_table_xinfo('"+c.table+"')", 2, 64, func(_ int64, v []any) error {
			name, _ := v[0].(string)
			if hidden, _ := v[1].(int64); hidden != 0 {
				return bad("the column %.40q of the table %q is computed", name, c.table)
			}
			have[strings.ToLower(name)] = true
			return nil
		})
		if err != nil {
			return err
		}
		for name := range strings.FieldsSeq(c.names) {
			if !have[name] {
				return bad("the table %q has no column %q", c.table, name)
			}
			delete(have, name)
		}
		for name := range have {
			return bad("the table %q has the unknown column %.40q", c.table, name)
		}
	}
	return nil
}

// scan reads the rows of a query whose first column is a number that must
// grow: a damaged or hostile b-tree that leads back to a page it has passed is
// noticed at once. It refuses more than limit rows. The other columns are
// int64, float64, string, []byte or nil and valid during the call.
func (d *database) scan(ctx context.Context, query string, cols, limit int, row func(id int64, v []any) error) error {
	rows, err := d.conn.QueryContext(ctx, query)
	if err != nil {
		return d.fault(ctx, err)
	}
	defer rows.Close()
	vals := make([]any, cols+1)
	ptrs := make([]any, cols+1)
	for i := range vals {
		ptrs[i] = &vals[i]
	}
	var last int64
	for n := 0; rows.Next(); n++ {
		if n == limit {
			return fault.Errorf(fault.Exhausted, "read %s: more than %d rows from %.60q", d.file, limit, query)
		}
		if err := rows.Scan(ptrs...); err != nil {
			return d.fault(ctx, err)
		}
		id, ok := vals[0].(int64)
		if !ok || n > 0 && id <= last {
			return fault.Errorf(fault.Invalid, "read %s: the database is damaged: row %v comes after row %d; get the file again from where it came from", d.file, vals[0], last)
		}
		last = id
		if err := row(id, vals[1:]); err != nil {
			return err
		}
	}
	return d.fault(ctx, rows.Err())
}

// table is the query for all rows of a table in the order of the rowid,
// without any index: an index may say what the table does not.
func table(name string, cols ...string) string {
	return fmt.Sprintf("SELECT rowid, +%s FROM %s NOT INDEXED ORDER BY rowid", strings.Join(cols, ", +"), name)
}
