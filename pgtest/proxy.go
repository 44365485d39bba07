package pgtest

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Direction of bytes through a Proxy.
type Direction int

// The two directions.
const (
	ToServer Direction = iota
	ToClient
)

// Proxy stands before a real server and breaks connections as networks do. Its methods may be called from any
// goroutine; each fault concerns the connections that Only has chosen, at first all.
type Proxy struct {
	target string
	addr   string
	work   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	listener net.Listener // nil while connections are refused
	conns    map[*proxyConn]bool
	chosen   func(startup map[string]string) bool
	flowing  chan struct{} // closed unless stalled
	budgets  []*budget
}

// budget is one pending CutAfter.
type budget struct {
	direction Direction
	left      int64
	spent     chan struct{}
}

// NewProxy listens on an address of its own and forwards to target ("127.0.0.1:5432"). It is closed when the test
// ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{
		target: target, conns: map[*proxyConn]bool{}, flowing: make(chan struct{}),
		chosen: func(map[string]string) bool { return true },
	}
	close(p.flowing)
	var err error
	for range 100 {
		// Below the kernel's range for outgoing connections: none of those can take the port while we refuse.
		p.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(5000)))
		if err = p.Accept(); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	t.Cleanup(p.close)
	return p
}

// Addr is host:port for clients. It never changes.
func (p *Proxy) Addr() string { return p.addr }

// Only restricts faults to connections whose startup parameters (user, database, application_name, replication)
// please chosen. Of an encrypted connection no parameter is known.
func (p *Proxy) Only(chosen func(startup map[string]string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chosen = chosen
}

// Connections counts the open connections that faults concern.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.victims())
}

// victims needs mu.
func (p *Proxy) victims() []*proxyConn {
	var found []*proxyConn
	for c := range p.conns {
		if p.chosen(c.startup) {
			found = append(found, c)
		}
	}
	return found
}

// Cut resets connections: both sides get RST at once.
func (p *Proxy) Cut() {
	p.mu.Lock()
	victims := p.victims()
	p.mu.Unlock()
	for _, c := range victims {
		c.reset()
	}
}

// CutAfter resets connections once n more bytes went in the direction, counted over all of them. The channel is
// closed when it has happened.
func (p *Proxy) CutAfter(n int64, direction Direction) <-chan struct{} {
	b := &budget{direction: direction, left: n, spent: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budgets = append(p.budgets, b)
	return b.spent
}

// Stall turns the proxy into a black hole: connections stay open and nothing passes, in either direction.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
		p.flowing = make(chan struct{})
	default: // stalled already
	}
}

// Resume ends Stall; what was held back arrives.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
	default:
		close(p.flowing)
	}
}

// Refuse makes new connections fail with "connection refused"; open ones go on.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close() // the accepting goroutine sees it and ends
		p.listener = nil
	}
}

// Accept ends Refuse.
func (p *Proxy) Accept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.listener != nil {
		return nil
	}
	listener, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = listener
	p.work.Go(func() { p.serve(listener) })
	return nil
}

func (p *Proxy) close() {
	p.Refuse()
	p.Resume()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.reset()
	}
	p.mu.Unlock()
	p.work.Wait()
}

func (p *Proxy) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.forward(client.(*net.TCPConn)) })
	}
}

// proxyConn is one client with its connection to the server.
type proxyConn struct {
	client, server *net.TCPConn
	startup        map[string]string // guarded by Proxy.mu
	broken         chan struct{}     // closed by reset
	once           sync.Once
}

func (c *proxyConn) reset() {
	c.once.Do(func() {
		close(c.broken)
		for _, side := range []*net.TCPConn{c.client, c.server} {
			_ = side.SetLinger(0) // closing sends RST instead of FIN
			_ = side.Close()
		}
	})
}

