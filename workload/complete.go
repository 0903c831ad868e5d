package workload

import (
	"strconv"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Fill is what a draft leaves open. Fields that the draft has are never changed.
type Fill struct {
	Chain    string
	Twin     identity.Party
	Contract identity.ContractID
	Node     identity.Party // 0 for the document of a network
	Version  uint32

	// Networks are the contracts of the networks, by their name in the document.
	Networks map[string]identity.ContractID
	// Root is the root of an image by its name, 64 hexadecimal digits.
	Root func(flist string) (string, error)
	// Seal seals a secret of a workload to the node; path is its place, such as
	// data.secrets.PGPASS. It returns the text of sealed.
	Seal func(workload, path string, s Secret) (string, error)
	// Running is the version that runs, nil for the first. A workload without a
	// version that means the same there keeps its version.
	Running *Document
}

// Complete makes the final document of a draft: the draft's fields in their
// order, what was missing put first in each object, secrets sealed. The bytes
// pass Parse with Final and are what is signed; they are a new text, with a hash
// of its own. What f doesn't say is reported as missing, with its path.
func (d *Document) Complete(f Fill) (*Document, error) {
	root, ok := readJSON(source{text: d.raw}, new(report))
	if !ok {
		return nil, fault.Errorf(fault.Internal, "complete document: its own text does not read")
	}
	c := &completer{fill: f}
	c.top(&root)
	text := string(c.write(nil, &root))
	if c.err != nil {
		return nil, c.err
	}
	done, err := Parse([]byte(text), Final)
	if err != nil || f.Running == nil {
		return done, err
	}
	// Now that everything has its meaning, unchanged workloads get the version
	// that they run with.
	changed := false
	for i := range done.Workloads {
		w := &done.Workloads[i]
		o := f.Running.Workload(w.Name)
		if _, own := find(&find0(&root, "workloads").items[i], "version"); own != nil && c.added[i] && o != nil && sameMeaning(w, o) {
			own.number, changed = uint64(o.Version), true
		}
	}
	if !changed {
		return done, nil
	}
	return Parse(c.write(nil, &root), Final)
}

type completer struct {
	fill  Fill
	added map[int]bool // workloads whose version was filled in
	err   error
}

func (c *completer) top(root *value) {
	f := c.fill
	var add []member
	put := func(name string, n uint64, give bool) {
		if _, v := find(root, name); v == nil && give {
			add = append(add, member{name: name, value: value{kind: number, number: n}})
		}
	}
	if _, v := find(root, "chain"); v == nil && f.Chain != "" {
		add = append(add, member{name: "chain", value: value{kind: text, text: f.Chain}})
	}
	put("twin_id", uint64(f.Twin), f.Twin != 0)
	put("contract_id", uint64(f.Contract), f.Contract != 0)
	put("node_id", uint64(f.Node), f.Node != 0)
	put("version", uint64(f.Version), f.Version != 0)
	root.members = append(add, root.members...)
	if _, nets := find(root, "networks"); nets != nil {
		for i := range nets.items {
			n := &nets.items[i]
			id := f.Networks[find0(n, "name").text]
			if _, v := find(n, "contract_id"); v == nil && id != 0 {
				n.members = append(n.members, member{name: "contract_id", value: value{kind: number, number: uint64(id)}})
			}
		}
	}
	c.added = make(map[int]bool)
	ws := find0(root, "workloads")
	for i := range ws.items {
		w := &ws.items[i]
		if _, v := find(w, "version"); v == nil && f.Version != 0 {
			c.added[i] = true
			w.members = append([]member{{name: "version", value: value{kind: number, number: uint64(f.Version)}}}, w.members...)
		}
		c.data(find0(w, "name").text, find0(w, "data"))
	}
}

// data pins the image of a machine and seals the secrets.
func (c *completer) data(name string, data *value) {
	if _, flist := find(data, "flist"); flist != nil && c.fill.Root != nil {
		if _, v := find(data, "flist_root"); v == nil {
			root, err := c.fill.Root(flist.text)
			c.fail(err, "find the root of image %s of workload %s", flist.text, name)
			data.members = append(data.members, member{name: "flist_root", value: value{kind: text, text: root}})
		}
	}
	c.seal(name, data, []step{{"data", -1}})
}

// seal replaces every {env: …} and {file: …} by {sealed: …}. Only secrets have
// these forms: an object of one key env or file.
func (c *completer) seal(name string, v *value, path []step) {
	if v.kind == object && len(v.members) == 1 && c.fill.Seal != nil {
		m := &v.members[0]
		s := Secret{Env: m.value.text}
		if m.name == "file" {
			s = Secret{File: m.value.text}
		}
		if (m.name == "env" || m.name == "file") && m.value.kind == text {
			sealed, err := c.fill.Seal(name, pathText(path), s)
			c.fail(err, "seal %s of workload %s", pathText(path), name)
			*m = member{name: "sealed", value: value{kind: text, text: sealed}}
			return
		}
	}
	for i := range v.members {
		if len(path) > 1 || v.members[i].name != "env" { // the variables of a machine are texts, no secrets
			c.seal(name, &v.members[i].value, append(path[:len(path):len(path)], step{v.members[i].name, -1}))
		}
	}
	for i := range v.items {
		c.seal(name, &v.items[i], append(path[:len(path):len(path)], step{index: i}))
	}
}

func (c *completer) fail(err error, format string, args ...any) {
	if err != nil && c.err == nil {
		c.err = fault.Errorf(fault.Of(err), format+": %w", append(args, err)...)
	}
}

// find is a member of an object, with its index.
func find(v *value, name string) (int, *value) {
	for i := range v.members {
		if v.members[i].name == name {
			return i, &v.members[i].value
		}
	}
	return -1, nil
}

// find0 is a member that must be there, or an empty value.
func find0(v *value, name string) *value {
	if _, m := find(v, name); m != nil {
		return m
	}
	return new(value)
}

// write appends v as JSON without spaces.
func (c *completer) write(b []byte, v *value) []byte {
	switch v.kind {
	case object:
		b = append(b, '{')
		for i := range v.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(quote(b, v.members[i].name), ':')
			b = c.write(b, &v.members[i].value)
		}
		return append(b, '}')
	case list:
		b = append(b, '[')
		for i := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = c.write(b, &v.items[i])
		}
		return append(b, ']')
	case text:
		return quote(b, v.text)
	case number:
		return strconv.AppendUint(b, v.number, 10)
	case truth:
		return strconv.AppendBool(b, v.flag)
	}
	return append(b, "null"...)
}
