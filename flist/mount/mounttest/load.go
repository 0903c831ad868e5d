package mounttest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
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

// Sums are the hashes of the non-empty files of a tree by the hexadecimal form
// of the path, since names need not be text.
func Sums(root *tree.Node) map[string]string {
	out := make(map[string]string)
	for path, n := range root.Walk() {
		if n.IsRegular() && n.Size > 0 {
			b, err := n.ReadAll(1 << 30)
			if err != nil {
				panic(err) // samples are in memory
			}
			h := sha256.Sum256(b)
			out[hex.EncodeToString([]byte(path))] = hex.EncodeToString(h[:])
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
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
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
				key := paths[i%len(paths)]
				useMap := i/len(paths)%2 == r%2
				path, err := hex.DecodeString(key)
				var n int64
				if err == nil {
					n, err = readOnce(filepath.Join(dir, string(path)), want[key], useMap)
				}
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

// Reader is a process that reads an image under load. A failed mapped read
// would kill it.
type Reader struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// StartReader starts this program as the reader of the image at target. sums
// is a file that it may write. attr may be nil.
func StartReader(img *Image, sums, target string, attr *syscall.SysProcAttr) (*Reader, error) {
	b, err := json.Marshal(Sums(img.Root))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(sums, b, 0o600); err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, "load", sums, target)
	cmd.Env = append(os.Environ(), RoleVar+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &Reader{cmd, stdin, bufio.NewReader(stdout)}
	if _, err := r.out.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("the reader did not start: %w", err), r.Kill())
	}
	return r, nil
}

// Stop ends the process and returns what it saw; a SIGBUS is an error.
func (r *Reader) Stop() (LoadResult, error) {
	var res LoadResult
	r.stdin.Close()
	derr := json.NewDecoder(r.out).Decode(&res)
	if err := r.cmd.Wait(); err != nil {
		return res, fmt.Errorf("the reader died: %w", err)
	}
	return res, derr
}

// Kill ends the process at once.
func (r *Reader) Kill() error {
	return errors.Join(r.cmd.Process.Kill(), r.cmd.Wait())
}

// Await asks the keeper for its status until it is as wanted.
func Await(ctx context.Context, runDir string, ok func(dataserver.Status) bool) (dataserver.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for {
		st, err := dataserver.Client{RunDir: runDir}.Stat(ctx)
		if err != nil {
			return st, err
		}
		if ok(st) {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return st, fmt.Errorf("the data server did not get there: %+v", st)
		case <-tick.C:
		}
	}
}
