package fl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// checker decides what follows a problem: without a report the first one ends
// the work; with one each becomes a line and the work goes on.
type checker struct {
	file     string
	report   io.Writer
	problems int
	first    error
}

// maxProblems bounds a report; a file with more is beyond use anyway.
const maxProblems = 10_000

func (c *checker) bad(err error) error {
	return c.badBlock(fault.Errorf(fault.Of(err), "read %s: %w", c.file, err))
}

// badBlock is bad for an error that names the file already.
func (c *checker) badBlock(err error) error {
	if c.report == nil || fault.Of(err) == fault.Exhausted {
		return err
	}
	if c.first == nil {
		c.first = err
	}
	if c.problems++; c.problems > maxProblems {
		return fault.Errorf(fault.Invalid, "read %s: more than %d problems, see the report", c.file, maxProblems)
	}
	if _, err := fmt.Fprintf(c.report, "%v\n", err); err != nil {
		return fault.Errorf(fault.Unavailable, "write the report on %s: %w", c.file, err)
	}
	return nil
}

// link makes the tree out of the parents and demands that every inode is in
// it exactly once.
func (m *metadata) link(ctx context.Context, _ *database, _ limits, c *checker) error {
	root := m.find(RootIno)
	if root == nil {
		return c.fatal(fault.Errorf(fault.Invalid, "read %s: it has no valid root (inode %d)", c.file, RootIno))
	}
	m.root = root.node
	children := make(map[int64][]*inode)
	for _, in := range m.inodes {
		if in == root {
			continue
		}
		parent := m.find(in.parent)
		switch {
		case parent == nil:
			if err := c.bad(fault.Errorf(fault.Invalid, "%v is an orphan: its parent does not exist", in)); err != nil {
				return err
			}
		case !parent.node.IsDir():
			if err := c.bad(fault.Errorf(fault.Invalid, "%v is an orphan: its parent is not a directory", in)); err != nil {
				return err
			}
		default:
			children[in.parent] = append(children[in.parent], in)
		}
	}
	if err := place(root, children, 0, c); err != nil {
		return err
	}
	for _, in := range m.inodes {
		if ctx.Err() != nil {
			break
		}
		if m.inCycle(in) {
			if err := c.bad(fault.Errorf(fault.Invalid, "%v is in or below a cycle: a directory is its own ancestor", in)); err != nil {
				return err
			}
		}
	}
	return fault.As(fault.Unavailable, ctx.Err())
}

// fatal is an error that no report can go on after.
func (c *checker) fatal(err error) error {
	if berr := c.bad(err); berr != nil {
		return berr
	}
	return err
}

// place gives dir its entries and goes down.
func place(dir *inode, children map[int64][]*inode, depth int, c *checker) error {
	dir.settled = true
	kids := children[dir.ino]
	slices.SortStableFunc(kids, func(a, b *inode) int { return cmp.Compare(a.name, b.name) })
	dir.node.Entries = make([]tree.Entry, 0, len(kids))
	for i, in := range kids {
		in.up = dir
		in.settled = true
		if i > 0 && kids[i-1].name == in.name {
			if err := c.bad(fault.Errorf(fault.Invalid, "%v: inode %d has the same name in the same directory", in, kids[i-1].ino)); err != nil {
				return err
			}
			continue
		}
		dir.node.Entries = append(dir.node.Entries, tree.Entry{Name: in.name, Node: in.node})
		if !in.node.IsDir() {
			continue
		}
		if depth+1 >= tree.MaxDepth {
			if err := c.bad(fault.Errorf(fault.Invalid, "inode %d is more than %d directories deep", in.ino, tree.MaxDepth)); err != nil {
				return err
			}
			continue
		}
		if err := place(in, children, depth+1, c); err != nil {
			return err
		}
	}
	return nil
}

// inCycle reports whether the parents of in lead into a cycle. Every inode on
// the way is settled, so that all calls together take each step once.
func (m *metadata) inCycle(in *inode) bool {
	seen := make(map[int64]bool)
	for at := in; at != nil; at = m.find(at.parent) {
		if seen[at.ino] {
			return true
		}
		if at.settled {
			return false
		}
		at.settled = true
		seen[at.ino] = true
	}
	return false
}
