package identity

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/tyler-smith/go-bip39/wordlists"

	"zos.internal/internal/fault"
)

// Seed is the 32-byte secret from which a person's keys are derived. Its other
// form is a recovery phrase of 24 words (BIP-39, English list). Who has it has
// everything, messages of the past included.
type Seed struct {
	redacted
	b [32]byte
}

// FirstEpoch is the epoch of a party's first keys. A key that replaces another
// has a higher one.
const FirstEpoch uint32 = 1

const (
	seedSalt     = "zos/key/1"
	purposeSign  = "sign"
	purposeKEM   = "kem"
	phraseLength = 24   // words
	maxPhrase    = 1024 // bytes
)

// NewSeed makes a seed from the system's randomness.
func NewSeed() (*Seed, error) {
	s := new(Seed)
	if _, err := rand.Read(s.b[:]); err != nil {
		return nil, fmt.Errorf("make seed: %w", err)
	}
	return s, nil
}

// SeedFrom is the seed with these bytes.
func SeedFrom(b [32]byte) *Seed { return &Seed{b: b} }

// Erase overwrites the secret. What is derived later is worthless.
func (s *Seed) Erase() { clear(s.b[:]) }

// derive is HKDF-SHA256 of the seed with the salt "zos/key/1". The info is the
// purpose, a zero byte and the epoch in 4 bytes, big-endian.
func (s *Seed) derive(purpose string, epoch uint32) (key [32]byte) {
	info := binary.BigEndian.AppendUint32([]byte(purpose+"\x00"), epoch)
	b, err := hkdf.Key(sha256.New, s.b[:], []byte(seedSalt), string(info), len(key))
	if err != nil {
		panic(fmt.Sprintf("identity: HKDF of 32 bytes: %v", err))
	}
	copy(key[:], b)
	clear(b)
	return key
}

// SigningKey is the signing key of an epoch. The address of the party comes from
// that of FirstEpoch.
func (s *Seed) SigningKey(epoch uint32) *PrivateKey {
	b := s.derive(purposeSign, epoch)
	defer clear(b[:])
	return FromSeed(b)
}

// KEM is the key of an epoch that opens what was sealed to the party.
func (s *Seed) KEM(epoch uint32) *KEMPrivate {
	b := s.derive(purposeKEM, epoch)
	defer clear(b[:])
	return kemFromSecret(epoch, b)
}

// Phrase is the 24 words of the seed. It is the secret itself.
func (s *Seed) Phrase() string {
	sum := sha256.Sum256(s.b[:])
	bits := append(s.b[:len(s.b):len(s.b)], sum[0])
	defer clear(bits)
	words := make([]string, phraseLength)
	for i := range words {
		n := 0
		for bit := 11 * i; bit < 11*i+11; bit++ {
			n = n<<1 | int(bits[bit/8]>>(7-bit%8)&1)
		}
		words[i] = wordlists.English[n]
	}
	return strings.Join(words, " ")
}

// ParsePhrase reads 24 words, in any case and with any white space between. An
// error names the place of each wrong word and similar words of the list.
func ParsePhrase(phrase string) (*Seed, error) {
	if len(phrase) > maxPhrase {
		return nil, fault.Errorf(fault.Invalid, "the phrase has %d bytes; a recovery phrase is %d short words", len(phrase), phraseLength)
	}
	words := strings.Fields(strings.ToLower(phrase))
	var bits [33]byte
	defer clear(bits[:])
	var wrong []int
	for i, w := range words {
		n, ok := slices.BinarySearch(wordlists.English, w)
		if !ok {
			wrong = append(wrong, i)
			continue
		}
		for j := range 11 {
			if bit := 11*i + j; bit < 8*len(bits) {
				bits[bit/8] |= byte(n>>(10-j)&1) << (7 - bit%8)
			}
		}
	}
	sum := sha256.Sum256(bits[:32])
	switch {
	case len(words) != phraseLength && len(wrong) == 0:
		return nil, fault.Errorf(fault.Invalid, "the phrase has %d words, %d are needed; see whether a line is missing or doubled", len(words), phraseLength)
	case len(words) != phraseLength:
		return nil, fault.Errorf(fault.Invalid, "the phrase has %d words, %d are needed, and %s", len(words), phraseLength, listed(words, wrong))
	case len(wrong) > 0:
		return nil, fault.Errorf(fault.Invalid, "%s", listed(words, wrong))
	case sum[0] != bits[32]:
		return nil, fault.Errorf(fault.Invalid, "all %d words are in the list, but they don't fit together: a word is another one, or two are exchanged; compare them with your paper one by one", phraseLength)
	}
	s := new(Seed)
	copy(s.b[:], bits[:])
	return s, nil
}

// listed names the first wrong words.
func listed(words []string, wrong []int) string {
	const most = 4
	var b strings.Builder
	for n, i := range wrong[:min(most, len(wrong))] {
		if n > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "word %d %q is not in the list%s", i+1, short(words[i]), similar(words[i]))
	}
	if n := len(wrong) - most; n > 0 {
		fmt.Fprintf(&b, "; and %d more", n)
	}
	return b.String()
}

func short(w string) string {
	if r := []rune(w); len(r) > 12 {
		return string(r[:12]) + "…"
	}
	return w
}

// similar proposes up to three words of the list that take the fewest changes
// of letters to become w.
func similar(w string) string {
	const most = 3
	if len(w) > 16 {
		return ""
	}
	var near [3][]string // by number of changes
	for _, known := range wordlists.English {
		d := len(near)
		if n := len(w) - len(known); -d < n && n < d {
			d = changes(w, known)
		}
		if len(w) >= 4 && strings.HasPrefix(known, w) || len(w) > 4 && strings.HasPrefix(w, known) {
			d = min(d, 1)
		}
		if d < len(near) {
			near[d] = append(near[d], known)
		}
	}
	all := near[1]
	if len(all) == 0 {
		all = near[2]
	}
	if len(all) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(all[:min(most, len(all))], " or ") + "?"
}

// changes is the number of letters to insert, remove, replace, or exchange with
// their neighbour, that turns a into b.
func changes(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := last[j-1]
			if a[i-1] != b[j-1] {
				d++
			}
			row[j] = min(d, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
