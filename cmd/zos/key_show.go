package main

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// keyInfo is what is shown of a key.
type keyInfo struct {
	Name        string   `json:"name,omitempty"` // if it is in the directory of keys
	File        string   `json:"file"`
	Key         string   `json:"key,omitempty"`
	Address     string   `json:"address,omitempty"`
	Owner       string   `json:"owner,omitempty"` // of a program's key: for whom it acts
	Role        string   `json:"role,omitempty"`
	Epoch       uint32   `json:"epoch,omitempty"`
	Fingerprint string   `json:"fingerprint,omitempty"`
	Encrypted   bool     `json:"encrypted"`
	Default     bool     `json:"default"`
	KEM         *kemInfo `json:"kem,omitempty"`
	Phrase      string   `json:"phrase,omitempty"`
	Problem     string   `json:"problem,omitempty"`
}

type kemInfo struct {
	Epoch uint32 `json:"epoch"`
	Hash  string `json:"hash"`
	Key   string `json:"key,omitempty"` // base64url, only of an export
}

// keyInfo reads what a key file says without its passphrase.
func (a *app) keyInfo(path string) (keyInfo, error) {
	i := keyInfo{File: path}
	if filepath.Dir(path) == a.keyDir() {
		i.Name = filepath.Base(path)
	}
	if d, err := a.defaultKey(); err == nil {
		i.Default = d == path
	}
	f, err := identity.ReadKeyFile(path)
	if err != nil {
		return i, noKey(path, err)
	}
	i.Key, i.Address, i.Role, i.Epoch = f.Key.String(), f.Owner.String(), f.Role.String(), f.Epoch
	i.Fingerprint, i.Encrypted = f.Key.Fingerprint(), f.Locked
	if f.Role != identity.RoleFull {
		i.Address, i.Owner = f.Key.Address().String(), f.Owner.String()
	}
	if f.KEM != nil {
		h := f.KEM.Hash()
		i.KEM = &kemInfo{Epoch: f.KEM.Epoch(), Hash: hex.EncodeToString(h[:])}
	}
	return i, nil
}

func (a *app) printKey(i keyInfo) error {
	pairs := []string{"name", i.Name, "file", i.File, "key", i.Key, "address", i.Address, "owner", i.Owner, "role", i.Role, "fingerprint", i.Fingerprint}
	if i.Encrypted {
		pairs = append(pairs, "encrypted", "yes")
	} else {
		pairs = append(pairs, "encrypted", "no")
	}
	if i.Epoch > identity.FirstEpoch {
		pairs = append(pairs, "epoch", strconv.FormatUint(uint64(i.Epoch), 10))
	}
	if i.KEM != nil {
		pairs = append(pairs, "kem epoch", strconv.FormatUint(uint64(i.KEM.Epoch), 10), "kem hash", i.KEM.Hash, "kem key", i.KEM.Key)
	}
	pairs = append(pairs, "phrase", i.Phrase)
	var shown []string
	for n := 0; n < len(pairs); n += 2 {
		if pairs[n+1] != "" {
			shown = append(shown, pairs[n], pairs[n+1])
		}
	}
	return a.print(i, facts(shown...), i.Address)
}

func (a *app) keyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show the public side of a key", Args: args(0, 1),
		Long: `Show address, public key, role, fingerprint and the hash of the key that others
seal to. No passphrase is needed. Without NAME it is the key that signs.`,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := a.keyArg(args)
			if err != nil {
				return err
			}
			i, err := a.keyInfo(path)
			if err != nil {
				return err
			}
			return a.printKey(i)
		},
	}
}

func (a *app) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show the keys below $ZOS_DATA/keys", Args: args(0, 0),
		Long: "Show the keys below $ZOS_DATA/keys. The one that signs when no other is named has\na star. A file that can't be read is shown with its problem, and the exit code is 7.",
		RunE: func(*cobra.Command, []string) error {
			entries, err := os.ReadDir(a.keyDir())
			if err != nil && !os.IsNotExist(err) {
				return fault.Errorf(fault.Of(err), "list keys: %w", err)
			}
			keys := []keyInfo{}
			t := table{columns: []string{"", "name", "role", "encrypted", "address", "+fingerprint", "+file"}}
			var names []string
			bad := 0
			for _, e := range entries {
				if e.IsDir() || !validKeyName(e.Name()) {
					continue
				}
				i, err := a.keyInfo(filepath.Join(a.keyDir(), e.Name()))
				mark, encrypted := "", "no"
				if i.Default {
					mark = "*"
				}
				if i.Encrypted {
					encrypted = "yes"
				}
				if err != nil {
					bad++
					i.Problem = err.Error()
					t.rows = append(t.rows, []string{mark, i.Name, "-", "-", i.Problem, "-", i.File})
				} else {
					t.rows = append(t.rows, []string{mark, i.Name, i.Role, encrypted, i.Address, i.Fingerprint, i.File})
				}
				keys, names = append(keys, i), append(names, i.Name)
			}
			if len(keys) == 0 {
				a.note("there are no keys; make one with zos key new")
			}
			if err := a.print(keys, t, names...); err != nil {
				return err
			}
			if bad > 0 {
				return &exitError{exitPartly}
			}
			return nil
		},
	}
}

