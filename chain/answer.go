package chain

import "zos.internal/identity"

// Answers of a chain server. Lists come in pages: Next, when it isn't empty, is
// the cursor of the next one.

// Problem is an error of a server (RFC 9457, application/problem+json).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"` // the sentence for people
	Kind   string `json:"kind"`   // of the closed set of kinds
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Proven is a record with its proof, the answer to ?proof=1.
type Proven[T any] struct {
	Value T     `json:"value"`
	Proof Proof `json:"proof"`
}

// PartyAnswer is a party with its account.
type PartyAnswer struct {
	Party
	Account Account `json:"account"`
}

// NodeAnswer is a node with its load.
type NodeAnswer struct {
	Node
	Load Load `json:"load"`
}

// SupplyAnswer is the money of the chain.
type SupplyAnswer struct {
	Supply uint64 `json:"supply"` // nano-credits
}

// AddressAnswer is the party of an address.
type AddressAnswer struct {
	Address identity.Address `json:"address"`
	Party   identity.Party   `json:"party"`
}

// Bill is one line of what happened to a contract's money or state.
type Bill struct {
	Height uint64 `json:"height"`
	Time   int64  `json:"time"` // unix seconds
	Event
}

// Runway is how long a contract can pay.
type Runway struct {
	Contract identity.ContractID `json:"contract"`
	State    State               `json:"state"`
	Rate     uint64              `json:"rate"`     // pico-credits a second that it pays now
	Left     uint64              `json:"left"`     // nano-credits to pay with, up to now
	Seconds  int64               `json:"seconds"`  // of the billing clock; -1: it pays nothing
	Empty    int64               `json:"empty_at"` // unix seconds if the chain doesn't stand; 0: it pays nothing
	Lines    []Line              `json:"lines,omitempty"`
	Flat     uint64              `json:"flat,omitempty"` // pico-credits a second beside the lines
}

// BlockAnswer is a block with what it did.
type BlockAnswer struct {
	Height   uint64     `json:"height"`
	Time     int64      `json:"time"` // unix seconds
	Hash     Hash       `json:"hash"` // of the header: what a light client or a new validator may trust
	Root     Hash       `json:"root"` // of the state after it
	Proposer string     `json:"proposer"`
	Txs      []TxAnswer `json:"txs"`
	Events   []Event    `json:"events,omitempty"` // that no transaction caused
}

// TxRecord is a transaction in a block with what it asked for.
type TxRecord struct {
	TxAnswer
	Body *Body `json:"body,omitempty"`
}
