package chain

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"zos.internal/identity"
	"zos.internal/internal/canon"
)

var update = flag.Bool("update", false, "write the reference anew")

// TestReference keeps the tables of docs/reference/chain-messages.md equal to the
// types.
func TestReference(t *testing.T) {
	const path = "../docs/reference/chain-messages.md"
	var b strings.Builder
	b.WriteString(`# Messages and records of the chain

Written from the types in ` + "`chain/`" + ` by ` + "`go test ./chain -run Reference -update`" + `. How transactions are
signed, what the numbers mean and when a message is refused is in [chain.md](chain.md).
A field with a question mark is left out when it is empty. Everything is canonical CBOR: maps with
integer keys, or arrays where it says so.

## Messages

`)
	seen := make(map[reflect.Type]bool)
	var later []reflect.Type
	for _, c := range Codes() {
		m, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeOf(m).Elem()
		fmt.Fprintf(&b, "### %d %s\n\n", c, c)
		describe(&b, typ, &later)
		seen[typ] = true
	}
	b.WriteString("## Records\n\n")
	for _, r := range []any{Party{}, Account{}, Farm{}, Node{}, Load{}, Contract{}, Usage{}, ListEntry{}, NameHolder{}, Proposal{}, Support{}, Publisher{}, Release{}, Meta{}, Params{}, Validators{}, Upgrade{}} {
		typ := reflect.TypeOf(r)
		fmt.Fprintf(&b, "### %s\n\n", typ.Name())
		describe(&b, typ, &later)
		seen[typ] = true
	}
	b.WriteString("## Parts\n\n")
	for len(later) > 0 {
		typ := later[0]
		later = later[1:]
		if seen[typ] {
			continue
		}
		seen[typ] = true
		fmt.Fprintf(&b, "### %s\n\n", typ.Name())
		describe(&b, typ, &later)
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != b.String() {
		t.Errorf("%s is not what the types say; go test ./chain -run Reference -update", path)
	}
}

func describe(b *strings.Builder, typ reflect.Type, later *[]reflect.Type) {
	_, array := typ.FieldByName("_")
	if typ.NumField() == 0 {
		b.WriteString("No fields.\n\n")
		return
	}
	b.WriteString("| key | field | type |\n| --- | --- | --- |\n")
	n := 0
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() {
			continue
		}
		key, rest, _ := strings.Cut(f.Tag.Get("cbor"), ",")
		if array {
			key = fmt.Sprintf("[%d]", n)
		}
		n++
		name := f.Name
		if j, _, _ := strings.Cut(f.Tag.Get("json"), ","); j != "" && j != "-" {
			name = j
		}
		if strings.Contains(rest, "omitempty") {
			name += "?"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", key, name, typeName(f.Type, later))
	}
	b.WriteString("\n")
}

func typeName(t reflect.Type, later *[]reflect.Type) string {
	switch t {
	case reflect.TypeFor[Hash](), reflect.TypeFor[identity.Address]():
		return "32 bytes"
	case reflect.TypeFor[Bytes](), reflect.TypeFor[[]byte]():
		return "bytes"
	case reflect.TypeFor[identity.PublicKey]():
		return "key (bytes: algorithm, key)"
	case reflect.TypeFor[identity.Party](), reflect.TypeFor[identity.ContractID](), reflect.TypeFor[identity.Role](), reflect.TypeFor[Code]():
		return strings.ToLower(t.Name())
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem(), later)
	case reflect.Slice:
		return "list of " + typeName(t.Elem(), later)
	case reflect.Struct:
		*later = append(*later, t)
		return t.Name()
	}
	if t.PkgPath() != "" {
		return fmt.Sprintf("%s (%s)", t.Kind(), strings.ToLower(t.Name()))
	}
	return t.Kind().String()
}

// TestVectors are promised by docs/reference/chain.md for ever.
func TestVectors(t *testing.T) {
	wire, err := Sign(Body{Chain: "test-1", Party: 7, Sequence: 3, Expires: 1_800_000_000, FeeLimit: 5, Messages: Pack(&Send{To: 8, Amount: 1_000_000_000})}, Signer{Index: 2, Key: identity.FromSeed([32]byte{1})})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := Decode(wire)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../docs/reference/chain.md")
	if err != nil {
		t.Fatal(err)
	}
	for what, value := range map[string]string{
		"body":     fmt.Sprintf("%x", tx.Payload),
		"tx id":    fmt.Sprintf("%x", tx.ID),
		"wire":     fmt.Sprintf("%x", wire),
		"list key": fmt.Sprintf("%x", ListKey(9, 1)),
		"contract": fmt.Sprintf("%x", ContractKey(7<<24|3)),
		"queue":    fmt.Sprintf("%x", QueueKey(BillingQueue, 1_800_000_000, 7<<24|3)),
		"capacity": fmt.Sprintf("%x", canon.MustMarshal(Capacity{CPU: 1500, Memory: 2 << 30})),
	} {
		if !strings.Contains(string(b), value) {
			t.Errorf("docs/reference/chain.md doesn't have the %s %s", what, value)
		}
	}
}
