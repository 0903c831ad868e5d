package erofs

import (
	"strings"

	"zos.internal/flist/tree"
)

const (
	xattrHeader = 12 // bytes before the first attribute of an inode
	xattrEntry  = 4  // bytes before the name of an attribute
)

// prefix is a beginning of attribute names that is stored as a number.
// A whole one is the complete name.
type prefix struct {
	index byte
	name  string
	whole bool
}

func prefixes() [5]prefix {
	return [5]prefix{
		{1, "user.", false},
		{2, "system.posix_acl_access", true},
		{3, "system.posix_acl_default", true},
		{4, "trusted.", false},
		{6, "security.", false},
	}
}

// splitXattr is the number of a name's prefix and what follows it. The number
// is 0 for a name that cannot be stored.
func splitXattr(name string) (index byte, rest string) {
	for _, p := range prefixes() {
		if rest, ok := strings.CutPrefix(name, p.name); ok && p.whole == (rest == "") {
			return p.index, rest
		}
	}
	return 0, ""
}

// joinXattr is the inverse of splitXattr.
func joinXattr(index byte, rest string) (name string, ok bool) {
	for _, p := range prefixes() {
		if p.index == index && p.whole == (rest == "") {
			return p.name + rest, true
		}
	}
	return "", false
}

// xattrSize is the room an attribute takes.
func xattrSize(rest, value int) int64 {
	return int64(alignUp(xattrEntry+rest+value, 4))
}

func putXattrs(p []byte, xs []tree.Xattr) {
	p = p[xattrHeader:]
	for _, x := range xs {
		index, rest := splitXattr(x.Name)
		p[0], p[1] = byte(len(rest)), index
		le.PutUint16(p[2:], uint16(len(x.Value)))
		copy(p[xattrEntry:], rest)
		copy(p[xattrEntry+len(rest):], x.Value)
		p = p[xattrSize(len(rest), len(x.Value)):]
	}
}
