package bed

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// serveDNS answers for the cluster's services, as a cluster's DNS does, over
// UDP. Every other name does not exist.
func (n *node) serveDNS() error {
	conn, err := net.ListenPacket("udp", net.JoinHostPort(NodeAddress, "53"))
	if err != nil {
		return fmt.Errorf("bed: dns: %w", err)
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := n.answer(buf[:size]); err == nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
	return nil
}

func (n *node) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	addr, found := n.lookup(strings.ToLower(q.Name.String()))
	switch {
	case !found:
		reply.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		reply.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	return reply.Pack()
}

// extraNames are outside the cluster: public-looking addresses that the test
// gives to the node.
var extraNames = map[string]netip.Addr{
	"allowed.example.":  netip.MustParseAddr("93.184.216.34"),
	"denied.example.":   netip.MustParseAddr("93.184.216.35"),
	"metadata.example.": netip.MustParseAddr("169.254.169.254"),
}

// lookup finds NAME.NAMESPACE.svc.cluster.local.
func (n *node) lookup(name string) (netip.Addr, bool) {
	if a, ok := extraNames[name]; ok {
		return a, true
	}
	rest, ok := strings.CutSuffix(name, ".svc."+Domain+".")
	service, namespace, two := strings.Cut(rest, ".")
	if !ok || !two || n.client == nil {
		return netip.Addr{}, false
	}
	raw, err := n.get("/api/v1/namespaces/" + namespace + "/services/" + service)
	if err != nil {
		return netip.Addr{}, false
	}
	var got struct{ Spec struct{ ClusterIP string } }
	if json.Unmarshal(raw, &got) != nil {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(got.Spec.ClusterIP)
	return addr, err == nil
}
