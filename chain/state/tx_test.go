package state

import (
	"strings"
	"testing"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// TestRefusedTransactions sends what must be refused, to the check before the
// block and in a block, and wants the state untouched.
func TestRefusedTransactions(t *testing.T) {
	g := newGridWith(t, 3, func(gen *Genesis) { gen.Params.Fees = []chain.Fee{{Fee: 1000}} })
	pay := func() []chain.Packed { return chain.Pack(&chain.Send{To: 3, Amount: 1}) }
	body := func(change func(*chain.Body)) []byte {
		b := chain.Body{Chain: "test-1", Party: 2, Sequence: g.get(2).Sequence + 1, Expires: g.now + 600, FeeLimit: 1000, Messages: pay()}
		change(&b)
		wire, err := chain.Sign(b, chain.Signer{Key: g.keys[2]})
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	good := body(func(*chain.Body) {})
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	other, _ := chain.Sign(chain.Body{Chain: "test-1", Party: 2, Sequence: 1, Expires: g.now + 600, FeeLimit: 1000, Messages: pay()}, chain.Signer{Key: g.keys[3]})
	for name, c := range map[string]struct {
		wire []byte
		kind fault.Kind
		says string
	}{
		"nothing":          {nil, fault.Invalid, "signed payload"},
		"noise":            {[]byte("\xff\xff"), fault.Invalid, "signed payload"},
		"oversized":        {make([]byte, chain.MaxTx+1), fault.Invalid, "at most 65536"},
		"trailing byte":    {append(append([]byte(nil), good...), 0), fault.Invalid, ""},
		"flipped":          {flipped, fault.Denied, "party 2 by key 0"},
		"wrong key":        {other, fault.Denied, "party 2 by key 0"},
		"other chain":      {body(func(b *chain.Body) { b.Chain = "test-2" }), fault.Denied, "test-2"},
		"expired":          {body(func(b *chain.Body) { b.Expires = g.now - 12 }), fault.Expired, "ago"},
		"far ahead":        {body(func(b *chain.Body) { b.Expires = g.now + 2*chain.MaxExpiry }), fault.Invalid, "at most 3600"},
		"version":          {body(func(b *chain.Body) { b.Version = 2 }), fault.Unsupported, "version 2"},
		"replayed":         {body(func(b *chain.Body) { b.Sequence-- }), fault.Conflict, "the next is"},
		"underpaid":        {body(func(b *chain.Body) { b.FeeLimit = 999 }), fault.Funds, "raise fee_limit"},
		"unknown party":    {body(func(b *chain.Body) { b.Party = 99 }), fault.NotFound, "party 99"},
		"nobody":           {body(func(b *chain.Body) { b.Party, b.Sequence = 0, 0 }), fault.Invalid, "CreateTwin"},
		"no message":       {body(func(b *chain.Body) { b.Messages = nil }), fault.Invalid, "0 messages"},
		"17 messages":      {body(func(b *chain.Body) { b.Messages = chain.Pack(make17()...) }), fault.Invalid, "17 messages"},
		"unknown message":  {body(func(b *chain.Body) { b.Messages[0].Code = 999 }), fault.Unsupported, "999"},
		"unknown field":    {body(func(b *chain.Body) { b.Messages[0].Body = []byte{0xa3, 1, 3, 2, 1, 3, 1} }), fault.Invalid, "Send"},
		"sponsor unsigned": {body(func(b *chain.Body) { b.Sponsor = 3 }), fault.Invalid, "sponsor"},
	} {
		root := g.tree.root()
		if err := g.m.Check(c.wire, Block{Height: g.height + 1, Time: g.now, Prev: g.now}); fault.Of(err) != c.kind || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: Check = %q %v, want %q with %q", name, fault.Of(err), err, c.kind, c.says)
		}
		r := g.after(0, c.wire).Txs[0]
		if r.Kind != c.kind || !strings.Contains(r.Error, c.says) || r.Fee != 0 {
			t.Errorf("%s: in a block %q %s, fee %d, want %q with %q", name, r.Kind, r.Error, r.Fee, c.kind, c.says)
		}
		if g.tree.root() != root {
			t.Errorf("%s: it left something behind", name)
		}
	}
	if err := g.m.Check(good, Block{Height: g.height + 1, Time: g.now, Prev: g.now}); err != nil {
		t.Errorf("a good transaction: %v", err)
	}
}

func make17() (ms []chain.Message) {
	for range chain.MaxMessages + 1 {
		ms = append(ms, &chain.Send{To: 3, Amount: 1})
	}
	return ms
}

// TestFailedTransactionPaysItsFee: all messages take effect or none, and the
// sequence is used up, so that the transaction can't be tried again and again.
func TestFailedTransactionPaysItsFee(t *testing.T) {
	g := newGridWith(t, 3, func(gen *Genesis) { gen.Params.Fees = []chain.Fee{{Fee: 1000}} })
	wire := g.sign(2, &chain.Send{To: 3, Amount: 5}, &chain.Send{To: 3, Amount: 5000 * chain.Credit})
	r := g.block(wire).Txs[0]
	if r.Kind != fault.Funds || r.Fee != 2000 || !strings.Contains(r.Error, "messages[1] Send") {
		t.Fatalf("%+v", r)
	}
	if got := g.get(2).Balance; got != 1000*chain.Credit-2000 {
		t.Errorf("balance %d", got)
	}
	if r := g.block(wire).Txs[0]; r.Kind != fault.Conflict || r.Fee != 0 {
		t.Errorf("the second time: %+v", r)
	}
}

func TestEmptyWalletCancels(t *testing.T) {
	g := newGridWith(t, 3, func(gen *Genesis) {
		gen.Params.Fees = []chain.Fee{{Fee: 1000}}
		gen.Parties[2].Balance = smallLeast + 3000
	})
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), smallLeast)
	g.do(3, &chain.Send{To: 2, Amount: g.get(3).Balance - 1000})
	if b := g.get(3).Balance; b != 0 {
		t.Fatalf("the wallet has %d", b)
	}
	if r := g.do(3, &chain.Cancel{ID: id}); r.Fee != 1000 {
		t.Errorf("fee %d", r.Fee)
	}
	// Also when the escrow is empty.
	g.do(2, &chain.Send{To: 3, Amount: smallLeast + 1000})
	id = g.deploy(3, n, small(), g.get(3).Balance-1000)
	g.pass(hour + 120)
	g.do(3, &chain.Cancel{ID: id})
}

