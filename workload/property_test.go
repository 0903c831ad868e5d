package workload

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Two different texts never have the same signing bytes, whatever they mean.
func TestDifferentDocumentsDifferentBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := any(sampleObject(t, rules().document, Final))
		a, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(spoil(t, one))
		if err != nil {
			t.Fatal(err)
		}
		same := bytes.Equal(SigningBytes(HashOf(a)), SigningBytes(HashOf(b)))
		if same != bytes.Equal(a, b) {
			t.Fatalf("signing bytes are equal: %v\n%s\n%s", same, a, b)
		}
	})
}

// The fast form of a pattern says the same as its expression.
func TestFastPatterns(t *testing.T) {
	n := 0
	for _, p := range patterns() {
		if p.fast == nil {
			continue
		}
		n++
		re := regexp.MustCompile(p.expr)
		fixed := []string{"", "a", "-", "a-", "-a", "_", "a_", "0", "A", "a\x00", "/", "/a\n", "/\r", "a\n", "ä", "/ä", strings.Repeat("a", 36), strings.Repeat("a", 37), strings.Repeat("3f", 32), strings.Repeat("3f", 32) + "0",
			strings.Repeat("3F", 32), strings.Repeat("a", 128), strings.Repeat("a", 129), strings.Repeat("a", 255), strings.Repeat("a", 256)}
		for _, s := range fixed {
			if p.fast(s) != re.MatchString(s) {
				t.Errorf("%s: %q is %v fast, %v by expression", p.name, s, p.fast(s), re.MatchString(s))
			}
		}
		rapid.Check(t, func(t *rapid.T) {
			s := rapid.StringOfN(rapid.RuneFrom([]rune("ab09AZ_-.:/@\x00\r\n ä~f")), 0, 70, -1).Draw(t, "text")
			if p.fast(s) != re.MatchString(s) {
				t.Fatalf("%s: %q is %v fast, %v by expression", p.name, s, p.fast(s), re.MatchString(s))
			}
		})
	}
	if n == 0 {
		t.Error("no pattern has a fast form")
	}
}

// part is a workload of a simple type: none, or one with a size.
type part struct {
	kind string
	size uint64
}

func (p part) text(version int, name string) string {
	size := itoa(p.size)
	switch p.kind {
	case "container":
		return w(version, name, p.kind, ctr(`,"env":{"SIZE":"`+size+`"}`))
	case "writable":
		return w(version, name, "container", ctr(`,"sealed":"off","size":`+size))
	}
	return w(version, name, p.kind, `{"size":`+size+`}`)
}

// pair is a running document and a next one, which is often a right update.
func pair(t *rapid.T) (string, string) {
	old, next := vol[:len(vol)-1], vol[:len(vol)-1]
	var destroy []string
	for _, name := range []string{"a", "b", "c", "d"} {
		draw := func() part {
			return part{rapid.SampledFrom([]string{"", "volume", "zmount", "container", "writable"}).Draw(t, "kind"), rapid.SampledFrom([]uint64{1 << 30, 2 << 30}).Draw(t, "size")}
		}
		was := draw()
		now := was
		switch rapid.IntRange(0, 9).Draw(t, "change") {
		case 0, 1, 2:
			now.size = 3<<30 - was.size
		case 3, 4:
			now = part{}
		case 5:
			now = draw()
		}
		if was.kind != "" {
			old += "," + was.text(1, name)
		}
		if now.kind != "" {
			version := 2
			if now == was {
				version = 1
			}
			next += "," + now.text(version, name)
		}
		lost := (was.kind == "volume" || was.kind == "zmount" || was.kind == "writable") && now.kind == "" ||
			was.kind == "zmount" && now.size < was.size || was.kind == "writable" && now != was
		if lost != (rapid.IntRange(0, 19).Draw(t, "wrong destroy") == 0) {
			destroy = append(destroy, `"`+name+`"`)
		}
	}
	return deployment(1, "", old), deployment(2, strings.Join(destroy, ","), next)
}

