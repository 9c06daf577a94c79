package inspect

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
)

// Upstream verifies servers. It is safe for concurrent use.
type Upstream struct {
	base  func() (*tls.Config, error)
	certs map[string]tls.Certificate
}

// UpstreamOptions say what to trust beside the system's roots. The zero value
// trusts nothing else.
type UpstreamOptions struct {
	// CA is PEM with further roots; empty for none.
	CA []byte
	// Certs are client certificates, by the canonical host that may ask for one.
	Certs map[string]tls.Certificate
	// NoSystem leaves the system's roots out; for tests.
	NoSystem bool
}

// NewUpstream makes an Upstream. The system's roots are read when the first
// server is to be verified: it takes some milliseconds.
func NewUpstream(o UpstreamOptions) *Upstream {
	return &Upstream{certs: o.Certs, base: sync.OnceValues(func() (*tls.Config, error) { return base(o) })}
}

func base(o UpstreamOptions) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !o.NoSystem {
		system, err := x509.SystemCertPool()
		if err != nil && len(o.CA) == 0 {
			return nil, fmt.Errorf("inspect: roots of this system: %w", err)
		}
		if err == nil {
			roots = system
		}
	}
	if len(o.CA) > 0 && !roots.AppendCertsFromPEM(o.CA) {
		return nil, errors.New("inspect: no certificate in the PEM of further roots")
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(256)}, nil
}

// Client is the configuration of a TLS client of host, canonical. With h2 it
// offers HTTP/2 before HTTP/1.1. The configuration is the caller's.
func (u *Upstream) Client(host string, h2 bool) (*tls.Config, error) {
	shared, err := u.base()
	if err != nil {
		return nil, err
	}
	c := shared.Clone()
	c.ServerName = host
	c.NextProtos = []string{"http/1.1"}
	if h2 {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	if own, ok := u.certs[host]; ok {
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// LoadCert reads a client certificate and its key, both PEM. The key may be in
// the file of the certificate.
func LoadCert(certFile, keyFile string) (tls.Certificate, error) {
	if keyFile == "" {
		keyFile = certFile
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return cert, fmt.Errorf("client certificate %s: %w", certFile, err)
	}
	return cert, nil
}

// ReadCA reads PEM with further roots.
func ReadCA(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return b, nil
}
