package kube

import (
	"net/netip"
	"slices"
	"strings"
)

// private are the networks that a name cannot lead to unless the policy names
// them: the proxy refuses them, and so does the outer wall.
var private = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
}

var private6 = []string{"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fc00::/7", "fe80::/9", "ff00::/8"}

// networkPolicy lets the pod reach what the policy's endpoints need and nothing
// else, and nothing reach the pod. It is the second wall: it knows addresses,
// not names, and holds only where the cluster's network enforces it.
func (o Options) networkPolicy() networkPolicy {
	np := networkPolicy{typeMeta{"networking.k8s.io/v1", "NetworkPolicy"}, o.meta(), networkPolicySpec{
		PodSelector: labelSelector{o.labels()},
		PolicyTypes: []string{"Ingress", "Egress"},
		Ingress:     []struct{}{},
		Egress:      []egressRule{},
	}}
	names := false
	for _, n := range o.Needs {
		names = names || needsName(n)
		if ns, ok := namespaceOf(n.Host); ok {
			// most networks judge the pod behind a service, some the service
			np.Spec.Egress = add(np.Spec.Egress, []peer{inNamespace(ns)}, o.targets(n.Ports))
			n.Host = ""
		}
		np.Spec.Egress = add(np.Spec.Egress, peers(n), n.Ports)
	}
	if names {
		np.Spec.Egress = append([]egressRule{o.dns()}, np.Spec.Egress...)
	}
	return np
}

// needsName tells whether somebody must ask a name server for the host.
func needsName(n Need) bool {
	if n.Host == "" {
		return false
	}
	_, err := netip.ParseAddr(n.Host)
	return err != nil
}

// namespaceOf is the namespace of a service's name, such as
// web.shop.svc.cluster.local.
func namespaceOf(host string) (string, bool) {
	parts := strings.Split(host, ".")
	i := slices.Index(parts, "svc")
	if i < 2 || !isLabel(parts[i-1]) {
		return "", false
	}
	return parts[i-1], true
}

func inNamespace(ns string) peer {
	return peer{NamespaceSelector: &labelSelector{map[string]string{"kubernetes.io/metadata.name": ns}}}
}

// targets are the ports of the pods behind the ports of services.
func (o Options) targets(ports []uint16) []uint16 {
	out := slices.Clone(ports)
	for i, p := range out {
		if t, ok := o.TargetPorts[p]; ok {
			out[i] = t
		}
	}
	return out
}

// peers are the addresses that a destination may turn out to have.
func peers(n Need) []peer {
	if addr, err := netip.ParseAddr(n.Host); err == nil {
		return []peer{block(netip.PrefixFrom(addr, addr.BitLen()))}
	}
	var out []peer
	for _, p := range n.Networks {
		out = append(out, block(p))
	}
	if n.Host != "" {
		out = append(out, peer{IPBlock: &ipBlock{"0.0.0.0/0", private}}, peer{IPBlock: &ipBlock{"::/0", private6}})
	}
	return out
}

func block(p netip.Prefix) peer { return peer{IPBlock: &ipBlock{CIDR: p.Masked().String()}} }

// add appends a rule, or the ports to the rule that already has these peers.
func add(rules []egressRule, to []peer, ports []uint16) []egressRule {
	if len(to) == 0 {
		return rules
	}
	i := slices.IndexFunc(rules, func(r egressRule) bool { return equalPeers(r.To, to) })
	if i < 0 {
		rules, i = append(rules, egressRule{To: to}), len(rules)
	}
	for _, p := range ports {
		if next := (port{"TCP", p}); !slices.Contains(rules[i].Ports, next) {
			rules[i].Ports = append(rules[i].Ports, next)
		}
	}
	return rules
}

func equalPeers(a, b []peer) bool {
	return slices.EqualFunc(a, b, func(x, y peer) bool { return x.key() == y.key() })
}

func (p peer) key() string {
	switch {
	case p.IPBlock != nil:
		return p.IPBlock.CIDR
	case p.NamespaceSelector != nil:
		return "namespace " + p.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"]
	}
	return ""
}

// dns lets the supervisor ask the cluster's name servers. The port is that of
// their pods: 53 in Kubernetes, 5353 in OpenShift.
func (o Options) dns() egressRule {
	r := egressRule{}
	for _, p := range o.DNS {
		r.To = append(r.To, block(p))
	}
	ports := []uint16{53}
	if len(o.DNS) == 0 {
		ports = append(ports, 5353)
		kubernetes, openshift := inNamespace("kube-system"), inNamespace("openshift-dns")
		kubernetes.PodSelector = &labelSelector{map[string]string{"k8s-app": "kube-dns"}}
		openshift.PodSelector = &labelSelector{map[string]string{"dns.operator.openshift.io/daemonset-dns": "default"}}
		r.To = []peer{kubernetes, openshift}
	}
	for _, p := range ports {
		r.Ports = append(r.Ports, port{"UDP", p}, port{"TCP", p})
	}
	return r
}

// UnmappedServices are the in-cluster hosts whose ports have no entry in
// TargetPorts: a network policy sees a pod's port, not its service's.
func (o Options) UnmappedServices() []string {
	var out []string
	for _, n := range o.Needs {
		if _, ok := namespaceOf(n.Host); !ok || slices.Contains(out, n.Host) {
			continue
		}
		if slices.ContainsFunc(n.Ports, func(p uint16) bool { _, ok := o.TargetPorts[p]; return !ok }) {
			out = append(out, n.Host)
		}
	}
	return out
}
