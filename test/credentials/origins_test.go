package credentials

import (
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// echo gives back all that it got, in every form that a program would write it.
func echo(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", r.Method, r.RequestURI)
	r.Header.Write(&b)
	body, _ := io.ReadAll(r.Body)
	b.Write(body)
	all := b.String()
	for _, v := range r.Header["Authorization"] {
		w.Header().Add("X-Echo", v)
	}
	var out io.Writer = w
	if r.URL.Query().Get("zip") != "" {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		out = z
	}
	fmt.Fprintln(out, all)
	for line := range strings.Lines(all) {
		_, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
		v = v[strings.LastIndexByte(v, ' ')+1:]
		fmt.Fprintln(out, base64.StdEncoding.EncodeToString([]byte(v)), hex.EncodeToString([]byte(v)), url.QueryEscape(v))
	}
	// In pieces, each flushed by itself.
	for _, c := range []byte(all) {
		out.Write([]byte{c})
		if z, ok := out.(*gzip.Writer); ok {
			z.Flush()
		}
		w.(http.Flusher).Flush()
	}
}

// bound is the API that gets credentials.
func bound(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/redirect"):
		http.Redirect(w, r, "https://evil.example/collect", http.StatusTemporaryRedirect)
	case strings.HasPrefix(r.URL.Path, "/v1/401"):
		http.Error(w, "who are you", http.StatusUnauthorized)
	case strings.HasPrefix(r.URL.Path, "/v1/ws"):
		socket(w, r)
	case strings.HasPrefix(r.URL.Path, "/v1/br"):
		w.Header().Set("Content-Encoding", "br")
		io.WriteString(w, "whatever")
	default:
		echo(w, r)
	}
}

// socket is a WebSocket server, RFC 6455, that takes one short message, says what
// it got in one frame, and hangs up.
func socket(w http.ResponseWriter, r *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var head [2]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil || head[0]&0xf > 2 {
		return
	}
	size := int(head[1] & 0x7f)
	if size == 126 {
		var long [2]byte
		io.ReadFull(rw, long[:])
		size = int(binary.BigEndian.Uint16(long[:]))
	}
	b := make([]byte, 4+size)
	io.ReadFull(rw, b)
	for i := range size {
		b[4+i] ^= b[i%4]
	}
	text := string(b[4:])
	recordMessage(r, text)
	out := "you sent " + text + " with " + r.Header.Get("Authorization")
	frame := append([]byte{0x81, byte(len(out))}, out...)
	if len(out) > 125 {
		frame = append([]byte{0x81, 126, byte(len(out) >> 8), byte(len(out))}, out...)
	}
	c.Write(append(frame, 0x88, 2, 3, 0xe8)) // and 1000
	io.Copy(io.Discard, rw)
}

// model is a backend of inference.local.
func model(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Accept") == "text/event-stream" || strings.Contains(r.URL.Path, "messages") {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, v := range []string{"one", r.Header.Get("Authorization") + r.Header.Get("X-Api-Key"), "[DONE]"} {
			fmt.Fprintf(w, "data: %s\n\n", v)
			w.(http.Flusher).Flush()
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, `{"key":%q,"asked":%s}`, r.Header.Get("Authorization"), body)
}

// checkSignature verifies Signature Version 4 the way a server does: from what
// it got. It is written without a look at the program's own.
func checkSignature(t *testing.T, id, key string, dump string) {
	t.Helper()
	head, body, _ := strings.Cut(dump, "\r\n\x00") // the dump has no empty line
	_ = body
	lines := strings.Split(head, "\n")
	headers := map[string]string{}
	for _, l := range lines[1:] {
		if k, v, ok := strings.Cut(strings.TrimSpace(l), ": "); ok {
			headers[strings.ToLower(k)] = v
		}
	}
	first := strings.Fields(lines[0]) // HTTP/2.0 GET host/path
	host, path, _ := strings.Cut(first[2], "/")
	headers["host"] = host
	auth := headers["authorization"]
	field := func(name string) string {
		_, v, _ := strings.Cut(auth, name+"=")
		v, _, _ = strings.Cut(v, ",")
		return v
	}
	scope := strings.SplitN(field("Credential"), "/", 2)
	if scope[0] != id {
		t.Errorf("signed by %q, want %q", scope[0], id)
	}
	part := strings.Split(scope[1], "/")
	text := first[1] + "\n/" + path + "\n\n"
	for name := range strings.SplitSeq(field("SignedHeaders"), ";") {
		text += name + ":" + headers[name] + "\n"
	}
	sum := sha256.Sum256(nil)
	text += "\n" + field("SignedHeaders") + "\n" + hex.EncodeToString(sum[:])
	hashed := sha256.Sum256([]byte(text))
	k := []byte("AWS4" + key)
	for _, p := range append(part, "AWS4-HMAC-SHA256\n"+headers["x-amz-date"]+"\n"+scope[1]+"\n"+hex.EncodeToString(hashed[:])) {
		m := hmac.New(sha256.New, k)
		m.Write([]byte(p))
		k = m.Sum(nil)
	}
	if got, want := field("Signature"), hex.EncodeToString(k); got != want {
		t.Errorf("signature = %s, want %s, over\n%s", got, want, text)
	}
}
