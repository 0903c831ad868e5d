package chain

import (
	"encoding/json"
	"testing"
)

func TestNamesAreReadAgain(t *testing.T) {
	type all struct {
		Kind     Kind
		State    State
		Proposal ProposalState
		Support  SupportState
	}
	for i := range uint8(7) {
		in := all{Kind(min(i, 4)), State(min(i, 4)), ProposalState(i), SupportState(min(i, 3))}
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var out all
		if err := json.Unmarshal(b, &out); err != nil || out != in {
			t.Errorf("%s is read as %+v: %v", b, out, err)
		}
	}
	for _, text := range []string{`{"Kind":"nope"}`, `{"State":""}`, `{"Proposal":"live"}`, `{"Support":"unknown "}`} {
		if err := json.Unmarshal([]byte(text), new(all)); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}
