package hub

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

const (
	maxGap  = 128 << 10 // bodies this close are read together
	maxRead = 4 << 20   // bytes of one read of a pack
)

// serveHave answers POST /have: which of the named chunks and keys are here.
// What is said to be here is safe from collection for two epochs.
func (s *Server) serveHave(w http.ResponseWriter, r *http.Request) {
	q, err := protocol.ReadQuery(r.Body, protocol.MaxHave)
	if err == nil && len(q.Names) > 0 {
		err = s.index.load(r.Context())
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	bits := make([]bool, 0, len(q.Names)+len(q.Keys))
	used := make(map[string]bool)
	for _, n := range q.Names {
		pack, e, _, err := s.index.find(r.Context(), n)
		if err == nil && !usable(e, q.Sealed) {
			err = fault.NotFound
		}
		if err != nil && fault.Of(err) != fault.NotFound {
			s.fail(w, r, err)
			return
		}
		if err == nil {
			used[flist.PackPrefix+pack.String()] = true
		}
		bits = append(bits, err == nil)
	}
	for _, text := range q.Keys {
		k, err := parseKey(text)
		if err == nil {
			_, err = s.store.Stat(r.Context(), k.text)
		}
		switch fault.Of(err) {
		case "":
			used[k.text] = true
		case fault.NotFound:
		default:
			s.fail(w, r, err)
			return
		}
		bits = append(bits, err == nil)
	}
	if err := s.waste.rescue(r.Context(), s.store, used); err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, protocol.TypeBytes, protocol.Bitmap(bits))
}

// usable reports whether a locator may point to the entry.
func usable(e block.PackEntry, sealed bool) bool {
	return e.Enc&block.Sealed != 0 == sealed && derivable(e)
}

// serveLocate answers POST /locate: where the named chunks are.
func (s *Server) serveLocate(w http.ResponseWriter, r *http.Request) {
	q, err := protocol.ReadQuery(r.Body, protocol.MaxHave)
	if err == nil && len(q.Keys) > 0 {
		err = fault.Errorf(fault.Invalid, "/locate takes names of chunks and no keys")
	}
	if err == nil {
		err = s.index.load(r.Context())
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var l protocol.Located
	nums := make(map[block.Name]uint32)
	used := make(map[string]bool)
	for _, n := range q.Names {
		pack, e, d, err := s.index.find(r.Context(), n)
		if err == nil && !usable(e, q.Sealed) {
			err = fault.NotFound
		}
		switch fault.Of(err) {
		case "":
			i, ok := nums[pack]
			if !ok {
				i = uint32(len(l.Packs))
				nums[pack] = i
				l.Packs = append(l.Packs, protocol.Pack{Name: pack, Size: d.size})
				used[flist.PackPrefix+pack.String()] = true
			}
			l.Places = append(l.Places, protocol.Place{Pack: i, Offset: uint32(e.Off), Stored: uint32(e.Stored)})
		case fault.NotFound:
			l.Places = append(l.Places, protocol.Place{Pack: protocol.Absent})
		default:
			s.fail(w, r, err)
			return
		}
	}
	if l.Packs == nil {
		l.Packs = []protocol.Pack{}
	}
	if err := s.waste.rescue(r.Context(), s.store, used); err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, protocol.TypeCBOR, canon.MustMarshal(l))
}

// serveChunk answers GET /c/NAME with one wire record.
func (s *Server) serveChunk(w http.ResponseWriter, r *http.Request) {
	name, err := block.ParseName(r.PathValue("name"))
	if err == nil {
		err = s.index.load(r.Context())
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	pack, e, _, err := s.index.find(r.Context(), name)
	var body, rec []byte
	if err == nil {
		body, err = s.store.Read(r.Context(), flist.PackPrefix+pack.String(), e.Off, int64(e.Stored))
	}
	if err == nil {
		rec, err = block.AppendRecord(nil, block.Record{Name: name, Enc: e.Enc, Plain: e.Plain, Body: body})
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", cacheForever)
	s.answer(w, protocol.TypeRecords, rec)
}

func (s *Server) answer(w http.ResponseWriter, mediaType string, b []byte) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	w.Write(b) // a client that went away is noticed by the server
}

// serveBatch answers POST /batch with a wire record for each name, in the order
// of the packs. Names that are not here come first, as absent.
func (s *Server) serveBatch(w http.ResponseWriter, r *http.Request) {
	q, err := protocol.ReadQuery(r.Body, protocol.MaxBatch)
	if err == nil && len(q.Keys) > 0 {
		err = fault.Errorf(fault.Invalid, "/batch takes names of chunks and no keys")
	}
	if err == nil {
		err = s.index.load(r.Context())
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	type place struct {
		pack block.Name
		e    block.PackEntry
	}
	var places []place
	var out []byte
	seen := make(map[block.Name]bool, len(q.Names))
	for _, n := range q.Names {
		if seen[n] {
			continue
		}
		seen[n] = true
		pack, e, _, err := s.index.find(r.Context(), n)
		if err == nil {
			places = append(places, place{pack, e})
			continue
		}
		if fault.Of(err) == fault.NotFound {
			out, err = block.AppendRecord(out, block.Record{Name: n, Enc: block.Absent})
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(compare(a.pack, b.pack), cmp.Compare(a.e.Off, b.e.Off))
	})
	h := w.Header()
	h.Set("Content-Type", protocol.TypeRecords)
	h.Set("Cache-Control", "no-store")
	for len(places) > 0 {
		first := places[0]
		n, end := 1, first.e.Off+int64(first.e.Stored)
		for n < len(places) {
			next := places[n]
			stop := next.e.Off + int64(next.e.Stored)
			if next.pack != first.pack || next.e.Off-end > maxGap || stop-first.e.Off > maxRead {
				break
			}
			n, end = n+1, stop
		}
		b, err := s.store.Read(r.Context(), flist.PackPrefix+first.pack.String(), first.e.Off, end-first.e.Off)
		if err == nil && int64(len(b)) != end-first.e.Off {
			err = fault.Errorf(fault.Internal, "pack %v is cut off", first.pack)
		}
		for _, p := range places[:n] {
			if err != nil && fault.Of(err) == fault.NotFound { // collected meanwhile
				out, _ = block.AppendRecord(out, block.Record{Name: p.e.Name, Enc: block.Absent})
				continue
			}
			if err == nil {
				at := p.e.Off - first.e.Off
				out, err = block.AppendRecord(out, block.Record{Name: p.e.Name, Enc: p.e.Enc, Plain: p.e.Plain, Body: b[at : at+int64(p.e.Stored)]})
			}
			if err != nil {
				s.log.ErrorContext(r.Context(), "read batch", "error", err)
				panic(http.ErrAbortHandler)
			}
		}
		places = places[n:]
		if _, err := w.Write(out); err != nil {
			return // the client went away
		}
		out = out[:0]
	}
	w.Write(out)
}
