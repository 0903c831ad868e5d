package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

func TestCreditsAreRead(t *testing.T) {
	for text, want := range map[string]uint64{"1.5": 1_500_000_000, "1.5 credits": 1_500_000_000, "1 credit": chain.Credit, "0": 0, "0.000000001": 1,
		"18446744073.709551615": ^uint64(0), "007": 7 * chain.Credit, " 2 ": 2 * chain.Credit} {
		if got, err := parseCredits("amount", text); err != nil || got != want {
			t.Errorf("parseCredits(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1e3", "1/2", "1,5", ".5", "5.", "0.0000000001", "18446744073.709551616", "99999999999999999999", "NaN", "1 USD", "0x10", "1_000"} {
		if got, err := parseCredits("amount", text); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "amount") {
			t.Errorf("parseCredits(%q) = %d, %v", text, got, err)
		}
	}
}

// What is shown is what is read, and the other way round.
func TestCreditsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Uint64().Draw(rt, "n")
		if got, err := parseCredits("amount", credits(n)); err != nil || got != n {
			rt.Fatalf("%d is shown as %q, which is read as %d, %v", n, credits(n), got, err)
		}
		rate := rapid.Uint64Max(1<<50).Draw(rt, "rate")
		if got, err := parseRate("price", strings.TrimSuffix(hourly(rate), " credits/h")); err != nil || got != rate {
			rt.Fatalf("%d is shown as %q, which is read as %d, %v", rate, hourly(rate), got, err)
		}
		s := rapid.Int64Range(0, 1<<40).Draw(rt, "seconds")
		if span(s) == "" || strings.Contains(span(s), "-") {
			rt.Fatalf("span(%d) = %q", s, span(s))
		}
	})
}

