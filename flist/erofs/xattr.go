package erofs

import (
	"strings"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
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

// readXattrs reads the attribute area of an inode.
func readXattrs(s string) ([]tree.Xattr, error) {
	s = s[xattrHeader:]
	count := 0
	for rest := s; len(rest) > 0; count++ {
		n := xattrSize(int(rest[0]), u16(rest[2:]))
		if n > int64(len(rest)) {
			return nil, fault.Errorf(fault.Invalid, "an attribute is longer than their area")
		}
		rest = rest[n:]
	}
	xs := make([]tree.Xattr, 0, count)
	for len(s) > 0 {
		name, value := int(s[0]), u16(s[2:])
		whole, ok := joinXattr(s[1], s[xattrEntry:xattrEntry+name])
		if !ok {
			return nil, fault.Errorf(fault.Invalid, "an attribute has the unknown prefix %d", s[1])
		}
		xs = append(xs, tree.Xattr{Name: whole, Value: s[xattrEntry+name : xattrEntry+name+value]})
		s = s[xattrSize(name, value):]
	}
	return xs, nil
}
