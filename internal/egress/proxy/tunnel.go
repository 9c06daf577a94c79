package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// tunnel is two connections and what flows between them.
type tunnel struct {
	*session
	verdict verdict
	up      *net.TCPConn
	inward  chan struct{} // closed when the way in has ended
	ended   atomic.Int32  // of the two ways
	reason  atomic.Pointer[string]
	out, in flow
}

// checksName tells whether a server name in the first bytes must be the host
// that was decided on. A rule for protocol tcp is for bytes of any kind, and an
// address has no name.
func (x *session) checksName(v verdict) bool {
	return (v.Endpoint == nil || v.Endpoint.Protocol != policy.TCP) && !match.IsAddress(v.host)
}

// tunnel begins to carry bytes both ways, and goes on until both have ended. It owns
// up. early is what the client has sent already; with guard, a TLS client must name
// the host.
func (x *session) tunnel(v verdict, up *net.TCPConn, early []byte, guard bool) step {
	x.client.SetReadDeadline(time.Time{})
	t := &tunnel{session: x, verdict: v, up: up, inward: make(chan struct{})}
	x.emit(event.Connection(event.Open, x.who, t.where(), v.event()))
	t.out = flow{src: x.client, dst: up, pipes: &x.pipes, moved: &x.live.moved}
	t.in = flow{src: up, dst: x.client, pipes: &x.pipes, moved: &x.live.moved}
	go t.back()
	return func() step {
		t.forth(early, guard)
		<-t.inward
		t.close()
		return nil
	}
}

func (t *tunnel) back() {
	defer close(t.inward)
	defer t.survive()
	t.finish(&t.in, t.in.run())
}

func (t *tunnel) forth(early []byte, guard bool) {
	defer t.survive()
	more, err := t.first(early, guard)
	if more && err == nil {
		err = t.out.run()
	}
	t.finish(&t.out, err)
}

func (t *tunnel) where() event.Where {
	return event.Where{Host: t.verdict.host, Port: t.verdict.port, Addr: remote(t.up)}
}

func (t *tunnel) close() {
	t.up.Close()
	if t.events == nil {
		return
	}
	end := t.verdict.event()
	if r := t.reason.Load(); r != nil {
		end.Reason = *r
	} else {
		end.Reason = t.live.endedBy()
	}
	t.emit(event.Ended(t.who, t.where(), end, t.in.bytes, t.out.bytes, t.now().Sub(t.live.started)))
}

func (v verdict) event() event.Verdict {
	e := event.Verdict{Disposition: event.Allowed, Policy: v.Policy, Generation: v.Generation, Rule: v.Rule, Line: v.Line}
	if v.Audited {
		e.Disposition, e.Reason, e.Detail = event.Logged, v.Reason, v.Detail
	}
	return e
}

// first passes on what the client has sent already, and with guard what it sends
// first. more says that its way goes on.
func (t *tunnel) first(early []byte, guard bool) (more bool, err error) {
	f := &t.out
	if err := f.open(); err != nil {
		return false, err
	}
	if !guard {
		return true, f.send(early)
	}
	n, err := t.firstFlight(early)
	return n > 0, err
}

// firstFlight passes the first bytes of the client on once it is known that
// they are not a TLS handshake with another host. It gives their number, 0 if
// the client has ended.
func (t *tunnel) firstFlight(held []byte) (int, error) {
	f := &t.out
	for {
		if len(held) > 0 {
			done, err := t.admit(held)
			if err != nil {
				return 0, err
			}
			if done {
				t.client.SetReadDeadline(time.Time{})
				return len(held), f.send(held)
			}
		}
		if err := f.wait(f.pull); err != nil {
			return 0, err
		}
		if f.n == 0 {
			return 0, f.send(held)
		}
		if len(held) == 0 && f.buf[0] != tlsHandshake {
			return f.n, f.push() // nearly always
		}
		if len(held) == 0 {
			t.client.SetReadDeadline(time.Now().Add(t.limits.HeadTime))
		}
		held = append(held, f.buf[:f.n]...)
		f.release(true)
	}
}

// admit looks at the first bytes. It is false if there must be more of them.
func (t *tunnel) admit(b []byte) (bool, error) {
	name, err := readHello(b)
	switch {
	case errors.Is(err, errNotTLS):
		return true, nil
	case errors.Is(err, errHelloShort) && len(b) < maxHello:
		return false, nil
	case err != nil:
		return false, t.misdirected("the ClientHello cannot be read")
	case name == "" || sameHost(name, t.verdict.host):
		return true, nil
	}
	return false, t.misdirected(fmt.Sprintf("TLS names %.80q in a tunnel to %s", name, t.verdict.host))
}

// sameHost compares a server name as it was sent with a canonical host.
func sameHost(name, host string) bool {
	c, err := match.CanonicalHost(name)
	return err == nil && c == host
}

var errMisdirected = errors.New("misdirected")

// misdirected makes the event and tells the client before the tunnel is cut.
func (t *tunnel) misdirected(detail string) error {
	reason := string(nameMismatch)
	t.reason.Store(&reason)
	no := &denial{code: nameMismatch, reason: reason, detail: detail, decision: t.verdict.Decision}
	id := ""
	if t.denialID != nil {
		id = t.denialID()
	}
	t.emit(t.denied(t.verdict.intent, no, id))
	t.client.Write(tlsAlert)
	return errMisdirected
}

// finish ends one way. At the end of its source the other side is told so. A
// source that broke breaks both: a cut-off answer must not look like a whole
// one. When a destination does not listen any more, its own way tells how it
// ended.
func (t *tunnel) finish(f *flow, err error) {
	last := t.ended.Add(1) == 2
	switch {
	case err == nil && !last:
		f.dst.CloseWrite()
	case errors.Is(err, errMisdirected):
		t.client.CloseWrite()
		t.up.SetLinger(0)
		t.up.Close()
		t.live.close(string(nameMismatch))
	case errors.Is(err, errRead):
		if t.reason.Load() == nil {
			t.client.SetLinger(0)
		}
		t.up.SetLinger(0)
		t.client.Close()
		t.up.Close()
	}
}

// send writes bytes that were read before.
func (f *flow) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := f.dst.Write(b)
	f.bytes += int64(n)
	f.moved.Add(int64(n))
	if err != nil {
		return errors.Join(errWrite, err)
	}
	return nil
}

// buffered is a copy of what a reader holds beyond its next n bytes.
func buffered(br *bufio.Reader, n int) []byte {
	b, _ := br.Peek(br.Buffered())
	if len(b) <= n {
		return nil
	}
	return bytes.Clone(b[n:])
}

func remote(c *net.TCPConn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
