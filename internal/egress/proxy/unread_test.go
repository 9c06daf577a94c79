package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sallyport/internal/policy"
)

// unscrubbed are Credentials that let no answer pass.
type unscrubbed struct{ vault }

func (unscrubbed) Scrub(*policy.Endpoint, string, uint16, *http.Response) error {
	return errors.New("a coding in which nothing is found")
}

// TestUnreadAnswersEnd: an answer without an end that nobody reads on, because it
// was refused or the client has left, ends for the server too: it is not read to
// its end.
func TestUnreadAnswersEnd(t *testing.T) {
	for why, c := range map[string]struct {
		more   string // of the policy
		change func(*Options)
		status int
		told   []string // events
	}{
		"the client leaves":       {"", func(*Options) {}, 200, nil},
		"too large":               {redactor("config: {apply: [responses], max_body_bytes: 100}"), func(*Options) {}, 413, []string{"body_too_large Blocked"}},
		"cannot be looked into":   {"", func(o *Options) { o.Secrets = unscrubbed{} }, 403, []string{"credential_refused Blocked"}},
		"takes too long":          {redactor("config: {apply: [responses], max_body_bytes: 100}"), func(o *Options) { o.Limits.BodyTime = 300 * time.Millisecond }, 504, []string{"upstream_timeout Allowed"}},
		"refused by a middleware": {redactor("config: {apply: [responses], mode: deny, patterns: [{name: p, regex: part}], max_body_bytes: 100}"), func(*Options) {}, 413, []string{"body_too_large Blocked"}},
	} {
		t.Run(why, func(t *testing.T) {
			versions(t, func(t *testing.T, h2 bool) {
				w, own := inspecting(t, policyWith(t, fullHost, c.more), c.change)
				ended := make(chan struct{})
				w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
					defer close(ended)
					for {
						if _, err := io.WriteString(rw, "part of an answer\n"); err != nil {
							return
						}
						if http.NewResponseController(rw).Flush() != nil {
							return
						}
						if c.status == 504 {
							<-r.Context().Done() // and no more is said
						}
					}
				}, "api.example.com:443")
				client := w.client(own, h2)
				resp, err := client.Get("https://api.example.com/")
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != c.status {
					t.Errorf("%s, want %d", resp.Status, c.status)
				}
				if c.status == 200 {
					io.ReadFull(resp.Body, make([]byte, 100))
				}
				resp.Body.Close()
				w.eventually("the server is told", func() bool {
					select {
					case <-ended:
						return true
					default:
						return false
					}
				})
				w.eventually("the server's connection is not kept", func() bool {
					w.server.pool.mu.Lock()
					defer w.server.pool.mu.Unlock()
					return len(w.server.pool.idle) == 0
				})
				w.eventually("nothing is held", func() bool { return w.server.held.Load() == 0 })
				if told := w.told(); !slices.Equal(told, c.told) {
					t.Errorf("events %q, want %q", told, c.told)
				}
			})
		})
	}
}

// held are Credentials that take their time with an interim answer.
type held struct {
	vault
	here, on chan struct{}
}

func (h held) Scrub(_ *policy.Endpoint, _ string, _ uint16, r *http.Response) error {
	if r.StatusCode == http.StatusEarlyHints {
		h.here <- struct{}{}
		<-h.on
	}
	return nil
}

// TestLateInterimAnswer: one that comes when its request has been given up is passed
// to nobody. net/http panics at a write to a stream that is gone, on a goroutine of
// its own, which would end every connection of the sandbox.
func TestLateInterimAnswer(t *testing.T) {
	late := held{here: make(chan struct{}), on: make(chan struct{})}
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Secrets, o.Limits.Answer = late, 3*time.Second })
	w.secureWeb(true, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			rw.WriteHeader(http.StatusEarlyHints)
			<-r.Context().Done()
		}
	}, "api.example.com:443")
	client := w.client(own, true)
	get := func(path string, status int) {
		t.Helper()
		if resp, err := client.Get("https://api.example.com" + path); err != nil || resp.StatusCode != status {
			t.Errorf("%s: %v, %v, want %d", path, resp, err, status)
		} else {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	go func() {
		select {
		case <-late.here:
		case <-t.Context().Done():
		}
	}()
	get("/late", 504)
	time.Sleep(50 * time.Millisecond) // for net/http to forget the stream, which nothing tells
	close(late.on)
	get("/next", 200)
}

// TestUploadsThatBreakOff: that a body ends in the middle is no fault of the server,
// which does not take it for whole, and no malformed request. The event says who has
// ended it, whether it is held or passes as it comes. A client of HTTP/2 that leaves,
// or resets its stream, is no event.
func TestUploadsThatBreakOff(t *testing.T) {
	leaves := func(_ *world, c speaker) {
		if m, is := c.(*multiplex); is {
			m.Writer.(io.Closer).Close()
		} else {
			c.(single).Close()
		}
	}
	for why, c := range map[string]struct {
		limits   func(*Limits)
		end      func(*world, speaker)
		one, two []string // events, by version
	}{
		"idle":     {func(l *Limits) { l.Idle = 2 * time.Second }, func(*world, speaker) {}, []string{"idle_timeout Allowed"}, []string{"idle_timeout Allowed"}},
		"shutdown": {none, func(w *world, _ speaker) { w.end() }, []string{"shutdown Allowed"}, []string{"shutdown Allowed"}},
		"leaves":   {none, leaves, []string{"client_left Allowed"}, nil},
		"resets": {none, func(w *world, c speaker) {
			if m, is := c.(*multiplex); is {
				m.in.WriteRSTStream(m.last, http2.ErrCodeCancel)
			} else {
				leaves(w, c)
			}
		}, []string{"client_left Allowed"}, nil},
		"is none": {none, func(_ *world, c speaker) {
			if m, is := c.(*multiplex); is {
				m.in.WriteData(m.last, true, []byte("x")) // less than it has said
			} else {
				io.WriteString(c, "zz\r\n")
			}
		}, []string{"bad_request Blocked"}, []string{"bad_request Blocked"}},
	} {
		for _, more := range []string{"", redactor("config: {}")} {
			t.Run(fmt.Sprintf("%s held=%t", why, more != ""), func(t *testing.T) {
				versions(t, func(t *testing.T, h2 bool) {
					t.Parallel()
					w, own := inspecting(t, policyWith(t, fullHost, more), func(o *Options) { c.limits(&o.Limits) })
					begun, ended := make(chan struct{}), make(chan error, 1)
					w.secureWeb(h2, func(_ http.ResponseWriter, r *http.Request) {
						io.ReadFull(r.Body, make([]byte, 5))
						close(begun)
						_, err := io.Copy(io.Discard, r.Body)
						ended <- err
					}, "api.example.com:443")
					s, want := w.speak(own, h2), c.one
					if h2 {
						want = c.two
						s.Write(s.begin(ask{method: "POST", path: "/", body: "begin", length: 10, open: true}))
					} else {
						io.WriteString(s, "POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
					}
					if more == "" {
						<-begun
					} else {
						w.eventually("it is held", func() bool { return w.server.held.Load() > 0 })
					}
					c.end(w, s)
					if more == "" {
						if err := <-ended; err == nil {
							t.Error("the server has taken it for whole")
						}
					}
					w.eventually("the event", func() bool { return want == nil || len(w.told()) > 0 })
					leaves(w, s)
					w.eventually("the connection is over", func() bool { return len(w.server.conns.all()) == 0 })
					if told := w.told(); !slices.Equal(told, want) {
						t.Errorf("events %q, want %q", told, want)
					}
				})
			})
		}
	}
}
