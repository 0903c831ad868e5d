package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"zos.internal/block"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// vectors are the values that docs/reference/hub.md shows. They are made here
// and searched there, so neither can change alone.
func vectors() map[string]string {
	key := identity.FromSeed([32]byte{1})
	body := []byte("hello")
	u := Upload{Method: "PUT", Key: "o/" + block.Sum(body).String(), Size: 5, Digest: block.Sum(body), Audience: "hub.example.org", Expires: 1800000000}
	q := Query{Names: []block.Name{block.Sum(body)}, Keys: []string{"p/" + block.Sum(nil).String()}}
	l := Located{Packs: []Pack{{Name: block.Sum(nil), Size: 1000}}, Places: []Place{{Pack: 0, Offset: 7, Stored: 300}, {Pack: Absent}}}
	return map[string]string{
		"address":              key.Public().Address().String(),
		"signed message":       hex.EncodeToString(canon.MustMarshal(u)),
		"authorization header": Sign(key, u),
		"query":                hex.EncodeToString(canon.MustMarshal(q)),
		"located":              hex.EncodeToString(canon.MustMarshal(l)),
		"bitmap":               hex.EncodeToString(Bitmap([]bool{true, false, true, false, false, false, false, false, true})),
	}
}

func TestVectorsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/reference/hub.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("\n", "", " ", "").Replace(string(doc))
	for name, v := range vectors() {
		if !strings.Contains(text, strings.ReplaceAll(v, " ", "")) {
			t.Errorf("docs/reference/hub.md doesn't show the %s\n%s", name, v)
		}
	}
}

func TestSignVerify(t *testing.T) {
	key := identity.FromSeed([32]byte{1})
	now := time.Unix(1_800_000_000, 0)
	u := Upload{Method: "PUT", Key: "p/x", Size: 7, Digest: block.Sum(nil), Audience: "h:1/base", Expires: now.Unix() + 1}
	h := Sign(key, u)
	got, by, err := Verify(h, Upload{Method: "PUT", Key: "p/x", Size: 7}, now)
	if err != nil || got != u || by != key.Public() {
		t.Fatalf("Verify = %+v, %v, %v, want what was signed", got, by, err)
	}
	for i := range len(h) {
		for _, c := range []byte{'A', '0', ',', ' '} {
			if h[i] == c {
				continue
			}
			bad := h[:i] + string(c) + h[i+1:]
			if _, _, err := Verify(bad, Upload{Method: "PUT", Key: "p/x", Size: 7}, now); err == nil {
				t.Fatalf("Verify accepts a header with byte %d changed: %s", i, bad)
			}
		}
	}
	for _, bad := range []string{"Zos1", "Zos1 ", "Zos1 key=x", strings.ReplaceAll(h, ",sig=", ",sig2="), h + ",x=y", strings.Repeat("Zos1 ", 400),
		strings.Replace(h, "expires=", "expires=+", 1), strings.Replace(h, "expires=", "expires=0", 1)} {
		if _, _, err := Verify(bad, Upload{Method: "PUT", Key: "p/x", Size: 7}, now); fault.Of(err) != fault.Invalid {
			t.Errorf("Verify(%.60q) = %v, want invalid", bad, err)
		}
	}
}

func TestBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.SliceOf(rapid.Bool()).Draw(t, "bits")
		b := Bitmap(bits)
		got, err := ParseBitmap(b, len(bits))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(append([]bool{}, bits...)) {
			t.Fatalf("ParseBitmap(Bitmap(%v)) = %v, %v", bits, got, err)
		}
		if _, err := ParseBitmap(append(b, 0), len(bits)); err == nil {
			t.Fatal("a longer bitmap is accepted")
		}
	})
	if _, err := ParseBitmap([]byte{0x10}, 4); err == nil {
		t.Error("a bit after the last is accepted")
	}
}

func TestReadQuery(t *testing.T) {
	q := Query{Names: make([]block.Name, 3), Keys: []string{"p/x"}, Sealed: true}
	got, err := ReadQuery(bytes.NewReader(canon.MustMarshal(q)), 4)
	if err != nil || len(got.Names) != 3 || got.Keys[0] != "p/x" || !got.Sealed {
		t.Fatalf("ReadQuery = %+v, %v", got, err)
	}
	for name, tt := range map[string]struct {
		b    []byte
		want fault.Kind
	}{
		"nothing":    {nil, fault.Invalid},
		"empty":      {canon.MustMarshal(Query{}), fault.Exhausted},
		"too many":   {canon.MustMarshal(Query{Names: make([]block.Name, 5)}), fault.Exhausted},
		"too long":   {make([]byte, MaxRequest+1), fault.Exhausted},
		"long key":   {canon.MustMarshal(Query{Keys: []string{strings.Repeat("x", MaxKey+1)}}), fault.Invalid},
		"short name": {[]byte{0xa1, 1, 0x81, 0x41, 9}, fault.Invalid},
		"trailing":   {append(canon.MustMarshal(q), 0), fault.Invalid},
	} {
		if _, err := ReadQuery(bytes.NewReader(tt.b), 4); fault.Of(err) != tt.want {
			t.Errorf("%s: ReadQuery = %v, want %s", name, err, tt.want)
		}
	}
}

