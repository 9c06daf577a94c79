package proxy

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzRequest: whatever is accepted has the fields that net/http finds in it, and
// goes out as one head that a strict reader and a lenient one read alike, and
// that says what was judged.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"POST /a/../b?x=1+2;3 HTTP/1.1\r\nHost: API.example.com:443\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n",
		"PUT /%61 HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 3\r\nConnection: X-A, close\r\nX-A: b\r\nX_Http_Method: c\r\n\r\nabc",
		"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\nHost: api.example.com\r\nExpect: 100-continue\r\n\r\n",
		"GET / HTTP/1.1\r\nhost: api.example.com\r\nx-a:  b \t\r\nX-A:c\r\nEmpty:\r\ncookie: \xe9:=\r\nconnection: a , CLOSE\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	to := target{captured: true, host: "api.example.com", port: 443, tls: true}
	f.Fuzz(func(t *testing.T, in []byte) {
		rd := bufio.NewReaderSize(bytes.NewReader(in), 32<<10)
		b, err := peekHead(rd, 32<<10, nil)
		if err != nil {
			return
		}
		r, err := to.read(b, rd)
		if err != nil {
			return
		}
		sameFields(t, in, r)
		stripOverrides(r.Header)
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		if err := r.writeHead(w); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		if end := bytes.Index(out.Bytes(), endOfHead); end != out.Len()-len(endOfHead) {
			t.Fatalf("%q became %q, whose head ends at %d", in, out.Bytes(), end)
		}
		h, err := parseHead(out.Bytes())
		if err != nil {
			t.Fatalf("%q became %q, which is refused: %v", in, out.Bytes(), err)
		}
		again, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out.Bytes())))
		if err != nil {
			t.Fatalf("%q became %q: %v", in, out.Bytes(), err)
		}
		if again.Method != r.method || again.RequestURI != r.path || again.Host != r.authority() || string(h.target) != r.path || h.body != r.hasBody() {
			t.Fatalf("%q became %q, which is %s %s of %s; judged was %s %s of %s", in, out.Bytes(), again.Method, again.RequestURI, again.Host, r.method, r.path, r.authority())
		}
	})
}

// sameFields compares a request with what net/http reads in the same bytes.
func sameFields(t *testing.T, in []byte, r *request) {
	t.Helper()
	want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil {
		t.Fatalf("%q is accepted, and net/http says: %v", in, err)
	}
	if len(want.Header["Pragma"]) > 0 && len(r.Header["Cache-Control"]) == 0 {
		want.Header.Del("Cache-Control") // net/http's own
		r.Header.Del("Cache-Control")
	}
	if diff := cmp.Diff(want.Header, r.Header); diff != "" {
		t.Fatalf("fields of %q (-net/http +proxy):\n%s", in, diff)
	}
	if r.Close != want.Close && r.minor == 1 || r.ContentLength != want.ContentLength || r.Method != want.Method {
		t.Fatalf("%q: close %v, length %d; net/http says %v, %d", in, r.Close, r.ContentLength, want.Close, want.ContentLength)
	}
}
