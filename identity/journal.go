package identity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

const (
	journalMagic = "zosrpl01"
	recordSize   = 4 + 16 + 8 + 4 // sender, id, until in unix ms, CRC-32C of these
	maxJournal   = 128 << 20      // bytes that OpenReplays reads
)

// Journal is Replays that outlive the process and a power cut: Add returns when
// the message is on the disk. It takes 32 bytes a message there, and the disk's
// time for a flush; where no lasting effect hangs on a message, Memory is
// enough. It is safe for concurrent use by one process, which a lock ensures.
type Journal struct {
	path string
	lock *os.File

	mu      sync.Mutex
	memory  *Memory
	file    *os.File
	records int   // in the file
	broken  error // why nothing can be added any more
}

var _ Replays = (*Journal)(nil)

// OpenReplays opens or makes the journal in a file, for at most this many
// messages, a million or less. A record that a crash left half-written is dropped: its message was
// not acted on. A damaged file is Invalid, one that another process holds is
// Conflict.
func OpenReplays(path string, most int, now time.Time) (*Journal, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "open replays: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fault.Errorf(fault.Conflict, "open replays %s: another process has it; stop that one first", path)
	}
	j := &Journal{path: path, lock: lock, memory: NewMemory(most)}
	if err := j.load(now); err != nil {
		lock.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) load(now time.Time) error {
	f, err := os.Open(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return j.compact()
	}
	if err != nil {
		return fault.Errorf(fault.Of(err), "open replays: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fault.Errorf(fault.Of(err), "open replays: %w", err)
	}
	if st.Size() > maxJournal {
		return j.damaged("it has %d bytes, at most %d are read", st.Size(), maxJournal)
	}
	b, err := io.ReadAll(io.LimitReader(f, st.Size()))
	if err != nil {
		return fault.Errorf(fault.Of(err), "open replays: %w", err)
	}
	if len(b) < len(journalMagic) || string(b[:len(journalMagic)]) != journalMagic {
		return j.damaged("it doesn't start with %q", journalMagic)
	}
	j.memory.last = now
	for b = b[len(journalMagic):]; len(b) >= recordSize; b = b[recordSize:] {
		r := b[:recordSize]
		if crc32.Checksum(r[:28], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(r[28:]) {
			if len(b) < 2*recordSize {
				break
			}
			return j.damaged("a record has a wrong checksum")
		}
		o := opened{Party(binary.BigEndian.Uint32(r)), MessageID(r[4:20])}
		until := time.UnixMilli(int64(binary.BigEndian.Uint64(r[20:])))
		if _, twice := j.memory.until[o]; !twice && !now.After(until) {
			j.memory.put(o, until)
		}
	}
	return j.compact()
}

func (j *Journal) damaged(format string, args ...any) error {
	return fault.Errorf(fault.Invalid, "open replays %s: the file is damaged: %s; wait %v, so that no message of before is valid any more, and remove it",
		j.path, fmt.Sprintf(format, args...), MaxTTL+2*Skew)
}

// limit is the most records that the file has before it is written anew.
func (j *Journal) limit() int64 { return 2*int64(j.memory.most) + 1024 }

// compact writes the file anew with what is still remembered.
func (j *Journal) compact() error {
	b := make([]byte, 0, len(journalMagic)+recordSize*len(j.memory.queue))
	b = append(b, journalMagic...)
	for _, r := range j.memory.queue {
		b = appendRecord(b, r.opened, r.until)
	}
	if err := atomicfile.Write(j.path, b, 0o600); err != nil {
		return fault.Errorf(fault.Of(err), "compact replays: %w", err)
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fault.Errorf(fault.Of(err), "compact replays: %w", err)
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.records = f, len(j.memory.queue)
	return nil
}

func appendRecord(b []byte, o opened, until time.Time) []byte {
	n := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(o.from))
	b = append(b, o.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(until.UnixMilli()))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[n:], crc32.MakeTable(crc32.Castagnoli)))
}

// Add remembers a message. It is Unavailable when the disk doesn't take it; the
// message is not to be acted on then.
func (j *Journal) Add(from Party, id MessageID, now, until time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return fault.Errorf(fault.Unavailable, "remember message %v: the journal is closed", id)
	}
	o := opened{from, id}
	if err := j.memory.check(o, now, until); err != nil {
		return err
	}
	if j.broken == nil && int64(j.records) >= j.limit() {
		j.broken = j.compact()
	}
	if j.broken == nil {
		_, err := j.file.Write(appendRecord(nil, o, until))
		if err == nil {
			err = j.file.Sync()
		}
		if err != nil {
			// Whatever of the record is there, the file is written anew before the next.
			if j.broken = j.compact(); j.broken == nil {
				return fault.Errorf(fault.Unavailable, "remember message %v: %w", id, err)
			}
		}
	}
	if j.broken != nil {
		err := j.broken
		j.broken = j.compact() // the next message may find room again
		return fault.Errorf(fault.Unavailable, "remember message %v: %w; make room on the disk and send again", id, err)
	}
	j.records++
	j.memory.put(o, until)
	return nil
}

// Close ends the journal and lets another process have it.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Close(), j.lock.Close())
	j.file = nil
	return err
}
