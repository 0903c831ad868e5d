package engine

import (
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Lists. A request looks at a bounded number of records, so a page may hold less
// than its limit although more follow; Next says whether to go on.

// maxLook is the most records that a request looks at.
const maxLook = 10_000

// pageOf reads cursor and limit.
func pageOf(r *http.Request) (after uint64, limit int, err error) {
	after, err = number(r, "cursor", 63)
	if err != nil {
		return 0, 0, err
	}
	n, err := number(r, "limit", 32)
	switch {
	case err != nil:
		return 0, 0, err
	case n == 0:
		return after, pageDefault, nil
	case n > pageMost:
		return 0, 0, fault.Errorf(fault.Invalid, "limit %d: 1 to %d", n, pageMost)
	}
	return after, int(n), nil
}

// collect fills a page with those of rising ids that are kept.
func collect[T any](after uint64, limit int, next func(after uint64, limit int) ([]uint64, error), load func(id uint64) (*T, error)) (chain.Page[T], error) {
	page := chain.Page[T]{Items: []T{}}
	looked := 0
	for {
		batch := min(limit*2, maxLook-looked)
		ids, err := next(after, batch)
		if err != nil {
			return page, err
		}
		for _, id := range ids {
			v, err := load(id)
			if err != nil {
				return page, err
			}
			after = id
			if looked++; v == nil {
				continue
			}
			if page.Items = append(page.Items, *v); len(page.Items) == limit {
				page.Next = strconv.FormatUint(after, 10)
				return page, nil
			}
		}
		switch {
		case len(ids) < batch:
			return page, nil
		case looked >= maxLook:
			page.Next = strconv.FormatUint(after, 10)
			return page, nil
		}
	}
}

// treeIDs lists the records of a one-letter prefix and a 4-byte number.
func treeIDs(v View, prefix string) func(after uint64, limit int) ([]uint64, error) {
	return func(from uint64, limit int) ([]uint64, error) {
		var out []uint64
		if from >= 1<<32-1 {
			return nil, nil
		}
		v.Ascend(binary.BigEndian.AppendUint32([]byte(prefix), uint32(from)+1), after([]byte(prefix)), func(key, _ []byte) bool {
			if len(key) == 5 {
				out = append(out, uint64(binary.BigEndian.Uint32(key[1:])))
			}
			return len(out) < limit
		})
		return out, nil
	}
}

func (s *server) indexIDs(prefix string, n uint64) func(after uint64, limit int) ([]uint64, error) {
	return func(after uint64, limit int) ([]uint64, error) { return s.n.index.ids(join(prefix, n), after, limit) }
}

// queryParty reads a party of the query; 0 when it is missing.
func queryParty(r *http.Request, name string) (identity.Party, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	p, err := identity.ParseParty(text)
	if err != nil {
		return 0, fault.Errorf(fault.Of(err), "%s: %w", name, err)
	}
	return p, nil
}

func (s *server) farms(r *http.Request) (any, error) {
	from, limit, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	owner, err := queryParty(r, "owner")
	if err != nil {
		return nil, err
	}
	var page chain.Page[chain.Farm]
	err = s.n.tree.View(0, func(v View) (err error) {
		next := treeIDs(v, "f")
		if owner != 0 {
			next = s.indexIDs(ixFarmOwner, uint64(owner))
		}
		page, err = collect(from, limit, next, func(id uint64) (*chain.Farm, error) {
			f, err := read[chain.Farm](v, chain.FarmKey(uint32(id)))
			if f != nil && owner != 0 && f.Owner != owner {
				f = nil // it was sold
			}
			return f, err
		})
		return err
	})
	return page, err
}

func (s *server) nodes(r *http.Request) (any, error) {
	from, limit, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	farm, err := number(r, "farm", 32)
	if err != nil {
		return nil, err
	}
	var need chain.Capacity
	for _, n := range []struct {
		name string
		to   *uint64
	}{{"cru", &need.CPU}, {"mru", &need.Memory}, {"sru", &need.SSD}, {"hru", &need.HDD}} {
		if *n.to, err = number(r, n.name, 63); err != nil {
			return nil, err
		}
	}
	power, online := r.URL.Query().Get("power"), r.URL.Query().Get("online") == "1"
	var page chain.Page[chain.NodeAnswer]
	err = s.n.tree.View(0, func(v View) (err error) {
		next := treeIDs(v, "n")
		if farm != 0 {
			next = s.indexIDs(ixFarmNodes, farm)
		}
		page, err = collect(from, limit, next, func(id uint64) (*chain.NodeAnswer, error) {
			n, err := read[chain.Node](v, chain.NodeKey(identity.Party(id)))
			if err != nil || n == nil {
				return nil, err
			}
			l, err := read[chain.Load](v, chain.LoadKey(n.ID))
			if err != nil {
				return nil, err
			}
			out := &chain.NodeAnswer{Node: *n}
			if l != nil {
				out.Load = *l
			}
			switch {
			case farm != 0 && uint64(n.Farm) != farm, power != "" && n.Power.String() != power, online && out.Load.OfflineAt != 0,
				!fits(n.Machine.Capacity, out.Load.Reserved, need):
				return nil, nil
			}
			return out, nil
		})
		return err
	})
	return page, err
}

// fits says whether what is needed is free.
func fits(all, used, need chain.Capacity) bool {
	free := func(all, used, need uint64) bool { return need == 0 || used <= all && need <= all-used }
	return free(all.CPU, used.CPU, need.CPU) && free(all.Memory, used.Memory, need.Memory) && free(all.SSD, used.SSD, need.SSD) && free(all.HDD, used.HDD, need.HDD)
}

func (s *server) contracts(r *http.Request) (any, error) {
	from, limit, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	owner, err := queryParty(r, "owner")
	if err != nil {
		return nil, err
	}
	node, err := queryParty(r, "node")
	if err != nil {
		return nil, err
	}
	if owner == 0 && node == 0 {
		return nil, fault.Errorf(fault.Invalid, "owner, node: one of them is needed")
	}
	next := s.indexIDs(ixByOwner, uint64(owner))
	if owner == 0 {
		next = s.indexIDs(ixByNode, uint64(node))
	}
	want := r.URL.Query().Get("state")
	var page chain.Page[chain.Contract]
	err = s.n.tree.View(0, func(v View) (err error) {
		page, err = collect(from, limit, next, func(id uint64) (*chain.Contract, error) {
			c, err := read[chain.Contract](v, chain.ContractKey(identity.ContractID(id)))
			if err != nil || c == nil {
				return nil, err
			}
			switch {
			case node != 0 && c.Node != node, want == "live" && !c.Live(), want != "" && want != "live" && c.State.String() != want:
				return nil, nil
			}
			return c, nil
		})
		return err
	})
	return page, err
}

func (s *server) bills(r *http.Request) (any, error) {
	id, err := pathContract(r)
	if err != nil {
		return nil, err
	}
	_, limit, err := pageOf(&http.Request{URL: withoutCursor(r)})
	if err != nil {
		return nil, err
	}
	prefix := join(ixBill, uint64(id))
	from, cursor := prefix, r.URL.Query().Get("cursor")
	if cursor != "" {
		var h, n uint64
		if h, n, err = parsePlace(cursor); err != nil {
			return nil, err
		}
		from = join(ixBill, uint64(id), h, n+1)
	}
	page := chain.Page[chain.Bill]{Items: []chain.Bill{}}
	err = s.n.index.walk(prefix, from, func(key, value []byte) bool {
		if len(page.Items) == limit {
			page.Next = cursor
			return false
		}
		var b chain.Bill
		if json.Unmarshal(value, &b) == nil {
			page.Items = append(page.Items, b)
		}
		rest := key[len(prefix):]
		cursor = strconv.FormatUint(binary.BigEndian.Uint64(rest), 10) + "." + strconv.FormatUint(binary.BigEndian.Uint64(rest[8:]), 10)
		return true
	})
	if err != nil {
		return nil, err
	}
	if len(page.Items) == 0 && page.Next == "" && cursor == "" {
		return s.noBills(id, page)
	}
	return page, nil
}

// noBills tells an unknown contract from one without events.
func (s *server) noBills(id identity.ContractID, page chain.Page[chain.Bill]) (any, error) {
	err := s.n.tree.View(0, func(v View) error {
		if v.Get(chain.ContractKey(id)) == nil {
			return fault.Errorf(fault.NotFound, "contract %s does not exist", id)
		}
		return nil
	})
	return page, err
}

func (s *server) proposals(r *http.Request) (any, error) {
	from, limit, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	group, err := queryParty(r, "group")
	if err != nil {
		return nil, err
	}
	member, err := queryParty(r, "member")
	if err != nil {
		return nil, err
	}
	var groups []uint64
	switch {
	case group != 0:
		groups = []uint64{uint64(group)}
	case member != 0:
		if groups, err = s.n.index.ids(join(ixMembership, uint64(member)), 0, 1000); err != nil {
			return nil, err
		}
	default:
		return nil, fault.Errorf(fault.Invalid, "group, member: one of them is needed")
	}
	next := func(after uint64, limit int) ([]uint64, error) { return s.merged(groups, after, limit) }
	want := r.URL.Query().Get("state")
	var page chain.Page[chain.Proposal]
	err = s.n.tree.View(0, func(v View) (err error) {
		page, err = collect(from, limit, next, func(id uint64) (*chain.Proposal, error) {
			p, err := read[chain.Proposal](v, chain.ProposalKey(id))
			if p != nil && want != "" && p.State.String() != want {
				p = nil
			}
			return p, err
		})
		return err
	})
	return page, err
}

func (s *server) supports(r *http.Request) (any, error) {
	node, err := queryParty(r, "node")
	if err != nil {
		return nil, err
	}
	if node == 0 {
		return nil, fault.Errorf(fault.Invalid, "node: it is needed")
	}
	page := chain.Page[chain.Support]{Items: []chain.Support{}}
	err = s.n.tree.View(0, func(v View) error {
		var ids []uint64
		if b := v.Get(chain.NodeSupportKey(node)); b != nil {
			if err := cbor.Unmarshal(b, &ids); err != nil {
				return fault.Errorf(fault.Internal, "support requests of node %d can't be decoded: %w", node, err)
			}
		}
		for _, id := range ids[:min(len(ids), pageMost)] {
			x, err := read[chain.Support](v, chain.SupportKey(id))
			if err != nil {
				return err
			}
			if x != nil {
				page.Items = append(page.Items, *x)
			}
		}
		return nil
	})
	return page, err
}
