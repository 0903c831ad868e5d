package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"zos.internal/chain"
	"zos.internal/chain/client"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/workload"
)

// cast is everybody in the story.
type cast struct {
	founder, ana, ben, cho, farmer, node *person
	group                                identity.Party
}

func (c *cast) names(ps ...identity.Party) string {
	var out []string
	for _, p := range []*person{c.founder, c.ana, c.ben, c.cho, c.farmer, c.node} {
		if slices.Contains(ps, p.party) {
			out = append(out, p.name)
		}
	}
	return strings.Join(out, " and ")
}

func (j *job) story(ctx context.Context, founder *person) error {
	j.say("2/5 people, a group, a farm and its node")
	c, err := j.join(ctx, founder)
	if err != nil {
		return err
	}
	j.say("3/5 two contracts, each agreed to by two of three")
	shop, name, err := j.agree(ctx, c)
	if err != nil {
		return err
	}
	j.say("4/5 the node runs it, seconds are billed, a top-up, the end")
	if err := j.live(ctx, c, shop); err != nil {
		return err
	}
	j.say("5/5 adding up all money, with proofs")
	if err := j.addUp(ctx, shop, name); err != nil {
		return err
	}
	return nil
}

// join makes everybody: twins, the group of which two must agree, the farm with
// its prices, and the node with the farmer's ticket.
func (j *job) join(ctx context.Context, founder *person) (*cast, error) {
	c := &cast{founder: founder}
	for _, p := range []struct {
		name string
		to   **person
	}{{"ana", &c.ana}, {"ben", &c.ben}, {"cho", &c.cho}, {"farmer", &c.farmer}, {"node", &c.node}} {
		var err error
		if *p.to, err = newPerson(p.name); err != nil {
			return nil, err
		}
		if p.name == "node" {
			break // it joins with a ticket
		}
		a, err := j.send(ctx, *p.to, &chain.CreateTwin{Keys: (*p.to).keys()})
		if err != nil {
			return nil, err
		}
		e, err := event(a, "twin.created")
		if err != nil {
			return nil, err
		}
		(*p.to).party = e.Party
	}
	if err := j.makeGroup(ctx, c); err != nil {
		return nil, err
	}
	const hourly = 1_000_000_000_000 / 3600 // a credit an hour in pico-credits a second
	a, err := j.send(ctx, c.farmer, &chain.CreateFarm{Name: "green", Terms: chain.Terms{Prices: chain.Prices{CPU: 4 * hourly, Memory: 2 * hourly, SSD: hourly / 10}}})
	if err != nil {
		return nil, err
	}
	farm, err := event(a, "farm.created")
	if err != nil {
		return nil, err
	}
	return c, j.makeNode(ctx, c, farm.Farm)
}

func (j *job) makeGroup(ctx context.Context, c *cast) error {
	m := &chain.CreateGroup{Name: "shop"}
	for _, p := range []*person{c.ana, c.ben, c.cho} {
		m.Members = append(m.Members, chain.Member{Party: p.party, Weight: 1})
	}
	for _, class := range []chain.Class{chain.ClassCancel, chain.ClassDeploy} {
		m.Policies = append(m.Policies, chain.Policy{Class: class, Threshold: 2, Expiry: 86400})
	}
	a, err := j.send(ctx, c.ana, m)
	if err != nil {
		return err
	}
	e, err := event(a, "group.created")
	if err != nil {
		return err
	}
	c.group = e.Party
	if _, err := j.send(ctx, c.founder, &chain.Send{To: c.group, Amount: 100 * chain.Credit}, &chain.Send{To: c.ben.party, Amount: 10 * chain.Credit}); err != nil {
		return err
	}
	p, err := proven[chain.Party](ctx, j, chain.PartyKey(c.group))
	if err != nil {
		return err
	}
	j.row("group", "%s, party %d: %d members, weight %d must agree to deploy", p.Group.Name, p.ID, len(p.Group.Members), p.Group.Policy(chain.ClassDeploy).Threshold)
	return nil
}

func (j *job) makeNode(ctx context.Context, c *cast, farm uint32) error {
	ticket := canon.MustMarshal(chain.Ticket{Chain: chainID, Farm: farm, Serial: 1, Uses: 1, NotAfter: j.clock.Now().Unix() + 3600})
	kem, err := identity.GenerateKEM(identity.FirstEpoch)
	if err != nil {
		return err
	}
	a, err := j.send(ctx, c.node, &chain.RegisterNode{Ticket: ticket, Signature: c.farmer.key.SignAs(0, identity.TagTicket, ticket),
		Key: c.node.key.Public(), KEM: kem.Public().Bytes(), Machine: chain.Machine{Capacity: chain.Capacity{CPU: 8000, Memory: 32 << 30, SSD: 1 << 40}}})
	if err != nil {
		return err
	}
	e, err := event(a, "node.registered")
	if err != nil {
		return err
	}
	c.node.party = e.Node
	n, err := proven[chain.Node](ctx, j, chain.NodeKey(e.Node))
	if err != nil {
		return err
	}
	j.row("node", "%d of farm %d: %d CPU, %d GiB memory", n.ID, n.Farm, n.Machine.Capacity.CPU/1000, n.Machine.Capacity.Memory>>30)
	return nil
}

