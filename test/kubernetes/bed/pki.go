package bed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// identity is one certificate of the cluster, for servers and clients alike.
type identity struct {
	file   string // name of the .crt and .key
	cn     string
	groups []string
	names  []string
	addrs  []string
	config bool // it also gets a kubeconfig
}

var identities = []identity{
	{file: "apiserver", cn: "kube-apiserver",
		names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + Domain},
		addrs: []string{"127.0.0.1", NodeAddress, APIService}},
	{file: "admin", cn: "admin", groups: []string{"system:masters"}, config: true},
	{file: "controller-manager", cn: "system:kube-controller-manager", config: true},
	{file: "scheduler", cn: "system:kube-scheduler", config: true},
	{file: "proxy", cn: "system:kube-proxy", config: true},
	{file: "kubelet", cn: "system:node:" + NodeName, groups: []string{"system:nodes"},
		names: []string{NodeName}, addrs: []string{"127.0.0.1", NodeAddress}, config: true},
}

// authority signs the certificates of one run and is then forgotten.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// writePKI makes keys and certificates that are valid for one day.
func writePKI(d Dirs, now time.Time) error {
	ca, err := newAuthority(d, now)
	if err != nil {
		return fmt.Errorf("bed: certificates: %w", err)
	}
	for _, id := range identities {
		if err := ca.issue(d, id, now); err != nil {
			return fmt.Errorf("bed: certificates: %s: %w", id.file, err)
		}
		if id.config {
			if err := os.WriteFile(d.pki(id.file+".conf"), []byte(kubeconfig(d, id.file)), 0o600); err != nil {
				return fmt.Errorf("bed: %w", err)
			}
		}
	}
	return writeServiceAccountKeys(d)
}

func newAuthority(d Dirs, now time.Time) (*authority, error) {
	key, err := newKey(d.pki("ca.key"))
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bed-ca"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if err := writePEM(d.pki("ca.crt"), "CERTIFICATE", der); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key, serial: 1}, err
}

func (a *authority) issue(d Dirs, id identity, now time.Time) error {
	key, err := newKey(d.pki(id.file + ".key"))
	if err != nil {
		return err
	}
	a.serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: id.cn, Organization: id.groups},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), DNSNames: id.names,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, addr := range id.addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.ParseIP(addr))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	return writePEM(d.pki(id.file+".crt"), "CERTIFICATE", der)
}

func writeServiceAccountKeys(d Dirs) error {
	key, err := newKey(d.pki("sa.key"))
	if err != nil {
		return fmt.Errorf("bed: certificates: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("bed: certificates: %w", err)
	}
	return writePEM(d.pki("sa.pub"), "PUBLIC KEY", der)
}

func newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(file, "EC PRIVATE KEY", der)
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
