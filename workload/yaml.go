package workload

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// mark says where in the YAML something stands that is at an offset of the JSON.
type mark struct{ at, line, column int }

// converter turns YAML nodes into JSON text. It reads a strict part of YAML:
// what different versions of YAML read differently must be in quotes, and there
// are no anchors, aliases, merges or tags, so nothing grows.
//
// A value that is refused becomes null in the text, at an offset in quiet, so
// that the rest of the document can still be checked.
type converter struct {
	out   []byte
	marks []mark
	steps []step
	rep   *report
	odd   *regexp.Regexp
	quiet map[int]bool
}

// odd matches plain words that are not text to some YAML reader: numbers in
// other spellings, dates, and the many words for true and false.
const oddExpr = `(?i)^(?:[-+]?(?:0x[0-9a-f_]+|0[ob]?[0-9_]+|[0-9][0-9_,]*(?:\.[0-9_]*)?(?:e[-+]?[0-9]+)?|\.[0-9][0-9_]*(?:e[-+]?[0-9]+)?|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|\.inf)|\.nan` +
	`|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[t\s].*)?|y|n|yes|no|on|off|true|false|null|~|=|<<)$`

// source is a JSON text with the way back to what a person wrote.
type source struct {
	text  string
	place placer
	rep   *report      // what is wrong with the spelling
	quiet map[int]bool // offsets of nulls that stand for something in rep
}

// convertYAML turns YAML into JSON. The error is for text that is no YAML; what
// our part of YAML refuses is in the report of the source.
func convertYAML(src []byte) (source, error) {
	text := string(src)
	rep := new(report)
	place := inText(text)
	switch {
	case len(text) > MaxBytes:
		rep.add(0, "", "the document is too big: at most %d bytes are allowed", MaxBytes)
	case strings.HasPrefix(text, "\xef\xbb\xbf"):
		rep.add(0, "", "the text starts with a byte order mark; save it as UTF-8 without one")
	case !utf8.ValidString(text):
		rep.add(badUTF8(text), "", "this byte is not UTF-8; save the text as UTF-8")
	}
	if err := rep.err(place); err != nil {
		return source{}, err
	}
	root, err := parseYAML(text)
	if err != nil {
		line, what := yamlLine(err)
		rep.add(lineStart(text, line), "", "%s", what)
		return source{}, rep.err(place)
	}
	c := &converter{rep: rep, odd: regexp.MustCompile(oddExpr), quiet: make(map[int]bool)}
	c.value(root, rules().document)
	return source{string(c.out), func(at int) (int, int, int) { return placeYAML(text, c.marks, at) }, rep, c.quiet}, nil
}

// parseYAML reads exactly one document.
func parseYAML(text string) (root *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil { // a bug of the library is bad input to us
			root, err = nil, fmt.Errorf("the text cannot be read as YAML (%v)", p)
		}
	}()
	dec := yaml.NewDecoder(strings.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the text is empty; zos init writes a document to start from")
		}
		return nil, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, errors.New("the text has no document")
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		if err == nil {
			return nil, fmt.Errorf("yaml: line %d: a second document; one file holds one document", max(more.Line, 1))
		}
		return nil, err
	}
	return doc.Content[0], nil
}

// yamlLine takes the line out of an error of the library.
func yamlLine(err error) (int, string) {
	what := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(what, "line "); ok {
		n, msg, _ := strings.Cut(rest, ": ")
		if line, err := strconv.Atoi(n); err == nil {
			return line, "not YAML: " + msg
		}
	}
	return 1, what
}

func lineStart(text string, line int) int {
	at := 0
	for ; line > 1; line-- {
		n := strings.IndexByte(text[at:], '\n')
		if n < 0 {
			break
		}
		at += n + 1
	}
	return at
}

// placeYAML finds the mark of an offset into the JSON.
func placeYAML(text string, marks []mark, at int) (offset, line, column int) {
	i := sort.Search(len(marks), func(i int) bool { return marks[i].at > at }) - 1
	if i < 0 {
		return 0, 1, 1
	}
	m := marks[i]
	offset = lineStart(text, m.line)
	for n := 1; n < m.column && offset < len(text); n++ {
		_, size := utf8.DecodeRuneInString(text[offset:])
		offset += size
	}
	return offset, m.line, m.column
}

func (c *converter) mark(n *yaml.Node) {
	c.marks = append(c.marks, mark{len(c.out), n.Line, n.Column})
}

// refuse is bad for a value: null takes its place.
func (c *converter) refuse(format string, args ...any) {
	c.bad(format, args...)
	c.quiet[len(c.out)] = true
	c.out = append(c.out, "null"...)
}

func (c *converter) bad(format string, args ...any) {
	c.rep.add(len(c.out), pathText(c.steps), format, args...)
}

