package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

var testKey = FromSeed([32]byte{1, 2, 3})

// The vector in docs/reference/identity.md.
func TestVector(t *testing.T) {
	k := FromSeed([32]byte{})
	if got, want := k.Public().String(), "ed25519:O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik"; got != want {
		t.Errorf("key = %s, want %s", got, want)
	}
	const want = "zos1ppetgcwcjcr0877dhrgye0sqpmks4r08fxlzksl3fmc7rwcaqtwq6hyk9l"
	if got := k.Public().Address().String(); len(got) != 62 || !strings.HasPrefix(got, "zos1") || got != want {
		t.Errorf("address = %s, want %s", got, want)
	}
}

func TestSignatureCoversTagMessageAndKey(t *testing.T) {
	sig := testKey.Sign("tag", []byte("msg"))
	pub := testKey.Public()
	if err := pub.Verify("tag", []byte("msg"), sig); err != nil {
		t.Fatal(err)
	}
	other, _ := Generate()
	for name, err := range map[string]error{
		"other tag":     pub.Verify("ta", []byte("g\x00msg"), sig),
		"other message": pub.Verify("tag", []byte("msh"), sig),
		"other key":     other.Public().Verify("tag", []byte("msg"), sig),
		"short":         pub.Verify("tag", []byte("msg"), sig[:10]),
	} {
		if !errors.Is(err, fault.Denied) {
			t.Errorf("%s: Verify = %v, want denied", name, err)
		}
	}
	sig[0] = 2
	if err := pub.Verify("tag", []byte("msg"), sig); !errors.Is(err, fault.Unsupported) {
		t.Errorf("unknown algorithm: Verify = %v, want unsupported", err)
	}
}

func TestTextForms(t *testing.T) {
	pub := testKey.Public()
	if got, err := ParsePublicKey(pub.String()); err != nil || got != pub {
		t.Errorf("ParsePublicKey(%v) = %v, %v", pub, got, err)
	}
	a := pub.Address()
	if got, err := ParseAddress(a.String()); err != nil || got != a {
		t.Errorf("ParseAddress(%v) = %v, %v", a, got, err)
	}
	s := a.String()
	for _, bad := range []string{"", "zos1", strings.ToUpper(s), s[:61] + "q", "btc" + s[3:], s + "q"} {
		if _, err := ParseAddress(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseAddress(%q) = %v, want invalid", bad, err)
		}
	}
	for _, bad := range []string{"", "ed25519:", "ed25519:AAAA", "rsa:" + pub.String()[8:]} {
		if _, err := ParsePublicKey(bad); err == nil {
			t.Errorf("ParsePublicKey(%q) worked", bad)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := testKey.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || got.Public() != testKey.Public() {
		t.Fatalf("Load = %v, %v", got, err)
	}
	if err := testKey.Save(path); !errors.Is(err, fault.Conflict) {
		t.Errorf("Save over a key = %v, want conflict", err)
	}
	os.Chmod(path, 0o644)
	if _, err := Load(path); !errors.Is(err, fault.Denied) {
		t.Errorf("Load of a readable key = %v, want denied", err)
	}
	os.WriteFile(path, []byte("hello"), 0o600)
	os.Chmod(path, 0o600)
	if _, err := Load(path); !errors.Is(err, fault.Invalid) {
		t.Errorf("Load of a text file = %v, want invalid", err)
	}
}

func TestSecretsDontPrint(t *testing.T) {
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if s := fmt.Sprintf(verb, testKey); s != "[redacted]" {
			t.Errorf("%s prints %q", verb, s)
		}
	}
}
