package client

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"zos.internal/flist"
	"zos.internal/identity"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// Resolve is what a name, or a tag of it, points to now. The signature, the
// owner and the end of its validity are checked. A source that offers an older
// version than was seen before is passed over; if all do, the error is Denied.
func (c *Client) Resolve(ctx context.Context, owner identity.Address, name, tag string) (flist.Pointer, error) {
	p, err := c.resolve(ctx, owner, name, tag)
	if err != nil {
		return p, fault.Errorf(fault.Of(err), "resolve %s: %w", spell(owner, name, tag), err)
	}
	return p, nil
}

func spell(owner identity.Address, name, tag string) string {
	s := owner.String() + "/" + name
	if tag != "" {
		s += ":" + tag
	}
	return s
}

func (c *Client) resolve(ctx context.Context, owner identity.Address, name, tag string) (flist.Pointer, error) {
	if err := flist.CheckName(name); err != nil {
		return flist.Pointer{}, err
	}
	if tag != "" {
		if err := flist.CheckName(tag); err != nil {
			return flist.Pointer{}, err
		}
	}
	want := flist.Pointer{Owner: owner, Name: name, Tag: tag}
	seen, err := c.state.read()
	if err != nil {
		return flist.Pointer{}, err
	}
	var p flist.Pointer
	_, err = c.mirrors.ReadChecked(ctx, want.Key(), 0, flist.MaxRoot+1, func(b []byte) error {
		var err error
		if p, _, err = flist.OpenPointer(b); err != nil {
			return err
		}
		if p.Owner != owner || p.Name != name || p.Tag != tag {
			return fault.Errorf(fault.Denied, "the pointer is for %s", spell(p.Owner, p.Name, p.Tag))
		}
		if p.NotAfter != 0 && p.NotAfter <= c.opt.Clock.Now().Unix() {
			return fault.Errorf(fault.Expired, "version %d is not valid any more; its owner has to sign a new one", p.Seq)
		}
		old := seen.Pointers[spell(owner, name, tag)]
		switch {
		case p.Seq < old.Seq:
			return fault.Errorf(fault.Denied, "version %d is offered, and version %d was seen before; use another mirror, or take the name out of %s if the older one is really wanted", p.Seq, old.Seq, c.state.path)
		case p.Seq == old.Seq && p.ID.String() != old.ID:
			return fault.Errorf(fault.Denied, "version %d is image %v here and was image %s before; the owner signed both, ask them why, or take the name out of %s", p.Seq, p.ID, old.ID, c.state.path)
		}
		return nil
	})
	if err != nil {
		return flist.Pointer{}, denied(err)
	}
	return p, c.state.remember(spell(owner, name, tag), seenPointer{p.Seq, p.ID.String()})
}

