package identity

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// cheap lets tests use many passphrases.
func cheap() kdf { return kdf{Time: 1, Memory: 64, Threads: 1} }

func testKeys(t testing.TB) map[string]*Keys {
	t.Helper()
	person := KeysOf(SeedFrom([32]byte{1}))
	later, err := person.Rotate(3, 9)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := person.Agent(RoleDeploy)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*Keys{
		"person":  person,
		"rotated": later,
		"agent":   agent,
		"reader":  {Sign: FromSeed([32]byte{4}), Role: RoleRead, Owner: person.Owner},
	}
}

func same(a, b *Keys) bool {
	return a.Sign.Public() == b.Sign.Public() && a.Role == b.Role && a.Owner == b.Owner && a.Epoch == b.Epoch &&
		(a.Seed == nil) == (b.Seed == nil) && (a.Seed == nil || a.Seed.b == b.Seed.b) &&
		(a.KEM == nil) == (b.KEM == nil) && (a.KEM == nil || a.KEM.Epoch() == b.KEM.Epoch() && a.KEM.Secret() == b.KEM.Secret())
}

func TestKeyFilesKeepKeys(t *testing.T) {
	for name, k := range testKeys(t) {
		for _, pass := range []string{"", "correct horse"} {
			text, err := k.encode([]byte(pass), cheap())
			if err != nil {
				t.Fatal(err)
			}
			f, err := ParseKeyFile(text)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if f.Key != k.Sign.Public() || f.Owner != k.Owner || f.Role != k.Role || f.Locked != (pass != "") || f.Plain {
				t.Errorf("%s: the file says %v %v %v", name, f.Key, f.Owner, f.Role)
			}
			got, err := f.Open([]byte(pass))
			if err != nil || !same(got, k) {
				t.Errorf("%s with passphrase %q: Open = %v", name, pass, err)
			}
			if pass == "" {
				continue
			}
			for _, wrong := range []string{"", "correct horsf", "correct horse "} {
				if _, err := f.Open([]byte(wrong)); !errors.Is(err, fault.Denied) {
					t.Errorf("%s with passphrase %q: Open = %v, want denied", name, wrong, err)
				}
			}
			raw := fields(t, text)
			for secret, b := range map[string][]byte{"sign": k.Sign.key.Seed(), "kem": kemSecret(k)} {
				if bytes.Contains(raw, b) {
					t.Errorf("%s: the encrypted file holds the %s secret", name, secret)
				}
			}
		}
	}
}

func kemSecret(k *Keys) []byte {
	if k.KEM == nil {
		return []byte("there is none")
	}
	b := k.KEM.Secret()
	return b[:]
}

// fields is the CBOR of a key file.
func fields(t testing.TB, text []byte) []byte {
	_, body, _ := strings.Cut(strings.TrimSpace(string(text)), filePrefix+fileVersion)
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func wrap(raw []byte) []byte {
	return []byte(filePrefix + fileVersion + base64.RawURLEncoding.EncodeToString(raw) + "\n")
}

func TestDamagedKeyFileIsNoWrongPassphrase(t *testing.T) {
	k := testKeys(t)["person"]
	for _, pass := range []string{"", "secret"} {
		text, _ := k.encode([]byte(pass), cheap())
		raw := fields(t, text)
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 0x10
			if _, err := ParseKeyFile(wrap(bad)); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("byte %d flipped: ParseKeyFile = %v, want damaged", i, err)
			}
		}
		for _, n := range []int{0, 1, len(raw) / 2, len(raw) - 1} {
			if _, err := ParseKeyFile(wrap(raw[:n])); !errors.Is(err, fault.Invalid) {
				t.Errorf("cut at %d: %v, want invalid", n, err)
			}
		}
	}
}

// Who can write the file can't make its owner use another key, or another
// address, with the passphrase.
func TestKeyFileHeaderIsAuthenticated(t *testing.T) {
	k := testKeys(t)["person"]
	other := KeysOf(SeedFrom([32]byte{2}))
	for name, change := range map[string]func(*fileHeader){
		"owner": func(h *fileHeader) { h.Owner = other.Owner[:] },
		"key":   func(h *fileHeader) { h.Key = other.Sign.Public() },
		"role":  func(h *fileHeader) { h.Role = RoleDeploy },
		"epoch": func(h *fileHeader) { h.Epoch = 2 },
		"kem":   func(h *fileHeader) { h.KEM = other.KEM.Public().Bytes() },
		"kem epoch": func(h *fileHeader) {
			h.KEMEpoch = 2
		},
		"no kem": func(h *fileHeader) { h.KEM, h.KEMEpoch = nil, 0 },
	} {
		for _, pass := range []string{"", "secret"} {
			text, _ := k.encode([]byte(pass), cheap())
			var b fileBody
			var h fileHeader
			if err := errors.Join(canon.Unmarshal(fields(t, text), &b), canon.Unmarshal(b.Header, &h)); err != nil {
				t.Fatal(err)
			}
			change(&h)
			b.Header = canon.MustMarshal(h)
			b.Check = fileCheck(b.Header, b.Secrets)
			f, err := ParseKeyFile(wrap(canon.MustMarshal(b)))
			if err == nil {
				_, err = f.Open([]byte(pass))
			}
			if err == nil {
				t.Errorf("%s changed, passphrase %q: it opens", name, pass)
			}
		}
	}
}

