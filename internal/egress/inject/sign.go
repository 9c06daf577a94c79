package inject

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
)

// secretKey is the credential that only a signing provider has. Neither it nor
// its placeholder is ever sent.
const secretKey = "secret_access_key"

// signer signs anew what the agent has signed with placeholders.
type signer struct {
	id, key, token *Credential // token may be nil

	// Of one request:
	scope  scope
	signed []string // names that the client signed, lower case
}

func (in *Injector) signerOf(provider string) *signer {
	s := &signer{}
	for _, c := range in.creds {
		switch {
		case c.Provider != provider:
		case c.Name == "access_key_id":
			s.id = c
		case c.Name == secretKey:
			s.key = c
		case c.Name == "session_token":
			s.token = c
		}
	}
	return s
}

// owns tells which headers sign writes.
func (s *signer) owns(header string) bool {
	return s != nil && (header == "Authorization" || header == "X-Amz-Security-Token")
}

// signedBy recognises a request that was signed with a placeholder, and says
// whether it may be signed anew. It is nil for every other request.
func (q *request) signedBy() (*signer, error) {
	auth := q.Header["Authorization"]
	if len(auth) != 1 {
		return nil, nil
	}
	rest, ok := strings.CutPrefix(auth[0], algorithm+" ")
	if !ok {
		return nil, nil
	}
	fields := authFields(rest)
	id, where, _ := strings.Cut(fields["Credential"], "/")
	which := q.names.Is(id)
	if which < 0 || q.signers[q.creds[which].Provider] == nil {
		return nil, nil
	}
	c := q.creds[which]
	if c.Name != "access_key_id" {
		return nil, c.refuse(Misplaced, "is not the identity of a signature")
	}
	if err := q.bound(c); err != nil {
		return nil, err
	}
	s := *q.signers[c.Provider]
	part := strings.Split(where, "/")
	if len(part) != 4 || part[3] != "aws4_request" || part[1] == "" || part[2] == "" {
		return nil, c.refuse(Unsignable, "has a signature whose scope cannot be read")
	}
	s.scope = scope{region: part[1], service: part[2]}
	s.signed = strings.Split(fields["SignedHeaders"], ";")
	return &s, q.signable(c, &s)
}

// signable holds the rules about what may be signed.
func (q *request) signable(c *Credential, s *signer) error {
	l := q.ep.L7
	switch {
	case l.CredentialSigning == "":
		return c.refuse(Unsignable, "came in a signed request, and this endpoint of the policy has no credential_signing")
	case s.scope.service != l.SigningService:
		return c.refuse(Unsignable, "came in a request signed for service %s; the policy says %s", clip(s.scope.service), l.SigningService)
	case l.SigningRegion != "" && s.scope.region != l.SigningRegion:
		return c.refuse(Unsignable, "came in a request signed for region %s; the policy says %s", clip(s.scope.region), l.SigningRegion)
	case !q.token(s):
		return c.refuse(Misplaced, "came with a session token that is not its placeholder")
	case strings.HasPrefix(q.Header.Get("X-Amz-Content-Sha256"), "STREAMING-AWS4-"):
		return c.refuse(Unsignable, "came in a request whose body is signed chunk by chunk, which cannot be signed anew; turn chunked signing off in the client")
	}
	return nil
}

// token tells whether the request's session token, if it has one, is ours.
func (q *request) token(s *signer) bool {
	got := q.Header["X-Amz-Security-Token"]
	return len(got) == 0 || len(got) == 1 && s.token != nil && got[0] == s.token.Placeholder
}

// authFields splits the fields of Authorization.
func authFields(s string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		out[name] = value
	}
	return out
}

// sign replaces the signature by one that the real key makes, of the request as
// it is sent.
func (q *request) sign(ctx context.Context, s *signer) error {
	var id, key, token string
	for _, c := range []struct {
		from *Credential
		to   *string
	}{{s.id, &id}, {s.key, &key}, {s.token, &token}} {
		if c.from == nil {
			continue
		}
		v, err := q.value(ctx, c.from)
		if err != nil {
			return err
		}
		*c.to = v
	}
	payload, err := q.payload(s)
	if err != nil {
		return err
	}
	at := q.now().UTC()
	h, u := q.Header.Clone(), *q.URL
	u.RawQuery = canonicalQuery(u.RawQuery)
	h.Set("X-Amz-Date", at.Format(amzTime))
	h.Del("Date")
	h.Del("Authorization")
	h.Del("X-Amz-Security-Token")
	if token != "" {
		h.Set("X-Amz-Security-Token", token)
	}
	if h.Get("X-Amz-Content-Sha256") != "" || s.scope.service == "s3" {
		h.Set("X-Amz-Content-Sha256", payload)
	}
	q.Header, q.URL = h, &u
	canonical, names := signable{
		method: q.Method, path: canonicalPath(u.EscapedPath(), s.scope.service), query: u.RawQuery,
		headers: q.toSign(s), payload: payload,
	}.canonical()
	h.Set("Authorization", algorithm+" Credential="+id+"/"+s.scope.on(at)+", SignedHeaders="+names+", Signature="+signature(key, s.scope, at, canonical))
	return q.clean()
}

// unsigned are headers that change on their way, and so are in no signature.
var unsigned = []string{
	"authorization", "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "accept-encoding",
	"range", "if-range", "content-length", "user-agent", "via", "x-forwarded-for", "date",
}

// toSign gives the headers of the signature, in order: host, what begins with
// x-amz-, the type of the body, and what the client had signed.
func (q *request) toSign(s *signer) [][2]string {
	out := [][2]string{{"host", q.URL.Host}} // the Host that is sent, whatever the client has written
	for name, values := range q.Header {
		low := strings.ToLower(name)
		if slices.Contains(unsigned, low) || low == "host" {
			continue
		}
		if strings.HasPrefix(low, "x-amz-") || low == "content-type" || low == "content-md5" || slices.Contains(s.signed, low) {
			out = append(out, [2]string{low, strings.Join(values, ",")})
		}
	}
	slices.SortFunc(out, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return out
}

// maxSigned bounds a body that is hashed here, in bytes.
const maxSigned = 10 << 20

// payload is the hash of the body that goes into the signature. One that the
// client has given is kept: the server compares it with the body.
func (q *request) payload(s *signer) (string, error) {
	given := q.Header.Get("X-Amz-Content-Sha256")
	mode := q.ep.L7.CredentialSigning
	switch {
	case mode == "sigv4:no_body":
		return "UNSIGNED-PAYLOAD", nil
	case mode == "sigv4" && (given == "UNSIGNED-PAYLOAD" || given == "STREAMING-UNSIGNED-PAYLOAD-TRAILER" || isHash(given)):
		return given, nil
	case mode == "sigv4" && given != "":
		return "", s.id.refuse(Unsignable, "came in a request with x-amz-content-sha256: %s, which is not known", clip(given))
	case q.Body == nil || q.Body == http.NoBody:
		return hashOf(nil), nil
	}
	b, err := io.ReadAll(io.LimitReader(q.Body, maxSigned+1))
	if err != nil {
		return "", err
	}
	q.Body.Close()
	if len(b) > maxSigned {
		return "", s.id.refuse(Unsignable, "came in a request whose body is longer than 10 MiB; send its hash in x-amz-content-sha256")
	}
	q.setBody(b)
	return hashOf(b), nil
}

func isHash(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }
