package workload

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// deployment is a document of one workload beside a volume v of 1 GiB.
func deployment(version int, destroy, workloads string) string {
	if destroy != "" {
		destroy = `"destroy":[` + destroy + `],`
	}
	return fmt.Sprintf(`{"format":"zos/deployment/1","chain":"grid-1","twin_id":17,"contract_id":285212675,"node_id":42,"version":%d,%s
"networks":[{"name":"net0","contract_id":285212674}],"workloads":[%s]}`, version, destroy, workloads)
}

func w(version int, name, kind, data string) string {
	return fmt.Sprintf(`{"version":%d,"name":%q,"type":%q,"data":%s}`, version, name, kind, data)
}

const root64 = `"flist":"a/b:1","flist_root":"3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f"`

func ctr(more string) string {
	return `{` + root64 + `,"compute_capacity":{"cpu_milli":1000,"memory":67108864}` + more + `}`
}

func virt(size uint64, more string) string {
	return fmt.Sprintf(`{%s,"compute_capacity":{"cpu_milli":1000,"memory":536870912},"size":%d%s}`, root64, size, more)
}

const vol = `{"version":1,"name":"v","type":"volume","data":{"size":1073741824}},`

func TestPlan(t *testing.T) {
	zdb := func(size, more string) string {
		return `{"size":` + size + `,"mode":"user","password":{"sealed":"AAAA"}` + more + `}`
	}
	for _, tt := range []struct {
		name       string
		kind       string
		old, next  string // data
		destroy    string
		want, lose string // action, or an error that contains " "
	}{
		{"container same", "container", ctr(""), ctr(`,"restart":{},"pids":1024,"log":{},"network":{"interfaces":[]},"env":{}`), "", "keep", ""},
		{"container memory", "container", ctr(""), strings.Replace(ctr(""), "67108864", "134217728", 1), "", "update", ""},
		{"container pids", "container", ctr(""), ctr(`,"pids":99`), "", "update", ""},
		{"container log", "container", ctr(""), ctr(`,"log":{"size":2097152}`), "", "update", ""},
		{"container env", "container", ctr(""), ctr(`,"env":{"A":"1"}`), "", "replace", ""},
		{"container env and memory", "container", ctr(`,"pids":7`), ctr(`,"env":{"A":"1"}`), "", "replace", ""},
		{"container image", "container", ctr(""), strings.Replace(ctr(""), "a/b:1", "a/b:2", 1), "", "replace", ""},
		{"container writable", "container", ctr(`,"sealed":"off","size":1073741824`), ctr(`,"sealed":"off","size":1073741824,"env":{"A":"1"}`), "", "loses its writable root (1 GiB)", ""},
		{"container writable, meant", "container", ctr(`,"sealed":"off","size":1073741824`), ctr(`,"sealed":"off","size":1073741824,"env":{"A":"1"}`), `"x"`, "replace", "its writable root (1 GiB)"},
		{"container writable, memory", "container", ctr(`,"sealed":"off","size":1073741824`), strings.Replace(ctr(`,"sealed":"off","size":1073741824`), "67108864", "134217728", 1), "", "update", ""},
		{"vm capacity", "vm", virt(1<<30, ""), strings.Replace(virt(1<<30, ""), "536870912", "1073741824", 1), "", "update", ""},
		{"vm machine", "vm", virt(1<<30, ""), virt(1<<30, `,"machine":"microvm"`), "", "loses its writable root", ""},
		{"zmount grows", "zmount", `{"size":1073741824}`, `{"size":2147483648}`, "", "update", ""},
		{"zmount shrinks", "zmount", `{"size":2147483648}`, `{"size":1073741824}`, "", "can only grow", ""},
		{"zmount shrinks, meant", "zmount", `{"size":2147483648}`, `{"size":1073741824}`, `"x"`, "replace", "its data (2 GiB)"},
		{"volume shrinks", "volume", `{"size":2147483648}`, `{"size":1073741824}`, "", "update", ""},
		{"zdb size", "zdb", zdb("1048576", ""), zdb("2097152", ""), "", "update", ""},
		{"zdb public", "zdb", zdb("1048576", ""), zdb("1048576", `,"public":true`), "", "update", ""},
		{"zdb password", "zdb", zdb("1048576", ""), strings.Replace(zdb("1048576", ""), "AAAA", "BBBB", 1), "", "update", ""},
		{"zdb mode", "zdb", zdb("1048576", ""), strings.Replace(zdb("1048576", ""), "user", "seq", 1), "", "mode of a zdb never changes", ""},
		{"zdb mode, meant", "zdb", zdb("1048576", ""), strings.Replace(zdb("1048576", ""), "user", "seq", 1), `"x"`, "replace", "its data (1 MiB)"},
		{"name backends", "gateway-name-proxy", `{"name":"shop","tls":"terminate","backends":[{"network":"net0","addr":"10.7.3.20","port":80}]}`, `{"name":"shop","tls":"passthrough","backends":[{"network":"net0","addr":"10.7.3.20","port":81}]}`, "", "update", ""},
		{"name name", "gateway-name-proxy", `{"name":"shop","tls":"terminate","backends":[{"network":"net0","addr":"10.7.3.20","port":80}]}`, `{"name":"shop2","tls":"terminate","backends":[{"network":"net0","addr":"10.7.3.20","port":80}]}`, "", "give the changed workload another name", ""},
		{"fqdn fqdn", "gateway-fqdn-proxy", `{"fqdn":"a.example","tls":"terminate","backends":[{"network":"net0","addr":"10.7.3.20","port":80}]}`, `{"fqdn":"b.example","tls":"terminate","backends":[{"network":"net0","addr":"10.7.3.20","port":80}]}`, "", "fqdn of a gateway-fqdn-proxy never changes", ""},
		{"destroy for nothing", "volume", `{"size":1073741824}`, `{"size":2147483648}`, `"x"`, "loses nothing of x", ""},
		{"destroy a stranger", "volume", `{"size":1073741824}`, `{"size":2147483648}`, `"stranger"`, "no workload stranger", ""},
	} {
		running := mustParse(t, deployment(1, "", vol+w(1, "x", tt.kind, tt.old)))
		next := mustParse(t, deployment(2, tt.destroy, vol+w(2, "x", tt.kind, tt.next)))
		changes, err := Plan(running, next)
		if strings.Contains(tt.want, " ") {
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "line ") {
				t.Errorf("%s: %v, want %q with its place", tt.name, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if changes[0].Action != Keep || string(changes[1].Action) != tt.want || changes[1].Loses != tt.lose {
			t.Errorf("%s: %+v, want keep and %s, losing %q", tt.name, changes, tt.want, tt.lose)
		}
	}
}

func TestPlanVersions(t *testing.T) {
	one := vol + w(1, "x", "container", ctr(""))
	for _, tt := range []struct{ name, next, want string }{
		{"no change", deployment(2, "", one), ""},
		{"changed but not marked", deployment(2, "", vol+w(1, "x", "container", ctr(`,"pids":9`))), "workload x changed but still says version 1; set it to 2"},
		{"new but not marked", deployment(2, "", one+","+w(1, "y", "container", ctr(""))), "a new workload has the document's version 2"},
		{"same version", deployment(1, "", one), "version 1 runs"},
		{"version skipped by a failure", deployment(7, "", vol+w(7, "x", "container", ctr(`,"pids":9`))), ""},
		{"invented version", deployment(3, "", vol+w(2, "x", "container", ctr(""))), "has version 1 in the running document, not 2"},
		{"type", deployment(2, "", vol+w(2, "x", "volume", `{"size":67108864}`)), "a name keeps its type"},
		{"volume removed", deployment(2, "", w(1, "x", "container", ctr(""))), "workload v is gone, and with it its data (1 GiB); list v in destroy"},
		{"volume removed, meant", deployment(2, `"v"`, w(1, "x", "container", ctr(""))), ""},
		{"container removed", deployment(2, "", strings.TrimSuffix(vol, ",")), ""},
		{"another node", strings.Replace(deployment(2, "", one), `"node_id":42`, `"node_id":43`, 1), "was 42, now 43"},
		{"another contract", strings.Replace(deployment(2, "", one), `285212675`, `285212676`, 1), "contract_id: was 17/3, now 17/4"},
		{"metadata marked", deployment(2, "", vol+strings.Replace(w(2, "x", "container", ctr("")), `"data"`, `"metadata":"m","data"`, 1)), ""},
		{"metadata not marked", deployment(2, "", vol+strings.Replace(w(1, "x", "container", ctr("")), `"data"`, `"metadata":"m","data"`, 1)), "x changed but still says"},
	} {
		_, err := Plan(mustParse(t, deployment(1, "", one)), mustParse(t, tt.next))
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := Parse([]byte(deployment(1, "", vol+w(2, "x", "container", ctr("")))), Final); err == nil || !strings.Contains(err.Error(), "higher than the document's version 1") {
		t.Errorf("a workload from the future: %v", err)
	}
}

func network(version int, data string) string {
	return fmt.Sprintf(`{"format":"zos/deployment/1","chain":"grid-1","twin_id":17,"contract_id":285212674,"version":%d,"workloads":[%s]}`, version, w(version, "net0", "network", data))
}

func TestPlanNetwork(t *testing.T) {
	old := `{"range4":"10.7.0.0/16","nodes":[{"node":7,"index":3},{"node":8,"index":4}],"key_epoch":2}`
	for _, tt := range []struct{ name, next, want string }{
		{"node added", `{"range4":"10.7.0.0/16","nodes":[{"node":7,"index":3},{"node":9,"index":5},{"node":8,"index":4}],"key_epoch":2}`, ""},
		{"node removed, index reused", `{"range4":"10.7.0.0/16","nodes":[{"node":7,"index":3},{"node":9,"index":4}],"key_epoch":3}`, ""},
		{"renumbered", `{"range4":"10.7.0.0/16","nodes":[{"node":7,"index":4},{"node":8,"index":3}],"key_epoch":2}`, "node 7 has index 3 in version 1; an index cannot change"},
		{"other range", `{"range4":"10.8.0.0/16","nodes":[{"node":7,"index":3},{"node":8,"index":4}],"key_epoch":2}`, "range4 of a network never changes"},
		{"older keys", `{"range4":"10.7.0.0/16","nodes":[{"node":7,"index":3},{"node":8,"index":4}],"key_epoch":1}`, "can only grow; it is 2"},
	} {
		_, err := Plan(mustParse(t, network(1, old)), mustParse(t, network(2, tt.next)))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestOrderAndCapacity(t *testing.T) {
	d := mustParse(t, deployment(1, "", strings.Join([]string{
		w(1, "logs", "zlogs", `{"target":"x","output":"wss://logs.example/x"}`),
		w(1, "x", "container", ctr(`,"mounts":[{"name":"v","mountpoint":"/v"},{"scratch":67108864,"mountpoint":"/tmp"}]`)),
		w(1, "addr", "ip", `{"family":"v4","ports":["tcp/443"],"target":"x"}`),
		w(1, "addr6", "ip", `{"family":"v6","target":"x"}`),
		w(1, "m", "vm", virt(1<<30, `,"disks":["d"],"gpu":["0000:28:00.0/1002/731f"]`)),
		w(1, "d", "zmount", `{"size":1073741824}`),
		w(1, "z", "zdb", `{"size":1048576,"mode":"seq","password":{"sealed":"AAAA"}}`),
		w(1, "site", "gateway-fqdn-proxy", `{"fqdn":"shop.example","tls":"passthrough","backends":[{"network":"net0","addr":"10.7.3.20","port":443}]}`),
		strings.TrimSuffix(vol, ","),
	}, ",")))
	if diff := cmp.Diff([][]string{{"d", "z", "v"}, {"addr", "addr6"}, {"x", "m"}, {"site"}, {"logs"}}, d.Order()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	want := Capacity{CRU: 2000, MRU: 64<<20 + 512<<20, SRU: 3<<30 + 64<<20, HRU: 1 << 20, IPv4: 1, IPv6: 1, GPU: []string{"0000:28:00.0/1002/731f"}}
	if diff := cmp.Diff(want, d.Capacity()); diff != "" {
		t.Errorf("capacity (-want +got):\n%s", diff)
	}
	if err := want.Fits(want); err != nil {
		t.Error(err)
	}
	for field, want2 := range map[string]string{"cru": "2000 thousandths of a vCPU (cru) asked, 1999 free", "mru": "memory (mru) asked", "sru": "solid-state", "hru": "1 MiB of hard disk (hru) asked", "ipv4": "1 IPv4 addresses asked, 0 free", "ipv6": "IPv6", "gpu": "731f is not free"} {
		b, _ := json.Marshal(want)
		var less map[string]any
		json.Unmarshal(b, &less)
		if field == "gpu" {
			less[field] = []string{}
		} else {
			less[field] = less[field].(float64) - 1
		}
		b, _ = json.Marshal(less)
		var free Capacity
		if err := json.Unmarshal(b, &free); err != nil {
			t.Fatal(err)
		}
		if err := want.Fits(free); err == nil || !strings.Contains(err.Error(), want2) {
			t.Errorf("%s: %v, want %q", field, err, want2)
		}
	}
}
