package workload

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"zos.internal/identity"
)

// The tables and vectors of the reference come from the code.
func TestReferenceIsCurrent(t *testing.T) {
	const path = "../docs/reference/deployment.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := between(t, string(b), "fields", tables())
	text = between(t, text, "vectors", vectors(t))
	golden(t, path, []byte(text))
}

func between(t *testing.T, s, what, text string) string {
	t.Helper()
	begin, end := "<!-- begin "+what+" -->\n", "<!-- end "+what+" -->"
	before, rest, ok := strings.Cut(s, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("the reference has no marks for %s", what)
	}
	return before + begin + "\n" + text + "\n" + end + after
}

func tables() string {
	var b strings.Builder
	done := make(map[reflect.Type]bool)
	b.WriteString("### Document\n\n")
	fieldTable(&b, rules().document, done)
	for _, k := range kinds() {
		fmt.Fprintf(&b, "\n### Data of %s\n\n%s\n\n", k.Type, k.what)
		fieldTable(&b, rules().data[k.Type], done)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// fieldTable writes the table of an object, then those of objects inside it that
// were not shown before.
func fieldTable(b *strings.Builder, r *rule, done map[reflect.Type]bool) {
	b.WriteString("| field | value | |\n| --- | --- | --- |\n")
	type inner struct {
		name string
		r    *rule
	}
	var more []inner
	for _, f := range r.fields {
		what := []string{f.doc}
		switch {
		case f.draftOnly:
		case f.standard == "{}":
			what = append(what, "optional")
		case f.standard != "":
			what = append(what, "default "+f.standard)
		case f.optional:
			what = append(what, "optional")
		case f.draftMay:
			what = append(what, "may be absent in a draft")
		}
		if f.update != "" {
			what = append(what, "update: "+f.update)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", f.name, valueText(f.rule), strings.Join(what, "; "))
		e := f.rule
		for e.elem != nil {
			e = e.elem
		}
		if e.kind == object && !e.union && e.elem == nil && e.fields != nil && !done[base(e)] {
			done[base(e)] = true
			more = append(more, inner{f.name, e})
		}
	}
	for _, m := range more {
		fmt.Fprintf(b, "\n`%s`:\n\n", m.name)
		fieldTable(b, m.r, done)
	}
}

func base(r *rule) reflect.Type {
	if r.goType.Kind() == reflect.Pointer {
		return r.goType.Elem()
	}
	return r.goType
}

// valueText says what may stand in a place.
func valueText(r *rule) string {
	limits := func(unit string) string {
		if r.max == 0 {
			return ""
		}
		return fmt.Sprintf(" %s to %s%s", amount(r.min, r), amount(r.max, r), unit)
	}
	switch {
	case r.union:
		return "object, see the types below"
	case r.isMap:
		return "object," + limits(" keys") + "; keys `" + r.key.expr + "`; values: " + valueText(r.elem)
	case r.kind == object:
		return "object"
	case r.kind == list:
		s := "list," + limits(" entries")
		if r.unique {
			s += ", none twice"
		}
		if r.elem.kind == object {
			return s
		}
		return s + "; each " + valueText(r.elem)
	case r.kind == truth:
		return "true or false"
	case r.kind == number:
		s := strings.TrimSpace(limits(""))
		if r.zero {
			s = "0, or " + s
		}
		return s
	case r.enum != nil:
		return "`" + strings.Join(r.enum, "` `") + "`"
	case r.pattern != nil:
		return "text" + limits(" characters") + " `" + strings.ReplaceAll(r.pattern.expr, "|", `\|`) + "`"
	}
	return "text" + limits(" characters")
}

func amount(n uint64, r *rule) string {
	if r.unit == "bytes" {
		return strings.ReplaceAll(Size(n).String(), " ", " ")
	}
	return itoa(n)
}

func vectors(t *testing.T) string {
	key := identity.FromSeed([32]byte{})
	var b strings.Builder
	for _, src := range []string{
		`{"format":"zos/deployment/1","chain":"grid-1","twin_id":17,"contract_id":285212675,"node_id":42,"version":1,"workloads":[{"version":1,"name":"data","type":"volume","data":{"size":67108864}}]}`,
		`{"format":"zos/deployment/1","chain":"grid-1","twin_id":17,"contract_id":285212675,"node_id":42,"version":1,"workloads":[{"version":1,"name":"data","type":"volume","data":{"size":67108864}}]} `,
		`{"workloads":[{"data":{"nodes":[{"node":42,"index":3}]},"type":"network","name":"net","version":2}],"version":2,"contract_id":285212674,"twin_id":17,"chain":"grid-1","description":"netz \u00fc \ud83d\ude00 ü","format":"zos/deployment/1"}`,
	} {
		d := mustParse(t, src)
		sig, err := d.Sign(17, key, 0)
		if err != nil {
			t.Fatal(err)
		}
		env, err := d.Envelope(sig).Encode()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "    document  %s\n", strings.ReplaceAll(src, "} ", "}␠"))
		fmt.Fprintf(&b, "    H         %s\n    signing   %x\n    signature %x\n    SHA-256 of the envelope with that signature by twin 17\n              %s\n\n", d.Hash(), SigningBytes(d.Hash()), sig.Signature.Bytes, HashOf(env))
	}
	b.WriteString("␠ is a space at the end: another text, another hash.\n")
	return b.String()
}
