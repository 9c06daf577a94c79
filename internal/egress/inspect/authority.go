package inspect

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"
)

// How long certificates are good for. A sandbox that outlives a leaf gets a new
// one at half of its life.
const (
	authorityLife = 397 * 24 * time.Hour
	leafLife      = 30 * 24 * time.Hour
	clockSkew     = time.Hour // of programs whose clock is behind
)

// maxLeaves bounds the cache of leaves, about 4 KiB each. A full cache forgets
// all of them: a new one costs a tenth of a millisecond.
const maxLeaves = 1024

// Authority is a certificate authority for one session. It is safe for
// concurrent use.
type Authority struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	leafKey *ecdsa.PrivateKey // of every leaf
	pem     []byte

	mu     sync.Mutex
	leaves map[leafName]*leaf
}

// leafName is what a leaf is filed under. The protocols are part of it, so that
// everything that TLS keeps for one name is shared.
type leafName struct {
	host       string
	h2, hybrid bool
}

type leaf struct {
	once   sync.Once
	config *tls.Config
	err    error
	until  time.Time
}

// NewAuthority makes an authority with a key of its own.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("inspect: key of the authority: %w", err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("inspect: key of the leaves: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Sallyport"}, CommonName: "Sallyport session " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:    now.Add(-clockSkew), NotAfter: now.Add(authorityLife),
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("inspect: certificate of the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("inspect: certificate of the authority: %w", err)
	}
	return &Authority{
		cert: cert, key: key, leafKey: leafKey, leaves: map[leafName]*leaf{},
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// PEM is the certificate that the agent is to trust. It is not to be changed.
func (a *Authority) PEM() []byte { return a.pem }

// classic are the key exchanges for a client on this host that knows one of them:
// nobody records what it sends for a quantum computer to read, and a hybrid
// exchange is a good part of a handshake's cost.
var classic = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}

// Server is the configuration of a TLS server that stands in for host, a
// canonical name or address. With h2 it prefers HTTP/2. The configuration is
// shared and not to be changed.
func (a *Authority) Server(host string, h2 bool) (*tls.Config, error) {
	return a.server(leafName{host, h2, true})
}

// ServerOnHost is Server for a client on this host, which said hello.
func (a *Authority) ServerOnHost(hello *tls.ClientHelloInfo, host string, h2 bool) (*tls.Config, error) {
	known := slices.ContainsFunc(hello.SupportedCurves, func(c tls.CurveID) bool { return slices.Contains(classic, c) })
	return a.server(leafName{host, h2, !known})
}

func (a *Authority) server(name leafName) (*tls.Config, error) {
	now := time.Now()
	a.mu.Lock()
	l := a.leaves[name]
	if l == nil || now.After(l.until) {
		if len(a.leaves) >= maxLeaves {
			clear(a.leaves)
		}
		l = &leaf{until: now.Add(leafLife / 2)}
		a.leaves[name] = l
	}
	a.mu.Unlock()
	l.once.Do(func() { l.config, l.err = a.issue(name) })
	return l.config, l.err
}

// issue makes the certificate of one name.
func (a *Authority) issue(n leafName) (*tls.Config, error) {
	der, err := a.sign(n.host)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: a.leafKey}}, // who trusts the authority has its certificate
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}
	if n.h2 {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	if !n.hybrid {
		c.CurvePreferences = classic
	}
	return c, nil
}

func (a *Authority) sign(host string) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Sallyport"}},
		NotBefore:    now.Add(-clockSkew), NotAfter: now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},

		BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.leafKey.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("inspect: certificate for %q: %w", host, err)
	}
	return der, nil
}

// newSerial is a random serial number, positive and of at most 16 bytes.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("inspect: serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and never short
	return new(big.Int).SetBytes(b), nil
}
