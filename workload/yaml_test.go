package workload

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const draftYAML = `# a draft
format: zos/deployment/1
networks:
  - name: net0
workloads:
  - name: data
    type: volume
    data: {size: 10 GiB}
  - name: web
    type: container
    data:
      flist: hub.example/acme/web:1
      compute_capacity:
        cpu: 1.5
        memory: 512MiB
      env:
        GREETING: |
          hello
          world
        PORT: "8080"
        "NO": 'no'
      secrets:
        TOKEN: {env: WEB_TOKEN}
      mounts:
        - name: data
          mountpoint: /data
`

func TestYAML(t *testing.T) {
	d, err := Read([]byte(draftYAML), Draft)
	if err != nil {
		t.Fatal(err)
	}
	web := d.Workload("web").Data.(*Container)
	if web.Capacity != (Compute{1500, 512 << 20}) || web.Env["NO"] != "no" || web.Env["GREETING"] != "hello\nworld\n" || web.Secrets["TOKEN"].Env != "WEB_TOKEN" {
		t.Errorf("web = %+v", web)
	}
	if v := d.Workload("data").Data.(*Volume); v.Size != 10<<30 {
		t.Errorf("data = %+v", v)
	}
	want := `{"format":"zos/deployment/1","networks":[{"name":"net0"}],"workloads":[{"name":"data","type":"volume","data":{"size":10737418240}},` +
		`{"name":"web","type":"container","data":{"flist":"hub.example/acme/web:1","compute_capacity":{"cpu_milli":1500,"memory":536870912},` +
		`"env":{"GREETING":"hello\nworld\n","PORT":"8080","NO":"no"},"secrets":{"TOKEN":{"env":"WEB_TOKEN"}},"mounts":[{"name":"data","mountpoint":"/data"}]}}]}`
	if got := string(d.Bytes()); got != want {
		t.Errorf("JSON = %s, want %s", got, want)
	}
	if _, err := Read([]byte(draftYAML), Final); err == nil || !strings.Contains(err.Error(), "chain is missing") {
		t.Errorf("a draft passes as final: %v", err)
	}
}

func TestYAMLRefuses(t *testing.T) {
	bomb := "a: &a [x,x,x]\n" + strings.Repeat("b: [*a,*a,*a,*a,*a,*a,*a,*a]\n", 9)
	for _, tt := range []struct {
		name, src, path, want string
		line, column          int
	}{
		{"no", "format: no\n", "format", "not the same to every reader", 1, 9},
		{"Yes", "a: Yes", "a", "not the same", 1, 4},
		{"octal", "a: 0o17", "a", "not the same", 1, 4},
		{"old octal", "a: 017", "a", "not the same", 1, 4},
		{"underscores", "a: 1_000", "a", "not the same", 1, 4},
		{"hexadecimal", "a: 0xff", "a", "not the same", 1, 4},
		{"sexagesimal", "a: 22:22", "a", "not the same", 1, 4},
		{"timestamp", "a: 2026-11-24", "a", "not the same", 1, 4},
		{"time", "a: 2026-11-24 10:00:00", "a", "not the same", 1, 4},
		{"float", "a: 1.5", "a", "not the same", 1, 4},
		{"exponent", "a: 1e3", "a", "not the same", 1, 4},
		{"infinity", "a: .inf", "a", "not the same", 1, 4},
		{"sign", "a: +1", "a", "not the same", 1, 4},
		{"capitals", "a: TRUE", "a", "not the same", 1, 4},
		{"key no", "a: {no: x}", "a.no", "put it in quotes", 1, 5},
		{"key number", "a:\n  80: x", "a.80", "put it in quotes", 2, 3},
		{"empty value", "a:\nb: 1", "a", "value is missing", 1, 3},
		{"tilde", "a: ~", "a", "value is missing", 1, 4},
		{"anchor", "a: &x 1", "a", "anchors", 1, 4},
		{"bomb", bomb, "a", "anchors", 1, 4},
		{"merge", "a: {<<: {b: 1}}", "a[\"<<\"]", "merges", 1, 5},
		{"tag", "a: !!str 1", "a", "tags", 1, 4},
		{"own tag", "a: !x 1", "a", "tags", 1, 4},
		{"two documents", "a: 1\n---\nb: 1", "", "second document", 2, 1},
		{"tab", "a:\n\tb: 1", "", "not YAML", 2, 1},
		{"empty", "# nothing\n", "", "empty", 1, 1},
		{"list key", "? [a]\n: 1", "", "key must be text", 1, 3},
	} {
		_, err := FromYAML([]byte(tt.src))
		var ps Problems
		if !errors.As(err, &ps) {
			t.Errorf("%s: accepted (%v)", tt.name, err)
			continue
		}
		p := ps[0]
		if !strings.Contains(p.Message, tt.want) || p.Path != tt.path && tt.path != "" || p.Line != tt.line || p.Column != tt.column && tt.name != "list key" {
			t.Errorf("%s: %+v, want %q at %q line %d column %d", tt.name, p, tt.want, tt.path, tt.line, tt.column)
		}
	}
}

