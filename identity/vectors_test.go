package identity

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"zos.internal/internal/canon"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew, which only a new format needs")

// vectors is testdata/vectors.json, which docs/reference/identity.md describes.
// What a version of a format once meant it means for ever, so the file is only
// added to.
type vectors struct {
	Person    personVector    `json:"person"`
	Other     personVector    `json:"other"`
	Group     groupVector     `json:"group"`
	Contracts []contractText  `json:"contracts"`
	Signature signatureVector `json:"signature"`
	Signed    signedVector    `json:"signed"`
	Secret    secretVector    `json:"secret"`
	Envelope  envelopeVector  `json:"envelope"`
	KeyFiles  []fileVector    `json:"key_files"`
}

type personVector struct {
	Seed        string      `json:"seed"`
	Phrase      string      `json:"phrase"`
	Address     string      `json:"address"`
	Fingerprint string      `json:"fingerprint"` // of the first key
	Signing     []keyVector `json:"signing"`
	KEM         []kemVector `json:"kem"`
}

type keyVector struct {
	Epoch  uint32 `json:"epoch"`
	Secret string `json:"secret"`
	Key    string `json:"key"`
}

type kemVector struct {
	Epoch  uint32 `json:"epoch"`
	Secret string `json:"secret"`
	Public string `json:"public"`
	Hash   string `json:"hash"`
}

type groupVector struct {
	Creator string `json:"creator"`
	Serial  uint64 `json:"serial"`
	Address string `json:"address"`
}

type contractText struct {
	Text   string     `json:"text"`
	Number ContractID `json:"number"`
}

type signatureVector struct {
	Tag       string `json:"tag"`
	Message   string `json:"message"`
	Covered   string `json:"covered"`
	Signature string `json:"signature"`
}

type signedVector struct {
	Tag     string `json:"tag"`
	Payload string `json:"payload"`
	Key     uint32 `json:"key"`
	CBOR    string `json:"cbor"`
}

type secretVector struct {
	Epoch    uint32     `json:"epoch"` // of person's KEM key
	Contract ContractID `json:"contract"`
	Node     Party      `json:"node"`
	Workload string     `json:"workload"`
	Field    string     `json:"field"`
	AAD      string     `json:"aad"`
	Plain    string     `json:"plain"`
	Sealed   string     `json:"sealed"`
}

type envelopeVector struct {
	From    Party  `json:"from"` // other, whose first key has index 3
	To      Party  `json:"to"`   // person, KEM epoch 1
	ID      string `json:"id"`
	Created int64  `json:"created"` // unix milliseconds
	TTL     int    `json:"ttl"`     // seconds
	Request string `json:"request"`
	Body    string `json:"body"`
	Code    string `json:"code"`
	Text    string `json:"text"`
	Header  string `json:"header"`
	Plain   string `json:"plain"`
	CBOR    string `json:"cbor"`
}

type fileVector struct {
	Passphrase string `json:"passphrase"`
	Role       Role   `json:"role"`
	Key        string `json:"key"`
	Text       string `json:"text"`
}

