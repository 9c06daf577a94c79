package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"time"

	"sallyport/internal/event"
	"sallyport/internal/policy/match"
)

// read serves a connection to a host where something has rules that look
// inside. Nothing of it passes unread.
func (x *session) read(v verdict, first spoken) step {
	switch {
	case first.kind == saidHTTP:
		return x.requestsTo(v.host, v.intent, first)
	case first.kind == saidHello && x.inspector != nil:
		return x.inspected(v, first.data)
	case first.kind == saidHello:
		x.refuse(v.intent, x.unread(v), formTLS)
	case first.kind == saidNothing:
		x.refuse(v.intent, &denial{code: headTimeout, decision: v.Decision, detail: "the connection said nothing, and this endpoint's rules look inside"}, formReset)
	default:
		x.refuse(v.intent, &denial{code: protocolUnknown, decision: v.Decision, detail: "neither HTTP nor TLS that can be read, and this endpoint's rules look inside"}, first.form())
	}
	return nil
}

func (x *session) unread(v verdict) *denial {
	return &denial{code: notInspected, detail: "the rules of this endpoint need inspection, which is not available", decision: v.Decision}
}

// inner is a client's connection under TLS that ends here.
type inner struct {
	*net.TCPConn
	x     *session
	to    *target
	v     *verdict
	early *bytes.Reader // of the ClientHello
}

// Read gives what was read before first.
func (c *inner) Read(b []byte) (int, error) {
	if c.early.Len() > 0 {
		return c.early.Read(b)
	}
	return c.TCPConn.Read(b)
}

// inspected ends TLS on the client's side and serves the requests inside.
func (x *session) inspected(v verdict, early []byte) step {
	to := target{captured: true, host: v.host, port: v.port, addr: v.addr, tls: true}
	c := &inner{TCPConn: x.client, x: x, to: &to, v: &v, early: bytes.NewReader(early)}
	t := tls.Server(c, x.streams.front)
	ctx, cancel := context.WithTimeout(x.ctx, x.limits.HeadTime+2*x.limits.Dial)
	err := t.HandshakeContext(ctx)
	cancel()
	if err != nil {
		x.refuse(v.intent, &denial{code: badRequestCode, reason: "client_tls", decision: v.Decision, cause: err, detail: "the TLS handshake of the client failed"}, formReset)
		return nil
	}
	x.emit(event.Connection(event.Open, x.who, event.Where{Host: v.host, Port: v.port}, v.event()))
	x.wire = t
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		return func() step {
			x.serveStreams(t, &to, &v)
			return nil
		}
	}
	return func() step { return x.within(t, x.plain(nil, to)) }
}

// within is a step inside of TLS, which ends with the last one.
func (x *session) within(t *tls.Conn, next step) step {
	if next == nil {
		t.Close()
		return nil
	}
	return func() step { return x.within(t, next()) }
}

// frontFor chooses the certificate and the protocol for a client: the protocol
// is one that the server speaks, so that a request needs no translation.
func frontFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c, ok := hello.Conn.(*inner)
	if !ok {
		return nil, errors.New("bug: proxy: TLS on a connection of another kind")
	}
	x, host := c.x, c.to.host
	if hello.ServerName != "" && !sameHost(hello.ServerName, host) {
		c.to.no = &denial{code: nameMismatch, decision: c.v.Decision, detail: "TLS names " + printable(hello.ServerName) + " on a connection to " + host}
		other, err := match.CanonicalHost(hello.ServerName)
		if err != nil {
			return nil, err
		}
		return x.inspector.ServerOnHost(hello, other, false) // so that the refusal can be read
	}
	h2 := false
	if slices.Contains(hello.SupportedProtos, "h2") {
		h2, c.to.no = x.speaksH2(c.v)
	}
	return x.inspector.ServerOnHost(hello, host, h2)
}

// speaksH2 tells whether the server of a verdict speaks HTTP/2. If that is not
// known it connects, and keeps the connection for the requests to come.
func (x *session) speaksH2(v *verdict) (bool, *denial) {
	if x.local[v.host] != nil {
		return true, nil
	}
	k := poolKey{v.host, v.port, true, v.by}
	if h2, known := x.pool.speaks(k); known {
		return h2, nil
	}
	t, no := underOne(x, v, x.dialTLS, func() (no *denial) {
		*v, no = x.decide(v.intent)
		return no
	})
	if no != nil {
		return false, no
	}
	k.by = v.by
	h2 := t.ConnectionState().NegotiatedProtocol == "h2"
	x.pool.learn(k, h2)
	if !h2 {
		x.pool.put(newUpstream(under(t), t, k, v))
		return false, nil
	}
	if _, err := x.share(t, k, false); err != nil {
		return false, broken(v, err)
	}
	return true, nil
}

// dialTLS connects to a server and offers it HTTP/2.
func (x *session) dialTLS(v *verdict) (*tls.Conn, *denial) {
	c, no := x.dialUp(v)
	if no != nil {
		return nil, no
	}
	return x.secure(v, c, true)
}

// pastDeadline ends every wait on a connection at once.
var pastDeadline = time.Unix(1, 0)
