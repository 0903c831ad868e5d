package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"

	"lukechampine.com/blake3"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/dir"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/identity"
	"zos.internal/internal/progress"
)

// adjacent are real releases that follow one another, from the module proxy.
var adjacent = [][2]string{
	{"golang.org/x/tools@v0.28.0", "golang.org/x/tools@v0.29.0"},
	{"golang.org/x/net@v0.60.0", "golang.org/x/net@v0.61.0"},
	{"modernc.org/libc@v1.61.4", "modernc.org/libc@v1.61.5"},
	{"k8s.io/client-go@v0.31.0", "k8s.io/client-go@v0.31.1"},
	{"k8s.io/client-go@v0.31.0", "k8s.io/client-go@v0.32.0"},
}

// version is an unpacked release and when it was made.
type version struct {
	name, dir string
	time      time.Time
}

// blocks is a store of blocks of a fixed size, named by their hash: the stored
// size of each. Each file starts a new block.
type blocks map[[32]byte]int

// addTree adds the files of a tree and returns the stored bytes that were new.
func (s blocks) addTree(dir string, size int, encode func([]byte) []byte) (int64, error) {
	var fresh int64
	buf := make([]byte, size)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			n, err := io.ReadFull(f, buf)
			if n > 0 {
				name := blake3.Sum256(buf[:n])
				if _, ok := s[name]; !ok {
					s[name] = len(encode(buf[:n]))
					fresh += int64(s[name])
				}
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return fresh, err
}

// module downloads a module.
func (b *bench) module(ctx context.Context, at string) (version, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", at)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-modcacherw", "GOMODCACHE="+b.path("modules"))
	out, err := cmd.Output()
	if err != nil {
		return version{}, fmt.Errorf("download %s: %w: %s", at, err, out)
	}
	var m struct{ Dir, Info string }
	if err := json.Unmarshal(out, &m); err != nil {
		return version{}, err
	}
	info, err := os.ReadFile(m.Info)
	if err != nil {
		return version{}, err
	}
	var made struct{ Time time.Time }
	return version{at, m.Dir, made.Time}, json.Unmarshal(info, &made)
}

// kernels unpacks the two newest kernel packages that this machine's package
// sources offer; fewer than two is no error.
func (b *bench) kernels(ctx context.Context) ([]version, error) {
	out, err := exec.CommandContext(ctx, "sh", "-c", `apt-cache search --names-only '^linux-image-[0-9.]+-[0-9]+-amd64$' | cut -d' ' -f1 | sort -V`).Output()
	if err != nil {
		return nil, nil
	}
	names := strings.Fields(string(out))
	if len(names) < 2 {
		return nil, nil
	}
	var vs []version
	for _, name := range names[len(names)-2:] {
		v := version{name: name, dir: b.path("kernels", name)}
		vs = append(vs, v)
		if _, err := os.Stat(v.dir); err == nil {
			continue
		}
		load := b.path("kernels", name+".deb")
		if err := os.MkdirAll(load, 0o755); err != nil {
			return nil, err
		}
		script := `apt-get download -q "$1" && dpkg-deb -x ./*.deb "$2.part" && mv "$2.part" "$2"`
		cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", name, v.dir)
		cmd.Dir = load
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("get %s: %w: %s", name, err, out)
		}
	}
	return vs, nil
}

// upgrade publishes two versions on a hub and lets a client that has the first
// one pull the second. What it moves is counted at the server: the bodies of all
// answers, whatever they are for.
func upgrade(ctx context.Context, b *bench) error {
	for _, pair := range adjacent {
		var vs []version
		for _, at := range pair {
			v, err := b.module(ctx, at)
			if err != nil {
				return err
			}
			vs = append(vs, v)
		}
		if err := b.pair(ctx, vs); err != nil {
			return err
		}
	}
	vs, err := b.kernels(ctx)
	if err != nil {
		return err
	}
	if len(vs) < 2 {
		b.say("  the package sources offer no two kernels")
		return nil
	}
	return b.pair(ctx, vs)
}

