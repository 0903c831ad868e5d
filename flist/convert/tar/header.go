package tar

import (
	"archive/tar"
	"encoding/base64"
	"maps"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Keys of pax records that archive/tar leaves to us.
const (
	schilyXattr = "SCHILY.xattr."
	schilyACL   = "SCHILY.acl."
	libXattr    = "LIBARCHIVE.xattr."
	selinux     = "RHT.security.selinux"
	zosType     = "ZOS.type"  // "socket": an entry of no bytes that is a socket
	zosMtime    = "ZOS.mtime" // seconds since 1970, where archive/tar can't write them
)

// newNode makes the inode an entry describes, without content.
func newNode(h *tar.Header, global map[string]string) (*tree.Node, error) {
	n := &tree.Node{Mode: uint32(h.Mode) & tree.PermMask, Mtime: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond())}
	uid, gid := int64(h.Uid), int64(h.Gid)
	for key, v := range global {
		if _, local := h.PAXRecords[key]; local {
			continue
		}
		switch key {
		case "uid":
			uid, _ = strconv.ParseInt(v, 10, 64)
		case "gid":
			gid, _ = strconv.ParseInt(v, 10, 64)
		case "mtime":
			t, err := paxTime(v)
			if err != nil {
				return nil, err
			}
			n.Mtime, n.Nsec = t.Unix(), uint32(t.Nanosecond())
		}
	}
	if uid < 0 || uid > math.MaxUint32 || gid < 0 || gid > math.MaxUint32 {
		return nil, fault.Errorf(fault.Invalid, "owner %d:%d is out of range", uid, gid)
	}
	n.UID, n.GID = uint32(uid), uint32(gid)
	if err := setType(n, h); err != nil {
		return nil, err
	}
	if v, ok := h.PAXRecords[zosMtime]; ok {
		sec, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "record %s=%q is not a number", zosMtime, v)
		}
		n.Mtime, n.Nsec = sec, 0
	}
	var err error
	n.Xattrs, err = xattrs(h.PAXRecords)
	return n, err
}

func setType(n *tree.Node, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.Mode |= tree.Regular
		n.Size = h.Size
		if t := h.PAXRecords[zosType]; t == "socket" && h.Size == 0 {
			n.Mode = n.Mode&^tree.TypeMask | tree.Socket
		} else if t != "" {
			return fault.Errorf(fault.Unsupported, "record %s=%q is not known; the archive was made by a newer program", zosType, t)
		}
	case tar.TypeDir:
		n.Mode |= tree.Directory
	case tar.TypeSymlink:
		n.Mode |= tree.Symlink
		n.Target = h.Linkname
		if n.Target == "" || len(n.Target) > tree.MaxTarget {
			return fault.Errorf(fault.Invalid, "the link target has %d bytes, 1 to %d are allowed", len(n.Target), tree.MaxTarget)
		}
	case tar.TypeFifo:
		n.Mode |= tree.FIFO
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= tree.Char
		if h.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&^tree.TypeMask | tree.Block
		}
		if h.Devmajor < 0 || h.Devmajor > tree.MaxMajor || h.Devminor < 0 || h.Devminor > tree.MaxMinor {
			return fault.Errorf(fault.Invalid, "device %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	default:
		return fault.Errorf(fault.Unsupported, "entries of type %q are not supported; make the archive with GNU tar --format=pax", h.Typeflag)
	}
	return nil
}

// setAttributes gives the directory dst everything of src but the entries.
func setAttributes(dst, src *tree.Node) {
	entries := dst.Entries
	*dst = *src
	dst.Entries = entries
}

// xattrs collects the extended attributes of all dialects.
func xattrs(records map[string]string) ([]tree.Xattr, error) {
	var xs []tree.Xattr
	sum := 0
	add := func(name, value string) error {
		if name == "" || len(name) > tree.MaxName || strings.IndexByte(name, 0) >= 0 {
			return fault.Errorf(fault.Invalid, "bad attribute name %.40q", name)
		}
		if sum += len(name) + len(value); sum > tree.MaxXattrs {
			return fault.Errorf(fault.Exhausted, "the attributes have more than %d bytes", tree.MaxXattrs)
		}
		xs = append(xs, tree.Xattr{Name: name, Value: value})
		return nil
	}
	for key, value := range records {
		var err error
		if name, ok := strings.CutPrefix(key, schilyXattr); ok {
			err = add(name, value)
		} else if name, ok := strings.CutPrefix(key, libXattr); ok {
			if _, both := records[schilyXattr+name]; !both {
				err = addEncoded(add, name, value)
			}
		} else if kind, ok := strings.CutPrefix(key, schilyACL); ok {
			if _, both := records[schilyXattr+aclXattr(kind)]; !both {
				err = addACL(add, kind, value)
			}
		} else if key == selinux {
			if _, both := records[schilyXattr+"security.selinux"]; !both {
				err = add("security.selinux", value)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return tree.SortXattrs(xs), nil
}

// addEncoded reads libarchive's form: the name is URL-encoded, the value base64.
func addEncoded(add func(name, value string) error, name, value string) error {
	plain, err := url.PathUnescape(name)
	if err != nil {
		return fault.Errorf(fault.Invalid, "attribute name %.40q: %w", name, err)
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return fault.Errorf(fault.Invalid, "attribute %q: %w", plain, err)
	}
	return add(plain, string(raw))
}

// globalRecords merges a global pax header. Records that can't be meant for
// many entries are refused instead of being lost.
func globalRecords(old, add map[string]string) (map[string]string, error) {
	all := maps.Clone(old)
	if all == nil {
		all = make(map[string]string)
	}
	for k, v := range add {
		switch k {
		case "comment", "charset", "hdrcharset", "atime", "ctime", "uname", "gname":
		case "uid", "gid":
			if _, err := strconv.ParseInt(v, 10, 64); err != nil {
				return nil, fault.Errorf(fault.Invalid, "global header: %s %q is not a number", k, v)
			}
			all[k] = v
		case "mtime":
			if _, err := paxTime(v); err != nil {
				return nil, err
			}
			all[k] = v
		default:
			return nil, fault.Errorf(fault.Unsupported, "global header: the record %.80q for all entries is not supported; make the archive without --pax-option", k)
		}
	}
	return all, nil
}

func paxTime(s string) (time.Time, error) {
	sec, frac, _ := strings.Cut(s, ".")
	secs, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, fault.Errorf(fault.Invalid, "%q is not a time", s)
	}
	if frac == "" {
		return time.Unix(secs, 0), nil
	}
	nano, err := strconv.ParseUint((frac + "000000000")[:9], 10, 32)
	if err != nil {
		return time.Time{}, fault.Errorf(fault.Invalid, "%q is not a time", s)
	}
	if strings.HasPrefix(sec, "-") {
		return time.Unix(secs, -int64(nano)), nil
	}
	return time.Unix(secs, int64(nano)), nil
}