// document is the deployment that the contract is about. Its bytes are hashed.
func document(c *cast, id identity.ContractID) (*workload.Document, error) {
	return workload.Parse(fmt.Appendf(nil, `{"format":"zos/deployment/1","chain":%q,"twin_id":%d,"contract_id":%d,"node_id":%d,"version":1,"expiration":0,"description":"shop",
 "workloads":[{"version":1,"name":"data","type":"volume","data":{"size":10737418240}},
  {"version":1,"name":"app","type":"container","data":{"flist":"hub.example/acme/shop:4","flist_root":"%s","entrypoint":["/bin/shop"],
   "compute_capacity":{"cpu_milli":1000,"memory":536870912},"mounts":[{"name":"data","mountpoint":"/data"}]}}]}`,
		chainID, c.group, uint64(id), c.node.party, strings.Repeat("3f", 32)), workload.Final)
}

// agree makes two contracts of the group: a deployment that ana proposes and ben
// agrees to, and a gateway name with the off-chain signatures of ana and cho.
func (j *job) agree(ctx context.Context, c *cast) (shop, name identity.ContractID, err error) {
	if shop, err = identity.NewContractID(c.group, 1); err != nil {
		return 0, 0, err
	}
	doc, err := document(c, shop)
	if err != nil {
		return 0, 0, err
	}
	n := doc.Capacity()
	m := &chain.CreateNodeContract{ID: shop, Node: c.node.party, Hash: chain.Hash(doc.Hash()), Capacity: chain.Capacity{CPU: n.CRU, Memory: n.MRU, SSD: n.SRU},
		MaxRate: 2_000_000_000, Deposit: 85 * chain.Credit}
	a, err := j.send(ctx, c.ana, &chain.Propose{Group: c.group, Messages: chain.Pack(m), Note: "our shop", Approve: true})
	if err != nil {
		return 0, 0, err
	}
	proposal, err := event(a, "proposal.created")
	if err != nil {
		return 0, 0, err
	}
	if a, err = j.send(ctx, c.ben, &chain.Vote{Proposal: proposal.ID, Approve: true}); err != nil {
		return 0, 0, err
	}
	if _, err = event(a, "proposal.executed"); err != nil {
		return 0, 0, err
	}
	p, err := proven[chain.Proposal](ctx, j, chain.ProposalKey(proposal.ID))
	if err != nil {
		return 0, 0, err
	}
	var agreed []identity.Party
	for _, v := range p.Votes {
		agreed = append(agreed, v.Party)
	}
	j.row("contract "+shop.String(), "proposed by %s, %s by %s, block %d", c.names(p.By), p.State, c.names(agreed...), a.Height)

	if name, err = identity.NewContractID(c.group, 2); err != nil {
		return 0, 0, err
	}
	signed := chain.Approval{Chain: chainID, Group: c.group, Sequence: 1, Expires: j.clock.Now().Unix() + 600, Messages: chain.Pack(&chain.CreateNameContract{ID: name, Name: "shop", Deposit: chain.Credit})}
	x := &chain.Execute{Group: signed.Group, Sequence: signed.Sequence, Expires: signed.Expires, Messages: signed.Messages}
	for _, who := range []*person{c.ana, c.cho} { // they need not be online at the same time
		x.Consents = append(x.Consents, chain.Consent{Party: who.party, Signature: who.key.SignAs(0, identity.TagApprove, signed.Encode())})
	}
	if a, err = j.send(ctx, c.cho, x); err != nil {
		return 0, 0, err
	}
	held, err := proven[chain.Contract](ctx, j, chain.ContractKey(name))
	if err != nil {
		return 0, 0, err
	}
	j.row("contract "+name.String(), "name %q, signed off-chain by %s, one transaction, block %d", held.Name, c.names(c.ana.party, c.cho.party), a.Height)
	return shop, name, nil
}

