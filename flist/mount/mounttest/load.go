package mounttest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"zos.internal/flist/tree"
)

// LoadResult is what readers under load saw.
type LoadResult struct {
	Files  int    `json:"files"` // read whole
	Mapped int    `json:"mapped"`
	Bytes  int64  `json:"bytes"`
	Failed int    `json:"failed"` // errors and wrong contents
	First  string `json:"first,omitempty"`
}

// Sums are the hashes of the non-empty files of a tree by path.
func Sums(root *tree.Node) map[string]string {
	out := make(map[string]string)
	for path, n := range root.Walk() {
		if n.IsRegular() && n.Size > 0 {
			b, err := n.ReadAll(1 << 30)
			if err != nil {
				panic(err) // samples are in memory
			}
			h := sha256.Sum256(b)
			out[path] = hex.EncodeToString(h[:])
		}
	}
	return out
}

// Load reads the files below dir again and again with some readers until stop
// closes; each second file through a mapping, where a failure would be SIGBUS
// and the end of the process. Every content is compared. Caches of a file are
// dropped before it is read, so that the data server is asked.
func Load(dir string, want map[string]string, readers int, stop <-chan struct{}) LoadResult {
	paths := slices.Sorted(maps.Keys(want))
	var mu sync.Mutex
	var total LoadResult
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			for i := r; ; i += readers {
				select {
				case <-stop:
					return
				default:
				}
				path := paths[i%len(paths)]
				useMap := i/len(paths)%2 == r%2
				n, err := readOnce(filepath.Join(dir, path), want[path], useMap)
				mu.Lock()
				total.Files++
				total.Bytes += n
				if useMap {
					total.Mapped++
				}
				if err != nil {
					if total.Failed++; total.First == "" {
						total.First = fmt.Sprintf("%q: %v", path, err)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return total
}

func readOnce(path, want string, useMap bool) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	h := sha256.New()
	var n int64
	if useMap {
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return 0, err
		}
		defer unix.Munmap(m)
		n, err = io.Copy(h, bytes.NewReader(m))
		if err != nil {
			return n, err
		}
	} else if n, err = io.Copy(h, f); err != nil {
		return n, err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return n, fmt.Errorf("wrong content: %s instead of %s", got, want)
	}
	return n, nil
}
