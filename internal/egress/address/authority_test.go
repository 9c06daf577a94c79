package address

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func TestParseAuthority(t *testing.T) {
	for _, c := range []struct {
		why, in string
		def     uint16
		host    string
		port    uint16
	}{
		{"name and port", "api.example.com:443", 0, "api.example.com", 443},
		{"default port", "api.example.com", 80, "api.example.com", 80},
		{"upper case", "API.Example.COM:443", 0, "api.example.com", 443},
		{"one trailing dot", "api.example.com.:443", 0, "api.example.com", 443},
		{"IPv4", "192.0.2.7:8080", 0, "192.0.2.7", 8080},
		{"IPv6", "[2001:DB8:0::1]:443", 0, "2001:db8::1", 443},
		{"IPv6 without port", "[2001:db8::1]", 80, "2001:db8::1", 80},
		{"mapped IPv6 is IPv4", "[::ffff:127.0.0.1]:80", 0, "127.0.0.1", 80},
		{"highest port", "a.example:65535", 0, "a.example", 65535},
		{"single label", "localhost:3000", 0, "localhost", 3000},
	} {
		t.Run(c.why, func(t *testing.T) {
			host, port, err := ParseAuthority(c.in, c.def)
			if err != nil || host != c.host || port != c.port {
				t.Errorf("ParseAuthority(%q) = %q, %d, %v, want %q, %d", c.in, host, port, err, c.host, c.port)
			}
		})
	}
}

func TestParseAuthorityRefuses(t *testing.T) {
	for why, in := range map[string]string{
		"empty":                   "",
		"no host":                 ":443",
		"no port":                 "a.example",
		"empty port":              "a.example:",
		"port 0":                  "a.example:0",
		"port with a zero":        "a.example:0443",
		"port with a plus":        "a.example:+443",
		"port with a minus":       "a.example:-1",
		"port with a space":       "a.example: 443",
		"port too large":          "a.example:65536",
		"port that wraps":         "a.example:4295032755",
		"port in hex":             "a.example:0x1bb",
		"port in other digits":    "a.example:４４３",
		"service name":            "a.example:https",
		"two ports":               "a.example:443:443",
		"userinfo":                "user@a.example:443",
		"userinfo with password":  "user:pass@a.example:443",
		"host in userinfo":        "a.example:443@evil.example:443",
		"path":                    "a.example:443/x",
		"path before port":        "a.example/x:443",
		"fragment":                "a.example#b:443",
		"query":                   "a.example?b:443",
		"backslash":               `a.example\b:443`,
		"NUL":                     "a.example\x00.evil:443",
		"newline":                 "a.example\r\n:443",
		"tab":                     "a.\texample:443",
		"DEL":                     "a.\x7fexample:443",
		"percent-encoded":         "a%2eexample:443",
		"two trailing dots":       "a.example..:443",
		"leading dot":             ".a.example:443",
		"wildcard":                "*.example:443",
		"only a dot":              ".:443",
		"label too long":          strings.Repeat("a", 64) + ".example:443",
		"name too long":           strings.Repeat("a.", 127) + "toolong:443",
		"IPv4 as one number":      "2130706433:80",
		"IPv4 in hex":             "0x7f000001:80",
		"IPv4 in hex parts":       "0x7f.0.0.1:80",
		"IPv4 in octal":           "0177.0.0.1:80",
		"IPv4 in short form":      "127.1:80",
		"IPv4 with five parts":    "127.0.0.0.1:80",
		"IPv4 with a zero":        "127.0.0.01:80",
		"IPv4 with a hex end":     "127.0.0.0x1:80",
		"IPv4 in brackets":        "[127.0.0.1]:80",
		"name in brackets":        "[a.example]:80",
		"IPv6 without brackets":   "2001:db8::1:80",
		"IPv6 with a zone":        "[fe80::1%eth0]:80",
		"IPv6 with encoded zone":  "[fe80::1%25eth0]:80",
		"IPv6 open bracket":       "[2001:db8::1:80",
		"IPv6 junk after bracket": "[2001:db8::1]x:80",
		"IPv6 port without colon": "[2001:db8::1]80",
		"IPv6 empty":              "[]:80",
		"IPvFuture":               "[v1.x]:80",
		"not UTF-8":               "\xbc:443",
		"longer than anything":    strings.Repeat("a", 2000),
	} {
		t.Run(why, func(t *testing.T) {
			host, port, err := ParseAuthority(in, 0)
			if !errors.Is(err, ErrAuthority) {
				t.Errorf("ParseAuthority(%q) = %q, %d, %v, want an error", in, host, port, err)
			}
		})
	}
}

func FuzzParseAuthority(f *testing.F) {
	for _, s := range []string{"a.example:443", "[::1]:80", "[::ffff:1.2.3.4]:1", "user@a:1", "0x7f.1:80", "xn--bcher-kva.example:80", "bücher.example:443"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := ParseAuthority(s, 0)
		if err != nil {
			return
		}
		if port == 0 || host == "" || host != strings.ToLower(host) || strings.ContainsAny(host, "/@%[]#?\\ \t\r\n\x00*") {
			t.Fatalf("ParseAuthority(%q) = %q, %d", s, host, port)
		}
		if a, err := netip.ParseAddr(host); err == nil && (a.Zone() != "" || a.Is4In6() || a.String() != host) {
			t.Fatalf("ParseAuthority(%q) = %q, not the canonical address", s, host)
		}
		again, port2, err := ParseAuthority(net.JoinHostPort(host, strconv.Itoa(int(port))), 0)
		if err != nil || again != host || port2 != port {
			t.Fatalf("ParseAuthority(%q) = %q, %d; read again: %q, %d, %v", s, host, port, again, port2, err)
		}
	})
}
