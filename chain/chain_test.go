package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

func testKey(b byte) *identity.PrivateKey { return identity.FromSeed([32]byte{b}) }

func TestSignAndDecode(t *testing.T) {
	body := Body{Chain: "test-1", Party: 7, Sequence: 3, Expires: 100, FeeLimit: 5, Messages: Pack(&Send{To: 8, Amount: 1})}
	wire, err := Sign(body, Signer{Index: 2, Key: testKey(1)})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := Decode(wire)
	if err != nil {
		t.Fatal(err)
	}
	if tx.Body.Party != 7 || tx.Signatures[0].Key != 2 || tx.ID != sha256.Sum256(tx.Payload) {
		t.Errorf("Decode = %+v", tx)
	}
	if m, ok := tx.Messages[0].(*Send); !ok || *m != (Send{To: 8, Amount: 1}) {
		t.Errorf("message %+v", tx.Messages[0])
	}
	if err := tx.Signatures[0].Verify(testKey(1).Public(), identity.TagTx, tx.Payload); err != nil {
		t.Error(err)
	}
}

// TestEveryByteCounts: no two spellings of a transaction are accepted, so one
// that decodes after a change is another transaction or has another signature.
func TestEveryByteCounts(t *testing.T) {
	wire, err := Sign(Body{Chain: "test-1", Party: 7, Sequence: 3, Expires: 100, Messages: Pack(&Send{To: 8, Amount: 1})}, Signer{Key: testKey(1)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range wire {
		for bit := range 8 {
			changed := bytes.Clone(wire)
			changed[i] ^= 1 << bit
			tx, err := Decode(changed)
			if err != nil {
				continue
			}
			if tx.Signatures[0].Verify(testKey(1).Public(), identity.TagTx, tx.Payload) == nil && tx.Signatures[0].Key == 0 {
				t.Fatalf("bit %d of byte %d can be flipped", bit, i)
			}
		}
	}
}

func TestCodes(t *testing.T) {
	if n := len(Codes()); n != 47 {
		t.Errorf("%d messages, want 47", n)
	}
	seen := make(map[reflect.Type]Code)
	for _, c := range Codes() {
		m, err := New(c)
		if err != nil || m.Code() != c {
			t.Errorf("New(%d) = %T with code %d, %v", c, m, m.Code(), err)
		}
		if other, twice := seen[reflect.TypeOf(m)]; twice {
			t.Errorf("%T has the codes %d and %d", m, other, c)
		}
		seen[reflect.TypeOf(m)] = c
	}
	if _, err := New(999); !errors.Is(err, fault.Unsupported) {
		t.Errorf("New(999) = %v", err)
	}
}

// TestMessagesAsJSON: what is shown can be read back to the same bytes.
func TestMessagesAsJSON(t *testing.T) {
	for _, m := range []Message{
		&Send{To: 8, Amount: 1 << 60},
		&CreateTwin{Keys: []NewKey{{Key: testKey(1).Public(), Role: identity.RoleDeploy, Limit: 5}}, KEM: Bytes{1, 2}},
		&CreateNodeContract{ID: 7<<24 | 1, Node: 9, Hash: Hash{1}, Capacity: Capacity{CPU: 1500, GPU: []string{"a"}}, Split: []Share{{1, 5}}},
		&Propose{Group: 4, Messages: Pack(&Cancel{ID: 4<<24 | 1})},
		&ReportPower{State: PowerStandby},
		&Cancel{},
	} {
		p := Pack(m)[0]
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back Packed
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if back.Code != p.Code || !bytes.Equal(back.Body, p.Body) {
			t.Errorf("%s became %x, want %x", b, back.Body, p.Body)
		}
	}
	for _, bad := range []string{`{}`, `{"type":"Nope"}`, `{"type":"Send","to":8,"amount":1,"x":1}`, `{"type":"Send","to":-1}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), new(Packed)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestKeysDontCollide: no key of one kind of record can be a key of another.
func TestKeysDontCollide(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Uint32().Draw(rt, "n")
		id := rapid.Uint64().Draw(rt, "id")
		name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{1,20}[a-z0-9])`).Draw(rt, "name")
		p := identity.Party(n)
		kinds := map[string][]byte{
			"party": PartyKey(p), "account": AccountKey(p), "address": AddressKey(identity.Address{}), "farm": FarmKey(n), "farm name": FarmNameKey(name),
			"node": NodeKey(p), "load": LoadKey(p), "list": ListKey(p, uint32(id)), "contract": ContractKey(identity.ContractID(id)), "name": NameKey(name),
			"usage": UsageKey(id), "proposal": ProposalKey(id), "support": SupportKey(id), "node support": NodeSupportKey(p), "publisher": PublisherKey(name),
			"release": ReleaseKey(name, name), "meta": MetaKey(), "params": ParamsKey(), "validators": ValidatorsKey(), "upgrade": UpgradeKey(),
			"billing": QueueKey(BillingQueue, int64(id>>1), id), "closed": QueueKey(ClosedQueue, int64(id>>1), id),
		}
		for a, ka := range kinds {
			for b, kb := range kinds {
				if a != b && bytes.Equal(ka, kb) {
					rt.Fatalf("the keys of %s and %s are both %q", a, b, ka)
				}
			}
		}
		first := make(map[byte]string)
		for kind, k := range kinds {
			group := kind
			switch k[0] {
			case 'x', 'q', 'h':
				continue
			}
			if other, taken := first[k[0]]; taken {
				rt.Fatalf("%s and %s share the prefix %q", group, other, k[0])
			}
			first[k[0]] = group
		}
		at, got, ok := ParseQueueKey(QueueKey(DateQueue, int64(id>>1), id))
		if !ok || at != int64(id>>1) || got != id {
			rt.Fatalf("ParseQueueKey = %d, %d, %v", at, got, ok)
		}
	})
}

