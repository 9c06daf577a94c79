package attack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"
)

// dial asks the proxy for a destination and says how it went in one word, for
// cases in which it matters which program asks. -wait waits for the end of
// standard input first, -fd speaks on an inherited connection.
func dial(args []string) int {
	late := slices.Contains(args, "-wait")
	inherited := slices.Contains(args, "-fd")
	args = slices.DeleteFunc(slices.Clone(args), func(s string) bool { return s == "-wait" || s == "-fd" })
	if len(args) != 2 {
		return 2
	}
	if late {
		io.Copy(io.Discard, os.Stdin)
	}
	var c net.Conn
	var err error
	if inherited {
		c, err = net.FileConn(os.NewFile(3, "proxy"))
	} else {
		c, err = net.DialTimeout("tcp", args[0], answerLimit)
	}
	if err != nil {
		fmt.Println(wordClosed, err)
		return 0
	}
	defer c.Close()
	fmt.Println(askOrigin(c, args[1]))
	return 0
}

// askOrigin asks for a tunnel to the origin and for its page.
func askOrigin(c net.Conn, to string) string {
	c.SetDeadline(time.Now().Add(answerLimit))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil && n == 0 {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return wordSilent
		}
		return wordClosed
	}
	if s := status(b[:n]); s != wordHTTP+"200" {
		return s + " " + reason(b[:n])
	}
	fmt.Fprintf(c, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", to)
	page, _ := io.ReadAll(io.LimitReader(c, 4096))
	if !bytes.Contains(page, []byte(originPage)) {
		return wordClosed + " the tunnel led nowhere"
	}
	return "ok"
}