func TestRatesAreRead(t *testing.T) {
	for text, want := range map[string]uint64{"3.6": 1_000_000_000, "3.6/h": 1_000_000_000, "3.6 credits/h": 1_000_000_000, "0.001/s": 1_000_000_000,
		"86.4/day": 1_000_000_000, "2592/month": 1_000_000_000, "0": 0, "0.0000000018": 1, "0.0000000017": 0} {
		if got, err := parseRate("price", text); err != nil || got != want {
			t.Errorf("parseRate(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "/h", "1/year", "-1/h", "1//h", "1/h/h", "x", "99999999999999999999/s"} {
		if got, err := parseRate("price", text); !errors.Is(err, fault.Invalid) {
			t.Errorf("parseRate(%q) = %d, %v", text, got, err)
		}
	}
}

func TestTimesAreRead(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for text, want := range map[string]int64{"30d": 30 * 86400, "1h30m": 5400, "0s": 0, "2027-01-15T08:00:01Z": 1} {
		if got, err := when("at", text, now); err != nil || got != now.Unix()+want {
			t.Errorf("when(%q) = %d, %v, want now + %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1h", "1.5s", "d", "1e3d", "tomorrow", "1960-01-01T00:00:00Z", "99999999d"} {
		if got, err := when("at", text, now); !errors.Is(err, fault.Invalid) {
			t.Errorf("when(%q) = %d, %v", text, got, err)
		}
	}
	for s, want := range map[int64]string{0: "0 seconds", 1: "1 second", 61: "1 minute 1 second", 3600: "1 hour", 90061: "1 day 1 hour", 86401: "1 day"} {
		if got := span(s); got != want {
			t.Errorf("span(%d) = %q, want %q", s, got, want)
		}
	}
}

func TestBillsAddUp(t *testing.T) {
	c := &chain.Contract{ID: 7<<24 | 1, State: chain.StateClosed, Split: []chain.Share{{Party: 9, PPM: 100_000}}, Money: chain.Money{Paid: 1000}}
	event := func(kind string, amount uint64) chain.Bill {
		return chain.Bill{Event: chain.Event{Type: kind, Amount: amount}}
	}
	bills := []chain.Bill{event("contract.created", 5000), event("contract.funded", 500), event("contract.billed", 700), event("contract.billed", 200),
		event("usage.reported", 100), event("usage.paid", 100), event("contract.closed", 4400)}
	s, err := itemise(c, bills, &chain.Params{Protocol: 50_000}, 3)
	if err != nil {
		t.Fatal(err)
	}
	if want := (totals{In: 5500, Paid: 1000, Refund: 4400, Fees: 100}); s.Totals != want {
		t.Errorf("totals %+v, want %+v", s.Totals, want)
	}
	// 5 % of 1000; of the 855 left of 900 a tenth, each settlement rounded down;
	// the farm has the rest.
	var shares uint64
	got := map[string]uint64{}
	for _, p := range s.Shares {
		shares += p.Amount
		got[p.Who] = p.Amount
	}
	if shares != s.Totals.Paid || got["farm"] != 865 || got["share of 10 %"] != 85 || got["protocol, 5 %"] != 50 {
		t.Errorf("shares %v add up to %d, want %d", got, shares, s.Totals.Paid)
	}
	// A server that came later knows only what happened since.
	if s, err := itemise(c, bills[3:], &chain.Params{}, 3); err != nil || s.Totals.Before != 700 || s.Totals.In != 5400 || s.Totals.Fees != 0 {
		t.Errorf("half a history: %+v, %v, want 700 paid before", s, err)
	}
	// A server that hides a line, or invents one, is noticed.
	for name, lie := range map[string][]chain.Bill{
		"a settlement is missing":  append(append([]chain.Bill{}, bills[:2]...), bills[3:]...),
		"a settlement is invented": append(append([]chain.Bill{}, bills...), event("contract.billed", 1)),
		"a top-up is missing":      append(append([]chain.Bill{}, bills[:1]...), bills[2:]...),
	} {
		if _, err := itemise(c, lie, &chain.Params{}, 3); err == nil {
			t.Errorf("%s: it adds up", name)
		}
	}
}

// stub is a chain server that answers what it is told and counts transactions.
type stub struct {
	chain    string
	sequence uint64 // of the account, as the server says
	refuse   int    // transactions with a wrong sequence that are refused
	sent     []*chain.Tx
	key      identity.PublicKey
	contract map[string]any
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(v any) { json.NewEncoder(w).Encode(v) }
	switch {
	case r.URL.Path == "/v1/status":
		answer(chain.Status{Chain: s.chain, Height: 9, Time: 500})
	case r.URL.Path == "/v1/contracts/7-1":
		answer(s.contract)
	case r.URL.Path == "/v1/params":
		answer(chain.Params{Fees: []chain.Fee{{Code: 0, Fee: 3}, {Code: 501, Fee: 5}}})
	case strings.HasPrefix(r.URL.Path, "/v1/keys/"):
		answer(chain.AddressAnswer{Party: 7})
	case r.URL.Path == "/v1/parties/7":
		answer(chain.PartyAnswer{Party: chain.Party{ID: 7, Keys: []chain.Key{{Index: 4, Key: s.key, Role: identity.RoleFull}}}, Account: chain.Account{Sequence: s.sequence}})
	case r.URL.Path == "/v1/tx":
		b, _ := io.ReadAll(r.Body)
		tx, err := chain.Decode(b)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.sent = append(s.sent, tx)
		if len(s.sent) <= s.refuse {
			s.sequence++
			w.WriteHeader(http.StatusConflict)
			answer(chain.Problem{Kind: "conflict", Detail: "sequence 1 of party 7: the next is 2"})
			return
		}
		answer(chain.TxAnswer{Height: 10})
	default:
		http.NotFound(w, r)
	}
}

// gridRun runs zos against a server, with the data of dir.
func gridRun(t *testing.T, dir, url string, s *stub, args ...string) (code int, log string) {
	t.Helper()
	k := identity.FromSeed([32]byte{1})
	s.key = k.Public()
	path := filepath.Join(dir, "key")
	if err := k.Save(path); err != nil && !errors.Is(err, fault.Conflict) {
		t.Fatal(err)
	}
	env := map[string]string{"HOME": dir, "ZOS_DATA": dir, "ZOS_KEY": path, "ZOS_CONFIG": os.DevNull, "ZOS_CHAIN": url}
	var stderr bytes.Buffer
	code = run(context.Background(), func(k string) string { return env[k] }, args, strings.NewReader(""), io.Discard, &stderr)
	return code, stderr.String()
}

// A sequence that another program used up meanwhile is asked for anew, once.
func TestSequenceIsRetriedOnce(t *testing.T) {
	dir := t.TempDir()
	for refuse, want := range map[int]struct{ code, sent int }{0: {exitOK, 1}, 1: {exitOK, 2}, 2: {5, 2}} {
		s := &stub{chain: "test-1", refuse: refuse}
		server := httptest.NewServer(s)
		defer server.Close()
		code, log := gridRun(t, dir, server.URL, s, "credit", "send", "9", "1.5")
		if code != want.code || len(s.sent) != want.sent {
			t.Errorf("refused %d times: exit code %d after %d transactions, want %d after %d: %s", refuse, code, len(s.sent), want.code, want.sent, log)
		}
		for i, tx := range s.sent {
			if tx.Body.Sequence != uint64(i+1) || tx.Body.FeeLimit != 5 || tx.Signatures[0].Key != 4 || tx.Body.Chain != "test-1" {
				t.Errorf("transaction %d: %+v", i, tx.Body)
			}
		}
	}
}

// A server can't get a signature for another chain by changing its mind.
func TestChainOfAServerIsRemembered(t *testing.T) {
	dir := t.TempDir()
	s := &stub{chain: "test-1"}
	server := httptest.NewServer(s)
	defer server.Close()
	if code, log := gridRun(t, dir, server.URL, s, "credit", "send", "9", "1"); code != exitOK {
		t.Fatalf("exit code %d: %s", code, log)
	}
	s.chain = "grid-1"
	code, log := gridRun(t, dir, server.URL, s, "credit", "send", "9", "1")
	if code != 4 || !strings.Contains(log, "was of chain test-1") || len(s.sent) != 1 {
		t.Errorf("another chain: exit code %d after %d transactions: %s", code, len(s.sent), log)
	}
	if code, log := gridRun(t, dir, server.URL, s, "credit", "send", "9", "1", "--chain", "grid-1"); code != exitOK || len(s.sent) != 2 {
		t.Errorf("with --chain: exit code %d: %s", code, log)
	}
	for _, bad := range []string{"", "../../x", "Grid", strings.Repeat("a", 51)} {
		s.chain = bad
		if code, log := gridRun(t, dir, server.URL, s, "credit", "balance"); code != 1 || !strings.Contains(log, "no id of a chain") {
			t.Errorf("chain %q: exit code %d: %s", bad, code, log)
		}
	}
}

func TestFeesAreFound(t *testing.T) {
	dir := t.TempDir()
	s := &stub{chain: "test-1"}
	server := httptest.NewServer(s)
	defer server.Close()
	// A proposal costs itself and what is in it.
	if code, log := gridRun(t, dir, server.URL, s, "credit", "send", "9", "1", "--group", "8"); code != exitOK {
		t.Fatalf("exit code %d: %s", code, log)
	}
	if got := s.sent[0].Body.FeeLimit; got != 8 {
		t.Errorf("the fee limit of a proposal is %d, want 3 + 5", got)
	}
}

// Usage is reported from the last report on, without a gap.
func TestUsageIsReportedFromTheLastReport(t *testing.T) {
	dir := t.TempDir()
	for usage, from := range map[int64]int64{0: 100, 300: 300} {
		s := &stub{chain: "test-1", contract: map[string]any{"id": 7<<24 | 1, "created": 100}}
		server := httptest.NewServer(s)
		defer server.Close()
		s.contract["agreed"] = chain.Version{Version: 1}
		if usage > 0 {
			s.contract["usage"] = usage
		}
		if code, log := gridRun(t, dir, server.URL, s, "node", "usage", "7/1", "--egress", "2GiB"); code != exitOK {
			t.Fatalf("exit code %d: %s", code, log)
		}
		m, ok := s.sent[0].Messages[0].(*chain.ReportUsage)
		if want := (chain.ReportUsage{ID: 7<<24 | 1, From: from, To: 500, Egress: 2 << 30}); !ok || *m != want {
			t.Errorf("reported %+v, want %+v", m, want)
		}
	}
}

func FuzzGridFiles(f *testing.F) {
	wire, err := chain.Sign(chain.Body{Chain: "test-1", Party: 7, Sequence: 1, Expires: 9, Sponsor: 8, Messages: chain.Pack(&chain.Send{To: 9, Amount: 1})}, chain.Signer{Key: identity.FromSeed([32]byte{1})})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add([]byte(`{"ticket":"a0","signature":{"key":0,"algorithm":1,"bytes":""},"about":{}}`))
	f.Add([]byte(`{"chain":"a","group":5,"sequence":1,"expires":1,"messages":[{"type":"Send","to":1,"amount":1}],"consents":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseTx(b); err == nil && (len(s.body.Messages) == 0 || s.body.Version != 1) {
			t.Errorf("a transaction of nothing is read: %+v", s.body)
		}
		if x, err := parseTicket(b); err == nil && x.About.Chain == "" && len(x.Ticket) == 0 {
			t.Error("a ticket of nothing is read")
		}
		var a approvalFile
		_ = parseJSON(b, &a)
	})
}

func FuzzAmounts(f *testing.F) {
	for _, s := range []string{"1.5", "1.5 credits", "3.6/h", "30d", "812:" + strings.Repeat("9f", 32), "2,must=3+4,delay=1h,expiry=7d,limit=5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseCredits("x", s); err == nil {
			if again, err := parseCredits("x", credits(n)); err != nil || again != n {
				t.Errorf("%q is %d, which is shown as %q", s, n, credits(n))
			}
		}
		_, _ = parseRate("x", s)
		_, _ = when("x", s, time.Unix(1, 0))
		_, _ = parseTrust(s)
		_, _ = parsePolicy(chain.ClassSpend, s, 1)
		_, _ = parseSplit([]string{s})
	})
}
