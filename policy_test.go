package zos

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dependency is a module that ours requires directly, and why.
type dependency struct{ module, reason string }

func dependencies() []dependency {
	return []dependency{
		{"github.com/btcsuite/btcd/btcutil", "bech32m text of addresses"},
		{"github.com/cometbft/cometbft", "the consensus engine of the chain, in process, and its light client"},
		{"github.com/cometbft/cometbft-db", "the stores that the consensus engine is given"},
		{"github.com/compose-spec/compose-go/v2", "reads compose files for zos compose convert"},
		{"github.com/cosmos/cosmos-db", "the key-value store under the chain's state tree"},
		{"github.com/cosmos/iavl", "the chain's state tree, with proofs"},
		{"github.com/cosmos/ics23/go", "checks the proofs of the state tree"},
		{"github.com/erofs/go-erofs", "tests: a second reader of our metadata images"},
		{"github.com/fxamacker/cbor/v2", "canonical CBOR of everything that is hashed or signed"},
		{"github.com/google/go-cmp", "tests: readable differences"},
		{"github.com/google/go-containerregistry", "OCI registries and layouts without a daemon"},
		{"github.com/google/nftables", "published ports without calling nft"},
		{"github.com/hanwen/go-fuse/v2", "the FUSE tree, fallback for machines and users without EROFS mounts"},
		{"github.com/klauspost/compress", "zstd, s2, snappy, gzip"},
		{"github.com/minio/minio-go/v7", "S3 behind one block.Bucket; not in the node binary"},
		{"github.com/opencontainers/runtime-spec", "types of the configuration that crun and runc read"},
		{"github.com/pelletier/go-toml/v2", ".startup.toml of .fl images"},
		{"github.com/PlakarKorp/go-cdc-chunkers", "benchmarks: the chunker that is the speed peer"},
		{"github.com/rogpeppe/go-internal", "tests: testscript, every command against the real main"},
		{"github.com/spf13/cobra", "commands, flags, help and shell completion"},
		{"github.com/tyler-smith/go-bip39", "recovery phrases: the standard's word list and checksum"},
		{"github.com/ulikunitz/xz", "xz tars"},
		{"github.com/vishvananda/netlink", "network namespaces, veth pairs and addresses"},
		{"github.com/vishvananda/netns", "entering network namespaces"},
		{"github.com/zeebo/blake3", "the hash that names everything we make; see docs/adr/0005"},
		{"github.com/santhosh-tekuri/jsonschema/v6", "tests: a second opinion on the JSON Schema of deployments"},
		{"go.yaml.in/yaml/v3", "YAML of deployments with line numbers"},
		{"golang.org/x/crypto", "BLAKE2b of .fl images; Argon2id and ChaCha20-Poly1305 of key files"},
		{"golang.org/x/net", "a listener that bounds its connections"},
		{"golang.org/x/sync", "bounded groups of goroutines"},
		{"golang.org/x/sys", "mounts, FUSE, fanotify, namespaces"},
		{"golang.org/x/term", "is this a terminal"},
		{"lukechampine.com/blake3", "tests: the second implementation of BLAKE3"},
		{"modernc.org/sqlite", ".fl images are SQLite files; pure Go"},
		{"pgregory.net/rapid", "tests: properties"},
		{"sigs.k8s.io/yaml", "YAML as JSON's friendlier spelling"},
	}
}

func TestDirectDependenciesHaveAReason(t *testing.T) {
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, d := range dependencies() {
		if d.reason == "" {
			t.Errorf("%s has no reason", d.module)
		}
		known[d.module] = true
	}
	required := regexp.MustCompile(`(?m)^\t?(?:require )?([a-zA-Z0-9./_-]+) v\S+(.*)$`)
	for _, m := range required.FindAllStringSubmatch(string(b), -1) {
		direct := !strings.Contains(m[2], "// indirect")
		switch {
		case direct && !known[m[1]]:
			t.Errorf("go.mod requires %s, which policy_test.go doesn't explain", m[1])
		case direct:
			delete(known, m[1])
		}
	}
	for m := range known {
		t.Errorf("policy_test.go explains %s, which go.mod doesn't require directly", m)
	}
}

// parsed walks the Go files that are not tests.
func parsed(t *testing.T, visit func(path string, fset *token.FileSet, f *ast.File)) {
	t.Helper()
	for path := range goFiles(t) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		visit(filepath.ToSlash(path), fset, f)
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	docs := make(map[string]int)
	parsed(t, func(path string, _ *token.FileSet, f *ast.File) {
		dir := filepath.Dir(path)
		docs[dir] += 0
		if f.Doc != nil {
			docs[dir]++
		}
	})
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, n)
		}
	}
}

func TestOnlyTheClockReadsTheClock(t *testing.T) {
	parsed(t, func(path string, fset *token.FileSet, f *ast.File) {
		if strings.HasPrefix(path, "internal/clock/") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if ok && x.Name == "time" && x.Obj == nil && slices.Contains([]string{"Now", "Since", "Until"}, sel.Sel.Name) {
				t.Errorf("%v: time.%s; take a clock.Clock", fset.Position(sel.Pos()), sel.Sel.Name)
			}
			return true
		})
	})
}

func TestMainsAreThin(t *testing.T) {
	parsed(t, func(path string, _ *token.FileSet, f *ast.File) {
		if f.Name.Name != "main" || !strings.HasPrefix(path, "cmd/") || filepath.Base(path) != "main.go" {
			return
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > 60 {
			t.Errorf("%s has %d lines, 60 are allowed", path, n)
		}
	})
}

func TestNothingRegistersItself(t *testing.T) {
	parsed(t, func(path string, fset *token.FileSet, f *ast.File) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%v: func init; pass what is needed to a constructor", fset.Position(fn.Pos()))
			}
		}
	})
}

func TestPackageNamesAreNouns(t *testing.T) {
	parsed(t, func(path string, _ *token.FileSet, f *ast.File) {
		switch f.Name.Name {
		case "pkg", "util", "utils", "common", "types", "helpers", "misc":
			t.Errorf("%s: a package named %s says nothing; name it for what it holds", path, f.Name.Name)
		}
	})
}
