package inject

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"time"
)

// This file is AWS Signature Version 4 as the IAM user guide describes it,
// "Create a signed AWS API request": pure, with nothing of a request's life.

const (
	algorithm = "AWS4-HMAC-SHA256"
	amzTime   = "20060102T150405Z"
)

// scope is what a signature holds for, beside its day.
type scope struct{ region, service string }

func (s scope) on(at time.Time) string {
	return strings.Join([]string{at.Format("20060102"), s.region, s.service, "aws4_request"}, "/")
}

// signable is a request in the words of the algorithm.
type signable struct {
	method  string
	path    string // canonical
	query   string // canonical
	headers [][2]string
	payload string // hash of the body, or the word that stands for it
}

// canonical gives the canonical request and the list of signed headers.
func (r signable) canonical() (text, signed string) {
	var lines, names []string
	for _, h := range r.headers {
		lines = append(lines, h[0]+":"+squeeze(h[1])+"\n")
		names = append(names, h[0])
	}
	signed = strings.Join(names, ";")
	return strings.Join([]string{r.method, r.path, r.query, strings.Join(lines, ""), signed, r.payload}, "\n"), signed
}

// squeeze trims a header value and leaves one space where there were more.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// signature is the last field of Authorization.
func signature(key string, s scope, at time.Time, canonical string) string {
	text := strings.Join([]string{algorithm, at.Format(amzTime), s.on(at), hashOf([]byte(canonical))}, "\n")
	k := []byte("AWS4" + key)
	for _, part := range []string{at.Format("20060102"), s.region, s.service, "aws4_request", text} {
		h := hmac.New(sha256.New, k)
		h.Write([]byte(part))
		next := h.Sum(nil)
		clear(k)
		k = next
	}
	return hex.EncodeToString(k)
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// canonicalPath is the path as it is signed. S3 encodes it once; every other
// service encodes what is sent once more.
func canonicalPath(escaped, service string) string {
	if escaped == "" {
		return "/"
	}
	parts := strings.Split(escaped, "/")
	for i, p := range parts {
		if service == "s3" {
			p = unescape(p, url.PathUnescape)
		}
		parts[i] = encode(p)
	}
	return strings.Join(parts, "/")
}

// canonicalQuery orders the parameters and gives each value one spelling. It is
// also what is sent, so that the signature holds for it.
func canonicalQuery(raw string) string {
	if raw == "" {
		return ""
	}
	var parts [][2]string
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		parts = append(parts, [2]string{encode(unescape(name, url.QueryUnescape)), encode(unescape(value, url.QueryUnescape))})
	}
	slices.SortFunc(parts, func(a, b [2]string) int {
		if c := strings.Compare(a[0], b[0]); c != 0 {
			return c
		}
		return strings.Compare(a[1], b[1])
	})
	out := make([]string, len(parts))
	for i, p := range parts {
		out[i] = p[0] + "=" + p[1]
	}
	return strings.Join(out, "&")
}

// encode is UriEncode: everything but the unreserved characters of RFC 3986.
func encode(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
	}
	return b.String()
}
