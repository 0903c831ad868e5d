package engine

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// Blocks, transactions, events and the state of the server.

func (s *server) status(r *http.Request) (any, error) { return s.n.Status() }

// Status is what the node says about itself.
func (n *Node) Status() (chain.Status, error) {
	height := n.tree.Height()
	out := chain.Status{Chain: n.Chain(), Height: height, Earliest: uint64(n.comet.BlockStore().Base()),
		Peers: n.comet.Switch().Peers().Size(), Waiting: n.comet.Mempool().Size(), Syncing: n.comet.ConsensusReactor().WaitSync(), Peer: n.Peer()}
	out.Time, _ = n.tree.Time(height)
	copy(out.Root[:], n.tree.Root())
	if vs, err := n.states.LoadValidators(int64(height) + 1); err == nil {
		out.Validators = vs.Size()
		if vs.HasAddress(address(n.self)) {
			out.Validator = n.self
		}
	}
	return out, nil
}

type health struct {
	Chain string `json:"chain"` // ok, or why it stands
}

// health is 503 when the chain stands.
func (s *server) health(w http.ResponseWriter, _ *http.Request) (any, error) {
	if err := s.n.Err(); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "the chain stands: %w", err)
	}
	return health{"ok"}, nil
}

func (s *server) block(r *http.Request) (any, error) {
	h, err := pathNumber(r, "height", 63)
	if err != nil {
		return nil, err
	}
	if h == 0 {
		h = s.n.tree.Height()
	}
	return s.blockAnswer(h)
}

func (s *server) blockAnswer(h uint64) (chain.BlockAnswer, error) {
	f, err := s.n.block(h)
	if err != nil {
		return chain.BlockAnswer{}, err
	}
	out := chain.BlockAnswer{Height: f.height, Time: f.time, Txs: []chain.TxAnswer{}, Events: f.result.Events}
	copy(out.Root[:], f.root)
	if m := s.n.comet.BlockStore().LoadBlockMeta(int64(h)); m != nil {
		copy(out.Hash[:], m.Header.Hash())
		out.Proposer = strings.ToLower(m.Header.ProposerAddress.String())
	}
	for i, tx := range f.result.Txs {
		out.Txs = append(out.Txs, answer(h, i, tx))
	}
	return out, nil
}

// blocks lists blocks, newest first; the cursor is the last height that was
// answered.
func (s *server) blocks(r *http.Request) (any, error) {
	before, limit, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	if limit > 100 {
		return nil, fault.Errorf(fault.Invalid, "limit %d: at most 100 blocks", limit)
	}
	h := s.n.tree.Height()
	if before > 0 {
		h = min(h, before-1)
	}
	page := chain.Page[chain.BlockAnswer]{Items: []chain.BlockAnswer{}}
	low := uint64(max(1, s.n.comet.BlockStore().Base()))
	for ; h >= low; h-- {
		b, err := s.blockAnswer(h)
		if err != nil {
			return nil, err
		}
		page.Items = append(page.Items, b)
		if len(page.Items) == limit && h > low {
			page.Next = strconv.FormatUint(h, 10)
			break
		}
	}
	return page, nil
}

func (s *server) tx(r *http.Request) (any, error) {
	var id chain.Hash
	b, err := hex.DecodeString(r.PathValue("id"))
	if err != nil || copy(id[:], b) != len(id) || len(b) != len(id) {
		return nil, fault.Errorf(fault.Invalid, "id %.80q: 64 hexadecimal digits", r.PathValue("id"))
	}
	a, err := s.n.Tx(id)
	if err != nil {
		return nil, err
	}
	out := chain.TxRecord{TxAnswer: a}
	if b := s.n.comet.BlockStore().LoadBlock(int64(a.Height)); b != nil && a.Index < len(b.Txs) {
		if tx, err := chain.Decode(b.Txs[a.Index]); err == nil {
			out.Body = &tx.Body
		}
	}
	return out, nil
}

func (s *server) submit(w http.ResponseWriter, r *http.Request) (any, error) {
	if t := r.Header.Get("Content-Type"); t != "" && !strings.HasPrefix(t, "application/cbor") && !strings.HasPrefix(t, "application/octet-stream") {
		return nil, fault.Errorf(fault.Invalid, "Content-Type %.60q: a signed transaction is application/cbor", t)
	}
	wire, err := io.ReadAll(http.MaxBytesReader(w, r.Body, chain.MaxTx))
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "read transaction: %w; at most %d bytes are allowed", err, chain.MaxTx)
	}
	ctx, cancel := context.WithTimeout(r.Context(), submitWait)
	defer cancel()
	return s.n.Submit(ctx, wire)
}

