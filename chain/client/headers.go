package client

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cometbft/cometbft/light/store"
	"github.com/cometbft/cometbft/types"

	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// keepHeaders is how many verified headers are kept.
const keepHeaders = 50

// headers keeps verified blocks in memory and, with a folder, in one small file
// each. A file that can't be read is as good as none: the header is asked for
// again.
type headers struct {
	dir    string
	mu     sync.Mutex
	blocks map[int64]*types.LightBlock
}

var _ store.Store = (*headers)(nil)

func openHeaders(dir string) (*headers, error) {
	h := &headers{dir: dir, blocks: make(map[int64]*types.LightBlock)}
	if dir == "" {
		return h, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "keep headers in %s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read headers in %s: %w", dir, err)
	}
	for _, e := range entries {
		n, err := strconv.ParseInt(strings.TrimSuffix(e.Name(), ".block"), 10, 64)
		if err != nil || n <= 0 {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "read header %s: %w", e.Name(), err)
		}
		if block, err := decodeBlock(b); err == nil && block.Height == n {
			h.blocks[n] = block
		}
	}
	return h, nil
}

func (h *headers) file(height int64) string {
	return filepath.Join(h.dir, strconv.FormatInt(height, 10)+".block")
}

func (h *headers) holds(height uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at := range h.blocks {
		if at >= int64(height) {
			return true // verified from that checkpoint, or from a later one
		}
	}
	return false
}

// heights returns the kept heights, rising. The lock is held.
func (h *headers) heights() []int64 {
	all := make([]int64, 0, len(h.blocks))
	for at := range h.blocks {
		all = append(all, at)
	}
	slices.Sort(all)
	return all
}

// SaveLightBlock keeps a verified block.
func (h *headers) SaveLightBlock(b *types.LightBlock) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dir != "" {
		pb, err := b.ToProto()
		if err != nil {
			return err
		}
		raw, err := pb.Marshal()
		if err != nil {
			return err
		}
		if err := atomicfile.Write(h.file(b.Height), raw, 0o600); err != nil {
			return err
		}
	}
	h.blocks[b.Height] = b
	return nil
}

// DeleteLightBlock forgets a block.
func (h *headers) DeleteLightBlock(height int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.remove(height)
}

func (h *headers) remove(height int64) error {
	delete(h.blocks, height)
	if h.dir == "" {
		return nil
	}
	if err := os.Remove(h.file(height)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// LightBlock returns a kept block.
func (h *headers) LightBlock(height int64) (*types.LightBlock, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.blocks[height]; ok {
		return b, nil
	}
	return nil, store.ErrLightBlockNotFound
}

// LastLightBlockHeight is the newest height, or -1.
func (h *headers) LastLightBlockHeight() (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if all := h.heights(); len(all) > 0 {
		return all[len(all)-1], nil
	}
	return -1, nil
}

// FirstLightBlockHeight is the oldest height, or -1.
func (h *headers) FirstLightBlockHeight() (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if all := h.heights(); len(all) > 0 {
		return all[0], nil
	}
	return -1, nil
}

// LightBlockBefore returns the newest block below a height.
func (h *headers) LightBlockBefore(height int64) (*types.LightBlock, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.heights()
	if i, _ := slices.BinarySearch(all, height); i > 0 {
		return h.blocks[all[i-1]], nil
	}
	return nil, store.ErrLightBlockNotFound
}

// Prune forgets the oldest blocks until size are left.
func (h *headers) Prune(size uint16) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.heights()
	for len(all) > int(size) {
		if err := h.remove(all[0]); err != nil {
			return err
		}
		all = all[1:]
	}
	return nil
}

// Size is the number of kept blocks.
func (h *headers) Size() uint16 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return uint16(len(h.blocks))
}
