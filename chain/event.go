package chain

import "zos.internal/identity"

// Event is something that happened in a block. Events are what explorers and
// people follow; nothing acts on them without a proof of the state.
type Event struct {
	Type     string              `json:"type"` // such as "contract.created"
	Contract identity.ContractID `json:"contract,omitempty"`
	Node     identity.Party      `json:"node,omitempty"`
	Farm     uint32              `json:"farm,omitempty"`
	Party    identity.Party      `json:"party,omitempty"` // who did it or whom it concerns
	To       identity.Party      `json:"to,omitempty"`
	ID       uint64              `json:"id,omitempty"` // of a proposal, support request, key index
	Version  uint64              `json:"version,omitempty"`
	Amount   uint64              `json:"amount,omitempty"` // nano-credits
	Rate     uint64              `json:"rate,omitempty"`   // pico-credits a second
	From     int64               `json:"from,omitempty"`   // billing clock or unix seconds
	Until    int64               `json:"until,omitempty"`
	Reason   string              `json:"reason,omitempty"`
	Name     string              `json:"name,omitempty"`
}