func TestKeyFileBoundsItsReader(t *testing.T) {
	k := testKeys(t)["agent"]
	for name, change := range map[string]func(*kdf){
		"memory":  func(p *kdf) { p.Memory = 256<<10 + 1 },
		"most":    func(p *kdf) { p.Memory = 1<<32 - 1 },
		"little":  func(p *kdf) { p.Memory = 7 },
		"passes":  func(p *kdf) { p.Time = 11 },
		"none":    func(p *kdf) { p.Time = 0 },
		"threads": func(p *kdf) { p.Threads = 0 },
		"many":    func(p *kdf) { p.Threads = 17 },
		"salt":    func(p *kdf) { p.Salt = nil },
	} {
		text, _ := k.encode([]byte("x"), cheap())
		var b fileBody
		var h fileHeader
		if err := errors.Join(canon.Unmarshal(fields(t, text), &b), canon.Unmarshal(b.Header, &h)); err != nil {
			t.Fatal(err)
		}
		change(h.KDF)
		b.Header = canon.MustMarshal(h)
		b.Check = fileCheck(b.Header, b.Secrets)
		if _, err := ParseKeyFile(wrap(canon.MustMarshal(b))); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: ParseKeyFile = %v, want invalid", name, err)
		}
	}
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":       {"", fault.Invalid},
		"text":        {"hello\n", fault.Invalid},
		"comments":    {"# a\n# b\n", fault.Invalid},
		"newer":       {"zos-key-2:AAAA\n", fault.Unsupported},
		"no base64":   {"zos-key-1:@@\n", fault.Invalid},
		"long":        {strings.Repeat("#", maxKeyFile+1), fault.Invalid},
		"plain short": {"ed25519-secret:00\n", fault.Invalid},
	} {
		if _, err := ParseKeyFile([]byte(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: ParseKeyFile = %v, want %v", name, err, c.want)
		}
	}
}

func TestKeyFilesOnDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	k := testKeys(t)["person"]
	if err := k.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", st.Mode(), err)
	}
	if err := k.Save(path, nil); !errors.Is(err, fault.Conflict) {
		t.Errorf("Save again = %v, want conflict", err)
	}
	if s, err := Load(path); err != nil || s.Public() != k.Sign.Public() {
		t.Errorf("Load = %v", err)
	}
	locked := filepath.Join(dir, "locked")
	if err := k.Save(locked, []byte("p")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(locked); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "--passphrase-file") {
		t.Errorf("Load of an encrypted key = %v, want denied", err)
	}
	old := filepath.Join(dir, "old")
	if err := testKey.Save(old); err != nil {
		t.Fatal(err)
	}
	f, err := ReadKeyFile(old)
	if err != nil || !f.Plain || f.Locked || f.KEM != nil || f.Key != testKey.Public() {
		t.Errorf("the older form: %v", err)
	}
	if _, err := ReadKeyFile(dir); !errors.Is(err, fault.Invalid) {
		t.Errorf("a directory: %v, want invalid", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("%d files are there, want 3", len(left))
	}
}

func TestAgentsGetNoSeed(t *testing.T) {
	person := testKeys(t)["person"]
	a, err := person.Agent(RoleRead)
	if err != nil || a.Seed != nil || a.Owner != person.Owner || a.Sign.Public() == person.Sign.Public() {
		t.Fatalf("Agent = %v", err)
	}
	if _, err := person.Agent(RoleFull); !errors.Is(err, fault.Invalid) {
		t.Errorf("Agent(full) = %v, want invalid", err)
	}
	if _, err := a.Agent(RoleRead); !errors.Is(err, fault.Denied) {
		t.Errorf("an agent of an agent = %v, want denied", err)
	}
	if _, err := a.Rotate(2, 2); !errors.Is(err, fault.Unsupported) {
		t.Errorf("Rotate of an agent = %v, want unsupported", err)
	}
	text, _ := a.Encode(nil)
	if raw := fields(t, text); bytes.Contains(raw, person.Seed.b[:]) || bytes.Contains(raw, person.Sign.key.Seed()) {
		t.Error("the agent's file holds the person's secrets")
	}
}

func TestNoSecretPrints(t *testing.T) {
	k := KeysOf(SeedFrom([32]byte{0xaa, 0xaa, 0xaa}))
	text, _ := k.Encode(nil)
	f, err := ParseKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	kems := NewKEMKeys(1, newTicker(), k.KEM)
	for _, v := range []any{k, *k, k.Seed, *k.Seed, k.Sign, *k.Sign, k.KEM, f, kems} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if s := fmt.Sprintf(verb, v); s != hidden {
				t.Errorf("%s of %T prints %q", verb, v, s)
			}
		}
		var b bytes.Buffer
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "k", v)
		if !strings.Contains(b.String(), `"k":"[redacted]"`) {
			t.Errorf("%T in a log: %s", v, b.String())
		}
	}
	k.Erase()
	if k.Seed.b != [32]byte{} || bytes.ContainsFunc(k.Sign.key, func(r rune) bool { return r != 0 }) {
		t.Error("Erase left something")
	}
}

func FuzzKeyFile(f *testing.F) {
	for _, k := range testKeys(f) {
		for _, pass := range []string{"", "p"} {
			text, _ := k.encode([]byte(pass), cheap())
			f.Add(text)
		}
	}
	f.Add([]byte("ed25519-secret:" + strings.Repeat("00", 32)))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := ParseKeyFile(b)
		if err != nil || file.Locked && (file.header.KDF.Memory > 1024 || file.header.KDF.Time > 2) {
			return
		}
		k, err := file.Open([]byte("p"))
		if err == nil && (k.Sign.Public() != file.Key || k.Owner != file.Owner) {
			t.Fatalf("%q opens as another key than it says", b)
		}
	})
}
