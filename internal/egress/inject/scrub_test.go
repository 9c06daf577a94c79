package inject

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"sallyport/internal/policy"
)

func answer(status int, body io.Reader, headers ...string) *http.Response {
	h := http.Header{}
	for _, x := range headers {
		name, value, _ := strings.Cut(x, ": ")
		h.Add(name, value)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(body), ContentLength: -1}
}

func stars(n int) string { return strings.Repeat("*", n) }

// TestScrub has a server answer with the secret in every form that a program
// would write it, in pieces of every size.
func TestScrub(t *testing.T) {
	forms := map[string]string{
		"plain": canary, "JSON": strings.ReplaceAll(canary, "/", `\/`), "query": url.QueryEscape(canary), "path": url.PathEscape(canary),
		"hex": hex.EncodeToString([]byte(canary)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(canary))),
	}
	for shift := range 4 {
		forms[fmt.Sprint("base64 after ", shift)] = base64.StdEncoding.EncodeToString([]byte(strings.Repeat("u", shift) + ":" + canary))
		forms[fmt.Sprint("base64url after ", shift)] = base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("u", shift) + ":" + canary + "tail"))
	}
	for name, form := range forms {
		text := "before " + form + " between " + form[:5] + form + form + " after"
		for _, size := range []int{1, 2, 3, 7, 31, len(form), len(form) + 1, len(text)} {
			in := injector(t, credential(&held{value: canary}))
			resp := answer(200, &pieces{text, size}, "X-Echo: you sent "+form, "Content-Type: text/plain")
			if err := in.Scrub(endpoint(nil), "api.example", 443, resp); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || len(got) != len(text) {
				t.Fatalf("%s: read %d bytes of %d, %v", name, len(got), len(text), err)
			}
			all := string(got) + resp.Header.Get("X-Echo")
			if decodable(all) {
				t.Errorf("%s in pieces of %d: the secret is still there: %q", name, size, all)
			}
			if !strings.HasPrefix(all, "before ") || !strings.Contains(all, " between ") || !strings.Contains(all, " after") {
				t.Errorf("%s: more than the secret was taken: %q", name, got)
			}
		}
	}
	if !decodable("x " + forms["base64 after 2"]) {
		t.Fatal("the search finds nothing")
	}
}

// decodable looks for the secret the way an agent would.
func decodable(s string) bool {
	if strings.Contains(s, canary) || strings.Contains(strings.ReplaceAll(s, `\/`, "/"), canary) {
		return true
	}
	for _, f := range strings.Fields(s) {
		q, _ := url.QueryUnescape(f)
		h, _ := hex.DecodeString(f)
		a, _ := base64.StdEncoding.DecodeString(f)
		b, _ := base64.RawURLEncoding.DecodeString(f)
		if strings.Contains(q+string(h)+string(a)+string(b), canary) {
			return true
		}
	}
	return false
}

// TestScrubHoldsNothingBack: an event of a stream is there as soon as it was
// sent, though more may follow.
func TestScrubHoldsNothingBack(t *testing.T) {
	in := injector(t, credential(&held{value: canary}))
	r, w := io.Pipe()
	resp := answer(200, r, "Content-Type: text/event-stream")
	if err := in.Scrub(endpoint(nil), "api.example", 443, resp); err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"data: one\n\n", "data: " + canary + "\n\n", "data: three\n\n"} {
		go io.WriteString(w, event)
		got := make([]byte, len(event))
		if _, err := io.ReadFull(resp.Body, got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(event, canary, stars(len(canary))); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	w.CloseWithError(errors.New("cut"))
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil || err.Error() != "cut" {
		t.Errorf("the end of a broken stream is %v", err)
	}
}

func TestScrubEncodings(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, "x "+canary+" y")
	z.Close()
	for _, c := range []struct {
		coding, body, want string
		code               Code
	}{
		{"gzip", zipped.String(), "x " + stars(len(canary)) + " y", ""},
		{"GZIP", zipped.String(), "x " + stars(len(canary)) + " y", ""},
		{"identity", canary, stars(len(canary)), ""},
		{"br", "?", "", Encoded},
		{"zstd", "?", "", Encoded},
		{"gzip, gzip", "?", "", Encoded},
		{"deflate", "?", "", Encoded},
	} {
		in := injector(t, credential(&held{value: canary}))
		resp := answer(200, strings.NewReader(c.body), "Content-Encoding: "+c.coding, "Content-Length: 7")
		err := in.Scrub(endpoint(nil), "api.example", 443, resp)
		if codeOf(err) != c.code {
			t.Errorf("%s: Scrub = %v, want %q", c.coding, err, c.code)
		}
		if err != nil {
			continue
		}
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.coding, got, err, c.want)
		}
		if resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: Content-Encoding is left", c.coding)
		}
	}
}