// live is the life of the contract: the node's report, billed seconds, a top-up
// by one who isn't its owner, and the end that two members agree to.
func (j *job) live(ctx context.Context, c *cast, shop identity.ContractID) error {
	if _, err := j.send(ctx, c.node, &chain.ReportState{ID: shop, Version: 1, Outcome: chain.OutcomeActive}); err != nil {
		return err
	}
	k, err := proven[chain.Contract](ctx, j, chain.ContractKey(shop))
	if err != nil {
		return err
	}
	var lines []string
	for _, l := range k.Prices.Lines(k.Agreed.Capacity) {
		lines = append(lines, fmt.Sprintf("%s %.3f", l.Resource, perHour(l.Rate)))
	}
	j.row("active", "reported by node %d; %s = %.3f credits an hour, billed by the second from here", k.Node, strings.Join(lines, " + "), perHour(k.Prices.Rate(k.Agreed.Capacity)))
	if err := j.pass(ctx, j.seconds); err != nil {
		return err
	}
	if _, err := j.send(ctx, c.ben, &chain.TopUp{ID: shop, Amount: 5 * chain.Credit / 2}); err != nil {
		return err
	}
	j.row("topped up", "by ben from his own pocket, as anyone may: %s", credits(5*chain.Credit/2))
	if err := j.pass(ctx, j.seconds); err != nil {
		return err
	}
	a, err := j.send(ctx, c.cho, &chain.Propose{Group: c.group, Messages: chain.Pack(&chain.Cancel{ID: shop}), Approve: true})
	if err != nil {
		return err
	}
	proposal, err := event(a, "proposal.created")
	if err != nil {
		return err
	}
	if a, err = j.send(ctx, c.ben, &chain.Vote{Proposal: proposal.ID, Approve: true}); err != nil {
		return err
	}
	if _, err := event(a, "contract.closed"); err != nil {
		return err
	}
	return j.bills(ctx, c, shop)
}

func perHour(rate uint64) float64 { return float64(rate) * 3600 / (chain.Credit * chain.Pico) }

// bills shows every settlement, and checks them against the proven record.
func (j *job) bills(ctx context.Context, c *cast, shop identity.ContractID) error {
	all, err := client.All[chain.Bill](ctx, j.client, "/v1/contracts/"+strings.Replace(shop.String(), "/", "-", 1)+"/bills")
	if err != nil {
		return err
	}
	var in, paid, refund, toFarm, toTreasury uint64
	for _, b := range all {
		switch b.Type {
		case "contract.created", "contract.funded":
			in += b.Amount
		case "contract.billed":
			paid += b.Amount
			protocol := b.Amount * 50_000 / chain.Million
			toTreasury, toFarm = toTreasury+protocol, toFarm+b.Amount-protocol
			j.row("billed", "%d s x %.3f credits an hour = %s", b.Until-b.From, perHour(b.Rate), credits(b.Amount))
		case "contract.closed":
			refund += b.Amount
		}
	}
	k, err := proven[chain.Contract](ctx, j, chain.ContractKey(shop))
	if err != nil {
		return err
	}
	farmer, err := proven[chain.Account](ctx, j, chain.AccountKey(c.farmer.party))
	if err != nil {
		return err
	}
	if paid == 0 || paid != k.Money.Paid || in != paid+refund || farmer.Balance != toFarm {
		return fmt.Errorf("the bills don't add up: %s came in, %s paid (the record: %s), %s came back, the farmer has %s", credits(in), credits(paid), credits(k.Money.Paid), credits(refund), credits(farmer.Balance))
	}
	j.row("paid", "%s to the farmer, %s (5 %%) to who governs", credits(toFarm), credits(toTreasury))
	j.row("cancelled", "%s (%s) by cho and ben; deposit and top-up %s - paid %s = refund %s", k.State, k.Reason, credits(in), credits(paid), credits(refund))
	return nil
}

// addUp compares the supply with every balance and every contract.
func (j *job) addUp(ctx context.Context, contracts ...identity.ContractID) error {
	m, err := proven[chain.Meta](ctx, j, chain.MetaKey())
	if err != nil {
		return err
	}
	// All from one state, so that nothing moves meanwhile.
	keys := [][]byte{chain.MetaKey()}
	for p := identity.Party(1); p <= m.LastParty; p++ {
		keys = append(keys, chain.AccountKey(p))
	}
	for _, id := range contracts {
		keys = append(keys, chain.ContractKey(id))
	}
	values, at, err := j.light.Records(ctx, keys...)
	if err != nil {
		return err
	}
	if err := canon.Unmarshal(values[0], m); err != nil {
		return err
	}
	var balances, held uint64
	for i, v := range values[1:] {
		j.checked++
		switch {
		case v == nil: // who never had anything has no account, which is proven too
		case i < int(m.LastParty):
			var a chain.Account
			if err := canon.Unmarshal(v, &a); err != nil {
				return err
			}
			balances += a.Balance
		default:
			var k chain.Contract
			if err := canon.Unmarshal(v, &k); err != nil {
				return err
			}
			held += k.Money.Sum()
		}
	}
	if m.Supply != balances+held || m.Supply != supply {
		return fmt.Errorf("the money doesn't add up: %s were made, the supply is %s, balances have %s and contracts %s", credits(supply), credits(m.Supply), credits(balances), credits(held))
	}
	j.row("money", "supply %s = balances %s + contracts %s", credits(m.Supply), credits(balances), credits(held))
	j.row("verified", "%d records by a light client against the validator's signatures, the last of block %d", j.checked, at.Height)
	return nil
}