// denied gives an error that was a refusal to every source its kind back:
// block.Mirrors says Invalid of anything that a check refused.
func denied(err error) error {
	for e := err; e != nil; {
		switch k := fault.Of(e); k {
		case fault.Denied, fault.Expired:
			return fault.As(k, err)
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	return err
}

// History lists the versions that a name had, newest first, at most n and only
// those that the sources still keep. It works on plain file servers too.
func (c *Client) History(ctx context.Context, owner identity.Address, name string, n int) ([]flist.Pointer, error) {
	p, err := c.Resolve(ctx, owner, name, "")
	if err != nil {
		return nil, err
	}
	ps := []flist.Pointer{p}
	misses := 0
	for seq := p.Seq - 1; seq > 0 && len(ps) < n && misses < maxGap; seq-- {
		b, err := c.Read(ctx, flist.HistoryKey(owner, name, seq), 0, flist.MaxRoot+1)
		if fault.Of(err) == fault.NotFound {
			misses++
			continue
		}
		if err != nil {
			return ps, err
		}
		q, _, err := flist.OpenPointer(b)
		if err != nil {
			return ps, err
		}
		ps, misses = append(ps, q), 0
	}
	return ps, nil
}

// maxGap is how many absent versions in a row end a history.
const maxGap = 8

// Point moves a name, or a tag of it, to an image that the hub has. It returns
// the version, and whether it had to be moved.
func (c *Client) Point(ctx context.Context, key *identity.PrivateKey, name, tag string, id flist.ID) (seq uint64, moved bool, err error) {
	return c.point(ctx, &uploader{c: c, key: key}, name, tag, id)
}

func (c *Client) point(ctx context.Context, up *uploader, name, tag string, id flist.ID) (seq uint64, moved bool, err error) {
	p := flist.Pointer{Owner: up.key.Public().Address(), Name: name, Tag: tag, ID: id}
	for try := 0; ; try++ {
		cur, err := c.current(ctx, p)
		if err != nil {
			return 0, false, err
		}
		if cur.Seq > 0 && cur.ID == id && (cur.NotAfter == 0 || cur.NotAfter > c.opt.Clock.Now().Unix()) {
			return cur.Seq, false, nil
		}
		p.Seq, p.Time = cur.Seq+1, c.opt.Clock.Now().Unix()
		b, err := p.Sign(up.key)
		if err != nil {
			return 0, false, err
		}
		err = up.put(ctx, p.Key(), bytes.NewReader(b))
		if err == nil {
			return p.Seq, true, c.state.remember(spell(p.Owner, name, tag), seenPointer{p.Seq, id.String()})
		}
		if fault.Of(err) != fault.Conflict || try == 2 {
			return 0, false, fault.Errorf(fault.Of(err), "move %s: %w", spell(p.Owner, name, tag), err)
		}
	}
}

// current is the pointer that the hub itself has, or one with Seq 0. A lower
// version than was seen before counts as what was seen.
func (c *Client) current(ctx context.Context, p flist.Pointer) (flist.Pointer, error) {
	b, err := c.sources[0].Bucket.Read(ctx, p.Key(), 0, flist.MaxRoot+1)
	cur := flist.Pointer{}
	switch {
	case fault.Of(err) == fault.NotFound:
	case err != nil:
		return cur, err
	default:
		if cur, _, err = flist.OpenPointer(b); err != nil {
			return cur, err
		}
		if cur.Key() != p.Key() {
			return cur, fault.Errorf(fault.Denied, "the hub serves the pointer of %s as %s", cur.Key(), p.Key())
		}
	}
	seen, err := c.state.read()
	if err != nil {
		return cur, err
	}
	if old := seen.Pointers[spell(p.Owner, p.Name, p.Tag)]; old.Seq > cur.Seq {
		cur = flist.Pointer{Seq: old.Seq} // the hub lost it: go on after it
	}
	return cur, nil
}

// state is the file that remembers the highest version seen of each name.
type state struct {
	path string
	mu   sync.Mutex
}

type seenPointer struct {
	Seq uint64 `json:"seq"`
	ID  string `json:"id"`
}

type seenFile struct {
	Pointers map[string]seenPointer `json:"pointers"`
}

const maxState = 64 << 20

// lock keeps other goroutines and programs out.
func (s *state) lock() (unlock func(), err error) {
	s.mu.Lock()
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		s.mu.Unlock()
		return nil, fault.Errorf(fault.Of(err), "lock %s: %w", s.path, err)
	}
	f, err := os.OpenFile(s.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
		}
	}
	if err != nil {
		s.mu.Unlock()
		return nil, fault.Errorf(fault.Of(err), "lock %s: %w", s.path, err)
	}
	return func() { f.Close(); s.mu.Unlock() }, nil
}

func (s *state) read() (seenFile, error) {
	f := seenFile{Pointers: map[string]seenPointer{}}
	if s.path == "" {
		return f, nil
	}
	b, err := readFile(s.path)
	if os.IsNotExist(err) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return f, fault.Errorf(fault.Invalid, "read the versions seen before from %s: %w; restore the file, or remove it to trust what the hub says now", s.path, err)
	}
	if f.Pointers == nil {
		f.Pointers = map[string]seenPointer{}
	}
	return f, nil
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxState {
		return nil, fault.Errorf(fault.Exhausted, "it has %d bytes", st.Size())
	}
	return os.ReadFile(path)
}

// note writes what was seen if it is news. It is called with the lock held.
func (s *state) note(f seenFile, name string, p seenPointer) error {
	if f.Pointers[name] == p {
		return nil
	}
	f.Pointers[name] = p
	b, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(s.path, append(b, '\n'), 0o600)
}

// remember notes p unless a newer version was noted.
func (s *state) remember(name string, p seenPointer) error {
	if s.path == "" {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	f, err := s.read()
	if err != nil || f.Pointers[name].Seq > p.Seq {
		return err
	}
	return s.note(f, name, p)
}