func TestSponsorPays(t *testing.T) {
	g := newGridWith(t, 2, func(gen *Genesis) { gen.Params.Fees = []chain.Fee{{Fee: 1000}} })
	key := testKey(77)
	join := func(sponsor identity.Party, by ...chain.Signer) TxResult {
		wire, err := chain.Sign(chain.Body{Chain: "test-1", Expires: g.now + 600, FeeLimit: 1000, Sponsor: sponsor,
			Messages: chain.Pack(&chain.CreateTwin{Keys: []chain.NewKey{{Key: key.Public(), Role: identity.RoleFull}}})}, by...)
		if err != nil {
			t.Fatal(err)
		}
		return g.block(wire).Txs[0]
	}
	own := chain.Signer{Key: key}
	if r := join(0, own); r.Kind != fault.Funds || !strings.Contains(r.Error, "sponsor") {
		t.Errorf("without a sponsor: %+v", r)
	}
	if r := join(2, own, chain.Signer{Key: testKey(1)}); r.Kind != fault.Denied {
		t.Errorf("with another's signature: %+v", r)
	}
	if r := join(2, own, chain.Signer{Key: g.keys[2]}); !r.OK() || r.Fee != 1000 || g.get(2).Balance != 1000*chain.Credit-1000 {
		t.Errorf("with a sponsor: %+v", r)
	}
	if r := join(2, own, chain.Signer{Key: g.keys[2]}); r.Kind != fault.Conflict {
		t.Errorf("twice: %+v", r)
	}
}

