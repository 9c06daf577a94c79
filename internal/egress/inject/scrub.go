package inject

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"sallyport/internal/policy"
)

// Scrub makes sure that an answer of host and port, to a request that ep
// allowed, gives none of the secrets away that the host may have been given. It
// replaces them by stars of the same length, in headers, in the body as it
// passes and in trailers. A status of 401 lets the secrets be read anew. The error is a
// *Refusal: the answer must not be passed on then.
func (in *Injector) Scrub(ep *policy.Endpoint, host string, port uint16, resp *http.Response) error {
	return in.scrub(in.here(ep, host, port), resp)
}

func (in *Injector) scrub(creds []*Credential, resp *http.Response) error {
	if len(creds) == 0 {
		return nil
	}
	list := in.needlesOf(creds)
	if resp.StatusCode == http.StatusUnauthorized {
		for _, c := range creds {
			c.Source.Refused()
		}
	}
	scrubHeader(resp.Header, list)
	if err := unpack(resp, creds[0]); err != nil {
		return err
	}
	if resp.Body != nil && resp.Body != http.NoBody {
		resp.Body = &scrubbed{scrubber{src: resp.Body, list: list}, resp.Body, resp}
	}
	return nil
}

// needlesOf gives what to look for: what was sent, and what would be sent now.
func (in *Injector) needlesOf(creds []*Credential) [][]byte {
	var list [][]byte
	for _, c := range creds {
		v, _ := c.Source.Value(context.Background()) // where there is none, none is sent either
		list = append(list, in.formsOf(c, v.Reveal())...)
	}
	return list
}

// formsOf notes a secret of a credential, if there is one, and gives the forms of
// all that were noted lately.
func (in *Injector) formsOf(c *Credential, s string) [][]byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := in.found[c]
	if n == nil {
		n = &needles{}
		in.found[c] = n
	}
	if s != "" {
		n.add(s)
	}
	return n.forms
}

func scrubHeader(h http.Header, list [][]byte) {
	for name, values := range h {
		for i, v := range values {
			if b := []byte(v); mask(b, list) {
				values[i] = string(b)
			}
		}
		if b := []byte(name); mask(b, list) {
			delete(h, name)
		}
	}
}

// unpack takes gzip off, and refuses what it cannot read.
func unpack(resp *http.Response, c *Credential) error {
	coding := resp.Header.Values("Content-Encoding")
	if len(coding) == 0 || resp.Body == nil || resp.Body == http.NoBody || resp.ContentLength == 0 {
		return nil
	}
	switch name := strings.ToLower(strings.TrimSpace(strings.Join(coding, ","))); name {
	case "identity":
	case "gzip", "x-gzip":
		resp.Body = &unzipped{src: resp.Body}
		resp.Header.Del("Content-Length")
		resp.ContentLength = -1
	default:
		return &Refusal{Code: Encoded, Provider: c.Provider, Detail: "the answer has Content-Encoding " + clip(name) + ", in which the secret of provider " + c.Provider + " could not be found"}
	}
	resp.Header.Del("Content-Encoding")
	return nil
}

// unzipped reads the header of the stream at the first Read, so that nothing is
// awaited before.
type unzipped struct {
	src io.ReadCloser
	r   *gzip.Reader
}

func (u *unzipped) Read(b []byte) (n int, err error) {
	if u.r == nil {
		if u.r, err = gzip.NewReader(u.src); err != nil {
			return 0, err
		}
	}
	return u.r.Read(b)
}

func (u *unzipped) Close() error { return u.src.Close() }

// scrubber masks needles in a stream. It holds nothing back but an end that a
// needle could begin with.
type scrubber struct {
	src  io.Reader
	list [][]byte
	buf  []byte // masked from the front up to ready; the rest is open
	got  int    // bytes in buf
	done int    // of them, given out
	can  int    // of them, ready to be given out
	err  error
}

const scrubChunk = 16 << 10

func (s *scrubber) Read(b []byte) (int, error) {
	for s.done == s.can {
		if s.err != nil {
			return 0, s.err
		}
		s.fill()
	}
	n := copy(b, s.buf[s.done:s.can])
	s.done += n
	return n, nil
}

// fill reads once and finds out how much of it can be given out.
func (s *scrubber) fill() {
	if s.buf == nil {
		s.buf = make([]byte, scrubChunk+s.longest())
	}
	s.got = copy(s.buf, s.buf[s.can:s.got])
	s.done, s.can = 0, 0
	n, err := s.src.Read(s.buf[s.got:])
	s.got += n
	s.err = err
	if n > 0 {
		mask(s.buf[:s.got], s.list)
	}
	s.can = s.got
	if err == nil {
		s.can -= open(s.buf[:s.got], s.list)
	}
}

func (s *scrubber) longest() int {
	n := 0
	for _, f := range s.list {
		n = max(n, len(f))
	}
	return n
}

// scrubbed is the body of an answer.
type scrubbed struct {
	scrubber
	io.Closer
	resp *http.Response
}

func (s *scrubbed) Read(b []byte) (int, error) {
	n, err := s.scrubber.Read(b)
	if err == io.EOF {
		scrubHeader(s.resp.Trailer, s.list)
	}
	return n, err
}

func acceptsGzip(h http.Header) bool {
	for _, v := range h.Values("Accept-Encoding") {
		if slices.ContainsFunc(strings.Split(v, ","), func(c string) bool {
			name, weight, _ := strings.Cut(c, ";")
			return strings.EqualFold(strings.TrimSpace(name), "gzip") && !strings.Contains(weight, "q=0")
		}) {
			return true
		}
	}
	return false
}
