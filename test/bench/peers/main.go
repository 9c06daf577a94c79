// Command peers serves as one of the proxies that sallyport is compared with.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/elazarl/goproxy"
	"github.com/sirupsen/logrus"
	"github.com/stripe/smokescreen/pkg/smokescreen"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr())
	switch os.Args[1] {
	case "goproxy":
		p := goproxy.NewProxyHttpServer()
		p.Logger = log.New(io.Discard, "", 0)
		go http.Serve(l, p)
	case "goproxy-mitm":
		p, err := mitm(os.Args[2], os.Args[3])
		if err != nil {
			log.Fatal(err)
		}
		go http.Serve(l, p)
	case "smokescreen":
		logrus.SetOutput(io.Discard)
		c := smokescreen.NewConfig()
		c.Log.SetOutput(io.Discard)
		c.Listener = l
		c.AllowMissingRole = true
		if err := c.SetAllowAddresses([]string{"127.0.0.1"}); err != nil {
			log.Fatal(err)
		}
		go smokescreen.StartWithConfig(c, nil)
	}
	io.Copy(io.Discard, os.Stdin)
}

// mitm is a goproxy that ends every TLS connection with certificates of the
// authority in one file, keeps them, and trusts the roots in another.
func mitm(authority, roots string) (*goproxy.ProxyHttpServer, error) {
	ca, err := tls.LoadX509KeyPair(authority, authority)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	p := goproxy.NewProxyHttpServer()
	p.Logger = log.New(io.Discard, "", 0)
	p.AllowHTTP2 = true
	p.CertStore = &certs{kept: map[string]*tls.Certificate{}}
	p.Tr = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 4096, ForceAttemptHTTP2: true}
	action := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(&ca)}
	p.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) { return action, host })
	return p, nil
}

// certs keeps the certificate of each name.
type certs struct {
	mu   sync.Mutex
	kept map[string]*tls.Certificate
}

func (c *certs) Fetch(host string, make func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert := c.kept[host]; cert != nil {
		return cert, nil
	}
	cert, err := make()
	if err == nil {
		c.kept[host] = cert
	}
	return cert, err
}