// pair measures one upgrade.
func (b *bench) pair(ctx context.Context, vs []version) error {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer zw.Close()
	zst := func(p []byte) []byte { return zw.EncodeAll(p, nil) }
	snap := func(p []byte) []byte { return snappy.Encode(nil, p) }
	work := b.path("pair")
	defer os.RemoveAll(work)
	server, err := b.upgradeHub(ctx, filepath.Join(work, "hub"))
	if err != nil {
		return err
	}
	defer server.close()
	publisher, node := block.OpenDir(filepath.Join(work, "publisher")), block.OpenDir(filepath.Join(work, "node"))
	var fixed, whole, rfs [2]int64
	f, w, r := blocks{}, blocks{}, blocks{}
	var reports [2]*flist.BuildReport
	var moved, requests int64
	for i, v := range vs {
		opt := flist.BuildOptions{}
		if i > 0 {
			opt.Bases = []flist.ID{reports[0].ID}
		}
		if reports[i], err = buildVersion(ctx, v, publisher, opt); err != nil {
			return err
		}
		if _, err := server.client.Push(ctx, publisher, reports[i].ID, client.PushOptions{Key: server.key, Name: "pair"}); err != nil {
			return err
		}
		bytes, n := server.bytes.Load(), server.requests.Load()
		if _, err := server.client.Pull(ctx, node, reports[i].ID, client.PullOptions{}); err != nil {
			return err
		}
		moved, requests = server.bytes.Load()-bytes, server.requests.Load()-n
		if fixed[i], err = f.addTree(v.dir, 1<<20, zst); err != nil {
			return err
		}
		if whole[i], err = w.addTree(v.dir, 64<<20, zst); err != nil {
			return err
		}
		if rfs[i], err = r.addTree(v.dir, 512<<10, snap); err != nil {
			return err
		}
	}
	name := vs[1].name
	_, from, ok := strings.Cut(vs[0].name, "@")
	if !ok {
		from = vs[0].name
	}
	name += " from " + from
	const peer = ", zstd, no metadata"
	size := func(x float64) string { return progress.Size(int64(x)) }
	ours := fmt.Sprintf("%s, %d requests", size(float64(moved)), requests)
	b.record("upgrade bytes "+name, "fixed 1 MiB"+peer, atMost(0.75), ours, size(float64(fixed[1])), []float64{float64(moved) / float64(fixed[1])})
	b.record("upgrade bytes "+name, "whole files"+peer, atMost(0.75), ours, size(float64(whole[1])), []float64{float64(moved) / float64(whole[1])})
	chunks := float64(reports[1].PackedBytes + reports[1].Published)
	b.record("upgrade bytes without the delta "+name, "fixed 1 MiB"+peer, must{}, size(chunks), size(float64(fixed[1])), []float64{chunks / float64(fixed[1])})
	stored, err := server.stored(ctx)
	if err != nil {
		return err
	}
	both := float64(rfs[0] + rfs[1])
	b.record("two versions stored "+name, "fixed 512 KiB, snappy, no metadata", atMost(0.9), size(stored), size(both), []float64{stored / both})
	return nil
}

// buildVersion builds an image of a release. The files of a module are unpacked
// just now, which no release would ship: they get the time of the release.
func buildVersion(ctx context.Context, v version, to block.Bucket, opt flist.BuildOptions) (*flist.BuildReport, error) {
	var copts convert.Options
	if !v.time.IsZero() {
		made := v.time.Unix()
		copts.ClampMtime = &made
	}
	res, err := dir.Read(ctx, v.dir, copts)
	if err != nil {
		return nil, err
	}
	defer res.Close()
	return flist.Build(ctx, res.Root, to, opt)
}

// upgradeHub is a hub on loopback that counts what it answers.
type upgradeHub struct {
	store           block.Bucket
	server          *http.Server
	done            chan error
	client          *client.Client
	key             *identity.PrivateKey
	bytes, requests atomic.Int64
}

func (b *bench) upgradeHub(ctx context.Context, path string) (*upgradeHub, error) {
	h := &upgradeHub{store: block.OpenDir(filepath.Join(path, "store")), key: identity.FromSeed([32]byte{1}), done: make(chan error, 1)}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	publishers := filepath.Join(path, "publishers")
	if err := os.WriteFile(publishers, []byte(h.key.Public().Address().String()+" bench unlimited\n"), 0o644); err != nil {
		return nil, err
	}
	handler, err := hub.New(ctx, hub.Config{Store: h.store, Publishers: publishers})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1)
		handler.ServeHTTP(&meter{w, &h.bytes}, r)
	})}
	go func() { h.done <- h.server.Serve(ln) }()
	h.client, err = client.New([]string{"http://" + ln.Addr().String()}, client.Options{})
	return h, err
}

func (h *upgradeHub) close() {
	h.server.Close()
	<-h.done
}

// stored is the size of all files that readers can ask for.
func (h *upgradeHub) stored(ctx context.Context) (float64, error) {
	var n int64
	for _, prefix := range []string{"r/", "o/", "p/", "l/", "d/"} {
		for k, err := range h.store.List(ctx, prefix) {
			if err != nil {
				return 0, err
			}
			size, err := h.store.Stat(ctx, k)
			if err != nil {
				return 0, err
			}
			n += size
		}
	}
	return float64(n), nil
}

// meter counts the bytes of bodies.
type meter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.ResponseWriter.Write(b)
	m.n.Add(int64(n))
	return n, err
}

// metadata measures what a client fetches of an image before it lists the tree.
func metadata(ctx context.Context, b *bench) error {
	dir, err := b.tree()
	if err != nil {
		return err
	}
	var built struct {
		Entries  uint64
		Metadata int64 `json:"metadata_stored"`
	}
	if err := b.runZos(ctx, "metadata", "", &built, "flist", "build", "dir:"+dir, "--no-base"); err != nil {
		return err
	}
	defer os.RemoveAll(b.path("metadata-data"))
	per := float64(built.Metadata) / float64(built.Entries)
	b.absolute(fmt.Sprintf("metadata alone per entry, %d entries", built.Entries), atMost(20), per, fmt.Sprintf("%.1f B", per))
	return nil
}