// Whatever update is accepted: each workload has one change, it says what it
// loses exactly for what destroy names, and a change that touches data without
// keeping it is never silent.
func TestPlanProperties(t *testing.T) {
	accepted, lossy := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		a, b := pair(t)
		running, err := Parse([]byte(a), Final)
		if err != nil {
			t.Fatal(err)
		}
		next, err := Parse([]byte(b), Final)
		if err != nil {
			t.Fatal(err)
		}
		changes, err := Plan(running, next)
		if err != nil {
			return
		}
		accepted++
		named := make(map[string]bool)
		for _, n := range next.Destroy {
			named[n] = true
		}
		seen := make(map[string]bool)
		for _, ch := range changes {
			if seen[ch.Name] {
				t.Fatalf("%s stands twice in %+v", ch.Name, changes)
			}
			seen[ch.Name] = true
			if (ch.Loses != "") != named[ch.Name] {
				t.Fatalf("%+v, but destroy is %v", ch, next.Destroy)
			}
			if ch.Loses != "" {
				lossy++
			}
			old, now := running.Workload(ch.Name), next.Workload(ch.Name)
			switch ch.Action {
			case Create:
				if old != nil || now == nil {
					t.Fatalf("%+v", ch)
				}
			case Delete:
				if old == nil || now != nil || holds(old.Data) != ch.Loses {
					t.Fatalf("%+v", ch)
				}
			case Keep:
				if !reflect.DeepEqual(old.Data, now.Data) {
					t.Fatalf("%+v keeps what differs", ch)
				}
			case Update:
				if now.Version != 2 || reflect.DeepEqual(old.Data, now.Data) {
					t.Fatalf("%+v", ch)
				}
			case Replace:
				if now.Version != 2 || holds(old.Data) != ch.Loses {
					t.Fatalf("%+v", ch)
				}
			}
		}
		if len(seen) < len(next.Workloads) || len(seen) < len(running.Workloads) {
			t.Fatalf("%+v leaves workloads out", changes)
		}
	})
	if accepted < 20 || lossy < 20 {
		t.Errorf("%d updates were accepted, %d lost data: too few", accepted, lossy)
	}
}

// The next version of a document with nothing but a higher number keeps
// everything.
func TestPlanKeeps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src, _ := pair(t)
		running, err := Parse([]byte(src), Final)
		if err != nil {
			t.Fatal(err)
		}
		next, err := Parse(bytes.Replace([]byte(src), []byte(`"node_id":42,"version":1`), []byte(`"node_id":42,"version":9`), 1), Final)
		if err != nil {
			t.Fatal(err)
		}
		changes, err := Plan(running, next)
		if err != nil {
			t.Fatal(err)
		}
		for _, ch := range changes {
			if ch.Action != Keep {
				t.Fatalf("%+v, want keep", ch)
			}
		}
	})
}

// FuzzDocument: whatever the text, the verdict is the same twice, a final
// document is a valid draft, and what follows from a document never panics.
func FuzzDocument(f *testing.F) {
	f.Add(shop(f))
	f.Add(draftYAML)
	f.Add(network(1, `{"nodes":[{"node":7,"index":3}],"egress":{"nodes":[7]}}`))
	f.Add(deployment(1, "", w(1, "q", "qsfs", `{"cache":268435456,"root_key":{"sealed":"AAAA"},"config":{"minimal_shards":1,"expected_shards":2,"groups":[{"backends":[{"address":"[fd5a::1]:9910","namespace":"a","password":{"sealed":"AAAA"}},{"address":"[fd5a::2]:9910","namespace":"a","password":{"sealed":"AAAA"}}]}]}}`)))
	base, err := Parse([]byte(shop(f)), Final)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, src string) {
		d, err := Read([]byte(src), Final)
		_, again := Read([]byte(src), Final)
		if (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
			t.Fatalf("two verdicts: %v, %v", err, again)
		}
		if err != nil {
			if d, err = Read([]byte(src), Draft); err != nil {
				return
			}
		} else if _, err := Read([]byte(src), Draft); err != nil {
			t.Fatalf("a final document is no draft: %v", err)
		}
		n := 0
		for _, step := range d.Order() {
			n += len(step)
		}
		if n != len(d.Workloads) {
			t.Fatalf("%d of %d workloads are in the order", n, len(d.Workloads))
		}
		if err := d.Capacity().Fits(d.Capacity()); err != nil {
			t.Fatal(err)
		}
		Plan(base, d)
		Plan(d, base)
		if _, err := Parse(d.Bytes(), map[bool]Mode{true: Draft}[d.IsDraft()]); err != nil {
			t.Fatalf("its own bytes are refused: %v", err)
		}
	})
}
