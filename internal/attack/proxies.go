package attack

import (
	"bytes"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// exchange sends bytes to the proxy on a new connection and reads what comes
// until it is quiet or over.
func (a *agent) exchange(request string) ([]byte, error) { return a.exchangeUntil(request, whole) }

func (a *agent) exchangeUntil(request string, enough func([]byte) bool) ([]byte, error) {
	fd, err := a.toProxy()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := writeAll(fd, []byte(request)); err != nil {
		return nil, &refusal{wordClosed, err.Error()}
	}
	return a.answers(fd, answerLimit, enough), nil
}

func (a *agent) toProxy() (int, error) {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, faultf("socket: %w", err)
	}
	if err := a.connect(fd, sockaddr(parse(a.Proxy))); err != nil {
		unix.Close(fd)
		return -1, faultf("connecting to the proxy: %w", err)
	}
	return fd, nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// answer reads until the other end closes, or has been quiet for a moment behind a
// whole answer.
func (a *agent) answer(fd int, limit time.Duration) []byte { return a.answers(fd, limit, whole) }

// answers is answer for somebody who knows when enough has come.
func (a *agent) answers(fd int, limit time.Duration, enough func([]byte) bool) []byte {
	var out []byte
	b := make([]byte, 4096)
	for {
		quiet := limit
		if len(out) > 0 && enough(out) {
			quiet = 60 * time.Millisecond
		}
		if err := wait(fd, unix.POLLIN, quiet); err != nil {
			return out
		}
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return out
		}
		out = append(out, b[:n]...)
	}
}

// whole says whether the last response in b is all there, as far as its length is
// said. What is no response is whole.
func whole(b []byte) bool {
	for bytes.HasPrefix(b, []byte("HTTP/1.")) {
		head, rest, found := bytes.Cut(b, []byte("\r\n\r\n"))
		length := contentLength.FindSubmatch(head)
		if !found || length == nil {
			return found
		}
		n, err := strconv.Atoi(string(length[1]))
		if err != nil || n > len(rest) {
			return err != nil
		}
		b = rest[n:]
	}
	return true
}

var contentLength = regexp.MustCompile(`(?i)\r\nContent-Length: *([0-9]+)`)

// statusLine is the start of a response.
var statusLine = regexp.MustCompile(`HTTP/1\.[01] ([0-9]{3})`)

// status reads the status of the last response in b.
func status(b []byte) string {
	all := statusLine.FindAllSubmatch(b, -1)
	if len(all) == 0 {
		return wordClosed
	}
	return wordHTTP + string(all[len(all)-1][1])
}

// plain sends a request whose success shows in the answer: the greeting of a
// forbidden server, or the origin's page.
func (a *agent) plain(request string) error {
	b, err := a.exchange(request)
	if err != nil {
		return err
	}
	if bytes.Contains(b, []byte(greeting)) || bytes.Contains(b, []byte(originPage)) {
		return nil
	}
	return &refusal{status(b), reason(b)}
}

// reason is the proxy's own word for a refusal.
func reason(b []byte) string {
	_, rest, found := bytes.Cut(b, []byte(`"error":"`))
	if !found {
		return ""
	}
	word, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(word)
}

// tunnel asks for a tunnel and proves who is at its end.
func (a *agent) tunnel(name, authority string) error {
	fd, err := a.toProxy()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := a.connectMethod(fd, authority); err != nil {
		return err
	}
	return a.prove(fd, name)
}

// connectMethod sends CONNECT and wants a 200.
func (a *agent) connectMethod(fd int, authority string) error {
	if err := writeAll(fd, []byte("CONNECT "+authority+" HTTP/1.1\r\nHost: "+authority+"\r\n\r\n")); err != nil {
		return &refusal{wordClosed, err.Error()}
	}
	b := a.answer(fd, answerLimit)
	if s := status(b); s != wordHTTP+"200" {
		return &refusal{s, reason(b)}
	}
	return nil
}

// fetchOrigin is the allowed request.
func (a *agent) fetchOrigin() error {
	return a.plain("GET http://" + a.Origin + "/ HTTP/1.1\r\nHost: " + a.Origin + "\r\nConnection: close\r\n\r\n")
}

