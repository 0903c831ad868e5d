// Command attack tries, from inside a container, to turn bytes that no image
// describes into running code, and to leave the container.
//
//	attack battery   runs every attack in a process of its own and prints
//	                 "name result" lines
//	attack do NAME   runs one
//
// The result is "ran" if the attack worked, else the name of the error.
// It is built by the tests of node/compute.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ran is the result of an attack that worked.
var ran error

// strange marks a failure that is no errno.
type strange string

func (s strange) Error() string { return string(s) }

func main() {
	switch {
	case len(os.Args) < 2:
		fmt.Println("usage: attack battery | do NAME | payload | listen ADDR")
		os.Exit(2)
	case os.Args[1] == "payload":
		fmt.Println("payload-ran")
	case os.Args[1] == "listen":
		listen(os.Args[2])
	case os.Args[1] == "sleep":
		fmt.Println("sleeping")
		time.Sleep(time.Hour)
	case os.Args[1] == "eat":
		eat()
	case os.Args[1] == "forks":
		forks()
	case os.Args[1] == "battery":
		battery()
	case os.Args[1] == "do":
		f, ok := attacks()[os.Args[2]]
		if !ok {
			fmt.Println("unknown")
			os.Exit(2)
		}
		fmt.Println(word(f()))
	}
}

// battery prints a line for each attack, sorted by name.
func battery() {
	var names []string
	for n := range attacks() {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Println(n, attempt(n))
	}
}

// attempt runs one attack in a child, since some end in a signal.
func attempt(name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/bin/attack", "do", name).CombinedOutput()
	if ctx.Err() != nil {
		return "hung"
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return unix.SignalName(ws.Signal())
		}
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.ReplaceAll(lines[len(lines)-1], " ", "_")
}

func word(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ran"
	case errors.As(err, &errno):
		if n := unix.ErrnoName(errno); n != "" {
			return n
		}
		return fmt.Sprint("errno_", int(errno))
	}
	return err.Error()
}

// run executes a program and reports whether the payload's mark came out.
func run(path string, args ...string) error {
	if len(args) == 0 {
		args = []string{"payload"}
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if bytes.Contains(out, []byte("payload-ran")) {
		return ran
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return strange(fmt.Sprint("exit ", exit.ExitCode()))
	}
	if err == nil {
		return strange("no mark")
	}
	return err
}

// drop copies a program of the image.
func drop(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	os.Remove(to)
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

func listen(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		fmt.Fprintf(c, "hello from %d\n", os.Getuid())
		c.Close()
	}
}

// eat takes memory until it is killed.
func eat() {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		fmt.Fprintln(io.Discard, len(all))
	}
}

// forks starts processes until one is refused.
func forks() {
	for n := 0; n < 10_000; n++ {
		if err := exec.Command("/bin/attack", "sleep").Start(); err != nil {
			fmt.Println("refused", word(err))
			return
		}
	}
	fmt.Println("not refused")
}