func TestScrubElsewhereTouchesNothing(t *testing.T) {
	in := injector(t, credential(&held{value: canary}))
	resp := answer(200, strings.NewReader("br"), "Content-Encoding: br")
	body := resp.Body
	if err := in.Scrub(endpoint(nil), "elsewhere.example", 443, resp); err != nil || resp.Body != body {
		t.Errorf("Scrub = %v, or the body was replaced", err)
	}
}

// TestScrubOldSecret: what was sent before a refresh is still looked for.
func TestScrubOldSecret(t *testing.T) {
	src := &held{value: canary}
	in := injector(t, credential(src))
	if err := in.Scrub(endpoint(nil), "api.example", 443, answer(200, strings.NewReader(""))); err != nil {
		t.Fatal(err)
	}
	src.value = "ghp_NewSecretAfterRefresh"
	resp := answer(200, strings.NewReader(canary+" "+src.value))
	if err := in.Scrub(endpoint(nil), "api.example", 443, resp); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(resp.Body); strings.Trim(string(got), "* ") != "" {
		t.Errorf("got %q", got)
	}
}

// TestOldSecretsAreBounded: however often a secret changes, the last ones alone are looked for.
func TestOldSecretsAreBounded(t *testing.T) {
	src := &held{value: canary}
	in := injector(t, credential(src))
	each := len(forms("ghp_Secret000"))
	for i := range 10 * keptForms {
		src.value = fmt.Sprintf("ghp_Secret%03d", i)
		if err := in.Authorize(t.Context(), "forge", http.Header{}); err != nil {
			t.Fatal(err)
		}
		if n := len(in.found[in.creds[0]].forms); n > keptForms {
			t.Fatalf("%d forms are kept after %d secrets, the bound is %d", n, i+1, keptForms)
		}
	}
	last := 10*keptForms - 1
	for i, want := range map[int]bool{last: true, last - keptForms/each + 1: true, last - 2*keptForms/each: false} {
		text := fmt.Sprintf("ghp_Secret%03d", i)
		resp := answer(200, strings.NewReader(text))
		if err := in.Scrub(endpoint(nil), "api.example", 443, resp); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || (string(got) == stars(len(text))) != want {
			t.Errorf("%s became %q, %v; looked for: %v", text, got, err, want)
		}
	}
}

// TestScrubBomb: an answer of some kilobytes that is megabytes costs a buffer.
func TestScrubBomb(t *testing.T) {
	const size = 48 << 20
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	for range size >> 20 {
		z.Write(make([]byte, 1<<20))
	}
	z.Close()
	in := injector(t, credential(&held{value: canary}))
	resp := answer(200, &zipped, "Content-Encoding: gzip")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := in.Scrub(endpoint(nil), "api.example", 443, resp); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; n != size || err != nil || used > 4<<20 {
		t.Errorf("%d bytes of %d, %v, made %d bytes of garbage, want less than 4 MiB", n, size, err, used)
	}
}

