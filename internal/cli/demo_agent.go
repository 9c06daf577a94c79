package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// demoScript is the agent of the demo. $try is this program, which makes the
// connections that no shell can make; the addresses are in the environment.
const demoScript = `#!/bin/sh
# An agent that behaves once and then tries to get out. It runs twice: on its
# own, and in the sandbox.
say() { printf '%s\t%s\n' "$1" "$2"; }

say allowed  "$("$try" demo-agent get http://hello.example/ "$origin")"
say denied   "$("$try" demo-agent get http://evil.example/ "$origin")"
say direct   "$("$try" demo-agent connect "$trap")"
say mptcp    "$("$try" demo-agent mptcp "$trap")"
say fastopen "$("$try" demo-agent fastopen "$trap")"
say beside   "$("$try" demo-agent connect "$beside")"

if out=$(cat "$secret" 2>&1); then out="read: $out"; fi
say secret   "${out##*: }"

if out=$( (echo planted >"$outside/planted") 2>&1); then out=written; fi
say write    "${out##*: }"
`

// The words of an attempt that got through.
const (
	demoConnected = "connected"
	demoWritten   = "written"
	demoSecret    = "the secret"
)

// demoMark is what an attempt sends when it gets through, so that the servers
// of the demo can tell.
const demoMark = "out\n"

const (
	ipprotoMPTCP = 262
	msgFastOpen  = 0x20000000
)

// newDemoAgent is the hidden command behind $try. It prints what became of one
// attempt, in one line.
func newDemoAgent(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:    "demo-agent",
		Hidden: true,
		Args:   cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			var out string
			var err error
			if args[0] == "get" {
				out, err = demoGet(ctx, args[1], args[len(args)-1])
			} else {
				out, err = demoConnect(args[0], args[1])
			}
			var errno syscall.Errno
			switch {
			case errors.As(err, &errno):
				out = errno.Error()
			case err != nil:
				out = err.Error()
			}
			fmt.Fprintln(s.Out, out)
			return nil
		},
	}
}

// demoGet asks for a URL the way programs do: through the proxy if the
// environment names one, else at the address that the name stands for.
func demoGet(ctx context.Context, target, at string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", err
	}
	var d net.Dialer
	tr := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasPrefix(addr, req.URL.Hostname()+":") {
				addr = at
			}
			return d.DialContext(ctx, network, addr)
		},
	}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return resp.Status, nil
}

// demoConnect makes one TCP connection in one of three ways.
func demoConnect(how, target string) (string, error) {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return "", err
	}
	proto := 0
	if how == "mptcp" {
		proto = ipprotoMPTCP
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, proto)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	sa := &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	switch how {
	case "connect", "mptcp":
		if err := syscall.Connect(fd, sa); err != nil {
			return "", err
		}
		_, err = f.WriteString(demoMark)
	case "fastopen":
		err = syscall.Sendto(fd, []byte(demoMark), msgFastOpen, sa)
	default:
		err = usagef("no attempt is called %q", how)
	}
	return demoConnected, err
}
