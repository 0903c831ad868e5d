package identity

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Bounds of messages.
const (
	MaxEnvelope = 1 << 20          // bytes of a sealed message
	DefaultTTL  = 5 * time.Minute  // how long a message is good for unless it says otherwise
	MaxTTL      = 30 * time.Minute // the most that it can say
	Skew        = time.Minute      // how far the clocks of two parties may be apart
)

// Class says what a message is.
type Class uint8

// The classes.
const (
	Request Class = 1
	Reply   Class = 2
	Event   Class = 3
)

// String is request, reply or event.
func (c Class) String() string {
	switch c {
	case Request:
		return "request"
	case Reply:
		return "reply"
	case Event:
		return "event"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// MessageID tells the messages of one sender apart: 16 random bytes.
type MessageID [16]byte

// NewMessageID makes an id from the system's randomness.
func NewMessageID() (id MessageID) {
	rand.Read(id[:])
	return id
}

// String is 32 hexadecimal digits.
func (id MessageID) String() string { return hex.EncodeToString(id[:]) }

// Message is what one party tells another. Relays see From, To, Class, ID, time
// and size, and nothing else of it.
type Message struct {
	Class   Class
	From    Party
	To      Party
	ID      MessageID     // zero: Seal makes one
	Created time.Time     // in milliseconds; zero: Seal takes the time
	TTL     time.Duration // in seconds; zero: DefaultTTL
	Request MessageID     // in replies: the ID of the request

	Method string // of a request or event
	Body   []byte
	Code   string // of a reply: empty for success, else the kind of the fault
	Text   string // of a reply that failed: the sentence for people

	Key  uint32 // set by Open: index of the sender's key
	Role Role   // set by Open: what that key may do
}

// Expires is the moment after which the message is refused.
func (m *Message) Expires() time.Time { return m.Created.Add(m.TTL) }

// Answers is Denied unless m is a reply to the request, by the party that was
// asked. A reply by somebody else, or to something else, is not an answer.
func (m *Message) Answers(request *Message) error {
	if m.Class != Reply || m.Request != request.ID || m.From != request.To || m.To != request.From {
		return fault.Errorf(fault.Denied, "the %v %v of party %d doesn't answer request %v to party %d", m.Class, m.ID, m.From, request.ID, request.To)
	}
	return nil
}

// header is the part of an envelope that relays can read. It is the AAD of the
// ciphertext.
type header struct {
	Version uint8     `cbor:"1,keyasint"`
	Class   Class     `cbor:"2,keyasint"`
	From    Party     `cbor:"3,keyasint"`
	To      Party     `cbor:"4,keyasint"`
	ID      MessageID `cbor:"5,keyasint"`
	Created uint64    `cbor:"6,keyasint"` // unix milliseconds
	TTL     uint32    `cbor:"7,keyasint"` // seconds
	Epoch   uint32    `cbor:"8,keyasint"` // of the receiver's KEM key
	Request []byte    `cbor:"9,keyasint,omitempty"`
	Enc     []byte    `cbor:"10,keyasint"`
}

// plain is what the ciphertext hides.
type plain struct {
	Method string `cbor:"1,keyasint,omitempty"`
	Body   []byte `cbor:"2,keyasint,omitempty"`
	Code   string `cbor:"3,keyasint,omitempty"`
	Text   string `cbor:"4,keyasint,omitempty"`
}

// envelope is what is on the wire.
type envelope struct {
	_          struct{} `cbor:",toarray"`
	Header     []byte
	Ciphertext []byte
	Signature  Signature
}

// covered is what the signature of an envelope is over.
type covered struct {
	_          struct{} `cbor:",toarray"`
	Header     []byte
	Ciphertext []byte
}

func (e *envelope) covered() []byte {
	return canon.MustMarshal(covered{Header: e.Header, Ciphertext: e.Ciphertext})
}

// check is the part of the rules that needs no time and no keys.
func (h *header) check() error {
	switch {
	case h.Version != 1:
		return fault.Errorf(fault.Unsupported, "envelope version %d; only 1 is known", h.Version)
	case h.Class < Request || h.Class > Event:
		return fault.Errorf(fault.Invalid, "class %d: 1 is a request, 2 a reply, 3 an event", h.Class)
	case h.From.Check() != nil:
		return fault.Errorf(fault.Invalid, "sender: %w", h.From.Check())
	case h.To.Check() != nil:
		return fault.Errorf(fault.Invalid, "receiver: %w", h.To.Check())
	case h.ID == MessageID{}:
		return fault.Errorf(fault.Invalid, "the message id is zero")
	case h.Created == 0 || h.Created > 1<<52:
		return fault.Errorf(fault.Invalid, "created %d: not a time in unix milliseconds", h.Created)
	case h.TTL == 0 || h.TTL > uint32(MaxTTL/time.Second):
		return fault.Errorf(fault.Invalid, "ttl %d s: 1 to %d are possible", h.TTL, MaxTTL/time.Second)
	case h.Epoch == 0:
		return fault.Errorf(fault.Invalid, "KEM epoch 0; epochs start at %d", FirstEpoch)
	case h.Class == Reply && len(h.Request) != len(MessageID{}):
		return fault.Errorf(fault.Invalid, "request id of %d bytes: a reply names its request in 16", len(h.Request))
	case h.Class != Reply && h.Request != nil:
		return fault.Errorf(fault.Invalid, "a %v has no request id", h.Class)
	}
	return nil
}

func (h *header) created() time.Time { return time.UnixMilli(int64(h.Created)).UTC() }
func (h *header) expires() time.Time { return h.created().Add(time.Duration(h.TTL) * time.Second) }
