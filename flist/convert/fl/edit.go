package fl

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"os"

	"zos.internal/flist/convert/fl/store"
	"zos.internal/internal/fault"
)

// Tags lists the tags of a file, sorted by key.
func Tags(ctx context.Context, file string) ([]Tag, error) {
	m, err := loadConfig(ctx, file)
	if err != nil {
		return nil, err
	}
	sortTags(m.tags)
	return m.tags, nil
}

// SetTags adds tags to a file and replaces those of the same key.
func SetTags(ctx context.Context, file string, tags []Tag) error {
	for _, t := range tags {
		if err := t.check(); err != nil {
			return err
		}
	}
	return edit(ctx, file, func(tx *sql.Tx) error {
		for _, t := range tags {
			if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO tag (key, value) VALUES (?,?)", t.Key, t.Value); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteTags takes the tags of these keys out of a file; a key that is not
// there is NotFound and changes nothing.
func DeleteTags(ctx context.Context, file string, keys ...string) error {
	return edit(ctx, file, func(tx *sql.Tx) error {
		for _, k := range keys {
			if err := deleteRows(ctx, tx, "DELETE FROM tag WHERE key = ?", k, "there is no tag %q"); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteAllTags takes every tag out of a file.
func DeleteAllTags(ctx context.Context, file string) error {
	return edit(ctx, file, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM tag")
		return err
	})
}

// Routes lists the routes of a file in the order in which they are asked. The
// URLs may have passwords: show them by Route.String.
func Routes(ctx context.Context, file string) ([]store.Route, error) {
	m, err := loadConfig(ctx, file)
	if err != nil {
		return nil, err
	}
	return m.routes, nil
}

// AddRoutes adds stores ("[xx-yy=]URL") to a file, unless the same route is
// there. Passwords are left out unless keepPasswords is set.
func AddRoutes(ctx context.Context, file string, stores []string, keepPasswords bool) error {
	routes, err := store.ParseRoutes(stores)
	if err != nil {
		return err
	}
	return edit(ctx, file, func(tx *sql.Tx) error {
		for _, r := range routes {
			if !keepPasswords {
				r.URL = store.StripPassword(r.URL)
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO route (start, end, url) SELECT ?1, ?2, ?3
				WHERE NOT EXISTS (SELECT 1 FROM route WHERE start = ?1 AND end = ?2 AND url = ?3)`, r.Start, r.End, r.URL)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRoutes takes every route with one of these URLs out of a file; a URL
// that is not there is NotFound and changes nothing.
func DeleteRoutes(ctx context.Context, file string, urls ...string) error {
	return edit(ctx, file, func(tx *sql.Tx) error {
		for _, u := range urls {
			if err := deleteRows(ctx, tx, "DELETE FROM route WHERE url = ?", u, "there is no route to %q"); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteAllRoutes takes every route out of a file, also those that can't be
// read.
func DeleteAllRoutes(ctx context.Context, file string) error {
	return edit(ctx, file, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM route")
		return err
	})
}

func deleteRows(ctx context.Context, tx *sql.Tx, query, arg, missing string) error {
	res, err := tx.ExecContext(ctx, query, arg)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return fault.Errorf(fault.NotFound, missing+"; nothing was changed", store.Redact(arg))
}

// loadConfig reads the tags and routes and leaves the tree alone.
func loadConfig(ctx context.Context, file string) (m *metadata, err error) {
	d, err := openDB(ctx, file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	m = &metadata{}
	c := &checker{file: file}
	if err := m.loadTags(ctx, d, limits{}, c); err != nil {
		return nil, err
	}
	return m, m.loadRoutes(ctx, d, limits{}, c)
}

// edit changes a copy of the file, checks that its tags and routes are still
// within the limits, and puts it in the place of the file.
func edit(ctx context.Context, file string, change func(*sql.Tx) error) error {
	d, err := openDB(ctx, file) // for the schema: no trigger shall run
	if err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	out, err := newPart(file)
	if err != nil {
		return err
	}
	defer out.close()
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if _, err := io.Copy(out.f, in); err != nil {
		return store.DiskFault(err)
	}
	if err := out.f.Chmod(st.Mode().Perm()); err != nil {
		return err
	}
	if err := editIn(ctx, out.path, change); err != nil {
		return fault.Errorf(fault.Of(err), "change %s: %w", file, err)
	}
	if _, err := loadConfig(ctx, out.path); err != nil {
		return fault.Errorf(fault.Of(err), "change %s, which stays as it was: %w", file, err)
	}
	return out.commit()
}

func editIn(ctx context.Context, path string, change func(*sql.Tx) error) (err error) {
	d, err := connect(ctx, path, "mode=rw&_pragma=journal_mode(MEMORY)&_pragma=synchronous(OFF)&_pragma=locking_mode(EXCLUSIVE)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(d.fault(ctx, err), d.Close()) }()
	tx, err := d.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after Commit
	if err := change(tx); err != nil {
		return err
	}
	return tx.Commit()
}
