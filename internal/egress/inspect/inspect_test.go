package inspect

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func authority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// handshake connects a client and a server and gives what the client came to.
func handshake(t testing.TB, client, server *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := tls.Server(b, server)
		s.Handshake()
		s.Close()
	}()
	c := tls.Client(a, client)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	err = c.Handshake()
	state := c.ConnectionState()
	a.Close()
	<-done
	return state, err
}

func TestLeaf(t *testing.T) {
	a := authority(t)
	for _, host := range []string{"api.example.com", "10.1.2.3", "2001:db8::1", "under_score.example", strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + ".example"} {
		cfg, err := a.Server(host, false)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(a.PEM())
		if _, err := handshake(t, &tls.Config{RootCAs: roots, ServerName: host}, cfg); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if _, err := handshake(t, &tls.Config{RootCAs: roots, ServerName: "other.example"}, cfg); err == nil {
			t.Errorf("the certificate of %s is good for other.example", host)
		}
		again, _ := a.Server(host, false)
		if again != cfg {
			t.Errorf("%s: the leaf is not kept", host)
		}
	}
}

// TestServerOnHost: a client on this host spends nothing on a hybrid key exchange, and one that knows no other has it.
func TestServerOnHost(t *testing.T) {
	a := authority(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	front := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { return a.ServerOnHost(h, "api.example.com", false) }}
	other, err := a.Server("api.example.com", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why    string
		knows  []tls.CurveID
		server *tls.Config
		want   tls.CurveID
	}{
		{"all", nil, front, tls.X25519},
		{"all, of a server elsewhere", nil, other, tls.X25519MLKEM768},
		{"only hybrid ones", []tls.CurveID{tls.X25519MLKEM768}, front, tls.X25519MLKEM768},
		{"only one of the old", []tls.CurveID{tls.CurveP521}, front, tls.CurveP521},
	} {
		state, err := handshake(t, &tls.Config{RootCAs: roots, ServerName: "api.example.com", CurvePreferences: c.knows}, c.server)
		if err != nil || state.CurveID != c.want {
			t.Errorf("a client that knows %s: %v, %v, want %v", c.why, state.CurveID, err, c.want)
		}
	}
}

// TestLeafCannotSign: what is issued for a host makes no authority.
func TestLeafCannotSign(t *testing.T) {
	a := authority(t)
	cfg, err := a.Server("api.example.com", false)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cfg.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 || len(leaf.DNSNames) != 1 || len(leaf.AuthorityKeyId) == 0 {
		t.Errorf("leaf: CA %v, usage %v, names %v", leaf.IsCA, leaf.KeyUsage, leaf.DNSNames)
	}
	if !a.cert.MaxPathLenZero || a.cert.MaxPathLen != 0 {
		t.Error("the authority may have others below it")
	}
}

// TestLeavesAreBounded: as many as may be are kept; with one more all are forgotten, and made again.
func TestLeavesAreBounded(t *testing.T) {
	a := authority(t)
	leaf := func(i int) *tls.Config {
		t.Helper()
		c, err := a.Server(fmt.Sprintf("h%d.example", i/2), i%2 == 0)
		if err != nil || len(a.leaves) > maxLeaves {
			t.Fatalf("leaf %d: %v; %d are kept, the bound is %d", i, err, len(a.leaves), maxLeaves)
		}
		return c
	}
	first := leaf(0)
	for i := range maxLeaves {
		leaf(i)
	}
	if leaf(0) != first || len(a.leaves) != maxLeaves {
		t.Errorf("at the bound %d are kept, want %d with the first one among them", len(a.leaves), maxLeaves)
	}
	leaf(maxLeaves)
	if leaf(0) == first || len(a.leaves) != 2 {
		t.Errorf("beyond it %d are kept, want two that are new", len(a.leaves))
	}
}

