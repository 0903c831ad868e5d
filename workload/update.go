package workload

import (
	"reflect"
	"strings"
)

// Action is what an update does with a workload.
type Action string

// The actions.
const (
	Keep    Action = "keep"    // nothing changes
	Create  Action = "create"  // it is new
	Update  Action = "update"  // changed in place, without a restart
	Replace Action = "replace" // made anew beside the running one, then switched
	Delete  Action = "delete"  // removed
)

// Change is what an update does with one workload.
type Change struct {
	Name   string   `json:"name"`
	Type   Type     `json:"type"`
	Action Action   `json:"action"`
	Fields []string `json:"fields,omitempty"` // names of the fields of data that change
	Loses  string   `json:"loses,omitempty"`  // data that is given up, as destroy allows
}

// Plan compares the next version of a document with the running one. It gives
// the change of every workload, first those of next in their order, then those
// that are removed. The error is Problems that say which rule of updates the
// next version breaks:
//
//   - chain, twin_id, contract_id and node_id stay; version rises;
//   - a workload with the document's version is new or changed; one with an older
//     version is what runs now, with the version that it has there;
//   - the type of a name never changes, nor do the fields that the reference marks
//     as never;
//   - what loses data is named in destroy, and nothing else is.
func Plan(running, next *Document) ([]Change, error) {
	p := &planner{running: running, next: next, rep: new(report), destroy: make(map[string]bool)}
	root, _ := readJSON(source{text: next.raw}, new(report))
	p.c = &checker{doc: next, root: &root, rep: p.rep}
	for _, name := range next.Destroy {
		p.destroy[name] = true
	}
	p.header()
	var changes []Change
	lost := make(map[string]bool)
	for i := range next.Workloads {
		ch := p.change(i)
		lost[ch.Name] = ch.Loses != ""
		changes = append(changes, ch)
	}
	for i := range running.Workloads {
		w := &running.Workloads[i]
		if next.Workload(w.Name) != nil {
			continue
		}
		ch := Change{Name: w.Name, Type: w.Type, Action: Delete, Loses: holds(w.Data)}
		if ch.Loses != "" && !p.destroy[w.Name] {
			p.c.bad([]any{"workloads"}, "workload %s is gone, and with it %s; list %s in destroy if that is meant", w.Name, ch.Loses, w.Name)
		}
		lost[w.Name] = ch.Loses != ""
		changes = append(changes, ch)
	}
	for i, name := range next.Destroy {
		switch {
		case running.Workload(name) == nil:
			p.c.bad([]any{"destroy", i}, "the running version has no workload %s", name)
		case !lost[name]:
			p.c.bad([]any{"destroy", i}, "this version loses nothing of %s; leave it out", name)
		}
	}
	place := next.place
	if place == nil {
		place = inText(next.raw)
	}
	if err := p.rep.err(place); err != nil {
		return nil, err
	}
	return changes, nil
}

// sameMeaning says if two workloads differ in nothing but their version.
func sameMeaning(a, b *Workload) bool {
	x, y := *a, *b
	x.Version, y.Version = 0, 0
	return reflect.DeepEqual(x, y)
}

type planner struct {
	running, next *Document
	c             *checker
	rep           *report
	destroy       map[string]bool
}

func (p *planner) header() {
	old, next := reflect.ValueOf(*p.running), reflect.ValueOf(*p.next)
	for _, f := range rules().document.fields {
		if f.update == "never" && old.Field(f.at).Interface() != next.Field(f.at).Interface() {
			p.c.bad([]any{f.name}, "was %v, now %v; an update never changes it, make another contract", old.Field(f.at), next.Field(f.at))
		}
	}
	if p.next.Version <= p.running.Version {
		p.c.bad([]any{"version"}, "version %d runs; the next one has a higher number", p.running.Version)
	}
}

