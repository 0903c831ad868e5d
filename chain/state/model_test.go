package state

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/chain"
	"zos.internal/identity"
)

// ledger is the agreement written a second time, as plainly as possible: every
// contract pays every second, and nothing is lazy. The machine must agree with
// it to the last pico-credit.
type ledger struct {
	balance map[identity.Party]uint64
	deals   map[identity.ContractID]*deal
	order   []identity.ContractID
	free    map[identity.Party]uint64 // processors of a node
	down    map[identity.Party]bool
	farmer  identity.Party
}

type deal struct {
	owner, node          identity.Party
	state                string // created, running, paused, broke, stopped, ended
	cpu, ssd             uint64 // agreed on
	nextCPU              uint64 // of an update, with next
	next                 bool
	version, highest     uint32
	held                 uint64 // processors
	escrow, grace, keep  uint64 // nano
	reserve              uint64
	rest                 uint64 // pico
	deadline, sold, over int64  // unix; clock; clock
	keepDays             uint64
	wait                 int64
	paid                 uint64
}

// Odd prices, so that fractions of a nano-credit remain.
const (
	oddCPU = 1_000_037
	oddSSD = 70_011
)

func (d *deal) full() uint64    { return d.cpu*oddCPU/1000 + d.storage() }
func (d *deal) storage() uint64 { return d.ssd * oddSSD }

func up(pico uint64) uint64 { return (pico + 999) / 1000 }

func (d *deal) wants() (hourly, grace, keep uint64) {
	return up(d.full() * 3600), up(d.full()*3600) + up(d.storage()*72*3600), up(d.storage() * d.keepDays * 86400)
}

// second lets one second of the billing clock go by.
func (l *ledger) second(clock int64) {
	for _, id := range l.order {
		d := l.deals[id]
		var rate uint64
		purse := &d.escrow
		switch d.state {
		case "running":
			rate = d.full()
		case "paused":
			rate = d.storage()
		case "broke":
			purse, rate = &d.grace, d.storage()
			if clock <= d.sold {
				rate = d.full()
			}
		default:
			continue
		}
		if !l.down[d.node] {
			owed := rate + d.rest
			pay := owed / 1000
			d.rest = owed % 1000
			if pay > *purse {
				pay, d.rest = *purse, 0
			}
			*purse -= pay
			d.paid += pay
			l.balance[l.farmer] += pay
		}
		switch {
		case d.state == "broke" && clock == d.over:
			l.end(d)
		case d.state == "broke" && clock == d.sold:
			l.free[d.node] += d.held
			d.held = 0
		case d.state != "broke" && d.escrow*1000-d.rest < rate:
			d.state, d.sold, d.over = "broke", clock+3600, clock+3600+72*3600
			if d.held == 0 {
				d.sold = clock
			}
		}
	}
}

// dates does what is due by the calendar.
func (l *ledger) dates(now, clock int64) {
	for _, id := range l.order {
		d := l.deals[id]
		if d.deadline == 0 || d.deadline > now || d.state == "ended" {
			continue
		}
		d.deadline = 0
		switch {
		case d.state == "created":
			l.end(d)
		case d.next:
			l.back(d, clock)
		}
	}
}

// keeps is the processors that a deal keeps: for an hour after its funds they are
// paid for.
func (d *deal) keeps(clock int64) uint64 {
	if d.state == "paused" || d.state == "broke" && clock >= d.sold {
		return 0
	}
	return d.cpu
}

// back gives up an update.
func (l *ledger) back(d *deal, clock int64) {
	d.next = false
	want := d.keeps(clock)
	l.free[d.node] += d.held - want
	d.held = want
}

func (l *ledger) end(d *deal) {
	if d.state != "created" {
		l.balance[l.farmer] += d.keep
		d.keep = 0
	}
	l.balance[d.owner] += d.escrow + d.grace + d.keep
	l.free[d.node] += d.held
	d.escrow, d.grace, d.keep, d.held, d.next = 0, 0, 0, 0, false
	d.state = "ended"
}

func (d *deal) fill() {
	if d.grace < d.reserve {
		move := min(d.reserve-d.grace, d.escrow)
		d.grace += move
		d.escrow -= move
	}
}

