package workload

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// Schema is the JSON Schema (2020-12) of a document, made from the same rules
// that Parse checks. The one for drafts also takes the spellings of YAML: sizes
// with units and cpu. What a schema can't say is checked by Parse alone: that
// names are known, addresses distinct, sums small enough.
func Schema(mode Mode) []byte {
	s := &schemer{draft: mode == Draft}
	root := s.rule(rules().document)
	title := "Deployment"
	if s.draft {
		title = "Deployment, draft"
	}
	out := ordered{{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"$id", "urn:zos:deployment:1" + map[bool]string{true: ":draft"}[s.draft]}, {"title", title}}
	out = append(out, root...)
	b, err := json.Marshal(out)
	if err != nil {
		panic("workload: schema: " + err.Error())
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, b, "", "  "); err != nil {
		panic("workload: schema: " + err.Error())
	}
	pretty.WriteByte('\n')
	return pretty.Bytes()
}

// ordered is a JSON object that keeps its order.
type ordered []entry

type entry struct {
	key   string
	value any
}

func (o ordered) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, e := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(quote(b, e.key), ':')
		v, err := marshal(e.value)
		if err != nil {
			return nil, err
		}
		b = append(b, v...)
	}
	return append(b, '}'), nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

type schemer struct {
	draft bool
}

func (s *schemer) rule(r *rule) ordered {
	switch {
	case r.union:
		return ordered{{"type", "object"}}
	case r.isMap:
		o := ordered{{"type", "object"}}
		if r.max > 0 {
			o = append(o, entry{"minProperties", r.min}, entry{"maxProperties", r.max})
		}
		if r.key != nil {
			o = append(o, entry{"propertyNames", ordered{{"pattern", r.key.expr}}})
		}
		return append(o, entry{"additionalProperties", s.rule(r.elem)})
	case r.kind == object:
		return s.object(r)
	case r.kind == list:
		o := ordered{{"type", "array"}, {"items", s.rule(r.elem)}}
		if r.max > 0 {
			o = append(o, entry{"minItems", r.min}, entry{"maxItems", r.max})
		}
		if r.unique {
			o = append(o, entry{"uniqueItems", true})
		}
		return o
	case r.kind == truth:
		return ordered{{"type", "boolean"}}
	case r.kind == number:
		return s.number(r)
	}
	o := ordered{{"type", "string"}}
	if r.enum != nil {
		o = append(o, entry{"enum", r.enum})
	}
	if r.max > 0 {
		o = append(o, entry{"minLength", r.min}, entry{"maxLength", r.max})
	}
	if r.pattern != nil {
		o = append(o, entry{"pattern", r.pattern.expr})
	}
	return o
}

// sizePattern is how sizes are written in YAML.
const sizePattern = `^[0-9]+(?:\.[0-9]{1,6})? ?(?:[Bb]|[KkMmGgTt](?:[Ii][Bb]?)?)?$`

func (s *schemer) number(r *rule) ordered {
	most := r.max
	if most == 0 {
		most = maxNumber
	}
	n := ordered{{"type", "integer"}, {"minimum", r.min}, {"maximum", most}}
	if r.zero {
		n = ordered{{"anyOf", []any{ordered{{"const", 0}}, n}}}
	}
	if s.draft && r.unit == "bytes" {
		return ordered{{"anyOf", []any{n, ordered{{"type", "string"}, {"pattern", sizePattern}}}}}
	}
	return n
}

func (s *schemer) object(r *rule) ordered {
	props, required := ordered{}, []string{}
	var either []any
	for i := range r.fields {
		f := &r.fields[i]
		if f.draftOnly && !s.draft {
			continue
		}
		o := s.rule(f.rule)
		if f.doc != "" {
			o = append(ordered{{"description", f.doc}}, o...)
		}
		switch {
		case f.standard == "" || f.standard == "{}":
		case f.rule.kind == number:
			o = append(o, entry{"default", quantity(f.standard)})
		case f.rule.kind == truth:
			o = append(o, entry{"default", f.standard == "true"})
		default:
			o = append(o, entry{"default", f.standard})
		}
		props = append(props, entry{f.name, o})
		if s.draft && f.rule.unit == "cpu" {
			props = append(props, entry{"cpu", ordered{{"description", "processors, 2 or 1.5; instead of " + f.name}, {"type", "number"}, {"minimum", float64(f.rule.min) / 1000}, {"maximum", float64(f.rule.max) / 1000}}})
			either = []any{ordered{{"required", []string{f.name}}}, ordered{{"required", []string{"cpu"}}}}
			continue
		}
		if !f.optional && !(f.draftMay && s.draft) {
			required = append(required, f.name)
		}
	}
	o := ordered{{"type", "object"}, {"properties", props}, {"required", required}, {"additionalProperties", false}}
	if either != nil {
		o = append(o, entry{"oneOf", either})
	}
	if r.goType == reflect.TypeFor[Workload]() {
		o = append(o, entry{"allOf", s.types()})
	}
	return o
}

// types says that data has the fields of the type.
func (s *schemer) types() []any {
	var all []any
	for _, k := range kinds() {
		all = append(all, ordered{
			{"if", ordered{{"properties", ordered{{"type", ordered{{"const", string(k.Type)}}}}}, {"required", []string{"type"}}}},
			{"then", ordered{{"properties", ordered{{"data", s.rule(rules().data[k.Type])}}}}},
		})
	}
	return all
}