func TestUpstreamVerifies(t *testing.T) {
	good, bad := authority(t), authority(t)
	up := NewUpstream(UpstreamOptions{CA: good.PEM(), NoSystem: true})
	for _, c := range []struct {
		why  string
		from *Authority
		name string
		ok   bool
	}{
		{"right", good, "api.example.com", true},
		{"another name", good, "other.example.com", false},
		{"another authority", bad, "api.example.com", false},
	} {
		server, err := c.from.Server(c.name, true)
		if err != nil {
			t.Fatal(err)
		}
		client, err := up.Client("api.example.com", true)
		if err != nil {
			t.Fatal(err)
		}
		state, err := handshake(t, client, server)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.why, err)
		}
		var refused *tls.CertificateVerificationError
		if !c.ok && !errors.As(err, &refused) {
			t.Errorf("%s: %v, want a certificate that was refused", c.why, err)
		}
		if c.ok && state.NegotiatedProtocol != "h2" {
			t.Errorf("protocol %q, want h2", state.NegotiatedProtocol)
		}
	}
}

// TestClientCertificateGoesToItsHostOnly is mutual TLS with one host and not
// with another that asks for it, too.
func TestClientCertificateGoesToItsHostOnly(t *testing.T) {
	world, own := authority(t), authority(t)
	cert, err := own.Server("agent.example", false)
	if err != nil {
		t.Fatal(err)
	}
	up := NewUpstream(UpstreamOptions{CA: world.PEM(), NoSystem: true, Certs: map[string]tls.Certificate{"mtls.example": cert.Certificates[0]}})
	for host, want := range map[string]int{"mtls.example": 1, "other.example": 0} {
		server, err := world.Server(host, false)
		if err != nil {
			t.Fatal(err)
		}
		server = server.Clone()
		server.ClientAuth = tls.RequestClientCert
		shown := -1
		server.VerifyPeerCertificate = nil
		server.VerifyConnection = func(s tls.ConnectionState) error { shown = len(s.PeerCertificates); return nil }
		client, err := up.Client(host, false)
		if err != nil {
			t.Fatal(err)
		}
		client.MaxVersion = tls.VersionTLS12 // the handshake ends after the server has seen it
		if _, err := handshake(t, client, server); err != nil {
			t.Fatal(err)
		}
		if shown != want {
			t.Errorf("%s was shown %d certificates, want %d", host, shown, want)
		}
	}
}

// TestKeystore asks Java's own tool to read what was written.
func TestKeystore(t *testing.T) {
	a, b := authority(t), authority(t)
	pems := append(bytes.Clone(a.PEM()), b.PEM()...)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if store, err := Keystore(ended, pems); err == nil {
		t.Errorf("Keystore that nobody wants any more = %d bytes, want an error", len(store))
	}
	store, err := Keystore(t.Context(), pems)
	if err != nil {
		t.Fatal(err)
	}
	keytool, err := exec.LookPath("keytool")
	if err != nil {
		t.Skip("keytool is not installed (openjdk)")
	}
	name := filepath.Join(t.TempDir(), "store.jks")
	if err := os.WriteFile(name, store, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keytool, "-list", "-storetype", "jks", "-storepass", KeystorePassword, "-keystore", name).CombinedOutput()
	if err != nil || strings.Count(string(out), "trustedCertEntry") != 2 {
		t.Errorf("keytool: %v\n%s", err, out)
	}
	store[len(store)/2] ^= 1
	if err := os.WriteFile(name, store, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(keytool, "-list", "-storetype", "jks", "-storepass", KeystorePassword, "-keystore", name).CombinedOutput(); err == nil {
		t.Errorf("keytool accepts a store with a wrong digest:\n%s", out)
	}
}

func BenchmarkLeaf(b *testing.B) {
	a := authority(b)
	for b.Loop() {
		if _, err := a.issue(leafName{host: "api.example.com", h2: true}); err != nil {
			b.Fatal(err)
		}
	}
}
