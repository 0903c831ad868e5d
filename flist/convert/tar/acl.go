package tar

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"zos.internal/internal/fault"
)

// Tags of the kernel's binary access control lists (version 2).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNoID     = 0xffffffff
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func aclXattr(kind string) string { return "system.posix_acl_" + kind }

// addACL turns a textual list, as GNU tar --acls and star write it, into the
// kernel's form. Names of users and groups have no meaning here, only numbers.
func addACL(add func(name, value string) error, kind, text string) error {
	if kind != "access" && kind != "default" {
		return fault.Errorf(fault.Unsupported, "access control lists of kind %.20q are not supported", kind)
	}
	var entries []aclEntry
	for s := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		if s = strings.TrimSpace(s); s == "" || s[0] == '#' {
			continue
		}
		e, err := parseACL(s)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	// Three entries say the same as the mode; the kernel keeps no list then.
	if len(entries) == 0 || kind == "access" && len(entries) == 3 {
		return nil
	}
	slices.SortFunc(entries, func(a, b aclEntry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	raw := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		raw = binary.LittleEndian.AppendUint16(raw, e.tag)
		raw = binary.LittleEndian.AppendUint16(raw, e.perm)
		raw = binary.LittleEndian.AppendUint32(raw, e.id)
	}
	return add(aclXattr(kind), string(raw))
}

// parseACL reads "user:1000:r-x", "user:joe:r-x:1000", "mask::rwx".
func parseACL(s string) (aclEntry, error) {
	bad := fault.Errorf(fault.Invalid, "access control list: %.80q is not TAG:ID:PERMISSIONS", s)
	f := strings.Split(strings.TrimPrefix(s, "default:"), ":")
	if len(f) < 2 {
		return aclEntry{}, bad
	}
	if len(f) == 2 { // "mask:rwx"
		f = []string{f[0], "", f[1]}
	}
	e := aclEntry{id: aclNoID}
	perm, _, _ := strings.Cut(f[2], " ")
	for _, c := range strings.TrimRight(perm, "\t") {
		switch c {
		case 'r':
			e.perm |= 4
		case 'w':
			e.perm |= 2
		case 'x':
			e.perm |= 1
		case '-':
		default:
			return e, bad
		}
	}
	named := f[1] != ""
	switch f[0] {
	case "user", "u":
		e.tag = aclUserObj
		if named {
			e.tag = aclUser
		}
	case "group", "g":
		e.tag = aclGroupObj
		if named {
			e.tag = aclGroup
		}
	case "mask", "m":
		e.tag = aclMask
	case "other", "o":
		e.tag = aclOther
	default:
		return e, bad
	}
	if !named || e.tag == aclMask || e.tag == aclOther {
		return e, nil
	}
	id := f[1]
	if len(f) > 3 {
		id = f[3]
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return e, fault.Errorf(fault.Unsupported, "access control list: %.80q names a user or group whose number the archive does not have; make it with GNU tar --xattrs --xattrs-include='*'", s)
	}
	e.id = uint32(n)
	return e, nil
}
