package chain

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Message is one change of the state. Check is the part of its rules that needs
// no state: bounds, spelling, required fields.
type Message interface {
	Code() Code
	Check() error
}

// Code numbers the kinds of messages. Numbers are never used again.
type Code uint16

// Packed is a message on the wire: its code and its fields.
type Packed struct {
	_    struct{} `cbor:",toarray"`
	Code Code
	Body cbor.RawMessage
}

// kinds makes an empty message for each code.
func kind(c Code) (Message, bool) {
	switch c {
	case 101:
		return &CreateTwin{}, true
	case 102:
		return &UpdateTwin{}, true
	case 103:
		return &AddKey{}, true
	case 104:
		return &RevokeKey{}, true
	case 105:
		return &RotateKey{}, true
	case 106:
		return &RegisterPublisher{}, true
	case 107:
		return &PublishRelease{}, true
	case 201:
		return &CreateFarm{}, true
	case 202:
		return &UpdateFarm{}, true
	case 203:
		return &AddIPs{}, true
	case 204:
		return &RemoveIPs{}, true
	case 205:
		return &RegisterNode{}, true
	case 206:
		return &UpdateNode{}, true
	case 207:
		return &DeregisterNode{}, true
	case 208:
		return &ReportNodes{}, true
	case 209:
		return &Attest{}, true
	case 210:
		return &SetPowerTarget{}, true
	case 211:
		return &ReportPower{}, true
	case 301:
		return &CreateNetworkContract{}, true
	case 302:
		return &CreateNodeContract{}, true
	case 303:
		return &CreateNameContract{}, true
	case 304:
		return &CreateRentContract{}, true
	case 305:
		return &UpdateContract{}, true
	case 306:
		return &ReportState{}, true
	case 307:
		return &ReportUsage{}, true
	case 308:
		return &Dispute{}, true
	case 309:
		return &TopUp{}, true
	case 310:
		return &Cancel{}, true
	case 311:
		return &Pause{}, true
	case 312:
		return &Resume{}, true
	case 313:
		return &Reclaim{}, true
	case 401:
		return &CreateGroup{}, true
	case 402:
		return &UpdateGroup{}, true
	case 403:
		return &Propose{}, true
	case 404:
		return &Vote{}, true
	case 405:
		return &Withdraw{}, true
	case 406:
		return &Execute{}, true
	case 411:
		return &RequestSupport{}, true
	case 412:
		return &ConsentSupport{}, true
	case 413:
		return &RevokeSupport{}, true
	case 414:
		return &ReportSupport{}, true
	case 501:
		return &Send{}, true
	case 502:
		return &Mint{}, true
	case 503:
		return &Burn{}, true
	case 601:
		return &SetParams{}, true
	case 602:
		return &SetValidators{}, true
	case 603:
		return &ScheduleUpgrade{}, true
	}
	return nil, false
}

// Codes returns the codes of all messages, rising.
func Codes() []Code {
	var all []Code
	for c := Code(100); c < 700; c++ {
		if _, ok := kind(c); ok {
			all = append(all, c)
		}
	}
	return all
}

// New returns an empty message of a code, or Unsupported.
func New(c Code) (Message, error) {
	m, ok := kind(c)
	if !ok {
		return nil, fault.Errorf(fault.Unsupported, "message code %d is unknown to this version", c)
	}
	return m, nil
}

// Name is the name of a code's message, such as "CreateTwin".
func (c Code) String() string {
	m, ok := kind(c)
	if !ok {
		return fmt.Sprintf("message %d", uint16(c))
	}
	return reflect.TypeOf(m).Elem().Name()
}

// Pack encodes messages for a body. It panics on a message that can't be
// encoded, which is a mistake in the type.
func Pack(ms ...Message) []Packed {
	out := make([]Packed, len(ms))
	for i, m := range ms {
		out[i] = Packed{Code: m.Code(), Body: canon.MustMarshal(m)}
	}
	return out
}

// Unpack decodes messages and checks the rules that need no state.
func Unpack(ps []Packed) ([]Message, error) {
	out := make([]Message, len(ps))
	for i, p := range ps {
		m, err := New(p.Code)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "messages[%d]: %w", i, err)
		}
		if err := canon.Unmarshal(p.Body, m); err != nil {
			return nil, fault.Errorf(fault.Invalid, "messages[%d] %s: %w", i, p.Code, err)
		}
		if err := m.Check(); err != nil {
			return nil, fault.Errorf(fault.Of(err), "messages[%d] %s: %w", i, p.Code, err)
		}
		out[i] = m
	}
	return out, nil
}

// MarshalJSON shows a message as an object with its type beside its fields.
func (p Packed) MarshalJSON() ([]byte, error) {
	m, err := New(p.Code)
	if err != nil {
		return nil, err
	}
	if err := canon.Unmarshal(p.Body, m); err != nil {
		return nil, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	rest := strings.TrimPrefix(string(b), "{")
	if rest != "}" {
		rest = "," + rest
	}
	return fmt.Appendf(nil, `{"type":%q%s`, p.Code.String(), rest), nil
}

// UnmarshalJSON reads what MarshalJSON writes. Unknown fields are refused.
func (p *Packed) UnmarshalJSON(b []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	var name string
	if err := json.Unmarshal(fields["type"], &name); err != nil {
		return fault.Errorf(fault.Invalid, `a message needs "type", the name of its kind`)
	}
	delete(fields, "type")
	for _, c := range Codes() {
		if c.String() != name {
			continue
		}
		m, err := New(c)
		if err != nil {
			return err
		}
		rest, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		d := json.NewDecoder(strings.NewReader(string(rest)))
		d.DisallowUnknownFields()
		if err := d.Decode(m); err != nil {
			return fault.Errorf(fault.Invalid, "%s: %w", name, err)
		}
		*p = Pack(m)[0]
		return nil
	}
	return fault.Errorf(fault.Invalid, "message type %q is unknown", name)
}
