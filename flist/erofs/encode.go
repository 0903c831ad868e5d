package erofs

import (
	"encoding/binary"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

var le = binary.LittleEndian

// inode is a node on its way into an image.
type inode struct {
	node   *tree.Node
	size   int64 // of the data: file, directory blocks or link target
	pos    int64 // byte in the image
	xattrs int64 // bytes of the attributes behind the inode
	block  int64 // first whole block of the data, 0 if there is none
	first  int   // of a directory: its children in encoder.children
	parent int   // of a directory: number of the parent
	nlink  uint32
	wide   bool // extended inode
	inline bool // the last block lies behind the inode
}

func (n *inode) head() int64 {
	if n.wide {
		return extendedSize
	}
	return compactSize
}

// tail is the number of bytes in the last block of the data.
func (n *inode) tail() int64 { return n.size - (blocksOf(n.size)-1)*BlockSize }

func blocksOf(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

type stamp struct {
	sec  int64
	nsec uint32
}

func (a stamp) less(b stamp) bool {
	return a.sec < b.sec || a.sec == b.sec && a.nsec < b.nsec
}

func stampOf(n *tree.Node) stamp { return stamp{n.Mtime, n.Nsec} }

type encoder struct {
	root     *tree.Node
	inodes   []inode // breadth-first
	children []int32 // numbers of inodes, in the order of the entries
	built    stamp
	blocks   int64 // first free block behind the inodes
	device   uint64
}

// Encode returns the metadata image of the tree below root, whose data lie in
// a device of deviceBlocks blocks of 4 KiB. Each non-empty regular file is one
// contiguous range of the device that starts at Node.Offset, a multiple of
// 4096; several files may name the same range. Content is not read, and
// Offset of an empty file is ignored. The same tree gives the same bytes.
//
// A tree that tree.Check refuses, a file outside the device and an attribute
// that EROFS cannot express are errors that name the path; a tree with more
// than 1 GiB of metadata is Exhausted.
func Encode(root *tree.Node, deviceBlocks uint64) ([]byte, error) {
	if err := root.Check(); err != nil {
		return nil, fault.Errorf(fault.Of(err), "encode metadata: %w", err)
	}
	if deviceBlocks > maxBlocks {
		return nil, fault.Errorf(fault.Exhausted, "encode metadata: a data device of %d blocks is too large, at most %d of 4 KiB are possible; split the tree into several images", deviceBlocks, uint64(maxBlocks))
	}
	e := encoder{root: root, device: deviceBlocks}
	e.number()
	e.choose()
	size, err := e.place()
	if err != nil {
		return nil, err
	}
	out := make([]byte, size)
	e.super(out)
	for i := range e.inodes {
		e.write(out, &e.inodes[i])
	}
	return out, nil
}

// number lists the inodes breadth-first and counts their links.
func (e *encoder) number() {
	dirs, names := count(e.root)
	e.inodes = make([]inode, 0, 1+names)
	e.children = make([]int32, 0, names)
	seen := make(map[*tree.Node]int32, names-dirs) // what may have more names
	e.inodes = append(e.inodes, inode{node: e.root, nlink: 2})
	for i := 0; i < len(e.inodes); i++ {
		dir := e.inodes[i].node
		if !dir.IsDir() {
			continue
		}
		e.inodes[i].first = len(e.children)
		for _, entry := range dir.Entries {
			k, n := int32(len(e.inodes)), entry.Node
			if n.IsDir() {
				e.inodes = append(e.inodes, inode{node: n, parent: i, nlink: 2})
				e.inodes[i].nlink++
			} else if j, ok := seen[n]; ok {
				k = j
				e.inodes[k].nlink++
			} else {
				seen[n] = k
				e.inodes = append(e.inodes, inode{node: n, nlink: 1})
			}
			e.children = append(e.children, k)
		}
	}
}

// count is the number of directories and of names below dir.
func count(dir *tree.Node) (dirs, names int) {
	names = len(dir.Entries)
	for _, entry := range dir.Entries {
		if entry.Node.IsDir() {
			d, n := count(entry.Node)
			dirs, names = dirs+d+1, names+n
		}
	}
	return dirs, names
}

// choose takes the most frequent time, the smallest of several, as the build
// time: inodes that have it need no time of their own.
func (e *encoder) choose() {
	count := make(map[stamp]int)
	for i := range e.inodes {
		count[stampOf(e.inodes[i].node)]++
	}
	best := 0
	for t, n := range count {
		if n > best || n == best && t.less(e.built) {
			best, e.built = n, t
		}
	}
}

// place gives every inode and block its position and returns the size of the
// image.
func (e *encoder) place() (int64, error) {
	pos := int64(inodesOffset)
	for i := range e.inodes {
		n := &e.inodes[i]
		if err := e.measure(n); err != nil {
			return 0, err
		}
		body := n.head() + n.xattrs
		pos = alignUp(pos, nidSize)
		switch {
		case n.inline:
			body += n.tail()
			if pos%BlockSize+body > BlockSize {
				pos = alignUp(pos, BlockSize)
			}
		case n.node.IsRegular() && n.size > 0:
			body = alignUp(body, indexSize) + indexSize*chunks(n.size)
		}
		n.pos = pos
		pos += body
	}
	e.blocks = blocksOf(pos)
	for i := range e.inodes {
		n := &e.inodes[i]
		if n.node.IsRegular() || n.size == 0 {
			continue
		}
		count := blocksOf(n.size)
		if n.inline {
			count--
		}
		if count > 0 {
			n.block = e.blocks
			e.blocks += count
		}
	}
	size := e.blocks * BlockSize
	if size > maxImage {
		return 0, fault.Errorf(fault.Exhausted, "encode metadata: the tree needs %d bytes of metadata, 1 GiB is possible; split it into several images", size)
	}
	return size, nil
}

// measure fills in what doesn't depend on the position.
func (e *encoder) measure(n *inode) error {
	x := n.node
	bad := func(kind fault.Kind, format string, args ...any) error {
		return fault.Errorf(kind, "encode metadata: %q: "+format, append([]any{e.path(x)}, args...)...)
	}
	if x.Mode > 0xFFFF {
		return bad(fault.Invalid, "mode %o has more than 16 bits", x.Mode)
	}
	for _, a := range x.Xattrs {
		index, rest := splitXattr(a.Name)
		if index == 0 {
			return bad(fault.Unsupported, "the attribute %q is not user, trusted, security or a POSIX ACL; leave it out", a.Name)
		}
		// tree.MaxXattrs keeps the value and the count of words in 16 bits.
		n.xattrs += xattrSize(len(rest), len(a.Value))
	}
	if len(x.Xattrs) > 0 {
		n.xattrs += xattrHeader
	}
	switch x.Type() {
	case tree.Directory:
		n.size = listDir(x.Entries).size()
	case tree.Symlink:
		n.size = int64(len(x.Target))
	case tree.Regular:
		n.size = x.Size
		if x.Size == 0 {
			break
		}
		if x.Offset < 0 || x.Offset%BlockSize != 0 {
			return bad(fault.Invalid, "its offset %d in the data device is not a multiple of %d", x.Offset, BlockSize)
		}
		if device := int64(e.device) * BlockSize; x.Size > device || x.Offset > device-x.Size {
			return bad(fault.Invalid, "%d bytes at %d are not inside the data device of %d bytes", x.Size, x.Offset, device)
		}
	}
	n.wide = x.UID > 0xFFFF || x.GID > 0xFFFF || n.nlink > 0xFFFF || n.size > 0xFFFFFFFF || stampOf(x) != e.built
	if x.IsDir() || x.Type() == tree.Symlink {
		n.inline = n.head()+n.xattrs+n.tail() <= BlockSize
	}
	return nil
}

// path is a name of x, for errors.
func (e *encoder) path(x *tree.Node) string {
	for p, n := range e.root.Walk() {
		if n == x {
			return p
		}
	}
	return ""
}

func (e *encoder) super(out []byte) {
	s := out[superOffset:]
	le.PutUint32(s[0:], magic)
	s[12] = 12                                            // log2 of the block size
	le.PutUint16(s[14:], uint16(e.inodes[0].pos/nidSize)) // root, in the first block or at the start of the second
	le.PutUint64(s[16:], uint64(len(e.inodes)))
	le.PutUint64(s[24:], uint64(e.built.sec))
	le.PutUint32(s[32:], e.built.nsec)
	le.PutUint32(s[36:], uint32(len(out)/BlockSize))
	le.PutUint32(s[80:], features)
	le.PutUint16(s[86:], 1) // devices
	le.PutUint16(s[88:], slotOffset/slotSize)
	le.PutUint32(out[slotOffset+64:], uint32(e.device))
}

// write puts an inode and its data into the image.
func (e *encoder) write(out []byte, n *inode) {
	x, p := n.node, out[n.pos:]
	layout := layoutPlain
	var union uint32
	switch t := x.Type(); {
	case t == tree.Regular && n.size > 0:
		layout, union = layoutChunk, chunkFormat
	case t == tree.Block || t == tree.Char:
		union = encodeDevice(x.Major, x.Minor)
	default:
		if n.inline {
			layout = layoutInline
		}
		union = uint32(n.block)
	}
	format := uint16(layout << 1)
	if n.wide {
		format |= 1
	}
	le.PutUint16(p[0:], format)
	if n.xattrs > 0 {
		le.PutUint16(p[2:], uint16((n.xattrs-xattrHeader)/4+1))
	}
	le.PutUint16(p[4:], uint16(x.Mode))
	le.PutUint32(p[16:], union)
	if n.wide {
		le.PutUint64(p[8:], uint64(n.size))
		le.PutUint32(p[24:], x.UID)
		le.PutUint32(p[28:], x.GID)
		le.PutUint64(p[32:], uint64(x.Mtime))
		le.PutUint32(p[40:], x.Nsec)
		le.PutUint32(p[44:], n.nlink)
	} else {
		le.PutUint16(p[6:], uint16(n.nlink))
		le.PutUint32(p[8:], uint32(n.size))
		le.PutUint16(p[24:], uint16(x.UID))
		le.PutUint16(p[26:], uint16(x.GID))
	}
	if n.xattrs > 0 {
		putXattrs(p[n.head():], x.Xattrs)
	}
	tail := n.head() + n.xattrs
	switch x.Type() {
	case tree.Regular:
		p = p[alignUp(tail, indexSize):]
		for i := range chunks(n.size) {
			le.PutUint16(p[2:], 1) // device
			le.PutUint32(p[4:], uint32((x.Offset+i*chunkSize)/BlockSize))
			p = p[indexSize:]
		}
	case tree.Symlink:
		if n.inline {
			copy(p[tail:], x.Target)
		} else {
			copy(out[n.block*BlockSize:], x.Target)
		}
	case tree.Directory:
		e.writeDir(out, n, p[tail:])
	}
}

func (e *encoder) writeDir(out []byte, n *inode, inline []byte) {
	list := listDir(n.node.Entries)
	last := blocksOf(n.size) - 1
	for i, at := int64(0), 0; i <= last; i++ {
		block := inline
		if i < last || !n.inline {
			block = out[(n.block+i)*BlockSize:]
		}
		end, _ := list.block(at)
		nameoff := (end - at) * direntSize
		for dirent := 0; at < end; at, dirent = at+1, dirent+direntSize {
			name, entry := list.at(at)
			var child *inode
			switch entry {
			case self:
				child = n
			case parent:
				child = &e.inodes[n.parent]
			default:
				child = &e.inodes[e.children[n.first+entry]]
			}
			le.PutUint64(block[dirent:], uint64(child.pos/nidSize))
			le.PutUint16(block[dirent+8:], uint16(nameoff))
			block[dirent+10] = dirType(child.node.Mode)
			nameoff += copy(block[nameoff:], name)
		}
	}
}

// encodeDevice is the number of a device node as the kernel stores it.
func encodeDevice(major, minor uint32) uint32 {
	return minor&0xFF | major<<8 | minor&^0xFF<<12
}

func decodeDevice(n uint32) (major, minor uint32) {
	return n >> 8 & 0xFFF, n&0xFF | n>>12&0xFFF00
}
