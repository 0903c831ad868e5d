package cache

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// pin is one line of a pin file: a key and whether the chunk is sealed.
type pin struct {
	key    key
	sealed bool
}

const (
	pinMagic  = "ZOSPINS1"
	pinHeader = 16 // magic, count u32, crc32c u32 of the pins
	pinSize   = 33
)

// Pin keeps chunks from being evicted until the set is unpinned, also after the
// cache was opened again. A set is named by who needs the chunks, such as the id
// of an image, with letters, digits, '.', '_' and '-'. Pinning more names adds
// them to the set. missing counts the names that are not in the cache; a number
// of those (65,536 for all sets) is pinned when it arrives.
func (c *Cache) Pin(set string, dom block.Domain, names []block.Name) (missing int, err error) {
	path, err := c.pinPath(set)
	if err != nil {
		return 0, err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	pins, err := readPins(path)
	if err != nil && !os.IsNotExist(err) {
		return 0, fault.Errorf(fault.Of(err), "pin set %s: %w; unpin the set first", set, err)
	}
	have := make(map[pin]bool, len(pins)+len(names))
	for _, p := range pins {
		have[p] = true
	}
	old := len(pins)
	c.mu.Lock()
	for _, n := range names {
		p := pin{keyOf(dom, n), dom.Private()}
		if p.sealed && c.idx.find(p.key, true) == noEntry && c.idx.find(key(n), false) != noEntry {
			p = pin{key(n), false}
		}
		if !have[p] {
			have[p] = true
			pins = append(pins, p)
		}
		if c.idx.find(p.key, p.sealed) == noEntry {
			missing++
		}
	}
	c.mu.Unlock()
	if len(pins) == old {
		return missing, nil
	}
	if err := writePins(path, pins); err != nil {
		return 0, fault.Errorf(fault.Unavailable, "pin set %s: %w; the disk of the cache takes no data", set, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range pins[old:] {
		c.pinOne(p)
	}
	return missing, nil
}

// pinOne pins a chunk now or when it arrives. mu is held.
func (c *Cache) pinOne(p pin) {
	if i := c.idx.find(p.key, p.sealed); i != noEntry {
		e := c.idx.at(i)
		if e.pins() == 0 {
			c.pinned++
		}
		e.addPin()
	} else if n := c.wanted[p.key]; n < maxPins && (n > 0 || len(c.wanted) < maxWanted) {
		c.wanted[p.key] = n + 1
	}
}

// Unpin gives up a set. A set that is not there is not an error.
func (c *Cache) Unpin(set string) error {
	path, err := c.pinPath(set)
	if err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	pins, err := readPins(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fault.Errorf(fault.Of(err), "unpin set %s: %w", set, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range pins { // none, if the file was damaged: Open pinned none either
		if i := c.idx.find(p.key, p.sealed); i != noEntry {
			e := c.idx.at(i)
			was := e.pins()
			e.dropPin()
			if was > 0 && e.pins() == 0 {
				c.pinned--
			}
		} else if n := c.wanted[p.key]; n > 1 {
			c.wanted[p.key] = n - 1
		} else {
			delete(c.wanted, p.key)
		}
	}
	return nil
}

// PinSets lists the sets.
func (c *Cache) PinSets() []string {
	files, _ := os.ReadDir(filepath.Join(c.dir, "pins"))
	var sets []string
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".tmp") {
			sets = append(sets, f.Name())
		}
	}
	return sets
}

func (c *Cache) pinPath(set string) (string, error) {
	bad := len(set) == 0 || len(set) > 128 || set[0] == '.' || strings.HasSuffix(set, ".tmp")
	for _, r := range set {
		bad = bad || !strings.ContainsRune("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-", r)
	}
	if bad {
		return "", fault.Errorf(fault.Invalid, "pin: %.140q is no name of a set; use 1 to 128 letters, digits, '.', '_' and '-'", set)
	}
	return filepath.Join(c.dir, "pins", set), nil
}

// loadPins pins what the files say.
func (c *Cache) loadPins() {
	for _, set := range c.PinSets() {
		pins, err := readPins(filepath.Join(c.dir, "pins", set))
		if err != nil {
			c.event(Event{Kind: IndexFault, Slab: -1, Chunks: 1, Err: fault.Errorf(fault.Invalid, "read the pins of set %s in the cache %s: %w; pin the set again", set, c.dir, err)})
			continue
		}
		c.mu.Lock()
		for _, p := range pins {
			c.pinOne(p)
		}
		c.mu.Unlock()
	}
}

func encodePins(pins []pin) []byte {
	b := make([]byte, pinHeader, pinHeader+pinSize*len(pins))
	for _, p := range pins {
		b = append(b, p.key[:]...)
		b = append(b, map[bool]byte{true: 1}[p.sealed])
	}
	copy(b, pinMagic)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(pins)))
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[pinHeader:], castagnoli()))
	return b
}

func writePins(path string, pins []pin) error {
	b := encodePins(pins)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = datasync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		os.Remove(path + ".tmp")
		return err
	}
	return syncDir(filepath.Dir(path))
}

func readPins(path string) ([]pin, error) {
	if fi, err := os.Stat(path); err != nil {
		return nil, err
	} else if fi.Size() > 1<<30 {
		return nil, fault.Errorf(fault.Invalid, "the file of %d bytes is too large", fi.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parsePins(b)
}

func parsePins(b []byte) ([]pin, error) {
	if len(b) < pinHeader || string(b[:8]) != pinMagic || (len(b)-pinHeader)%pinSize != 0 ||
		uint32((len(b)-pinHeader)/pinSize) != binary.LittleEndian.Uint32(b[8:]) ||
		crc32.Checksum(b[pinHeader:], castagnoli()) != binary.LittleEndian.Uint32(b[12:]) {
		return nil, fault.Errorf(fault.Invalid, "the file is damaged")
	}
	var pins []pin
	for b = b[pinHeader:]; len(b) > 0; b = b[pinSize:] {
		if b[32] > 1 {
			return nil, fault.Errorf(fault.Invalid, "the file is damaged")
		}
		pins = append(pins, pin{key(b[:32]), b[32] == 1})
	}
	return pins, nil
}
