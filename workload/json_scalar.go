package workload

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// number accepts 0 and digits without a leading zero, below 2^53.
func (r *reader) number() (value, bool) {
	v := value{kind: number, at: r.pos}
	begin := r.pos
	for r.pos < len(r.src) && strings.IndexByte("0123456789+-.eE", r.src[r.pos]) >= 0 {
		r.pos++
	}
	word := r.src[begin:r.pos]
	if !jsonNumber(word) {
		r.pos = begin
		return v, r.broken("%s is not a JSON number", short(word))
	}
	if strings.ContainsAny(word, "-.eE") {
		r.refuse(begin, "%s: numbers are whole, not negative, and written in digits only", word[:min(len(word), 40)])
		return value{at: begin}, true
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil || n > maxNumber {
		r.refuse(begin, "%s is too big; numbers are below 2^53 (%d)", word[:min(len(word), 40)], uint64(maxNumber)+1)
		return value{at: begin}, true
	}
	v.number = n
	return v, true
}

// jsonNumber is the grammar of RFC 8259.
func jsonNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	digits := func() bool {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		s = s[n:]
		return n > 0
	}
	if strings.HasPrefix(s, "0") {
		s = s[1:]
	} else if !digits() {
		return false
	}
	if strings.HasPrefix(s, ".") {
		if s = s[1:]; !digits() {
			return false
		}
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		s = s[1:]
		if s != "" && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		if !digits() {
			return false
		}
	}
	return s == ""
}

// text reads a string. A surrogate without its partner is reported.
func (r *reader) text() (string, bool) {
	begin := r.pos + 1
	for i := begin; i < len(r.src); i++ {
		switch c := r.src[i]; {
		case c == '"':
			r.pos = i + 1
			return r.src[begin:i], true
		case c == '\\':
			return r.escaped(begin, i)
		case c < 0x20:
			r.pos = i
			return "", r.broken("a line break or control character inside quotes; write \\n or \\u%04x", c)
		}
	}
	at := r.pos
	r.pos = len(r.src)
	return "", r.broken("the quote that opens at byte %d is never closed", at)
}

func (r *reader) escaped(begin, i int) (string, bool) {
	open := begin - 1
	b := append(make([]byte, 0, i-begin+32), r.src[begin:i]...)
	for i < len(r.src) {
		c := r.src[i]
		switch {
		case c == '"':
			r.pos = i + 1
			return string(b), true
		case c < 0x20:
			r.pos = i
			return "", r.broken("a line break or control character inside quotes; write \\n or \\u%04x", c)
		case c != '\\':
			b = append(b, c)
			i++
			continue
		}
		at := i
		if i+1 >= len(r.src) {
			break
		}
		esc := r.src[i+1]
		i += 2
		if k := strings.IndexByte(`"\/bfnrt`, esc); k >= 0 {
			b = append(b, "\"\\/\b\f\n\r\t"[k])
			continue
		}
		u, ok := hex4(r.src, i)
		if esc != 'u' || !ok {
			r.pos = at
			return "", r.broken("%s is not an escape of JSON", short(r.src[at:min(at+6, len(r.src))]))
		}
		i += 4
		if utf16.IsSurrogate(u) {
			low, ok := rune(0), false
			if strings.HasPrefix(r.src[i:], `\u`) {
				low, ok = hex4(r.src, i+2)
			}
			pair := utf16.DecodeRune(u, low)
			if !ok || pair == utf8.RuneError {
				r.refuse(at, "%s at byte %d is half a character (a lone surrogate); write the character itself", r.src[at:at+6], at)
				pair, i = '?', i-6
			}
			u, i = pair, i+6
		}
		b = utf8.AppendRune(b, u)
	}
	r.pos = len(r.src)
	return "", r.broken("the quote that opens at byte %d is never closed", open)
}

func hex4(s string, i int) (rune, bool) {
	if i+4 > len(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s[i:i+4], 16, 16)
	if err != nil || strings.ContainsAny(s[i:i+4], "+_") {
		return 0, false
	}
	return rune(n), true
}

// quote is s as JSON text.
func quote(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20:
			b = fmt.Appendf(b, "\\u%04x", c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
