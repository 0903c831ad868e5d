package workload

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// rule is what one place in a document may hold. It is made once from the Go
// types and their tags; reading, the JSON Schema and the tables of the
// reference all come from it, so they can't say different things.
//
// Tags of a field:
//
//	json   the name
//	rule   "?" optional · "draft?" may be absent in a draft · "draft!" only in a
//	       draft · "A..B" limits of a number, of the characters of a text, of the
//	       entries of a list or map · "0|A..B" zero too · enum=a,b · is=PATTERN ·
//	       default=V · unit=bytes|cpu · unique · each:… the same for entries ·
//	       key:is=PATTERN for the keys of a map
//	update place, grow, replace, never: what a change of the field means
//	doc    one line for people
type rule struct {
	kind     kind
	goType   reflect.Type
	fields   []fieldRule
	index    map[string]int
	names    []string
	elem     *rule // of a list or map
	key      *pattern
	isMap    bool
	min, max uint64 // max 0: no limits
	zero     bool   // 0 is allowed beside min..max
	enum     []string
	pattern  *pattern
	unit     string
	unique   bool
	union    bool // data of a workload
}

type fieldRule struct {
	name      string
	at        int // index of the Go field
	optional  bool
	draftMay  bool // may be absent in a draft
	draftOnly bool
	standard  string // default
	update    string
	doc       string
	rule      *rule
}

// pattern is a form of text.
type pattern struct {
	name string
	expr string
	hint string            // "must be …"
	fast func(string) bool // the same as expr, where that is worth it
	re   *regexp.Regexp
}

// match says if s has the form of p.
func (p *pattern) match(s string) bool {
	if p.fast != nil {
		return p.fast(s)
	}
	return p.re.MatchString(s)
}

