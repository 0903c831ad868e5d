package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"zos.internal/internal/fault"
)

func TestReaderRefuses(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for _, tt := range []struct {
		name, src, path, want string
		line, column, at      int
	}{
		{"empty", "", "", "starts with {", 1, 1, 0},
		{"byte order mark", "\xef\xbb\xbf{}", "", "byte order mark", 1, 1, 0},
		{"no UTF-8", "{\"a\":\"\xff\"}", "", "not UTF-8", 1, 7, 6},
		{"a list", "[]", "", "starts with {", 1, 1, 0},
		{"after", "{} x", "", "nothing may follow", 1, 4, 3},
		{"two", "{}{}", "", "nothing may follow", 1, 3, 2},
		{"duplicate", "{\"a\":1,\n \"a\":2}", "a", `duplicate key "a" at byte 9`, 2, 2, 9},
		{"duplicate by escape", `{"a":1,"\u0061":2}`, "a", "duplicate key", 1, 8, 7},
		{"null", `{"b":{"a":null}}`, "b.a", "leave the key out", 1, 11, 10},
		{"fraction", `{"a":1.0}`, "a", "digits only", 1, 6, 5},
		{"exponent", `{"a":1e3}`, "a", "digits only", 1, 6, 5},
		{"negative", `{"a":-1}`, "a", "not negative", 1, 6, 5},
		{"minus zero", `{"a":-0}`, "a", "not negative", 1, 6, 5},
		{"2^53", `{"a":[0,9007199254740992]}`, "a[1]", "below 2^53", 1, 9, 8},
		{"beyond 64 bits", `{"a":99999999999999999999}`, "a", "below 2^53", 1, 6, 5},
		{"leading zero", `{"a":01}`, "a", "not a JSON number", 1, 6, 5},
		{"plus", `{"a":+1}`, "a", "value is missing", 1, 6, 5},
		{"lone surrogate", `{"a":"\ud83d"}`, "a", "lone surrogate", 1, 7, 6},
		{"low surrogate", `{"a":"\ude00x"}`, "a", "lone surrogate", 1, 7, 6},
		{"two highs", `{"a":"\ud83d\ud83d\ude00"}`, "a", "lone surrogate", 1, 7, 6},
		{"line break", "{\"a\":\"x\ny\"}", "a", "control character", 1, 8, 7},
		{"escape", `{"a":"\x41"}`, "a", "not an escape", 1, 7, 6},
		{"unclosed", `{"a":"x`, "a", "never closed", 1, 8, 7},
		{"no colon", `{"a" 1}`, "a", "colon", 1, 6, 5},
		{"comma at the end", `{"a":1,}`, "", "key in quotes", 1, 8, 7},
		{"comma in a list", `{"a":[1,]}`, "a[1]", "value is missing", 1, 9, 8},
		{"comment", "{ // x\n}", "", "key in quotes", 1, 3, 2},
		{"single quotes", `{'a':1}`, "", "key in quotes", 1, 2, 1},
		{"capital word", `{"a":True}`, "a", "value is missing", 1, 6, 5},
		{"too deep", deep(17), strings.TrimSuffix(strings.Repeat("a.", 16), "."), "16 deep", 1, 81, 80},
		{"columns are characters", "{\"ä\":null}", `["ä"]`, "null", 1, 6, 6},
	} {
		rep := new(report)
		readJSON(source{text: tt.src}, rep)
		var ps Problems
		if !errors.As(rep.err(inText(tt.src)), &ps) {
			t.Errorf("%s: accepted", tt.name)
			continue
		}
		p := ps[0]
		if !strings.Contains(p.Message, tt.want) || p.Path != tt.path || p.Line != tt.line || p.Column != tt.column || p.Byte != tt.at {
			t.Errorf("%s: %+v, want %q at %q line %d column %d byte %d", tt.name, p, tt.want, tt.path, tt.line, tt.column, tt.at)
		}
	}
	for _, ok := range []string{"{}", " {\"a\" : [ ] , \"b\":{}}\n", deep(16), `{"a":9007199254740991}`, `{"a":"\ud83d\ude00 \"\\\/\b\f\n\r\t"}`, `{"":"","A":1,"a":1}`} {
		rep := new(report)
		if _, good := readJSON(source{text: ok}, rep); !good || len(rep.issues) > 0 {
			t.Errorf("%s: refused: %v", ok, rep.issues)
		}
	}
}