// again makes a deal run that was paused or broke.
func (l *ledger) again(d *deal) bool {
	before := *d
	d.fill()
	hourly, _, _ := d.wants()
	if d.grace < d.reserve || d.escrow < hourly || l.free[d.node]+d.held < d.cpu {
		if before.state == "paused" {
			*d = before
		}
		return false
	}
	l.free[d.node] -= d.cpu - d.held
	d.held, d.state = d.cpu, "running"
	return true
}

func (l *ledger) tune(d *deal) {
	_, grace, keep := d.wants()
	d.reserve = grace
	if d.state == "broke" {
		return
	}
	for _, r := range []struct {
		have *uint64
		want uint64
	}{{&d.grace, grace}, {&d.keep, keep}} {
		if *r.have > r.want {
			d.escrow += *r.have - r.want
			*r.have = r.want
		} else {
			move := min(r.want-*r.have, d.escrow)
			d.escrow -= move
			*r.have += move
		}
	}
}

func TestMachineAgreesWithThePlainModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { runModel(t, rt) })
}

func runModel(t *testing.T, rt *rapid.T) {
	g := newGrid(t, 5)
	g.do(5, &chain.UpdateTwin{URL: "wss://relay.example"})
	g.do(2, &chain.CreateFarm{Name: "odd", Terms: chain.Terms{Prices: chain.Prices{CPU: oddCPU, SSD: oddSSD}}})
	machine := chain.Machine{Capacity: chain.Capacity{CPU: 4000, SSD: 1 << 50}, Relays: []identity.Party{5}}
	l := &ledger{balance: make(map[identity.Party]uint64), deals: make(map[identity.ContractID]*deal), free: make(map[identity.Party]uint64),
		down: make(map[identity.Party]bool), farmer: 2}
	var nodes []identity.Party
	for range 2 {
		n := g.node(1, 2, machine)
		nodes = append(nodes, n)
		l.free[n] = 4000
	}
	for p := identity.Party(1); p <= 5; p++ {
		l.balance[p] = 1000 * chain.Credit
	}
	g.audit = false

	// tick is one block of the machine and the same seconds of the ledger.
	tick := func(seconds int64, txs ...[]byte) Result {
		from := g.now - metaOf(newLayer(g.tree)).Gap
		for s := int64(1); s <= min(seconds, maxStep); s++ {
			l.second(from + s)
		}
		l.dates(g.now+seconds, from+min(seconds, maxStep))
		return g.after(seconds, txs...)
	}
	try := func(p identity.Party, m chain.Message) bool { return tick(1, g.sign(p, m)).Txs[0].OK() }
	pick := func(state ...string) (identity.ContractID, *deal) {
		var ids []identity.ContractID
		for _, id := range l.order {
			for _, s := range state {
				if l.deals[id].state == s {
					ids = append(ids, id)
				}
			}
		}
		if len(ids) == 0 {
			return 0, nil
		}
		id := rapid.SampledFrom(ids).Draw(rt, "deal")
		return id, l.deals[id]
	}
	// agree compares one message: want runs on the ledger after the block's
	// seconds and says whether the message must succeed.
	agree := func(what string, p identity.Party, m chain.Message, want func() bool) {
		wire := g.sign(p, m)
		var w bool
		from := g.now - metaOf(newLayer(g.tree)).Gap
		l.second(from + 1)
		l.dates(g.now+1, from+1)
		w = want()
		r := g.after(1, wire).Txs[0]
		if r.OK() != w {
			rt.Fatalf("%s: the machine says %q %s, the ledger %v", what, r.Kind, r.Error, w)
		}
	}

	steps := rapid.IntRange(1, 40).Draw(rt, "steps")
	for range steps {
		switch op := rapid.SampledFrom([]string{"create", "active", "failed", "stopped", "topup", "pause", "resume", "cancel", "update", "updated", "wait", "wait", "long", "line"}).Draw(rt, "op"); op {
		case "create":
			owner := identity.Party(rapid.IntRange(3, 4).Draw(rt, "owner"))
			d := &deal{owner: owner, node: rapid.SampledFrom(nodes).Draw(rt, "node"), state: "created", version: 1, highest: 1,
				cpu: uint64(rapid.IntRange(1, 3000).Draw(rt, "cpu")), ssd: uint64(rapid.IntRange(0, 20).Draw(rt, "ssd")),
				keepDays: uint64(rapid.IntRange(0, 7).Draw(rt, "keep")), wait: int64(rapid.IntRange(60, 3600).Draw(rt, "deadline"))}
			hourly, grace, keep := d.wants()
			deposit := hourly + grace + keep + uint64(rapid.IntRange(-2, 20_000_000).Draw(rt, "more"))
			id := g.id(owner)
			agree("create", owner, &chain.CreateNodeContract{ID: id, Node: d.node, Capacity: chain.Capacity{CPU: d.cpu, SSD: d.ssd << 30}, MaxRate: 1 << 60,
				Deposit: deposit, KeepDays: uint32(d.keepDays), Deadline: uint32(d.wait)}, func() bool {
				if l.down[d.node] || l.free[d.node] < d.cpu || deposit < hourly+grace+keep {
					return false
				}
				l.balance[owner] -= deposit
				l.free[d.node] -= d.cpu
				d.held, d.escrow, d.grace, d.keep, d.reserve, d.deadline = d.cpu, deposit-grace-keep, grace, keep, grace, g.now+1+d.wait
				l.deals[id] = d
				l.order = append(l.order, id)
				return true
			})
			if l.deals[id] == nil && g.work().account(owner).Serial < id.Serial() {
				g.serial[owner]--
			}
		case "active", "failed", "stopped":
			id, d := pick("created", "running", "stopped", "paused", "broke", "ended")
			if d == nil {
				continue
			}
			o := map[string]chain.Outcome{"active": chain.OutcomeActive, "failed": chain.OutcomeFailed, "stopped": chain.OutcomeStopped}[op]
			v := d.version
			agree(op, d.node, &chain.ReportState{ID: id, Version: v, Outcome: o}, func() bool {
				switch {
				case d.state == "created" && op == "active":
					d.state, d.deadline = "running", 0
				case d.state == "created" && op == "failed":
					l.end(d)
				case d.state == "running" && op == "stopped":
					d.state = "stopped"
				case d.state == "stopped" && op == "active":
					d.state = "running"
				default:
					return false
				}
				return true
			})
		case "topup":
			id, d := pick("created", "running", "stopped", "paused", "broke")
			if d == nil {
				continue
			}
			nano := uint64(rapid.IntRange(1, 40_000_000).Draw(rt, "nano"))
			by := identity.Party(rapid.IntRange(3, 4).Draw(rt, "by"))
			agree("topup", by, &chain.TopUp{ID: id, Amount: nano}, func() bool {
				if d.state == "ended" || l.balance[by] < nano {
					return false
				}
				l.balance[by] -= nano
				d.escrow += nano
				if by == d.owner && !d.next {
					l.tune(d)
				}
				if d.state == "broke" && !l.again(d) && d.grace >= d.reserve {
					clock := g.now + 1 - metaOf(newLayer(g.tree)).Gap
					d.over = max(d.over, clock+72*3600)
				}
				return true
			})
		case "pause":
			id, d := pick("running", "paused", "created", "broke")
			if d == nil {
				continue
			}
			agree("pause", d.owner, &chain.Pause{ID: id}, func() bool {
				if d.state != "running" || d.next {
					return false
				}
				d.state = "paused"
				l.free[d.node] += d.held
				d.held = 0
				return true
			})
		case "resume":
			id, d := pick("paused", "broke", "running")
			if d == nil {
				continue
			}
			agree("resume", d.owner, &chain.Resume{ID: id}, func() bool {
				if d.state != "paused" && d.state != "broke" {
					return false
				}
				before, free := *d, l.free[d.node]
				if !l.again(d) {
					*d, l.free[d.node] = before, free
					return false
				}
				return true
			})
		case "cancel":
			id, d := pick("created", "running", "stopped", "paused", "broke", "ended")
			if d == nil {
				continue
			}
			agree("cancel", d.owner, &chain.Cancel{ID: id}, func() bool {
				if d.state == "ended" {
					return false
				}
				l.end(d)
				return true
			})
		case "update":
			id, d := pick("running", "paused")
			if d == nil {
				continue
			}
			cpu := uint64(rapid.IntRange(1, 4500).Draw(rt, "cpu"))
			agree("update", d.owner, &chain.UpdateContract{ID: id, Version: d.highest + 1, Capacity: chain.Capacity{CPU: cpu, SSD: d.ssd << 30}, MaxRate: 1 << 60}, func() bool {
				if d.state != "running" || d.next || l.down[d.node] {
					return false
				}
				after := *d
				after.cpu = cpu
				hourly, grace, keep := after.wants()
				if d.escrow+d.grace+d.keep < hourly+grace+keep || l.free[d.node]+d.held < max(cpu, d.cpu) {
					return false
				}
				d.highest++
				l.free[d.node] -= max(cpu, d.cpu) - d.held
				d.held, d.next, d.nextCPU, d.deadline = max(cpu, d.cpu), true, cpu, g.now+1+d.wait
				return true
			})
		case "updated":
			id, d := pick("running", "paused", "broke", "stopped")
			if d == nil || !d.next {
				continue
			}
			ok := rapid.Bool().Draw(rt, "ok")
			o := chain.OutcomeFailed
			if ok {
				o = chain.OutcomeActive
			}
			agree("updated", d.node, &chain.ReportState{ID: id, Version: d.highest, Outcome: o}, func() bool {
				if !d.next {
					return false
				}
				d.deadline = 0
				clock := g.now + 1 - metaOf(newLayer(g.tree)).Gap
				if !ok {
					l.back(d, clock)
					return true
				}
				d.cpu, d.version, d.next = d.nextCPU, d.highest, false
				l.tune(d)
				want := d.keeps(clock)
				l.free[d.node] += d.held - want
				d.held = want
				return true
			})
		case "wait", "long":
			for range rapid.IntRange(1, map[string]int{"wait": 20, "long": 600}[op]).Draw(rt, "blocks") {
				tick(rapid.SampledFrom([]int64{1, 7, 60, 61, 900}).Draw(rt, "gap"))
			}
		case "line":
			n := rapid.SampledFrom(nodes).Draw(rt, "node")
			isDown := !l.down[n]
			if !try(5, &chain.ReportNodes{Nodes: []chain.Seen{{Node: n, Up: !isDown}}}) {
				rt.Fatal("the relay's report was refused")
			}
			l.down[n] = isDown
		}
		compare(rt, g, l)
	}
	for _, id := range l.order {
		if d := l.deals[id]; d.state != "ended" {
			agree("cancel at the end", d.owner, &chain.Cancel{ID: id}, func() bool {
				if d.state == "ended" {
					return false // in the block's own second
				}
				l.end(d)
				return true
			})
		}
	}
	compare(rt, g, l)
	for p, want := range l.balance {
		if got := g.get(p).Balance; got != want {
			rt.Fatalf("in the end party %d has %d, the ledger says %d", p, got, want)
		}
	}
}