// value writes a node. r is the rule of its place, nil if unknown.
func (c *converter) value(n *yaml.Node, r *rule) {
	c.mark(n)
	switch {
	case n.Kind == yaml.AliasNode:
		c.refuse("*%s: aliases are not allowed; write the value again", short(n.Value))
	case n.Anchor != "":
		c.refuse("&%s: anchors are not allowed; write the value where it is used", short(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		c.refuse("%s: tags are not allowed; text goes in quotes", short(n.Tag))
	case n.Kind != yaml.ScalarNode && len(c.steps) >= MaxDepth:
		c.refuse("objects and lists are nested more than %d deep", MaxDepth)
	case n.Kind == yaml.MappingNode:
		c.mapping(n, r)
	case n.Kind == yaml.SequenceNode:
		c.sequence(n, r)
	default:
		c.scalar(n, r)
	}
}

func (c *converter) sequence(n *yaml.Node, r *rule) {
	var elem *rule
	if r != nil && r.kind == list {
		elem = r.elem
	}
	c.out = append(c.out, '[')
	for i, item := range n.Content {
		if i > 0 {
			c.out = append(c.out, ',')
		}
		c.steps = append(c.steps, step{index: i})
		c.value(item, elem)
		c.steps = c.steps[:len(c.steps)-1]
	}
	c.out = append(c.out, ']')
}

func (c *converter) mapping(n *yaml.Node, r *rule) {
	c.out = append(c.out, '{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if i > 0 {
			c.out = append(c.out, ',')
		}
		c.mark(key)
		name := key.Value
		c.steps = append(c.steps, step{name, -1})
		switch {
		case key.Kind != yaml.ScalarNode:
			c.bad("a key must be text")
		case key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
			c.bad("a key can't have an anchor or a tag")
		case key.Tag == "!!merge" || name == "<<" && key.Style == 0:
			c.bad("<< merges are not allowed; write the keys where they are used")
		case key.Style == 0 && c.odd.MatchString(name):
			c.bad("the key %s is not text to every reader of YAML; put it in quotes", short(name))
		}
		inner, cpu := ruleOf(r, n, name)
		if cpu {
			name = "cpu_milli"
		}
		c.out = append(quote(c.out, name), ':')
		if cpu && val.Kind == yaml.ScalarNode && val.Anchor == "" && val.Style&yaml.TaggedStyle == 0 {
			c.cpu(val)
		} else {
			c.value(val, inner)
		}
		c.steps = c.steps[:len(c.steps)-1]
	}
	c.out = append(c.out, '}')
}

// ruleOf is the rule of a key of an object, and whether the key is cpu, the
// spelling of cpu_milli in processors.
func ruleOf(r *rule, n *yaml.Node, name string) (*rule, bool) {
	switch {
	case r == nil || r.kind != object:
		return nil, false
	case r.isMap:
		return r.elem, false
	}
	i, ok := r.index[name]
	if !ok {
		milli, has := r.index["cpu_milli"]
		return nil, name == "cpu" && has && r.fields[milli].rule.unit == "cpu"
	}
	inner := r.fields[i].rule
	if inner.union {
		for j := 0; j+1 < len(n.Content); j += 2 {
			if n.Content[j].Value == "type" {
				return rules().data[Type(n.Content[j+1].Value)], false
			}
		}
		return nil, false
	}
	return inner, false
}

func (c *converter) cpu(n *yaml.Node) {
	c.mark(n)
	milli, err := ParseCPU(n.Value)
	if err != nil {
		c.refuse("%v", err)
		return
	}
	c.out = strconv.AppendUint(c.out, milli, 10)
}

func (c *converter) scalar(n *yaml.Node, r *rule) {
	s := n.Value
	isText := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	switch {
	case !isText && (s == "true" || s == "false"):
		c.out = append(c.out, s...)
	case !isText && digits(s):
		c.out = append(c.out, s...)
	case r != nil && r.unit == "bytes":
		n, err := ParseSize(s)
		if err != nil {
			c.refuse("%v", err)
			return
		}
		c.out = strconv.AppendUint(c.out, n, 10)
	case !isText && (s == "" || s == "~" || strings.EqualFold(s, "null")):
		c.refuse("the value is missing; write one or leave the key out")
	case !isText && r != nil && contains(r.enum, s): // off, where it is a known word
		c.out = quote(c.out, s)
	case !isText && c.odd.MatchString(s):
		c.refuse("%s is not the same to every reader of YAML; put it in quotes if it is text, else write true, false or a number in plain digits", short(s))
	default:
		c.out = quote(c.out, s)
	}
}

// digits is a number as JSON writes it.
func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == "" && (s == "0" || s[0] != '0')
}
