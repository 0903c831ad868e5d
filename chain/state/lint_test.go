package state

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is all that the machine may use. What isn't here has clocks, chance,
// files, wires or an order of its own.
func mayImport() []string {
	return []string{
		"cmp", "slices", "strings", "fmt", "math/bits", "encoding/binary", "crypto/sha256",
		"github.com/fxamacker/cbor/v2",
		"zos.internal/chain", "zos.internal/identity", "zos.internal/internal/canon", "zos.internal/internal/fault",
	}
}

// mayNotCall are functions of packages above that depend on more than their
// arguments.
func mayNotCall() []string {
	return []string{"identity.Generate", "identity.Load", "identity.OpenReplays", "identity.NewMessageID", "fmt.Print", "fmt.Println", "fmt.Printf", "fmt.Scan", "fmt.Scanln"}
}

// TestDeterminism reads the machine and the types it keeps: no floating point, no
// range over a map, no goroutine, channel or select, no variable of the package,
// and no import but the few above.
func TestDeterminism(t *testing.T) {
	for _, dir := range []string{".", ".."} {
		for _, wrong := range lint(t, dir, nil) {
			if dir == ".." && strings.Contains(wrong, "import") {
				continue // the types have JSON and reflection; only the machine must not
			}
			t.Error(wrong)
		}
	}
}

// TestLintFinds: the lint finds each thing that it is for.
func TestLintFinds(t *testing.T) {
	for code, want := range map[string]string{
		`import "time"; func f() int64 { return time.Now().Unix() }`:                   `import "time"`,
		`import "math/rand"; func f() int { return rand.Int() }`:                       `import "math/rand"`,
		`import "os"; func f() { os.Exit(1) }`:                                         `import "os"`,
		`import "maps"; func f(m map[int]int) { for range maps.Keys(m) {} }`:           `import "maps"`,
		`func f(m map[int]int) (n int) { for k := range m { n += k }; return }`:        "range over a map",
		`type s map[string]int; type b struct { s }; func f(x b) { for range x.s {} }`: "range over a map",
		`import "fmt"; func f(m map[int]int) string { return fmt.Sprint(m) }`:          "",
		`func f(x float64) bool { return x > 1 }`:                                      "floating point",
		`func f() int { return int(1e3) }`:                                             "floating point",
		`func f(n int) int { return int(0.5 * 4) * n }`:                                "floating point",
		`func f() { go f() }`:                                                           "goroutine",
		`func f(c chan int) { select { case <-c: } }`:                                   "select",
		`func f() { c := make(chan int, 1); c <- 1 }`:                                   "channel",
		`var count int; func f() { count++ }`:                                           "variable count of the package",
		`var _ any = 1; func f() {}`:                                                    "",
		`func init() {}`:                                                                "init",
		`import "zos.internal/identity"; func f() { identity.Generate() }`:              "identity.Generate",
		`import "unsafe"; func f(p *int) uintptr { return uintptr(unsafe.Pointer(p)) }`: `import "unsafe"`,
		`import "slices"; type r struct{ a []int }; func f(x r) (n int) { for _, v := range slices.Sorted(slices.Values(x.a)) { n += v }; return }`: "",
	} {
		found := strings.Join(lint(t, ".", map[string]string{"x.go": "package x; " + code}), "\n")
		if want == "" && found != "" || !strings.Contains(found, want) {
			t.Errorf("%s\nfound %q, want %q", code, found, want)
		}
	}
}

// lint reads the files of a directory that are no tests, or the given ones.
func lint(t *testing.T, dir string, given map[string]string) (wrong []string) {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for name, src := range given {
		f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if given == nil {
		var err error
		if files, err = parseDir(fset, dir); err != nil || len(files) == 0 {
			t.Fatalf("no Go files in %s: %v", dir, err)
		}
	}
	info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object)}
	conf := types.Config{Importer: &sources{fset: fset, std: importer.Default(), seen: make(map[string]*types.Package)}, Error: func(error) {}}
	conf.Check("x", fset, files, info) // what is missing is invalid, and refused below
	for _, f := range files {
		say := func(n ast.Node, what string) { wrong = append(wrong, fset.Position(n.Pos()).String()+": "+what) }
		for _, i := range f.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); !slices.Contains(mayImport(), path) {
				say(i, "import "+i.Path.Value)
			}
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if v, ok := s.(*ast.ValueSpec); ok && d.Tok == token.VAR && v.Names[0].Name != "_" {
						say(v, "variable "+v.Names[0].Name+" of the package")
					}
				}
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					say(d, "init")
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if tv, ok := info.Types[e]; ok && isFloat(tv.Type) {
					say(e, "floating point")
					return false
				}
			}
			switch n := n.(type) {
			case *ast.GoStmt:
				say(n, "goroutine")
			case *ast.SelectStmt:
				say(n, "select")
			case *ast.ChanType, *ast.SendStmt:
				say(n, "channel")
			case *ast.BasicLit:
				if n.Kind == token.FLOAT || n.Kind == token.IMAG {
					say(n, "floating point")
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && slices.Contains(mayNotCall(), x.Name+"."+n.Sel.Name) {
					say(n, x.Name+"."+n.Sel.Name)
				}
			case *ast.RangeStmt:
				switch tv := info.Types[n.X]; {
				case tv.Type == nil || tv.Type == types.Typ[types.Invalid]:
					say(n, "range over something of unknown type")
				default:
					if _, ok := tv.Type.Underlying().(*types.Map); ok {
						say(n, "range over a map")
					}
				}
			}
			return true
		})
	}
	return wrong
}

func isFloat(t types.Type) bool {
	if t == nil {
		return false
	}
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&(types.IsFloat|types.IsComplex) != 0
}

// sources gives the packages of this module from their sources, the standard
// library from what the compiler left, and of all others only the name.
type sources struct {
	fset *token.FileSet
	std  types.Importer
	seen map[string]*types.Package
}

func (s *sources) Import(path string) (*types.Package, error) {
	if p := s.seen[path]; p != nil {
		return p, nil
	}
	rest, ours := strings.CutPrefix(path, "zos.internal/")
	var p *types.Package
	if !ours {
		var err error
		if p, err = s.std.Import(path); err != nil {
			p = types.NewPackage(path, filepath.Base(path))
			p.MarkComplete()
		}
		s.seen[path] = p
		return p, nil
	}
	files, err := parseDir(s.fset, filepath.Join("..", "..", rest))
	if err != nil {
		return nil, err
	}
	conf := types.Config{Importer: s, Error: func(error) {}, IgnoreFuncBodies: true}
	p, _ = conf.Check(path, s.fset, files, nil)
	s.seen[path] = p
	return p, nil
}

// parseDir parses the files of a directory that are no tests.
func parseDir(fset *token.FileSet, dir string) (files []*ast.File, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, err
}
