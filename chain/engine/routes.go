package engine

import (
	"encoding/json"
	"net/http"
	"strings"

	"zos.internal/chain"
	"zos.internal/internal/fault"
	"zos.internal/workload"
)

// route is one operation. The mux and the OpenAPI document are both made from
// the table, so neither can forget one.
type route struct {
	method  string
	pattern string
	summary string
	query   []param
	proof   bool   // ?proof=1 is possible
	body    string // media type of the request
	media   string // of the answer; default JSON
	answer  any    // a value of the type of the answer
	handle  func(http.ResponseWriter, *http.Request) (any, error)
}

type param struct{ name, text string }

func (s *server) table() []route {
	page := []param{{"cursor", "where the page before ended"}, {"limit", "entries in a page, 1 to 500, default 50"}}
	more := func(ps ...param) []param { return append(ps, page...) }
	get := func(pattern, summary string, answer any, handle func(*http.Request) (any, error), query ...param) route {
		return route{method: "GET", pattern: pattern, summary: summary, answer: answer, query: query,
			handle: func(_ http.ResponseWriter, r *http.Request) (any, error) { return handle(r) }}
	}
	proven := func(r route) route { r.proof = true; return r }
	return []route{
		proven(get("/v1/parties/{id}", "A twin or a group, with its account", chain.PartyAnswer{}, s.party)),
		proven(get("/v1/groups/{id}", "A group, with its account", chain.PartyAnswer{}, s.group)),
		proven(get("/v1/keys/{address}", "The party of an address or of a public key that was its first", chain.AddressAnswer{}, s.key)),
		proven(get("/v1/balances/{id}", "The account of a party", chain.Account{}, s.balance)),
		get("/v1/farms", "Farms, rising by id", chain.Page[chain.Farm]{}, s.farms, more(param{"owner", "party"})...),
		proven(get("/v1/farms/{id}", "A farm by its id or name", chain.Farm{}, s.farm)),
		get("/v1/nodes", "Nodes, rising by id", chain.Page[chain.NodeAnswer]{}, s.nodes, more(param{"farm", "id"}, param{"power", "up, standby or down"},
			param{"online", "1: only those that are"}, param{"cru", "least free thousandths of a CPU"}, param{"mru", "least free bytes of memory"},
			param{"sru", "least free bytes of SSD"}, param{"hru", "least free bytes of HDD"})...),
		proven(get("/v1/nodes/{id}", "A node, with its load", chain.NodeAnswer{}, s.node)),
		get("/v1/contracts", "Contracts of an owner or on a node", chain.Page[chain.Contract]{}, s.contracts, more(param{"owner", "party; one of owner and node is needed"},
			param{"node", "party"}, param{"state", "created, active, suspended, closed or live"})...),
		proven(get("/v1/contracts/{id}", "A contract, by its number or OWNER-SERIAL", chain.Contract{}, s.contract)),
		get("/v1/contracts/{id}/bills", "What was billed and what happened to a contract, oldest first", chain.Page[chain.Bill]{}, s.bills, more()...),
		get("/v1/contracts/{id}/runway", "How long a contract can pay", chain.Runway{}, s.runway),
		proven(get("/v1/names/{name}", "Who holds a gateway name", chain.NameHolder{}, s.name)),
		get("/v1/proposals", "Proposals of a group, or of all groups of a member, oldest first", chain.Page[chain.Proposal]{}, s.proposals,
			more(param{"group", "party; one of group and member is needed"}, param{"member", "party"}, param{"state", "open, executed, …"})...),
		proven(get("/v1/proposals/{id}", "A proposal", chain.Proposal{}, s.proposal)),
		get("/v1/support", "Support requests for a node that have not ended", chain.Page[chain.Support]{}, s.supports, param{"node", "party"}),
		proven(get("/v1/support/{id}", "A support request", chain.Support{}, s.support)),
		proven(get("/v1/publishers/{name}", "A publisher", chain.Publisher{}, s.publisher)),
		proven(get("/v1/releases/{publisher}/{name}", "The newest release", chain.Release{}, s.release)),
		get("/v1/supply", "The money of the chain", chain.SupplyAnswer{}, s.supply),
		proven(get("/v1/meta", "What the whole chain shares", chain.Meta{}, s.meta)),
		proven(get("/v1/params", "The parameters", chain.Params{}, s.params)),
		proven(get("/v1/validators", "The validators", chain.Validators{}, s.validators)),
		proven(get("/v1/upgrade", "The scheduled upgrade", chain.Upgrade{}, s.upgrade)),
		get("/v1/status", "The chain and this server", chain.Status{}, s.status),
		get("/v1/blocks", "Blocks, newest first", chain.Page[chain.BlockAnswer]{}, s.blocks, more()...),
		get("/v1/blocks/{height}", "A block", chain.BlockAnswer{}, s.block),
		get("/v1/light/{height}", "A header with commit and validators; 0 is the newest", chain.LightBlock{}, s.light),
		get("/v1/proof", "Any records of one state, with their proofs", chain.Proof{}, s.proofs, param{"key", "hexadecimal; up to 64 times"}, param{"height", "of the last block that must be in the state; default the newest"}),
		get("/v1/tx/{id}", "A transaction in a block", chain.TxRecord{}, s.tx),
		{method: "POST", pattern: "/v1/tx", summary: "Submit a transaction and wait up to 10 s for its block", body: "application/cbor", answer: chain.TxAnswer{}, handle: s.submit},
		{method: "GET", pattern: "/v1/events", summary: "Events by block, as server-sent events whose id is the height", media: "text/event-stream", answer: chain.BlockEvents{},
			query: []param{{"from", "height to begin with; default the next block; Last-Event-ID has the same effect"}, {"topic", "beginnings of event types, separated by commas"}}, handle: s.events},
		get("/v1/schemas/{name}", "The JSON Schema of a document, for editors: deployment, or deployment-draft", map[string]any{}, s.schema),
		{method: "GET", pattern: "/v1/health", summary: "Whether the chain moves", answer: health{}, handle: s.health},
		{method: "GET", pattern: "/v1/openapi.json", summary: "This document", answer: map[string]any{}, handle: func(http.ResponseWriter, *http.Request) (any, error) { return s.doc, nil }},
	}
}

