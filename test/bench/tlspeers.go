package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tlsPeer is another proxy that ends TLS with certificates of an authority.
type tlsPeer struct {
	name string
	cmd  *exec.Cmd
	addr string // where it listens; empty: it says so itself
	h1   bool
}

// squidConf makes squid end every TLS connection before it has one with the
// server, keep what it needs for it in memory, and cache nothing.
const squidConf = `http_port %s ssl-bump tls-cert=%s generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program %s -s %s/ssl_db -M 4MB
sslcrtd_children 2 startup=1
ssl_bump bump all
tls_outgoing_options cafile=%s
http_access allow all
access_log none
cache_log %s/squid.log
cache deny all
cache_mem 0
pid_filename none
coredump_dir %s
netdb_filename none
shutdown_lifetime 0 seconds
visible_hostname bench
`

const certgen = "/usr/lib/squid/security_file_certgen"

// tlsPeers are those that are installed.
func tlsPeers(dir string, ca authority) (all []tlsPeer) {
	bin := filepath.Join(dir, "peers")
	if len(peers(dir)) > 0 {
		all = append(all, tlsPeer{name: "goproxy, MITM", cmd: exec.Command(bin, "goproxy-mitm", ca.both, ca.pem)})
	}
	if missing := absent("squid", certgen); missing != "" {
		fmt.Fprintf(os.Stderr, "bench: squid is left out: %s is not installed (squid-openssl)\n", missing)
	} else {
		all = append(all, squid(filepath.Join(dir, "squid"), ca))
	}
	if missing := absent("mitmdump"); missing != "" {
		fmt.Fprintln(os.Stderr, "bench: mitmproxy is left out: it is not installed (mitmproxy)")
		return all
	}
	home := filepath.Join(dir, "mitmproxy")
	check(os.MkdirAll(home, 0o700))
	both, err := os.ReadFile(ca.both)
	check(err)
	check(os.WriteFile(filepath.Join(home, "mitmproxy-ca.pem"), both, 0o600))
	addr := free()
	_, port, _ := net.SplitHostPort(addr)
	return append(all, tlsPeer{name: "mitmproxy", addr: addr, cmd: exec.Command("mitmdump", "-q", "--listen-host", "127.0.0.1", "-p", port,
		"--set", "confdir="+home, "--set", "ssl_verify_upstream_trusted_ca="+ca.pem, "--set", "stream_large_bodies=1m")})
}

func squid(home string, ca authority) tlsPeer {
	check(os.MkdirAll(home, 0o777))
	check(os.Chmod(home, 0o777)) // root's squid is somebody else
	run(exec.Command(certgen, "-c", "-s", filepath.Join(home, "ssl_db"), "-M", "4MB"))
	check(filepath.Walk(filepath.Join(home, "ssl_db"), func(name string, i os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if i.IsDir() {
			return os.Chmod(name, 0o777)
		}
		return os.Chmod(name, 0o666)
	}))
	addr, conf := free(), filepath.Join(home, "squid.conf")
	check(os.WriteFile(conf, fmt.Appendf(nil, squidConf, addr, ca.both, certgen, home, ca.pem, home, home), 0o644))
	return tlsPeer{name: "squid, ssl-bump", addr: addr, h1: true, cmd: exec.Command("squid", "-N", "-f", conf)}
}

// absent is the first of some programs that is not installed.
func absent(programs ...string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
}

// free is an address that nobody listens on.
func free() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer l.Close()
	return l.Addr().String()
}

// start starts the peer and gives its address and its process.
func (p tlsPeer) start(self string) (addr string, pid int, stop func()) {
	if p.addr == "" {
		addr, stop = serve(p.cmd)
		return addr, p.cmd.Process.Pid, stop
	}
	line, stop := serve(exec.Command(self, append([]string{"role", "guard", p.addr}, p.cmd.Args...)...))
	addr, id, _ := strings.Cut(line, " ")
	pid, err := strconv.Atoi(id)
	check(err)
	return addr, pid, stop
}

// guard starts a server that knows nothing of us, args[1:], says where it is and
// which process once it listens on args[0], and ends it with its own input.
func guard(args []string) error {
	c := exec.Command(args[1], args[2:]...)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		return err
	}
	defer c.Wait()
	defer c.Process.Kill()
	var err error
	for range 600 {
		var up net.Conn
		if up, err = net.Dial("tcp", args[0]); err == nil {
			up.Close()
			fmt.Println(args[0], c.Process.Pid)
			io.Copy(io.Discard, os.Stdin)
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
