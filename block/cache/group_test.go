package cache

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/block"
)

// TestGroupSumsGiveTheName holds for every size: an own tree over the groups of
// a chunk ends in the chunk's name.
func TestGroupSumsGiveTheName(t *testing.T) {
	check := func(t interface {
		Helper()
		Errorf(string, ...any)
	}, plain []byte) {
		t.Helper()
		sums := appendGroupSums(nil, plain)
		if n := groupCount(len(plain)); len(sums) != n*sumBytes {
			t.Errorf("%d bytes have %d bytes of sums, want %d", len(plain), len(sums), n*sumBytes)
		} else if got := rootOf(sums, n); got != block.Sum(plain) {
			t.Errorf("the sums of %d bytes give %v, want %v", len(plain), got, block.Sum(plain))
		}
	}
	for _, n := range []int{groupBytes + 1, 2 * groupBytes, 2*groupBytes + 1, 256<<10 - 1, 256 << 10, block.MaxPlain} {
		check(t, data(n, n))
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(groupBytes+1, 300<<10).Draw(t, "bytes")
		check(t, data(rapid.IntRange(0, 9).Draw(t, "seed"), n))
	})
}

// The example of docs/reference/cache.md.
func TestGroupVector(t *testing.T) {
	sums := appendGroupSums(nil, bytes.Repeat([]byte("a"), groupBytes+1))
	const want = "0adfe67edc096ca0e523a0fa162f0a2f3c909e7b29896f8b849d892e1664c515" +
		"1fb47df8435c987bf81304dfdf5ff26ae1ad65dc3dc7d26542879b78e97ae48e"
	if got := hex.EncodeToString(sums); got != want {
		t.Errorf("sums = %s, want %s", got, want)
	}
}

// large puts three chunks of several groups on the disk of a new cache.
func large(t *testing.T, dir string) (names []block.Name, chunks [][]byte) {
	t.Helper()
	c := open(t, dir, Options{})
	for i, n := range []int{70000, 256 << 10, 2*groupBytes + 5} {
		chunks = append(chunks, data(i, n))
	}
	names = put(t, c, block.Domain{}, chunks...)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return names, chunks
}

func TestReadPartReadsAndChecksOnlyWhatIsAround(t *testing.T) {
	dir := t.TempDir()
	names, chunks := large(t, dir)
	c := open(t, dir, Options{})
	for i, n := range names {
		for _, off := range []int{0, 4096, groupBytes - 10, len(chunks[i]) - 100} {
			p := make([]byte, 100)
			before := c.Stat()
			if ok, err := c.ReadPart(t.Context(), block.Domain{}, n, p, off); !ok || err != nil || !bytes.Equal(p, chunks[i][off:off+100]) {
				t.Fatalf("ReadPart(chunk %d, from %d) = %v, %v, want its bytes", i, off, ok, err)
			}
			s := c.Stat()
			groups := s.Groups - before.Groups
			want := int64((off+99)/groupBytes - off/groupBytes + 1)
			if groups != want || s.ReadBytes-before.ReadBytes > want*groupBytes || s.ReadCalls-before.ReadCalls != 1 || s.Verified != 0 {
				t.Errorf("ReadPart(chunk %d, from %d) checked %d groups and read %d bytes in %d calls, want %d, at most 16 KiB each, one call",
					i, off, groups, s.ReadBytes-before.ReadBytes, s.ReadCalls-before.ReadCalls, want)
			}
		}
	}
	p := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() { c.ReadPart(t.Context(), block.Domain{}, names[1], p, 5000) }); n > 1 {
		t.Errorf("ReadPart makes %v allocations, want at most 1", n)
	}
	for _, off := range []int{-1, 70000 - 99, 1 << 30} {
		if ok, err := c.ReadPart(t.Context(), block.Domain{}, names[0], p, off); ok || err != nil {
			t.Errorf("ReadPart from %d of 70000 = %v, %v, want a miss", off, ok, err)
		}
	}
}

