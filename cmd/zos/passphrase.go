package main

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/term"

	"zos.internal/internal/fault"
)

// passphraseFile is the file that holds the passphrase, or "".
func (a *app) passphraseFile() string {
	return first(a.passFile, a.getenv("ZOS_PASSPHRASE_FILE"))
}

// passphrase is the passphrase of a key that is there. The caller clears it.
func (a *app) passphrase(prompt string) ([]byte, error) {
	if path := a.passphraseFile(); path != "" {
		return readPassphraseFile(path)
	}
	if !isTerminal(a.stdin) {
		return nil, fault.Errorf(fault.Denied, "it is encrypted and this is no terminal; give its passphrase in a file with --passphrase-file or $ZOS_PASSPHRASE_FILE")
	}
	return a.askPassphrase(prompt)
}

// newPassphrase is the passphrase for a key that is being made: empty for none.
func (a *app) newPassphrase() ([]byte, error) {
	if path := a.passphraseFile(); path != "" {
		return readPassphraseFile(path)
	}
	if !isTerminal(a.stdin) {
		return nil, nil
	}
	p, err := a.askPassphrase("passphrase for the key (empty for none): ")
	if err != nil || len(p) == 0 {
		return nil, err
	}
	again, err := a.askPassphrase("the same again: ")
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(p, again) {
		clear(p)
		return nil, fault.Errorf(fault.Invalid, "the two passphrases differ; nothing was written, try again")
	}
	return p, nil
}

func (a *app) askPassphrase(prompt string) ([]byte, error) {
	io.WriteString(a.stderr, prompt)
	p, err := term.ReadPassword(int(a.stdin.(*os.File).Fd()))
	io.WriteString(a.stderr, "\n")
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "read the passphrase: %w", err)
	}
	return p, nil
}

// readPassphraseFile is the first line of a file that only its owner can read.
// Pipes, such as /dev/fd/3, are taken as they are.
func readPassphraseFile(path string) ([]byte, error) {
	const most = 1024
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read passphrase: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read passphrase: %w", err)
	}
	if st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		return nil, fault.Errorf(fault.Denied, "read passphrase %s: others can read it; run chmod 600 on it", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, most+2))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read passphrase %s: %w", path, err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(line) > most {
		return nil, fault.Errorf(fault.Invalid, "read passphrase %s: its first line has %d bytes, 1 to %d are needed", path, len(line), most)
	}
	return line, nil
}
