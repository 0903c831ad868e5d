package engine

import (
	"encoding/json"

	abci "github.com/cometbft/cometbft/abci/types"

	"zos.internal/chain"
	"zos.internal/chain/state"
	"zos.internal/internal/fault"
)

const codespace = "zos"

// codes numbers the kinds of errors in the results of blocks. They are hashed
// into the chain: a number is never changed or used again.
func codes() []fault.Kind {
	return []fault.Kind{"", fault.Invalid, fault.Denied, fault.NotFound, fault.Conflict, fault.Exhausted,
		fault.Unavailable, fault.Expired, fault.Funds, fault.Unsupported, fault.Internal}
}

// Code is the number of a kind of error in a block; 0 is none.
func Code(k fault.Kind) uint32 {
	for i, known := range codes() {
		if k == known {
			return uint32(i)
		}
	}
	return Code(fault.Internal)
}

// KindOf is the kind of error of a number.
func KindOf(code uint32) fault.Kind {
	if all := codes(); code < uint32(len(all)) {
		return all[code]
	}
	return fault.Internal
}

// execResult is a transaction's result for the engine. Code, data and gas are
// hashed into the next header, log and events are not.
func execResult(r state.TxResult) *abci.ExecTxResult {
	return &abci.ExecTxResult{Code: Code(r.Kind), Data: r.ID[:], Log: r.Error, GasUsed: int64(r.Fee), Events: abciEvents(r.Events), Codespace: codespace}
}

func abciEvents(events []chain.Event) []abci.Event {
	out := make([]abci.Event, 0, len(events))
	for _, e := range events {
		b, err := json.Marshal(e)
		if err != nil {
			panic("engine: event " + e.Type + ": " + err.Error())
		}
		out = append(out, abci.Event{Type: e.Type, Attributes: []abci.EventAttribute{{Key: "json", Value: string(b)}}})
	}
	return out
}

// chainEvents is the inverse of abciEvents.
func chainEvents(events []abci.Event) []chain.Event {
	out := make([]chain.Event, 0, len(events))
	for _, e := range events {
		var ev chain.Event
		if len(e.Attributes) == 1 && json.Unmarshal([]byte(e.Attributes[0].Value), &ev) == nil {
			out = append(out, ev)
		}
	}
	return out
}

// txResult is the inverse of execResult.
func txResult(r *abci.ExecTxResult) state.TxResult {
	out := state.TxResult{Kind: KindOf(r.Code), Error: r.Log, Fee: uint64(r.GasUsed), Events: chainEvents(r.Events)}
	copy(out.ID[:], r.Data)
	return out
}