// compare settles a copy of every contract and compares it with the ledger.
func compare(rt *rapid.T, g *grid, l *ledger) {
	if err := Audit(g.tree); err != nil {
		rt.Fatal(err)
	}
	w := g.work()
	for _, id := range l.order {
		d, c := l.deals[id], w.contract(id)
		if c == nil {
			continue
		}
		if c.Live() {
			w.settle(c, w.clock)
		}
		state := map[string]string{"created": "created", "running": "active", "paused": "suspended owner", "broke": "suspended funds", "stopped": "suspended stopped", "ended": "closed"}[d.state]
		got := c.State.String()
		if c.State == chain.StateSuspended {
			got = fmt.Sprintf("%s %s", c.State, c.Reason)
		}
		m := c.Money
		if got != state || m.Escrow != d.escrow || m.Grace != d.grace || m.Keep != d.keep || d.state != "ended" && m.Remainder != d.rest || c.Held.CPU != d.held {
			rt.Fatalf("contract %s is %s with %d + %d + %d nano, %d pico and %d processors; the ledger says %s with %d + %d + %d, %d and %d",
				id, got, m.Escrow, m.Grace, m.Keep, m.Remainder, c.Held.CPU, state, d.escrow, d.grace, d.keep, d.rest, d.held)
		}
	}
}
