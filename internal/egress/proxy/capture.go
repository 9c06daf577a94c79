package proxy

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// captured serves a connection that a program made to wanted by itself. The
// name under which it is decided comes from the policy DNS, else from what the
// client says first. It is the name that is resolved and dialled; the address
// that the program chose is dialled only if a rule names it.
func (x *session) captured(name string, wanted netip.AddrPort) step {
	in := intent{port: wanted.Port(), addr: wanted.Addr()}
	if name != "" {
		host, err := match.CanonicalHost(name)
		if err != nil {
			x.refuse(in, &denial{code: badRequestCode, detail: err.Error()}, formReset)
			return nil
		}
		in.host = host
		return x.capturedName(in)
	}
	in.host = wanted.Addr().Unmap().String()
	return x.capturedAddr(in)
}

// capturedName serves a connection whose host is known.
func (x *session) capturedName(in intent) step {
	v, no := x.decide(in)
	if no == nil && v.Endpoint != nil && v.Endpoint.Protocol == policy.TCP {
		return x.open(v, nil, false) // its server may speak first
	}
	wait := x.limits.PeekTime
	if v.read {
		wait = x.limits.HeadTime // nothing passes unread, so its server cannot speak first
	}
	first := x.sniff(wait, nil)
	switch {
	case first.kind == saidHTTP: // each request is decided by itself
		return x.requestsTo(in.host, in, first)
	case no != nil:
		x.refuse(in, no, first.form())
	case v.read:
		return x.read(v, first)
	case first.kind == saidHello && first.name != "" && !sameHost(first.name, in.host):
		x.refuse(in, &denial{code: nameMismatch, decision: v.Decision, detail: "TLS names " + printable(first.name) + " on a connection to " + in.host}, formTLS)
	case first.kind == saidBadHello:
		x.refuse(in, &denial{code: badRequestCode, decision: v.Decision, detail: "the ClientHello cannot be read"}, formTLS)
	default:
		return x.open(v, first.data, first.kind == saidNothing)
	}
	return nil
}

// capturedAddr serves a connection to an address that no name was given out for.
func (x *session) capturedAddr(in intent) step {
	v, no := x.decide(in)
	if no == nil && !v.read {
		return x.open(v, nil, false)
	}
	first := x.sniff(x.limits.HeadTime, nil)
	switch {
	case no == nil:
		return x.read(v, first)
	case first.kind == saidHTTP:
		return x.requestsTo("", in, first)
	case first.kind == saidHello:
		host, err := match.CanonicalHost(first.name)
		if err != nil {
			break
		}
		named := in
		named.host = host
		switch v, no := x.decide(named); {
		case no != nil:
			x.refuse(named, no, formTLS)
		case v.read:
			return x.read(v, first)
		default:
			return x.open(v, first.data, false)
		}
		return nil
	}
	if no.code == policyDenied {
		no.code = noName
		no.detail = "no rule names the address " + in.host + ", and the connection names no host"
	}
	x.refuse(in, no, first.form())
	return nil
}

// open makes the connection and carries it as a tunnel.
func (x *session) open(v verdict, early []byte, guard bool) step {
	up, no := x.reach(&v)
	if no != nil {
		how := formReset
		if len(early) > 0 && early[0] == tlsHandshake {
			how = formTLS
		}
		x.refuse(v.intent, no, how)
		return nil
	}
	return x.tunnel(v, up, early, guard && x.checksName(v))
}

func (x *session) requestsTo(host string, in intent, first spoken) step {
	return x.plain(first.data, target{captured: true, host: host, port: in.port, addr: in.addr})
}

// said is what the first bytes of a captured connection look like.
type said uint8

const (
	saidNothing  said = iota // within the time
	saidHello                // a TLS ClientHello, perhaps with a server name
	saidBadHello             // TLS that cannot be read
	saidHTTP                 // an HTTP/1 request line
	saidOther
)

// spoken is what a client said first.
type spoken struct {
	kind said
	data []byte // all of it; to be passed on
	name string // server name, as sent
}

// form is how a refusal can be told to this client.
func (s spoken) form() form {
	switch s.kind {
	case saidHello, saidBadHello:
		return formTLS
	case saidHTTP:
		return formHTTP
	}
	return formReset
}

// sniff waits for the client's first bytes, at most for wait, and then for
// enough of them to tell what they are. early are those that it has sent already.
func (x *session) sniff(wait time.Duration, early []byte) spoken {
	x.client.SetReadDeadline(time.Now().Add(wait))
	defer x.client.SetReadDeadline(time.Time{})
	if len(early) == 0 && !x.readable() {
		return spoken{}
	}
	x.client.SetReadDeadline(time.Now().Add(max(wait, x.limits.PeekTime)))
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	from := prefixed{bytes.NewReader(early), x.client}
	for n := 0; ; {
		m, err := from.Read(buf[n:])
		if n == 0 && m > 0 && buf[0] == tlsHandshake {
			x.client.SetReadDeadline(time.Now().Add(x.limits.HeadTime))
		}
		n += m
		s := classify(buf[:n])
		if !s.more {
			s.data = bytes.Clone(buf[:n])
			return s.spoken
		}
		if err != nil || n == len(buf) {
			s.data = bytes.Clone(buf[:n])
			if s.kind == saidHello {
				s.kind = saidBadHello
			}
			if n > 0 && s.kind == saidNothing {
				s.kind = saidOther
			}
			return s.spoken
		}
	}
}

// readable waits until there is something to read, without a buffer. It is
// false when the deadline has passed or the client has ended.
func (x *session) readable() bool {
	raw, err := x.client.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		var err error
		n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN
	})
	return err == nil && n > 0
}

type classified struct {
	spoken
	more bool // so far; the next bytes decide
}

func classify(b []byte) (c classified) {
	if len(b) == 0 {
		c.more = true
		return c
	}
	name, err := readHello(b)
	switch {
	case err == nil:
		c.kind, c.name = saidHello, name
	case errors.Is(err, errHelloShort):
		c.kind, c.more = saidHello, true
	case errors.Is(err, errHello):
		c.kind = saidBadHello
	default:
		c.kind, c.more = requestLine(b)
	}
	return c
}

// maxMethod is the longest method that is taken for one.
const maxMethod = 20

// requestLine recognises the start of an HTTP/1 request in origin form.
func requestLine(b []byte) (kind said, more bool) {
	i := bytes.IndexByte(b, ' ')
	method := b
	if i >= 0 {
		method = b[:i]
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return saidOther, false
		}
	}
	switch {
	case len(method) == 0 || len(method) > maxMethod:
		return saidOther, false
	case i < 0 || i+1 == len(b):
		return saidOther, true
	case b[i+1] == '/' || string(method) == "PRI" || bytes.HasPrefix(b[i+1:], []byte("* HTTP/1.")) && string(method) == "OPTIONS":
		return saidHTTP, false
	}
	return saidOther, false
}
