package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dialled is a connection to a server of this test, and what the kernel calls it.
type dialled struct {
	client, server *net.TCPConn
	local, remote  netip.AddrPort
	cookie         uint64
}

func dial(t *testing.T, addr string) dialled {
	t.Helper()
	l, _ := listen(t, addr)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	d := dialled{client: c.(*net.TCPConn), server: s.(*net.TCPConn)}
	d.local, d.remote = c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	raw, err := d.client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { d.cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) }); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConnection(t *testing.T) {
	var c Client
	defer c.Close()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		d := dial(t, addr)
		d.client.Write(make([]byte, 500))
		io.ReadFull(d.server, make([]byte, 500))
		d.server.Write(make([]byte, 70))
		io.ReadFull(d.client, make([]byte, 70))
		if got, err := c.Connection(d.local, d.remote, d.cookie); err != nil || got.Count != (Count{In: 70, Out: 500, Known: true, Made: true}) {
			t.Errorf("%s: Connection = %+v, %v, want 70 bytes in and 500 out", addr, got, err)
		}
		if got, err := c.Connection(d.local, d.remote, d.cookie); err != nil || !got.State.Moves() {
			t.Errorf("%s: Connection = %+v, %v, want one that moves", addr, got, err)
		}
		if got, err := c.Connection(d.local, d.remote, d.cookie+1); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s, another cookie: Connection = %+v, %v, want ENOENT", addr, got, err)
		}
		d.client.CloseWrite()
		if got, err := c.Connection(d.local, d.remote, d.cookie); err != nil || got.State.Moves() {
			t.Errorf("%s, shut down: Connection = %+v, %v, want one that does not move", addr, got, err)
		}
		d.server.Close()
		d.client.Close()
		for end := time.Now().Add(time.Minute); ; {
			if got, err := c.Connection(d.local, d.remote, d.cookie); errors.Is(err, unix.ENOENT) {
				break
			} else if time.Now().After(end) {
				t.Fatalf("%s, closed: Connection = %+v, %v, want ENOENT", addr, got, err)
			}
		}
	}
}

// tries is how often an end may be lost.
const tries = 20

// The end of each connection is heard, with what it carried.
func TestEnds(t *testing.T) {
	e, err := WatchEnds()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, tt := range []struct {
		addr    string
		end     func(d dialled)
		counted bool
	}{
		{"127.0.0.1:0", func(d dialled) { d.client.Close(); d.server.Close() }, true},
		{"[::1]:0", func(d dialled) { d.server.Close(); io.Copy(io.Discard, d.client); d.client.Close() }, true},
		{"127.0.0.1:0", func(d dialled) { d.client.SetLinger(0); d.client.Close() }, false},
	} {
		var got End
		heard := false
		for try := 0; !heard; try++ { // else it was lost among those of the whole machine
			if try == tries {
				t.Fatalf("%s: lost %d times among those of the whole machine", tt.addr, tries)
			}
			d := dial(t, tt.addr)
			d.client.Write(make([]byte, 1000))
			d.server.Write(make([]byte, 70))
			io.ReadFull(d.server, make([]byte, 1000))
			io.ReadFull(d.client, make([]byte, 70))
			tt.end(d)
			got, heard = endOf(t, e, d.cookie)
		}
		if n := got.Count; n.Known != tt.counted || !n.Made || tt.counted && (n.Out != 1000 || n.In < 70 || n.In > 71) {
			t.Errorf("%s: %+v, want made, counted %v, 1000 out and 70 in", tt.addr, got, tt.counted)
		}
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := e.Next(); err != nil && err != ErrLost {
				ended <- err
				return
			}
		}
	}()
	e.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Next after Close = %v, want os.ErrClosed", err)
	}
}

// What was made is told from what was never made, whether it has carried anything
// and however it was closed.
func TestEnds_made(t *testing.T) {
	e, err := WatchEnds()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	reset := func(client int, _ unix.Sockaddr) error {
		return unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	for name, tt := range map[string]struct {
		made  bool
		first func(client int, at unix.Sockaddr) error // before it is closed
	}{
		"accepted":            {true, nil},
		"accepted, and reset": {true, reset},
		"refused":             {false, nil},
		"refused, and reset":  {false, reset},
		"refused twice": {false, func(client int, at unix.Sockaddr) error {
			if err := unix.Connect(client, at); err != unix.ECONNREFUSED {
				return fmt.Errorf("connect again: %v", err)
			}
			return nil
		}},
	} {
		var got End
		heard := false
		for try := 0; !heard; try++ {
			if try == tries {
				t.Fatalf("%s: lost %d times among those of the whole machine", name, tries)
			}
			server, at := bound(t)
			if tt.made {
				if err := unix.Listen(server, 1); err != nil {
					t.Fatal(err)
				}
			}
			client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Connect(client, at); tt.made != (err == nil) {
				t.Fatalf("%s: %v", name, err)
			}
			cookie, err := unix.GetsockoptUint64(client, unix.SOL_SOCKET, unix.SO_COOKIE)
			if err != nil {
				t.Fatal(err)
			}
			if tt.first != nil {
				if err := tt.first(client, at); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			unix.Close(client)
			got, heard = endOf(t, e, cookie)
			unix.Close(server)
		}
		if n := got.Count; n.Made != tt.made {
			t.Errorf("%s: %+v, want made %v", name, n, tt.made)
		}
	}
}

// bound is a socket that has an address and does not listen, and that address.
func bound(t *testing.T) (int, unix.Sockaddr) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, at
}

// endOf waits for one end among those of the whole machine. It reports false if
// some were lost, which may have been this one.
func endOf(t *testing.T, e *Ends, cookie uint64) (end End, heard bool) {
	t.Helper()
	defer time.AfterFunc(time.Minute, func() { e.Close() }).Stop()
	for {
		switch got, err := e.Next(); {
		case err == ErrLost:
			return End{}, false
		case err != nil:
			t.Fatalf("the end was not heard: %v", err)
		case got.Cookie == cookie:
			return got, true
		}
	}
}

func FuzzParseEnd(f *testing.F) {
	ok := make([]byte, sizeHeader+sizeMessage+4+bytesAgainAt+8)
	binary.NativeEndian.PutUint16(ok[4:], unix.SOCK_DIAG_BY_FAMILY)
	ok[sizeHeader+6] = 1
	binary.NativeEndian.PutUint16(ok[sizeHeader+sizeMessage:], 4+bytesAgainAt+8)
	binary.NativeEndian.PutUint16(ok[sizeHeader+sizeMessage+2:], infoAttr)
	f.Add(ok)
	f.Add(ok[:sizeHeader+sizeMessage+5])
	f.Fuzz(func(t *testing.T, b []byte) {
		if end, ok := parseEnd(b); !ok && end != (End{}) || end.Count.Known && len(b) < sizeHeader+sizeMessage+4+bytesAgainAt+8 {
			t.Errorf("parseEnd = %+v, %v of %d bytes", end, ok, len(b))
		}
	})
}
