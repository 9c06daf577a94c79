package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"sallyport/internal/event"
)

// conn is what HTTP is spoken on: a bare TCP connection, or TLS on one.
type conn interface {
	net.Conn
	CloseWrite() error
}

// settle is how long a connection keeps its buffers after an answer, for the
// next request that is on its way.
const settle = 100 * time.Millisecond

// plain serves HTTP/1 requests one after the other; each is decided anew. early
// was read from the client already. What it returns is to be done after its
// buffers are given back.
func (x *session) plain(early []byte, to target) step {
	return x.requestsFrom(prefixed{bytes.NewReader(early), x.wire}, to, !to.tls)
}

// requestsFrom serves requests, if there is a place for that. begun says that the
// first of them has been waited for already.
func (x *session) requestsFrom(from io.Reader, to target, begun bool) step {
	places := x.requests
	if to.tls {
		places = x.inspections
	}
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	default:
		x.refuse(intent{host: to.host, port: to.port, addr: to.addr, tls: to.tls}, &denial{
			code: unavailable, reason: "too_many_requests", detail: fmt.Sprintf("%d connections carry HTTP, which is the limit", cap(places)),
		}, formHTTP)
		return nil
	}
	rd := x.newReader(from)
	defer x.putReader(rd)
	for ; ; begun = false {
		if !begun {
			switch err := x.another(rd); {
			case errors.Is(err, os.ErrDeadlineExceeded) && x.limits.KeepAlive > settle:
				return func() step { return x.quiet(&to) }
			case err != nil:
				return nil
			}
		}
		b, err := peekHead(rd, x.limits.RequestHead, func() { x.client.SetReadDeadline(time.Now().Add(x.limits.HeadTime)) })
		if err != nil {
			x.headFailed(err, rd.Buffered())
			return nil
		}
		if !to.captured && bytes.HasPrefix(b, []byte("CONNECT ")) {
			if len(b) > x.limits.ConnectHead {
				x.headFailed(errHeadTooLarge, len(b))
				return nil
			}
			return x.connectHead(b, rd)
		}
		keep, after := x.one(b, rd, to)
		if !keep {
			return after
		}
	}
}

// another waits a little for the next request.
func (x *session) another(rd *bufio.Reader) error {
	x.client.SetReadDeadline(time.Now().Add(min(settle, x.limits.KeepAlive)))
	_, err := rd.Peek(1)
	return err
}

// quiet waits for the next request on a connection that has said nothing for a
// while. It has neither a buffer nor a place meanwhile.
func (x *session) quiet(to *target) step {
	x.client.SetReadDeadline(time.Now().Add(x.limits.KeepAlive - settle))
	if !x.readable() {
		return nil
	}
	return func() step { return x.requestsFrom(x.wire, *to, true) }
}

// one serves the request whose head is b.
func (x *session) one(b []byte, rd *bufio.Reader, to target) (keep bool, after step) {
	r, err := to.read(b, rd)
	if err != nil {
		x.refuse(r.intent, &denial{code: badRequestCode, detail: err.Error()}, formHTTP)
		return false, nil
	}
	r.wait = func(t time.Time) { x.client.SetReadDeadline(t) }
	defer x.release(r)
	v, no := x.admit(r, to)
	if no != nil {
		x.refuse(r.intent, no, formHTTP)
		return false, nil
	}
	return x.exchange(r, &v, rd)
}

// admit decides about a request, and about the connection that it came on.
func (x *session) admit(r *request, to target) (verdict, *denial) {
	switch {
	case to.no != nil:
		return verdict{}, to.no
	case to.host != "" && r.host != to.host:
		return verdict{}, &denial{code: nameMismatch, detail: fmt.Sprintf("Host is %s on a connection to %s", r.host, to.host)}
	case to.captured && r.port != to.port:
		return verdict{}, &denial{code: nameMismatch, detail: fmt.Sprintf("Host names port %d on a connection to port %d", r.port, to.port)}
	}
	return x.judge(r)
}

// newReader lends a reader that holds a whole head.
func (x *session) newReader(from io.Reader) *bufio.Reader {
	rd := x.readers.Get().(*bufio.Reader)
	rd.Reset(from)
	return rd
}

func (x *session) putReader(rd *bufio.Reader) {
	rd.Reset(nil)
	x.readers.Put(rd)
}

// exchange sends one request and relays its answer. keep says whether the
// client's connection can carry another; after, if not nil, goes on with an
// upgrade.
func (x *session) exchange(r *request, v *verdict, rd *bufio.Reader) (keep bool, after step) {
	if r.hasBody() || r.upgrade {
		x.client.SetReadDeadline(time.Time{}) // else nothing is read before the next request
	}
	ctx, cancel := x.ctx, context.CancelFunc(func() {})
	way := x.local[v.host]
	if way != nil {
		ctx, cancel = context.WithCancel(x.ctx)
	}
	defer cancel()
	asked, no := x.noted(r, v, func() { cancel(); x.live.hangUp() })
	defer x.live.answered(asked)
	if no != nil {
		x.refuse(r.intent, no, formHTTP)
		return false, nil
	}
	if way != nil {
		r.Request = r.Request.WithContext(ctx)
		return x.exchangeLocally(r, v, way), nil
	}
	for fresh := false; ; fresh = true {
		up, no := x.upstreamFor(r, v, fresh)
		if no == nil && !fresh {
			no = x.arm(r, v)
			if no != nil {
				up.Close()
			}
		}
		if no == nil {
			keep, after, no = x.attempt(r, up, rd)
		}
		switch {
		case no == nil:
			return keep, after
		case x.live.isRevoked():
			no = revoked(v)
		case no.stale && !fresh && r.repeatable():
			continue
		}
		x.refuse(r.intent, x.ended(no), formHTTP)
		return false, nil
	}
}

// attempt is one try to get an answer from a server. It owns up.
func (x *session) attempt(r *request, up *upstream, rd *bufio.Reader) (keep bool, after step, no *denial) {
	sent := x.send(r, up, rd)
	// Whatever happens, the sender is gone before its buffers are.
	cut := func() error {
		x.client.SetReadDeadline(pastDeadline)
		up.Close()
		err := <-sent
		x.client.SetReadDeadline(time.Time{})
		return err
	}
	resp, no := x.answerTo(r, up, sent)
	if no != nil {
		if why := x.unsent(r, &up.verdict, cut()); why != nil {
			no = why
		}
		return false, nil, no
	}
	if no := x.scrub(resp, &up.verdict); no != nil {
		cut()
		return false, nil, no
	}
	if no := x.answered(r, resp, &up.verdict, func() { up.conn.SetReadDeadline(pastDeadline) }); no != nil {
		cut()
		return false, nil, no
	}
	x.requested(r, &up.verdict, remote(up.conn), resp.StatusCode)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		<-sent
		after, no := x.switched(r, up, resp, rd)
		if no != nil {
			up.Close()
		}
		return false, after, no
	}
	whole := wasSent(sent)
	keep = whole && r.keep
	if err := x.relay(r, resp, keep, up.head); err != nil {
		x.client.SetLinger(0) // a cut answer must not look whole
		x.client.Close()      // nor may TLS say that it is
		keep, up.spent = false, true
		if x.live.isRevoked() {
			x.record(r.intent, revoked(&up.verdict))
		}
	}
	if !whole {
		cut()
		x.farewell()
		return false, nil, nil
	}
	up.spent = up.spent || resp.Close || personal(resp.Header)
	x.giveBack(up)
	return keep, nil, nil
}

// wasSent tells whether a request has gone out whole when its answer begins. If
// not, the server answers before it has read all, and the client must stop. The
// sender may be just about to say it, so it is given a moment.
func wasSent(sent chan error) bool {
	if len(sent) == 0 {
		moment := time.NewTimer(time.Millisecond)
		defer moment.Stop()
		select {
		case err := <-sent:
			sent <- err
		case <-moment.C:
			return false
		}
	}
	err := <-sent
	sent <- err
	return err == nil
}

// exchangeLocally gets an answer from this process.
func (x *session) exchangeLocally(r *request, v *verdict, way LocalHost) (keep bool) {
	resp, no := x.answerLocally(r, v, way)
	if no != nil && x.live.isRevoked() {
		no = revoked(v)
	}
	if no != nil {
		x.refuse(r.intent, no, formHTTP)
		return false
	}
	left := r.hasBody() && !r.whole // some of the body, perhaps
	keep = r.keep && !left
	if err := x.relay(r, resp, keep, nil); err != nil {
		x.client.SetLinger(0)
		return false
	}
	if left {
		x.farewell()
	}
	return keep
}

// requested makes the event of a request that was answered.
func (x *session) requested(r *request, v *verdict, from netip.Addr, status int) {
	if x.events == nil || !x.allowed && !v.Audited {
		return
	}
	where := event.Where{Host: r.host, Port: r.port, Addr: from}
	x.emit(event.Request(r.http(status), x.who, where, v.event()))
}
