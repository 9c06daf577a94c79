package inject

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
	"sallyport/internal/policy/profile"
	"sallyport/internal/secret"
)

// Source gives a secret as it is now.
type Source interface {
	// Value gives the secret; an error, if there is none, says why without it.
	Value(ctx context.Context) (secret.Value, error)
	// Refused is told that a server did not accept the secret, so that it may be
	// read anew.
	Refused()
}

// Credential is one secret and the placeholder that stands for it.
type Credential struct {
	Provider    string
	Name        string // in its profile
	Placeholder string
	Places      []profile.Place
	Endpoints   []profile.Endpoint // of its provider; none: where the policy binds the provider
	Source      Source
}

// Injector holds the credentials of one sandbox. It is safe for concurrent use.
type Injector struct {
	creds   []*Credential
	names   secret.Placeholders // by index in creds
	lower   secret.Placeholders // the same in lower case
	signers map[string]*signer  // by provider
	now     func() time.Time

	mu    sync.Mutex
	found map[*Credential]*needles // what answers are searched for
}

// New makes an Injector; now is time.Now outside of tests. Signing providers are
// recognised by a credential called secret_access_key.
func New(creds []Credential, now func() time.Time) (*Injector, error) {
	in := &Injector{now: now, signers: map[string]*signer{}, found: map[*Credential]*needles{}}
	for i := range creds {
		c := &creds[i]
		if c.Placeholder == "" || c.Source == nil {
			return nil, fmt.Errorf("bug: inject: %s/%s has no placeholder or no source", c.Provider, c.Name)
		}
		if which, _ := in.names.Find(c.Placeholder); which >= 0 {
			return nil, fmt.Errorf("bug: inject: two placeholders overlap")
		}
		in.creds, in.names = append(in.creds, c), append(in.names, c.Placeholder)
		in.lower = append(in.lower, strings.ToLower(c.Placeholder))
	}
	for _, c := range in.creds {
		if c.Name == secretKey {
			in.signers[c.Provider] = in.signerOf(c.Provider)
		}
	}
	return in, nil
}

// request is one request while its placeholders are looked for.
type request struct {
	*Injector
	*http.Request
	ep    *policy.Endpoint
	host  string
	port  uint16
	edits []edit
}

// edit is one placeholder in a place where it may be. put writes the secret
// there and says whether it fits.
type edit struct {
	cred *Credential
	put  func(value string) error
}

// Apply replaces the placeholders in r, which was allowed by ep for host and
// port and is to be sent next. r.Header, r.URL and r.Body may be replaced by new
// ones; what they were before is left as it was, so that nothing that was
// handed out earlier holds a secret. The error is a *Refusal; nothing of r may
// be sent then.
func (in *Injector) Apply(ctx context.Context, ep *policy.Endpoint, host string, port uint16, r *http.Request) error {
	if len(in.creds) == 0 {
		return nil
	}
	q := &request{Injector: in, Request: r, ep: ep, host: host, port: port}
	signed, err := q.signedBy()
	if err != nil {
		return err
	}
	for _, look := range []func(*signer) error{q.headers, q.query, q.path, q.body} {
		if err := look(signed); err != nil {
			return err
		}
	}
	if signed == nil && len(q.edits) == 0 {
		q.readable(false)
		return nil
	}
	if err := q.write(ctx); err != nil {
		return err
	}
	q.readable(true)
	if signed != nil {
		return q.sign(ctx, signed)
	}
	return q.clean()
}

// write puts the secrets in, all or none.
func (q *request) write(ctx context.Context) error {
	if len(q.edits) == 0 {
		return nil
	}
	header, url := q.Header, *q.URL
	q.Header = header.Clone()
	q.URL = &url
	for _, e := range q.edits {
		value, err := q.value(ctx, e.cred)
		if err != nil {
			return err
		}
		err = e.put(value)
		if no, ok := errors.AsType[*Refusal](err); ok {
			return no
		}
		if err != nil {
			return &Refusal{Unavailable, e.cred.Provider, "the secret of provider " + e.cred.Provider + " does not fit its place: " + err.Error(), nil}
		}
	}
	return nil
}

