package fl

import (
	"context"
	"errors"
	"sort"
	"sync"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

const (
	deviceBlock = 4096    // files start on a multiple of it
	maxDevice   = 1 << 44 // bytes of a device
)

// Device is a .fl as a data device: all files behind one another, so that the
// tree can be mounted as an image without being imported, and a block is
// fetched when a byte of it is read. The layout depends on the file only.
type Device struct {
	Root   *tree.Node // with the Offset of every file
	Config *config.Config
	Source string // "fl:blake3:…": equal devices have equal ones
	Size   int64  // bytes, a multiple of 4096

	res    *convert.Result
	img    *image
	files  []extent // by offset
	blocks blockCache

	mu   sync.Mutex
	ends map[*inode][]int64 // where the blocks of irregular files end
}

type extent struct {
	off int64
	in  *inode
}

// OpenDevice reads and checks a .fl as Read does and lays its files out. ctx
// ends all that is under way later.
func OpenDevice(ctx context.Context, file string, opts ReadOptions) (*Device, error) {
	res, err := Read(ctx, file, opts)
	if err != nil {
		return nil, err
	}
	d := &Device{Root: res.Root, Config: res.Config, Source: res.Source, res: res, ends: make(map[*inode][]int64)}
	d.blocks.init()
	for _, n := range res.Root.Walk() {
		c, ok := n.Content.(*content)
		if !ok || n.Size == 0 {
			continue
		}
		d.img = c.img
		n.Offset = d.Size
		d.files = append(d.files, extent{n.Offset, c.in})
		if d.Size += (n.Size + deviceBlock - 1) / deviceBlock * deviceBlock; d.Size > maxDevice {
			return nil, errors.Join(fault.Errorf(fault.Exhausted, "open %s: its files need more than the %d bytes of a data device", file, int64(maxDevice)), res.Close())
		}
	}
	return d, nil
}

// Close ends what is under way and closes the stores.
func (d *Device) Close() error {
	err := d.res.Close()
	d.blocks.close()
	return err
}

// ReadAt fills p with the bytes of the device from off; between files there
// are zeros. It fails rather than deliver a byte that was not checked. Many
// goroutines may call it.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > d.Size {
		return fault.Errorf(fault.Invalid, "read %d bytes at %d of a device of %d", len(p), off, d.Size)
	}
	clear(p)
	i := sort.Search(len(d.files), func(i int) bool { return d.files[i].off > off }) - 1
	for ; i < len(d.files) && d.files[i].off < off+int64(len(p)); i++ {
		f := d.files[i]
		start := max(off, f.off)
		end := min(off+int64(len(p)), f.off+f.in.node.Size)
		if start >= end {
			continue
		}
		if err := d.readFile(ctx, f.in, p[start-off:end-off], start-f.off); err != nil {
			return err
		}
	}
	return nil
}

// readFile fills p from off of a file, within its size.
func (d *Device) readFile(ctx context.Context, in *inode, p []byte, off int64) error {
	for len(p) > 0 {
		plain, start, err := d.blockAt(ctx, in, off)
		if err != nil {
			return err
		}
		n := copy(p, plain[off-start:])
		p = p[n:]
		off += int64(n)
	}
	return nil
}

// blockAt is the block of a file that holds off, and where it starts. Almost
// every file is cut at 512 KiB, so the number of the block is known; the first
// block that has another length than it must have says that the file is not,
// and then the lengths are learned from its start.
func (d *Device) blockAt(ctx context.Context, in *inode, off int64) (plain []byte, start int64, err error) {
	d.mu.Lock()
	ends, irregular := d.ends[in]
	d.mu.Unlock()
	size := in.node.Size
	if !irregular && int64(len(in.blocks)) == (size+BlockSize-1)/BlockSize {
		i := int(off / BlockSize)
		start = int64(i) * BlockSize
		if plain, err = d.block(ctx, in, i); err != nil {
			return nil, 0, err
		}
		if int64(len(plain)) == min(BlockSize, size-start) {
			if i+1 < len(in.blocks) {
				d.blocks.ahead(d.img, in.blocks[i+1])
			}
			return plain, start, nil
		}
	}
	if !irregular {
		if ends, err = d.learn(ctx, in); err != nil {
			return nil, 0, err
		}
	}
	i := sort.Search(len(ends), func(i int) bool { return ends[i] > off })
	if i > 0 {
		start = ends[i-1]
	}
	plain, err = d.block(ctx, in, i)
	return plain, start, err
}

// learn fetches all blocks of a file to know where each ends.
func (d *Device) learn(ctx context.Context, in *inode) ([]int64, error) {
	var ends []int64
	var sum int64
	for i := range in.blocks {
		plain, err := d.block(ctx, in, i)
		if err != nil {
			return nil, err
		}
		sum += int64(len(plain))
		ends = append(ends, sum)
		if sum > in.node.Size || i == len(in.blocks)-1 && sum < in.node.Size {
			return nil, sumFault(d.img.file, in, i, sum)
		}
	}
	d.mu.Lock()
	d.ends[in] = ends
	d.mu.Unlock()
	return ends, nil
}

func (d *Device) block(ctx context.Context, in *inode, i int) ([]byte, error) {
	plain, err := d.blocks.get(ctx, d.img, in.blocks[i])
	if err != nil {
		return nil, d.img.blockFault(in, i, err)
	}
	return plain, nil
}