type keyExport struct {
	phrase, public bool
	role, to       string
	lock           string
}

func (a *app) keyExportCommand() *cobra.Command {
	var o keyExport
	cmd := &cobra.Command{
		Use: "export [NAME]", Short: "Write out the public keys, the recovery phrase, or a key for a program", Args: args(0, 1),
		Long: `Write out one of three things; without NAME of the key that signs.

--public, what is written when nothing else is asked for: the public keys, with
the one that others seal to. No passphrase is needed.

--phrase: the 24 words. Who has them has the key.

--role deploy or --role read, with --to FILE: a new key of its own for a program,
such as a CI job, that acts for you within the role. It can't give away your
seed. It works once it is added to your twin on the chain, and until it is
revoked there; it can read what is sealed to you until your KEM key is replaced.
--lock-with encrypts it with the passphrase in another file.`,
		Example: "  zos key export -o json\n  zos key export work --phrase\n  zos key export work --role deploy --to ./ci-key",
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		kinds := 0
		for _, set := range []bool{o.phrase, o.public, o.role != ""} {
			if set {
				kinds++
			}
		}
		if kinds > 1 || (o.role != "") != (o.to != "") || o.lock != "" && o.role == "" {
			return &usageError{cmd, fault.Errorf(fault.Invalid, "give one of --public, --phrase, or --role with --to")}
		}
		path, err := a.keyArg(args)
		if err != nil {
			return err
		}
		switch {
		case o.phrase:
			return a.exportPhrase(path)
		case o.role != "":
			return a.exportAgent(path, o)
		}
		return a.exportPublic(path)
	}
	f := cmd.Flags()
	f.BoolVar(&o.public, "public", false, "the public keys")
	f.BoolVar(&o.phrase, "phrase", false, "the recovery phrase")
	f.StringVar(&o.role, "role", "", "a key for a program, of this `role`: deploy or read")
	f.StringVar(&o.to, "to", "", "`file` for the program's key")
	f.StringVar(&o.lock, "lock-with", "", "`file` with a passphrase for the program's key")
	return cmd
}

func (a *app) exportPhrase(path string) error {
	k, err := a.openKey(path)
	if err != nil {
		return err
	}
	defer k.Erase()
	if k.Seed == nil {
		return fault.Errorf(fault.Unsupported, "export %s: this key has no seed, so it has no recovery phrase; keep a copy of the file", path)
	}
	p := k.Seed.Phrase()
	return a.print(map[string]string{"phrase": p}, table{columns: []string{""}, rows: [][]string{{p}}}, p)
}

func (a *app) exportPublic(path string) error {
	i, err := a.keyInfo(path)
	if err != nil {
		return err
	}
	if i.KEM != nil {
		f, err := identity.ReadKeyFile(path)
		if err != nil {
			return err
		}
		i.KEM.Key = base64.RawURLEncoding.EncodeToString(f.KEM.Bytes())
	}
	return a.printKey(i)
}

func (a *app) exportAgent(path string, o keyExport) error {
	role, err := identity.ParseRole(o.role)
	if err != nil {
		return err
	}
	to, err := a.keyPathToMake([]string{o.to})
	if err != nil {
		return err
	}
	var lock []byte
	if o.lock != "" {
		if lock, err = readPassphraseFile(o.lock); err != nil {
			return err
		}
		defer clear(lock)
	}
	k, err := a.openKey(path)
	if err != nil {
		return err
	}
	defer k.Erase()
	agent, err := k.Agent(role)
	if err != nil {
		return err
	}
	if err := saveKey(agent, to, lock); err != nil {
		return err
	}
	i, err := a.keyInfo(to)
	if err != nil {
		return err
	}
	a.note("add the key to your twin with the role %v before the program uses it", role)
	return a.printKey(i)
}
