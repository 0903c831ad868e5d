package workload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func fill(version uint32) Fill {
	return Fill{Chain: "grid-1", Twin: 17, Contract: 285212675, Node: 42, Version: version,
		Networks: map[string]identity.ContractID{"net0": 285212674, "net": 285212674},
		Root:     func(flist string) (string, error) { return strings.Repeat("ab", 32), nil },
		Seal:     func(name, path string, s Secret) (string, error) { return "sealed-" + name, nil }}
}

func TestComplete(t *testing.T) {
	draft, err := Read([]byte(draftYAML), Draft)
	if err != nil {
		t.Fatal(err)
	}
	var sealed []string
	f := fill(1)
	f.Seal = func(name, path string, s Secret) (string, error) {
		sealed = append(sealed, fmt.Sprint(name, " ", path, " ", s.Env, s.File))
		return "AAAA", nil
	}
	d, err := draft.Complete(f)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"chain":"grid-1","twin_id":17,"contract_id":285212675,"node_id":42,"version":1,"format":"zos/deployment/1","networks":[{"name":"net0","contract_id":285212674}],` +
		`"workloads":[{"version":1,"name":"data","type":"volume","data":{"size":10737418240}},` +
		`{"version":1,"name":"web","type":"container","data":{"flist":"hub.example/acme/web:1","compute_capacity":{"cpu_milli":1500,"memory":536870912},` +
		`"env":{"GREETING":"hello\nworld\n","PORT":"8080","NO":"no"},"secrets":{"TOKEN":{"sealed":"AAAA"}},"mounts":[{"name":"data","mountpoint":"/data"}],` +
		`"flist_root":"` + strings.Repeat("ab", 32) + `"}}]}`
	if got := string(d.Bytes()); got != want {
		t.Errorf("Complete =\n%s\nwant\n%s", got, want)
	}
	if fmt.Sprint(sealed) != "[web data.secrets.TOKEN WEB_TOKEN]" || d.IsDraft() {
		t.Errorf("sealed %v", sealed)
	}

	// The next version: what did not change keeps its version.
	next, err := Read([]byte(strings.Replace(draftYAML, "cpu: 1.5", "cpu: 2", 1)), Draft)
	if err != nil {
		t.Fatal(err)
	}
	f.Version, f.Running = 2, d
	e, err := next.Complete(f)
	if err != nil {
		t.Fatal(err)
	}
	if e.Workload("data").Version != 1 || e.Workload("web").Version != 2 {
		t.Errorf("versions of data %d, web %d, want 1 and 2", e.Workload("data").Version, e.Workload("web").Version)
	}
	changes, err := Plan(d, e)
	if err != nil || changes[0].Action != Keep || changes[1].Action != Update {
		t.Errorf("Plan = %+v, %v", changes, err)
	}
}

// What a draft says itself stays, byte for byte in meaning: a final document
// completes to itself.
func TestCompleteChangesNothingElse(t *testing.T) {
	d := mustParse(t, shop(t))
	f := fill(9)
	f.Chain, f.Node = "other", 7
	e, err := d.Complete(f)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := FromYAML(e.Bytes())
	want, _ := FromYAML([]byte(shop(t)))
	if string(got) != string(want) {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestCompleteSaysWhatIsMissing(t *testing.T) {
	draft, err := Read([]byte(draftYAML), Draft)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft.Complete(Fill{}); err == nil || !strings.Contains(err.Error(), "chain is missing") || !strings.Contains(err.Error(), "flist_root is missing") {
		t.Errorf("nothing filled in: %v", err)
	}
	f := fill(1)
	f.Seal = func(string, string, Secret) (string, error) {
		return "", fault.Errorf(fault.NotFound, "no variable WEB_TOKEN")
	}
	if _, err := draft.Complete(f); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "seal data.secrets.TOKEN of workload web: no variable") {
		t.Errorf("no secret: %v", err)
	}
	f = fill(1)
	f.Root = func(string) (string, error) { return "", fault.Errorf(fault.NotFound, "no such image") }
	if _, err := draft.Complete(f); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "image hub.example/acme/web:1 of workload web") {
		t.Errorf("no image: %v", err)
	}
}

// Every starter and example can be completed and signed.
func TestCompleteExamples(t *testing.T) {
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	starters, err := filepath.Glob("starters/*.yaml")
	if err != nil || len(starters) < 9 {
		t.Fatal(starters, err)
	}
	for _, name := range append(files, starters...) {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		draft, err := Read(src, Draft)
		if err != nil {
			t.Fatal(err)
		}
		f := fill(1)
		if draft.IsNetwork() {
			f.Node = 0
		}
		d, err := draft.Complete(f)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(string(d.Bytes()), `"file"`) {
			t.Errorf("%s: a secret is not sealed: %s", name, d.Bytes())
		}
		if _, err := d.Sign(17, identity.FromSeed([32]byte{}), 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
