package inject

import (
	"cmp"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"sallyport/internal/policy"
)

func basicOf(userPassword string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userPassword))
}

// TestApply is the list of places: what is sent, or why nothing is.
func TestApply(t *testing.T) {
	long := strings.Repeat("s", 16<<10)
	many := maxAdded / (len(long) - len(ph))
	body := func(e *policy.Endpoint) { e.L7.RequestBodyCredentialRewrite = true }
	for _, c := range []struct {
		name    string
		first   string
		headers []string
		body    string
		ep      func(*policy.Endpoint)
		want    string // in what is sent
		code    Code   // or why nothing is
		secret  string // canary, if it is empty
	}{
		{name: "no placeholder", first: "GET https://api.example/v1/x?a=b", headers: []string{"Accept: x"}, want: "Accept: x"},
		{name: "whole header", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: " + ph}, want: "X-Api-Key: " + canary},
		{name: "bearer", first: "GET https://api.example/v1/x", headers: []string{"Authorization: Bearer " + ph}, want: "Authorization: Bearer " + canary},
		{name: "scheme in another case", first: "GET https://api.example/v1/x", headers: []string{"Authorization: bearer " + ph}, want: "Authorization: bearer " + canary},
		{name: "password", first: "GET https://api.example/v1/x", headers: []string{"Authorization: " + basicOf("me:"+ph)}, want: "Authorization: " + basicOf("me:"+canary)},
		{name: "user", first: "GET https://api.example/v1/x", headers: []string{"Authorization: " + basicOf(ph+":")}, want: "Authorization: " + basicOf(canary+":")},
		{name: "query value", first: "GET https://api.example/v1/x?a=1&key=" + ph + "&b=+", want: "?a=1&key=" + url.QueryEscape(canary) + "&b=+"},
		{name: "escaped query value", first: "GET https://api.example/v1/x?key=" + strings.ReplaceAll(ph, "P", "%50"), want: "?key=" + url.QueryEscape(canary)},
		{name: "secret that is no segment", first: "GET https://api.example/v1/bot" + ph + "/send", code: Unavailable},
		{name: "two places at once", first: "GET https://api.example/v1/x?key=" + ph, headers: []string{"X-Api-Key: " + ph}, want: "X-Api-Key: " + canary},
		{name: "plain http where it is bound", first: "GET http://dev.example/v1/x", headers: []string{"X-Api-Key: " + ph}, want: "X-Api-Key: " + canary},
		{name: "JSON body", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: application/json"}, body: `{"k":"` + ph + `"}`, ep: body, want: `{"k":"` + canary + `"}`},
		{name: "form body", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: application/x-www-form-urlencoded"}, body: "k=" + ph, ep: body, want: "k=" + url.QueryEscape(canary)},
		{name: "text body", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: text/plain; charset=utf-8"}, body: "k " + ph + " " + ph, ep: body, want: "k " + canary + " " + canary},

		{name: "other host", first: "GET https://evil.example/v1/x", headers: []string{"X-Api-Key: " + ph}, code: Unbound},
		{name: "other port", first: "GET https://api.example:8443/v1/x", headers: []string{"X-Api-Key: " + ph}, code: Unbound},
		{name: "other path", first: "GET https://api.example/v2/x", headers: []string{"X-Api-Key: " + ph}, code: Unbound},
		{name: "path that only looks like it", first: "GET https://api.example/v1%2f..%2fv2/x", headers: []string{"X-Api-Key: " + ph}, code: Unbound},
		{name: "no TLS", first: "GET http://api.example:443/v1/x", headers: []string{"X-Api-Key: " + ph}, code: Unbound},
		{name: "TLS where plain is meant", first: "GET https://dev.example:80/v1/x", headers: []string{"X-Api-Key: " + ph}, code: Unbound},
		{name: "name that ends in ours", first: "GET https://xapi.example/v1/x", headers: []string{"X-Api-Key: " + ph}, code: Unbound},
		{name: "endpoint of another provider", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: " + ph},
			ep: func(e *policy.Endpoint) { e.L7.CredentialProvider = "other" }, code: Unbound},
		{name: "endpoint of this provider", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: " + ph},
			ep: func(e *policy.Endpoint) { e.L7.CredentialProvider = "forge" }, want: "X-Api-Key: " + canary},

		{name: "upgrade that nothing reads", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: " + ph, "Upgrade: websocket"}, code: Misplaced},
		{name: "upgrade to a websocket that is read", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: " + ph, "Upgrade: websocket"},
			ep: func(e *policy.Endpoint) { e.Protocol = policy.WebSocket }, want: "X-Api-Key: " + canary},
		{name: "other header", first: "GET https://api.example/v1/x", headers: []string{"X-Other: " + ph}, code: Misplaced},
		{name: "header with more in it", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: " + ph + ", x"}, code: Misplaced},
		{name: "second value", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: ok", "X-Api-Key: " + ph + "x"}, code: Misplaced},
		{name: "other scheme", first: "GET https://api.example/v1/x", headers: []string{"Authorization: Token " + ph}, code: Misplaced},
		{name: "scheme missing", first: "GET https://api.example/v1/x", headers: []string{"Authorization: " + ph}, code: Misplaced},
		{name: "scheme where there is none", first: "GET https://api.example/v1/x", headers: []string{"X-Api-Key: Bearer " + ph}, code: Misplaced},
		{name: "cookie", first: "GET https://api.example/v1/x", headers: []string{"Cookie: s=" + ph}, code: Misplaced},
		{name: "user agent", first: "GET https://api.example/v1/x", headers: []string{"User-Agent: " + ph}, code: Misplaced},
		{name: "name of a header", first: "GET https://api.example/v1/x", headers: []string{http.CanonicalHeaderKey("x") + ": y", ph + ": z"}, code: Misplaced},
		{name: "part of a password", first: "GET https://api.example/v1/x", headers: []string{"Authorization: " + basicOf("me:"+ph+"!")}, code: Misplaced},
		{name: "Basic for a proxy", first: "GET https://api.example/v1/x", headers: []string{"Proxy-Authorization: " + basicOf("me:"+ph)}, code: Misplaced},
		{name: "Basic in loose base64", first: "GET https://api.example/v1/x", headers: []string{"Authorization: " + strings.TrimRight(basicOf("m:"+ph), "=")}, code: Misplaced},
		{name: "other parameter", first: "GET https://api.example/v1/x?q=" + ph, code: Misplaced},
		{name: "parameter with more in it", first: "GET https://api.example/v1/x?key=a" + ph, code: Misplaced},
		{name: "name of a parameter", first: "GET https://api.example/v1/x?" + ph + "=1", code: Misplaced},
		{name: "parameter without value", first: "GET https://api.example/v1/x?" + ph, code: Misplaced},
		{name: "other segment", first: "GET https://api.example/v1/" + ph, code: Misplaced},
		{name: "escaped segment", first: "GET https://api.example/v1/" + strings.ReplaceAll(ph, "g", "%67"), code: Misplaced},
		{name: "body that is gzip", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: text/plain", "Content-Encoding: gzip"}, body: ph, ep: body, code: Misplaced},
		{name: "body of no known type", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: application/octet-stream"}, body: ph, ep: body, code: Misplaced},
		{name: "body too long", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: text/plain"}, body: strings.Repeat("x", maxBody+1), ep: body, code: Misplaced},
		{name: "in as many places as may be", first: "GET https://api.example/v1/x?" + strings.Repeat("key="+ph+"&", maxPlaces), secret: long, want: "?" + strings.Repeat("key="+long+"&", maxPlaces)},
		{name: "in one place too many", first: "GET https://api.example/v1/x?" + strings.Repeat("key="+ph+"&", maxPlaces+1), secret: long, code: Misplaced},
		{name: "in far too many places", first: "GET https://api.example/v1/x?" + strings.Repeat("key="+ph+"&", 370), secret: long, code: Misplaced},
		{name: "as many as may be in a body", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: text/plain"}, body: strings.Repeat(ph, many), secret: long, ep: body, want: strings.Repeat(long, many)},
		{name: "too many in a body", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: text/plain"}, body: strings.Repeat(ph, many+1), secret: long, ep: body, code: Misplaced},
		{name: "far too many in a body", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: text/plain"}, body: strings.Repeat(ph, maxBody/len(ph)), secret: long, ep: body, code: Misplaced},
		{name: "body as long as may be", first: "POST https://api.example/v1/x", headers: []string{"Content-Type: text/plain"}, body: strings.Repeat("x", maxBody-len(ph)) + ph, ep: body, want: "x" + canary},
		{name: "body on its way to another path", first: "POST https://api.example/v2/x", headers: []string{"Content-Type: text/plain"}, body: ph, ep: body, code: Unbound},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := injector(t, credential(&held{value: cmp.Or(c.secret, canary)}))
			r := outgoing(t, c.first, c.body, c.headers...)
			before, beforeURL := r.Header, r.URL
			port := uint16(443)
			switch r.URL.Port() {
			case "8443":
				port = 8443
			case "80":
				port = 80
			case "":
				if r.URL.Scheme == "http" {
					port = 80
				}
			}
			var start, end runtime.MemStats
			runtime.ReadMemStats(&start)
			err := in.Apply(t.Context(), endpoint(c.ep), r.URL.Hostname(), port, r)
			runtime.ReadMemStats(&end)
			if used := end.TotalAlloc - start.TotalAlloc; used > 8<<20 {
				t.Errorf("%d bytes of garbage, want less than 8 MiB", used)
			}
			if got := codeOf(err); got != c.code {
				t.Fatalf("Apply = %v, want %q", err, c.code)
			}
			if err != nil {
				if strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), ph) {
					t.Errorf("the error shows too much: %v", err)
				}
				return
			}
			var b strings.Builder
			r.Write(&b)
			if !strings.Contains(b.String(), c.want) {
				t.Errorf("sent\n%s\nwant %q in it", b.String(), c.want)
			}
			if strings.Contains(b.String(), ph) {
				t.Errorf("a placeholder was sent:\n%s", b.String())
			}
			for _, values := range before {
				if strings.Contains(strings.Join(values, " "), canary) {
					t.Error("the header that was handed in holds the secret")
				}
			}
			if strings.Contains(beforeURL.String(), url.QueryEscape(canary)) {
				t.Error("the URL that was handed in holds the secret")
			}
		})
	}
}

func TestSegment(t *testing.T) {
	in := injector(t, credential(&held{value: "12345:abc_DEF-9"}))
	r := outgoing(t, "GET https://api.example/v1/bot"+ph+"/send", "")
	if err := in.Apply(t.Context(), endpoint(nil), "api.example", 443, r); err != nil {
		t.Fatal(err)
	}
	if got, want := r.URL.RequestURI(), "/v1/bot12345:abc_DEF-9/send"; got != want {
		t.Errorf("path = %s, want %s", got, want)
	}
	for _, bad := range []string{"12345678/../x", "12345678?x", "12345678#x", "12345678%2f", `12345678\x`, "12345678..", "12345678;x"} {
		in := injector(t, credential(&held{value: bad}))
		err := in.Apply(t.Context(), endpoint(nil), "api.example", 443, outgoing(t, "GET https://api.example/v1/bot"+ph+"/send", ""))
		if codeOf(err) != Unavailable || strings.Contains(err.Error(), bad) {
			t.Errorf("%q: Apply = %v, want a refusal that does not show it", bad, err)
		}
	}
}

// TestBodyWithoutOptIn sends placeholders in pieces of every size: the body ends
// with an error, before the placeholder has passed whole.
func TestBodyWithoutOptIn(t *testing.T) {
	in := injector(t, credential(&held{value: canary}))
	text := strings.Repeat("x", 40) + ph[:20] + ph + strings.Repeat("y", 40)
	for size := 1; size < len(text); size++ {
		r := outgoing(t, "POST https://api.example/v1/x", text, "Content-Type: application/json")
		r.Body = io.NopCloser(&pieces{text, size})
		if err := in.Apply(t.Context(), endpoint(nil), "api.example", 443, r); err != nil {
			t.Fatal(err)
		}
		passed, err := io.ReadAll(r.Body)
		if codeOf(err) != Misplaced {
			t.Fatalf("size %d: %v, want %s", size, err, Misplaced)
		}
		if strings.Contains(string(passed), ph) {
			t.Fatalf("size %d: the placeholder passed: %q", size, passed)
		}
		if n, err := r.Body.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatalf("size %d: the body goes on", size)
		}
	}
	// Twin: nearly the same body passes whole, in pieces of any size.
	near := strings.ReplaceAll(text, ph, ph[:len(ph)-1]+"!")
	for size := 1; size < len(near); size++ {
		r := outgoing(t, "POST https://api.example/v1/x", near)
		r.Body = io.NopCloser(&pieces{near, size})
		if err := in.Apply(t.Context(), endpoint(nil), "api.example", 443, r); err != nil {
			t.Fatal(err)
		}
		if passed, err := io.ReadAll(r.Body); err != nil || string(passed) != near {
			t.Fatalf("size %d: %q, %v", size, passed, err)
		}
	}
}

// pieces reads a text so many bytes at a time.
type pieces struct {
	text string
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.text == "" {
		return 0, io.EOF
	}
	n := copy(b, p.text[:min(p.size, len(p.text))])
	p.text = p.text[n:]
	return n, nil
}

func TestSourceFails(t *testing.T) {
	why := errors.New("keyring is locked")
	in := injector(t, credential(&held{err: why}))
	r := outgoing(t, "GET https://api.example/v1/x", "", "X-Api-Key: "+ph)
	err := in.Apply(t.Context(), endpoint(nil), "api.example", 443, r)
	if codeOf(err) != Unavailable || !errors.Is(err, why) || strings.Contains(err.Error(), "keyring") {
		t.Errorf("Apply = %v, want %s with a cause that is not told", err, Unavailable)
	}
}

// TestBoundByPolicy is a provider without hosts of its own: the policy's
// endpoint is where it goes, if it names one host and is reached by TLS.
func TestBoundByPolicy(t *testing.T) {
	c := credential(&held{value: canary})
	c.Endpoints = nil
	in := injector(t, c)
	for _, x := range []struct {
		name string
		ep   *policy.Endpoint
		url  string
		want Code
	}{
		{"named", endpoint(func(e *policy.Endpoint) { e.L7.CredentialProvider = "forge" }), "https://api.example/any", ""},
		{"not named", endpoint(nil), "https://api.example/any", Unbound},
		{"wildcard", endpoint(func(e *policy.Endpoint) { e.Host, e.L7.CredentialProvider = "*.example", "forge" }), "https://api.example/any", Unbound},
		{"no TLS", endpoint(func(e *policy.Endpoint) { e.L7.CredentialProvider = "forge" }), "http://api.example/any", Unbound},
		{"no endpoint", nil, "https://api.example/any", Unbound},
	} {
		r := outgoing(t, "GET "+x.url, "", "X-Api-Key: "+ph)
		if got := codeOf(in.Apply(t.Context(), x.ep, "api.example", 443, r)); got != x.want {
			t.Errorf("%s: Apply = %q, want %q", x.name, got, x.want)
		}
	}
}

func TestMessage(t *testing.T) {
	in := injector(t, credential(&held{value: canary}))
	target, _ := url.Parse("https://api.example/v1/socket")
	other, _ := url.Parse("https://api.example/v2/socket")
	open := endpoint(func(e *policy.Endpoint) { e.L7.WebSocketCredentialRewrite = true })
	for _, c := range []struct {
		name   string
		ep     *policy.Endpoint
		host   string
		target *url.URL
		text   bool
		in     string
		want   string
		code   Code
	}{
		{"nothing to do", endpoint(nil), "api.example", target, true, "hello", "hello", ""},
		{"opted in", open, "api.example", target, true, `{"t":"` + ph + `"}`, `{"t":"` + canary + `"}`, ""},
		{"not opted in", endpoint(nil), "api.example", target, true, ph, "", Misplaced},
		{"binary", open, "api.example", target, false, "\x00" + ph, "", Misplaced},
		{"other host", open, "evil.example", target, true, ph, "", Unbound},
		{"other path", open, "api.example", other, true, ph, "", Unbound},
	} {
		got, err := in.Message(t.Context(), c.ep, c.host, 443, c.target, c.text, []byte(c.in))
		if codeOf(err) != c.code || string(got) != c.want {
			t.Errorf("%s: Message = %q, %v, want %q, %q", c.name, got, err, c.want, c.code)
		}
	}
}

// TestMessagesWithManyPlaceholders: what long secrets add to a message is bounded.
func TestMessagesWithManyPlaceholders(t *testing.T) {
	long := strings.Repeat("s", 16<<10)
	in := injector(t, credential(&held{value: long}))
	target, _ := url.Parse("https://api.example/v1/socket")
	open := endpoint(func(e *policy.Endpoint) { e.L7.WebSocketCredentialRewrite = true })
	many := maxAdded / (len(long) - len(ph))
	for n, code := range map[int]Code{many: "", many + 1: Misplaced, 100_000: Misplaced} {
		text := []byte(strings.Repeat(ph, n))
		var start, end runtime.MemStats
		runtime.ReadMemStats(&start)
		got, err := in.Message(t.Context(), open, "api.example", 443, target, true, text)
		runtime.ReadMemStats(&end)
		if codeOf(err) != code || code == "" && string(got) != strings.Repeat(long, n) {
			t.Errorf("%d placeholders: %d bytes, %v, want %q", n, len(got), err, code)
		}
		if used := end.TotalAlloc - start.TotalAlloc; used > 8<<20 {
			t.Errorf("%d placeholders: %d bytes of garbage, want less than 8 MiB", n, used)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	c := credential(&held{value: canary})
	if _, err := New([]Credential{c, c}, clock); err == nil {
		t.Error("two credentials with one placeholder")
	}
	c.Source = nil
	if _, err := New([]Credential{c}, clock); err == nil {
		t.Error("a credential without a source")
	}
}

// FuzzApply: whatever the request, either it is refused, or no placeholder is
// sent; and the secret goes nowhere but to the bound host and path.
func FuzzApply(f *testing.F) {
	f.Add("api.example", "/v1/x", "key="+ph, "X-Api-Key", ph)
	f.Add("api.example", "/v1/bot"+ph, "", "Authorization", "Bearer "+ph)
	f.Add("evil.example", "/v1/x", "a=%67hp_", "Authorization", basicOf("a:"+ph))
	f.Fuzz(func(t *testing.T, host, path, query, name, value string) {
		in := injector(t, credential(&held{value: canary}))
		r := outgoing(t, "GET https://api.example/", "")
		if !strings.HasPrefix(path, "/") {
			return
		}
		plain, err := url.PathUnescape(path)
		if err != nil {
			return
		}
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.URL.Host, r.Host = plain, path, query, host, host
		r.Header[http.CanonicalHeaderKey(name)] = []string{value}
		if err := in.Apply(t.Context(), endpoint(nil), host, 443, r); err != nil {
			if codeOf(err) == Code(err.Error()) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		out := r.URL.EscapedPath() + "?" + r.URL.RawQuery
		for k, v := range r.Header {
			out += "\n" + k + ": " + strings.Join(v, "\n")
		}
		if strings.Contains(out, ph) {
			t.Fatalf("a placeholder was sent: %q", out)
		}
		sent := false
		for _, form := range forms(canary) {
			sent = sent || strings.Contains(out, string(form))
		}
		if sent && (host != "api.example" || !strings.HasPrefix(path, "/v1/") && path != "/v1") && !strings.Contains(path+query+value, canary) {
			t.Fatalf("the secret went to %s%s", host, path)
		}
	})
}
