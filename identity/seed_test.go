package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/tyler-smith/go-bip39"
	"pgregory.net/rapid"

	"zos.internal/internal/fault"
)

var testPhrase = strings.Repeat("abandon ", 23) + "art" // of the zero seed

func TestPhrasesAreBIP39(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
		want, err := bip39.NewMnemonic(b[:])
		if err != nil {
			t.Fatal(err)
		}
		got := SeedFrom(b).Phrase()
		if got != want {
			t.Fatalf("Phrase(%x) = %q, want %q", b, got, want)
		}
		back, err := ParsePhrase("  " + strings.ToUpper(strings.ReplaceAll(got, " ", " \n\t")) + "\n")
		if err != nil || back.b != b {
			t.Fatalf("ParsePhrase(%q) = %v", got, err)
		}
	})
}

func TestWrongPhrasesSayWhatIsWrong(t *testing.T) {
	words := strings.Fields(testPhrase)
	with := func(i int, w string) string {
		c := append([]string(nil), words...)
		c[i] = w
		return strings.Join(c, " ")
	}
	for name, c := range map[string]struct {
		phrase string
		want   []string
	}{
		"missing letter": {with(4, "abndon"), []string{`word 5 "abndon" is not in the list`, "did you mean abandon?"}},
		"exchanged":      {with(4, "abadnon"), []string{"word 5", "did you mean abandon?"}},
		"abbreviated":    {with(0, "zebr"), []string{"word 1", "did you mean zebra?"}},
		"longer":         {with(23, "arts"), []string{"word 24", "did you mean art?"}},
		"nothing near":   {with(1, "xxxxxxxx"), []string{`word 2 "xxxxxxxx" is not in the list`}},
		"long":           {with(1, strings.Repeat("x", 200)), []string{`word 2 "xxxxxxxxxxxx…" is not`}},
		"two":            {with(1, "qqq") + " ", []string{"word 2"}},
		"letters":        {with(1, "абандон"), []string{"word 2"}},
		"sum":            {with(3, "zoo"), []string{"don't fit together"}},
		"short":          {strings.Join(words[:23], " "), []string{"23 words, 24 are needed"}},
		"of twelve":      {strings.Repeat("abandon ", 11) + "about", []string{"12 words"}},
		"both":           {with(2, "zzz") + " art", []string{"25 words", "word 3"}},
		"empty":          {"", []string{"0 words"}},
		"huge":           {strings.Repeat("abandon ", 1<<17), []string{"1048576 bytes"}},
		"many":           {strings.Repeat("q ", 24), []string{"and 20 more"}},
	} {
		s, err := ParsePhrase(c.phrase)
		if s != nil || !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: ParsePhrase = %v, want invalid", name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error %q doesn't say %q", name, err, w)
			}
		}
		if len(err.Error()) > 700 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

// The derivation, written once more by hand.
func TestDerivationIsHKDF(t *testing.T) {
	mac := func(key, text []byte) []byte {
		h := hmac.New(sha256.New, key)
		h.Write(text)
		return h.Sum(nil)
	}
	s := SeedFrom([32]byte{9, 8, 7})
	prk := mac([]byte("zos/key/1"), s.b[:])
	for _, c := range []struct {
		epoch uint32
		info  string
	}{{1, "sign\x00\x00\x00\x00\x01\x01"}, {0x01020304, "sign\x00\x01\x02\x03\x04\x01"}} {
		want := FromSeed([32]byte(mac(prk, []byte(c.info)))).Public()
		if got := s.SigningKey(c.epoch).Public(); got != want {
			t.Errorf("SigningKey(%d) = %v, want %v", c.epoch, got, want)
		}
	}
	if got := s.KEM(7).Secret(); got != [32]byte(mac(prk, []byte("kem\x00\x00\x00\x00\x07\x01"))) {
		t.Errorf("KEM(7) = %x", got)
	}
	a, b := KeysOf(s), KeysOf(SeedFrom(s.b))
	if a.Sign.Public() != b.Sign.Public() || a.KEM.Public().Hash() != b.KEM.Public().Hash() || a.Owner != b.Owner {
		t.Error("the same seed gives different keys")
	}
	r, err := a.Rotate(2, 5)
	if err != nil || r.Owner != a.Owner || r.Sign.Public() == a.Sign.Public() || r.KEM.Epoch() != 5 {
		t.Errorf("Rotate = %v, owner kept %v", err, r.Owner == a.Owner)
	}
}

func FuzzPhrase(f *testing.F) {
	f.Add(testPhrase)
	f.Add("abandon art\n\xff")
	f.Fuzz(func(t *testing.T, phrase string) {
		s, err := ParsePhrase(phrase)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("the error has %d bytes", len(err.Error()))
			}
			return
		}
		if got := s.Phrase(); got != strings.Join(strings.Fields(strings.ToLower(phrase)), " ") {
			t.Fatalf("ParsePhrase(%q).Phrase() = %q", phrase, got)
		}
	})
}
