package engine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cosmos/iavl"
	"github.com/klauspost/compress/zstd"

	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// A snapshot is the tree of one height as a stream of its nodes, depth first,
// children before parents, compressed with zstd and cut into chunks of 4 MiB. A
// node is its height (1 byte), version, key and value, numbers as uvarints, byte
// strings with their length before them; the length of a value is one more than
// it is, 0 says that there is none. The manifest is the SHA-256 of each chunk in
// turn; its own SHA-256 names the snapshot. Whether a snapshot is right is seen
// from the root that it gives.
const (
	snapshotFormat = 1
	chunkSize      = 4 << 20
	maxChunks      = 4096 // 16 GiB
	keepSnapshots  = 2
	manifestName   = "manifest"
	maxNodeBytes   = 1 << 20 // of a key or a value
	maxRatio       = 200     // plain bytes for a compressed one
)

// snapshots makes and keeps the newest few.
type snapshots struct {
	dir   string
	tree  *Tree
	every uint64
	keep  int
	log   *slog.Logger
	wg    sync.WaitGroup
	busy  sync.Mutex
}

func newSnapshots(dir string, tree *Tree, every uint64, keep int, log *slog.Logger) *snapshots {
	return &snapshots{dir: dir, tree: tree, every: every, keep: keep, log: log}
}

// consider makes a snapshot in the background when it is time for one.
func (s *snapshots) consider(height uint64) {
	if s.every == 0 || height%s.every != 0 || !s.busy.TryLock() {
		return
	}
	e, err := s.tree.export(height)
	if err != nil {
		s.busy.Unlock()
		s.log.Warn("no snapshot", "height", height, "error", err)
		return
	}
	s.wg.Go(func() {
		defer s.busy.Unlock()
		defer e.Close()
		if err := s.make(height, e); err != nil {
			s.log.Warn("no snapshot", "height", height, "error", err)
			return
		}
		s.log.Info("snapshot made", "height", height)
	})
}

func (s *snapshots) close() { s.wg.Wait() }

// export reads all nodes of a version, which isn't dropped meanwhile.
func (t *Tree) export(height uint64) (*iavl.Exporter, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, err := t.tree.GetImmutable(int64(height))
	if err != nil {
		return nil, err
	}
	return v.Export()
}

// make writes the snapshot beside the others and drops old ones.
func (s *snapshots) make(height uint64, e *iavl.Exporter) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	w := &chunkWriter{dir: tmp}
	if err := writeNodes(w, e); err != nil {
		return err
	}
	manifest, err := w.finish()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(tmp, manifestName), manifest, 0o600); err != nil {
		return err
	}
	final := filepath.Join(s.dir, strconv.FormatUint(height, 10))
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	all := s.heights()
	for len(all) > s.keep {
		if err := os.RemoveAll(filepath.Join(s.dir, strconv.FormatUint(all[0], 10))); err != nil {
			return err
		}
		all = all[1:]
	}
	return nil
}

// heights lists the snapshots, rising.
func (s *snapshots) heights() []uint64 {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil
	}
	var out []uint64
	for _, e := range entries {
		if h, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && e.IsDir() {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return out
}

func writeNodes(w io.Writer, e *iavl.Exporter) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(z, 64<<10)
	for {
		n, err := e.Next()
		if errors.Is(err, iavl.ErrorExportDone) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := b.Write(appendNode(nil, n)); err != nil {
			return err
		}
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return z.Close()
}

func appendNode(b []byte, n *iavl.ExportNode) []byte {
	b = append(b, byte(n.Height))
	b = binary.AppendUvarint(b, uint64(n.Version))
	b = binary.AppendUvarint(b, uint64(len(n.Key)))
	b = append(b, n.Key...)
	if n.Value == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(n.Value))+1)
	return append(b, n.Value...)
}

// readNode reads what appendNode wrote, or io.EOF at the end.
func readNode(r *bufio.Reader) (*iavl.ExportNode, error) {
	height, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	n := &iavl.ExportNode{Height: int8(height)}
	version, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, cutOff(err)
	}
	if version > 1<<62 || n.Height < 0 {
		return nil, fault.Errorf(fault.Invalid, "snapshot: node with height %d and version %d", n.Height, version)
	}
	n.Version = int64(version)
	if n.Key, err = readBytes(r, 0); err != nil {
		return nil, err
	}
	if n.Value, err = readBytes(r, 1); err != nil {
		return nil, err
	}
	return n, nil
}

// readBytes reads a length, which is more by extra than it says, and the bytes.
func readBytes(r *bufio.Reader, extra uint64) ([]byte, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, cutOff(err)
	}
	if size < extra {
		return nil, nil
	}
	if size -= extra; size > maxNodeBytes {
		return nil, fault.Errorf(fault.Invalid, "snapshot: %d bytes in a node, at most %d", size, maxNodeBytes)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, cutOff(err)
	}
	return b, nil
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Errorf(fault.Invalid, "snapshot: it ends within a node")
	}
	return err
}

