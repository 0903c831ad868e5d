package workload

import (
	"strconv"
	"strings"
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

	// Members and items of the objects and lists that are open, so that each gets
	// one slice of the right length when it closes.
	members []member
	items   []value
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
	begin := len(r.members)
	defer func() { r.members = r.members[:begin] }()
	r.steps = append(r.steps, step{index: -1})
	defer func() { r.steps = r.steps[:len(r.steps)-1] }()
	for {
		r.space()
		if r.pos < len(r.src) && r.src[r.pos] == '}' && len(r.members) == begin {
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
		if twice(r.members[begin:], m.name, &seen) {
			r.refuse(m.at, "duplicate key %s at byte %d", short(m.name), m.at)
		}
		r.members = append(r.members, m)
		r.space()
		switch {
		case r.pos < len(r.src) && r.src[r.pos] == ',':
			r.pos++
		case r.pos < len(r.src) && r.src[r.pos] == '}':
			r.pos++
			v.members = append(make([]member, 0, len(r.members)-begin), r.members[begin:]...)
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
	begin := len(r.items)
	defer func() { r.items = r.items[:begin] }()
	r.steps = append(r.steps, step{})
	defer func() { r.steps = r.steps[:len(r.steps)-1] }()
	for {
		r.space()
		if r.pos < len(r.src) && r.src[r.pos] == ']' && len(r.items) == begin {
			r.pos++
			return v, true
		}
		r.steps[len(r.steps)-1].index = len(r.items) - begin
		item, ok := r.value()
		if !ok {
			return v, false
		}
		r.items = append(r.items, item)
		r.space()
		switch {
		case r.pos < len(r.src) && r.src[r.pos] == ',':
			r.pos++
		case r.pos < len(r.src) && r.src[r.pos] == ']':
			r.pos++
			v.items = append(make([]value, 0, len(r.items)-begin), r.items[begin:]...)
			return v, true
		default:
			return v, r.broken("a comma or ] is missing: here is %s", r.found())
		}
	}
}
