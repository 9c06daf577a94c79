package proxy

import "errors"

// maxHello bounds a ClientHello with its record headers. Key shares of
// post-quantum groups make them about 2 KiB long.
const maxHello = 16 << 10

// The errors of readHello.
var (
	errHelloShort = errors.New("ClientHello is not complete")
	errNotTLS     = errors.New("not a TLS handshake")
	errHello      = errors.New("ClientHello cannot be read")
)

// tlsHandshake is the first byte of a TLS connection: a handshake record.
const tlsHandshake = 22

// readHello finds the server name in the first bytes of a TLS connection, RFC
// 8446 section 4.1.2 and RFC 6066 section 3. The name is empty if the client
// sent none, and comes as it was sent. errHelloShort asks for more bytes;
// errNotTLS says that these are something else.
func readHello(b []byte) (name string, err error) {
	hello, err := handshake(b)
	if err != nil {
		return "", err
	}
	p := parser{hello, true}
	p.skip(2 + 32) // legacy_version, random
	p.bytes(1)     // session id
	p.bytes(2)     // cipher suites
	p.bytes(1)     // compression methods
	if p.ok && len(p.b) == 0 {
		return "", nil // no extensions
	}
	extensions := parser{p.bytes(2), p.ok}
	if !p.ok || len(p.b) != 0 {
		return "", errHello
	}
	seen := false
	for len(extensions.b) > 0 {
		id := extensions.uint(2)
		body := extensions.bytes(2)
		if !extensions.ok {
			return "", errHello
		}
		if id != 0 {
			continue
		}
		if seen {
			return "", errHello
		}
		seen = true
		if name, err = serverName(body); err != nil {
			return "", err
		}
	}
	return name, nil
}

// serverName reads the extension: a list of which exactly one entry, a host
// name, has ever been defined.
func serverName(b []byte) (string, error) {
	p := parser{b, true}
	list := parser{p.bytes(2), p.ok}
	if len(p.b) != 0 {
		return "", errHello
	}
	kind := list.uint(1)
	name := list.bytes(2)
	if !p.ok || !list.ok || len(list.b) != 0 || kind != 0 || len(name) == 0 || len(name) > 255 {
		return "", errHello
	}
	return string(name), nil
}

// handshake puts together the first handshake message, which may be spread over
// records, and requires that it is a ClientHello.
func handshake(b []byte) ([]byte, error) {
	var msg []byte
	for {
		if len(b) > 0 && b[0] != tlsHandshake || len(b) > 1 && b[1] != 3 {
			return nil, errNotTLS
		}
		if len(b) < 5 {
			return nil, errHelloShort
		}
		n := int(b[3])<<8 | int(b[4])
		if n == 0 || n > 1<<14 {
			return nil, errNotTLS
		}
		have := min(n, len(b)-5)
		if msg == nil {
			msg = b[5 : 5+have : 5+have] // no copy in the usual case of one record
		} else {
			msg = append(msg, b[5:5+have]...)
		}
		if len(msg) > 0 && msg[0] != 1 {
			return nil, errNotTLS
		}
		if len(msg) >= 4 {
			size := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
			if size > maxHello {
				return nil, errHello
			}
			if len(msg) >= 4+size {
				return msg[4 : 4+size], nil
			}
		}
		if have < n {
			return nil, errHelloShort
		}
		b = b[5+n:]
	}
}

// parser takes big-endian values off a slice; ok is false after a short one.
type parser struct {
	b  []byte
	ok bool
}

func (p *parser) skip(n int) []byte {
	if !p.ok || len(p.b) < n {
		p.ok, p.b = false, nil
		return nil
	}
	v := p.b[:n]
	p.b = p.b[n:]
	return v
}

func (p *parser) uint(n int) (v int) {
	for _, c := range p.skip(n) {
		v = v<<8 | int(c)
	}
	return v
}

// bytes takes a vector whose length is in the n bytes before it.
func (p *parser) bytes(n int) []byte { return p.skip(p.uint(n)) }
