package inject

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"sallyport/internal/policy"
)

// maxBody bounds a body in which placeholders are replaced, in bytes: it has to
// be held, because its length changes.
const maxBody = 256 << 10

// maxAdded bounds what one credential adds to a body or to a message, in bytes: a
// placeholder is short, and can be there thousands of times.
const maxAdded = 256 << 10

// fill puts a value in the place of each of a credential's placeholders.
func (c *Credential) fill(b []byte, value string) ([]byte, error) {
	if n := bytes.Count(b, []byte(c.Placeholder)); n*(len(value)-len(c.Placeholder)) > maxAdded {
		return nil, c.refuse(Misplaced, "is there %d times, and its secret would add more than 256 KiB", n)
	}
	return bytes.ReplaceAll(b, []byte(c.Placeholder), []byte(value)), nil
}

// body looks at the body: at once where the policy lets placeholders be replaced
// in it, and else as it passes.
func (q *request) body(*signer) error {
	if q.Body == nil || q.Body == http.NoBody {
		return nil
	}
	if q.ep == nil || !q.ep.L7.RequestBodyCredentialRewrite {
		q.Body = &watched{ReadCloser: q.Body, in: q.Injector, request: q.Request}
		q.GetBody = nil
		return nil
	}
	write, err := writerFor(q.Header)
	if err != nil {
		return &Refusal{Code: Misplaced, Provider: q.ep.L7.CredentialProvider, Detail: "the body cannot be searched for placeholders: " + err.Error()}
	}
	b, err := io.ReadAll(io.LimitReader(q.Body, maxBody+1))
	if err != nil {
		return err
	}
	q.Body.Close()
	if len(b) > maxBody {
		return &Refusal{Code: Misplaced, Provider: q.ep.L7.CredentialProvider, Detail: "the body is longer than 256 KiB, within which placeholders are replaced"}
	}
	text := b
	for i, c := range q.creds {
		if !bytes.Contains(text, []byte(q.names[i])) {
			continue
		}
		if len(c.Places) == 0 {
			return q.found(c, "in a body", nil) // of what signs, nothing is ever sent
		}
		if err := q.found(c, "", func(secret string) (err error) {
			if text, err = c.fill(text, write(secret)); err == nil {
				q.setBody(text)
			}
			return err
		}); err != nil {
			return err
		}
	}
	q.setBody(b)
	return nil
}

func (q *request) setBody(b []byte) {
	q.Body = io.NopCloser(bytes.NewReader(b))
	q.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	q.ContentLength, q.TransferEncoding = int64(len(b)), nil
	if q.Header.Get("Content-Length") != "" {
		q.Header = q.Header.Clone()
		q.Header.Set("Content-Length", strconv.Itoa(len(b)))
	}
}

// writerFor tells how a secret is written into a body of the type that the
// headers give.
func writerFor(h http.Header) (func(string) string, error) {
	if enc := h.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, errors.New("it has a Content-Encoding")
	}
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	switch {
	case err != nil:
		return nil, errors.New("it has no Content-Type that says what it is")
	case kind == "application/x-www-form-urlencoded":
		return url.QueryEscape, nil
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		return jsonText, nil
	case strings.HasPrefix(kind, "text/"):
		return func(s string) string { return s }, nil
	}
	return nil, errors.New("it is neither JSON, a form, nor text")
}

// jsonText is s as it stands between the quotes of a JSON string.
func jsonText(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(s) //nolint:errcheck // a string can be encoded
	out := strings.TrimSuffix(b.String(), "\n")
	return out[1 : len(out)-1]
}

// watched ends a body in which a placeholder passes, or whose trailers hold one.
// What has passed by then is a part of a placeholder at most, which is worth
// nothing.
type watched struct {
	io.ReadCloser
	in      *Injector
	request *http.Request
	tail    []byte // what could be the beginning of a placeholder
	err     error
}

func (w *watched) Read(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.ReadCloser.Read(b)
	if c := w.in.passes(&w.tail, b[:n]); c != nil {
		w.err = c.refuse(Misplaced, "does not belong in a body")
		return 0, w.err
	}
	if err == io.EOF {
		for _, values := range w.request.Trailer {
			for _, v := range values {
				if which, _ := w.in.names.Find(v); which >= 0 {
					w.err = w.in.creds[which].refuse(Misplaced, "does not belong in a trailer")
					return 0, w.err
				}
			}
		}
	}
	return n, err
}

// passes finds a placeholder in what has been kept in tail and the next bytes,
// and keeps what a longer one would need.
func (in *Injector) passes(tail *[]byte, next []byte) *Credential {
	longest := 0
	for i, name := range in.names {
		longest = max(longest, len(name))
		edge := append(last(*tail, len(name)-1), next[:min(len(next), len(name)-1)]...)
		if bytes.Contains(edge, []byte(name)) || bytes.Contains(next, []byte(name)) {
			return in.creds[i]
		}
	}
	keep := longest - 1
	if len(next) >= keep {
		*tail = append((*tail)[:0], last(next, keep)...)
	} else {
		*tail = append(last(*tail, keep-len(next)), next...)
	}
	return nil
}

// last is a copy of the last n bytes.
func last(b []byte, n int) []byte {
	return append(make([]byte, 0, n+n), b[len(b)-min(len(b), max(n, 0)):]...)
}

// Message looks at one whole message that a WebSocket client sends, on a
// connection that ep allowed for host and port by a request for target. The
// placeholders of a text are replaced where the policy says so; everywhere else
// one is a *Refusal. b is not changed.
func (in *Injector) Message(ctx context.Context, ep *policy.Endpoint, host string, port uint16, target *url.URL, text bool, b []byte) ([]byte, error) {
	out := b
	for i, c := range in.creds {
		if !bytes.Contains(out, []byte(in.names[i])) {
			continue
		}
		if !text || ep == nil || !ep.L7.WebSocketCredentialRewrite || len(c.Places) == 0 {
			return nil, c.refuse(Misplaced, "does not belong in a message of a WebSocket")
		}
		q := &request{Injector: in, Request: &http.Request{URL: target}, ep: ep, host: host, port: port}
		if err := q.bound(c); err != nil {
			return nil, err
		}
		value, err := in.value(ctx, c)
		if err != nil {
			return nil, err
		}
		if json.Valid(b) {
			value = jsonText(value)
		}
		if out, err = c.fill(out, value); err != nil {
			return nil, err
		}
	}
	return out, nil
}
