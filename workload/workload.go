// Package workload holds the deployment document: what one contract lets run
// on one node.
//
// A document is strict JSON. Its bytes are what is hashed and signed and are
// never written again, so there is one text, one hash and one meaning; only
// Complete makes a new document, from a draft. YAML is a friendlier spelling,
// turned into JSON once. Everything wrong with a document is reported at once,
// each with line, column, byte and path.
//
//	doc, err := workload.Parse(src, workload.Final)
//	var problems workload.Problems
//	if errors.As(err, &problems) {
//		for _, p := range problems { … }
//	}
//	signature, err := doc.Sign(17, key, 0)
//	wire, err := doc.Envelope(signature).Encode()
//
// The package is pure: no files, no clock, no network, the same verdict in the
// command line, in a group's proposal and on the node. It doesn't know the
// chain: whether the contract lives, whose keys are valid and whether the
// capacity is free is asked elsewhere. The format is specified in
// docs/reference/deployment.md.
package workload

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
)

// Mode says what a document is checked for.
type Mode int

const (
	// Final is a document that can be signed: everything is there.
	Final Mode = iota
	// Draft is what a person writes. What the chain and the node decide may be
	// absent (chain, twin_id, contract_id, version, the root of an image), and a
	// secret may say where it comes from.
	Draft
)

// Hash is SHA-256 over the bytes of a document.
type Hash [32]byte

// String is 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText is String.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// Parse reads the JSON of a document and checks all of it. The error is
// Problems, all of them up to MaxProblems.
func Parse(src []byte, mode Mode) (*Document, error) {
	text := string(src)
	return parse(source{text, inText(text), new(report), nil}, mode)
}

func parse(src source, mode Mode) (*Document, error) {
	rep := src.rep
	v, ok := readJSON(src, rep)
	if !ok {
		return nil, rep.err(src.place)
	}
	d := &Document{raw: src.text, draft: mode == Draft, place: src.place}
	b := &binder{rep: rep, draft: d.draft, steps: make([]step, 0, MaxDepth+1)}
	b.bind(rules().document, &v, reflect.ValueOf(d).Elem())
	if len(rep.issues) == 0 {
		check(d, &v, rep)
	}
	if err := rep.err(src.place); err != nil {
		return nil, err
	}
	return d, nil
}

// Read reads a document in either spelling: a text that starts with { is JSON,
// everything else YAML. For YAML the places in problems are those of the YAML.
func Read(src []byte, mode Mode) (*Document, error) {
	if IsJSON(src) {
		return Parse(src, mode)
	}
	s, err := convertYAML(src)
	if err != nil {
		return nil, err
	}
	return parse(s, mode)
}

// IsJSON says which spelling Read takes src for.
func IsJSON(src []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(src, " \t\r\n"), []byte("{"))
}

// FromYAML turns YAML into the JSON that is signed. Keys keep their order; the
// same YAML always gives the same bytes. Only the spelling is checked.
func FromYAML(src []byte) ([]byte, error) {
	s, err := convertYAML(src)
	if err != nil {
		return nil, err
	}
	if err := s.rep.err(s.place); err != nil {
		return nil, err
	}
	return []byte(s.text), nil
}

// Bytes is the document as it was received, a copy.
func (d *Document) Bytes() []byte { return []byte(d.raw) }

// IsDraft says if the document was read as a draft: it can't be signed.
func (d *Document) IsDraft() bool { return d.draft }

// Hash is SHA-256 over the bytes of the document. The contract holds it.
func (d *Document) Hash() Hash { return sha256.Sum256([]byte(d.raw)) }

// HashOf is SHA-256 over the bytes of a document.
func HashOf(src []byte) Hash { return sha256.Sum256(src) }

// MarshalJSON gives the document's own bytes.
func (d *Document) MarshalJSON() ([]byte, error) { return json.RawMessage(d.raw), nil }