// all says if every byte of s passes.
func all(s string, pass func(c byte) bool) bool {
	for i := range len(s) {
		if !pass(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func word(c byte) bool { return lower(c) || c >= 'A' && c <= 'Z' || c == '_' }

func isName(s string) bool {
	return s != "" && len(s) <= 36 && lower(s[0]) && lower(s[len(s)-1]) && all(s, func(c byte) bool { return lower(c) || c == '-' })
}

func isHash(s string) bool {
	return len(s) == 64 && all(s, func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' })
}

func isFlist(s string) bool {
	return s != "" && len(s) <= 255 && word(s[0]) && s[0] != '_' && all(s, func(c byte) bool { return word(c) || strings.IndexByte(".:/@-", c) >= 0 })
}

func isVariable(s string) bool {
	return s != "" && len(s) <= 128 && word(s[0]) && !(s[0] >= '0' && s[0] <= '9') && all(s, func(c byte) bool { return word(c) || c == '.' || c == '-' })
}

func noNUL(s string) bool { return strings.IndexByte(s, 0) < 0 }

func isPath(s string) bool { return strings.HasPrefix(s, "/") && !strings.ContainsAny(s, "\x00\r\n") }

func patterns() []*pattern {
	const label = `[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?`
	return []*pattern{
		{name: "name", expr: `^[a-z0-9](?:[a-z0-9-]{0,34}[a-z0-9])?$`, hint: "1 to 36 of a-z, 0-9 and -, not starting or ending with -", fast: isName},
		{name: "chain", expr: `^[a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?$`, hint: "the name of a chain: 1 to 50 of a-z, 0-9 and -"},
		{name: "hash", expr: `^[0-9a-f]{64}$`, hint: "64 lower-case hexadecimal digits", fast: isHash},
		{name: "flist", expr: `^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$`, hint: "a name of an image such as hub.example/acme/web:1", fast: isFlist},
		{name: "sealed", expr: `^[A-Za-z0-9_-]+$`, hint: "base64url without padding"},
		{name: "variable", expr: `^[A-Za-z_][A-Za-z0-9_.-]{0,127}$`, hint: "a letter or _, then letters, digits, _, . and -", fast: isVariable},
		{name: "line", expr: `^[^\x00\r\n]*$`, hint: "one line without NUL"},
		{name: "nonul", expr: `^[^\x00]*$`, hint: "text without NUL", fast: noNUL},
		{name: "path", expr: `^/[^\x00\r\n]*$`, hint: "an absolute path", fast: isPath},
		{name: "user", expr: `^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?$`, hint: "a user, or user:group, by name or number"},
		{name: "gpu", expr: `^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]/[0-9a-f]{4}/[0-9a-f]{4}$`, hint: "slot/vendor/device such as 0000:28:00.0/1002/731f"},
		{name: "address", expr: `^[0-9a-f.:]{2,39}$`, hint: "an IPv4 or lower-case IPv6 address"},
		{name: "range4", expr: `^10\.[0-9]{1,3}\.0\.0/16$`, hint: "a /16 inside 10.0.0.0/8 such as 10.7.0.0/16"},
		{name: "endpoint", expr: `^(?:[0-9.]{7,15}|\[[0-9a-f:.]{2,39}\]):[0-9]{1,5}$`, hint: "an address and port such as [fd5a::1]:9900 or 10.7.3.5:9900"},
		{name: "namespace", expr: `^[^/\x00\r\n]+$`, hint: "the name of a zdb namespace, without /"},
		{name: "port", expr: `^(?:tcp|udp)/[1-9][0-9]{0,4}$`, hint: "tcp/PORT or udp/PORT"},
		{name: "label", expr: `^[a-z0-9](?:[a-z0-9-]{1,61}[a-z0-9])$`, hint: "a DNS label of 3 to 63 of a-z, 0-9 and -"},
		{name: "fqdn", expr: `^(?:` + label + `\.)+` + label + `$`, hint: "a domain name in lower case such as shop.example.org"},
		{name: "output", expr: `^(?:wss|ws|redis)://[^\s\x00]+$`, hint: "a URL that starts with wss://, ws:// or redis://"},
		{name: "x25519", expr: `^[A-Za-z0-9+/]{43}=$`, hint: "a WireGuard public key: 44 characters of base64"},
		{name: "format", expr: `^zos/deployment/1$`, hint: `"zos/deployment/1"`},
	}
}

// ruleSet is the rules of a document and of the data of each type of workload.
type ruleSet struct {
	document *rule
	data     map[Type]*rule
}

// rules are made when they are first needed.
var rules = sync.OnceValue(func() ruleSet {
	b := &builder{known: make(map[string]*pattern), objects: make(map[reflect.Type]*rule)}
	for _, p := range patterns() {
		p.re = regexp.MustCompile(p.expr)
		b.known[p.name] = p
	}
	set := ruleSet{b.of(reflect.TypeFor[Document](), nil), make(map[Type]*rule)}
	for _, k := range kinds() {
		set.data[k.Type] = b.of(reflect.TypeOf(k.data).Elem(), nil)
	}
	return set
})

type builder struct {
	known   map[string]*pattern
	objects map[reflect.Type]*rule
}

// of makes the rule of a Go type with the words of its tag. A wrong tag is a
// bug and panics at the first use, in every test.
func (b *builder) of(t reflect.Type, words []string) *rule {
	r := &rule{goType: t}
	switch t.Kind() {
	case reflect.Pointer:
		inner := b.of(t.Elem(), words)
		cp := *inner
		cp.goType = t
		return &cp
	case reflect.Interface:
		r.kind, r.union = object, true
	case reflect.Struct:
		if known := b.objects[t]; known != nil {
			return known
		}
		r.kind = object
		b.objects[t] = r
		b.fields(r, t)
	case reflect.Slice, reflect.Map:
		r.kind, r.isMap = list, t.Kind() == reflect.Map
		if r.isMap {
			r.kind = object
		}
		var inner, key []string
		var own []string
		for _, w := range words {
			if rest, ok := strings.CutPrefix(w, "each:"); ok {
				inner = append(inner, rest)
			} else if rest, ok := strings.CutPrefix(w, "key:is="); ok {
				key = append(key, rest)
			} else {
				own = append(own, w)
			}
		}
		if len(key) > 0 {
			r.key = b.known[key[0]]
		}
		r.elem = b.of(t.Elem(), inner)
		b.words(r, own)
		return r
	case reflect.String:
		r.kind = text
	case reflect.Bool:
		r.kind = truth
	case reflect.Uint32, reflect.Uint64:
		r.kind = number
	default:
		panic(fmt.Sprintf("workload: no rule for %v", t))
	}
	b.words(r, words)
	return r
}

func (b *builder) fields(r *rule, t reflect.Type) {
	r.index = make(map[string]int)
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("json")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		fr := fieldRule{name: name, at: i, update: f.Tag.Get("update"), doc: f.Tag.Get("doc")}
		var words []string
		for _, w := range strings.Fields(f.Tag.Get("rule")) {
			switch {
			case w == "?":
				fr.optional = true
			case w == "draft?":
				fr.draftMay = true
			case w == "draft!":
				fr.optional, fr.draftOnly = true, true
			case strings.HasPrefix(w, "default="):
				fr.optional, fr.standard = true, strings.TrimPrefix(w, "default=")
			default:
				words = append(words, w)
			}
		}
		fr.rule = b.of(f.Type, words)
		r.index[name] = len(r.fields)
		r.fields = append(r.fields, fr)
		r.names = append(r.names, name)
	}
}

func (b *builder) words(r *rule, words []string) {
	for _, w := range words {
		switch {
		case w == "unique":
			r.unique = true
		case strings.HasPrefix(w, "enum="):
			r.enum = strings.Split(w[5:], ",")
		case strings.HasPrefix(w, "is="):
			if r.pattern = b.known[w[3:]]; r.pattern == nil {
				panic("workload: unknown pattern " + w)
			}
		case strings.HasPrefix(w, "unit="):
			r.unit = w[5:]
		case strings.Contains(w, ".."):
			w, r.zero = strings.CutPrefix(w, "0|")
			least, most, _ := strings.Cut(w, "..")
			r.min, r.max = quantity(least), quantity(most)
			if r.max == 0 || r.max < r.min {
				panic("workload: limits " + w)
			}
		default:
			panic("workload: unknown word in a rule: " + w)
		}
	}
}

// quantity reads the numbers of tags: 7, 64KiB, 10TiB, 2^28-1.
func quantity(s string) uint64 {
	if bits, ok := strings.CutPrefix(s, "2^"); ok {
		bits, minus := strings.CutSuffix(bits, "-1")
		n, err := strconv.Atoi(bits)
		if err != nil {
			panic("workload: limit " + s)
		}
		if minus {
			return 1<<n - 1
		}
		return 1 << n
	}
	digits := strings.TrimRight(s, "KMGTiB")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		panic("workload: limit " + s)
	}
	switch s[len(digits):] {
	case "":
		return n
	case "KiB":
		return n << 10
	case "MiB":
		return n << 20
	case "GiB":
		return n << 30
	case "TiB":
		return n << 40
	}
	panic("workload: limit " + s)
}
