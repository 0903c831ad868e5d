package convert

import (
	"path"
	"strings"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Match reports whether the pattern names the path (relative, slash
// separated). A pattern without a slash is compared with the last name of the
// path; one with a slash with the whole path from the root. "*", "?" and
// "[a-z]" stand for characters of one name, "**" for any number of names. A
// leading and a trailing slash don't matter. A bad pattern is Invalid.
//
//	Match("*.o", "src/a.o")              // true
//	Match("/var/cache/**", "var/cache/x") // true
//	Match("usr/*/doc", "usr/share/doc")   // true
func Match(pattern, name string) (bool, error) {
	p, err := parsePattern(pattern)
	if err != nil {
		return false, err
	}
	return p.match(strings.Split(name, "/")), nil
}

type pattern struct {
	names []string
	base  bool // compare with the last name only
}

func parsePattern(s string) (pattern, error) {
	p := pattern{base: !strings.Contains(strings.TrimSuffix(s, "/"), "/")}
	for n := range strings.SplitSeq(s, "/") {
		if n == "" || n == "." {
			continue
		}
		if n == "**" && len(p.names) > 0 && p.names[len(p.names)-1] == "**" {
			continue
		}
		if _, err := path.Match(n, ""); err != nil || n == ".." {
			return p, fault.Errorf(fault.Invalid, "the exclude pattern %q is not valid; use names with *, ?, [a-z] and **", s)
		}
		p.names = append(p.names, n)
	}
	if len(p.names) == 0 || len(p.names) > 64 {
		return p, fault.Errorf(fault.Invalid, "the exclude pattern %q names nothing or has more than 64 names", s)
	}
	return p, nil
}

func (p pattern) match(names []string) bool {
	if p.base {
		names = names[len(names)-1:]
	}
	return matchNames(p.names, names)
}

// matchNames compares in time pattern x names: row[i] says whether the first
// i names are matched by the pattern so far.
func matchNames(pat, names []string) bool {
	row := make([]bool, len(names)+1)
	row[0] = true
	for _, p := range pat {
		next := make([]bool, len(row))
		if p == "**" {
			seen := false
			for i := range row {
				seen = seen || row[i]
				next[i] = seen
			}
		} else {
			for i := range names {
				if row[i] {
					next[i+1], _ = path.Match(p, names[i])
				}
			}
		}
		row = next
	}
	return row[len(names)]
}

// Excluder compares many paths with several patterns.
type Excluder struct {
	patterns []pattern
}

// NewExcluder checks the patterns. Without patterns nothing is excluded.
func NewExcluder(patterns []string) (*Excluder, error) {
	e := new(Excluder)
	for _, s := range patterns {
		p, err := parsePattern(s)
		if err != nil {
			return nil, err
		}
		e.patterns = append(e.patterns, p)
	}
	return e, nil
}

// Active reports whether there are any patterns.
func (e *Excluder) Active() bool { return len(e.patterns) > 0 }

// Match reports whether one of the patterns names the path.
func (e *Excluder) Match(names []string) bool {
	for _, p := range e.patterns {
		if p.match(names) {
			return true
		}
	}
	return false
}

// Prune takes the entries that the patterns name, with all below them, out of
// the tree.
func Prune(root *tree.Node, patterns []string) error {
	e, err := NewExcluder(patterns)
	if err != nil {
		return err
	}
	if e.Active() {
		e.prune(root, nil)
	}
	return nil
}

func (e *Excluder) prune(dir *tree.Node, at []string) {
	kept := dir.Entries[:0]
	for _, x := range dir.Entries {
		names := append(at, x.Name)
		if e.Match(names) {
			continue
		}
		kept = append(kept, x)
		e.prune(x.Node, names)
	}
	clear(dir.Entries[len(kept):])
	dir.Entries = kept
}
