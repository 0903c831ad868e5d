package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/identity"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

func (a *app) keyNewCommand() *cobra.Command {
	var showPhrase bool
	cmd := &cobra.Command{
		Use: "new [NAME]", Short: "Make a key", Args: args(0, 1),
		Long: `Make a key from a new seed and keep it in a file that only you can read.

NAME is a name for the key, kept below $ZOS_DATA/keys, or a path with a slash in
it. Without one the default key is made. A key is never overwritten.

The recovery phrase, 24 words that are the key itself, is shown once on a
terminal, or with --show-phrase. Write it down and keep it where no computer can
read it. Given a passphrase the file is encrypted; it comes from the terminal or
from --passphrase-file, never from the command line.`,
		Example: "  zos key new work\n  zos key new ./ci-key --show-phrase",
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := a.keyPathToMake(args)
			if err != nil {
				return err
			}
			passphrase, err := a.newPassphrase()
			if err != nil {
				return err
			}
			defer clear(passphrase)
			k, err := a.makeKey(path, passphrase)
			if err != nil {
				return err
			}
			defer k.Erase()
			return a.showMade(path, k, showPhrase)
		},
	}
	cmd.Flags().BoolVar(&showPhrase, "show-phrase", false, "show the recovery phrase also when this is no terminal")
	return cmd
}

// keyPathToMake refuses an existing key before anybody types a passphrase. That
// none is overwritten in the meantime is for Save.
func (a *app) keyPathToMake(args []string) (path string, err error) {
	if len(args) > 0 {
		path, err = a.newKeyPath(args[0])
	} else {
		path, err = a.keyPath()
	}
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fault.Errorf(fault.Conflict, "write key %s: the file exists; choose another name or remove it yourself", path)
	}
	return path, nil
}

// showMade shows a new key, and its phrase to whom it may be shown.
func (a *app) showMade(path string, k *identity.Keys, showPhrase bool) error {
	i, err := a.keyInfo(path)
	if err != nil {
		return err
	}
	switch {
	case showPhrase && a.format != "name":
		i.Phrase = k.Seed.Phrase()
	case showPhrase || isTerminal(a.stderr):
		a.note("Your recovery phrase, shown this once. Who has it has your key:\n\n%s\n", lines(k.Seed.Phrase()))
	default:
		a.note("write down the recovery phrase: zos key export --phrase %s", first(i.Name, path))
	}
	if !i.Encrypted {
		a.note("the key is not encrypted; give --passphrase-file, or make it on a terminal, to have it so")
	}
	return a.printKey(i)
}

// lines is a phrase in lines of six words.
func lines(phrase string) string {
	w := strings.Fields(phrase)
	var b strings.Builder
	for i, word := range w {
		b.WriteString(word)
		if i%6 == 5 && i+1 < len(w) {
			b.WriteByte('\n')
		} else if i+1 < len(w) {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

type keyImport struct {
	from                string
	signEpoch, kemEpoch uint32
}

func (a *app) keyImportCommand() *cobra.Command {
	var o keyImport
	cmd := &cobra.Command{
		Use: "import [NAME]", Short: "Make a key from its recovery phrase, or take a key file", Args: args(0, 1),
		Long: `Make a key from its recovery phrase, or take a key file that was exported.

The 24 words, or the content of the key file, are read from standard input or
from a file, never from the command line. Words may be in several lines. A wrong
word is named with its place and with similar words. A key file stays as it is,
encrypted or not.

A key that was replaced on the chain has a higher epoch than 1: give it with
--key-epoch and --kem-epoch.`,
		Example: "  zos key import work --from words.txt\n  zos key import ci --from deploy-key",
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := a.keyPathToMake(args)
			if err != nil {
				return err
			}
			text, err := a.readSecret(o.from, "recovery phrase, 24 words, then an empty line or Ctrl-D:\n")
			if err != nil {
				return fault.Errorf(fault.Of(err), "import key: %w", err)
			}
			defer clear(text)
			if err := a.importKey(path, text, o); err != nil {
				return err
			}
			i, err := a.keyInfo(path)
			if err != nil {
				return err
			}
			return a.printKey(i)
		},
	}
	cmd.Flags().StringVar(&o.from, "from", "-", "`file` with the phrase or the key; - is standard input")
	cmd.Flags().Uint32Var(&o.signEpoch, "key-epoch", identity.FirstEpoch, "`number` of the signing key")
	cmd.Flags().Uint32Var(&o.kemEpoch, "kem-epoch", identity.FirstEpoch, "`number` of the key that opens messages")
	return cmd
}

func (a *app) importKey(path string, text []byte, o keyImport) error {
	if bytes.ContainsAny(text, ":#") { // no phrase has these, every key file has
		if _, err := identity.ParseKeyFile(text); err != nil {
			return fault.Errorf(fault.Of(err), "import key: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fault.Errorf(fault.Of(err), "import key: %w", err)
		}
		return identity.SaveKeyFile(path, text)
	}
	seed, err := identity.ParsePhrase(string(text))
	if err != nil {
		return fault.Errorf(fault.Of(err), "import key: %w", err)
	}
	k, err := identity.KeysOf(seed).Rotate(o.signEpoch, o.kemEpoch)
	if err != nil {
		return err
	}
	defer k.Erase()
	passphrase, err := a.newPassphrase()
	if err != nil {
		return err
	}
	defer clear(passphrase)
	return saveKey(k, path, passphrase)
}

// readSecret reads at most 16 KiB from a file or standard input. On a terminal it
// ends at an empty line.
func (a *app) readSecret(from, prompt string) ([]byte, error) {
	const most = 16 << 10
	r := a.stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	} else if isTerminal(a.stdin) {
		a.note("%s", strings.TrimSuffix(prompt, "\n"))
		r = &untilEmptyLine{r: r}
	}
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if len(b) > most {
		return nil, fault.Errorf(fault.Invalid, "the input has more than %d bytes; a recovery phrase is 24 words", most)
	}
	return b, nil
}

// untilEmptyLine ends at the first empty line. A terminal gives a line at a time.
type untilEmptyLine struct {
	r    io.Reader
	text bool // something came
	done bool
}

func (u *untilEmptyLine) Read(p []byte) (int, error) {
	if u.done {
		return 0, io.EOF
	}
	n, err := u.r.Read(p)
	if s := strings.TrimSpace(string(p[:n])); s != "" {
		u.text = true
	} else {
		u.done = u.text
	}
	return n, err
}

func (a *app) keyDefaultCommand() *cobra.Command {
	return &cobra.Command{
		Use: "default NAME", Short: "Choose the key that signs when no other is named", Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if !validKeyName(name) {
				return fault.Errorf(fault.Invalid, "%.60q is no name of a key; see zos key list", name)
			}
			path := filepath.Join(a.keyDir(), name)
			i, err := a.keyInfo(path)
			if err != nil {
				return err
			}
			if err := atomicfile.Write(filepath.Join(a.keyDir(), defaultMark), []byte(name+"\n"), 0o600); err != nil {
				return err
			}
			i.Default = true
			return a.printKey(i)
		},
	}
}