func TestKeys(t *testing.T) {
	g := newGrid(t, 3)
	deploy, next := testKey(50), testKey(51)
	g.do(2, &chain.AddKey{Key: chain.NewKey{Key: deploy.Public(), Role: identity.RoleDeploy, Limit: 10}})
	farm := g.farm(2)
	n := g.node(farm, 2, testMachine())
	with := func(s chain.Signer, ms ...chain.Message) TxResult {
		wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: 2, Sequence: g.get(2).Sequence + 1, Expires: g.now + 600, Messages: chain.Pack(ms...)}, s)
		if err != nil {
			t.Fatal(err)
		}
		return g.block(wire).Txs[0]
	}
	limited := chain.Signer{Index: 1, Key: deploy}
	if r := with(limited, &chain.Send{To: 3, Amount: 1}); r.Kind != fault.Denied || !strings.Contains(r.Error, "deploy key") {
		t.Errorf("a deploy key sends: %+v", r)
	}
	if r := with(limited, &chain.CreateNodeContract{ID: g.id(2), Node: n, Capacity: small(), MaxRate: 1 << 40, Deposit: chain.Credit}); r.Kind != fault.Exhausted || !strings.Contains(r.Error, "midnight") {
		t.Errorf("a deploy key above its limit: %+v", r)
	}
	proof := next.Sign(TagRotate, RotateProof("test-1", 2, 0, next.Public()))
	if r := with(chain.Signer{Key: g.keys[2]}, &chain.RotateKey{Index: 0, Key: next.Public(), Proof: append([]byte{}, proof[1:]...)}); r.OK() {
		t.Errorf("a wrong proof: %+v", r)
	}
	if r := with(chain.Signer{Key: g.keys[2]}, &chain.RotateKey{Index: 0, Key: next.Public(), Proof: proof}); !r.OK() {
		t.Fatalf("rotate: %+v", r)
	}
	if r := with(chain.Signer{Key: g.keys[2]}, &chain.Send{To: 3, Amount: 1}); r.Kind != fault.Denied || !strings.Contains(r.Error, "revoked") {
		t.Errorf("the old key: %+v", r)
	}
	if r := with(chain.Signer{Index: 2, Key: next}, &chain.RevokeKey{Index: 2}); r.Kind != fault.Denied || !strings.Contains(r.Error, "last full key") {
		t.Errorf("the last full key: %+v", r)
	}
	if r := with(chain.Signer{Index: 2, Key: next}, &chain.RevokeKey{Index: 1}); !r.OK() {
		t.Errorf("revoke: %+v", r)
	}
	if r := with(limited, &chain.TopUp{}); r.OK() {
		t.Errorf("a revoked key: %+v", r)
	}
}

// TestEmptyBlocksLeaveTheRootAlone: a root that changes in every block would
// make the engine spin.
func TestEmptyBlocksLeaveTheRootAlone(t *testing.T) {
	g := newGrid(t, 3)
	n := g.node(g.farm(2), 2, testMachine())
	g.deploy(3, n, small(), chain.Credit)
	root, sets := g.tree.root(), g.tree.sets
	for range 20 {
		g.after(10)
	}
	if g.tree.root() != root || g.tree.sets != sets {
		t.Errorf("20 empty blocks wrote %d records", g.tree.sets-sets)
	}
}

// TestReplayGivesTheSameRoots applies the blocks of a whole life again.
func TestReplayGivesTheSameRoots(t *testing.T) {
	g := newGrid(t, 4)
	n := g.node(g.farm(2), 2, testMachine())
	id := g.deploy(3, n, small(), smallLeast)
	g.pass(2 * hour)
	g.do(4, &chain.TopUp{ID: id, Amount: chain.Credit})
	g.do(3, &chain.Cancel{ID: id})
	again := newGrid(t, 4)
	for _, b := range g.blocks {
		again.m.Apply(b)
	}
	if again.tree.root() != g.tree.root() {
		t.Error("the same blocks gave another state")
	}
}
