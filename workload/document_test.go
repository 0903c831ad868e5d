package workload

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"zos.internal/identity"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

func shop(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/valid/shop.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// with is the shop with each pair of texts replaced.
func with(t testing.TB, pairs ...string) string {
	t.Helper()
	s := shop(t)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(s, pairs[i]) {
			t.Fatalf("the shop has no %s", pairs[i])
		}
		s = strings.Replace(s, pairs[i], pairs[i+1], 1)
	}
	return s
}

func mustParse(t testing.TB, src string) *Document {
	t.Helper()
	d, err := Parse([]byte(src), Final)
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	return d
}

func TestShop(t *testing.T) {
	src := shop(t)
	d := mustParse(t, src)
	if !bytes.Equal(d.Bytes(), []byte(src)) {
		t.Error("the bytes changed")
	}
	c, ok := d.Workload("db").Data.(*Container)
	if !ok || c.Capacity.Memory != 2<<30 || c.Sealed != "files" || c.Pids != 1024 || c.Mounts[0].Mountpoint != "/data" {
		t.Errorf("db = %+v", c)
	}
	if d.ContractID.String() != "17/3" || d.Networks[0].Name != "net0" || !d.Requirement.Requests[0].Required {
		t.Errorf("document = %+v", d)
	}
}

// many is n variables.
func many(n int) string {
	var list []string
	for i := range n {
		list = append(list, `"K`+strconv.Itoa(i)+`":"x"`)
	}
	return strings.Join(list, ",")
}

