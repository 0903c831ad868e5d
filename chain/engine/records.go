package engine

import (
	"context"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Single records. Each is read from one committed version of the tree.

// one answers with one record, or with it and its proof. More keys are proven
// with it.
func one[T any](s *server, r *http.Request, what string, key []byte, more ...[]byte) (*T, *chain.Proof, error) {
	absent := fault.Errorf(fault.NotFound, "%s does not exist", what)
	asked, least, err := wantsProof(r)
	if err != nil {
		return nil, nil, err
	}
	if !asked {
		var v *T
		err := s.n.tree.View(0, func(view View) (err error) {
			v, err = read[T](view, key)
			return err
		})
		if err == nil && v == nil {
			err = absent
		}
		return v, nil, err
	}
	p, err := s.prove(r, least, append([][]byte{key}, more...))
	if err != nil {
		return nil, nil, err
	}
	b := p.Records[0].Value
	if b == nil {
		// Who wants a proof wants it of absence too.
		return nil, &p, nil
	}
	v := new(T)
	if err := cbor.Unmarshal(b, v); err != nil {
		return nil, nil, fault.Errorf(fault.Internal, "record of %s can't be decoded: %w", what, err)
	}
	return v, &p, nil
}

func (s *server) prove(r *http.Request, least uint64, keys [][]byte) (chain.Proof, error) {
	ctx, cancel := context.WithTimeout(r.Context(), proofWait)
	defer cancel()
	return s.n.Prove(ctx, least, keys...)
}

// reply is a record, or a record and its proof.
func reply[T any](v *T, p *chain.Proof, err error) (any, error) {
	switch {
	case err != nil:
		return nil, err
	case p != nil:
		return chain.Proven[*T]{Value: v, Proof: *p}, nil
	}
	return v, nil
}

func wantsProof(r *http.Request) (bool, uint64, error) {
	q := r.URL.Query()
	switch q.Get("proof") {
	case "", "0":
		return false, 0, nil
	case "1":
		h, err := number(r, "height", 64)
		return true, h, err
	}
	return false, 0, fault.Errorf(fault.Invalid, "proof %.40q: 0 or 1", q.Get("proof"))
}

// number reads a decimal number of the query; 0 when it is missing.
func number(r *http.Request, name string, bits int) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, bits)
	if err != nil {
		return 0, fault.Errorf(fault.Invalid, "%s %.40q: a number below 2^%d", name, text, bits)
	}
	return n, nil
}

// pathNumber reads a decimal number of the path.
func pathNumber(r *http.Request, name string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(r.PathValue(name), 10, bits)
	if err != nil {
		return 0, fault.Errorf(fault.Invalid, "%s %.80q: a number below 2^%d", name, r.PathValue(name), bits)
	}
	return n, nil
}

func pathParty(r *http.Request) (identity.Party, error) {
	return identity.ParseParty(r.PathValue("id"))
}

func pathContract(r *http.Request) (identity.ContractID, error) {
	return identity.ParseContractID(strings.Replace(r.PathValue("id"), "-", "/", 1))
}

func (s *server) party(r *http.Request) (any, error) {
	id, err := pathParty(r)
	if err != nil {
		return nil, err
	}
	return s.partyWith(r, id, "party "+r.PathValue("id"))
}

func (s *server) partyWith(r *http.Request, id identity.Party, what string) (any, error) {
	v, p, err := one[chain.Party](s, r, what, chain.PartyKey(id), chain.AccountKey(id))
	if err != nil || v == nil {
		return reply[chain.PartyAnswer](nil, p, err)
	}
	out := &chain.PartyAnswer{Party: *v}
	return reply(out, p, s.second(p, chain.AccountKey(id), &out.Account))
}

// second decodes the record that came with the first one.
func (s *server) second(p *chain.Proof, key []byte, into any) error {
	var b []byte
	if p != nil {
		b = p.Records[1].Value
	} else if err := s.n.tree.View(0, func(v View) error { b = v.Get(key); return nil }); err != nil {
		return err
	}
	if b == nil {
		return nil
	}
	if err := cbor.Unmarshal(b, into); err != nil {
		return fault.Errorf(fault.Internal, "record %x can't be decoded: %w", key, err)
	}
	return nil
}

