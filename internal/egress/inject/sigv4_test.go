package inject

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sallyport/internal/policy"
	"sallyport/internal/policy/profile"
)

// TestSuite signs requests of the test suite that AWS publishes for Signature
// Version 4 and of the examples in the S3 API reference, "Signature Calculations
// for the Authorization Header". Names and signatures are theirs.
func TestSuite(t *testing.T) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	suite, s3 := scope{"us-east-1", "service"}, scope{"us-east-1", "s3"}
	host := [2]string{"host", "example.amazonaws.com"}
	date := [2]string{"x-amz-date", "20150830T123600Z"}
	s3host := [2]string{"host", "examplebucket.s3.amazonaws.com"}
	s3date := [2]string{"x-amz-date", "20130524T000000Z"}
	s3hash := [2]string{"x-amz-content-sha256", empty}
	alphabet := "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	hello := hashOf([]byte("Welcome to Amazon S3."))
	for _, c := range []struct {
		name, method, path, query string
		headers                   [][2]string
		payload                   string
		scope                     scope
		want                      string
	}{
		{"get-vanilla", "GET", "/", "", [][2]string{host, date}, empty, suite, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"get-vanilla-empty-query-key", "GET", "/", "Param1=value1", [][2]string{host, date}, empty, suite, "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
		{"get-vanilla-query-order-key-case", "GET", "/", "Param2=value2&Param1=value1", [][2]string{host, date}, empty, suite, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
		{"get-vanilla-query-unreserved", "GET", "/", alphabet[1:] + "=" + alphabet[1:], [][2]string{host, date}, empty, suite, "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
		{"get-vanilla-utf8-query", "GET", "/", "%E1%88%B4=bar", [][2]string{host, date}, empty, suite, "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
		{"get-header-key-duplicate", "GET", "/", "", [][2]string{host, {"my-header1", "value2,value2,value1"}, date}, empty, suite, "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
		{"get-header-value-order", "GET", "/", "", [][2]string{host, {"my-header1", "value4,value1,value3,value2"}, date}, empty, suite, "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
		{"get-header-value-trim", "GET", "/", "", [][2]string{host, {"my-header1", " value1"}, {"my-header2", ` "a   b   c"`}, date}, empty, suite, "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
		{"get-unreserved", "GET", alphabet, "", [][2]string{host, date}, empty, suite, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
		{"post-vanilla", "POST", "/", "", [][2]string{host, date}, empty, suite, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
		{"post-x-www-form-urlencoded", "POST", "/", "", [][2]string{{"content-type", "application/x-www-form-urlencoded"}, host, date}, hashOf([]byte("Param1=value1")), suite, "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
		{"S3 GET Object", "GET", "/test.txt", "", [][2]string{s3host, {"range", "bytes=0-9"}, s3hash, s3date}, empty, s3, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"S3 PUT Object", "PUT", "/test$file.text", "", [][2]string{{"date", "Fri, 24 May 2013 00:00:00 GMT"}, s3host, {"x-amz-content-sha256", hello}, s3date, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}}, hello, s3, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
		{"S3 GET Bucket Lifecycle", "GET", "/", "lifecycle", [][2]string{s3host, s3hash, s3date}, empty, s3, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"S3 List Objects", "GET", "/", "max-keys=2&prefix=J", [][2]string{s3host, s3hash, s3date}, empty, s3, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	} {
		key, at := "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", clock()
		if c.scope == s3 {
			key, at = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
		}
		text, _ := signable{c.method, canonicalPath(c.path, c.scope.service), canonicalQuery(c.query), c.headers, c.payload}.canonical()
		if got := signature(key, c.scope, at, text); got != c.want {
			t.Errorf("%s: signature = %s, want %s; canonical request:\n%s", c.name, got, c.want, text)
		}
	}
}

// TestCanonicalPath: S3 encodes once, every other service twice ("UriEncode the
// absolute path", with the exception for S3).
func TestCanonicalPath(t *testing.T) {
	for _, c := range []struct{ escaped, service, want string }{
		{"", "s3", "/"}, {"/", "service", "/"},
		{"/a%20b", "s3", "/a%20b"}, {"/a%20b", "service", "/a%2520b"},
		{"/a%2Fb", "s3", "/a%2Fb"}, {"/a+b:c", "s3", "/a%2Bb%3Ac"},
		{"/%E1%88%B4", "s3", "/%E1%88%B4"},
	} {
		if got := canonicalPath(c.escaped, c.service); got != c.want {
			t.Errorf("canonicalPath(%q, %s) = %q, want %q", c.escaped, c.service, got, c.want)
		}
	}
}

const (
	idPH, keyPH, tokenPH = "AKIAPLACEHOLDER23456", "PlaceholderSecretPlaceholderSecretPlaceh", "IQoJb3JpZ2luX2VjPlaceholderToken"
	idReal               = "AKIAREALREALREALREAL"
	keyReal              = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	tokenReal            = "IQoJb3JpZ2luX2VjRealRealRealReal"
)

func aws(t *testing.T, withToken bool) *Injector {
	t.Helper()
	one := func(name, ph, real string) Credential {
		return Credential{Provider: "cloud", Name: name, Placeholder: ph, Source: &held{value: real},
			Endpoints: []profile.Endpoint{{Host: "**.amazonaws.com", Port: 443}}}
	}
	creds := []Credential{one("access_key_id", idPH, idReal), one(secretKey, keyPH, keyReal)}
	if withToken {
		creds = append(creds, one("session_token", tokenPH, tokenReal))
	}
	return injector(t, creds...)
}

func awsEndpoint(mode string) *policy.Endpoint {
	return &policy.Endpoint{Host: "**.amazonaws.com", Ports: []uint16{443}, Protocol: policy.REST,
		L7: policy.L7{CredentialSigning: mode, SigningService: "service", SigningRegion: "us-east-1"}}
}

func signedBy(id, where, names string) string {
	return "Authorization: AWS4-HMAC-SHA256 Credential=" + id + "/" + where + ", SignedHeaders=" + names + ", Signature=" + strings.Repeat("0", 64)
}

// TestSignAnew has the agent sign get-vanilla and a post with placeholders: what
// leaves is what AWS's suite has for the real key.
func TestSignAnew(t *testing.T) {
	in := aws(t, false)
	const where = "20150830/us-east-1/service/aws4_request"
	r := outgoing(t, "GET https://example.amazonaws.com/", "", signedBy(idPH, where, "host;x-amz-date"), "X-Amz-Date: 20000101T000000Z", "User-Agent: sdk")
	r.Host = "EXAMPLE.amazonaws.com:443" // what is sent is the URL's
	if err := in.Apply(t.Context(), awsEndpoint("sigv4"), "example.amazonaws.com", 443, r); err != nil {
		t.Fatal(err)
	}
	want := "AWS4-HMAC-SHA256 Credential=" + idReal + "/" + where + ", SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
	if got := r.Header.Get("Authorization"); got != want {
		t.Errorf("Authorization = %s\nwant %s", got, want)
	}
	if got := r.Header.Get("X-Amz-Date"); got != "20150830T123600Z" {
		t.Errorf("X-Amz-Date = %s", got)
	}

	r = outgoing(t, "POST https://example.amazonaws.com/", "Param1=value1", signedBy(idPH, where, "content-type;host;x-amz-date"),
		"Content-Type: application/x-www-form-urlencoded", "X-Amz-Date: 20150830T123600Z")
	if err := in.Apply(t.Context(), awsEndpoint("sigv4"), "example.amazonaws.com", 443, r); err != nil {
		t.Fatal(err)
	}
	if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, "SignedHeaders=content-type;host;x-amz-date, Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a") {
		t.Errorf("Authorization = %s", got)
	}
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "Param1=value1" {
		t.Errorf("body = %q, %v", b, err)
	}
}

func TestSignToken(t *testing.T) {
	in := aws(t, true)
	r := outgoing(t, "GET https://example.amazonaws.com/?b=2&a=1", "", signedBy(idPH, "20150830/us-east-1/service/aws4_request", "host"), "X-Amz-Security-Token: "+tokenPH)
	if err := in.Apply(t.Context(), awsEndpoint("sigv4"), "example.amazonaws.com", 443, r); err != nil {
		t.Fatal(err)
	}
	if got := r.Header["X-Amz-Security-Token"]; len(got) != 1 || got[0] != tokenReal {
		t.Errorf("token = %q", got)
	}
	if got := r.Header.Get("Authorization"); !strings.Contains(got, "SignedHeaders=host;x-amz-date;x-amz-security-token,") {
		t.Errorf("the token is not signed: %s", got)
	}
	if r.URL.RawQuery != "a=1&b=2" {
		t.Errorf("query = %s, want what was signed", r.URL.RawQuery)
	}
}

func TestSignPayload(t *testing.T) {
	hash, long := hashOf([]byte("x")), strings.Repeat("x", maxSigned)
	for _, c := range []struct{ name, mode, given, body, want string }{
		{"hash of the client", "sigv4", hash, "x", hash},
		{"unsigned", "sigv4", "UNSIGNED-PAYLOAD", "x", "UNSIGNED-PAYLOAD"},
		{"trailer", "sigv4", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
		{"never", "sigv4:no_body", hash, "x", "UNSIGNED-PAYLOAD"},
		{"always", "sigv4:body", "UNSIGNED-PAYLOAD", "x", hash},
		{"chunks", "sigv4", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "x", ""},
		{"unknown", "sigv4", "whatever", "x", ""},
		{"as long as may be", "sigv4:body", hash, long, hashOf([]byte(long))},
		{"too long", "sigv4:body", "", long + "x", ""},
	} {
		r := outgoing(t, "PUT https://example.amazonaws.com/k", c.body, signedBy(idPH, "20150830/us-east-1/service/aws4_request", "host"))
		if c.given != "" {
			r.Header.Set("X-Amz-Content-Sha256", c.given)
		}
		err := aws(t, false).Apply(t.Context(), awsEndpoint(c.mode), "example.amazonaws.com", 443, r)
		if c.want == "" {
			if codeOf(err) != Unsignable {
				t.Errorf("%s: Apply = %v, want %s", c.name, err, Unsignable)
			}
			continue
		}
		if got := r.Header.Get("X-Amz-Content-Sha256"); err != nil || got != c.want {
			t.Errorf("%s: payload %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	const where = "20150830/us-east-1/service/aws4_request"
	for _, c := range []struct {
		name, url string
		headers   []string
		ep        *policy.Endpoint
		want      Code
	}{
		{"policy without signing", "https://a.amazonaws.com/", []string{signedBy(idPH, where, "host")}, awsEndpoint(""), Unsignable},
		{"other service", "https://a.amazonaws.com/", []string{signedBy(idPH, "20150830/us-east-1/iam/aws4_request", "host")}, awsEndpoint("sigv4"), Unsignable},
		{"other region", "https://a.amazonaws.com/", []string{signedBy(idPH, "20150830/eu-west-1/service/aws4_request", "host")}, awsEndpoint("sigv4"), Unsignable},
		{"odd scope", "https://a.amazonaws.com/", []string{signedBy(idPH, "x", "host")}, awsEndpoint("sigv4"), Unsignable},
		{"other host", "https://a.amazonaws.com.evil.example/", []string{signedBy(idPH, where, "host")}, awsEndpoint("sigv4"), Unbound},
		{"foreign token", "https://a.amazonaws.com/", []string{signedBy(idPH, where, "host"), "X-Amz-Security-Token: x"}, awsEndpoint("sigv4"), Misplaced},
		{"secret key in a header", "https://a.amazonaws.com/", []string{"X-Key: " + keyPH}, awsEndpoint("sigv4"), Misplaced},
		{"id in a header", "https://a.amazonaws.com/", []string{"X-Key: " + idPH}, awsEndpoint("sigv4"), Misplaced},
		{"secret key as id", "https://a.amazonaws.com/", []string{"Authorization: AWS4-HMAC-SHA256 Credential=" + keyPH + "/" + where + ", SignedHeaders=host, Signature=0"}, awsEndpoint("sigv4"), Misplaced},
		{"other algorithm", "https://a.amazonaws.com/", []string{"Authorization: AWS4-ECDSA-P256-SHA256 Credential=" + idPH + "/" + where}, awsEndpoint("sigv4"), Misplaced},
		{"signed in the query", "https://a.amazonaws.com/?X-Amz-Credential=" + idPH + "%2F20150830%2Fus-east-1%2Fservice%2Faws4_request", nil, awsEndpoint("sigv4"), Unsignable},
		{"nothing of ours", "https://a.amazonaws.com/", []string{signedBy("AKIASOMEBODYELSE0000", where, "host")}, awsEndpoint("sigv4"), ""},
	} {
		r := outgoing(t, "GET "+c.url, "", c.headers...)
		err := aws(t, true).Apply(t.Context(), c.ep, r.URL.Hostname(), 443, r)
		if codeOf(err) != c.want {
			t.Errorf("%s: Apply = %v, want %q", c.name, err, c.want)
		}
		var b strings.Builder
		r.Write(&b)
		if strings.Contains(b.String(), keyReal) || strings.Contains(b.String(), tokenReal) {
			t.Errorf("%s: a secret in\n%s", c.name, b.String())
		}
	}
}

// TestSignedHeadersAreSent: what is signed is what is in the request, whatever
// the client had signed.
func TestSignedHeadersAreSent(t *testing.T) {
	r := outgoing(t, "GET https://example.amazonaws.com/", "", signedBy(idPH, "20150830/us-east-1/service/aws4_request", "connection;host;missing;my-header;user-agent"),
		"My-Header: a", "X-Amz-Meta-B: c", "User-Agent: u")
	if err := aws(t, false).Apply(t.Context(), awsEndpoint("sigv4"), "example.amazonaws.com", 443, r); err != nil {
		t.Fatal(err)
	}
	if got := r.Header.Get("Authorization"); !strings.Contains(got, "SignedHeaders=host;my-header;x-amz-date;x-amz-meta-b,") {
		t.Errorf("Authorization = %s", got)
	}
	if r.Header.Get("Date") != "" || http.Header(r.Header).Get("X-Amz-Date") == "" {
		t.Error("the time of the signature is not the one that is sent")
	}
}
