package workload

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// binder checks a JSON value against its rule and fills the Go value.
type binder struct {
	rep   *report
	draft bool
	steps []step
}

func (b *binder) push(name string, index int) { b.steps = append(b.steps, step{name, index}) }
func (b *binder) pop()                        { b.steps = b.steps[:len(b.steps)-1] }

func (b *binder) bad(at int, format string, args ...any) {
	b.rep.add(at, pathText(b.steps), format, args...)
}

// bind fills to, which is addressable and zero, from v.
func (b *binder) bind(r *rule, v *value, to reflect.Value) {
	if v.kind == none {
		return // reported when it was read
	}
	if v.kind != r.kind {
		b.wrongKind(r, v)
		return
	}
	if to.Kind() == reflect.Pointer {
		to.Set(reflect.New(to.Type().Elem()))
		to = to.Elem()
	}
	switch {
	case r.isMap:
		b.bindMap(r, v, to)
	case r.kind == object:
		b.bindObject(r, v, to)
	case r.kind == list:
		b.bindList(r, v, to)
	case r.kind == text:
		if b.text(r, v) {
			to.SetString(v.text)
		}
	case r.kind == number:
		if b.number(r, v) {
			to.SetUint(v.number)
		}
	case r.kind == truth:
		to.SetBool(v.flag)
	}
}

func (b *binder) wrongKind(r *rule, v *value) {
	switch {
	case r.kind == text && (v.kind == number || v.kind == truth):
		b.bad(v.at, "must be text; put it in quotes")
	case r.kind == number && v.kind == text && r.unit != "":
		b.bad(v.at, "%s must be a number, as digits without quotes; units are for YAML only", short(v.text))
	case r.kind == number && v.kind == text:
		b.bad(v.at, "%s must be a number, as digits without quotes", short(v.text))
	case v.kind == text:
		b.bad(v.at, "must be %v, not the text %s", r.kind, short(v.text))
	default:
		b.bad(v.at, "must be %v, not %v", r.kind, v.kind)
	}
}

func (b *binder) bindObject(r *rule, v *value, to reflect.Value) {
	var few [24]bool
	seen := few[:]
	if len(r.fields) > len(seen) {
		seen = make([]bool, len(r.fields))
	}
	var data *value
	for i := range v.members {
		m := &v.members[i]
		n, known := r.index[m.name]
		b.push(m.name, -1)
		switch {
		case !known:
			b.unknown(r, m)
		case seen[n]: // a duplicate, reported when it was read
		case r.fields[n].draftOnly && !b.draft:
			seen[n] = true
			b.bad(m.at, "only a draft may hold this; `zos apply` replaces it by what it stands for")
		default:
			seen[n] = true
			if r.fields[n].rule.union {
				data = &m.value
			} else {
				b.bind(r.fields[n].rule, &m.value, to.Field(r.fields[n].at))
			}
		}
		b.pop()
	}
	for n := range r.fields {
		f := &r.fields[n]
		switch {
		case seen[n]:
		case f.standard != "":
			setStandard(f.rule, to.Field(f.at), f.standard)
		case !f.optional && !(f.draftMay && b.draft):
			b.bad(v.at, "%s is missing", f.name)
		}
	}
	if data != nil {
		b.bindData(r, v, data, to)
	}
}

func (b *binder) unknown(r *rule, m *member) {
	if k := nearest(m.name, r.names); k != "" {
		b.bad(m.at, "unknown key %s; did you mean %q?", short(m.name), k)
		return
	}
	b.bad(m.at, "unknown key %s; known here: %s", short(m.name), strings.Join(r.names, ", "))
}

// bindData fills the data of a workload, whose rule depends on its type.
func (b *binder) bindData(r *rule, v, data *value, to reflect.Value) {
	w, ok := to.Addr().Interface().(*Workload)
	if !ok || w.Type == "" {
		return // the type is missing or wrong, and reported
	}
	dr := rules().data[w.Type]
	d := reflect.New(dr.goType)
	b.push("data", -1)
	b.bind(dr, data, d.Elem())
	b.pop()
	w.Data = d.Interface().(Data)
}

