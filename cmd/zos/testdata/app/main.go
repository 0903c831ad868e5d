// Command app is what tests run in containers: it does what its arguments say,
// one after another.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	args := os.Args[1:]
	for len(args) > 0 {
		verb, arg := args[0], ""
		args = args[1:]
		if len(args) > 0 {
			arg = args[0]
			args = args[1:]
		}
		if err := do(verb, arg); err != nil {
			fmt.Fprintln(os.Stderr, "app:", err)
			os.Exit(1)
		}
	}
}

func do(verb, arg string) error {
	switch verb {
	case "exit":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		os.Exit(n)
	case "say":
		fmt.Println(arg)
	case "env":
		fmt.Printf("%s=%s\n", arg, os.Getenv(arg))
	case "cat":
		b, err := os.ReadFile(arg)
		if err != nil {
			return err
		}
		os.Stdout.Write(b)
	case "write":
		return os.WriteFile(arg, []byte("written\n"), 0o644)
	case "copy": // copy FROM:TO makes a program that the image doesn't describe
		from, to, _ := strings.Cut(arg, ":")
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o755)
	case "exec":
		out, err := exec.Command(arg, "say", "executed").CombinedOutput()
		os.Stdout.Write(out)
		return err
	case "hostname":
		h, err := os.Hostname()
		fmt.Println(h)
		return err
	case "eat": // MiB
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("ate", len(b)>>20)
	case "serve": // answers each connection with its second argument, until SIGTERM
		port, text, _ := strings.Cut(arg, "=")
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		fmt.Println("serving")
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, text)
				c.Close()
			}
		}()
		wait()
	case "files": // answers each connection with the file that its second argument names, until SIGTERM
		port, file, _ := strings.Cut(arg, "=")
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		fmt.Println("serving")
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				b, err := os.ReadFile(file)
				if err != nil {
					b = []byte(err.Error())
				}
				c.Write(b)
				c.Close()
			}
		}()
		wait()
	case "wait":
		fmt.Println("waiting")
		wait()
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	return nil
}

func wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
	fmt.Println("asked to end")
}