// schema is the JSON Schema of deployment documents.
func (s *server) schema(r *http.Request) (any, error) {
	switch r.PathValue("name") {
	case "deployment":
		return json.RawMessage(workload.Schema(workload.Final)), nil
	case "deployment-draft":
		return json.RawMessage(workload.Schema(workload.Draft)), nil
	}
	return nil, fault.Errorf(fault.NotFound, "schema %.40q: there are deployment and deployment-draft", r.PathValue("name"))
}

// document is the OpenAPI 3.1 description of the table.
func document(table []route) []byte {
	type object = map[string]any
	schemas := newSchemas()
	problem := schemas.of(chain.Problem{})
	paths := object{}
	for _, r := range table {
		item, _ := paths[r.pattern].(object)
		if item == nil {
			item = object{}
			paths[r.pattern] = item
		}
		media := r.media
		if media == "" {
			media = "application/json"
		}
		schema := schemas.of(r.answer)
		var params []object
		for part := range strings.SplitSeq(r.pattern, "/") {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				params = append(params, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
			}
		}
		for _, p := range r.query {
			params = append(params, object{"name": p.name, "in": "query", "description": p.text, "schema": object{"type": "string"}})
		}
		if r.proof {
			params = append(params, object{"name": "proof", "in": "query", "description": "1: the answer is {value, proof}", "schema": object{"type": "string"}})
			params = append(params, object{"name": "height", "in": "query", "description": "with proof: the last block that must be in the state", "schema": object{"type": "string"}})
			schema = object{"oneOf": []object{schema, {"type": "object", "required": []string{"value", "proof"},
				"properties": object{"value": schema, "proof": schemas.of(chain.Proof{})}}}}
		}
		op := object{
			"summary":     r.summary,
			"operationId": strings.ToLower(r.method) + strings.NewReplacer("/v1", "", "/", "_", "{", "", "}", "", ".", "_").Replace(r.pattern),
			"responses": object{
				"200":     object{"description": "as asked", "content": object{media: object{"schema": schema}}},
				"default": object{"description": "problem", "content": object{"application/problem+json": object{"schema": problem}}},
			},
		}
		if r.body != "" {
			op["requestBody"] = object{"required": true, "content": object{r.body: object{}}}
		}
		if params != nil {
			op["parameters"] = params
		}
		item[strings.ToLower(r.method)] = op
	}
	kinds := make([]string, 0, len(fault.Kinds()))
	for _, k := range fault.Kinds() {
		kinds = append(kinds, string(k))
	}
	schemas.defs["Problem"].(object)["properties"].(object)["kind"] = object{"enum": kinds}
	b, err := json.MarshalIndent(object{
		"openapi":    "3.1.0",
		"info":       object{"title": "Zero-OS chain", "version": "1", "description": "Records of the agreement, with proofs. The formats are specified in docs/reference/chain.md."},
		"paths":      paths,
		"components": object{"schemas": schemas.defs},
	}, "", " ")
	if err != nil {
		panic("engine: " + err.Error())
	}
	return append(b, '\n')
}