// chunkWriter cuts a stream into files.
type chunkWriter struct {
	dir    string
	buf    []byte
	hashes []byte
	n      int
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for len(w.buf) >= chunkSize {
		if err := w.cut(chunkSize); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (w *chunkWriter) cut(size int) error {
	if w.n == maxChunks {
		return fault.Errorf(fault.Exhausted, "the state needs more than %d chunks", maxChunks)
	}
	h := sha256.Sum256(w.buf[:size])
	if err := os.WriteFile(filepath.Join(w.dir, strconv.Itoa(w.n)), w.buf[:size], 0o600); err != nil {
		return err
	}
	w.hashes = append(w.hashes, h[:]...)
	w.buf = append(w.buf[:0], w.buf[size:]...)
	w.n++
	return nil
}

func (w *chunkWriter) finish() ([]byte, error) {
	if len(w.buf) > 0 {
		if err := w.cut(len(w.buf)); err != nil {
			return nil, err
		}
	}
	return w.hashes, nil
}

// ListSnapshots names the snapshots that peers may fetch.
func (a *app) ListSnapshots(context.Context, *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	r := &abci.ResponseListSnapshots{}
	if a.cfg.snapshots == nil {
		return r, nil
	}
	for _, h := range a.cfg.snapshots.heights() {
		m, err := os.ReadFile(filepath.Join(a.cfg.snapshots.dir, strconv.FormatUint(h, 10), manifestName))
		if err != nil || len(m) == 0 || len(m)%sha256.Size != 0 {
			continue
		}
		name := sha256.Sum256(m)
		r.Snapshots = append(r.Snapshots, &abci.Snapshot{Height: h, Format: snapshotFormat, Chunks: uint32(len(m) / sha256.Size), Hash: name[:], Metadata: m})
	}
	return r, nil
}

// LoadSnapshotChunk reads one chunk for a peer; no chunk when it isn't there.
func (a *app) LoadSnapshotChunk(_ context.Context, r *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	if a.cfg.snapshots == nil || r.Format != snapshotFormat || r.Chunk >= maxChunks {
		return &abci.ResponseLoadSnapshotChunk{}, nil
	}
	b, err := os.ReadFile(filepath.Join(a.cfg.snapshots.dir, strconv.FormatUint(r.Height, 10), strconv.FormatUint(uint64(r.Chunk), 10)))
	if err != nil {
		a.cfg.log.Debug("chunk of a snapshot is not here", "height", r.Height, "chunk", r.Chunk, "error", err)
		return &abci.ResponseLoadSnapshotChunk{}, nil
	}
	return &abci.ResponseLoadSnapshotChunk{Chunk: b}, nil
}

// restore is a snapshot that is being fetched.
type restore struct {
	height   uint64
	root     []byte // from a header that was verified
	manifest []byte
	dir      string
	next     uint32
}

func (r *restore) chunks() uint32 { return uint32(len(r.manifest) / sha256.Size) }

// OfferSnapshot accepts a snapshot whose shape is right. r.AppHash comes from a
// header that the engine has verified.
func (a *app) OfferSnapshot(_ context.Context, r *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply := func(x abci.ResponseOfferSnapshot_Result) (*abci.ResponseOfferSnapshot, error) {
		return &abci.ResponseOfferSnapshot{Result: x}, nil
	}
	s := r.Snapshot
	switch {
	case a.height != 0:
		a.cfg.log.Error("a snapshot needs an empty state", "height", a.height)
		return reply(abci.ResponseOfferSnapshot_ABORT)
	case s == nil || s.Format != snapshotFormat:
		return reply(abci.ResponseOfferSnapshot_REJECT_FORMAT)
	}
	name := sha256.Sum256(s.Metadata)
	if s.Chunks == 0 || s.Chunks > maxChunks || len(s.Metadata) != int(s.Chunks)*sha256.Size || string(name[:]) != string(s.Hash) || s.Height == 0 {
		return reply(abci.ResponseOfferSnapshot_REJECT)
	}
	a.dropRestore()
	dir, err := os.MkdirTemp(a.cfg.snapshots.dirMade(), "restore-")
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "restore snapshot: %w", err)
	}
	a.restore = &restore{height: s.Height, root: r.AppHash, manifest: s.Metadata, dir: dir}
	return reply(abci.ResponseOfferSnapshot_ACCEPT)
}

func (s *snapshots) dirMade() string {
	_ = os.MkdirAll(s.dir, 0o700) // the next step reports what is wrong
	return s.dir
}

func (a *app) dropRestore() {
	if a.restore != nil {
		_ = os.RemoveAll(a.restore.dir)
		a.restore = nil
	}
}

// ApplySnapshotChunk takes the chunks in turn; after the last one the tree is
// built beside the empty one, and replaces it when its root is the right one.
func (a *app) ApplySnapshotChunk(_ context.Context, r *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.restore
	if x == nil || r.Index != x.next || x.next >= x.chunks() {
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_RETRY_SNAPSHOT}, nil
	}
	h := sha256.Sum256(r.Chunk)
	if string(h[:]) != string(x.manifest[int(r.Index)*sha256.Size:][:sha256.Size]) {
		a.cfg.log.Warn("chunk of a snapshot is not what was announced", "height", x.height, "chunk", r.Index, "from", r.Sender)
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_RETRY, RefetchChunks: []uint32{r.Index}, RejectSenders: []string{r.Sender}}, nil
	}
	if err := os.WriteFile(filepath.Join(x.dir, strconv.FormatUint(uint64(r.Index), 10)), r.Chunk, 0o600); err != nil {
		return nil, fault.Errorf(fault.Of(err), "restore snapshot: %w", err)
	}
	if x.next++; x.next < x.chunks() {
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ACCEPT}, nil
	}
	defer a.dropRestore()
	if err := a.cfg.tree.restore(x); err != nil {
		a.cfg.log.Warn("snapshot can't be used", "height", x.height, "error", err)
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT}, nil
	}
	a.load()
	if a.cfg.restored != nil {
		if err := a.cfg.restored(x.height); err != nil {
			a.cfg.log.Warn("index can't be made", "error", err)
		}
	}
	a.cfg.log.Info("snapshot restored", "height", x.height, "root", fmt.Sprintf("%x", x.root))
	return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ACCEPT}, nil
}
