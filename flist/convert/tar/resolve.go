package tar

import (
	"strings"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

const (
	maxSymlinks = 40       // followed on one path, as the kernel does
	maxSteps    = 64 << 20 // names walked because of symlinks in all archives
)

// parent finds the directory that holds the last of the names. Symlinks on
// the way are followed inside the tree: an absolute target starts at the root,
// ".." stops there. Missing directories are made if create is set, else the
// error is NotFound.
func (b *Builder) parent(names []string, create bool) (*item, string, error) {
	base := names[len(names)-1]
	path := strings.Join(names[:len(names)-1], "/")
	if b.lastDir != nil && b.lastPath == path {
		return b.lastDir, base, nil
	}
	dir, err := b.walk(names[:len(names)-1], create)
	if err != nil {
		return nil, "", err
	}
	b.lastPath, b.lastDir = path, dir
	return dir, base, nil
}

func (b *Builder) walk(names []string, create bool) (*item, error) {
	at, links := b.root, 0
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if name == ".." {
			if at.parent != nil {
				at = at.parent
			}
			continue
		}
		next := at.children[name]
		if next == nil {
			if !create {
				return nil, fault.Errorf(fault.NotFound, "the directory %q does not exist", name)
			}
			if err := b.count(); err != nil {
				return nil, err
			}
			if err := b.put(at, name, tree.NewDir(0o755)); err != nil {
				return nil, err
			}
			next = at.children[name]
		}
		switch next.node.Type() {
		case tree.Directory:
			at = next
		case tree.Symlink:
			if links++; links > maxSymlinks {
				return nil, fault.Errorf(fault.Invalid, "more than %d symlinks on the way to it; they form a circle", maxSymlinks)
			}
			target, err := b.target(next.node.Target)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(next.node.Target, "/") {
				at = b.root
			}
			names = append(target, names...)
		default:
			return nil, fault.Errorf(fault.Invalid, "%q on the way to it is not a directory", name)
		}
	}
	return at, nil
}

func (b *Builder) target(s string) ([]string, error) {
	var names []string
	for n := range strings.SplitSeq(s, "/") {
		switch n {
		case "", ".":
			continue
		case "..":
		default:
			if err := tree.CheckName(n); err != nil {
				return nil, err
			}
		}
		names = append(names, n)
	}
	if b.steps += len(names); b.steps > maxSteps {
		return nil, fault.Errorf(fault.Exhausted, "the archive makes us follow too many symlinks; it is a bomb")
	}
	return names, nil
}
