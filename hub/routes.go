package hub

import (
	"encoding/json"
	"net/http"
	"strings"

	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// route is one operation of the hub. The mux and the OpenAPI document are both
// made from the table, so neither can forget one.
type route struct {
	method  string
	pattern string // of net/http and, without "{$}", of OpenAPI
	summary string
	body    string // media type of the request
	answer  string // media type of the response
	signed  bool
	handle  http.HandlerFunc
}

func (s *Server) table() []route {
	const hash = " by its BLAKE3, 64 hexadecimal digits"
	rs := []route{
		{method: "POST", pattern: "/have", summary: "Which chunks and keys are here: a bitmap, bit i%8 of byte i/8", body: protocol.TypeCBOR, answer: protocol.TypeBytes, handle: s.serveHave},
		{method: "POST", pattern: "/locate", summary: "In which pack, and where in it, chunks are", body: protocol.TypeCBOR, answer: protocol.TypeCBOR, handle: s.serveLocate},
		{method: "POST", pattern: "/batch", summary: "Many chunks as wire records, in any order; encoding 255 says absent", body: protocol.TypeCBOR, answer: protocol.TypeRecords, handle: s.serveBatch},
		{method: "GET", pattern: "/c/{name}", summary: "One chunk as a wire record" + hash, answer: protocol.TypeRecords, handle: s.serveChunk},
		{method: "GET", pattern: "/openapi.json", summary: "This document", answer: "application/json", handle: s.serveDocument},
		{method: "GET", pattern: "/api/health", summary: "Whether the hub can read its store and its publishers file", answer: "application/json", handle: s.serveHealth},
	}
	for _, k := range []struct{ pattern, what string }{
		{"/p/{name}", "A pack of chunks" + hash},
		{"/o/{name}", "An object (metadata, map, configuration, executables) by the BLAKE3 of its plain bytes"},
		{"/l/{id}", "The locator of an image: where its chunks are"},
		{"/r/{id}", "The root of an image by its id"},
		{"/s/{id}", "The signatures of an image"},
		{"/t/{id}", "The recorded start of an image"},
		{"/d/{id}", "What an image has that an older one, its base, has not"},
		{"/f/{owner}/{name}", "The signed pointer of a name"},
		{"/g/{owner}/{name}/{tag}", "The signed pointer of a tag"},
	} {
		rs = append(rs,
			route{method: "GET", pattern: k.pattern, summary: k.what, answer: protocol.TypeBytes, handle: s.serveKey},
			route{method: "PUT", pattern: k.pattern, summary: "Upload: " + strings.ToLower(k.what[:1]) + k.what[1:], body: protocol.TypeBytes, signed: true, handle: s.servePut})
	}
	rs = append(rs, route{method: "GET", pattern: "/b/{id}", summary: "What a first start of an image needs beside its content, in one file", answer: protocol.TypeBytes, handle: s.serveStart})
	rs = append(rs, route{method: "GET", pattern: "/h/{owner}/{name}/{seq}", summary: "A version that a name had", answer: protocol.TypeBytes, handle: s.serveKey})
	return append(rs, s.gallery.table()...)
}

func (s *Server) routes() (*http.ServeMux, []byte) {
	mux := http.NewServeMux()
	table := s.table()
	methods := make(map[string][]string)
	for _, r := range table {
		mux.HandleFunc(r.method+" "+r.pattern, r.handle)
		methods[r.pattern] = append(methods[r.pattern], r.method)
	}
	for pattern, ms := range methods {
		for _, m := range ms {
			if m == "GET" {
				ms = append(ms, "HEAD")
				break
			}
		}
		allow := strings.Join(ms, ", ")
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			s.fail(w, r, fault.Errorf(fault.Unsupported, "%s is not possible on %s; %s is", r.Method, r.URL.Path, allow))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, err := parseKey(strings.TrimPrefix(r.URL.Path, "/"))
		if err == nil || fault.Of(err) != fault.NotFound {
			err = fault.Errorf(fault.NotFound, "there is nothing at %.200q", r.URL.Path)
		}
		s.fail(w, r, err)
	})
	return mux, document(s.cfg.Title, table)
}

// document is the OpenAPI 3.1 description of the table.
func document(title string, table []route) []byte {
	type object = map[string]any
	paths := object{}
	for _, r := range table {
		pattern := strings.TrimSuffix(r.pattern, "{$}")
		item, _ := paths[pattern].(object)
		if item == nil {
			item = object{}
			paths[pattern] = item
		}
		ok := object{"description": "as asked"}
		if r.answer != "" {
			ok["content"] = object{r.answer: object{}}
		}
		op := object{
			"summary":     r.summary,
			"operationId": strings.ToLower(r.method) + strings.NewReplacer("/", "_", "{", "", "}", "", ".", "_").Replace(pattern),
			"responses": object{
				"default": object{"description": "problem", "content": object{protocol.TypeProblem: object{"schema": object{"$ref": "#/components/schemas/Problem"}}}},
			},
		}
		status := "200"
		if r.method == "PUT" {
			status = "201"
			op["responses"].(object)["200"] = object{"description": "it was here already"}
		}
		op["responses"].(object)[status] = ok
		if r.body != "" {
			op["requestBody"] = object{"required": true, "content": object{r.body: object{}}}
		}
		if r.signed {
			op["security"] = []object{{"signature": []string{}}}
		}
		var params []object
		for part := range strings.SplitSeq(pattern, "/") {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				params = append(params, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
			}
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
	doc := object{
		"openapi": "3.1.0",
		"info":    object{"title": title, "version": "1", "description": "Images and their blocks over plain HTTP. The protocol is specified in docs/reference/hub.md."},
		"paths":   paths,
		"components": object{
			"securitySchemes": object{"signature": object{"type": "http", "scheme": "Zos1", "description": "Zos1 key=…,expires=…,digest=…,audience=…,sig=…"}},
			"schemas": object{"Problem": object{
				"type":     "object",
				"required": []string{"type", "title", "status", "detail", "kind"},
				"properties": object{
					"type": object{"type": "string"}, "title": object{"type": "string"}, "status": object{"type": "integer"},
					"detail": object{"type": "string"}, "kind": object{"enum": kinds},
					"missing": object{"type": "array", "items": object{"type": "string"}, "description": "keys to upload first"},
				},
			}},
		},
	}
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		panic("hub: " + err.Error())
	}
	return b
}

func (s *Server) serveDocument(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	s.answer(w, "application/json", s.doc)
}

func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	type health struct {
		Store      string `json:"store"`
		Publishers string `json:"publishers"`
	}
	h := health{"ok", "ok"}
	status := http.StatusOK
	if _, err := s.store.Stat(r.Context(), wasteKey); err != nil && fault.Of(err) != fault.NotFound {
		h.Store, status = string(fault.Of(err)), http.StatusServiceUnavailable
		s.log.ErrorContext(r.Context(), "store can't be read", "error", err)
	}
	switch err := s.pubs.fileError(); {
	case s.cfg.Publishers == "":
		h.Publishers = "none"
	case err != nil:
		h.Publishers, status = string(fault.Of(err)), http.StatusServiceUnavailable
		s.log.ErrorContext(r.Context(), "publishers file can't be used, the one before stays in force", "error", err)
	}
	b, err := json.Marshal(h)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b)
}
