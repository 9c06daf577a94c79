package attack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// contact is somebody who reached a forbidden server.
type contact struct {
	where string
	said  string // what was sent, if anything
	at    time.Time
	void  bool // the suite's own
}

// recorder is the outside view: who reached what.
type recorder struct {
	mu   sync.Mutex
	list []*contact
}

func (r *recorder) enter(where, said string) *contact {
	c := &contact{where: where, said: said, at: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, c)
	return c
}

func (r *recorder) set(c *contact, said string, void bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.said, c.void = said, void
}

// take gives the contacts so far, the suite's own left out.
func (r *recorder) take() []contact {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []contact
	for _, c := range r.list {
		if !c.void {
			out = append(out, *c)
		}
	}
	return out
}

// servers are the forbidden servers of one scene.
type servers struct {
	rec     recorder
	closers []interface{ Close() error }
	wg      sync.WaitGroup
}

func (s *servers) own(c interface{ Close() error }) { s.closers = append(s.closers, c) }

func (s *servers) close() {
	for _, c := range s.closers {
		c.Close()
	}
	s.wg.Wait()
}

// stream serves a listener under a name. It takes ownership of l.
func (s *servers) stream(name string, l net.Listener) {
	s.own(l)
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			first := s.rec.enter(name, "")
			go s.greet(name, c, first)
		}
	})
}

// greetLimit ends a connection on which nothing is said.
const greetLimit = time.Minute

// greet answers each line with the greeting. The first line belongs to the
// contact of the connection itself.
func (s *servers) greet(name string, c net.Conn, first *contact) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(greetLimit))
	r := bufio.NewReaderSize(c, 4096)
	for {
		l, err := r.ReadString('\n')
		l = strings.TrimSpace(l)
		switch {
		case l == victimWord:
			s.rec.set(first, l, true)
			c.SetDeadline(time.Time{})
		case first != nil && !first.void && l != "":
			s.rec.set(first, l, false)
		case l != "":
			s.rec.enter(name, l)
		}
		if l != "" {
			first = &contact{void: true}
			fmt.Fprintf(c, "%s%s\n", greeting, l)
		}
		if err != nil {
			return
		}
		if strings.Contains(l, " HTTP/1.") {
			return // a proxy without rules waits for the end
		}
	}
}

// packets serves a datagram socket. It takes ownership of c.
func (s *servers) packets(name string, c net.PacketConn) {
	s.own(c)
	s.wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			s.rec.enter(name, printable(b[:n]))
			if from != nil {
				c.WriteTo(append([]byte(greeting), b[:n]...), from)
			}
		}
	})
}

func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, string(b))
}

// tcp listens on an address and returns where.
func (s *servers) tcp(name, network, address string) (string, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(name == "mptcp")
	l, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		return "", err
	}
	s.stream(name, l)
	return l.Addr().String(), nil
}

func (s *servers) udp(name, network, address string) (string, error) {
	c, err := net.ListenPacket(network, address)
	if err != nil {
		return "", err
	}
	s.packets(name, c)
	return c.LocalAddr().String(), nil
}

// lite serves UDP-Lite; empty if the kernel has none.
func (s *servers) lite() string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protoUDPLite)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), "udplite")
	defer f.Close()
	if unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) != nil {
		return ""
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return ""
	}
	s.packets("udplite", c)
	return localOf(fd).String()
}

func (s *servers) unix(dir, token string) (UnixSpec, error) {
	u := UnixSpec{Stream: dir + "/docker.sock", Datagram: dir + "/notify", Packet: dir + "/packet", Abstract: token + "-stream", AbstractD: token + "-datagram"}
	for _, v := range []struct{ name, network, address string }{
		{"unix stream", "unix", u.Stream}, {"unix packet", "unixpacket", u.Packet}, {"abstract stream", "unix", "@" + u.Abstract},
	} {
		l, err := net.Listen(v.network, v.address)
		if err != nil {
			return u, err
		}
		s.stream(v.name, l)
	}
	for _, v := range []struct{ name, address string }{{"unix datagram", u.Datagram}, {"abstract datagram", "@" + u.AbstractD}} {
		c, err := net.ListenPacket("unixgram", v.address)
		if err != nil {
			return u, err
		}
		s.packets(v.name, c)
	}
	for _, p := range []string{u.Stream, u.Datagram, u.Packet} {
		if err := os.Chmod(p, 0o777); err != nil {
			return u, err
		}
	}
	return u, nil
}

// origin is the server that the policy allows. It answers every request with
// its page.
func (s *servers) origin() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.own(l)
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(greetLimit))
				r := bufio.NewReader(c)
				for {
					l, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.TrimRight(l, "\r\n") == "" {
						break
					}
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(originPage), originPage)
			}()
		}
	})
	return l.Addr().String(), nil
}
