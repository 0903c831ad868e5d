package state

import (
	"cmp"
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Genesis is the state before the first block.
type Genesis struct {
	Chain      string            `json:"chain"` // id of the chain, 1 to 50 of a-z, 0-9 and hyphens
	Params     chain.Params      `json:"params"`
	Parties    []GenesisParty    `json:"parties,omitempty"`    // numbered from 1, in this order
	Governance identity.Party    `json:"governance,omitempty"` // who governs; 0: nobody, ever
	Validators []chain.Validator `json:"validators"`
	Force      bool              `json:"force,omitempty"` // accept 2 or 3 validators
}

// GenesisParty is a twin or a group with credits from the beginning.
type GenesisParty struct {
	Twin    *chain.CreateTwin  `json:"twin,omitempty"`
	Group   *chain.CreateGroup `json:"group,omitempty"` // its members come before it
	Balance uint64             `json:"balance,omitempty"`
}

// Init writes the first records into an empty tree.
func (m *Machine) Init(g Genesis) error {
	if err := g.check(); err != nil {
		return fault.Errorf(fault.Of(err), "genesis: %w", err)
	}
	blk := &block{base: newLayer(m.tree)}
	w := &work{block: blk, l: blk.base}
	meta := chain.Meta{Version: Version, Chain: g.Chain, Governance: g.Governance}
	put(w.l, chain.MetaKey(), &meta)
	put(w.l, chain.ParamsKey(), &g.Params)
	vs := slices.Clone(g.Validators)
	slices.SortFunc(vs, func(a, b chain.Validator) int { return cmp.Compare(string(a.Key), string(b.Key)) })
	if err := chain.CheckValidators(vs, g.Force); err != nil {
		return fault.Errorf(fault.Of(err), "genesis: %w", err)
	}
	put(w.l, chain.ValidatorsKey(), &chain.Validators{Validators: vs})
	var supply uint64
	for i, gp := range g.Parties {
		p, err := w.genesisParty(identity.Party(i+1), gp)
		if err != nil {
			return fault.Errorf(fault.Of(err), "genesis: parties[%d]: %w", i, err)
		}
		if err := w.addParty(p); err != nil {
			return fault.Errorf(fault.Of(err), "genesis: parties[%d]: %w", i, err)
		}
		if gp.Balance > maxSupply-supply {
			return fault.Errorf(fault.Invalid, "genesis: the balances add up to more than %s", amount(maxSupply))
		}
		supply += gp.Balance
		w.give(p.ID, gp.Balance)
	}
	last := w.meta()
	last.Supply = supply
	put(w.l, chain.MetaKey(), last)
	blk.base.flush(m.tree)
	return nil
}

func (g Genesis) check() error {
	if len(g.Chain) == 0 || len(g.Chain) > 50 {
		return fault.Errorf(fault.Invalid, "chain %.60q: 1 to 50 characters", g.Chain)
	}
	for _, r := range g.Chain {
		if r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') {
			return fault.Errorf(fault.Invalid, "chain %q: only a-z, 0-9 and hyphens", g.Chain)
		}
	}
	if int(g.Governance) > len(g.Parties) {
		return fault.Errorf(fault.Invalid, "governance %d: there are %d parties", g.Governance, len(g.Parties))
	}
	p := &g.Params
	if g.Governance == 0 && (p.Protocol > 0 || len(p.Fees) > 0 || p.NetworkRate > 0 || p.NameRate > 0) && p.Treasury == 0 {
		return fault.Errorf(fault.Invalid, "params: fees, shares and rates need a treasury or a governance party")
	}
	for _, who := range append([]identity.Party{p.Treasury, p.Arbiter}, p.Auditors...) {
		if int(who) > len(g.Parties) {
			return fault.Errorf(fault.Invalid, "params: treasury, arbiter or auditor %d: there are %d parties", who, len(g.Parties))
		}
	}
	return g.Params.Check()
}

// genesisParty makes the record of a party that nobody had to sign for.
func (w *work) genesisParty(id identity.Party, gp GenesisParty) (*chain.Party, error) {
	switch {
	case gp.Twin != nil && gp.Group == nil:
		if err := gp.Twin.Check(); err != nil {
			return nil, err
		}
		return newTwin(gp.Twin), nil
	case gp.Group != nil && gp.Twin == nil:
		if err := gp.Group.Check(); err != nil {
			return nil, err
		}
		for _, m := range gp.Group.Members {
			if m.Party >= id {
				return nil, fault.Errorf(fault.Invalid, "group member %d must come before the group, which is %d", m.Party, id)
			}
		}
		g, err := w.newGroup(id, gp.Group.Name, gp.Group.Members, gp.Group.Policies)
		if err != nil {
			return nil, err
		}
		return &chain.Party{Address: identity.GroupAddress(identity.Address{}, uint64(id)), Group: g}, nil
	}
	return nil, fault.Errorf(fault.Invalid, "a twin or a group is needed")
}
