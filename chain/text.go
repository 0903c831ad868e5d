package chain

import "zos.internal/internal/fault"

// What is written as a name can be read again.

// UnmarshalText reads the name.
func (k *Kind) UnmarshalText(b []byte) error { return named("kind", b, k, KindNode, KindRent) }

// UnmarshalText reads the name.
func (s *State) UnmarshalText(b []byte) error { return named("state", b, s, StateCreated, StateClosed) }

// UnmarshalText reads the name.
func (s *ProposalState) UnmarshalText(b []byte) error {
	return named("state", b, s, ProposalOpen, ProposalWithdrawn)
}

// UnmarshalText reads the name.
func (s *SupportState) UnmarshalText(b []byte) error {
	return named("state", b, s, SupportAsked, SupportEnded)
}

// named finds the value of a name among those from one to another.
func named[T interface {
	~uint8
	String() string
}](field string, b []byte, into *T, from, to T) error {
	for v := from; v <= to; v++ {
		if v.String() == string(b) {
			*into = v
			return nil
		}
	}
	if string(b) == T(0).String() {
		*into = 0
		return nil
	}
	return fault.Errorf(fault.Invalid, "%s %.40q is unknown", field, b)
}
