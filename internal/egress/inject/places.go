package inject

import (
	"encoding/base64"
	"errors"
	"net/url"
	"strings"

	"sallyport/internal/policy/profile"
)

// maxPlaces bounds the places of one request that placeholders are replaced in: a
// secret can be far longer, and a query have hundreds of them.
const maxPlaces = 16

// found is a placeholder in a place: the edit if it may be there, a refusal if
// not.
func (q *request) found(c *Credential, where string, put func(string) error) error {
	if put == nil {
		return c.refuse(Misplaced, "does not belong %s", where)
	}
	if err := q.bound(c); err != nil {
		return err
	}
	if len(q.edits) == maxPlaces {
		return c.refuse(Misplaced, "is the last of more than %d in this request", maxPlaces)
	}
	q.edits = append(q.edits, edit{c, put})
	return nil
}

// headers looks at every header. What a signature is made of is left to sign.
func (q *request) headers(by *signer) error {
	for name, values := range q.Header {
		// The case of a name is lost by now.
		if which, _ := q.lower.Find(strings.ToLower(name)); which >= 0 {
			return q.found(q.creds[which], "in the name of a header", nil)
		}
		if by.owns(name) {
			continue
		}
		for i, v := range values {
			if err := q.header(name, i, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (q *request) header(name string, i int, v string) error {
	if which, _ := q.names.Find(v); which >= 0 {
		c := q.creds[which]
		return q.found(c, "in header "+name, q.headerPut(c, name, i, v))
	}
	if name != "Authorization" && name != "Proxy-Authorization" {
		return nil
	}
	scheme, coded, _ := strings.Cut(v, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return nil
	}
	user, password, ok := basic(coded)
	which, _ := q.names.Find(user + ":" + password)
	if which < 0 {
		return nil
	}
	c := q.creds[which]
	allowed := ok && name == "Authorization" && c.place(profile.Basic, func(profile.Place) bool { return user == c.Placeholder || password == c.Placeholder })
	if !allowed {
		return q.found(c, "there in header "+name, nil)
	}
	return q.found(c, "", func(secret string) error {
		u, p := user, password
		if u == c.Placeholder {
			if u = secret; strings.Contains(u, ":") {
				return errors.New("a user name holds no colon")
			}
		}
		if p == c.Placeholder {
			p = secret
		}
		q.Header[name][i] = scheme + " " + base64.StdEncoding.EncodeToString([]byte(u+":"+p))
		return nil
	})
}

// headerPut is nil if the credential does not belong in this header.
func (q *request) headerPut(c *Credential, name string, i int, v string) func(string) error {
	scheme, rest, _ := strings.Cut(v, " ")
	whole := v == c.Placeholder
	behind := rest == c.Placeholder
	if !c.place(profile.Header, func(p profile.Place) bool {
		return p.Name == name && (p.Scheme == "" && whole || p.Scheme != "" && behind && strings.EqualFold(p.Scheme, scheme))
	}) {
		return nil
	}
	return func(secret string) error {
		if behind {
			secret = scheme + " " + secret
		}
		q.Header[name][i] = secret
		return nil
	}
}

// basic splits the value of Authorization: Basic. Only the one encoding that
// everybody reads alike is taken.
func basic(coded string) (user, password string, ok bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(coded)
	if err != nil {
		// Not to be replaced in, but to be recognised.
		b, _ = base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(coded), "="))
		return string(b), "", false
	}
	return cutColon(string(b))
}

func cutColon(s string) (user, password string, ok bool) { return strings.Cut(s, ":") }

func (c *Credential) place(k profile.Kind, fits func(profile.Place) bool) bool {
	for _, p := range c.Places {
		if p.Kind == k && fits(p) {
			return true
		}
	}
	return false
}

// query looks at every parameter.
func (q *request) query(*signer) error {
	if q.URL.RawQuery == "" {
		return nil
	}
	parts := strings.Split(q.URL.RawQuery, "&")
	for i, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		key, val := unescape(name, url.QueryUnescape), unescape(value, url.QueryUnescape)
		which, _ := q.names.Find(key + "=" + val)
		if which < 0 {
			if which, _ = q.names.Find(part); which < 0 {
				continue
			}
		}
		c := q.creds[which]
		if key == "X-Amz-Credential" {
			return c.refuse(Unsignable, "is in a URL that is signed in its query, which cannot be signed anew; sign the request in its headers")
		}
		var put func(string) error
		if val == c.Placeholder && c.place(profile.Query, func(p profile.Place) bool { return p.Name == key }) {
			put = func(secret string) error {
				parts[i] = name + "=" + url.QueryEscape(secret)
				q.URL.RawQuery = strings.Join(parts, "&")
				return nil
			}
		}
		if err := q.found(c, "there in the query", put); err != nil {
			return err
		}
	}
	return nil
}

// path looks at every segment.
func (q *request) path(*signer) error {
	if which, _ := q.names.Find(q.Host); which >= 0 {
		return q.found(q.creds[which], "in the host", nil)
	}
	segments := strings.Split(q.URL.EscapedPath(), "/")
	for i, s := range segments {
		plain := unescape(s, url.PathUnescape)
		which, _ := q.names.Find(plain)
		if which < 0 {
			if which, _ = q.names.Find(s); which < 0 {
				continue
			}
		}
		c := q.creds[which]
		var put func(string) error
		if c.place(profile.Path, func(p profile.Place) bool { return plain == p.Scheme+c.Placeholder }) {
			put = func(secret string) error {
				return q.putSegment(segments, i, strings.TrimSuffix(plain, c.Placeholder), secret)
			}
		}
		if err := q.found(c, "in the path", put); err != nil {
			return err
		}
	}
	return nil
}

func (q *request) putSegment(segments []string, i int, prefix, secret string) error {
	if strings.ContainsAny(secret, `/\?#%;`) || strings.Contains(secret, "..") {
		return errors.New("a segment of a path holds none of / \\ ? # % ; and no ..")
	}
	segments[i] = prefix + url.PathEscape(secret)
	raw := strings.Join(segments, "/")
	plain, err := url.PathUnescape(raw)
	if err != nil {
		return errors.New("the path cannot be written")
	}
	q.URL.Path, q.URL.RawPath = plain, raw
	return nil
}

func unescape(s string, f func(string) (string, error)) string {
	if u, err := f(s); err == nil {
		return u
	}
	return s
}

func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
