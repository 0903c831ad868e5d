package fl

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Loss is something that a .fl can't hold and that an export leaves out.
type Loss struct {
	What  string   `json:"what"`
	Count int      `json:"count"` // of entries it concerns
	Paths []string `json:"paths"` // the first of them, at most 20
}

// String is the loss for a person.
func (l Loss) String() string {
	s := fmt.Sprintf("%s: %d", l.What, l.Count)
	if len(l.Paths) > 0 {
		s += " (" + strings.Join(l.Paths, ", ")
		if l.Count > len(l.Paths) {
			s += ", …"
		}
		s += ")"
	}
	return s
}

const lossPaths = 20

type losses []*Loss

func (ls *losses) add(what, path string) {
	for _, l := range *ls {
		if l.What == what {
			if l.Count++; len(l.Paths) < lossPaths {
				l.Paths = append(l.Paths, path)
			}
			return
		}
	}
	*ls = append(*ls, &Loss{what, 1, []string{path}})
}

// Losses lists what Write would leave out of a tree and its configuration, in
// a fixed order of kinds. A name or label that is not UTF-8, which a .fl can't
// hold at all, is Invalid. contents opens the files of an opened image; it may
// be nil when every node has its Content.
func Losses(root *tree.Node, cfg *config.Config, contents convert.Contents) ([]Loss, error) {
	p, err := plan(root, cfg, "", contents)
	if err != nil {
		return nil, err
	}
	return p.losses, nil
}

// planned is what is known before anything is written.
type planned struct {
	losses  []Loss
	startup []byte // of a /.startup.toml to add or replace; nil if none
	tags    []Tag
	links   map[*tree.Node]int
	entries int64
	bytes   int64 // hard links count at each name
	gids    int   // entries whose gid is not their uid
}

func plan(root *tree.Node, cfg *config.Config, id string, contents convert.Contents) (*planned, error) {
	if err := root.Check(); err != nil {
		return nil, err
	}
	if cfg == nil {
		cfg = &config.Config{}
	}
	if _, err := cfg.Encode(); err != nil {
		return nil, err
	}
	p := &planned{links: root.Links()}
	var xattrs, links, times, rest losses
	seen := make(map[*tree.Node]bool)
	for path, n := range root.Walk() {
		if !utf8.ValidString(path) {
			return nil, fault.Errorf(fault.Invalid, "the name %q is not UTF-8, which a .fl can't hold; rename it or leave it out with --exclude", path)
		}
		p.entries++
		p.bytes += n.Size
		if n.UID != n.GID {
			p.gids++
		}
		if len(n.Xattrs) > 0 {
			xattrs.add("extended attributes are left out", "/"+path)
		}
		if !n.IsDir() && p.links[n] > 1 {
			if seen[n] {
				links.add("hard links become copies", "/"+path)
			}
			seen[n] = true
		}
		if n.Nsec != 0 {
			times.add("times lose what is below a second", "/"+path)
		}
	}
	if err := p.configure(root, cfg, id, contents, &rest); err != nil {
		return nil, err
	}
	for _, ls := range []losses{xattrs, links, times, rest} {
		for _, l := range ls {
			p.losses = append(p.losses, *l)
		}
	}
	return p, nil
}

// configure puts the configuration into tags and a /.startup.toml.
func (p *planned) configure(root *tree.Node, cfg *config.Config, id string, contents convert.Contents, rest *losses) error {
	const lost = "settings of the image are left out"
	var labels []string
	p.tags, labels = labelsToTags(cfg, id)
	for _, l := range labels {
		rest.add(lost, "label "+l)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"user", cfg.User != ""}, {"stop signal", cfg.StopSignal != ""}, {"ports", len(cfg.Ports) > 0}, {"volumes", len(cfg.Volumes) > 0},
		{"the border between entrypoint and cmd", len(cfg.Entrypoint) > 0 && len(cfg.Cmd) > 0},
	} {
		if f.set {
			rest.add(lost, f.name)
		}
	}
	raw, err := FormatStartup(cfg)
	if err != nil {
		return err
	}
	if raw == nil {
		if len(cfg.Env) > 0 || cfg.Workdir != "" {
			rest.add(lost, "environment and working directory, for want of a command")
		}
		return nil
	}
	// A file that says the same already stays as it is.
	old := root.Lookup(StartupFile)
	if old != nil && old.IsRegular() && old.Size <= MaxStartup {
		have, err := readAll(old, contents)
		if err != nil {
			return fault.Errorf(fault.Of(err), "read /%s: %w", StartupFile, err)
		}
		if c, err := ParseStartup(have); err == nil {
			if again, err := FormatStartup(c); err == nil && bytes.Equal(again, raw) {
				return nil
			}
		}
	}
	if old != nil && old.IsDir() {
		return fault.Errorf(fault.Invalid, "/%s is a directory, so the command of the image has no place; rename it", StartupFile)
	}
	if old != nil {
		rest.add("another file takes its place", "/"+StartupFile)
	}
	p.startup = raw
	return nil
}

func readAll(n *tree.Node, contents convert.Contents) ([]byte, error) {
	r, err := contents.Open(n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// withStartup is the tree with the /.startup.toml of the plan; the caller's
// tree stays as it is.
func (p *planned) withStartup(root *tree.Node) (*tree.Node, error) {
	if p.startup == nil {
		return root, nil
	}
	own := *root
	own.Entries = slices.Clone(root.Entries)
	n := &tree.Node{Mode: tree.Regular | 0o644, Mtime: root.Mtime, Size: int64(len(p.startup)), Content: tree.Bytes(p.startup)}
	if old := root.Lookup(StartupFile); old == nil {
		p.entries++
	} else {
		p.bytes -= old.Size
	}
	p.bytes += n.Size
	return &own, own.Set(StartupFile, n)
}
