// Command peers serves as one of the proxies that sallyport is compared with.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

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
