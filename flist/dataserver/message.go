package dataserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"

	"zos.internal/internal/fault"
)

// Both sockets carry JSON lines: the control socket between clients and the
// keeper, and the pair between the keeper and its data server.

// maxMessage bounds one line that a keeper or a data server reads, maxReply one
// that a client reads: the status of all slots.
const (
	maxMessage = 1 << 20
	maxReply   = 64 << 20
)

// message is one line in either direction. Fields that don't belong to Op are
// absent.
type message struct {
	Op string `json:"op"`

	Slot *Slot    `json:"slot,omitempty"`
	Name string   `json:"name,omitempty"`
	Cmd  []string `json:"cmd,omitempty"`

	Num    uint64  `json:"num,omitempty"`
	Handle uint64  `json:"handle,omitempty"`
	Params *Params `json:"params,omitempty"`
	Event  *Event  `json:"event,omitempty"`
	Stats  *Stats  `json:"stats,omitempty"`
	Status *Status `json:"status,omitempty"`

	Ends  bool   `json:"ends,omitempty"` // the keeper ends: that was its last slot
	Kind  string `json:"kind,omitempty"` // fault kind of an error
	Error string `json:"error,omitempty"`
}

// parseMessage reads one line. Unknown fields, a second value and a missing op
// are refused, so that two versions never half understand one another.
func parseMessage(line []byte) (message, error) { return parseLine(line, true) }

func parseLine(line []byte, strict bool) (message, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	if strict {
		dec.DisallowUnknownFields()
	}
	var m message
	if err := dec.Decode(&m); err != nil {
		return message{}, fault.Errorf(fault.Invalid, "read a control message: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return message{}, fault.Errorf(fault.Invalid, "read a control message: more than one value in a line")
	}
	if m.Op == "" {
		return message{}, fault.Errorf(fault.Invalid, "read a control message: it has no op")
	}
	if m.Slot != nil {
		if err := m.Slot.check(); err != nil {
			return message{}, err
		}
	}
	return m, nil
}

func (m message) err() error {
	if m.Error == "" {
		return nil
	}
	kind := fault.Internal
	for _, k := range fault.Kinds() {
		if string(k) == m.Kind {
			kind = k
		}
	}
	return fault.As(kind, errors.New(m.Error))
}

func errorMessage(op string, err error) message {
	if err == nil {
		return message{Op: op}
	}
	return message{Op: op, Kind: string(fault.Of(err)), Error: err.Error()}
}

// conn sends and receives messages; send may be called by many goroutines.
type conn struct {
	c  net.Conn
	in *bufio.Scanner
	mu sync.Mutex
	// lenient: the other side may be of another version. A keeper starts what
	// is now in the place of the program that it was.
	lenient bool
}

func newConn(c net.Conn, limit int) *conn {
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 4096), limit+1)
	return &conn{c: c, in: in}
}

func (c *conn) send(m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fault.Errorf(fault.Internal, "encode a control message: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.c.Write(append(b, '\n'))
	return err
}

// receive returns the next message, or io.EOF when the other side is gone.
func (c *conn) receive() (message, error) {
	if !c.in.Scan() {
		if err := c.in.Err(); err != nil {
			return message{}, err
		}
		return message{}, io.EOF
	}
	return parseLine(c.in.Bytes(), !c.lenient)
}
