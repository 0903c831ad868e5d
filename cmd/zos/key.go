package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/flist/lazy"
	"zos.internal/identity"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make, keep and show keys", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.keyNewCommand(), a.keyImportCommand(), a.keyExportCommand(), a.keyListCommand(), a.keyShowCommand(), a.keyDefaultCommand(), a.keyTenantCommand())
	return cmd
}

func (a *app) keyTenantCommand() *cobra.Command {
	return &cobra.Command{
		Use: "tenant FILE", Short: "Make a secret for private images", Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := os.Lstat(args[0]); err == nil {
				return fault.Errorf(fault.Conflict, "write %s: the file exists; choose another name", args[0])
			}
			secret := make([]byte, 32)
			if _, err := rand.Read(secret); err != nil {
				return err
			}
			if err := atomicfile.Write(args[0], []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
				return err
			}
			id := block.NewDomain([32]byte(secret)).ID()
			text := hex.EncodeToString(id[:])
			return a.print(map[string]string{"file": args[0], "domain": text}, facts("file", args[0], "domain", text), text)
		},
	}
}

// The default key is the one named in this file of the directory of keys, or
// else the one with this name.
const (
	defaultMark = ".default"
	defaultName = "default"
)

func (a *app) keyDir() string { return filepath.Join(a.dataDir(), "keys") }

func validKeyName(name string) bool {
	return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$`).MatchString(name)
}

// newKeyPath is where the key that a user names is made: below the directory of
// keys for a name, at its place for a file.
func (a *app) newKeyPath(arg string) (string, error) {
	switch {
	case strings.ContainsRune(arg, filepath.Separator):
		return arg, nil
	case !validKeyName(arg):
		return "", fault.Errorf(fault.Invalid, "the key name %.60q has other characters than letters, digits, dots, underscores and hyphens, or more than 40; choose another, or write ./%s for a file", arg, arg)
	}
	return filepath.Join(a.keyDir(), arg), nil
}

// findKey is the file of the key that a user names: one of the directory of
// keys, else a file of that path.
func (a *app) findKey(arg string) string {
	path, err := a.newKeyPath(arg)
	if err != nil {
		return arg
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(arg); err == nil {
			return arg
		}
	}
	return path
}

// keyPath is the file of the key that signs.
func (a *app) keyPath() (string, error) {
	c, err := a.context()
	if err != nil {
		return "", err
	}
	if named := first(a.keyFile, a.getenv("ZOS_KEY"), c.Key); named != "" {
		return a.findKey(named), nil
	}
	return a.defaultKey()
}

func (a *app) defaultKey() (string, error) {
	b, err := os.ReadFile(filepath.Join(a.keyDir(), defaultMark))
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(a.keyDir(), defaultName), nil
	}
	name := strings.TrimSpace(string(b))
	if err == nil && !validKeyName(name) {
		err = fault.Errorf(fault.Invalid, "%.60q is no name of a key; choose one with zos key default NAME", name)
	}
	if err != nil {
		return "", fault.Errorf(fault.Of(err), "read the name of the default key: %w", err)
	}
	return filepath.Join(a.keyDir(), name), nil
}

// keyArg is the file of the key in the arguments, or of the key that signs.
func (a *app) keyArg(args []string) (string, error) {
	if len(args) > 0 {
		return a.findKey(args[0]), nil
	}
	return a.keyPath()
}

// key loads the key that signs.
func (a *app) key() (*identity.PrivateKey, error) {
	k, err := a.keys()
	if err != nil {
		return nil, err
	}
	return k.Sign, nil
}

// keys loads all that the file of the key that signs holds. The default key is
// made when it is first needed; one that was named must be there.
func (a *app) keys() (*identity.Keys, error) {
	path, err := a.keyPath()
	if err != nil {
		return nil, err
	}
	k, err := a.openKey(path)
	if !errors.Is(err, fault.NotFound) {
		return k, err
	}
	if path != filepath.Join(a.keyDir(), defaultName) {
		return nil, err
	}
	if k, err = a.makeKey(path, nil); err == nil {
		a.note("made a new key for you: %s (%v)\nwrite down its recovery phrase: zos key export --phrase", path, k.Owner)
	}
	return k, err
}

// openKey reads a key file and asks for its passphrase if it has one.
func (a *app) openKey(path string) (*identity.Keys, error) {
	f, err := identity.ReadKeyFile(path)
	if err != nil {
		return nil, noKey(path, err)
	}
	var passphrase []byte
	if f.Locked {
		if passphrase, err = a.passphrase("passphrase of " + path + ": "); err != nil {
			return nil, fault.Errorf(fault.Of(err), "open key %s: %w", path, err)
		}
		defer clear(passphrase)
	}
	return f.Open(passphrase)
}

// noKey tells what to do about a key that isn't there.
func noKey(path string, err error) error {
	if errors.Is(err, fault.NotFound) {
		return fault.Errorf(fault.NotFound, "there is no key %s; see zos key list, or make it with zos key new", path)
	}
	return err
}

// makeKey makes a key from a new seed.
func (a *app) makeKey(path string, passphrase []byte) (*identity.Keys, error) {
	seed, err := identity.NewSeed()
	if err != nil {
		return nil, err
	}
	k := identity.KeysOf(seed)
	return k, saveKey(k, path, passphrase)
}

func saveKey(k *identity.Keys, path string, passphrase []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.Errorf(fault.Of(err), "make key: %w", err)
	}
	return k.Save(path, passphrase)
}

// domain is the tenant's domain, or the public one when no secret is named.
func (a *app) domain() (block.Domain, string, error) {
	c, err := a.context()
	if err != nil {
		return block.Domain{}, "", err
	}
	path := first(a.tenant, a.getenv("ZOS_TENANT_KEY"), c.TenantKey)
	if path == "" {
		return block.Domain{}, "", nil
	}
	dom, err := lazy.LoadTenant(path)
	return dom, path, err
}
