package supervisor

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/egress/inspect"
)

func TestTrust(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	roots := filepath.Join(t.TempDir(), "roots.pem")
	system, err := inspect.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(roots, system.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", roots)
	own, err := inspect.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrust(func() (*inspect.Authority, error) { return own, nil }, nil)
	if err := tr.ready(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]*inspect.Authority{authorityFile: {own}, bundleFile: {system, own}} {
		b, err := os.ReadFile(filepath.Join(tr.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range want {
			if !strings.Contains(string(b), string(a.PEM())) {
				t.Errorf("%s lacks a certificate", name)
			}
		}
		if strings.Contains(string(b), "PRIVATE KEY") || !x509.NewCertPool().AppendCertsFromPEM(b) {
			t.Errorf("%s holds a key, or no certificate", name)
		}
	}
	<-tr.done
	env := map[string]string{}
	tr.environment(env)
	for name, value := range env {
		for part := range strings.FieldsSeq(value) {
			_, file, _ := strings.Cut(part, "=")
			if name != "JAVA_TOOL_OPTIONS" {
				file = part
			}
			if _, err := os.Stat(file); err != nil && strings.HasPrefix(file, "/") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	tr.close()
	if _, err := os.Stat(tr.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// TestTrustOfKilledSessionsIsRemoved: a session that was killed leaves its
// directory, and the next one removes it; one that lives keeps it.
func TestTrustOfKilledSessionsIsRemoved(t *testing.T) {
	parent := t.TempDir()
	old := time.Now().Add(-time.Hour)
	dirs := map[string]bool{"dead": true, "alive": false, "new": false}
	for name := range dirs {
		dir := filepath.Join(parent, trustPrefix+name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if name != "new" {
			if err := os.Chtimes(dir, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	lock, err := lockDir(filepath.Join(parent, trustPrefix+"alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	removeStale(parent)
	for name, gone := range dirs {
		if _, err := os.Stat(filepath.Join(parent, trustPrefix+name)); os.IsNotExist(err) != gone {
			t.Errorf("%s: gone = %v, want %v", name, os.IsNotExist(err), gone)
		}
	}
}

// TestTrustFollowsNoLink: the last file is written while the agent runs, which may
// be able to write where the directory is. What the agent may not write itself must not be
// written for it.
func TestTrustFollowsNoLink(t *testing.T) {
	parent, outside := t.TempDir(), t.TempDir()
	mine := filepath.Join(outside, "mine")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := func(name string) *trust {
		t.Helper()
		tr := &trust{dir: filepath.Join(parent, name)}
		if err := os.Mkdir(tr.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if tr.lock, err = lockDir(tr.dir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tr.lock.Close() })
		return tr
	}
	tr := fresh("honest")
	if err := tr.write("a.pem", []byte("roots")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(tr.dir, "a.pem")); err != nil || string(b) != "roots" {
		t.Fatalf("written: %q, %v", b, err)
	}

	tr = fresh("file")
	if err := os.Symlink(mine, filepath.Join(tr.dir, "a.pem.new")); err != nil {
		t.Fatal(err)
	}
	if err := tr.write("a.pem", []byte("roots")); err == nil {
		t.Error("a link in the file's place was followed")
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("a file outside holds %q, %v", b, err)
	}

	tr = fresh("directory")
	if err := errors.Join(os.Rename(tr.dir, tr.dir+".moved"), os.Symlink(outside, tr.dir)); err != nil {
		t.Fatal(err)
	}
	if err := tr.write("a.pem", []byte("roots")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(outside, "a.pem")); err == nil {
		t.Error("a link in the directory's place was followed")
	}
}

// TestLockDirDoesNotWait: a pipe under the name of a session's directory would be
// waited for, for ever, by who opens it.
func TestLockDirDoesNotWait(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := lockDir(pipe)
		failed <- err
	}()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("a pipe was taken for a directory")
		}
	case <-time.After(aWhile):
		t.Error("still waiting for somebody to write to the pipe")
		unix.Unlink(pipe)
	}
}

func TestParseUpstreamCert(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "none.pem")
	for _, text := range []string{"", "host", "host=", "=" + key, "a b=" + key, "api.example.com=" + key, "api.example.com=" + key + "," + key} {
		if _, _, err := parseUpstreamCert(text); err == nil {
			t.Errorf("parseUpstreamCert(%q) = no error", text)
		}
	}
	pair := filepath.Join(dir, "pair.pem")
	a, err := inspect.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := a.Server("agent.example", false)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cfg.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cfg.Certificates[0].Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	if err := os.WriteFile(pair, text, 0o600); err != nil {
		t.Fatal(err)
	}
	host, cert, err := parseUpstreamCert("API.example.com=" + pair)
	if err != nil || host != "api.example.com" || len(cert.Certificate) != 1 {
		t.Errorf("parseUpstreamCert = %q, %d certificates, %v", host, len(cert.Certificate), err)
	}
}