func (p *planner) change(i int) Change {
	w := &p.next.Workloads[i]
	o := p.running.Workload(w.Name)
	ch := Change{Name: w.Name, Type: w.Type}
	where := []any{"workloads", i}
	fresh := w.Version == p.next.Version
	if o == nil {
		ch.Action = Create
		if !fresh {
			p.c.bad(in(where, "version"), "workload %s is new, but says version %d; a new workload has the document's version %d", w.Name, w.Version, p.next.Version)
		}
		return ch
	}
	if o.Type != w.Type {
		p.c.bad(in(where, "type"), "workload %s is a %s; a name keeps its type, use another name", w.Name, o.Type)
		return ch
	}
	ch.Action = p.fields(in(where, "data"), w, o, &ch)
	same := ch.Action == Keep && w.Description == o.Description && w.Metadata == o.Metadata
	switch {
	case fresh && ch.Action == Keep && !same:
		ch.Action = Update
	case fresh:
	case !same:
		p.c.bad(in(where, "version"), "workload %s changed but still says version %d; set it to %d", w.Name, w.Version, p.next.Version)
	case w.Version != o.Version:
		p.c.bad(in(where, "version"), "workload %s has version %d in the running document, not %d", w.Name, o.Version, w.Version)
	}
	return ch
}

// fields compares the data of a workload by the rules of its type.
func (p *planner) fields(where []any, w, o *Workload, ch *Change) Action {
	action := Keep
	old, next := reflect.ValueOf(o.Data).Elem(), reflect.ValueOf(w.Data).Elem()
	for _, f := range rules().data[w.Type].fields {
		a, b := old.Field(f.at), next.Field(f.at)
		if reflect.DeepEqual(a.Interface(), b.Interface()) {
			continue
		}
		ch.Fields = append(ch.Fields, f.name)
		switch f.update {
		case "place":
			action = worse(action, Update)
		case "replace":
			action = worse(action, Replace)
			ch.Loses = holds(o.Data)
		case "grow":
			if b.Uint() > a.Uint() {
				action = worse(action, Update)
				continue
			}
			action = p.again(in(where, f.name), w, o, ch, "can only grow; it is %d", a.Uint())
		default:
			action = p.again(in(where, f.name), w, o, ch, "%s of a %s never changes", f.name, w.Type)
		}
	}
	if action == Replace && ch.Loses != "" && !p.destroy[w.Name] {
		p.c.bad(where, "changing %s makes %s anew and loses %s; list %s in destroy if that is meant", strings.Join(ch.Fields, ", "), w.Name, ch.Loses, w.Name)
	}
	if n, ok := w.Data.(*PrivateNetwork); ok {
		p.renumbered(where, o.Data.(*PrivateNetwork), n)
	}
	return action
}

// again is a change that only a workload made anew can take.
func (p *planner) again(where []any, w, o *Workload, ch *Change, format string, args ...any) Action {
	lost := holds(o.Data)
	switch {
	case lost != "" && p.destroy[w.Name]:
		ch.Loses = lost
		return Replace
	case lost != "":
		p.c.bad(where, format+"; to make %s anew and lose %s, list it in destroy", append(args, w.Name, lost)...)
	default:
		p.c.bad(where, format+"; give the changed workload another name", args...)
	}
	return Replace
}

func worse(a, b Action) Action {
	if a == Replace || b == Replace {
		return Replace
	}
	return b
}

func (p *planner) renumbered(where []any, old, next *PrivateNetwork) {
	for _, o := range old.Nodes {
		for j, n := range next.Nodes {
			if n.Node == o.Node && n.Index != o.Index {
				p.c.bad(in(where, "nodes", j, "index"), "node %d has index %d in version %d; an index cannot change", n.Node, o.Index, p.running.Version)
			}
		}
	}
}

// holds says what is lost when a workload is removed or made anew; "" is
// nothing. The data of a qsfs lies in its backends.
func holds(d Data) string {
	switch d := d.(type) {
	case *Disk:
		return "its data (" + Size(d.Size).String() + ")"
	case *Volume:
		return "its data (" + Size(d.Size).String() + ")"
	case *ZDB:
		return "its data (" + Size(d.Size).String() + ")"
	}
	if m, ok := machineOf(d); ok && m.size > 0 {
		return "its writable root (" + Size(m.size).String() + ")"
	}
	return ""
}
