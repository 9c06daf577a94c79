package cli

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/event"
)

func TestVersionText(t *testing.T) {
	v := buildInfo(&debug.BuildInfo{
		Main: debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
		},
	}, true)
	v.Platform, v.Go = "linux/amd64", "go1.26.8"
	if got, want := v.String(), "sallyport v1.2.3 (0123456789ab, modified) linux/amd64 go1.26.8"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if v.Time != "2026-01-02T03:04:05Z" {
		t.Errorf("Time = %q", v.Time)
	}
	if got := buildInfo(nil, false).Version; got != "devel" {
		t.Errorf("version without build info = %q, want devel", got)
	}
}

func TestParseResolve(t *testing.T) {
	addr := netip.MustParseAddr
	got, err := parseResolve([]string{"A.example.=192.0.2.1", "a.example=192.0.2.2,2001:db8::1", "b.example=192.0.2.3"})
	want := map[string][]netip.Addr{
		"a.example": {addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8::1")},
		"b.example": {addr("192.0.2.3")},
	}
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("parseResolve: %s", d)
	}
}

func TestJournalPath(t *testing.T) {
	for _, tt := range []struct {
		name, state, home, want string
	}{
		{"state", "/s", "/h", "/s/sallyport/denials.jsonl"},
		{"home", "", "/h", "/h/.local/state/sallyport/denials.jsonl"},
		{"relative_state", "s", "/h", "/h/.local/state/sallyport/denials.jsonl"},
		{"none", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"XDG_STATE_HOME": tt.state, "HOME": tt.home}
			if got := journalPath(func(k string) string { return env[k] }); got != tt.want {
				t.Errorf("journalPath = %q, want %q", got, tt.want)
			}
		})
	}
}

func denial(host string) event.Event {
	return event.Connection(event.Refuse, event.Who{PID: 1, Exe: "/usr/bin/git"}, event.Where{Host: host, Port: 443},
		event.Verdict{Reason: "no_policy_for_host"})
}

func TestDenialsAreShownOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state", "denials.jsonl")
	var out bytes.Buffer
	s := event.NewSession(event.Origin{Seed: 0x7f3a})
	d := newDenials(&out, path, filepath.Join(dir, "work"))
	for range 3 {
		d.event(s.Stamp(denial("evil.example")))
	}
	d.event(s.Stamp(event.Connection(event.Open, event.Who{}, event.Where{}, event.Verdict{Disposition: event.Allowed})))
	d.event(s.Stamp(denial("worse.example")))
	d.close()
	want := `sallyport: denied  git → evil.example:443  (no rule for host)   sallyport policy explain 7f3a
sallyport: denied  git → worse.example:443  (no rule for host)   sallyport policy explain 59d9
sallyport: 2 more denials of the kinds above; --events FILE records each
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("shown: %s", d)
	}
	for id, host := range map[string]string{"7f3a": "evil.example", "59d9": "worse.example"} {
		e, err := findDenial([]string{path}, id)
		if err != nil || e.DstEndpoint.Hostname != host {
			t.Errorf("findDenial(%s) = %v, %v, want %s", id, e.DstEndpoint, err, host)
		}
	}
}

func TestDenialsAreBounded(t *testing.T) {
	var out bytes.Buffer
	d := newDenials(&out, "", "")
	for i := range maxShown + 100 {
		d.event(denial(fmt.Sprintf("h%d.example", i)))
	}
	d.close()
	if got := strings.Count(out.String(), "denied"); got != maxShown {
		t.Errorf("%d lines, want %d", got, maxShown)
	}
	if !strings.Contains(out.String(), "100 more denials") {
		t.Errorf("what is not shown is not counted: %s", out.String()[out.Len()-100:])
	}
}

// TestJournalOutOfReach: where there can be no journal, no id is shown that
// could not be explained.
func TestJournalOutOfReach(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "symlink")); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"none":              "",
		"below_the_workdir": filepath.Join(dir, "work", "state", "denials.jsonl"),
		"below_a_grant":     filepath.Join(dir, "granted", "state", "denials.jsonl"),
		"no_directory":      filepath.Join(dir, "file", "denials.jsonl"),
		"symlink":           filepath.Join(dir, "symlink"),
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := event.NewSession(event.Origin{})
			d := newDenials(&out, path, filepath.Join(dir, "work"), filepath.Join(dir, "granted"))
			d.event(s.Stamp(denial("evil.example")))
			d.close()
			if want := "sallyport: denied  git → evil.example:443  (no rule for host)\n"; out.String() != want {
				t.Errorf("shown: %q, want %q", out.String(), want)
			}
		})
	}
}

func TestJournalStartsAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "denials.jsonl")
	if err := os.WriteFile(path, make([]byte, maxJournal+1), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDenials(&bytes.Buffer{}, path, "/nowhere")
	d.event(event.NewSession(event.Origin{}).Stamp(denial("evil.example")))
	d.close()
	old, err1 := os.Stat(path + ".old")
	now, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || old.Size() != maxJournal+1 || now.Size() > 4096 || now.Size() == 0 {
		t.Errorf("journal = %v, %v; old = %v, %v", now, err2, old, err1)
	}
}

func TestSayfShowsControlBytes(t *testing.T) {
	var out bytes.Buffer
	sayf(&out, "a\x1b[31m\nb\\c\td\u202e\n\n")
	if want := "sallyport: a\\x1b[31m\nsallyport: b\\c\td\\u202e\n"; out.String() != want {
		t.Errorf("sayf wrote %q, want %q", out.String(), want)
	}
}

func TestNarrowestRule(t *testing.T) {
	const reason = "no_policy_for_host"
	for _, tt := range []struct {
		name, exe, host, reason string
		port                    uint16
		want                    bool
	}{
		{"plain", "/usr/bin/git", "evil.example", reason, 443, true},
		{"refused_address", "/usr/bin/git", "evil.example", "address_refused", 443, false},
		{"unknown_program", "", "evil.example", reason, 443, false},
		{"odd_program", "/tmp/a\nb", "evil.example", reason, 443, false},
		{"glob_in_program", "/tmp/*", "evil.example", reason, 443, false},
		{"odd_host", "/usr/bin/git", "evil\"}.example", reason, 443, false},
		{"wildcard_host", "/usr/bin/git", "*.example", reason, 443, false},
		{"no_port", "/usr/bin/git", "evil.example", reason, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := event.Connection(event.Refuse, event.Who{Exe: tt.exe}, event.Where{Host: tt.host, Port: tt.port}, event.Verdict{Reason: tt.reason})
			if got := narrowestRule(e); (got != "") != tt.want {
				t.Errorf("narrowestRule = %q, want one: %v", got, tt.want)
			}
		})
	}
}

// TestNarrowestRule_query: a rule for a denied request takes the query's keys and no other, and says what is not recorded.
func TestNarrowestRule_query(t *testing.T) {
	const nothingElse, but = "this would allow it and nothing else, beside", "this would allow it and nothing else, but for the values of its query"
	for _, tt := range []struct{ name, query, says, rule string }{
		{"none", "", nothingElse, `allow: {method: "GET", path: "/a", query_exact: true}`},
		{"keys", "q=hunter2&p=1&q=2", but, `allow: {method: "GET", path: "/a", query: {"p": "*", "q": "*"}, query_exact: true}`},
		{"no value", "hunter2", "", ""},
		{"not printable", "a%0Ab=1", "", ""},
		{"too long", "q=1&" + strings.Repeat("k=1&", 300) + "z=1", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := event.Request(event.HTTP{Method: "GET", Path: "/a", RawQuery: tt.query, Scheme: "https"}, event.Who{Exe: "/usr/bin/git"}, event.Where{Host: "a.example", Port: 443},
				event.Verdict{Reason: "request_not_allowed", Detail: `no rule of policy "a" allows GET /a`})
			got := narrowestRule(e)
			if !strings.Contains(got, tt.says) || !strings.Contains(got, tt.rule) || (got == "") != (tt.rule == "") || strings.Contains(got, "hunter2") {
				t.Errorf("narrowestRule = %q, want %q and %q", got, tt.says, tt.rule)
			}
		})
	}
}

func TestJudgeDemo(t *testing.T) {
	alone := demoRun{said: map[string]string{
		"allowed": "200 OK", "denied": "200 OK", "direct": demoConnected, "mptcp": "protocol not supported", "fastopen": demoConnected,
		"beside": demoConnected, "secret": demoSecret, "write": demoWritten,
	}}
	inside := demoRun{said: map[string]string{
		"allowed": "200 OK", "denied": "403 Forbidden", "direct": "connection refused", "mptcp": "protocol not supported", "fastopen": "operation not permitted",
		"beside": "no route to host", "secret": "Permission denied", "write": demoWritten,
	}}
	rows, red := judgeDemo(alone, inside)
	var got []string
	for _, r := range rows {
		got = append(got, r.Verdict+"/"+r.Wall)
	}
	want := []string{"allowed/", "stopped/policy (proxy)", "stopped/gate", "untried/", "stopped/seccomp filter",
		"stopped/another wall than expected", "stopped/Landlock", "ESCAPED/"}
	if d := cmp.Diff(want, got); d != "" || !red {
		t.Errorf("judgeDemo, red %v: %s", red, d)
	}
	inside.said["write"] = "Permission denied"
	if _, red := judgeDemo(alone, inside); red {
		t.Errorf("judgeDemo is red though everything held")
	}
	inside.hits = 1
	if _, red := judgeDemo(alone, inside); !red {
		t.Errorf("judgeDemo believes the script although a server saw it")
	}
}
