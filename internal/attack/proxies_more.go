package attack

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// originPage is what the allowed origin answers.
const originPage = "ORIGIN-PAGE"

func strangerCase(a *agent) {
	for _, how := range []string{"connect", "plain"} {
		a.try(how, func() error {
			answer, err := a.tell(how)
			if err != nil {
				return err
			}
			return spoken([]byte(answer), nil)
		})
	}
}

func proxyItself(a *agent) {
	for name, authority := range map[string]string{"address": a.Proxy, "name": "self.attack.test:" + fmt.Sprint(parse(a.Proxy).Port()), "localhost": "localhost:" + fmt.Sprint(parse(a.Proxy).Port())} {
		a.try(name, func() error {
			fd, err := a.toProxy()
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := a.connectMethod(fd, authority); err != nil {
				return err
			}
			if err := a.connectMethod(fd, a.TCP4); err != nil {
				return err
			}
			return a.prove(fd, name)
		})
	}
}

func hostServicePort(a *agent) {
	service, _ := a.tell("service") // where the origin really listens
	a.try("address", func() error {
		return a.plain("GET http://" + service + "/ HTTP/1.1\r\nHost: " + service + "\r\n\r\n")
	})
	a.try("connect_address", func() error {
		fd, err := a.toProxy()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return a.connectMethod(fd, service)
	})
	a.try("directly", func() error {
		return a.reachOrigin(sockaddr(parse(service)))
	})
}

// reachOrigin connects past the proxy.
func (a *agent) reachOrigin(sa []byte) error {
	fd, err := socket(uintptr(familyOf(sa)), unix.SOCK_STREAM, 0)
	if err != nil {
		return faultf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := a.connect(fd, sa); err != nil {
		return &refusal{wordClosed, err.Error()}
	}
	if err := writeAll(fd, []byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return &refusal{wordClosed, err.Error()}
	}
	if b := a.answer(fd, a.patient()); !bytes.Contains(b, []byte(originPage)) {
		return &refusal{status(b), ""}
	}
	return nil
}

func keptAlive(a *agent) {
	allowed := "GET http://" + a.Origin + "/ HTTP/1.1\r\nHost: " + a.Origin + "\r\n\r\n"
	path := "/" + strings.ReplaceAll(a.mark("x"), " ", "_")
	for name, second := range map[string]string{
		"plain":       "GET http://" + a.TCP4 + path + " HTTP/1.1\r\nHost: " + a.TCP4 + "\r\n\r\n",
		"origin_form": "GET " + path + " HTTP/1.1\r\nHost: " + a.TCP4 + "\r\n\r\n",
		"tunnel":      "CONNECT " + a.TCP4 + " HTTP/1.1\r\nHost: " + a.TCP4 + "\r\n\r\n" + a.mark("x") + "\n",
	} {
		a.try(name, func() error {
			fd, err := a.toProxy()
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			writeAll(fd, []byte(allowed))
			if b := a.answer(fd, answerLimit); !bytes.Contains(b, []byte(originPage)) {
				return faultf("the allowed request was answered with %s", status(b))
			}
			if err := writeAll(fd, []byte(second)); err != nil {
				return &refusal{wordClosed, err.Error()}
			}
			b := a.answer(fd, answerLimit)
			if bytes.Contains(b, []byte(greeting)) {
				return nil
			}
			return &refusal{status(b), reason(b)}
		})
		a.try(name+"_pipelined", func() error {
			b, err := a.exchangeUntil(allowed+second, func(b []byte) bool {
				return bytes.Contains(b, []byte(greeting)) || a.Inside && whole(b) && len(statusLine.FindAll(b, -1)) > 1
			})
			if err != nil {
				return err
			}
			if bytes.Contains(b, []byte(greeting)) {
				return nil
			}
			return &refusal{status(b), reason(b)}
		})
	}
}

// smuggling sends requests to the allowed origin that must not be passed on as
// they are: somebody behind would read another request out of them.
func smuggling(a *agent) {
	head := "POST http://" + a.Origin + "/ HTTP/1.1\r\nHost: " + a.Origin + "\r\nConnection: close\r\n"
	inner := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, request := range map[string]string{
		"length_and_chunked":   head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"two_lengths":          head + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n12345" + inner,
		"signed_length":        head + "Content-Length: +5\r\n\r\n12345",
		"hex_length":           head + "Content-Length: 0x5\r\n\r\n12345",
		"list_length":          head + "Content-Length: 0, 5\r\n\r\n12345",
		"unknown_coding":       head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"coding_list":          head + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
		"coding_twice":         head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"folded_header":        head + "X-A: b\r\n Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
		"two_hosts":            head + "Host: other.attack.test\r\nContent-Length: 0\r\n\r\n",
		"space_before_colon":   head + "Content-Length : 5\r\n\r\n12345",
		"zero_byte":            head + "X-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"carriage_return":      head + "X-A: a\rContent-Length: 5\r\nContent-Length: 0\r\n\r\n",
		"header_without_colon": head + "Content-Length\r\n\r\n",
		"http2_preface":        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "Host: " + a.Origin,
		"upgrade_to_http2":     head + "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Length: 0\r\n\r\n",
	} {
		a.try(name, func() error { return a.plain(request) })
	}
}

// capturedNames connects to an address of nobody, which is captured, and names
// the forbidden server in the request. Unsandboxed it is sent to the proxy.
func capturedNames(a *agent) {
	to := parse(a.Proxy)
	if a.Inside {
		to = at("0.0.0.0:80", "203.0.113.7") // TEST-NET-3, RFC 5737: nobody is there
	}
	path := "/" + strings.ReplaceAll(a.mark("x"), " ", "_")
	for name, request := range map[string]string{
		"host":     "GET " + path + " HTTP/1.1\r\nHost: " + a.TCP4 + "\r\n\r\n",
		"absolute": "GET http://" + a.TCP4 + path + " HTTP/1.1\r\nHost: " + a.Origin + "\r\n\r\n",
		"connect":  "CONNECT " + a.TCP4 + " HTTP/1.1\r\nHost: " + a.TCP4 + "\r\n\r\n" + a.mark("x") + "\n",
		"metadata": "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
	} {
		f := func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			if err := a.connect(fd, sockaddr(to)); err != nil {
				return &refusal{wordClosed, err.Error()}
			}
			writeAll(fd, []byte(request))
			b := a.answer(fd, answerLimit)
			if bytes.Contains(b, []byte(greeting)) {
				return nil
			}
			return &refusal{status(b), reason(b)}
		}
		if name == "metadata" {
			a.probe(name, f)
		} else {
			a.try(name, f)
		}
	}
}

