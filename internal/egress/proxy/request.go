package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/egress/address"
	l7 "sallyport/internal/egress/l7/http"
	"sallyport/internal/egress/l7/websocket"
	"sallyport/internal/policy"
)

// target is what is known of the destination beside the request itself.
type target struct {
	captured bool // the client speaks to a server, not to a proxy: URIs are in origin form
	host     string
	port     uint16
	addr     netip.Addr
	tls      bool    // it was ended here, for host and port
	no       *denial // why every request is refused
}

// request is one HTTP request that may be sent on.
type request struct {
	*http.Request
	intent
	target  l7.Target
	sent    string           // the target as it goes out, if that differs: with secrets in it
	upgrade bool             // to a websocket
	keep    bool             // the client wants to go on after the answer
	held    int64            // bytes that are in memory for it: of bodies, and of what was found in them
	whole   bool             // its whole body is
	about   policy.Request   // what rules were asked, if they were
	asks    *websocket.Offer // of an upgrade whose messages are judged
	wait    func(time.Time)  // sets a deadline for its body
}

// read reads the request whose head is b, the next bytes in br.
func (t target) read(b []byte, br *bufio.Reader) (*request, error) {
	r := &request{intent: intent{port: t.port, addr: t.addr, tls: t.tls}}
	h, err := parseHead(b)
	if err != nil {
		return r, err
	}
	r.method, r.minor = string(h.method), h.minor
	if t.captured {
		err = r.origin(h, t)
	} else {
		err = r.absolute(h)
	}
	if err == nil {
		err = r.canonical()
	}
	if err != nil {
		return r, err
	}
	if r.Request, err = h.request(b, br); err != nil {
		return r, bad("%v", err)
	}
	r.agent = r.Header.Get("User-Agent")
	r.keep = h.minor == 1 && !r.Close
	r.upgrade = h.upgrade != nil
	if r.upgrade && r.hasBody() {
		return r, bad("Upgrade with a body")
	}
	return r, nil
}

// absolute takes the destination from a URI like http://host:port/path.
func (r *request) absolute(h head) error {
	uri := string(h.target)
	const scheme = "http://"
	if len(uri) < len(scheme) || !strings.EqualFold(uri[:len(scheme)], scheme) {
		if strings.HasPrefix(uri, "/") || uri == "*" {
			return bad("this is a proxy: expected a URI that begins with http://, or CONNECT")
		}
		return bad("URI %.80q: expected http://; https goes through CONNECT", uri)
	}
	authority, path := uri[len(scheme):], ""
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, path = authority[:i], authority[i:]
	}
	var err error
	if r.host, r.port, err = address.ParseAuthority(authority, 80); err != nil {
		return err
	}
	r.path = path
	switch {
	case path == "" && r.method == "OPTIONS":
		r.path = "*" // RFC 9112, section 3.2.4
	case path == "" || path[0] == '?':
		r.path = "/" + path
	}
	if h.hosts == 0 {
		return nil // HTTP/1.0
	}
	if host, port, err := address.ParseAuthority(string(h.host), 80); err != nil || host != r.host || port != r.port {
		return bad("Host %.80q is not the authority of the URI", h.host)
	}
	return nil
}

// origin takes the destination from Host. Without a port in it, it is the port
// that was connected to.
func (r *request) origin(h head, t target) error {
	r.path = string(h.target)
	if r.path[0] != '/' && (r.path != "*" || r.method != "OPTIONS") {
		return bad("URI %.80q: expected a path", r.path)
	}
	if h.hosts == 0 {
		if t.host == "" {
			return bad("no Host")
		}
		r.host = t.host
		return nil
	}
	if t.host != "" && string(h.host) == t.host && !strings.Contains(t.host, ":") {
		r.host = t.host // which is canonical
		return nil
	}
	host, port, err := address.ParseAuthority(string(h.host), t.port)
	if err != nil {
		return err
	}
	r.host, r.port = host, port
	return nil
}

// canonical gives method and target the form in which they are judged and sent.
func (r *request) canonical() error {
	for i, c := range []byte(r.method) {
		if (c < 'A' || c > 'Z') && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '_') {
			return bad("method %.40q: expected upper case", r.method)
		}
	}
	switch r.method {
	case "CONNECT", "TRACE", "TRACK":
		return bad("method %s has no place here", r.method)
	}
	t, err := l7.Parse(r.path)
	if err != nil {
		return bad("%v", err)
	}
	r.target, r.path = t, t.String()
	return nil
}

// hop are the header fields that belong to one connection (RFC 9110, section
// 7.6.1), and those that are written anew for each.
var hop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Proxy-Authenticate": true, "Proxy-Authorization": true, "Proxy-Authentication-Info": true,
	"Host": true, "Content-Length": true, "Http2-Settings": true,
	"Alt-Svc": true, // of this connection's server, RFC 7838: the agent's next one is judged by itself
}

// exclude is hop with what the message's own Connection names.
func exclude(h http.Header) map[string]bool {
	named := h.Values("Connection")
	if len(named) == 0 {
		return hop
	}
	out := map[string]bool{}
	for k := range hop {
		out[k] = true
	}
	for _, v := range named {
		for name := range strings.SplitSeq(v, ",") {
			out[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	return out
}

// authority is the Host that goes upstream: the canonical one that was decided on.
func (r *request) authority() string {
	host := r.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if r.tls && r.port == 443 || !r.tls && r.port == 80 {
		return host
	}
	return host + ":" + strconv.Itoa(int(r.port))
}

// writeHead writes the head as it goes upstream. Nothing of the client's
// framing is copied: it is written from what was understood.
func (r *request) writeHead(w *bufio.Writer) error {
	path := r.path
	if r.sent != "" {
		path = r.sent
	}
	w.WriteString(r.method + " " + path + " HTTP/1.1\r\nHost: " + r.authority() + "\r\n")
	if err := r.Header.WriteSubset(w, exclude(r.Header)); err != nil {
		return err
	}
	switch {
	case r.upgrade:
		w.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	case r.chunked():
		w.WriteString("Transfer-Encoding: chunked\r\n")
	case r.ContentLength > 0 || r.method == "POST" || r.method == "PUT" || r.method == "PATCH":
		w.WriteString("Content-Length: " + strconv.FormatInt(r.ContentLength, 10) + "\r\n")
	}
	_, err := w.WriteString("\r\n")
	return err
}

func (r *request) chunked() bool { return len(r.TransferEncoding) > 0 }
func (r *request) hasBody() bool { return r.ContentLength != 0 }

// prefixed reads bytes that were taken from a connection before, then the
// connection.
type prefixed struct {
	early *bytes.Reader
	io.Reader
}

func (p prefixed) Read(b []byte) (int, error) {
	if p.early.Len() > 0 {
		return p.early.Read(b)
	}
	return p.Reader.Read(b)
}