func TestRates(t *testing.T) {
	p := Prices{CPU: 1000, Memory: 500, IPv4: 7}
	c := Capacity{CPU: 1500, Memory: 3 << 29, IPv4: 2, SSD: 1 << 40}
	if got := p.Rate(c); got != 1500+750+14 {
		t.Errorf("Rate = %d", got)
	}
	var sum uint64
	for _, l := range p.Lines(c) {
		sum += l.Rate
	}
	if sum != p.Rate(c) {
		t.Errorf("the lines add up to %d, the rate is %d", sum, p.Rate(c))
	}
	if got := (Prices{SSD: 1 << 49}).Rate(Capacity{SSD: 1 << 53}); got != ^uint64(0) {
		t.Errorf("a rate beyond 64 bits is %d", got)
	}
}

func TestCapacityArithmetic(t *testing.T) {
	a := Capacity{CPU: 5, SSD: 7, GPU: []string{"a", "b"}}
	b := Capacity{CPU: 3, SSD: 9, GPU: []string{"b"}}
	if got := a.Add(Capacity{CPU: 1, GPU: []string{"c"}}).Sub(Capacity{CPU: 1, GPU: []string{"c"}}); !got.Equal(a) {
		t.Errorf("a + c - c = %+v", got)
	}
	if got := a.Max(b); !got.Equal(Capacity{CPU: 5, SSD: 9, GPU: []string{"a", "b"}}) {
		t.Errorf("Max = %+v", got)
	}
}

func TestBadMessages(t *testing.T) {
	k := NewKey{Key: testKey(1).Public(), Role: identity.RoleFull}
	for name, m := range map[string]Message{
		"no keys":              &CreateTwin{},
		"read key first":       &CreateTwin{Keys: []NewKey{{Key: k.Key, Role: identity.RoleRead}}},
		"key twice":            &CreateTwin{Keys: []NewKey{k, k}},
		"short sealing key":    &CreateTwin{Keys: []NewKey{k}, KEM: Bytes{1}},
		"relay twice":          &UpdateTwin{Relays: []identity.Party{2, 2}},
		"no amount":            &Send{To: 1},
		"capital name":         &CreateFarm{Name: "Farm"},
		"punycode":             &CreateNameContract{ID: 1<<24 | 1, Name: "xn--80ak6aa92e"},
		"serial 0":             &CreateNameContract{ID: 1 << 24, Name: "shop"},
		"members fall":         &CreateNetworkContract{ID: 1<<24 | 1, Members: []identity.Party{3, 2}},
		"split above all":      &CreateNodeContract{ID: 1<<24 | 1, Node: 1, Split: []Share{{1, 600_000}, {2, 600_000}}},
		"processors":           &CreateNodeContract{ID: 1<<24 | 1, Node: 1, Capacity: Capacity{CPU: 1 << 30}},
		"a span back":          &ReportUsage{ID: 1<<24 | 1, From: 5, To: 5},
		"threshold too high":   &CreateGroup{Members: []Member{{Party: 1, Weight: 1}}, Policies: []Policy{{Class: ClassDeploy, Threshold: 2, Expiry: 9}}},
		"class unknown":        &CreateGroup{Members: []Member{{Party: 1, Weight: 1}}, Policies: []Policy{{Class: "x", Threshold: 1, Expiry: 9}}},
		"must is a stranger":   &CreateGroup{Members: []Member{{Party: 1, Weight: 1}}, Policies: []Policy{{Class: ClassDeploy, Threshold: 1, Expiry: 9, Must: []identity.Party{2}}}},
		"proposal in proposal": &Propose{Group: 1, Messages: Pack(&Propose{})},
		"two validators":       &SetValidators{Validators: []Validator{{Key: make([]byte, 32), Power: 1}, {Key: bytes.Repeat([]byte{1}, 32), Power: 1}}},
		"support for a week":   &RequestSupport{Node: 1, Purpose: "x", Scope: ScopeLogs, From: 0, Until: 7 * 86400},
		"address without mask": &AddIPs{Farm: 1, IPs: []IP{{Address: "1.2.3.4", Gateway: "1.2.3.1"}}},
		"gateway elsewhere":    &AddIPs{Farm: 1, IPs: []IP{{Address: "1.2.3.4/24", Gateway: "1.2.4.1"}}},
		"most of everything":   &SetParams{Params: Params{Protocol: Million}},
	} {
		if err := m.Check(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Check = %v, want invalid", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	wire, err := Sign(Body{Chain: "test-1", Party: 7, Sequence: 3, Expires: 100, Messages: Pack(&Send{To: 8, Amount: 1})}, Signer{Key: testKey(1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	group, err := Sign(Body{Chain: "test-1", Party: 7, Sequence: 3, Expires: 100, Messages: Pack(&Propose{Group: 9, Messages: Pack(&Cancel{ID: 9<<24 | 1})})}, Signer{Key: testKey(1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(group)
	f.Fuzz(func(t *testing.T, b []byte) {
		tx, err := Decode(b)
		if err != nil {
			return
		}
		again := identity.Signed{Payload: canon.MustMarshal(tx.Body), Signatures: tx.Signatures}
		if !bytes.Equal(again.Encode(), b) {
			t.Errorf("accepted %x, which is not canonical", b)
		}
		for i, m := range tx.Messages {
			if got := Pack(m)[0]; !bytes.Equal(got.Body, tx.Body.Messages[i].Body) {
				t.Errorf("message %d is not canonical", i)
			}
		}
	})
}
