// Command client is a Go program that knows no more than its standard library:
// the agent of tests that ask how Go's own resolver and HTTP client fare.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: client get URL | client lookup NAME | client lookup-tcp NAME")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what, arg string) error {
	switch what {
	case "get":
		r, err := http.Get(arg)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(os.Stdout, r.Body)
		return err
	case "lookup", "lookup-tcp":
		own := net.Resolver{PreferGo: true}
		if what == "lookup-tcp" {
			own.Dial = func(ctx context.Context, _, server string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", server)
			}
		}
		addrs, err := own.LookupHost(context.Background(), arg)
		if err == nil {
			fmt.Println(addrs)
		}
		return err
	}
	return fmt.Errorf("unknown: %s", what)
}