func TestReaderBoundsItsReport(t *testing.T) {
	src := "{" + strings.Repeat(`"a":null,`, 1000) + `"b":null}`
	_, err := Parse([]byte(src), Final)
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != MaxProblems || !strings.Contains(ps[MaxProblems-1].Message, "more problems") {
		t.Errorf("%d problems, want %d and a count of the rest", len(ps), MaxProblems)
	}
	if fault.Of(err) != fault.Invalid {
		t.Errorf("kind %v, want invalid", fault.Of(err))
	}
	if _, err := Parse(bytes.Repeat([]byte(" "), MaxBytes+1), Final); err == nil || !strings.Contains(err.Error(), "at most 262144") {
		t.Errorf("too big: %v", err)
	}
}

// reference is a second reader, over encoding/json's tokens: what it reads and
// what our reader reads must be the same, and what it refuses ours refuses.
func reference(src string) (any, bool) {
	if !utf8.ValidString(src) || len(src) > MaxBytes || !json.Valid([]byte(src)) {
		return nil, false
	}
	dec := json.NewDecoder(strings.NewReader(src))
	dec.UseNumber()
	ok := true
	var read func(depth int) any
	read = func(depth int) any {
		tok, err := dec.Token()
		if err != nil {
			ok = false
			return nil
		}
		switch x := tok.(type) {
		case json.Delim:
			if depth == 0 {
				ok = false
				return nil
			}
			if x == '[' {
				out := []any{}
				for ok && dec.More() {
					out = append(out, read(depth-1))
				}
				dec.Token()
				return out
			}
			out := map[string]any{}
			for ok && dec.More() {
				k, _ := dec.Token()
				name, _ := k.(string)
				if _, twice := out[name]; twice {
					ok = false
				}
				out[name] = read(depth - 1)
			}
			dec.Token()
			return out
		case json.Number:
			if strings.Trim(string(x), "0123456789") != "" || len(x) > 16 || len(x) == 16 && x > "9007199254740991" {
				ok = false
			}
			return string(x)
		case nil:
			ok = false
		}
		return tok
	}
	v := read(MaxDepth)
	if _, err := dec.Token(); err != io.EOF {
		ok = false
	}
	_, isObject := v.(map[string]any)
	return v, ok && isObject
}

// plain is v as reference writes it.
func plain(v *value) any {
	switch v.kind {
	case object:
		out := map[string]any{}
		for i := range v.members {
			out[v.members[i].name] = plain(&v.members[i].value)
		}
		return out
	case list:
		out := []any{}
		for i := range v.items {
			out = append(out, plain(&v.items[i]))
		}
		return out
	case text:
		return v.text
	case number:
		return json.Number(itoa(v.number)).String()
	case truth:
		return v.flag
	}
	return nil
}

func FuzzReader(f *testing.F) {
	shop, err := os.ReadFile("testdata/valid/shop.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(shop))
	for _, s := range []string{`{"a":[1,true,"x",{}]}`, `{"a":1,"a":2}`, `{"a":"\ud800"}`, `{"a":-0}`, "{\"a\":\"\xff\"}", `{"a":null}`, `{"a":"\ufffd"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		rep := new(report)
		v, good := readJSON(source{text: src}, rep)
		good = good && len(rep.issues) == 0
		want, ok := reference(src)
		if ok && loneSurrogate(src) {
			return // encoding/json replaces them; ours refuses, which TestReaderRefuses shows
		}
		if good != ok {
			t.Fatalf("readJSON = %v (%v), the reference says %v", good, rep.issues, ok)
		}
		if good {
			a, _ := json.Marshal(plain(&v))
			b, _ := json.Marshal(want)
			if !bytes.Equal(a, b) {
				t.Fatalf("readJSON = %s, the reference says %s", a, b)
			}
		}
		if err := rep.err(inText(src)); (err == nil) != good {
			t.Fatalf("refused without a problem, or the reverse: %v", err)
		}
	})
}

// loneSurrogate is a rough test: any \ud8.. to \udf.. escape.
func loneSurrogate(src string) bool {
	low := strings.ToLower(src)
	for _, c := range "89abcdef" {
		if strings.Contains(low, `\ud`+string(c)) {
			return true
		}
	}
	return false
}