func (p *Proxy) forward(client *net.TCPConn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	c := &proxyConn{client: client, server: server.(*net.TCPConn), broken: make(chan struct{})}
	p.mu.Lock()
	p.conns[c] = true
	closed := p.closed
	p.mu.Unlock()
	if closed {
		c.reset()
	}
	var pumps sync.WaitGroup
	pumps.Go(func() {
		if err := p.passStartup(c); err != nil {
			c.reset()
			return
		}
		p.pump(c, ToServer)
	})
	pumps.Go(func() { p.pump(c, ToClient) })
	pumps.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_, _ = client.Close(), server.Close() // both directions have ended
}

// pump copies until the sender is done, which it passes on, or until something breaks, which resets both sides.
func (p *Proxy) pump(c *proxyConn, direction Direction) {
	from, to := c.client, c.server
	if direction == ToClient {
		from, to = to, from
	}
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.pass(c, to, buffer[:n], direction) {
			c.reset()
			return
		}
		if errors.Is(err, io.EOF) {
			_ = to.CloseWrite() // fails only when the other side is gone as well
			return
		}
		if err != nil {
			c.reset()
			return
		}
	}
}

// pass writes data when it may flow, and tells whether the connection goes on.
func (p *Proxy) pass(c *proxyConn, to *net.TCPConn, data []byte, direction Direction) bool {
	if !p.awaitFlow(c) {
		return false
	}
	n, spent := p.spend(c, len(data), direction)
	if _, err := to.Write(data[:n]); err != nil {
		return false
	}
	if spent == nil {
		return true
	}
	p.Cut()
	close(spent)
	return false
}

func (p *Proxy) awaitFlow(c *proxyConn) bool {
	for {
		p.mu.Lock()
		flowing, concerned := p.flowing, p.chosen(c.startup)
		p.mu.Unlock()
		if !concerned {
			return true
		}
		select {
		case <-flowing:
			return true
		default:
		}
		select {
		case <-flowing:
		case <-c.broken:
			return false
		}
	}
}

// spend counts size bytes against the pending cuts. It returns how many may pass, and which cut is due then.
func (p *Proxy) spend(c *proxyConn, size int, direction Direction) (pass int, spent chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.chosen(c.startup) {
		return size, nil
	}
	for i, b := range p.budgets {
		if b.direction != direction {
			continue
		}
		if b.left > int64(size) {
			b.left -= int64(size)
			continue
		}
		p.budgets = append(p.budgets[:i:i], p.budgets[i+1:]...)
		return int(b.left), b.spent
	}
	return size, nil
}

// Codes in the first packet that ask for encryption; the server answers with one byte and another first packet
// follows, encrypted if the byte said so.
const (
	sslRequest    = 80877103
	gssEncRequest = 80877104
)

// passStartup forwards the client's first packets and learns the startup parameters.
func (p *Proxy) passStartup(c *proxyConn) error {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(c.client, head); err != nil {
			return err
		}
		length, code := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
		if length < 8 || length > 10000 { // encrypted, or not PostgreSQL: nothing to learn
			return p.passFirst(c, head)
		}
		packet := append(head, make([]byte, length-8)...)
		if _, err := io.ReadFull(c.client, packet[8:]); err != nil {
			return err
		}
		if code != sslRequest && code != gssEncRequest {
			p.mu.Lock()
			c.startup = startupParameters(packet[8:])
			p.mu.Unlock()
			return p.passFirst(c, packet)
		}
		if err := p.passFirst(c, packet); err != nil {
			return err
		}
	}
}

func (p *Proxy) passFirst(c *proxyConn, data []byte) error {
	if !p.pass(c, c.server, data, ToServer) {
		return net.ErrClosed
	}
	return nil
}

// startupParameters splits name\0value\0name\0value\0\0.
func startupParameters(body []byte) map[string]string {
	parts := strings.Split(string(body), "\x00")
	parameters := map[string]string{}
	for i := 0; i+1 < len(parts) && parts[i] != ""; i += 2 {
		parameters[parts[i]] = parts[i+1]
	}
	return parameters
}
