package engine

import "sync"

// firsts remembers what every block asks for in vain: the first key of each
// queue, since mostly nothing is due, and keys of two bytes that aren't there,
// such as that of the upgrade. A queue is the keys with one prefix of two bytes.
// The zero value knows nothing yet.
type firsts struct {
	mu     sync.Mutex
	keys   map[string]string // by prefix; "": the queue is empty
	absent map[string]bool   // keys of two bytes
}

const queuePrefix = 2 // bytes

// none says whether it is known that there is no key from a prefix up to and
// without another key.
func (f *firsts) none(from, to []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	first, known := f.keys[string(from)]
	return known && (first == "" || first >= string(to))
}

// is notes the first key of a prefix; "" is none.
func (f *firsts) is(prefix []byte, first string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = make(map[string]string)
	}
	f.keys[string(prefix)] = first
}

// added takes note of a new key.
func (f *firsts) added(key []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(key) < queuePrefix {
		return
	}
	if len(key) == queuePrefix {
		delete(f.absent, string(key))
	}
	if first, known := f.keys[string(key[:queuePrefix])]; known && (first == "" || string(key) < first) {
		f.keys[string(key[:queuePrefix])] = string(key)
	}
}

// removed takes note of a key that is gone.
func (f *firsts) removed(key []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(key) >= queuePrefix && f.keys[string(key[:queuePrefix])] == string(key) {
		delete(f.keys, string(key[:queuePrefix]))
	}
}

// forget drops everything.
func (f *firsts) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys, f.absent = nil, nil
}

// lacks says whether it is known that a key isn't there.
func (f *firsts) lacks(key []byte) bool {
	if len(key) != queuePrefix {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.absent[string(key)]
}

// missed takes note of a key that isn't there.
func (f *firsts) missed(key []byte) {
	if len(key) != queuePrefix {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.absent == nil {
		f.absent = make(map[string]bool)
	}
	f.absent[string(key)] = true
}
