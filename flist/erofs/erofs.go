// Package erofs writes, reads and checks the metadata of an image: an EROFS
// file system that the Linux kernel mounts, with every file's bytes in a
// second device.
//
// The image is canonical: Encode maps one tree to one sequence of bytes, and
// Check accepts only bytes that Encode writes. So a kernel that mounts a
// checked image parses nothing but what this package can produce. The format
// is specified in docs/reference/metadata.md.
//
// The package holds trees and images in memory, touches no disk, starts no
// goroutine and never reads file content. It reads no EROFS image of other
// makers, and it doesn't decide where in the device a file lies: the caller
// sets Node.Offset.
//
//	root := tree.NewDir(0o755)
//	err := root.Insert("bin/zos", &tree.Node{Mode: tree.Regular | 0o755, Size: 9000, Offset: 4096})
//	image, err := erofs.Encode(root, 4)      // a device of 4 blocks
//	again, blocks, err := erofs.Check(image) // the same tree, 4
//
// Mount it with mount(2), type "erofs", read-only, data "device=FILE", where
// FILE is the data device.
package erofs

import (
	"bytes"
	"fmt"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// BlockSize is the unit of the image and of its data device, in bytes.
const BlockSize = 4096

const (
	maxImage  = 1 << 30   // bytes of one image
	maxBlocks = 1<<32 - 1 // of the data device

	superOffset  = 1024
	magic        = 0xE0F5E1E2
	features     = 0x04 | 0x08 // chunked files, device table
	slotOffset   = superOffset + 128
	slotSize     = 128
	inodesOffset = slotOffset + slotSize

	nidSize      = 32 // inodes start at multiples of it
	compactSize  = 32
	extendedSize = 64
	direntSize   = 12
	indexSize    = 8 // one chunk index

	layoutPlain  = 0 // data in whole blocks
	layoutInline = 2 // the last block lies behind the inode
	layoutChunk  = 4 // data named by chunk indexes

	chunkFormat = 0x20 | chunkOrder // indexes, order of the chunk size
	chunkOrder  = 31                // the largest there is: 8 TiB
	chunkSize   = BlockSize << chunkOrder
)

// dirType is the file type of a directory entry.
func dirType(mode uint32) byte {
	switch mode & tree.TypeMask {
	case tree.Regular:
		return 1
	case tree.Directory:
		return 2
	case tree.Char:
		return 3
	case tree.Block:
		return 4
	case tree.FIFO:
		return 5
	case tree.Socket:
		return 6
	default:
		return 7 // symlink
	}
}

func alignUp[T int | int64 | uint64](n, to T) T { return (n + to - 1) / to * to }

// chunks is the number of chunk indexes of a file of size bytes.
func chunks(size int64) int64 { return (size + chunkSize - 1) / chunkSize }

// Check is the canonical check: it decodes b, encodes the tree again and
// demands the same bytes. It returns the tree and the blocks of the data
// device. Anything else is Invalid; the error says where the bytes differ
// first. Time and memory are proportional to the length of b.
func Check(b []byte) (root *tree.Node, deviceBlocks uint64, err error) {
	root, deviceBlocks, err = decode(b)
	if err != nil {
		return nil, 0, err
	}
	again, err := Encode(root, deviceBlocks) // checks the limits of the tree, too
	if err != nil {
		return nil, 0, fault.Errorf(fault.Invalid, "check metadata: %w", err)
	}
	if !bytes.Equal(b, again) {
		return nil, 0, fault.Errorf(fault.Invalid, "check metadata: not in canonical form, %s; build the image again", difference(b, again))
	}
	return root, deviceBlocks, nil
}

// difference says where a and the canonical bytes b part.
func difference(a, b []byte) string {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == n {
		return fmt.Sprintf("it has %d bytes, not %d", len(a), len(b))
	}
	part := "inodes and blocks"
	switch {
	case i < superOffset:
		part = "empty space before the superblock"
	case i < slotOffset:
		part = "superblock"
	case i < inodesOffset:
		part = "device slot"
	}
	return fmt.Sprintf("byte %d (%s) is %#02x, not %#02x", i, part, a[i], b[i])
}
