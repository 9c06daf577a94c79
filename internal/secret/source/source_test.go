package source

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that a test moves.
type clock struct{ t time.Time }

func newClock() *clock               { return &clock{time.Unix(1e9, 0)} }
func (c *clock) now() time.Time      { return c.t }
func (c *clock) add(d time.Duration) { c.t = c.t.Add(d) }

func want(t *testing.T, s *Source, text string) {
	t.Helper()
	v, err := s.Value(t.Context())
	if err != nil || v.Reveal() != text {
		t.Fatalf("Value = %q, %v, want %q", v.Reveal(), err, text)
	}
}

func wantError(t *testing.T, s *Source, text string) {
	t.Helper()
	v, err := s.Value(t.Context())
	if err == nil || !strings.Contains(err.Error(), text) || v.Reveal() != "" {
		t.Fatalf("Value = %q, %v, want no value and an error with %q", v.Reveal(), err, text)
	}
}

func TestEnv(t *testing.T) {
	env := map[string]string{"KEY": "value-of-key"}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	s := Env("KEY", lookup, newClock().now)
	want(t, s, "value-of-key")
	wantError(t, Env("NONE", lookup, newClock().now), "environment variable NONE: it is not set")
	s.Refused()
	want(t, s, "value-of-key")
}

// TestFileChanges replaces a file in the ways that people and mounts do.
func TestFileChanges(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	path := filepath.Join(dir, "key")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "first-secret\n")
	s := File(path, c.now)
	want(t, s, "first-secret")
	write(path, "second-secret-longer\r\n")
	want(t, s, "second-secret-longer")
	write(path+".new", "third-secret-renamed")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	want(t, s, "third-secret-renamed")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantError(t, s, "file "+path+": no such file")
	write(path, "fourth-secret")
	wantError(t, s, "no such file") // the error stands for a while
	c.add(quietAfterError)
	want(t, s, "fourth-secret")
	write(path, "bad\x00secret-in-file")
	wantError(t, s, "no control bytes")
}

func TestFileRefuses(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	os.WriteFile(long, []byte(strings.Repeat("x", secret.MaxSize+10)), 0o600)
	short := filepath.Join(dir, "short")
	os.WriteFile(short, []byte("123\n"), 0o600)
	two := filepath.Join(dir, "two")
	os.WriteFile(two, []byte("first-line\nsecond\n"), 0o600)
	for _, c := range []struct{ path, want string }{
		{dir, "not a regular file"}, {"/dev/zero", "not a regular file"}, {long, "at most"}, {short, "at least"}, {two, "no control bytes"},
	} {
		wantError(t, File(c.path, newClock().now), c.want)
	}
}

func TestCommand(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	dir, c := t.TempDir(), newClock()
	counter := filepath.Join(dir, "n")
	script := `echo x >> ` + counter + `; echo "run-number-$(grep -c x ` + counter + `)-$GIVEN"; echo noise >&2`
	s := Command([]string{sh, "-c", script}, []string{"GIVEN=yes", "PATH=" + os.Getenv("PATH")}, time.Minute, c.now)
	want(t, s, "run-number-1-yes")
	want(t, s, "run-number-1-yes")
	c.add(59 * time.Second)
	want(t, s, "run-number-1-yes")
	c.add(2 * time.Second)
	want(t, s, "run-number-2-yes")
	s.Refused() // too young for a refusal to mean anything
	want(t, s, "run-number-2-yes")
	c.add(quietAfterRefused)
	s.Refused()
	want(t, s, "run-number-3-yes")
	s.Refused()
	want(t, s, "run-number-3-yes")
}

func TestCommandFails(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	for _, c := range []struct{ script, want string }{
		{"echo secret-in-output; exit 3", "exit status 3"},
		{"printf short", "at least"},
		{"printf 'two\\nlines-of-text'", "no control bytes"},
		{"yes secret", "at most"},
		{"kill -9 $$", "signal: killed"},
	} {
		s := Command([]string{sh, "-c", c.script}, []string{"PATH=" + os.Getenv("PATH")}, time.Minute, newClock().now)
		_, err := s.Value(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret-in-output") {
			t.Errorf("%s: %v, want %q and nothing of its output", c.script, err, c.want)
		}
	}
	wantError(t, Command([]string{"/nonexistent/x"}, nil, time.Minute, newClock().now), "no such file")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Command([]string{sh, "-c", "sleep 100"}, nil, time.Minute, newClock().now).Value(ctx); err == nil {
		t.Error("a command outlived its context")
	}
}

// TestFailsClosed: a secret that was good is not used beyond its time when it
// cannot be had anew.
func TestFailsClosed(t *testing.T) {
	c := newClock()
	var fail error
	s := Func("keyring x", func(context.Context) ([]byte, error) { return []byte("good-secret"), fail }, time.Minute, c.now)
	want(t, s, "good-secret")
	fail = errors.New("locked")
	c.add(30 * time.Second)
	want(t, s, "good-secret")
	c.add(31 * time.Second)
	wantError(t, s, "keyring x: locked")
	fail = nil
	wantError(t, s, "locked")
	c.add(quietAfterError)
	want(t, s, "good-secret")
}

func TestWipe(t *testing.T) {
	b := []byte("good-secret")
	s := Func("x", func(context.Context) ([]byte, error) { return b, nil }, 0, newClock().now)
	want(t, s, "good-secret")
	s.Wipe()
	if strings.Trim(string(b), "\x00") != "" {
		t.Errorf("left %q", b)
	}
	wantError(t, s, "ended")
}