// TestScrubSecretThatWasSent: an answer may take longer than a secret lasts, and what
// the server echoes is what it was sent.
func TestScrubSecretThatWasSent(t *testing.T) {
	sends := map[string]func(in *Injector) error{
		"request": func(in *Injector) error {
			return in.Apply(t.Context(), endpoint(nil), "api.example", 443, outgoing(t, "GET https://api.example/v1/slow", "", "X-Api-Key: "+ph))
		},
		"message": func(in *Injector) error {
			ep := endpoint(func(e *policy.Endpoint) { e.L7.WebSocketCredentialRewrite = true })
			_, err := in.Message(t.Context(), ep, "api.example", 443, &url.URL{Scheme: "https", Host: "api.example", Path: "/v1/ws"}, true, []byte(ph))
			return err
		},
		"own request": func(in *Injector) error { return in.Authorize(t.Context(), "forge", http.Header{}) },
	}
	for name, send := range sends {
		t.Run(name, func(t *testing.T) {
			src := &held{value: canary}
			in := injector(t, credential(src))
			if err := send(in); err != nil {
				t.Fatal(err)
			}
			src.value = "ghp_NewSecretAfterRefresh"
			resp := answer(200, strings.NewReader("you sent "+canary), "X-Echo: "+canary)
			if err := in.Scrub(endpoint(nil), "api.example", 443, resp); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if want := "you sent " + stars(len(canary)); err != nil || string(got) != want || resp.Header.Get("X-Echo") != stars(len(canary)) {
				t.Errorf("got %q, %q, %v, want %q", got, resp.Header.Get("X-Echo"), err, want)
			}
		})
	}
}

func TestScrub401(t *testing.T) {
	src := &held{value: canary}
	in := injector(t, credential(src))
	for _, c := range []struct {
		host   string
		status int
		want   int
	}{{"api.example", 403, 0}, {"elsewhere.example", 401, 0}, {"api.example", 401, 1}} {
		if err := in.Scrub(endpoint(nil), c.host, 443, answer(c.status, strings.NewReader(""))); err != nil || src.refused != c.want {
			t.Errorf("%s %d: told %d times, %v, want %d", c.host, c.status, src.refused, err, c.want)
		}
	}
}

func TestReadable(t *testing.T) {
	in := injector(t, credential(&held{value: canary}))
	for _, c := range []struct{ host, accept, want, ranges string }{
		{"api.example", "gzip, br", "gzip", ""},
		{"api.example", "br", "identity", ""},
		{"api.example", "gzip;q=0", "identity", ""},
		{"api.example", "", "identity", ""},
		{"elsewhere.example", "br", "br", "bytes=0-1"},
	} {
		r := outgoing(t, "GET https://"+c.host+"/v1/x", "", "Range: bytes=0-1")
		if c.accept != "" {
			r.Header.Set("Accept-Encoding", c.accept)
		}
		if err := in.Apply(t.Context(), endpoint(nil), c.host, 443, r); err != nil {
			t.Fatal(err)
		}
		if got := r.Header.Get("Accept-Encoding"); got != c.want || r.Header.Get("Range") != c.ranges {
			t.Errorf("%s, %q: Accept-Encoding %q, Range %q, want %q, %q", c.host, c.accept, got, r.Header.Get("Range"), c.want, c.ranges)
		}
	}
}

// FuzzScrubber: in pieces of any size, what comes out is what went in, with the
// needle masked and nothing else.
func FuzzScrubber(f *testing.F) {
	f.Add("aa"+canary+"aa", "aaab", uint8(3))
	f.Add("xaaaaaab", "aaab", uint8(1))
	f.Fuzz(func(t *testing.T, text, needle string, size uint8) {
		if needle == "" || strings.Contains(needle, "*") {
			return
		}
		s := &scrubber{src: &pieces{text, int(size) + 1}, list: [][]byte{[]byte(needle)}}
		got, err := io.ReadAll(s)
		if err != nil {
			t.Fatal(err)
		}
		want := []byte(text)
		mask(want, s.list)
		if !bytes.Equal(got, want) || bytes.Contains(got, []byte(needle)) {
			t.Fatalf("%q without %q in pieces of %d = %q, want %q", text, needle, size, got, want)
		}
	})
}
