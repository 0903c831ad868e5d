package erofs

import (
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Decode reads an image that Encode could have written. Hard links share a
// *tree.Node, regular files have their Offset and no Content. The tree keeps
// its own copy of the bytes.
//
// Any other bytes are Invalid, or give a tree that tree.Check accepts; only
// Check tells whether they are canonical. Time and memory are proportional to
// the length of b, whatever it claims.
func Decode(b []byte) (root *tree.Node, deviceBlocks uint64, err error) {
	root, deviceBlocks, err = decode(b)
	if err != nil {
		return nil, 0, err
	}
	if err := root.Check(); err != nil {
		return nil, 0, fault.Errorf(fault.Invalid, "decode metadata: %w", err)
	}
	return root, deviceBlocks, nil
}

func invalid(format string, args ...any) error {
	return fault.Errorf(fault.Invalid, "decode metadata: "+format, args...)
}

// found is an inode of the image.
type found struct {
	node   *tree.Node
	nid    uint64
	blocks string // whole blocks of a directory
	tail   string // its inline last block
}

type decoder struct {
	text   string   // the image; names, targets and attributes are parts of it
	image  []byte   //
	device uint64   // blocks
	built  stamp    //
	inodes []found  // breadth-first, as in the image
	number []uint32 // by nid: 1 + number in inodes
	pos    uint64   // end of the inode that was read last
	block  uint64   // end of the whole blocks that were read last, in bytes
	names  int      // in the tree, so far
	nodes  []tree.Node
}

// decode is Decode without the check of the tree's limits, but for those that
// protect the reader.
func decode(b []byte) (*tree.Node, uint64, error) {
	if len(b) < BlockSize || len(b)%BlockSize != 0 || len(b) > maxImage {
		return nil, 0, invalid("%d bytes are no image: the size is a multiple of 4096, up to 1 GiB", len(b))
	}
	s := b[superOffset:]
	switch {
	case le.Uint32(s) != magic:
		return nil, 0, invalid("no EROFS superblock")
	case s[12] != 12:
		return nil, 0, invalid("blocks of 2^%d bytes, not 4096", s[12])
	case le.Uint32(s[4:]) != 0 || le.Uint32(s[8:]) != 0 || le.Uint32(s[80:]) != features:
		return nil, 0, invalid("features %#x and %#x, not 0 and %#x", le.Uint32(s[8:]), le.Uint32(s[80:]), features)
	case le.Uint16(s[86:]) != 1 || le.Uint16(s[88:]) != slotOffset/slotSize:
		return nil, 0, invalid("not one data device at %d", slotOffset)
	case le.Uint32(s[40:]) != 0:
		return nil, 0, invalid("the inodes are not in the first block")
	}
	d := decoder{
		text: string(b), image: b,
		device: uint64(le.Uint32(b[slotOffset+64:])),
		built:  stamp{int64(le.Uint64(s[24:])), le.Uint32(s[32:])},
		number: make([]uint32, len(b)/nidSize),
		pos:    inodesOffset,
		names:  1,
	}
	d.inodes = make([]found, 0, min(le.Uint64(s[16:]), uint64(len(d.number))))
	top := uint64(le.Uint16(s[14:]))
	root, err := d.inode(top)
	if err != nil {
		return nil, 0, err
	}
	if !root.IsDir() {
		return nil, 0, invalid("the root is not a directory")
	}
	for i := 0; i < len(d.inodes); i++ {
		if dir := d.inodes[i]; dir.node.IsDir() {
			if err := d.dir(dir); err != nil {
				return nil, 0, err
			}
		}
	}
	return root, d.device, nil
}

// new is a node out of a slab.
func (d *decoder) new() *tree.Node {
	if len(d.nodes) == 0 {
		d.nodes = make([]tree.Node, min(512, 1+len(d.image)/BlockSize*8))
	}
	n := &d.nodes[0]
	d.nodes = d.nodes[1:]
	return n
}

// inode reads the inode nid when it is met for the first time.
func (d *decoder) inode(nid uint64) (*tree.Node, error) {
	if nid >= uint64(len(d.number)) {
		return nil, invalid("inode %d is outside the image", nid)
	}
	if k := d.number[nid]; k != 0 {
		return d.inodes[k-1].node, nil // the check of the tree finds cycles
	}
	pos := nid * nidSize
	if pos < d.pos {
		return nil, invalid("inode %d is out of order or overlaps another", nid)
	}
	b := d.image[pos:]
	format := le.Uint16(b)
	if len(b) < extendedSize && (format&1 == 1 || len(b) < compactSize) {
		return nil, invalid("inode %d is cut off", nid)
	}
	n := d.new()
	n.Mode = uint32(le.Uint16(b[4:]))
	union := le.Uint32(b[16:])
	end := pos + compactSize
	var size uint64
	if format&1 == 1 {
		size = le.Uint64(b[8:])
		n.UID, n.GID = le.Uint32(b[24:]), le.Uint32(b[28:])
		n.Mtime, n.Nsec = int64(le.Uint64(b[32:])), le.Uint32(b[40:])
		end = pos + extendedSize
	} else {
		size = uint64(le.Uint32(b[8:]))
		n.UID, n.GID = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		n.Mtime, n.Nsec = d.built.sec, d.built.nsec
	}
	if size > maxBlocks*BlockSize {
		return nil, invalid("inode %d has an impossible size of %d bytes", nid, size)
	}
	if count := le.Uint16(b[2:]); count != 0 {
		if count == 1 {
			return nil, invalid("inode %d has an empty list of attributes", nid)
		}
		start := end
		if end += xattrHeader + 4*uint64(count-1); end > uint64(len(d.text)) {
			return nil, invalid("the attributes of inode %d are cut off", nid)
		}
		xs, err := readXattrs(d.text[start:end])
		if err != nil {
			return nil, invalid("inode %d: %w", nid, err)
		}
		n.Xattrs = xs
	}
	f := found{node: n, nid: nid}
	end, err := d.data(&f, format>>1, union, size, end)
	if err != nil {
		return nil, err
	}
	d.pos = end
	d.inodes = append(d.inodes, f)
	d.number[nid] = uint32(len(d.inodes))
	return n, nil
}

// data reads what the type of the inode adds. The inode's data begin at pos,
// the result is their end.
func (d *decoder) data(f *found, layout uint16, union uint32, size, pos uint64) (uint64, error) {
	n := f.node
	t := n.Type()
	switch {
	case t == tree.Regular && size > 0:
		if layout != layoutChunk || union != chunkFormat {
			return 0, invalid("file %d has layout %d, chunk format %#x; not 4 and %#x", f.nid, layout, union, chunkFormat)
		}
		start := alignUp(pos, indexSize)
		end := start + indexSize*uint64(chunks(int64(size)))
		if end > uint64(len(d.image)) {
			return 0, invalid("the chunk index of file %d is cut off", f.nid)
		}
		n.Size = int64(size)
		n.Offset = int64(le.Uint32(d.image[start+4:])) * BlockSize
		return end, nil
	case t == tree.Directory || t == tree.Symlink:
		return d.blocks(f, layout, union, size, pos)
	case t == tree.Block || t == tree.Char:
		n.Major, n.Minor = decodeDevice(union)
	}
	if layout != layoutPlain || size != 0 {
		return 0, invalid("inode %d of type %o has layout %d, size %d; not 0 and 0", f.nid, t, layout, size)
	}
	return pos, nil
}

// blocks finds the data of a directory or symlink.
func (d *decoder) blocks(f *found, layout uint16, first uint32, size, pos uint64) (uint64, error) {
	if size == 0 || layout != layoutPlain && layout != layoutInline {
		return 0, invalid("inode %d has layout %d, size %d", f.nid, layout, size)
	}
	whole := size
	if layout == layoutInline {
		whole = (size - 1) / BlockSize * BlockSize
		end := pos + size - whole
		if end > uint64(len(d.text)) {
			return 0, invalid("the inline data of inode %d are cut off", f.nid)
		}
		f.tail = d.text[pos:end]
		pos = end
	}
	if whole > 0 {
		start := uint64(first) * BlockSize
		end := start + whole
		if start < d.block || start < pos || end > uint64(len(d.text)) {
			return 0, invalid("the data of inode %d are out of order, overlap others or are cut off", f.nid)
		}
		f.blocks = d.text[start:end]
		d.block = alignUp(end, BlockSize)
	}
	if n := f.node; !n.IsDir() {
		if f.blocks != "" && f.tail != "" {
			return 0, invalid("the target of symlink %d is too long", f.nid)
		}
		n.Target = f.blocks + f.tail
		f.blocks, f.tail = "", ""
	}
	return pos, nil
}

// dir reads the entries of a directory and the inodes they name first.
func (d *decoder) dir(dir found) error {
	for data, tail := dir.blocks, dir.tail; len(data)+len(tail) > 0; {
		if len(data) == 0 {
			data, tail = tail, ""
		}
		block := data[:min(BlockSize, len(data))]
		data = data[len(block):]
		count, err := direntCount(block)
		if err != nil {
			return invalid("directory %d: %w", dir.nid, err)
		}
		dir.node.Entries = grow(dir.node.Entries, count, len(data)+len(tail))
		for i := range count {
			name, err := direntName(block, i, count)
			if err != nil {
				return invalid("directory %d: %w", dir.nid, err)
			}
			if name == "." || name == ".." {
				continue
			}
			if d.names++; d.names > tree.MaxEntries {
				return invalid("more than %d entries", tree.MaxEntries)
			}
			child, err := d.inode(u64(block[i*direntSize:]))
			if err != nil {
				return err
			}
			dir.node.Entries = append(dir.node.Entries, tree.Entry{Name: name, Node: child})
		}
	}
	return nil
}

// grow makes room for count entries of this block and, guessing by it, those
// of the left bytes that follow.
func grow(entries []tree.Entry, count, left int) []tree.Entry {
	if entries != nil {
		return entries
	}
	if count <= 2 && left == 0 {
		return nil
	}
	return make([]tree.Entry, 0, count+left/BlockSize*count)
}
