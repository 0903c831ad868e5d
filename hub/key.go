package hub

import (
	"strconv"
	"strings"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// key is a key of the bucket, taken apart. Which fields are set depends on
// kind, the first letter of the key.
type key struct {
	kind  byte
	text  string     // the whole key, "p/…"
	name  block.Name // r o p l t s b d: what the key names
	owner identity.Address
	image string // f g h
	tag   string // g
	seq   uint64 // h
}

// parseKey takes apart the keys that a hub publishes. Everything else, such as
// the hub's own bookkeeping, is NotFound: a hub says the same of keys that
// can't exist and of keys that don't.
func parseKey(s string) (key, error) {
	k := key{text: s}
	unknown := fault.Errorf(fault.NotFound, "%.200q is not the name of anything on a hub; see /openapi.json for what is", "/"+s)
	if len(s) < 3 || len(s) > 320 || s[1] != '/' {
		return k, unknown
	}
	k.kind = s[0]
	parts := strings.Split(s[2:], "/")
	var err error
	switch {
	case strings.IndexByte("roplstbd", k.kind) >= 0 && len(parts) == 1:
		k.name, err = block.ParseName(parts[0])
		return k, err
	case k.kind == 'f' && len(parts) == 2, k.kind == 'g' && len(parts) == 3, k.kind == 'h' && len(parts) == 3:
		if k.owner, err = identity.ParseAddress(parts[0]); err != nil {
			return k, err
		}
		k.image = parts[1]
		if err := flist.CheckName(k.image); err != nil {
			return k, err
		}
		if k.kind == 'g' {
			k.tag = parts[2]
			return k, flist.CheckName(k.tag)
		}
		if k.kind == 'h' {
			k.seq, err = strconv.ParseUint(parts[2], 10, 64)
			if err != nil || strconv.FormatUint(k.seq, 10) != parts[2] {
				return k, fault.Errorf(fault.Invalid, "%.30q is not a sequence number", parts[2])
			}
		}
		return k, nil
	}
	return k, unknown
}

// immutable reports whether the bytes at k never change.
func (k key) immutable() bool { return strings.IndexByte("roph", k.kind) >= 0 }

// what is k in words for messages.
func (k key) what() string {
	switch k.kind {
	case 'r':
		return "image " + k.name.String()
	case 'o':
		return "object " + k.name.String()
	case 'p':
		return "pack " + k.name.String()
	case 'l':
		return "locator of image " + k.name.String()
	case 't':
		return "start trace of image " + k.name.String()
	case 'b':
		return "start file of image " + k.name.String()
	case 'd':
		return "delta of image " + k.name.String()
	case 's':
		return "signatures of image " + k.name.String()
	case 'f':
		return "name " + k.owner.String() + "/" + k.image
	case 'g':
		return "tag " + k.owner.String() + "/" + k.image + ":" + k.tag
	}
	return "version " + strconv.FormatUint(k.seq, 10) + " of " + k.owner.String() + "/" + k.image
}
