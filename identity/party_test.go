package identity

import (
	"encoding/json"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

func TestContractIDForms(t *testing.T) {
	for _, c := range []struct {
		text string
		want ContractID
	}{
		{"17/3", 285212675},
		{"285212675", 285212675},
		{"1/1", 1<<24 | 1},
		{"268435455/16777215", 1<<52 - 1},
		{"4503599627370495", 1<<52 - 1},
	} {
		if got, err := ParseContractID(c.text); err != nil || got != c.want {
			t.Errorf("ParseContractID(%q) = %d, %v, want %d", c.text, uint64(got), err, uint64(c.want))
		}
	}
	for _, bad := range []string{
		"", "/", "17/", "/3", "0/3", "17/0", "017/3", "17/03", "+17/3", "17/3/1", "17/16777216", "268435456/1",
		"0", "16777216", "3", "4503599627370496", "18446744073709551616", "18446744073709551615/1", "17/18446744073709551615", "-1", "1e3", " 17/3", "17/3 ", "１７/3",
	} {
		if got, err := ParseContractID(bad); !errors.Is(err, fault.Invalid) || got != 0 {
			t.Errorf("ParseContractID(%q) = %d, %v, want invalid", bad, uint64(got), err)
		}
	}
	for _, c := range []struct {
		owner  Party
		serial uint32
	}{{0, 1}, {1, 0}, {1, 1 << 24}, {MaxParty + 1, 1}, {1<<32 - 1, 1<<32 - 1}} {
		if id, err := NewContractID(c.owner, c.serial); !errors.Is(err, fault.Invalid) {
			t.Errorf("NewContractID(%d, %d) = %v, %v, want invalid", c.owner, c.serial, id, err)
		}
	}
	b, err := json.Marshal(ContractID(285212675))
	if err != nil || string(b) != "285212675" {
		t.Errorf("JSON = %s, %v, want the number", b, err)
	}
}

func TestContractIDsKeepTheirParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owner := Party(rapid.Uint32Range(1, uint32(MaxParty)).Draw(t, "owner"))
		serial := rapid.Uint32Range(1, MaxSerial).Draw(t, "serial")
		id, err := NewContractID(owner, serial)
		if err != nil || id.Owner() != owner || id.Serial() != serial || id >= 1<<52 {
			t.Fatalf("NewContractID(%d, %d) = %v, %v", owner, serial, id, err)
		}
		if back, err := ParseContractID(id.String()); err != nil || back != id {
			t.Fatalf("ParseContractID(%v) = %v, %v", id, back, err)
		}
	})
}

func FuzzContractID(f *testing.F) {
	f.Add("17/3")
	f.Add("4503599627370495")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseContractID(s)
		if err != nil {
			return
		}
		if err := id.Check(); err != nil {
			t.Fatalf("ParseContractID(%q) = %d, which isn't one: %v", s, uint64(id), err)
		}
		if back, err := ParseContractID(id.String()); err != nil || back != id {
			t.Fatalf("ParseContractID(%q) = %v and back %v, %v", s, id, back, err)
		}
	})
}

func TestParties(t *testing.T) {
	if p, err := ParseParty("268435455"); err != nil || p != MaxParty {
		t.Errorf("ParseParty = %d, %v", p, err)
	}
	for _, bad := range []string{"", "0", "01", "-1", "268435456", "4294967297", "x"} {
		if p, err := ParseParty(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseParty(%q) = %d, %v, want invalid", bad, p, err)
		}
	}
}

func TestGroupAddressesDiffer(t *testing.T) {
	a := testKey.Public().Address()
	seen := map[Address]bool{a: true}
	for _, g := range []Address{GroupAddress(a, 1), GroupAddress(a, 2), GroupAddress(FromSeed([32]byte{}).Public().Address(), 1)} {
		if seen[g] {
			t.Errorf("%v is there twice", g)
		}
		seen[g] = true
		if got, err := ParseAddress(g.String()); err != nil || got != g {
			t.Errorf("ParseAddress(%v) = %v, %v", g, got, err)
		}
	}
}

func TestRolesAndKeysInRecords(t *testing.T) {
	type record struct {
		Key  PublicKey `cbor:"1,keyasint" json:"key"`
		Role Role      `cbor:"2,keyasint" json:"role"`
	}
	want := record{testKey.Public(), RoleDeploy}
	var fromCBOR, fromJSON record
	b := canon.MustMarshal(want)
	if err := canon.Unmarshal(b, &fromCBOR); err != nil || fromCBOR != want {
		t.Errorf("CBOR %x = %v, %v", b, fromCBOR, err)
	}
	j, err := json.Marshal(want)
	if err == nil {
		err = json.Unmarshal(j, &fromJSON)
	}
	if err != nil || fromJSON != want {
		t.Errorf("JSON %s = %v, %v", j, fromJSON, err)
	}
	if err := json.Unmarshal([]byte(`{"role":"root"}`), &fromJSON); !errors.Is(err, fault.Invalid) {
		t.Errorf("unknown role: %v, want invalid", err)
	}
	if _, err := json.Marshal(record{Role: 9}); err == nil {
		t.Error("role 9 is written")
	}
}