// slowHeaders holds connections that say half a request, and asks on another.
func slowHeaders(a *agent) {
	a.try("others_served", func() error {
		const crowd = 200
		var held []int
		defer func() {
			for _, fd := range held {
				unix.Close(fd)
			}
		}()
		for range crowd {
			fd, err := a.toProxy()
			if err != nil {
				break // a limit is an answer, as long as it does not hit the others
			}
			held = append(held, fd)
			unix.Write(fd, []byte("CONNECT "+a.Origin+" HTTP/1.1\r\nHost: "))
		}
		if err := a.fetchOrigin(); err != nil {
			return err
		}
		return foundf("%d held", len(held))
	})
	a.try("huge_header", func() error {
		b, err := a.exchange("GET http://" + a.Origin + "/ HTTP/1.1\r\nX: " + strings.Repeat("a", 1<<18) + "\r\n\r\n")
		if err == nil && a.Inside && bytes.Contains(b, []byte(originPage)) {
			return &refusal{"passed", "a header of 256 KiB went through"}
		}
		return a.fetchOrigin()
	})
}

func requestFlood(a *agent) {
	a.try("others_served", func() error {
		const n = 1000
		for i := range n {
			fd, err := a.toProxy()
			if err != nil {
				return err
			}
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			writeAll(fd, fmt.Appendf(nil, "CONNECT %d.denied.attack.test:443 HTTP/1.1\r\n\r\n", i))
			if i%4 == 0 {
				wait(fd, unix.POLLIN, time.Second)
			}
			unix.Close(fd)
		}
		if err := a.fetchOrigin(); err != nil {
			return err
		}
		return foundf("%d denials", n)
	})
}
