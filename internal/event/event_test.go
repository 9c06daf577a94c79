package event

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	s := testSession()
	for _, tt := range []struct {
		name  string
		event Event
		want  string
	}{
		{"denied", s.Stamp(samples["refuse"].event), "denied  git → evil.example:443  (no rule for host)   sallyport policy explain 0007"},
		{"denied_without_id", samples["refuse"].event, "denied  git → evil.example:443  (no rule for host)"},
		{"denied_unix", samples["unix"].event, "denied  git → /run/docker.sock  (no rule for host)"},
		{"denied_code", Connection(Refuse, gitWho, evil, Verdict{Reason: "always_refused_address"}), "denied  git → evil.example:443  (always refused address)"},
		{"denied_bare", samples["nowhere"].event, "denied  a program → nowhere"},
		{"denied_request", samples["request"].event, "denied  git → GET evil.example:443/a  (no rule for host)"},
		{"allowed", s.Stamp(samples["open"].event), "allowed  git → evil.example:443  (forge, dev.yaml:14)"},
		{"audit", samples["audit"].event, "audit  git → evil.example:443  (no rule for this port)"},
		{"denied_detail", Connection(Refuse, Who{PID: 7}, evil, Verdict{Reason: "connect", Detail: "loopback is closed"}), "denied  pid 7 → evil.example:443  (loopback is closed)"},
		{"failed_v6", Connection(Fail, gitWho, Where{Addr: netip.MustParseAddr("2001:db8::1"), Port: 22}, Verdict{Disposition: Allowed, Detail: "connection refused"}),
			"failed  git → [2001:db8::1]:22  (connection refused)"},
		{"closed", samples["end"].event, "closed  git → evil.example:443  (10 bytes in, 20 out)"},
		{"launch", samples["launch"].event, "started  git"},
		{"exit", samples["exit"].event, "ended  git  (status 137)"},
		{"finding", samples["finding"].event, "finding  high  a wall  (is thin)   upgrade"},
		{"policy", samples["policy"].event, "policy  dev.yaml, generation 1"},
		{"policy_refused", samples["broken"].event, "policy  refused dev.yaml, generation 1  (line 4: no)"},
		{"lifecycle", samples["lifecycle"].event, "start  proxy"},
		{"hostile", Connection(Refuse, Who{Exe: "/tmp/\x1b[2Jgit"}, Where{Host: "a\nsallyport: allowed", Port: 1}, Verdict{Reason: "x"}),
			`denied  \x1b[2Jgit → [a\x0asallyport: allowed]:1  (x)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.event.Line(); got != tt.want {
				t.Errorf("Line() = %s\nwant     %s", got, tt.want)
			}
		})
	}
}

func TestWhereString(t *testing.T) {
	for _, tt := range []struct {
		in   Where
		want string
	}{
		{evil, "evil.example:443"},
		{Where{Host: "::1", Port: 80}, "[::1]:80"},
		{Where{Addr: netip.MustParseAddr("::1"), Port: 80}, "[::1]:80"},
		{Where{Path: "/run/x"}, "/run/x"},
		{Where{}, "nowhere"},
	} {
		if got := tt.in.String(); got != tt.want {
			t.Errorf("%#v.String() = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestDenialIDsAreUnique(t *testing.T) {
	s := NewSession(Origin{Seed: 0xdeadbeef})
	seen := make(map[string]bool)
	for i := range 0x10000 + 1000 {
		id := s.DenialID()
		if seen[id] {
			t.Fatalf("denial %d: id %s was given before", i, id)
		}
		if want := 4; i < 0x10000 && len(id) != want {
			t.Fatalf("denial %d: id %s, want %d digits", i, id, want)
		}
		seen[id] = true
	}
}

func TestStamp(t *testing.T) {
	s := testSession()
	first, second := s.Stamp(samples["open"].event), s.Stamp(samples["refuse"].event)
	if first.Metadata.Sequence != 1 || second.Metadata.Sequence != 2 {
		t.Errorf("sequence = %d, %d, want 1, 2", first.Metadata.Sequence, second.Metadata.Sequence)
	}
	if first.Metadata.UID != "" || second.Metadata.UID == "" {
		t.Errorf("uid = %q, %q, want only the denial's", first.Metadata.UID, second.Metadata.UID)
	}
	if again := s.Stamp(second); again.Metadata.UID != second.Metadata.UID || again.Time != second.Time {
		t.Errorf("Stamp changed an id or a time that was there")
	}
	if first.Time != 1764000000123 || first.Metadata.CorrelationUID != "s-1" || first.Device.Hostname != "box" {
		t.Errorf("Stamp = %+v", first)
	}
}

func TestAncestors(t *testing.T) {
	who := gitWho
	for i := range 100 {
		who.Ancestors = append(who.Ancestors, Binary{Path: fmt.Sprint("/bin/", i)})
	}
	e := Connection(Open, who, evil, forge)
	if got := len(e.Actor.Process.Ancestry); got != maxParent {
		t.Errorf("%d ancestors, want %d", got, maxParent)
	}
	if got := e.Unmapped["ancestry_sha256"].([]string); len(got) != maxParent || got[0] != gitWho.Ancestors[0].SHA256 {
		t.Errorf("ancestry_sha256 = %v", got)
	}
}

// TestOperations: what is told of a request's operations is bounded, never cut, and
// its request's alone.
func TestOperations(t *testing.T) {
	who := Who{Exe: "/usr/bin/git", Ancestors: []Binary{{"/bin/sh", "00"}}}.Shared()
	long := Operation{Method: strings.Repeat("m", maxOperations)}
	whole := Operation{Method: strings.Repeat("m", maxOperations-1)}
	deep := Operation{Type: "query", Fields: make([]string, maxOperations)}
	ping := Operation{Method: "ping!!!"} // 8 bytes
	for what, tt := range map[string]struct {
		all     []Operation
		told    []Operation
		leftOut any
	}{
		"none":     {nil, nil, nil},
		"one":      {[]Operation{ping}, []Operation{ping}, nil},
		"too long": {[]Operation{long, ping}, []Operation{ping}, 1},
		"too deep": {[]Operation{deep}, []Operation{}, 1},
		"whole":    {[]Operation{whole}, []Operation{whole}, nil},
		"many":     {slices.Repeat([]Operation{ping}, maxOperations/8+2), slices.Repeat([]Operation{ping}, maxOperations/8), 2},
	} {
		e := Request(HTTP{Method: "POST", Operations: tt.all}, who, evil, forge)
		told, all := e.Operations()
		if all != (tt.leftOut == nil) {
			t.Errorf("%s: all = %v", what, all)
		}
		var stored Event
		if b, err := e.AppendJSON(nil); err != nil || json.Unmarshal(b, &stored) != nil {
			t.Fatalf("%s: %s %v", what, b, err)
		}
		if again, whole := stored.Operations(); !slices.EqualFunc(again, told, func(a, b Operation) bool { return reflect.DeepEqual(a, b) }) || whole != all {
			t.Errorf("%s: stored as %v, %v", what, again, whole)
		}
		if !reflect.DeepEqual(told, tt.told) || e.Unmapped["operations_left_out"] != tt.leftOut {
			t.Errorf("%s: %v", what, e.Unmapped)
		}
		if e.Unmapped["ancestry_sha256"] == nil {
			t.Errorf("%s: no hashes: %v", what, e.Unmapped)
		}
	}
	if e := Connection(Open, who, evil, forge); len(e.Unmapped) != 1 {
		t.Errorf("another event of the same process has %v", e.Unmapped)
	}
}

func TestRedactQuery(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"a=1&b=2", "a=[redacted]&b=[redacted]"},
		{"token", "[redacted]"},
		{"a=b=c", "a=[redacted]"},
		{"a=1&&b", "a=[redacted]&[redacted]&[redacted]"},
	} {
		if got := RedactQuery(tt.in); got != tt.want {
			t.Errorf("RedactQuery(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	if got := RedactQuery(strings.Repeat("k=v&", 1000)); len(got) > maxText+100 {
		t.Errorf("RedactQuery of 4000 bytes = %d bytes", len(got))
	}
}

func TestRedactURL(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"https://h/p", "https://h/p"},
		{"https://h/p?k=v#frag", "https://h/p?k=[redacted]"},
		{"https://u:p@h:1/p", "https://[redacted]@h:1/p"},
		{"https://u:p@x@h", "https://[redacted]@h"},
		{"/p?k=v", "/p?k=[redacted]"},
		{"mail@host", "mail@host"},
		{"https://a\x01b@h/?x", "[redacted]"},
	} {
		if got := RedactURL(tt.in); got != tt.want {
			t.Errorf("RedactURL(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestRedactArgs(t *testing.T) {
	const key = "sk-abcdefghijklmnop"
	for _, tt := range []struct {
		name string
		in   []string
		want string
	}{
		{"plain", []string{"git", "fetch", "origin"}, "git fetch origin"},
		{"quoted", []string{"sh", "-c", "echo hi", ""}, `sh -c "echo hi" ""`},
		{"header", []string{"curl", "-H", "Authorization: Bearer abc"}, `curl -H Authorization:[redacted]`},
		{"flag_equals", []string{"x", "--api-key=abc"}, "x --api-key=[redacted]"},
		{"flag_then_value", []string{"x", "--token", "abc", "y"}, "x --token [redacted] y"},
		{"user", []string{"curl", "-u", "me:pw", "https://h/?k=v"}, "curl -u [redacted] https://h/?k=[redacted]"},
		{"variable", []string{"env", "GITHUB_TOKEN=abc", "PATH=/bin"}, "env GITHUB_TOKEN=[redacted] PATH=/bin"},
		{"prefix", []string{"x", key}, "x [redacted]"},
		{"prefix_in_value", []string{"x", "--key=" + key}, "x --key=[redacted]"},
		{"prefix_in_script", []string{"sh", "-c", "curl -d '" + key + "' h"}, "sh -c [redacted]"},
		{"url_user", []string{"git", "clone", "https://u:p@h/r"}, "git clone https://[redacted]@h/r"},
		{"path_with_colon", []string{"scp", "a/session:x"}, "scp a/session:x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := redactArgs(tt.in); got != tt.want {
				t.Errorf("redactArgs(%q) = %s, want %s", tt.in, got, tt.want)
			}
		})
	}
	if got := redactArgs([]string{strings.Repeat("x", 9000), strings.Repeat("y", 9000)}); len(got) > maxCmd {
		t.Errorf("redactArgs of 18000 bytes = %d bytes, want at most %d", len(got), maxCmd)
	}
}
