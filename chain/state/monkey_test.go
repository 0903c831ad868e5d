package state

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// TestNothingStopsABlock throws messages of every kind with arbitrary fields at
// a small grid. Whatever they say, a transaction is answered, never with a bug,
// one that is refused leaves only its fee and its sequence, and everything adds
// up after every block.
func TestNothingStopsABlock(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := newGridWith(t, 5, func(gen *Genesis) { gen.Params.Fees = []chain.Fee{{Fee: 10}} })
		g.audit = false
		n := g.node(g.farm(2), 2, testMachine())
		g.deploy(3, n, small(), chain.Credit)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			if rapid.IntRange(0, 4).Draw(rt, "time") == 0 {
				g.after(rapid.SampledFrom([]int64{0, 1, 60, 3600, 100_000, 3_000_000}).Draw(rt, "gap"))
			}
			monkey(rt, g)
			if err := Audit(g.tree); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func monkey(rt *rapid.T, g *grid) {
	var parties []identity.Party
	for p := range g.keys {
		parties = append(parties, p)
	}
	slices.Sort(parties)
	by := rapid.SampledFrom(parties).Draw(rt, "by")
	var ms []chain.Message
	for range rapid.IntRange(1, 3).Draw(rt, "messages") {
		m, err := chain.New(rapid.SampledFrom(chain.Codes()).Draw(rt, "code"))
		if err != nil {
			rt.Fatal(err)
		}
		fill(rt, g, by, reflect.ValueOf(m).Elem(), 0)
		ms = append(ms, m)
	}
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: by, Sequence: g.get(by).Sequence + 1, Expires: g.now + 600, FeeLimit: chain.Credit,
		Messages: chain.Pack(ms...)}, chain.Signer{Key: g.keys[by]})
	if err != nil {
		return // too long
	}
	before := g.get(by)
	root := g.tree.root()
	r := g.after(0, wire).Txs[0]
	if r.Kind == fault.Internal {
		rt.Fatalf("%s: %s", ms[0].Code(), r.Error)
	}
	if r.OK() {
		return
	}
	if r.Fee == 0 && g.get(by).Sequence == before.Sequence && g.tree.root() != root {
		rt.Fatalf("%s was refused (%s) and left something behind", ms[0].Code(), r.Error)
	}
}

// fill gives a value fields that are often nearly right.
func fill(rt *rapid.T, g *grid, by identity.Party, v reflect.Value, depth int) {
	switch v.Interface().(type) {
	case identity.Party:
		v.SetUint(rapid.Uint64Range(0, 9).Draw(rt, "party"))
		return
	case identity.ContractID:
		v.SetUint(rapid.SampledFrom([]uint64{uint64(by), 3, 6}).Draw(rt, "owner")<<24 | rapid.Uint64Range(0, 5).Draw(rt, "serial"))
		return
	case identity.PublicKey:
		v.SetString(string(testKey(rapid.Uint64Range(0, 5).Draw(rt, "key")).Public()))
		return
	case identity.Signature:
		v.Set(reflect.ValueOf(testKey(1).SignAs(0, identity.TagApprove, []byte("x"))))
		return
	case chain.Class:
		v.SetString(string(rapid.SampledFrom(chain.Classes()).Draw(rt, "class")))
		return
	case chain.Scope:
		v.SetString(string(chain.ScopeLogs))
		return
	case chain.Bytes:
		v.SetBytes(make([]byte, rapid.SampledFrom([]int{0, 32, 64, 1216}).Draw(rt, "bytes")))
		return
	case chain.Packed:
		if depth > 3 {
			v.Set(reflect.ValueOf(chain.Pack(&chain.Cancel{})[0]))
			return
		}
		m, err := chain.New(rapid.SampledFrom(chain.Codes()).Draw(rt, "inner"))
		if err != nil {
			rt.Fatal(err)
		}
		fill(rt, g, by, reflect.ValueOf(m).Elem(), depth+1)
		v.Set(reflect.ValueOf(chain.Packed{Code: m.Code(), Body: canon.MustMarshal(m)}))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(rt, g, by, v.Field(i), depth)
			}
		}
	case reflect.Slice:
		s := reflect.MakeSlice(v.Type(), rapid.IntRange(0, 3).Draw(rt, "length"), 3)
		for i := range s.Len() {
			fill(rt, g, by, s.Index(i), depth)
		}
		if s.Len() > 0 {
			v.Set(s)
		}
	case reflect.Array:
	case reflect.String:
		v.SetString(rapid.SampledFrom([]string{"", "shop", "farm-1", "a name", "metrics", "185.69.1.10/24", "185.69.1.1", fmt.Sprint(g.height)}).Draw(rt, "string"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(rt, "bool"))
	case reflect.Int64:
		v.SetInt(rapid.SampledFrom([]int64{0, 1, -1, g.now - 60, g.now, g.now + 60, g.now + 8*86400, 1 << 62, -1 << 63}).Draw(rt, "int"))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(rapid.SampledFrom([]uint64{0, 1, 2, 3, 60, 200, 1<<v.Type().Bits() - 1}).Draw(rt, "small"))
	case reflect.Uint64:
		v.SetUint(rapid.SampledFrom([]uint64{0, 1, 2, 1000, chain.Credit / 3, chain.Credit, 1 << 40, 1 << 63, 1<<64 - 1}).Draw(rt, "large"))
	}
}
