package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
)

func (x *session) interim(resp *http.Response) error {
	var b bytes.Buffer
	statusLine(&b, resp.StatusCode)
	resp.Header.WriteSubset(&b, exclude(resp.Header))
	b.WriteString("\r\n")
	_, err := x.wire.Write(b.Bytes())
	return err
}

func statusLine(w interface{ WriteString(string) (int, error) }, code int) {
	w.WriteString("HTTP/1.1 " + strconv.Itoa(code) + " " + http.StatusText(code) + "\r\n")
}

// relay passes an answer on, each part as soon as it comes. Its head goes with the
// first part if that is here already: before more is read from the server, which
// from is, it goes alone.
func (x *session) relay(r *request, resp *http.Response, keep bool, from *headLimit) error {
	defer resp.Body.Close()
	bw := writers.Get().(*bufio.Writer)
	bw.Reset(x.wire)
	if from != nil {
		from.first = bw
	}
	defer func() {
		if from != nil {
			from.first = nil
		}
		bw.Reset(nil)
		writers.Put(bw)
	}()
	statusLine(bw, resp.StatusCode)
	resp.Header.WriteSubset(bw, exclude(resp.Header))
	bodiless := r.method == "HEAD" || resp.StatusCode == 204 || resp.StatusCode == 304
	chunked := !bodiless && resp.ContentLength < 0 && r.minor == 1
	switch {
	case chunked:
		bw.WriteString("Transfer-Encoding: chunked\r\n")
	case resp.ContentLength >= 0 && resp.StatusCode != 204 && resp.StatusCode != 304:
		bw.WriteString("Content-Length: " + strconv.FormatInt(resp.ContentLength, 10) + "\r\n")
	}
	if !keep {
		bw.WriteString("Connection: close\r\n")
	}
	bw.WriteString("\r\n")
	if bodiless || from == nil {
		if err := bw.Flush(); err != nil || bodiless {
			return err
		}
	}
	return x.copyBody(chunkWriter{w: bw, to: x.wire, on: chunked}, resp.Body)
}

// writers hold a whole part of a body with its framing.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, chunk+512) }}

// copyBody streams a body, each part as soon as it comes.
func (x *session) copyBody(w chunkWriter, body io.Reader) error {
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for {
		n, err := body.Read(buf[:])
		x.live.moved.Add(int64(n))
		last := errors.Is(err, io.EOF)
		if e := w.write(buf[:n], last); e != nil {
			return e
		}
		if last {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// chunkWriter writes a body, in chunks if on, and flushes each part.
type chunkWriter struct {
	w  *bufio.Writer
	to io.Writer // that w writes to
	on bool
}

func (c chunkWriter) write(b []byte, last bool) error {
	if !c.on && c.w.Buffered() == 0 {
		if len(b) == 0 {
			return nil
		}
		_, err := c.to.Write(b)
		return err
	}
	if len(b) > 0 && c.on {
		c.w.WriteString(strconv.FormatInt(int64(len(b)), 16) + "\r\n")
	}
	c.w.Write(b)
	if len(b) > 0 && c.on {
		c.w.WriteString("\r\n")
	}
	if last && c.on {
		c.w.WriteString("0\r\n\r\n")
	}
	return c.w.Flush()
}
