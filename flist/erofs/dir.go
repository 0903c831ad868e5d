package erofs

import (
	"slices"
	"strings"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// listing is a directory with "." and ".." at their places in the order.
type listing struct {
	entries   []tree.Entry
	dot, dot2 int // entries before "." and before ".."
}

const (
	self   = -1
	parent = -2
)

func listDir(entries []tree.Entry) listing {
	before := func(name string) int {
		i, _ := slices.BinarySearchFunc(entries, name, func(e tree.Entry, s string) int { return strings.Compare(e.Name, s) })
		return i
	}
	return listing{entries, before("."), before("..")}
}

func (l listing) len() int { return len(l.entries) + 2 }

// at is the i-th name and the number of its entry, self or parent.
func (l listing) at(i int) (string, int) {
	switch {
	case i == l.dot:
		return ".", self
	case i == l.dot2+1:
		return "..", parent
	case i > l.dot2:
		i -= 2
	case i > l.dot:
		i--
	}
	return l.entries[i].Name, i
}

// block says which names from start on fill one block, and with how many
// bytes.
func (l listing) block(start int) (end, size int) {
	for end = start; end < l.len(); end++ {
		name, _ := l.at(end)
		if size+direntSize+len(name) > BlockSize {
			break
		}
		size += direntSize + len(name)
	}
	return end, size
}

// size is the number of bytes of the directory.
func (l listing) size() int64 {
	var size int64
	for at := 0; at < l.len(); {
		end, used := l.block(at)
		size = alignUp(size, BlockSize) + int64(used)
		at = end
	}
	return size
}

// direntCount is the number of entries in a directory block.
func direntCount(block string) (int, error) {
	if len(block) >= direntSize {
		first := u16(block[8:])
		if first > 0 && first%direntSize == 0 && first < len(block) {
			return first / direntSize, nil
		}
	}
	return 0, fault.Errorf(fault.Invalid, "a block has no valid first entry")
}

// direntName is the name of the i-th of count entries.
func direntName(block string, i, count int) (string, error) {
	start := u16(block[i*direntSize+8:])
	end := len(block)
	if i+1 < count {
		end = u16(block[(i+1)*direntSize+8:])
	}
	if start < count*direntSize || end > len(block) || start >= end {
		return "", fault.Errorf(fault.Invalid, "a name lies outside its block")
	}
	name := block[start:end]
	if i+1 == count {
		if k := strings.IndexByte(name, 0); k >= 0 {
			name = name[:k]
		}
	}
	return name, nil
}

func u16(s string) int { return int(s[0]) | int(s[1])<<8 }

func u64(s string) uint64 {
	var n uint64
	for i := range 8 {
		n |= uint64(s[i]) << (8 * i)
	}
	return n
}
