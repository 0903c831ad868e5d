package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Bounds of one published port.
const (
	maxConns = 1024
	udpIdle  = time.Minute
)

// proxy holds one port of the host and carries what arrives at it.
type proxy struct {
	p      Publish
	tcp    net.Listener
	udp    *net.UDPConn
	ctx    context.Context // ends with the proxy; not a caller's
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{}
}

// listen reserves the port.
func listen(ctx context.Context, p Publish) (*proxy, error) {
	x := &proxy{p: p, slots: make(chan struct{}, maxConns)}
	x.ctx, x.cancel = context.WithCancel(context.WithoutCancel(ctx))
	address := ""
	if p.Address.IsValid() {
		address = p.Address.String()
	}
	at := net.JoinHostPort(address, strconv.Itoa(int(p.Host)))
	var err error
	var lc net.ListenConfig
	if p.Proto == "udp" {
		var c net.PacketConn
		if c, err = lc.ListenPacket(ctx, "udp", at); err == nil {
			x.udp = c.(*net.UDPConn)
		}
	} else {
		x.tcp, err = lc.Listen(ctx, "tcp", at)
	}
	if err != nil {
		x.cancel()
		kind := fault.Unavailable
		if errors.Is(err, unix.EADDRINUSE) {
			kind = fault.Conflict
		}
		return nil, fault.Errorf(kind, "publish %s: %w; take another host port", p, err)
	}
	return x, nil
}

// serve starts to carry traffic to the container.
func (x *proxy) serve(inside netip.Addr) {
	to := netip.AddrPortFrom(inside, x.p.Container).String()
	if x.udp != nil {
		x.wg.Go(func() { x.serveUDP(to) })
		return
	}
	x.wg.Go(func() { x.serveTCP(to) })
}

func (x *proxy) close() {
	x.cancel()
	if x.tcp != nil {
		x.tcp.Close()
	}
	if x.udp != nil {
		x.udp.Close()
	}
	x.wg.Wait()
}

func (x *proxy) serveTCP(to string) {
	for {
		in, err := x.tcp.Accept()
		if err != nil {
			if x.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors, or an aborted connection: go on
			case <-x.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		select {
		case x.slots <- struct{}{}:
		default:
			in.Close() // full: refuse rather than queue without end
			continue
		}
		x.wg.Go(func() {
			defer func() { <-x.slots }()
			x.carry(in.(*net.TCPConn), to)
		})
	}
}

// carry copies both directions; each end of stream is passed on by itself.
func (x *proxy) carry(in *net.TCPConn, to string) {
	defer in.Close()
	d := net.Dialer{Timeout: 10 * time.Second}
	c, err := d.DialContext(x.ctx, "tcp", to)
	if err != nil {
		_ = in.SetLinger(0) // the client sees a reset, as without a proxy
		return
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	stop := context.AfterFunc(x.ctx, func() { in.Close(); out.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(out, in)
		_ = out.CloseWrite()
	})
	_, _ = io.Copy(in, out)
	_ = in.CloseWrite()
	wg.Wait()
}

// serveUDP keeps one socket per client until nothing came back for udpIdle.
func (x *proxy) serveUDP(to string) {
	var mu sync.Mutex
	clients := make(map[netip.AddrPort]net.Conn)
	buf := make([]byte, 64<<10)
	for {
		n, from, err := x.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if x.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		mu.Lock()
		c := clients[from]
		full := len(clients) >= maxConns
		mu.Unlock()
		if c == nil {
			if full {
				continue // datagrams may be lost
			}
			var d net.Dialer
			if c, err = d.DialContext(x.ctx, "udp", to); err != nil {
				continue
			}
			mu.Lock()
			clients[from] = c
			mu.Unlock()
			x.wg.Go(func() {
				x.answer(c, from)
				mu.Lock()
				delete(clients, from)
				mu.Unlock()
			})
		}
		_, _ = c.Write(buf[:n])
	}
}

func (x *proxy) answer(c net.Conn, from netip.AddrPort) {
	defer c.Close()
	stop := context.AfterFunc(x.ctx, func() { c.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		if err := c.SetReadDeadline(clock.System{}.Now().Add(udpIdle)); err != nil {
			return
		}
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := x.udp.WriteToUDPAddrPort(buf[:n], from); err != nil {
			return
		}
	}
}
