package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"zos.internal/block"
	"zos.internal/block/storetest"
	"zos.internal/internal/fault"
)

// server starts a real S3 server and returns how to reach it. The test is
// skipped where there is none.
func server(t *testing.T) Config {
	t.Helper()
	bin := os.Getenv("ZOS_VERSITYGW")
	if bin == "" {
		bin = "../../bin/versitygw"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("no S3 server: build bin/versitygw from test/tools or set ZOS_VERSITYGW (%v)", err)
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	meta := t.TempDir() // not every file system has extended attributes
	cmd := exec.Command(bin, "--port", addr, "--access", "someone", "--secret", "something secret", "--quiet", "posix", "--sidecar", meta, dir)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Skipf("start S3 server: %v", err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("the server said:\n%s", log.String())
		}
	})
	for { // until it listens or dies
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-exited:
			t.Fatalf("the S3 server ended: %s", log.String())
		case <-t.Context().Done():
			t.Fatal("the S3 server does not listen")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return Config{Endpoint: addr, AccessKey: "someone", SecretKey: "something secret", Region: "us-east-1", Plain: true, Prefix: "pre/fix/"}
}

func TestS3(t *testing.T) {
	cfg := server(t)
	var n atomic.Int64
	open := func(t *testing.T) block.Bucket {
		t.Helper()
		c := cfg
		c.Bucket = fmt.Sprintf("bucket-%d", n.Add(1))
		b, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.core.MakeBucket(t.Context(), c.Bucket, minio.MakeBucketOptions{}); err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Run("Bucket", func(t *testing.T) { storetest.Bucket(t, open) })
	t.Run("Blobs", func(t *testing.T) {
		storetest.Blobs(t, func(t *testing.T) block.Blobs { return block.BlobsIn(open(t), "p/") })
	})
	t.Run("Parts", func(t *testing.T) { testParts(t, open(t).(*Bucket)) })
	t.Run("Errors", func(t *testing.T) {
		c := cfg
		c.Bucket = "none-such"
		b, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Read(t.Context(), "k", 0, 1); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "make it first") {
			t.Errorf("Read from a bucket that is not there = %v, want invalid", err)
		}
		c.SecretKey = "wrong"
		if b, err = Open(c); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Read(t.Context(), "k", 0, 1); !errors.Is(err, fault.Denied) {
			t.Errorf("Read with a wrong secret = %v, want denied", err)
		}
	})
}

// testParts writes more than one part, whole and broken.
func testParts(t *testing.T, b *Bucket) {
	data := storetest.Bytes(1, partSize+12345)
	blobs := block.BlobsIn(b, "p/")
	name := block.Sum(data)
	broken := map[string]io.Reader{
		"a source that fails":             io.MultiReader(bytes.NewReader(data), failing{fault.Errorf(fault.Denied, "no")}),
		"a source that breaks off":        io.MultiReader(bytes.NewReader(data), failing{io.ErrUnexpectedEOF}),
		"a source with one byte less":     bytes.NewReader(data[1:]),
		"a source with one byte too much": io.MultiReader(bytes.NewReader(data), strings.NewReader("x")),
	}
	for what, r := range broken {
		if err := blobs.Put(t.Context(), name, r); err == nil {
			t.Errorf("Put of %s succeeded", what)
		}
		if _, err := blobs.Stat(t.Context(), name); !errors.Is(err, fault.NotFound) {
			t.Errorf("Stat after Put of %s = %v, want not found", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := b.Write(ctx, "x", io.MultiReader(bytes.NewReader(data), callReader(cancel), bytes.NewReader(data)))
	if !errors.Is(err, fault.Unavailable) {
		t.Errorf("Write cancelled in the middle = %v, want unavailable", err)
	}
	for u := range b.core.ListIncompleteUploads(t.Context(), b.name, "", true) {
		t.Errorf("an upload of %s was left behind", u.Key)
	}
	if err := blobs.Put(t.Context(), name, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	got, err := blobs.Read(t.Context(), name, partSize-10, 20)
	if err != nil || !bytes.Equal(got, data[partSize-10:partSize+10]) {
		t.Errorf("Read over the border of two parts = %d bytes, %v", len(got), err)
	}
	for _, n := range []int{partSize - 1, partSize, partSize + 1, 2 * partSize} {
		if err := b.Write(t.Context(), "n", struct{ io.Reader }{io.LimitReader(zeros{}, int64(n))}); err != nil {
			t.Errorf("Write of %d bytes: %v", n, err)
		}
		if have, err := b.Stat(t.Context(), "n"); err != nil || have != int64(n) {
			t.Errorf("Stat after Write of %d bytes = %d, %v", n, have, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// callReader is an empty reader that calls a function.
type callReader func()

func (c callReader) Read([]byte) (int, error) { c(); return 0, io.EOF }

func TestConfigKeepsTheSecret(t *testing.T) {
	c := Config{Endpoint: "host", Bucket: "b", SecretKey: "hush"}
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if s := fmt.Sprintf(f, c); strings.Contains(s, "hush") || strings.Contains(s, "68757368") {
			t.Errorf("%s shows %s", f, s)
		}
	}
	if s := c.LogValue().String(); strings.Contains(s, "hush") {
		t.Errorf("the log shows %s", s)
	}
	for _, bad := range []Config{{}, {Endpoint: "h"}, {Endpoint: "h", Bucket: "b", Prefix: "x"}, {Endpoint: "h", Bucket: "b", Prefix: "../"}} {
		if _, err := Open(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("Open(%v) = %v, want invalid", bad, err)
		}
	}
}