// clean looks at what will be sent once more: what is left then is a bug, and is
// not sent either.
func (q *request) clean() error {
	for name, values := range q.Header {
		for _, v := range append(values, name) {
			if which, _ := q.names.Find(v); which >= 0 {
				return q.creds[which].refuse(Misplaced, "is left in header %s", name)
			}
		}
	}
	for _, part := range []string{q.URL.EscapedPath(), q.URL.RawQuery, q.Host} {
		if which, _ := q.names.Find(part); which >= 0 {
			return q.creds[which].refuse(Misplaced, "is left in the request's target")
		}
	}
	return nil
}

// value gives a secret to be sent, and notes what to look for in the answer: until
// that comes the source may have another one.
func (in *Injector) value(ctx context.Context, c *Credential) (string, error) {
	v, err := c.Source.Value(ctx)
	s := v.Reveal()
	if err == nil && s == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", &Refusal{Unavailable, c.Provider, "the secret of provider " + c.Provider + " cannot be had now", err}
	}
	in.formsOf(c, s)
	return s, nil
}

// bound tells whether the credential may go where the request goes.
func (q *request) bound(c *Credential) error {
	if q.ep == nil {
		return c.refuse(Unbound, "is not for %s port %d", q.host, q.port)
	}
	named := q.ep.L7.CredentialProvider
	if q.Header.Get("Upgrade") != "" && q.ep.Protocol != policy.WebSocket {
		return c.refuse(Misplaced, "does not belong in an upgrade to a connection that nothing reads")
	}
	if named != "" && named != c.Provider {
		return c.refuse(Unbound, "is not for this endpoint, which the policy binds to provider %s", named)
	}
	if len(c.Endpoints) == 0 {
		if named == c.Provider && q.ep.Host == q.host && q.URL.Scheme == "https" {
			return nil
		}
		return c.refuse(Unbound, "is not for %s port %d, to which no endpoint of the policy binds it", q.host, q.port)
	}
	if !c.reaches(q.host, q.port) {
		return c.refuse(Unbound, "is not for %s port %d", q.host, q.port)
	}
	path := q.URL.EscapedPath()
	for _, e := range c.Endpoints {
		if e.HTTP == (q.URL.Scheme == "https") {
			continue
		}
		if match.Host(e.Host, q.host) && e.Port == q.port && (e.Path == "" || match.Path(e.Path, path)) {
			return nil
		}
	}
	return c.refuse(Unbound, "is not for this path and scheme of %s", q.host)
}

// reaches tells whether some path of the host and port may get the credential.
func (c *Credential) reaches(host string, port uint16) bool {
	for _, e := range c.Endpoints {
		if match.Host(e.Host, host) && e.Port == port {
			return true
		}
	}
	return false
}

// here are the credentials that the host may have been given.
func (in *Injector) here(ep *policy.Endpoint, host string, port uint16) []*Credential {
	var out []*Credential
	for _, c := range in.creds {
		byPolicy := ep != nil && len(c.Endpoints) == 0 && ep.L7.CredentialProvider == c.Provider
		if byPolicy || c.reaches(host, port) {
			out = append(out, c)
		}
	}
	return out
}

// readable makes sure that the answer of a host that may have been given a
// secret can be searched for it: in no encoding but gzip, and whole.
func (q *request) readable(injected bool) {
	if !injected && len(q.here(q.ep, q.host, q.port)) == 0 {
		return
	}
	if !injected {
		q.Header = q.Header.Clone()
	}
	accept := "identity"
	if acceptsGzip(q.Header) {
		accept = "gzip"
	}
	q.Header.Set("Accept-Encoding", accept)
	q.Header.Del("Range")
	q.Header.Del("If-Range")
	q.Header.Del("Sec-Websocket-Extensions")
}