func personOf(b [32]byte) personVector {
	s := SeedFrom(b)
	k := s.SigningKey(FirstEpoch).Public()
	p := personVector{Seed: hex.EncodeToString(b[:]), Phrase: s.Phrase(), Address: k.Address().String(), Fingerprint: k.Fingerprint()}
	for _, e := range []uint32{1, 2} {
		sign, kem := s.SigningKey(e), s.KEM(e)
		secret, hash := kem.Secret(), kem.Public().Hash()
		p.Signing = append(p.Signing, keyVector{e, hex.EncodeToString(sign.key.Seed()), sign.Public().String()})
		p.KEM = append(p.KEM, kemVector{e, hex.EncodeToString(secret[:]), hex.EncodeToString(kem.Public().Bytes()), hex.EncodeToString(hash[:])})
	}
	return p
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func counting() (b [32]byte) {
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// fixed is the part of the vectors that has no randomness in it.
func fixed(t testing.TB) vectors {
	v := vectors{Person: personOf([32]byte{}), Other: personOf(counting())}
	a := SeedFrom([32]byte{}).SigningKey(FirstEpoch).Public().Address()
	v.Group = groupVector{a.String(), 5, GroupAddress(a, 5).String()}
	for _, c := range []string{"1/1", "17/3", "268435455/16777215"} {
		id, err := ParseContractID(c)
		if err != nil {
			t.Fatal(err)
		}
		v.Contracts = append(v.Contracts, contractText{c, id})
	}
	k := SeedFrom([32]byte{}).SigningKey(FirstEpoch)
	msg := []byte("hello")
	v.Signature = signatureVector{TagQuote, hex.EncodeToString(msg), hex.EncodeToString(signed(TagQuote, msg)), hex.EncodeToString(k.SignAs(0, TagQuote, msg).Bytes)}
	s := Signed{Payload: msg}
	s.Sign(k, 2, TagTx)
	v.Signed = signedVector{TagTx, hex.EncodeToString(msg), 2, hex.EncodeToString(s.Encode())}
	return v
}

// random makes the part that is kept, because it can't be made again.
func random(t *testing.T, v *vectors) {
	person, other := KeysOf(SeedFrom([32]byte{})), KeysOf(SeedFrom(counting()))
	at := Place{Contract: v.Contracts[1].Number, Node: 42, Workload: "db", Field: "secrets.PGPASS"}
	s, err := SealSecret(person.KEM.Public(), at, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	v.Secret = secretVector{FirstEpoch, at.Contract, at.Node, at.Workload, at.Field, hex.EncodeToString(canon.MustMarshal(at)), "hunter2", s.Sealed}

	now := newTicker()
	book := new(Book)
	book.Put(42, Entry{KEM: person.KEM.Public()})
	m := &Message{Class: Reply, To: 42, ID: MessageID(unhex(t, "000102030405060708090a0b0c0d0e0f")), Request: MessageID(unhex(t, "101112131415161718191a1b1c1d1e1f")),
		Body: []byte{1, 2, 3}, Code: "not_found", Text: "there is no such workload"}
	e := Endpoint{Party: 17, Index: 3, Key: other.Sign, Directory: book, Clock: now}
	wire, err := e.Seal(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	env, _, err := decodeEnvelope(wire)
	if err != nil {
		t.Fatal(err)
	}
	v.Envelope = envelopeVector{17, 42, m.ID.String(), m.Created.UnixMilli(), int(m.TTL / time.Second), m.Request.String(), hex.EncodeToString(m.Body), m.Code, m.Text,
		hex.EncodeToString(env.Header), hex.EncodeToString(canon.MustMarshal(plain{m.Method, m.Body, m.Code, m.Text})), hex.EncodeToString(wire)}

	agent, err := person.Agent(RoleDeploy)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		keys *Keys
		pass string
	}{{person, ""}, {person, "correct horse"}, {agent, "battery staple"}} {
		text, err := c.keys.encode([]byte(c.pass), cheap())
		if err != nil {
			t.Fatal(err)
		}
		v.KeyFiles = append(v.KeyFiles, fileVector{c.pass, c.keys.Role, c.keys.Sign.Public().String(), string(text)})
	}
}

const vectorsPath = "testdata/vectors.json"

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile(vectorsPath)
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectors(t *testing.T) {
	want := fixed(t)
	if *update {
		random(t, &want)
		b, err := json.MarshalIndent(want, "", "  ")
		if err == nil {
			err = os.WriteFile(vectorsPath, append(b, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got := readVectors(t)
	want.Secret, want.Envelope, want.KeyFiles = got.Secret, got.Envelope, got.KeyFiles
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("-file +program:\n%s", diff)
	}
	for _, p := range []personVector{got.Person, got.Other} {
		if s, err := ParsePhrase(p.Phrase); err != nil || hex.EncodeToString(s.b[:]) != p.Seed {
			t.Errorf("ParsePhrase(%q) = %v", p.Phrase, err)
		}
	}

	person, other := KeysOf(SeedFrom([32]byte{})), KeysOf(SeedFrom(counting()))
	at := Place{Contract: got.Secret.Contract, Node: got.Secret.Node, Workload: got.Secret.Workload, Field: got.Secret.Field}
	if aad := hex.EncodeToString(canon.MustMarshal(at)); aad != got.Secret.AAD {
		t.Errorf("AAD = %s, want %s", aad, got.Secret.AAD)
	}
	now := newTicker()
	kems := NewKEMKeys(42, now, person.KEM)
	if p, err := kems.OpenSecret(at, SealedSecret{got.Secret.Sealed}); err != nil || string(p) != got.Secret.Plain {
		t.Errorf("OpenSecret = %q, %v", p, err)
	}

	e := got.Envelope
	now.now = time.UnixMilli(e.Created)
	book := new(Book)
	book.Put(e.From, Entry{Keys: []Key{{Index: 3, Role: RoleFull, Key: other.Sign.Public()}}})
	end := Endpoint{Party: e.To, KEM: kems, Directory: book, Replays: NewMemory(8), Clock: now}
	m, err := end.Open(t.Context(), unhex(t, e.CBOR))
	if err != nil {
		t.Fatal(err)
	}
	env, _, _ := decodeEnvelope(unhex(t, e.CBOR))
	seen := envelopeVector{m.From, m.To, m.ID.String(), m.Created.UnixMilli(), int(m.TTL / time.Second), m.Request.String(), hex.EncodeToString(m.Body), m.Code, m.Text,
		hex.EncodeToString(env.Header), hex.EncodeToString(canon.MustMarshal(plain{m.Method, m.Body, m.Code, m.Text})), e.CBOR}
	if diff := cmp.Diff(e, seen); diff != "" {
		t.Errorf("envelope, -file +opened:\n%s", diff)
	}

	for _, f := range got.KeyFiles {
		file, err := ParseKeyFile([]byte(f.Text))
		if err != nil {
			t.Fatal(err)
		}
		k, err := file.Open([]byte(f.Passphrase))
		if err != nil || k.Sign.Public().String() != f.Key || k.Role != f.Role || k.Owner != person.Owner {
			t.Errorf("key file with passphrase %q: %v", f.Passphrase, err)
		}
	}
}