func TestYAMLProblemsHaveTheirPlace(t *testing.T) {
	for _, tt := range []struct {
		old, new, path, want string
		line, column         int
	}{
		{"size: 10 GiB", "size: 10 GB0", "workloads[0].data.size", "not a size", 8, 18},
		{"size: 10 GiB", "size: 1 MiB", "workloads[0].data.size", "at least 67108864", 8, 18},
		{"cpu: 1.5", "cpu: 100", "workloads[1].data.compute_capacity.cpu_milli", "at most 32000", 14, 14},
		{"cpu: 1.5", "cpu: 1.5\n        cpu_milli: 1500", "workloads[1].data.compute_capacity.cpu_milli", "duplicate key", 15, 9},
		{"name: web", "name: web\n    name: web2", "workloads[1].name", "duplicate key", 10, 5},
		{"      mounts:", "      mount:", "workloads[1].data.mount", `did you mean "mounts"?`, 24, 7},
		{`PORT: "8080"`, `PORT: 8080`, "workloads[1].data.env.PORT", "put it in quotes", 20, 15},
	} {
		_, err := Read([]byte(strings.Replace(draftYAML, tt.old, tt.new, 1)), Draft)
		var ps Problems
		if !errors.As(err, &ps) {
			t.Errorf("%s: accepted", tt.new)
			continue
		}
		p := ps[0]
		if p.Path != tt.path || !strings.Contains(p.Message, tt.want) || p.Line != tt.line || p.Column != tt.column {
			t.Errorf("%s: %+v, want %q at %q line %d column %d", tt.new, p, tt.want, tt.path, tt.line, tt.column)
		}
	}
}

// JSON is YAML: what FromYAML makes of plain JSON means the same.
func TestYAMLOfJSON(t *testing.T) {
	got, err := FromYAML([]byte(shop(t)))
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(got, &a) != nil || json.Unmarshal([]byte(shop(t)), &b) != nil {
		t.Fatal("no JSON")
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	if string(x) != string(y) {
		t.Errorf("%s, want %s", x, y)
	}
	again, err := FromYAML(got)
	if err != nil || string(again) != string(got) {
		t.Errorf("converted again: %s, %v", again, err)
	}
}

func TestSizes(t *testing.T) {
	for _, tt := range []struct {
		s    string
		want uint64
	}{
		{"0", 0}, {"1", 1}, {"10 GiB", 10 << 30}, {"10GiB", 10 << 30}, {"1.5 MiB", 3 << 19}, {"4G", 4 << 30}, {"2k", 2048},
		{"0.5 KiB", 512}, {"9007199254740991", 1<<53 - 1}, {"3 B", 3},
	} {
		if n, err := ParseSize(tt.s); err != nil || n != tt.want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", tt.s, n, err, tt.want)
		}
	}
	for _, s := range []string{"", "GiB", " 1", "1 ", "1  GiB", "-1", "+1", "1.", ".5 MiB", "1.3 B", "500 MB", "1 Gi B", "8192 TiB", "9007199254740992", "1e3", "1_000", "1.1.1 B", "1 PiB", "0.0000000000001 TiB"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, n)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, maxNumber).Draw(t, "n")
		if back, err := ParseSize(Size(n).String()); err != nil || back != n {
			t.Fatalf("%v reads as %d, %v", Size(n), back, err)
		}
	})
	for s, want := range map[string]uint64{"1.5": 1500, "2": 2000, "0.05": 50, "0.125": 125} {
		if n, err := ParseCPU(s); err != nil || n != want {
			t.Errorf("ParseCPU(%q) = %d, %v, want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "1.0005", "x", "1 cpu", "-1", "1.", ".5", "1.5.5", "1000000000000000"} {
		if _, err := ParseCPU(s); err == nil {
			t.Errorf("ParseCPU(%q) is accepted", s)
		}
	}
}

func FuzzYAML(f *testing.F) {
	f.Add(draftYAML)
	f.Add("a: &x [1]\nb: *x\n")
	f.Add("- !!binary x\n")
	f.Add("{a: 1, ? b}")
	f.Fuzz(func(t *testing.T, src string) {
		out, err := FromYAML([]byte(src))
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || ps[0].Line < 1 {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		if !json.Valid(out) {
			t.Fatalf("not JSON: %q", out)
		}
		again, err := FromYAML([]byte(src))
		if err != nil || string(again) != string(out) {
			t.Fatal("the same YAML gives other JSON")
		}
		Read([]byte(src), Draft)
	})
}