func (b *binder) bindMap(r *rule, v *value, to reflect.Value) {
	b.count(r, v.at, len(v.members), "keys")
	if len(v.members) == 0 {
		return
	}
	m := reflect.MakeMapWithSize(to.Type(), len(v.members))
	for i := range v.members {
		e := &v.members[i]
		b.push(e.name, -1)
		if r.key != nil && !r.key.match(e.name) {
			b.bad(e.at, "the key %s must be %s", short(e.name), r.key.hint)
		} else if key := reflect.ValueOf(e.name); !m.MapIndex(key).IsValid() {
			x := reflect.New(to.Type().Elem()).Elem()
			b.bind(r.elem, &e.value, x)
			m.SetMapIndex(key, x)
		}
		b.pop()
	}
	to.Set(m)
}

func (b *binder) bindList(r *rule, v *value, to reflect.Value) {
	if !b.count(r, v.at, len(v.items), "entries") || len(v.items) == 0 {
		return
	}
	s := reflect.MakeSlice(to.Type(), len(v.items), len(v.items))
	for i := range v.items {
		b.push("", i)
		b.bind(r.elem, &v.items[i], s.Index(i))
		b.pop()
	}
	if r.unique {
		b.distinct(v)
	}
	to.Set(s)
}

// distinct reports entries that stand twice in a list of texts or numbers.
func (b *binder) distinct(v *value) {
	seen := make(map[string]bool, len(v.items))
	for i := range v.items {
		key := v.items[i].text
		if v.items[i].kind == number {
			key = strconv.FormatUint(v.items[i].number, 10)
		}
		if v.items[i].kind != none && seen[key] {
			b.push("", i)
			b.bad(v.items[i].at, "%s stands twice in this list", short(key))
			b.pop()
		}
		seen[key] = true
	}
}

func (b *binder) count(r *rule, at, n int, what string) bool {
	if r.max > 0 && (uint64(n) < r.min || uint64(n) > r.max) {
		b.bad(at, "has %d %s; %d to %d are allowed", n, what, r.min, r.max)
		return false
	}
	return true
}

func (b *binder) text(r *rule, v *value) bool {
	s := v.text
	switch {
	case r.enum != nil && !contains(r.enum, s):
		if k := nearest(s, r.enum); k != "" {
			b.bad(v.at, "%s is not known here; did you mean %q?", short(s), k)
		} else {
			b.bad(v.at, "%s is not known here; use %s", short(s), strings.Join(r.enum, ", "))
		}
		return false
	case r.max > 0 && (uint64(len(s)) < r.min || uint64(len(s)) > r.max):
		if n := uint64(utf8.RuneCountInString(s)); n < r.min || n > r.max {
			b.bad(v.at, "has %d characters; %d to %d are allowed", n, r.min, r.max)
			return false
		}
	}
	if r.pattern != nil && !r.pattern.match(s) {
		b.bad(v.at, "%s must be %s", short(s), r.pattern.hint)
		return false
	}
	return true
}

func (b *binder) number(r *rule, v *value) bool {
	n := v.number
	if r.max == 0 || n >= r.min && n <= r.max || r.zero && n == 0 {
		return true
	}
	zero := ""
	if r.zero {
		zero = "0 or "
	}
	switch {
	case n < r.min && r.unit == "bytes":
		b.bad(v.at, "%d is too small; %sat least %d (%s) is needed", n, zero, r.min, Size(r.min))
	case n < r.min:
		b.bad(v.at, "%d is too small; %sat least %d is needed", n, zero, r.min)
	case r.unit == "bytes":
		b.bad(v.at, "%d is too big; at most %d (%s) is allowed", n, r.max, Size(r.max))
	default:
		b.bad(v.at, "%d is too big; at most %d is allowed", n, r.max)
	}
	return false
}

// setStandard sets the default of a field; {} is an object with its defaults.
func setStandard(r *rule, to reflect.Value, s string) {
	switch to.Kind() {
	case reflect.Pointer:
		to.Set(reflect.New(to.Type().Elem()))
		for i := range r.fields {
			if f := &r.fields[i]; f.standard != "" {
				setStandard(f.rule, to.Elem().Field(f.at), f.standard)
			}
		}
	case reflect.String:
		to.SetString(s)
	case reflect.Bool:
		to.SetBool(s == "true")
	default:
		to.SetUint(quantity(s))
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
