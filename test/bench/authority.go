package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is a certificate authority whose key lies in files, for the peers
// that end TLS and for the origin. Every key is ECDSA P-256, sallyport's choice.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string // file of the certificate
	both string // file of certificate and key
}

func newAuthority(dir string) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sallyport bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	check(err)
	cert, err := x509.ParseCertificate(der)
	check(err)
	a := authority{cert, key, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-and-key.pem")}
	check(os.WriteFile(a.pem, pemOf("CERTIFICATE", der), 0o644))
	a.write(a.both, der, key)
	return a
}

// issue writes a certificate of its own key for names and loopback.
func (a authority) issue(file string, names ...string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	a.write(file, a.sign(key, names...), key)
}

func (a authority) sign(key *ecdsa.PrivateKey, names ...string) []byte {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	check(err)
	return der
}

func (a authority) write(file string, der []byte, key *ecdsa.PrivateKey) {
	b, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	// The peers give up root, and the key vouches for nothing but this run.
	check(os.WriteFile(file, append(pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", b)...), 0o644))
}

func pemOf(kind string, b []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
}

// trust is a TLS client's configuration with the roots of a file, or with those
// of this system, which SSL_CERT_FILE names, where file is empty.
func trust(file string) *tls.Config {
	cfg := &tls.Config{}
	if file != "" {
		b, err := os.ReadFile(file)
		check(err)
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM(b)
	}
	return cfg
}
