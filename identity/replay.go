package identity

import (
	"container/heap"
	"fmt"
	"sync"
	"time"

	"zos.internal/internal/fault"
)

// Repeat is the error for a message that was opened before: a Conflict. It is
// genuine, so its receiver may repeat its answer, sealed to the sender.
type Repeat struct {
	From Party
	ID   MessageID
}

// Error says which message it is.
func (r *Repeat) Error() string {
	return fmt.Sprintf("message %v of party %d was here before", r.ID, r.From)
}

// Is makes a Repeat a fault.Conflict.
func (r *Repeat) Is(target error) bool { return target == fault.Conflict }

// Unwrap gives the kind to fault.Of.
func (r *Repeat) Unwrap() error { return fault.Conflict }

// Replays remembers which messages were opened.
type Replays interface {
	// Add remembers a message until a time and returns nil, once. It is a
	// *Repeat when the message is remembered, and Exhausted when there is no
	// room: nothing is forgotten before its time.
	Add(from Party, id MessageID, now, until time.Time) error
}

// Memory is Replays of one process: it forgets when the process ends. See
// OpenReplays for one that doesn't. It is safe for concurrent use.
type Memory struct {
	most int

	mu    sync.Mutex
	until map[opened]time.Time
	per   map[Party]int
	queue byTime
	last  time.Time // the latest time that was told
}

var _ Replays = (*Memory)(nil)

type opened struct {
	from Party
	id   MessageID
}

// NewMemory remembers at most this many messages, of which one sender gets a
// quarter, so that one alone can't shut out the others. A message takes about
// 150 bytes.
func NewMemory(most int) *Memory {
	return &Memory{most: most, until: make(map[opened]time.Time), per: make(map[Party]int)}
}

// Add remembers a message.
func (m *Memory) Add(from Party, id MessageID, now, until time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := opened{from, id}
	if err := m.check(o, now, until); err != nil {
		return err
	}
	m.put(o, until)
	return nil
}

func (m *Memory) put(o opened, until time.Time) {
	m.until[o] = until
	m.per[o.from]++
	heap.Push(&m.queue, timed{o, until})
}

// check is nil when o may be added.
func (m *Memory) check(o opened, now, until time.Time) error {
	if now.After(m.last) {
		m.last = now
	}
	m.forget()
	if m.last.After(until) {
		return fault.Errorf(fault.Expired, "the time of message %v is over; the clock was set back", o.id)
	}
	if _, ok := m.until[o]; ok {
		return &Repeat{o.from, o.id}
	}
	if len(m.until) >= m.most {
		return fault.Errorf(fault.Exhausted, "%d messages wait for their time-out and there is no room for another; try again at %v", len(m.until), m.next())
	}
	if n := m.per[o.from]; n >= max(m.most/4, 1) {
		return fault.Errorf(fault.Exhausted, "%d messages of party %d wait for their time-out, which is its share; it must send less", n, o.from)
	}
	return nil
}

func (m *Memory) next() string { return m.queue[0].until.UTC().Format(time.RFC3339) }

// forget drops what is over.
func (m *Memory) forget() {
	for len(m.queue) > 0 && m.last.After(m.queue[0].until) {
		o := heap.Pop(&m.queue).(timed).opened
		delete(m.until, o)
		if m.per[o.from]--; m.per[o.from] == 0 {
			delete(m.per, o.from)
		}
	}
}

type timed struct {
	opened
	until time.Time
}

// byTime is a heap, the earliest first.
type byTime []timed

func (q byTime) Len() int           { return len(q) }
func (q byTime) Less(i, j int) bool { return q[i].until.Before(q[j].until) }
func (q byTime) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *byTime) Push(x any)        { *q = append(*q, x.(timed)) }
func (q *byTime) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
