package block

import (
	"math/bits"

	"github.com/zeebo/blake3"
)

// Profile is the minimum, average and maximum length of chunks in bytes. Avg is
// a power of two. The cut points of a profile are frozen: they decide the ids
// of images, so they never change with a release.
type Profile struct {
	Min, Avg, Max int
}

// Image cuts the files of images, Stream whole and appended files of a file
// system.
var (
	Image  = Profile{16 << 10, 64 << 10, 256 << 10}
	Stream = Profile{256 << 10, 1 << 20, 4 << 20}
)

// MaxPlain is the largest plain length of a chunk in bytes; the smallest is 1.
const MaxPlain = 4 << 20

// gear holds one 64-bit number per byte value. It is never written after the
// program started.
var gear = makeGear()

func makeGear() (g [256]uint64) {
	for i := range g {
		sum := blake3.Sum256(append([]byte("zos block gear v1"), byte(i)))
		for j := range 8 {
			g[i] |= uint64(sum[j]) << (8 * j)
		}
	}
	return g
}

// Cut is the length of the first chunk of b. To cut a stream alike however it
// arrives, b must hold at least Max bytes unless it reaches the end of the
// stream. Cut(nil) is 0.
//
//	for len(b) > 0 {
//		n := block.Image.Cut(b)
//		use(b[:n])
//		b = b[n:]
//	}
func (p Profile) Cut(b []byte) int {
	if len(b) <= p.Min {
		return len(b)
	}
	b = b[:min(len(b), p.Max)]
	log := bits.Len(uint(p.Avg)) - 1
	normal := min(p.Avg, len(b))
	// A fingerprint with n zero bits at the top is below 1<<(64-n).
	fp, n := scan(b[p.Min:normal], 0, uint64(1)<<(64-log-2))
	if n > 0 {
		return p.Min + n
	}
	if _, n = scan(b[normal:], fp, uint64(1)<<(64-log+2)); n > 0 {
		return normal + n
	}
	return len(b)
}

// scan rolls fp over b and returns how many bytes it took until fp was below
// limit, or 0. Four bytes are taken at once: the sums of their gear values don't
// depend on fp, which leaves one shift and add in the chain per byte.
func scan(b []byte, fp, limit uint64) (uint64, int) {
	i := 0
	for ; i+4 <= len(b); i += 4 {
		q := b[i : i+4 : i+4]
		g0 := gear[q[0]]
		g1 := g0<<1 + gear[q[1]]
		g2 := g1<<1 + gear[q[2]]
		g3 := g2<<1 + gear[q[3]]
		f0 := fp<<1 + g0
		f1 := fp<<2 + g1
		f2 := fp<<3 + g2
		fp = fp<<4 + g3
		if f0 < limit {
			return 0, i + 1
		}
		if f1 < limit {
			return 0, i + 2
		}
		if f2 < limit {
			return 0, i + 3
		}
		if fp < limit {
			return 0, i + 4
		}
	}
	for ; i < len(b); i++ {
		fp = fp<<1 + gear[b[i]]
		if fp < limit {
			return 0, i + 1
		}
	}
	return fp, 0
}