func (s *server) group(r *http.Request) (any, error) {
	id, err := pathParty(r)
	if err != nil {
		return nil, err
	}
	err = s.n.tree.View(0, func(v View) error {
		p, err := read[chain.Party](v, chain.PartyKey(id))
		if err == nil && (p == nil || p.Group == nil) {
			err = fault.Errorf(fault.NotFound, "party %d is no group", id)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.partyWith(r, id, "group "+r.PathValue("id"))
}

func (s *server) key(r *http.Request) (any, error) {
	text := r.PathValue("address")
	address, err := identity.ParseAddress(text)
	if err != nil {
		key, kerr := identity.ParsePublicKey(text)
		if kerr != nil {
			return nil, fault.Errorf(fault.Invalid, "address %.80q: zos1… or a public key ed25519:…", text)
		}
		address = key.Address()
	}
	asked, least, err := wantsProof(r)
	if err != nil {
		return nil, err
	}
	var b []byte
	var p *chain.Proof
	if asked {
		proof, err := s.prove(r, least, [][]byte{chain.AddressKey(address)})
		if err != nil {
			return nil, err
		}
		p, b = &proof, proof.Records[0].Value
	} else if err := s.n.tree.View(0, func(v View) error { b = v.Get(chain.AddressKey(address)); return nil }); err != nil {
		return nil, err
	}
	switch {
	case len(b) == 4:
		out := &chain.AddressAnswer{Address: address, Party: identity.Party(uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]))}
		return reply(out, p, nil)
	case p != nil:
		return reply[chain.AddressAnswer](nil, p, nil)
	}
	return nil, fault.Errorf(fault.NotFound, "no party has the address %s", address)
}

func (s *server) balance(r *http.Request) (any, error) {
	id, err := pathParty(r)
	if err != nil {
		return nil, err
	}
	return reply(one[chain.Account](s, r, "the account of party "+r.PathValue("id"), chain.AccountKey(id)))
}

func (s *server) farm(r *http.Request) (any, error) {
	text := r.PathValue("id")
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		var b []byte
		if len(text) <= 64 {
			if err := s.n.tree.View(0, func(v View) error { b = v.Get(chain.FarmNameKey(text)); return nil }); err != nil {
				return nil, err
			}
		}
		if len(b) != 4 {
			return nil, fault.Errorf(fault.NotFound, "farm %.80q does not exist", text)
		}
		id = uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	}
	return reply(one[chain.Farm](s, r, "farm "+text, chain.FarmKey(uint32(id))))
}

func (s *server) node(r *http.Request) (any, error) {
	id, err := pathParty(r)
	if err != nil {
		return nil, err
	}
	v, p, err := one[chain.Node](s, r, "node "+r.PathValue("id"), chain.NodeKey(id), chain.LoadKey(id))
	if err != nil || v == nil {
		return reply[chain.NodeAnswer](nil, p, err)
	}
	out := &chain.NodeAnswer{Node: *v}
	return reply(out, p, s.second(p, chain.LoadKey(id), &out.Load))
}

func (s *server) contract(r *http.Request) (any, error) {
	id, err := pathContract(r)
	if err != nil {
		return nil, err
	}
	return reply(one[chain.Contract](s, r, "contract "+id.String(), chain.ContractKey(id)))
}

