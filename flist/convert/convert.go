// Package convert is what all sources and targets of images share: the result
// of reading one, the options and limits, and the spool that keeps contents
// until the image is built.
//
// The formats are in the packages below (dir, tar, oci, fl). Open chooses one
// by the scheme of a reference from a table that the caller passes in; nothing
// registers itself. A source delivers a checked tree or an error that names
// the entry; it never follows a link out of the source, never delivers a tree
// with holes, and keeps memory and disk below its Limits whatever it reads.
// What it leaves on disk is gone after Result.Close, and also when the process
// dies.
//
//	table := convert.Table{"dir": dir.Read, "tar": tar.Read, "oci": oci.Read}
//	res, err := convert.Open(ctx, "tar:root.tar.zst", table, convert.Options{})
//	if err != nil {
//		return err
//	}
//	defer res.Close()
package convert

import (
	"context"
	"io"

	"zos.internal/flist/config"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Progress is told about long phases ("scan", "read", "download", "apply",
// "write"): done of total units, bytes or entries. total is 0 if unknown.
// Calls are never concurrent within one operation and come at most every few
// hundred kilobytes; the last call of a phase has the final count.
type Progress func(phase string, done, total int64)

// Report calls p unless it is nil.
func (p Progress) Report(phase string, done, total int64) {
	if p != nil {
		p(phase, done, total)
	}
}

// Result is what a source delivered.
type Result struct {
	Root     *tree.Node     // passes tree.Check; regular files have Content until Close
	Config   *config.Config // never nil; empty if the source has none
	Source   string         // provenance: "oci:sha256:…", "tar", "dir"; the same for the same input on every machine
	Platform string         // "linux/amd64", "linux/arm/v7"; empty if the source doesn't say
	Skipped  []Skipped      // what SkipUnreadable left out, sorted by path

	closers []io.Closer
}

// Skipped is something that a source or an export left out, and why.
type Skipped struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// OnClose adds a resource that Close releases, in reverse order.
func (r *Result) OnClose(c io.Closer) { r.closers = append(r.closers, c) }

// Close releases what the contents need; they can't be opened afterwards.
// It may be called more than once.
func (r *Result) Close() error {
	var first error
	for i := len(r.closers) - 1; i >= 0; i-- {
		if err := r.closers[i].Close(); err != nil && first == nil {
			first = err
		}
	}
	r.closers = nil
	return first
}

// Limits bound what a source may cost. A zero field is its default.
type Limits struct {
	Entries  int   // headers or names read; default tree.MaxEntries
	Bytes    int64 // apparent bytes of all contents, holes included; default 64 GiB
	Metadata int64 // bytes of names, link targets and attributes; default 1 GiB
	Free     int64 // bytes that stay free on the disk of the spool; default 512 MiB
}

// WithDefaults fills the zero fields.
func (l Limits) WithDefaults() Limits {
	if l.Entries <= 0 {
		l.Entries = tree.MaxEntries
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 30
	}
	if l.Metadata <= 0 {
		l.Metadata = 1 << 30
	}
	if l.Free <= 0 {
		l.Free = 512 << 20
	}
	return l
}

// Options are for all sources; each uses what applies to it. The zero value
// reads everything and dials nothing but the registry that is named.
type Options struct {
	TempDir  string // where spools are; default $TMPDIR, else /var/tmp
	Limits   Limits
	Progress Progress
	Stdin    io.Reader // what the path "-" reads

	Exclude    []string // patterns of paths to leave out, see Match
	ClampMtime *int64   // seconds since 1970; later times become this one

	OneFileSystem  bool // dir: don't descend into other file systems
	SkipUnreadable bool // dir: leave out and list what can't be read

	Platform string // oci: "os/arch[/variant]"; default linux and this machine's
	Insecure bool   // registry: plain HTTP also to other hosts than loopback
	// Auth finds the credentials for a registry host ("localhost:5000"). It is
	// asked before the Docker configuration file; nil or ok = false means none.
	Auth func(host string) (user, password string, ok bool)
}

// Finish applies Exclude and ClampMtime to what a source read and checks the
// tree. Sources call it last; on an error it closes res.
func Finish(res *Result, opts Options) (*Result, error) {
	if res.Config == nil {
		res.Config = new(config.Config)
	}
	err := Prune(res.Root, opts.Exclude)
	if err == nil {
		Clamp(res.Root, opts.ClampMtime)
		err = res.Root.Check()
	}
	if err != nil {
		res.Close()
		return nil, err
	}
	return res, nil
}

// Clamp sets every time in the tree that is after limit to limit. A nil limit
// changes nothing.
func Clamp(root *tree.Node, limit *int64) {
	if limit == nil {
		return
	}
	for _, n := range root.Walk() {
		if n.Mtime > *limit || n.Mtime == *limit && n.Nsec > 0 {
			n.Mtime, n.Nsec = *limit, 0
		}
	}
}

// An Opener reads the source at path.
type Opener func(ctx context.Context, path string, opts Options) (*Result, error)

// Contents opens the bytes of a regular file whose node has no Content, as
// those of an opened image.
type Contents func(n *tree.Node) (io.ReadCloser, error)

// Open is the content of n: its own, else by c. The reader delivers exactly
// n.Size bytes or an error.
func (c Contents) Open(n *tree.Node) (io.ReadCloser, error) {
	switch {
	case n.Size == 0:
		return tree.Bytes("").Open()
	case n.Content != nil:
		r, err := n.Content.Open()
		if err != nil {
			return nil, err
		}
		return &exact{r: r, left: n.Size}, nil
	case c != nil:
		r, err := c(n)
		if err != nil {
			return nil, err
		}
		return &exact{r: r, left: n.Size}, nil
	}
	return nil, fault.Errorf(fault.Internal, "open a file of %d bytes: the tree has no contents and the export was given none", n.Size)
}

// exact turns a short or long stream into an error.
type exact struct {
	r    io.ReadCloser
	left int64
}

func (e *exact) Read(p []byte) (int, error) {
	if e.left == 0 {
		var one [1]byte
		n, err := io.ReadFull(e.r, one[:])
		if n > 0 {
			return 0, fault.Errorf(fault.Conflict, "the content has more bytes than promised; it changed while it was read")
		}
		return 0, err
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = fault.Errorf(fault.Conflict, "the content ends %d bytes early; it changed while it was read", e.left)
	} else if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

func (e *exact) Close() error { return e.r.Close() }

// WriteOptions are for all targets.
type WriteOptions struct {
	Contents Contents // for nodes without Content
	Progress Progress // phase "write", in bytes of contents
}

// TotalBytes is the size of all regular files, each counted once.
func TotalBytes(root *tree.Node) int64 {
	seen := make(map[*tree.Node]bool)
	var sum int64
	for _, n := range root.Walk() {
		if n.IsRegular() && n.Size > 0 && !seen[n] {
			seen[n] = true
			sum += n.Size
		}
	}
	return sum
}
