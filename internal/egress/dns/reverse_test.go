package dns

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// backwards is the reverse name of an address, written out by the RFCs' words.
func backwards(a netip.Addr) string {
	if a.Is4() {
		b := a.As4()
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
	}
	s := ""
	b := a.As16()
	for i := 15; i >= 0; i-- {
		s += fmt.Sprintf("%x.%x.", b[i]&0xf, b[i]>>4)
	}
	return s + "ip6.arpa."
}

func TestReverse(t *testing.T) {
	s := server(t, Options{})
	v4 := addr(t, read(t, s.ServeMessage(t.Context(), ask(t, "api.example.com.", dnsmessage.TypeA))))
	v6 := addr(t, read(t, s.ServeMessage(t.Context(), ask(t, "api.example.com.", dnsmessage.TypeAAAA))))
	for name, want := range map[string]string{
		backwards(v4):                                  "api.example.com.",
		backwards(v6):                                  "api.example.com.",
		"1.0.0.127.in-addr.arpa.":                      "localhost.",
		"9.8.7.127.in-addr.arpa.":                      "localhost.",
		backwards(netip.IPv6Loopback()):                "localhost.",
		backwards(netip.MustParseAddr("198.19.77.77")): "", // given out to nobody
		backwards(netip.MustParseAddr("8.8.8.8")):      "",
		backwards(netip.MustParseAddr("2001:db8::1")):  "",
		"127.in-addr.arpa.":                            "",
		"1.0.0.0127.in-addr.arpa.":                     "",
		"x" + backwards(v6)[1:]:                        "",
	} {
		m := read(t, s.ServeMessage(t.Context(), ask(t, name, dnsmessage.TypePTR)))
		got := ""
		if len(m.Answers) == 1 {
			got = m.Answers[0].Body.(*dnsmessage.PTRResource).PTR.String()
		}
		if got != want || (m.RCode == success) != (want != "") {
			t.Errorf("%s: %q, code %v, want %q", name, got, m.RCode, want)
		}
		if want == "" {
			continue
		}
		if m := read(t, s.ServeMessage(t.Context(), ask(t, name, dnsmessage.TypeA))); m.RCode != success || len(m.Answers) != 0 {
			t.Errorf("%s, A: code %v with %d answers, want none", name, m.RCode, len(m.Answers))
		}
	}
}

func FuzzReversed(f *testing.F) {
	f.Add("4.3.2.1.in-addr.arpa")
	f.Add(backwards(netip.IPv6Loopback()))
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := reversed(name)
		if ok && !a.IsValid() {
			t.Errorf("reversed(%q) = %v", name, a)
		}
	})
}
