package workload

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of the text of a document.
const (
	MaxBytes  = 256 << 10 // of a document, JSON or YAML
	MaxDepth  = 16        // objects and lists inside each other
	maxNumber = 1<<53 - 1
)

type kind uint8

const (
	none kind = iota // a value that was refused and reported
	object
	list
	text
	number
	truth
)

func (k kind) String() string {
	return [...]string{"nothing", "an object", "a list", "text", "a number", "true or false"}[k]
}

// value is a JSON value with the place where it stands.
type value struct {
	kind    kind
	flag    bool
	at      int
	number  uint64
	text    string
	members []member
	items   []value
}

type member struct {
	name  string
	at    int
	value value
}

// step is one piece of a path.
type step struct {
	name  string
	index int // -1: name counts
}

func pathText(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		switch {
		case s.index >= 0:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case plainKey(s.name):
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.name)
		default:
			b.WriteString("[" + short(s.name) + "]")
		}
	}
	return b.String()
}

func plainKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || c == '-' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return s != "" && len(s) <= 60
}

// reader is the strict JSON reader. Broken syntax ends it; everything else
// that the format refuses is reported and reading goes on.
type reader struct {
	src   string
	pos   int
	steps []step
	rep   *report
	quiet map[int]bool
}

// readJSON reads the one object that src must be. ok is false when the syntax
// is broken; other refusals are only in rep, with a value of kind none in their
// place.
func readJSON(s source, rep *report) (value, bool) {
	src := s.text
	r := &reader{src: src, rep: rep, quiet: s.quiet}
	switch {
	case len(src) > MaxBytes:
		rep.add(0, "", "the document is too big: at most %d bytes are allowed", MaxBytes)
		return value{}, false
	case strings.HasPrefix(src, "\xef\xbb\xbf"):
		rep.add(0, "", "the text starts with a byte order mark; save it as UTF-8 without one")
		return value{}, false
	case !utf8.ValidString(src):
		rep.add(badUTF8(src), "", "this byte is not UTF-8; save the text as UTF-8")
		return value{}, false
	}
	r.space()
	if r.pos >= len(src) || src[r.pos] != '{' {
		return value{}, r.broken("a document is one JSON object that starts with {, but here is %s", r.found())
	}
	v, ok := r.value()
	if !ok {
		return v, false
	}
	if r.space(); r.pos < len(src) {
		return v, r.broken("nothing may follow the object, but here is %s", r.found())
	}
	return v, true
}

func badUTF8(s string) int {
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		if c == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return 0
}

func (r *reader) broken(format string, args ...any) bool {
	r.rep.add(r.pos, pathText(r.steps), format, args...)
	return false
}

// refuse reports a value that is JSON but not ours.
func (r *reader) refuse(at int, format string, args ...any) {
	r.rep.add(at, pathText(r.steps), format, args...)
}

func (r *reader) found() string {
	if r.pos >= len(r.src) {
		return "the end of the text"
	}
	c, _ := utf8.DecodeRuneInString(r.src[r.pos:])
	return strconv.QuoteRune(c)
}

func (r *reader) space() {
	for r.pos < len(r.src) {
		switch r.src[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

func (r *reader) value() (value, bool) {
	if r.pos >= len(r.src) {
		return value{}, r.broken("a value is missing: the text ends here")
	}
	v := value{at: r.pos}
	switch c := r.src[r.pos]; {
	case c == '{' || c == '[':
		if len(r.steps) >= MaxDepth {
			return v, r.broken("objects and lists are nested more than %d deep", MaxDepth)
		}
		if c == '{' {
			return r.object()
		}
		return r.list()
	case c == '"':
		s, ok := r.text()
		v.kind, v.text = text, s
		return v, ok
	case c == '-' || c >= '0' && c <= '9':
		return r.number()
	}
	for _, w := range [...]string{"true", "false", "null"} {
		if !strings.HasPrefix(r.src[r.pos:], w) {
			continue
		}
		r.pos += len(w)
		if w == "null" {
			if r.quiet[v.at] {
				return v, true
			}
			r.refuse(v.at, "null is not a value here; leave the key out")
			return v, true
		}
		v.kind, v.flag = truth, w == "true"
		return v, true
	}
	return v, r.broken("a value is missing: here is %s", r.found())
}

func (r *reader) object() (value, bool) {
	v := value{kind: object, at: r.pos}
	r.pos++
	var seen map[string]bool
	r.steps = append(r.steps, step{index: -1})
	defer func() { r.steps = r.steps[:len(r.steps)-1] }()
	for {
		r.space()
		if r.pos < len(r.src) && r.src[r.pos] == '}' && len(v.members) == 0 {
			r.pos++
			return v, true
		}
		if r.pos >= len(r.src) || r.src[r.pos] != '"' {
			r.steps = r.steps[:len(r.steps)-1]
			defer func() { r.steps = append(r.steps, step{}) }()
			return v, r.broken("a key in quotes is missing: here is %s", r.found())
		}
		m := member{at: r.pos}
		var ok bool
		r.steps[len(r.steps)-1].name = ""
		if m.name, ok = r.text(); !ok {
			return v, false
		}
		r.steps[len(r.steps)-1].name = m.name
		if r.space(); r.pos >= len(r.src) || r.src[r.pos] != ':' {
			return v, r.broken("the colon after the key %s is missing: here is %s", short(m.name), r.found())
		}
		r.pos++
		r.space()
		if m.value, ok = r.value(); !ok {
			return v, false
		}
		if twice(v.members, m.name, &seen) {
			r.refuse(m.at, "duplicate key %s at byte %d", short(m.name), m.at)
		}
		v.members = append(v.members, m)
		r.space()
		switch {
		case r.pos < len(r.src) && r.src[r.pos] == ',':
			r.pos++
		case r.pos < len(r.src) && r.src[r.pos] == '}':
			r.pos++
			return v, true
		default:
			return v, r.broken("a comma or } is missing: here is %s", r.found())
		}
	}
}

// twice says if name is already a member. Big objects get a set, so that many
// keys stay cheap.
func twice(ms []member, name string, seen *map[string]bool) bool {
	if len(ms) < 16 {
		for _, m := range ms {
			if m.name == name {
				return true
			}
		}
		return false
	}
	if *seen == nil {
		*seen = make(map[string]bool, 2*len(ms))
		for _, m := range ms {
			(*seen)[m.name] = true
		}
	}
	was := (*seen)[name]
	(*seen)[name] = true
	return was
}

func (r *reader) list() (value, bool) {
	v := value{kind: list, at: r.pos}
	r.pos++
	r.steps = append(r.steps, step{})
	defer func() { r.steps = r.steps[:len(r.steps)-1] }()
	for {
		r.space()
		if r.pos < len(r.src) && r.src[r.pos] == ']' && len(v.items) == 0 {
			r.pos++
			return v, true
		}
		r.steps[len(r.steps)-1].index = len(v.items)
		item, ok := r.value()
		if !ok {
			return v, false
		}
		v.items = append(v.items, item)
		r.space()
		switch {
		case r.pos < len(r.src) && r.src[r.pos] == ',':
			r.pos++
		case r.pos < len(r.src) && r.src[r.pos] == ']':
			r.pos++
			return v, true
		default:
			return v, r.broken("a comma or ] is missing: here is %s", r.found())
		}
	}
}

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