func requestForms(a *agent) {
	to := a.TCP4
	path := "/" + strings.ReplaceAll(a.mark("x"), " ", "_")
	a.try("connect", func() error { return a.tunnel("connect", to) })
	a.try("connect_v6", func() error { return a.tunnel("connect_v6", a.TCP6) })
	for _, method := range []string{"GET", "POST", "OPTIONS", "PROPFIND"} {
		a.try("absolute_"+strings.ToLower(method), func() error {
			return a.plain(method + " http://" + to + path + " HTTP/1.1\r\nHost: " + to + "\r\nContent-Length: 0\r\n\r\n")
		})
	}
	a.try("absolute_http10", func() error { return a.plain("GET http://" + to + path + " HTTP/1.0\r\n\r\n") })
	a.try("other_host_header", func() error {
		return a.plain("GET http://" + to + path + " HTTP/1.1\r\nHost: " + a.Origin + "\r\n\r\n")
	})
	a.try("origin_form", func() error { return a.plain("GET " + path + " HTTP/1.1\r\nHost: " + to + "\r\n\r\n") })
	a.try("upper_scheme", func() error { return a.plain("GET HTTP://" + to + path + " HTTP/1.1\r\nHost: " + to + "\r\n\r\n") })
	a.try("upgrade", func() error {
		return a.plain("GET http://" + to + path + " HTTP/1.1\r\nHost: " + to + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	})
}

// port is the port of the forbidden server as text.
func (a *agent) port() string { return fmt.Sprint(parse(a.TCP4).Port()) }

func numericHosts(a *agent) {
	for _, host := range []string{
		"127.0.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1",
		"127.0.0.01", "0", "0.0.0.0", "127.000.000.001", "0X7F000001", "00000000177.1",
	} {
		a.try("connect_"+host, func() error { return a.tunnel("connect_"+host, host+":"+a.port()) })
	}
	for _, host := range []string{"2130706433", "0x7f.1", "127.1"} {
		a.try("plain_"+host, func() error {
			return a.plain("GET http://" + host + ":" + a.port() + "/" + strings.ReplaceAll(a.mark(host), " ", "_") + " HTTP/1.1\r\nHost: x\r\n\r\n")
		})
	}
}

func hostForms(a *agent) {
	for name, host := range map[string]string{
		"name": "localhost", "dot": "localhost.", "address_dot": "127.0.0.1.", "upper": "LOCALHOST", "mixed": "LocalHost",
		"percent": "%6cocalhost", "percent_address": "127%2e0%2e0%2e1", "user": a.originName() + "@127.0.0.1", "user_password": "a:b@127.0.0.1",
		"v6": "[::1]", "mapped": "[::ffff:127.0.0.1]", "mapped_hex": "[::ffff:7f00:1]", "v6_long": "[0:0:0:0:0:0:0:1]", "v6_any": "[::]", "zone": "[::1%25lo]", "zone_raw": "[::1%lo]",
		"bracketed_v4": "[127.0.0.1]", "wide_digits": "１２７.0.0.1", "wide_dots": "127。0。0。1",
		"zero_byte": "127.0.0.1\x00." + a.originName(), "tab": "127.0.0.1\t", "leading_space": " 127.0.0.1",
		"query": "127.0.0.1:" + a.port() + "?" + a.originName(), "fragment": "127.0.0.1:" + a.port() + "#" + a.originName(), "slash": "127.0.0.1:" + a.port() + "/" + a.originName(),
		"backslash": "127.0.0.1:" + a.port() + "\\@" + a.originName(),
	} {
		a.try(name, func() error {
			if strings.HasPrefix(host, "[::1") || strings.HasPrefix(host, "[0:") || host == "[::]" {
				return a.tunnel(name, host+":"+fmt.Sprint(parse(a.TCP6).Port()))
			}
			return a.tunnel(name, host+":"+a.port())
		})
	}
}

func (a *agent) originName() string {
	host, _, _ := net.SplitHostPort(a.Origin)
	return host
}

// similarNames are judged as names: none of them resolves.
func similarNames(a *agent) {
	name := a.originName()
	for _, n := range []string{
		"x" + name, "sub." + name, name + ".evil.test", "evil.test", "a.b.wild.attack.test", "wild.attack.test", "xwild.attack.test", "a.wild.attack.test.evil.test",
		"xn--rigin-kua.attack.test", "οrigin.attack.test", "..", "", "a..wild.attack.test",
	} {
		a.probe("connect_"+n, func() error { return a.tunnel("x", n+":80") })
	}
	a.probe("other_port", func() error { return a.tunnel("x", name+":81") })
	a.probe("port_zero", func() error { return a.tunnel("x", name+":0") })
	a.probe("port_overflow", func() error { return a.tunnel("x", name+":65616") }) // 80 + 65536
	a.probe("port_sign", func() error { return a.tunnel("x", name+":+80") })
}

// refusedAddresses are names that the policy allows. What they resolve to is
// what has to be refused.
func refusedAddresses(a *agent) {
	for _, to := range a.Others {
		host, _, _ := net.SplitHostPort(to)
		f := func() error { return a.tunnel(host, to) }
		if strings.HasPrefix(host, "loop") {
			a.try(host, f)
		} else {
			a.probe(host, f) // nothing listens there, or nobody should look
		}
		a.probe(host+"_plain", func() error {
			return a.plain("GET http://" + to + "/ HTTP/1.1\r\nHost: " + to + "\r\n\r\n")
		})
	}
}