func TestParseLocated(t *testing.T) {
	good := canon.MustMarshal(Located{Packs: []Pack{{Size: 1}}, Places: []Place{{}, {Pack: Absent}}})
	if _, err := ParseLocated(good, 2); err != nil {
		t.Error(err)
	}
	if _, err := ParseLocated(good, 3); fault.Of(err) != fault.Invalid {
		t.Errorf("ParseLocated of too few = %v, want invalid", err)
	}
	if _, err := ParseLocated(canon.MustMarshal(Located{Packs: []Pack{}, Places: []Place{{Pack: 0}}}), 1); fault.Of(err) != fault.Invalid {
		t.Errorf("ParseLocated of a pack that isn't there = %v, want invalid", err)
	}
}

func TestProblemsCrossTheWire(t *testing.T) {
	for _, k := range fault.Kinds() {
		w := httptest.NewRecorder()
		WriteProblem(w, k, "the \"reason\"\n", nil)
		err := ReadProblem(w.Result(), "do it")
		if fault.Of(err) != k || !strings.Contains(err.Error(), `do it: the "reason"`) || strings.Contains(err.Error(), "\n") {
			t.Errorf("problem of kind %s = %v", k, err)
		}
	}
	keys := make([]string, 2000)
	for i := range keys {
		keys[i] = fmt.Sprint("p/", i)
	}
	sent := Missing("image x", keys)
	var m *MissingError
	if !errors.As(sent, &m) || len(m.Keys) != MaxMissing || m.More != 1000 || !strings.Contains(sent.Error(), "2000 things") {
		t.Errorf("Missing = %v", sent)
	}
	w := httptest.NewRecorder()
	WriteProblem(w, fault.Conflict, sent.Error(), m.Keys)
	got := ReadProblem(w.Result(), "put r/x")
	if fault.Of(got) != fault.Conflict || !errors.As(got, &m) || len(m.Keys) != MaxMissing {
		t.Errorf("ReadProblem = %v, want the missing keys", got)
	}
	if Missing("x", nil) != nil {
		t.Error("Missing of nothing is an error")
	}
	plain := &http.Response{StatusCode: 502, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>"))}
	if err := ReadProblem(plain, "x"); fault.Of(err) != fault.Unavailable {
		t.Errorf("ReadProblem of a proxy's page = %v, want unavailable", err)
	}
}

func TestCheckObject(t *testing.T) {
	if CheckObject([]byte("\x28\xb5\x2f\xfd"), block.Sum(nil), 10) == nil {
		t.Error("a frame that is cut off is accepted")
	}
	if CheckObject(nil, block.Sum(nil), 10) == nil || IsFrame([]byte("abc")) {
		t.Error("nothing is a frame")
	}
}

func FuzzVerify(f *testing.F) {
	key := identity.FromSeed([32]byte{1})
	f.Fuzz(func(t *testing.T, header, k string, size int64) {
		_, by, err := Verify(header, Upload{Method: "PUT", Key: k, Size: size}, time.Unix(1_800_000_000-1, 0))
		// The one header that verifies is the documented vector's.
		if err == nil && (by != key.Public() || size != 5) {
			t.Errorf("Verify accepted %q for %q", header, k)
		}
	})
}

func FuzzReadQuery(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ReadQuery(bytes.NewReader(b), 64)
		if err == nil && !bytes.Equal(canon.MustMarshal(q), b) {
			t.Errorf("accepted %x, which encodes as %x", b, canon.MustMarshal(q))
		}
	})
}

func FuzzParseLocator(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLocator(b)
		if err != nil {
			return
		}
		again, err := l.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which encodes as %x, %v", b, again, err)
		}
	})
}

func FuzzCheckObject(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := CheckObject(b, block.Sum([]byte("never")), 1<<16); err == nil {
			t.Errorf("%x is taken for something else", b)
		}
	})
}

func FuzzReadProblem(f *testing.F) {
	f.Fuzz(func(t *testing.T, status int, b []byte) {
		if status < 400 || status > 599 {
			return
		}
		resp := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {TypeProblem}}, Body: io.NopCloser(bytes.NewReader(b))}
		if err := ReadProblem(resp, "x"); err == nil || fault.Of(err) == "" {
			t.Errorf("ReadProblem(%d %q) = %v", status, b, err)
		}
	})
}