// events streams what happens. Each block with events is one event of the stream
// with the height as its id, so that a client goes on where it was.
func (s *server) events(w http.ResponseWriter, r *http.Request) (any, error) {
	next, err := s.first(r)
	if err != nil {
		return nil, err
	}
	if s.streams.Add(1) > maxStreams {
		s.streams.Add(-1)
		return nil, fault.Errorf(fault.Unavailable, "%d clients follow events already; try another server", maxStreams)
	}
	defer s.streams.Add(-1)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	var topics []string
	if t := r.URL.Query().Get("topic"); t != "" {
		topics = strings.Split(t, ",")
	}
	write := func(text string) error {
		if err := rc.SetWriteDeadline(s.n.cfg.Clock.Now().Add(streamWrite)); err != nil {
			return err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return rc.Flush()
	}
	if write(": events from block "+strconv.FormatUint(next, 10)+"\n\n") != nil {
		return nil, nil
	}
	quiet := time.NewTimer(streamQuiet)
	defer quiet.Stop()
	for {
		changed := s.n.news.wait()
		height := s.n.tree.Height()
		if next <= height {
			if err := s.stream(next, height, topics, write); err != nil {
				return nil, nil // the client is gone
			}
			next = height + 1
		}
		select {
		case <-changed:
		case <-quiet.C:
			if write(": block "+strconv.FormatUint(height, 10)+"\n\n") != nil {
				return nil, nil
			}
		case <-s.n.done:
			return nil, nil
		case <-r.Context().Done():
			return nil, nil
		}
		quiet.Reset(streamQuiet)
	}
}

// first is the block that a stream begins with.
func (s *server) first(r *http.Request) (uint64, error) {
	height, base := s.n.tree.Height(), uint64(max(1, s.n.comet.BlockStore().Base()))
	next := height + 1
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil {
			return 0, fault.Errorf(fault.Invalid, "Last-Event-ID %.40q: a height", last)
		}
		next = n + 1
	} else if r.URL.Query().Has("from") {
		n, err := number(r, "from", 63)
		if err != nil {
			return 0, err
		}
		next = max(1, n)
	}
	if next < base {
		return 0, fault.Errorf(fault.Expired, "events before block %d are dropped; read the records and follow from %d", base, height+1)
	}
	if next > height+1 {
		return 0, fault.Errorf(fault.Invalid, "from %d: the newest block is %d", next, height)
	}
	return next, nil
}

// stream writes the events of blocks from one height to another. What can't be
// written is the client's fault; a broken entry is left out.
func (s *server) stream(from, to uint64, topics []string, write func(string) error) error {
	for from <= to {
		var batch []chain.BlockEvents
		err := s.n.index.walk([]byte(ixEvents), join(ixEvents, from), func(key, value []byte) bool {
			if len(key) != 9 {
				return true
			}
			if from = binary.BigEndian.Uint64(key[1:]); from > to {
				return false
			}
			var b chain.BlockEvents
			if json.Unmarshal(value, &b) == nil {
				batch = append(batch, b)
			}
			from++
			return len(batch) < 100
		})
		if err != nil {
			return err
		}
		for _, b := range batch {
			b.Events = slices.DeleteFunc(b.Events, func(e chain.BlockEvent) bool { return !about(e.Type, topics) })
			if len(b.Events) == 0 {
				continue
			}
			text, err := json.Marshal(b)
			if err != nil {
				return err
			}
			if err := write(fmt.Sprintf("id: %d\nevent: block\ndata: %s\n\n", b.Height, text)); err != nil {
				return err
			}
		}
		if len(batch) < 100 {
			return nil
		}
	}
	return nil
}

func about(event string, topics []string) bool {
	for _, t := range topics {
		if strings.HasPrefix(event, t) {
			return true
		}
	}
	return len(topics) == 0
}

// merged lists the proposals of several groups together, rising.
func (s *server) merged(groups []uint64, after uint64, limit int) ([]uint64, error) {
	var all []uint64
	for _, g := range groups {
		ids, err := s.n.index.ids(join(ixProposals, g), after, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, ids...)
	}
	slices.Sort(all)
	return all[:min(len(all), limit)], nil
}

// parsePlace reads HEIGHT.NUMBER.
func parsePlace(text string) (height, n uint64, err error) {
	a, b, ok := strings.Cut(text, ".")
	height, err1 := strconv.ParseUint(a, 10, 63)
	n, err2 := strconv.ParseUint(b, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, fault.Errorf(fault.Invalid, "cursor %.40q: it isn't one of this list", text)
	}
	return height, n, nil
}

func withoutCursor(r *http.Request) *url.URL {
	u := *r.URL
	q := u.Query()
	q.Del("cursor")
	u.RawQuery = q.Encode()
	return &u
}
