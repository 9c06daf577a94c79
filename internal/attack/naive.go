package attack

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// naive is a proxy without rules, for the positive controls: it reads every
// form of a host that some program reads, and passes on what it is given as it
// is. It reaches loopback only.
type naive struct {
	names map[string]string // names and where they lead
	self  string
}

// serve runs the proxy until the listener is closed.
func (n *naive) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go n.client(c)
		}
	}
}

// client answers one request after the other.
func (n *naive) client(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(greetLimit))
	r := bufio.NewReaderSize(c, 1<<19)
	for n.request(c, r) {
	}
}

func (n *naive) request(c net.Conn, r *bufio.Reader) (again bool) {
	var head []string
	size := 0
	for size < 1<<19 {
		l, err := r.ReadString('\n')
		if err != nil && len(head) == 0 {
			return false
		}
		head, size = append(head, l), size+len(l)
		if strings.TrimRight(l, "\r\n") == "" || err != nil {
			break
		}
	}
	method, to := n.target(head)
	up, err := n.dial(to)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return method != "CONNECT"
	}
	defer up.Close()
	if method == "CONNECT" {
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(up, r); up.Close() }()
		io.Copy(c, up)
		return false
	}
	io.WriteString(up, strings.Join(head, ""))
	if !strings.HasSuffix(strings.Join(head, ""), "\n\r\n") {
		io.WriteString(up, "\r\n\r\n")
	}
	up.SetReadDeadline(time.Now().Add(answerLimit))
	io.Copy(c, up)
	return true
}

// target reads the destination out of a request: of CONNECT, of an absolute
// form, or of the Host header.
func (n *naive) target(head []string) (method, to string) {
	line := strings.TrimRight(head[0], "\r\n")
	method, rest, _ := strings.Cut(line, " ")
	if i := strings.LastIndex(rest, " HTTP/"); i >= 0 {
		rest = rest[:i]
	}
	if method == "CONNECT" {
		return method, rest
	}
	if i := strings.Index(rest, "://"); i >= 0 {
		authority, _, _ := strings.Cut(rest[i+3:], "/")
		return method, withPort(authority)
	}
	for _, h := range head[1:] {
		if k, v, found := strings.Cut(h, ":"); found && strings.EqualFold(k, "Host") {
			to = withPort(strings.TrimSpace(v))
		}
	}
	if to == "" && len(head) > 0 {
		_, to, _ = strings.Cut(strings.Join(head, ""), "Host: ")
	}
	if method == "PRI" {
		to = n.origin()
	}
	return method, to
}

func (n *naive) origin() string {
	for name := range n.names {
		if strings.HasPrefix(name, "origin.") {
			return name
		}
	}
	return ""
}

func withPort(a string) string {
	if _, _, err := net.SplitHostPort(a); err != nil {
		return a + ":80"
	}
	return a
}

// dial reads the authority as generously as anybody would.
func (n *naive) dial(authority string) (net.Conn, error) {
	if i := strings.LastIndex(authority, "@"); i >= 0 && !strings.Contains(authority, "\\") {
		authority = authority[i+1:]
	}
	if i := strings.IndexAny(authority, "?#\\/"); i >= 0 {
		authority = authority[:i]
	}
	if to, known := n.names[strings.ToLower(authority)]; known {
		return net.DialTimeout("tcp", to, answerLimit)
	}
	i := strings.LastIndex(authority, ":")
	if i < 0 {
		return nil, errors.New("no port")
	}
	host, port := authority[:i], authority[i+1:]
	if u, err := url.PathUnescape(host); err == nil {
		host = u
	}
	host, _, _ = strings.Cut(host, "\x00")
	host = strings.ToLower(strings.TrimRight(strings.Trim(host, "[] \t"), "."))
	host, _, _ = strings.Cut(host, "%")
	host = strings.NewReplacer("。", ".", "１", "1", "２", "2", "７", "7").Replace(host)
	if host == "localhost" {
		host = "127.0.0.1"
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		if a, err = oldNumbers(host); err != nil {
			return nil, err
		}
	}
	if a = a.Unmap(); !a.IsLoopback() && !a.IsUnspecified() {
		return nil, errors.New("not of this host")
	}
	return net.DialTimeout("tcp", net.JoinHostPort(a.String(), port), answerLimit)
}

// oldNumbers reads an IPv4 address as inet_aton(3) does.
func oldNumbers(s string) (netip.Addr, error) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, errors.New("too many parts")
	}
	var v uint64
	for i, p := range parts {
		base := 10
		switch low := strings.ToLower(p); {
		case strings.HasPrefix(low, "0x"):
			p, base = low[2:], 16
		case len(p) > 1 && p[0] == '0':
			p, base = strings.TrimLeft(p, "0")+"", 8
			if p == "" {
				p = "0"
			}
		}
		x, err := strconv.ParseUint(p, base, 32)
		if err != nil {
			return netip.Addr{}, err
		}
		if i == len(parts)-1 {
			v = v<<(8*uint(5-len(parts))) | x
		} else {
			v = v<<8 | x
		}
	}
	b := []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
	slices.Reverse(b)
	return netip.AddrFrom4([4]byte(b)), nil
}