// qsfs is the data of a qsfs with n backends in one group.
func qsfs(minimal, expected, n int, more string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{"address":"[fd5a::1]:9910","namespace":"n%d","password":{"sealed":"AAAA"}}`, i))
	}
	return fmt.Sprintf(`{"cache":268435456,"root_key":{"sealed":"AAAA"},"config":{"minimal_shards":%d,"expected_shards":%d,"groups":[{"backends":[%s]}]}%s}`, minimal, expected, strings.Join(list, ","), more)
}

// laptop is an access to a network.
func laptop(name string, host, via int) string {
	return fmt.Sprintf(`{"name":%q,"host":%d,"key":"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=","via":[%d]}`, name, host, via)
}

// TestNearCollisions has documents that look alike when their fields are joined
// without separators. Their signing bytes differ, and a signature for one
// doesn't fit the other.
func TestNearCollisions(t *testing.T) {
	key := identity.FromSeed([32]byte{1})
	one, big := `"cpu_milli":1000,"memory":21073741824`, `"cpu_milli":12000,"memory":1073741824`
	capacity := `"cpu_milli":2000,"memory":2147483648`
	for _, tt := range []struct{ name, a, b string }{
		{"1 vCPU and 21073741824 bytes, 12 vCPU and 1073741824 bytes", with(t, capacity, one), with(t, capacity, big)},
		{"version 1 of twin 23, version 12 of twin 3",
			with(t, `"twin_id":17,"contract_id":285212675,"node_id":42,"version":1,`, `"twin_id":23,"contract_id":385875971,"node_id":42,"version":1,`, `"contract_id":285212674`, `"contract_id":385875970`),
			with(t, `"twin_id":17,"contract_id":285212675,"node_id":42,"version":1,`, `"twin_id":3,"contract_id":50331651,"node_id":42,"version":12,`, `"contract_id":285212674`, `"contract_id":50331650`)},
		{"env: key against value", with(t, `{"MODE":"prod"}`, `{"AB":"C"}`), with(t, `{"MODE":"prod"}`, `{"A":"BC"}`)},
		{"env: two variables against one", with(t, `{"MODE":"prod"}`, `{"A":"1","B":"2"}`), with(t, `{"MODE":"prod"}`, `{"A":"1B2"}`)},
		{"entrypoint: one argument against two", with(t, `["/bin/pg"]`, `["/bin/pg","-v"]`), with(t, `["/bin/pg"]`, `["/bin/pg-v"]`)},
		{"text moved from description to metadata", with(t, `"description":"shop"`, `"description":"sh","metadata":"op"`), with(t, `"description":"shop"`, `"description":"s","metadata":"hop"`)},
		{"text moved from a name to its type", with(t, `"name":"data","type":"volume"`, `"name":"data","type":"volume","description":"v"`), with(t, `"name":"data","type":"volume"`, `"name":"data","type":"volume","metadata":"v"`)},
		{"a digit moved from size to version", with(t, `"version":1,"exp`, `"version":11,"exp`), with(t, `"size":10737418240`, `"size":107374182401`)},
		{"required against weight", with(t, `"required":true,"weight":1`, `"required":false,"weight":11`), with(t, `"required":true,"weight":1`, `"required":true,"weight":11`)},
		{"address and mountpoint", with(t, `"/data"`, `"/data/1"`), with(t, `"/data"`, `"/data1"`)},
	} {
		a, b := mustParse(t, tt.a), mustParse(t, tt.b)
		if bytes.Equal(SigningBytes(a.Hash()), SigningBytes(b.Hash())) {
			t.Errorf("%s: the same signing bytes", tt.name)
		}
		sig, err := a.Sign(a.TwinID, key, 0)
		if err != nil {
			t.Fatal(err)
		}
		h := b.Hash()
		if sig.Signature.Verify(key.Public(), identity.TagDeployment, h[:]) == nil {
			t.Errorf("%s: the signature of one fits the other", tt.name)
		}
	}
}

// Signing bytes have one length and end in the hash of all bytes, so they are
// the same only if SHA-256 of two texts is.
func TestSigningBytes(t *testing.T) {
	d := mustParse(t, shop(t))
	h := d.Hash()
	want := append([]byte("zos/deployment/1\x00"), h[:]...)
	if got := SigningBytes(h); !bytes.Equal(got, want) || len(got) != 49 {
		t.Errorf("SigningBytes = %x, want %x", got, want)
	}
	key := identity.FromSeed([32]byte{})
	sig, err := d.Sign(17, key, 3)
	if err != nil || sig.Signature.Key != 3 {
		t.Fatal(sig, err)
	}
	if err := sig.Signature.Verify(key.Public(), identity.TagDeployment, h[:]); err != nil {
		t.Error(err)
	}
}

func TestProblemsHaveTheirPlace(t *testing.T) {
	for _, tt := range []struct{ src, path, want string }{
		{with(t, `"memory":2147483648`, `"memory":1`), "workloads[1].data.compute_capacity.memory", "1 is too small; at least 16777216 (16 MiB)"},
		{with(t, `"type":"volume"`, `"type":"volumes"`), "workloads[0].type", `did you mean "volume"?`},
		{with(t, `"twin_id":17,"contract`, `"Twin_id":17,"contract`), "Twin_id", `unknown key "Twin_id"; did you mean "twin_id"?`},
		{with(t, `"entrypoint"`, `"entrypiont"`), "workloads[1].data.entrypiont", `did you mean "entrypoint"?`},
		{with(t, `"size":10737418240`, `"size":"10 GiB"`), "workloads[0].data.size", "units are for YAML only"},
		{with(t, `"MODE":"prod"`, `"MODE":1`), "workloads[1].data.env.MODE", "put it in quotes"},
		{with(t, `{"size":10737418240}`, `{}`), "workloads[0].data", "size is missing"},
		{with(t, `"name":"data","mountpoint"`, `"name":"date","mountpoint"`), "workloads[1].data.mounts[0].name", "did you mean data?"},
		{with(t, `"/data"`, `"/proc/x"`), "workloads[1].data.mounts[0].mountpoint", "/proc"},
		{with(t, `"/data"`, `"/data/"`), "workloads[1].data.mounts[0].mountpoint", "write /data"},
		{with(t, `"network":"net0","ip"`, `"network":"net1","ip"`), "workloads[1].data.network.interfaces[0].network", "not listed in networks"},
		{with(t, "10.7.3.20", "10.7.3.251"), "workloads[1].data.network.interfaces[0].ip", "10.x.y.2 to 10.x.y.250"},
		{with(t, `"weight_required":1`, `"weight_required":2`), "signature_requirement.weight_required", "never be reached"},
		{with(t, `"contract_id":285212675`, `"contract_id":285212675000`), "contract_id", "belongs to party"},
		{with(t, `"contract_id":285212674`, `"contract_id":50331650`), "networks[0].contract_id", "same owner"},
		{with(t, `"size":0`, `"size":1073741824`), "workloads[1].data.size", "needs sealed: off"},
		{with(t, `{"sealed":"AAAA"}`, `{"env":"X"}`), "workloads[1].data.secrets.PGPASS.env", "only a draft"},
		{with(t, `"node_id":42,`, ``), "", "node_id is missing"},
		{deployment(1, "", w(1, "m", "vm", virt(1<<30, `,"gpu":["0000:28:00.0/1002/731f"]`))+","+w(1, "n", "vm", virt(1<<30, `,"gpu":["0000:28:00.0/1002/731f"]`))), "workloads[1].data.gpu[0]", "belongs to m already"},
		{deployment(1, "", w(1, "d", "zmount", `{"size":1073741824}`)+","+w(1, "m", "vm", virt(1<<30, `,"disks":["d"]`))+","+w(1, "n", "vm", virt(1<<30, `,"disks":["d"]`))), "workloads[2].data.disks[0]", "belongs to vm m already"},
		{deployment(1, "", w(1, "m", "vm", strings.Replace(virt(1<<30, ""), "536870912", "104857600", 1))), "workloads[0].data.compute_capacity.memory", "104857600 is too small; at least 262144000 (250 MiB)"},
		{deployment(1, "", w(1, "c", "container", ctr(`,"mounts":[{"scratch":1048576,"mountpoint":"/a"},{"scratch":1048576,"mountpoint":"/a/b"}]`))), "workloads[0].data.mounts[1].mountpoint", "one inside the other"},
		{deployment(1, "", w(1, "c", "container", ctr(`,"mounts":[{"mountpoint":"/a"}]`))), "workloads[0].data.mounts[0]", "either name"},
		{deployment(1, "", w(1, "c", "container", ctr(`,"gpu":["0000:28:00.0/1002/731f"]`))), "workloads[0].data.gpu", "need isolation: vm"},
		{deployment(1, "", w(1, "c", "container", ctr(`,"env":{"A":"x"},"secrets":{"A":{"sealed":"AAAA"}}`))), "workloads[0].data.secrets.A", "is in env too"},
		{deployment(1, "", w(1, "c", "container", ctr(`,"env":{"A":"`+strings.Repeat("x", 20000)+`","B":"`+strings.Repeat("x", 20000)+`"}`))), "workloads[0].data.env", "at most 32768"},
		{deployment(1, "", w(1, "c", "container", ctr(""))+","+w(1, "c", "container", ctr(""))), "workloads[1].name", "names are unique"},
		{deployment(1, "", w(1, "c", "container", ctr(`,"network":{"interfaces":[{"network":"net0","ip":"10.7.3.20"}]}`))+","+w(1, "e", "container", ctr(`,"network":{"interfaces":[{"network":"net0","ip":"10.7.3.20"}]}`))), "workloads[1].data.network.interfaces[0].ip", "address of workload c already"},
		{deployment(1, "", w(1, "c", "container", ctr(`,"network":{"interfaces":[{"network":"net0","ip":"10.7.3.20"}]}`))+","+w(1, "e", "container", ctr(`,"network":{"interfaces":[{"network":"net0","ip":"10.7.4.20"}]}`))), "workloads[1].data.network.interfaces[0].ip", "not in 10.7.3.0/24"},
		{deployment(1, "", w(1, "v", "volume", `{"size":67108864}`)+","+w(1, "i", "ip", `{"family":"v4","target":"v"}`)), "workloads[1].data.target", "is a volume; here must be a container or vm"},
		{deployment(1, "", w(1, "i", "ip", `{"family":"v4","ports":["tcp/70000"],"target":"x"}`)), "workloads[0].data.ports[0]", "1 to 65535"},
		{deployment(1, "", w(1, "c", "container", ctr(""))+","+w(1, "l", "zlogs", `{"target":"c","output":"ws://logs.example/x"}`)), "workloads[1].data.output", "not encrypted"},
		{deployment(1, "", w(1, "c", "container", ctr(""))+","+w(1, "l", "zlogs", `{"target":"c","output":"wss://u:p@logs.example/x"}`)), "workloads[1].data.output", "a password in the URL"},
		{deployment(1, "", w(1, "g", "gateway-name-proxy", `{"name":"xn--80ak6aa92e","tls":"terminate","backends":[{"network":"net0","addr":"10.7.3.2","port":80}]}`)), "workloads[0].data.name", "punycode"},
		{deployment(1, "", w(1, "g", "gateway-name-proxy", `{"name":"shop","backends":[{"network":"net0","addr":"10.7.3.2","port":80}]}`)), "workloads[0].data", "tls is missing"},
		{deployment(1, "", w(1, "n", "network", `{"nodes":[{"node":7,"index":3}]}`)), "node_id", "leave node_id out"},
		{network(1, `{"nodes":[{"node":7,"index":3},{"node":8,"index":3}]}`), "workloads[0].data.nodes[1].index", "belongs to node 7 already"},
		{network(1, `{"nodes":[{"node":7,"index":255}]}`), "workloads[0].data.nodes[0].index", "at most 254"},
		{network(1, `{"range4":"10.300.0.0/16","nodes":[{"node":7,"index":3}]}`), "workloads[0].data.range4", "must be a /16 inside 10.0.0.0/8"},
		{with(t, `"description":"shop"`, `"description":"`+strings.Repeat("ü", 300)+`"`), "description", "has 600 bytes; at most 512"},
		{with(t, `{"MODE":"prod"}`, "{"+many(129)+"}"), "workloads[1].data.env", "has 129 keys; 0 to 128"},
		{with(t, `{"MODE":"prod"}`, "{"+many(128)+"}"), "workloads[1].data.env", "have 129 keys; at most 128"},
		{with(t, `{"MODE":"prod"}`, "{"+many(40)+`,"K20":"again"}`), "workloads[1].data.env.K20", "duplicate key"},
		{with(t, `"workloads":`, `"destroy":["a","b","a"],"workloads":`), "destroy[2]", `"a" stands twice`},
		{deployment(1, "", w(1, "q", "qsfs", qsfs(2, 2, 2, ""))), "workloads[0].data.config.expected_shards", "must be more than minimal_shards (2)"},
		{deployment(1, "", w(1, "q", "qsfs", qsfs(2, 4, 3, ""))), "workloads[0].data.config.groups", "3 backends are too few for 4 shards"},
		{deployment(1, "", w(1, "q", "qsfs", qsfs(2, 4, 4, `,"survive":{"nodes":3}`))), "workloads[0].data.survive.nodes", "so 2 may be lost"},
		{deployment(1, "", w(1, "q", "qsfs", strings.Replace(qsfs(2, 4, 4, ""), `"groups"`, `"redundant_groups":1,"groups"`, 1))), "workloads[0].data.config.redundant_groups", "1 of 1 groups"},
		{deployment(1, "", w(1, "q", "qsfs", strings.Replace(qsfs(2, 4, 4, ""), "n3", "n2", 1))), "workloads[0].data.config.groups[0].backends[3]", "stands twice"},
		{deployment(1, "", w(1, "q", "qsfs", strings.Replace(qsfs(2, 4, 4, ""), "[fd5a::1]:9910", "[fd5a:0::1]:9910", 1))), "workloads[0].data.config.groups[0].backends[0].address", "not an address and port"},
		{network(1, `{"nodes":[{"node":7,"index":3}],"access":[`+laptop("a", 2, 7)+`,`+laptop("b", 2, 7)+`]}`), "workloads[0].data.access[1].host", "belongs to access a already"},
		{network(1, `{"nodes":[{"node":7,"index":3}],"access":[`+laptop("a", 2, 7)+`],"gateways":[{"node":9,"host":2,"allow":[{"addr":"10.7.3.2","proto":"tcp","port":80}]}]}`), "workloads[0].data.gateways[0].host", "belongs to access a already"},
		{network(1, `{"nodes":[{"node":7,"index":3}],"access":[`+laptop("a", 2, 8)+`]}`), "workloads[0].data.access[0].via[0]", "not a member"},
		{network(1, `{"nodes":[{"node":7,"index":3}],"gateways":[{"node":9,"host":2,"allow":[{"addr":"10.7.3.02","proto":"tcp","port":80}]}]}`), "workloads[0].data.gateways[0].allow[0].addr", "usual spelling"},
		{network(1, `{"nodes":[{"node":7,"index":3}],"egress":{"nodes":[8]}}`), "workloads[0].data.egress.nodes[0]", "not a member"},
	} {
		_, err := Parse([]byte(tt.src), Final)
		var ps Problems
		if !errors.As(err, &ps) {
			t.Errorf("%s: accepted", tt.path)
			continue
		}
		found := false
		for _, p := range ps {
			found = found || p.Path == tt.path && strings.Contains(p.Message, tt.want) && p.Line > 0
		}
		if !found {
			t.Errorf("%v, want %q: %q", err, tt.path, tt.want)
		}
	}
}

func TestAllProblemsAreReported(t *testing.T) {
	_, err := Parse([]byte(with(t, `"memory":2147483648`, `"memory":1`, `"size":10737418240`, `"size":1`, `"twin_id":17,"contract`, `"twin_id":0,"contract`)), Final)
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != 3 || !(ps[0].Byte < ps[1].Byte && ps[1].Byte < ps[2].Byte) {
		t.Errorf("%v, want three problems in the order of the text", err)
	}
}
