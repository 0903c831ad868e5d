package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/chain"
	"zos.internal/identity"
)

var update = flag.Bool("update", false, "write golden files")

func get(t testing.TB, url string, into any) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatalf("GET %s = %s: %v", url, b, err)
		}
	}
	return resp.StatusCode
}

func post(t testing.TB, url string, body []byte) (chain.TxAnswer, chain.Problem) {
	t.Helper()
	resp, err := http.Post(url+"/v1/tx", "application/cbor", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a chain.TxAnswer
	var p chain.Problem
	if resp.StatusCode == http.StatusOK {
		err = json.NewDecoder(resp.Body).Decode(&a)
	} else {
		err = json.NewDecoder(resp.Body).Decode(&p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, p
}

func TestHTTP(t *testing.T) {
	dir, faucet := newChain(t)
	n := start(t, testConfig(t, dir))
	s := serveTest(t, n)
	wire, key := joinTx(t)
	a, p := post(t, s.URL, wire)
	if a.Kind != "" || a.Height == 0 {
		t.Fatalf("POST tx = %+v, %+v", a, p)
	}
	if again, p := post(t, s.URL, wire); again.ID != a.ID || again.Height != a.Height {
		t.Errorf("POST of the same bytes = %+v, %+v, want the first answer", again, p)
	}
	farm, p := post(t, s.URL, sign(t, faucet, 1, 1, &chain.CreateFarm{Name: "north-1", Terms: chain.Terms{NoticeDays: 30}}))
	if farm.Kind != "" {
		t.Fatalf("CreateFarm = %+v, %+v", farm, p)
	}
	netID, err := identity.NewContractID(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if a, p := post(t, s.URL, sign(t, faucet, 1, 2, &chain.CreateNameContract{ID: netID, Name: "shop", Deposit: chain.Credit})); a.Kind != "" || p.Kind != "" {
		t.Fatalf("CreateNameContract = %+v, %+v", a, p)
	}

	var party chain.PartyAnswer
	if code := get(t, s.URL+"/v1/parties/2", &party); code != 200 || party.ID != 2 || party.Keys[0].Key != key.Public() {
		t.Errorf("GET parties/2 = %d %+v", code, party)
	}
	var address chain.AddressAnswer
	get(t, s.URL+"/v1/keys/"+key.Public().Address().String(), &address)
	if address.Party != 2 {
		t.Errorf("GET keys/ADDRESS = %+v, want party 2", address)
	}
	get(t, s.URL+"/v1/keys/"+key.Public().String(), &address)
	if address.Party != 2 {
		t.Errorf("GET keys/KEY = %+v, want party 2", address)
	}
	var f chain.Farm
	if get(t, s.URL+"/v1/farms/north-1", &f); f.ID != 1 || f.Owner != 1 {
		t.Errorf("GET farms/north-1 = %+v", f)
	}
	var farms chain.Page[chain.Farm]
	if get(t, s.URL+"/v1/farms?owner=1", &farms); len(farms.Items) != 1 || farms.Next != "" {
		t.Errorf("GET farms?owner=1 = %+v", farms)
	}
	var contracts chain.Page[chain.Contract]
	if get(t, s.URL+"/v1/contracts?owner=1&state=live", &contracts); len(contracts.Items) != 1 || contracts.Items[0].ID != netID {
		t.Errorf("GET contracts?owner=1 = %+v", contracts)
	}
	var bills chain.Page[chain.Bill]
	if get(t, s.URL+"/v1/contracts/1-1/bills", &bills); len(bills.Items) == 0 || bills.Items[0].Type != "contract.created" {
		t.Errorf("GET bills = %+v", bills)
	}
	var runway chain.Runway
	if code := get(t, s.URL+"/v1/contracts/1-1/runway", &runway); code != 200 || runway.Contract != netID {
		t.Errorf("GET runway = %d %+v", code, runway)
	}
	var supply chain.SupplyAnswer
	if get(t, s.URL+"/v1/supply", &supply); supply.Supply != 1000*chain.Credit {
		t.Errorf("GET supply = %+v", supply)
	}
	var block chain.BlockAnswer
	if get(t, fmt.Sprintf("%s/v1/blocks/%d", s.URL, a.Height), &block); len(block.Txs) != 1 || block.Txs[0].ID != a.ID || block.Hash == (chain.Hash{}) {
		t.Errorf("GET block = %+v", block)
	}
	var blocks chain.Page[chain.BlockAnswer]
	if get(t, s.URL+"/v1/blocks?limit=2", &blocks); len(blocks.Items) != 2 || blocks.Next == "" {
		t.Errorf("GET blocks = %+v", blocks)
	}
	var record chain.TxRecord
	if get(t, s.URL+"/v1/tx/"+a.ID.String(), &record); record.Height != a.Height || record.Body == nil || len(record.Body.Messages) != 1 {
		t.Errorf("GET tx = %+v", record)
	}
	var status chain.Status
	if get(t, s.URL+"/v1/status", &status); status.Chain != "test-1" || status.Height < a.Height || status.Validators != 1 {
		t.Errorf("GET status = %+v", status)
	}
	var proven chain.Proven[*chain.PartyAnswer]
	if get(t, fmt.Sprintf("%s/v1/parties/2?proof=1&height=%d", s.URL, a.Height), &proven); proven.Value == nil || proven.Value.ID != 2 || !verify(t, n, proven.Proof) {
		t.Errorf("GET parties/2?proof=1 = %+v", proven.Value)
	}
	proven.Value = nil
	if get(t, s.URL+"/v1/parties/99?proof=1", &proven); proven.Value != nil || !verify(t, n, proven.Proof) {
		t.Errorf("GET parties/99?proof=1 = %+v, want a proof of absence", proven.Value)
	}
	var proof chain.Proof
	if get(t, fmt.Sprintf("%s/v1/proof?key=%x&key=%x", s.URL, chain.MetaKey(), chain.PartyKey(2)), &proof); len(proof.Records) != 2 || !verify(t, n, proof) {
		t.Errorf("GET proof = %+v", proof)
	}
	var page chain.Page[chain.Farm]
	if get(t, s.URL+"/v1/nodes?online=1&cru=1000", &page); len(page.Items) != 0 {
		t.Errorf("GET nodes = %+v", page)
	}
}

func TestHTTPRefusals(t *testing.T) {
	dir, _ := newChain(t)
	n := start(t, testConfig(t, dir))
	s := serveTest(t, n)
	until(t, n, 1)
	for _, tc := range []struct {
		path string
		code int
		says string
	}{
		{"/", 404, "openapi"},
		{"/v1/parties/99", 404, "party 99"},
		{"/v1/parties/x", 400, `"x"`},
		{"/v1/parties/0", 400, "party"},
		{"/v1/parties/1?proof=yes", 400, "proof"},
		{"/v1/parties/1?proof=1&height=-4", 400, "height"},
		{"/v1/parties/1?proof=1&height=99999", 404, "99999"},
		{"/v1/groups/1", 404, "no group"},
		{"/v1/keys/zos1nope", 400, "address"},
		{"/v1/farms/none", 404, "none"},
		{"/v1/contracts", 400, "owner"},
		{"/v1/contracts?owner=-1", 400, "owner"},
		{"/v1/contracts/1-0", 400, "contract"},
		{"/v1/contracts/1-7/bills", 404, "1/7"},
		{"/v1/contracts/1-7/bills?cursor=x", 400, "cursor"},
		{"/v1/nodes?limit=100000", 400, "limit"},
		{"/v1/nodes?cursor=x", 400, "cursor"},
		{"/v1/proposals", 400, "group"},
		{"/v1/support", 400, "node"},
		{"/v1/blocks/999999", 404, "999999"},
		{"/v1/light/999999", 404, "999999"},
		{"/v1/tx/zz", 400, "id"},
		{"/v1/tx/" + strings.Repeat("00", 32), 404, "no block"},
		{"/v1/proof", 400, "key"},
		{"/v1/proof?key=xyz", 400, "xyz"},
		{"/v1/proof?" + strings.Repeat("key=00&", 65), 400, "65"},
		{"/v1/events?from=99999", 400, "99999"},
		{"/v1/events?from=x", 400, "from"},
		{"/v1/upgrade", 404, "upgrade"},
		{"/v1/names/" + strings.Repeat("a", 80), 400, "name"},
		{"/v1/releases/acme/zos", 404, "acme/zos"},
	} {
		var p chain.Problem
		code := get(t, s.URL+tc.path, &p)
		if code != tc.code || p.Status != tc.code || !strings.Contains(p.Detail, tc.says) {
			t.Errorf("GET %s = %d %+v, want %d and %q", tc.path, code, p, tc.code, tc.says)
		}
	}
	if _, p := post(t, s.URL, bytes.Repeat([]byte{1}, chain.MaxTx+1)); p.Status != 400 {
		t.Errorf("POST of too much = %+v", p)
	}
	if _, p := post(t, s.URL, []byte("nope")); p.Kind != "invalid" {
		t.Errorf("POST of noise = %+v", p)
	}
	resp, err := http.Post(s.URL+"/v1/tx", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("POST of JSON = %d", resp.StatusCode)
	}
	resp, err = http.Post(s.URL+"/v1/status", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 501 || resp.Header.Get("Allow") != "GET" {
		t.Errorf("POST status = %d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
}

// stream reads n blocks of events.
func stream(t testing.TB, url, last string, n int) []chain.BlockEvents {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("GET %s = %d %s", url, resp.StatusCode, b)
	}
	var out []chain.BlockEvents
	lines := bufio.NewScanner(resp.Body)
	for len(out) < n && lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var b chain.BlockEvents
			if err := json.Unmarshal([]byte(text), &b); err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
	}
	return out
}

func TestEventsGoOnWhereTheyWere(t *testing.T) {
	dir, faucet := newChain(t)
	n := start(t, testConfig(t, dir))
	s := serveTest(t, n)
	var heights []uint64
	for range 3 {
		wire, _ := joinTx(t)
		heights = append(heights, submit(t, n, wire).Height)
	}
	heights = append(heights, submit(t, n, sign(t, faucet, 1, 1, &chain.Send{To: 2, Amount: 5})).Height)
	at := func(bs []chain.BlockEvents) (out []uint64) {
		for _, b := range bs {
			out = append(out, b.Height)
		}
		return out
	}
	if got := at(stream(t, s.URL+"/v1/events?from=1", "", 4)); !cmp.Equal(got, heights) {
		t.Errorf("events from 1 are of blocks %v, want %v", got, heights)
	}
	if got := at(stream(t, s.URL+"/v1/events", fmt.Sprint(heights[1]), 2)); !cmp.Equal(got, heights[2:]) {
		t.Errorf("events after Last-Event-ID %d are of blocks %v, want %v", heights[1], got, heights[2:])
	}
	if got := at(stream(t, s.URL+"/v1/events?from=1&topic=credits.,nothing", "", 1)); !cmp.Equal(got, heights[3:]) {
		t.Errorf("events about credits are of blocks %v, want %v", got, heights[3:])
	}
	// A reader that is there already is told of the next block.
	got := make(chan []chain.BlockEvents, 1)
	go func() { got <- stream(t, fmt.Sprintf("%s/v1/events?from=%d", s.URL, heights[3]), "", 2) }()
	wire, _ := joinTx(t)
	h := submit(t, n, wire).Height
	if b := <-got; len(b) != 2 || b[1].Height != h || b[1].Events[0].Tx == nil {
		t.Errorf("the stream gave %+v, want block %d", b, h)
	}
}

func TestTooManyStreamsAreRefused(t *testing.T) {
	dir, _ := newChain(t)
	n := start(t, testConfig(t, dir))
	until(t, n, 1)
	s := &server{n: n}
	s.streams.Store(maxStreams)
	h := s.mux()
	w := &recorder{header: make(http.Header)}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(w, req)
	if w.code != http.StatusServiceUnavailable || s.streams.Load() != maxStreams {
		t.Errorf("one stream too many = %d, %d are counted", w.code, s.streams.Load())
	}
}

type recorder struct {
	header http.Header
	code   int
	bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(c int)   { r.code = c }

// The index may be deleted at any time.
func TestTheIndexIsMadeAnew(t *testing.T) {
	dir, faucet := newChain(t)
	n, err := Start(t.Context(), testConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	wire, _ := joinTx(t)
	a := submit(t, n, wire)
	submit(t, n, sign(t, faucet, 1, 1, &chain.CreateFarm{Name: "north-1", Terms: chain.Terms{NoticeDays: 30}}))
	dump := func(n *Node) map[string]string {
		out := make(map[string]string)
		if err := n.index.walk(nil, nil, func(k, v []byte) bool {
			if string(k) != ixHeight {
				out[string(k)] = string(v)
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := dump(n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir + "/data/index.db"); err != nil {
		t.Fatal(err)
	}
	n = start(t, testConfig(t, dir))
	if diff := cmp.Diff(dump(n), want); diff != "" {
		t.Errorf("the new index differs (-new +old):\n%s", diff)
	}
	if got, err := n.Tx(a.ID); err != nil || got.Height != a.Height {
		t.Errorf("Tx = %+v, %v", got, err)
	}
}

func TestOpenAPIDocumentIsCurrent(t *testing.T) {
	s := &server{}
	got := document(s.table())
	const path = "../../docs/reference/chain-api.json"
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the server does (-file +server); run with -update:\n%s", path, diff)
	}
}