func (s *server) runway(r *http.Request) (any, error) {
	id, err := pathContract(r)
	if err != nil {
		return nil, err
	}
	var out chain.Runway
	err = s.n.tree.View(0, func(v View) error {
		c, err := read[chain.Contract](v, chain.ContractKey(id))
		if err != nil {
			return err
		}
		if c == nil {
			return fault.Errorf(fault.NotFound, "contract %s does not exist", id)
		}
		m, err := read[chain.Meta](v, chain.MetaKey())
		if err != nil {
			return err
		}
		at, _ := s.n.tree.Time(v.Height())
		out = runway(c, at-m.Gap)
		if out.Seconds >= 0 {
			out.Empty = at + out.Seconds
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// runway is what is left of a contract's money at a moment of the billing clock.
func runway(c *chain.Contract, clock int64) chain.Runway {
	rate, left := state.Paying(*c)
	out := chain.Runway{Contract: c.ID, State: c.State, Rate: rate, Left: left, Seconds: -1, Lines: c.Prices.Lines(c.Agreed.Capacity), Flat: c.Flat}
	if rate == 0 || !c.Live() {
		return out
	}
	whole := chain.MulDiv(left, chain.Pico, rate) // seconds from the last settlement
	past := uint64(max(0, clock-c.Money.Settled))
	out.Seconds = int64(min(whole-min(whole, past), 1<<40))
	out.Left = left - min(left, chain.MulDiv(rate, past, chain.Pico))
	return out
}

func (s *server) name(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if len(name) > 63 {
		return nil, fault.Errorf(fault.Invalid, "name: %d characters, at most 63", len(name))
	}
	return reply(one[chain.NameHolder](s, r, "name "+name, chain.NameKey(name)))
}

func (s *server) proposal(r *http.Request) (any, error) {
	id, err := pathNumber(r, "id", 64)
	if err != nil {
		return nil, err
	}
	return reply(one[chain.Proposal](s, r, "proposal "+r.PathValue("id"), chain.ProposalKey(id)))
}

func (s *server) support(r *http.Request) (any, error) {
	id, err := pathNumber(r, "id", 64)
	if err != nil {
		return nil, err
	}
	return reply(one[chain.Support](s, r, "support request "+r.PathValue("id"), chain.SupportKey(id)))
}

func (s *server) publisher(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if len(name) > 32 {
		return nil, fault.Errorf(fault.Invalid, "name: %d characters, at most 32", len(name))
	}
	return reply(one[chain.Publisher](s, r, "publisher "+name, chain.PublisherKey(name)))
}

func (s *server) release(r *http.Request) (any, error) {
	publisher, name := r.PathValue("publisher"), r.PathValue("name")
	if len(publisher)+len(name) > 128 {
		return nil, fault.Errorf(fault.Invalid, "release: %d characters, at most 128", len(publisher)+len(name))
	}
	return reply(one[chain.Release](s, r, "release "+publisher+"/"+name, chain.ReleaseKey(publisher, name)))
}

func (s *server) supply(r *http.Request) (any, error) {
	m, _, err := one[chain.Meta](s, r, "the chain", chain.MetaKey())
	if err != nil {
		return nil, err
	}
	return chain.SupplyAnswer{Supply: m.Supply}, nil
}

func (s *server) meta(r *http.Request) (any, error) {
	return reply(one[chain.Meta](s, r, "the chain", chain.MetaKey()))
}

func (s *server) params(r *http.Request) (any, error) {
	return reply(one[chain.Params](s, r, "the record of parameters", chain.ParamsKey()))
}

func (s *server) validators(r *http.Request) (any, error) {
	return reply(one[chain.Validators](s, r, "the record of validators", chain.ValidatorsKey()))
}

func (s *server) upgrade(r *http.Request) (any, error) {
	return reply(one[chain.Upgrade](s, r, "a scheduled upgrade", chain.UpgradeKey()))
}

func (s *server) light(r *http.Request) (any, error) {
	h, err := pathNumber(r, "height", 63)
	if err != nil {
		return nil, err
	}
	return s.n.light(h)
}

func (s *server) proofs(r *http.Request) (any, error) {
	texts := r.URL.Query()["key"]
	if len(texts) == 0 || len(texts) > chain.MaxProofKeys {
		return nil, fault.Errorf(fault.Invalid, "key: given %d times, 1 to %d are possible", len(texts), chain.MaxProofKeys)
	}
	keys := make([][]byte, len(texts))
	for i, text := range texts {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) == 0 || len(b) > maxKey {
			return nil, fault.Errorf(fault.Invalid, "key %.80q: 1 to %d bytes in hexadecimal", text, maxKey)
		}
		keys[i] = b
	}
	least, err := number(r, "height", 63)
	if err != nil {
		return nil, err
	}
	return s.prove(r, least, keys)
}