// TestReadPartNeverGivesWrongBytes flips bytes that a part depends on: of the
// group, its padding and the sums.
func TestReadPartNeverGivesWrongBytes(t *testing.T) {
	dir := t.TempDir()
	names, chunks := large(t, dir)
	c := open(t, dir, Options{})
	// Chunks lie side by side from page 0; the last has 5 bytes in its last group.
	at := 18 + 64
	n, plain := names[2], chunks[2]
	off := 2 * groupBytes
	part := func() bool {
		p := make([]byte, 5)
		ok, err := c.ReadPart(t.Context(), block.Domain{}, n, p, off)
		if err != nil || ok && !bytes.Equal(p, plain[off:]) {
			t.Fatalf("ReadPart = %v, %v, bytes %x, want %x or a miss", ok, err, p, plain[off:])
		}
		return ok
	}
	if !part() {
		t.Fatal("a good part is a miss")
	}
	for _, x := range []struct {
		path string
		from int64
		n    int64
	}{
		{dir + "/slab-0000", int64(at*page + off), page},
		{dir + "/groups", int64(at * sumBytes), 3 * sumBytes},
	} {
		raw, err := os.ReadFile(x.path)
		if err != nil {
			t.Fatal(err)
		}
		step := max(1, x.n/256)
		for i := x.from; i < x.from+x.n; i += step {
			b := raw[i]
			poke(t, x.path, i, b^0x10)
			if part() {
				t.Errorf("byte %d of %s is wrong and nobody noticed", i, x.path)
			}
			poke(t, x.path, i, b)
		}
		if !part() {
			t.Errorf("after the byte of %s was put back the part is a miss", x.path)
		}
	}
	poke(t, dir+"/slab-0000", int64(at*page+off), plain[off]^1)
	var ev events
	c.Close()
	c = open(t, dir, Options{OnEvent: ev.add})
	if part() {
		t.Error("a damaged part is no miss")
	}
	if n := heal(t, c, block.Domain{}, names, chunks); n != 1 || ev.count(Damaged) != 1 {
		t.Errorf("%d chunks fetched again, events %v, want 1 and one", n, ev.list)
	}
	c.Flush()
	if !part() {
		t.Error("after it was healed the part is a miss")
	}
}

func poke(t *testing.T, path string, at int64, b byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b}, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestReadPartWithoutSums(t *testing.T) {
	dir := t.TempDir()
	names, chunks := large(t, dir)
	dom := block.NewDomain([32]byte{7})
	for name, prepare := range map[string]func() error{
		"removed":   func() error { return os.RemoveAll(dir + "/groups") },
		"shortened": func() error { return os.WriteFile(dir+"/groups", make([]byte, 40), 0o600) },
		"in the way": func() error {
			os.Remove(dir + "/groups")
			return os.Mkdir(dir+"/groups", 0o700)
		},
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		c := open(t, dir, Options{})
		p := make([]byte, 10)
		if ok, err := c.ReadPart(t.Context(), block.Domain{}, names[0], p, 0); ok || err != nil {
			t.Errorf("%s: ReadPart = %v, %v, want a miss", name, ok, err)
		}
		wantAll(t, c, block.Domain{}, names, chunks)
		more := data(len(name), 100000)
		private := put(t, c, dom, more)
		public := put(t, c, block.Domain{}, more)
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		wantAll(t, c, dom, append(private, public...), [][]byte{more, more})
		if ok, err := c.ReadPart(t.Context(), dom, private[0], p, 0); ok || err != nil {
			t.Errorf("%s: ReadPart of a private chunk = %v, %v, want a miss", name, ok, err)
		}
		c.Close()
		os.RemoveAll(dir + "/groups")
	}
}

// TestIdleMemoryIsBounded holds many buffers of several sizes at once.
func TestIdleMemoryIsBounded(t *testing.T) {
	var p bufPool
	var held []*buffer
	for i := range 300 {
		b := p.get(page << (i % 8))
		b.mem[0], b.mem[len(b.mem)-1] = 1, 1
		held = append(held, b)
	}
	for i, b := range held {
		if i%2 == 0 {
			b.release()
		}
	}
	for i, b := range held {
		if i%2 == 1 {
			if b.mem[0] != 1 || b.mem[len(b.mem)-1] != 1 {
				t.Fatal("a buffer lost its bytes when others were given back")
			}
			b.release()
		}
	}
	total := 0
	for a := range p.arenas {
		total += a.bytes
	}
	if total != p.idle || total > idleBytes || total == 0 {
		t.Errorf("%d bytes are mapped and %d idle after the last release, want the same and at most %d", total, p.idle, idleBytes)
	}
	for class, free := range p.free {
		for _, b := range free {
			if _, ok := p.arenas[b.arena]; !ok {
				t.Fatalf("a free buffer of class %d lies in memory that was given back", class)
			}
		}
	}
	// Who uses one size again and again doesn't pay for the others.
	p.get(64 << 10).release()
	if n := testing.AllocsPerRun(100, func() { p.get(64 << 10).release() }); n > 0 {
		t.Errorf("a buffer that was just given back costs %v allocations, want none", n)
	}
}
