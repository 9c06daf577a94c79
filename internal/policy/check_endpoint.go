package policy

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"sallyport/internal/policy/match"
)

// checkEndpoint holds the rules that look at more than one field of an endpoint.
func (d *decoder) checkEndpoint(n ast.Node, e Endpoint, seen map[string]ast.Node) {
	l7 := e.Inspected()
	has := func(key string) bool { return seen[key] != nil }
	at := func(key string) ast.Node {
		if seen[key] != nil {
			return seen[key]
		}
		return n
	}
	for _, c := range []struct {
		wrong bool
		key   string
		msg   string
	}{
		{has("port") && has("ports"), "ports", "give port or ports, not both"},
		{len(e.Ports) == 0, "ports", "an endpoint needs a port"},
		{e.Host == "" && len(e.AllowedIPs) == 0, "host", "an endpoint needs a host, or allowed_ips to stand for addresses"},
		{e.Host == "" && e.Protocol == TCP, "protocol", "protocol: tcp connects by name and needs a host"},
		{e.Protocol == TCP && match.IsAddress(e.Host), "host", "protocol: tcp connects by name; give a name"},
		{e.Protocol == TCP && strings.Contains(e.Host, "*"), "host", "protocol: tcp needs one exact name, because its addresses are pinned"},
		{!l7 && has("access"), "access", "access needs a protocol that is inspected, such as rest"},
		{!l7 && has("rules"), "rules", "rules need a protocol that is inspected, such as rest"},
		{!l7 && has("deny_rules"), "deny_rules", "deny_rules need a protocol that is inspected, such as rest"},
		{!l7 && has("path"), "path", "a path can be told only with a protocol that is inspected, such as rest"},
		{has("access") && has("rules"), "rules", "give access or rules, not both"},
		{has("rules") && len(e.Rules) == 0, "rules", "rules without a rule allow nothing; leave the endpoint out"},
		{has("access") && (e.Protocol == JSONRPC || e.Protocol == MCP), "access", "access has no meaning for json-rpc and mcp; give rules"},
		{has("deny_rules") && !has("access") && !has("rules") && !e.L7.MCPAllKnownMethods, "deny_rules", "deny_rules need something that allows: access or rules"},
		{l7 && !has("access") && !has("rules") && !e.L7.MCPAllKnownMethods, "protocol", "an inspected endpoint needs access or rules"},
		{e.TLSSkip && l7, "tls", "tls: skip hides what the rules have to read"},
		{e.TLSSkip && e.L7.CredentialProvider != "", "tls", "tls: skip hides where the credential would go"},
		{has("enforcement") && !l7, "enforcement", "enforcement is about rules, and this endpoint is not inspected"},
		{(has("pin") || has("relay")) && e.Protocol != TCP, "pin", "pin and relay belong to protocol: tcp"},
		{e.RelayDirect && e.PinRefresh, "relay", "relay: direct needs addresses that are pinned for the session"},
		{e.L7.CredentialSigning != "" && e.L7.SigningService == "", "credential_signing", "credential_signing needs signing_service"},
		{e.L7.CredentialSigning != "" && e.L7.RequestBodyCredentialRewrite, "credential_signing", "a signed body cannot be rewritten"},
		{e.L7.PersistedQueries == "allow_registered" && len(e.L7.RegisteredQueries) == 0, "persisted_queries", "allow_registered needs graphql_persisted_queries"},
	} {
		if c.wrong {
			d.fail(at(c.key), "%s", c.msg)
		}
	}
	if l7 && !has("enforcement") {
		d.warn(n, "enforcement is not given and means enforce here; policies written for a default of audit become stricter")
	}
}

// ambiguous refuses endpoints that overlap on host and port and do not agree on
// how the connection is handled: which of them holds would depend on their order.
func (d *decoder) ambiguous(p *Policy) {
	type place struct {
		key string
		e   *Endpoint
	}
	byPort := map[uint16][]place{}
	for i := range p.Network {
		for j := range p.Network[i].Endpoints {
			e := &p.Network[i].Endpoints[j]
			for _, port := range e.Ports {
				for _, o := range byPort[port] {
					if o.e != e && match.HostsOverlap(o.e.Host, e.Host) && conflict(o.e, e) {
						d.errs = append(d.errs, &PositionError{File: d.file, Line: e.Line, Col: 1, Excerpt: d.line(e.Line),
							Msg: "ambiguous: " + e.Host + " is handled differently here and on line " + itoa(o.e.Line) + "; give both the same protocol, tls, allowed_ips, enforcement and settings, or paths of which one is more specific"})
					}
				}
				byPort[port] = append(byPort[port], place{p.Network[i].Key, e})
			}
		}
	}
}

// conflict says whether two overlapping endpoints want different things of one
// connection. A raw endpoint beside an inspected one only grants the
// destination; the inspected one decides how it is read.
func conflict(a, b *Endpoint) bool {
	if a.TLSSkip != b.TLSSkip || (a.Protocol == TCP) != (b.Protocol == TCP) || !slices.Equal(a.AllowedIPs, b.AllowedIPs) {
		return true
	}
	if a.L7.CredentialProvider != b.L7.CredentialProvider {
		return true
	}
	if a.Protocol == Raw || b.Protocol == Raw || !match.PathsOverlap(a.Path, b.Path) || match.ComparePaths(a.Path, b.Path) != 0 {
		return false
	}
	return a.Protocol != b.Protocol || a.Audit != b.Audit || !sameReading(a.L7, b.L7)
}

// sameReading says whether two endpoints read requests alike.
func sameReading(a, b L7) bool {
	a.MCPAllKnownMethods = b.MCPAllKnownMethods // this allows, and does not read
	return Same(a, b)
}

func (d *decoder) line(n int) string {
	if n > 0 && n <= len(d.lines) {
		return d.lines[n-1]
	}
	return ""
}
