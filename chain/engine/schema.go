package engine

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// schemas makes JSON Schemas of the Go types that are answered.
type schemas struct{ defs map[string]any }

func newSchemas() *schemas { return &schemas{make(map[string]any)} }

// of is the schema of a value's type: a reference for a struct.
func (s *schemas) of(v any) map[string]any { return s.typ(reflect.TypeOf(v)) }

func (s *schemas) typ(t reflect.Type) map[string]any {
	type object = map[string]any
	if t.Kind() == reflect.Pointer {
		return s.typ(t.Elem())
	}
	p := reflect.PointerTo(t)
	switch {
	case t.Implements(reflect.TypeFor[json.Marshaler]()) || p.Implements(reflect.TypeFor[json.Marshaler]()):
		return object{"type": "object"}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": s.typ(t.Elem())}
	case reflect.Map:
		return object{"type": "object"}
	case reflect.Struct:
		name := name(t)
		if _, ok := s.defs[name]; !ok {
			s.defs[name] = object{} // a type may contain itself
			s.defs[name] = s.fields(t)
		}
		return object{"$ref": "#/components/schemas/" + name}
	}
	return object{"type": "integer"}
}

// name is a type's name; that of a page is its item's with Page.
func name(t reflect.Type) string {
	n, arg, ok := strings.Cut(t.Name(), "[")
	if !ok {
		return strings.ToUpper(n[:1]) + n[1:]
	}
	arg = strings.TrimSuffix(arg[strings.LastIndexAny(arg, "./")+1:], "]")
	return strings.ToUpper(arg[:1]) + arg[1:] + n
}

func (s *schemas) fields(t reflect.Type) map[string]any {
	properties := make(map[string]any)
	var required []string
	s.collect(t, properties, &required)
	out := map[string]any{"type": "object", "properties": properties}
	if required != nil {
		out["required"] = required
	}
	return out
}

func (s *schemas) collect(t reflect.Type, properties map[string]any, required *[]string) {
	for f := range fieldsOf(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			s.collect(f.Type, properties, required)
			continue
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		properties[tag] = s.typ(f.Type)
		if !strings.Contains(options, "omitempty") {
			*required = append(*required, tag)
		}
	}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
