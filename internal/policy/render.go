package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Render writes a network_policies section of endpoints as programs propose
// them: host, ports, protocol and rules that allow. What else an endpoint can
// have is for a person to write.
func Render(policies []NetworkPolicy) string {
	if len(policies) == 0 {
		return "network_policies: {}\n"
	}
	var b strings.Builder
	b.WriteString("network_policies:\n")
	for _, np := range policies {
		fmt.Fprintf(&b, "  %s:\n    endpoints:\n", renderKey(np.Key))
		for i := range np.Endpoints {
			renderEndpoint(&b, &np.Endpoints[i])
		}
		b.WriteString("    binaries:\n")
		for _, p := range np.Binaries {
			fmt.Fprintf(&b, "      - {path: %s}\n", quote(p.Path))
		}
	}
	return b.String()
}

func renderEndpoint(b *strings.Builder, e *Endpoint) {
	ports := make([]string, len(e.Ports))
	for i, p := range e.Ports {
		ports[i] = strconv.Itoa(int(p))
	}
	port := "port: " + strings.Join(ports, "")
	if len(ports) != 1 {
		port = "ports: [" + strings.Join(ports, ", ") + "]"
	}
	fmt.Fprintf(b, "      - host: %s\n        %s\n", quote(e.Host), port)
	if len(e.AllowedIPs) > 0 {
		ips := make([]string, len(e.AllowedIPs))
		for i, p := range e.AllowedIPs {
			ips[i] = p.String()
		}
		fmt.Fprintf(b, "        allowed_ips: %s\n", quoteAll(ips))
	}
	if e.Protocol != Raw {
		fmt.Fprintf(b, "        protocol: %s\n", e.Protocol)
	}
	if e.Path != "" {
		fmt.Fprintf(b, "        path: %s\n", quote(e.Path))
	}
	renderReading(b, &e.L7)
	if e.L7.AllowEncodedSlash {
		b.WriteString("        allow_encoded_slash: true\n")
	}
	if len(e.Rules) == 0 {
		return
	}
	b.WriteString("        enforcement: enforce\n        rules:\n")
	for _, r := range e.Rules {
		fmt.Fprintf(b, "          - allow: %s\n", r.Allow.Render())
	}
}

// renderReading writes how bodies are read, where that is not the default.
func renderReading(b *strings.Builder, l *L7) {
	if l.GraphQLMaxBody > 0 {
		fmt.Fprintf(b, "        graphql_max_body_bytes: %d\n", l.GraphQLMaxBody)
	}
	if l.JSONRPCMaxBody > 0 {
		fmt.Fprintf(b, "        json_rpc: {max_body_bytes: %d}\n", l.JSONRPCMaxBody)
	}
	var mcp []string
	if l.MCPMaxBody > 0 {
		mcp = append(mcp, fmt.Sprintf("max_body_bytes: %d", l.MCPMaxBody))
	}
	if l.MCPLooseToolNames {
		mcp = append(mcp, "strict_tool_names: false")
	}
	if len(mcp) > 0 {
		fmt.Fprintf(b, "        mcp: {%s}\n", strings.Join(mcp, ", "))
	}
}

// Render writes a match, but for its params.
func (m *Match) Render() string {
	var parts []string
	add := func(field, value string) {
		if value != "" {
			parts = append(parts, field+": "+value)
		}
	}
	text := func(field, value string) {
		if value != "" {
			add(field, quote(value))
		}
	}
	text("method", m.Method)
	text("path", m.Path)
	var query []string
	for _, key := range sortedKeys(m.Query) {
		query = append(query, quote(key)+": "+renderGlobs(m.Query[key]))
	}
	if len(query) > 0 {
		add("query", "{"+strings.Join(query, ", ")+"}")
	}
	if m.QueryExact {
		add("query_exact", "true")
	}
	add("operation_type", m.OperationType)
	text("operation_name", m.OperationName)
	if len(m.Fields) > 0 {
		add("fields", quoteAll(m.Fields))
	}
	if len(m.Tool) > 0 {
		add("tool", renderGlobs(m.Tool))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// renderGlobs writes one or any of several.
func renderGlobs(globs []string) string {
	if len(globs) == 1 {
		return quote(globs[0])
	}
	return "{any: " + quoteAll(globs) + "}"
}

func quoteAll(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = quote(s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// quote writes a YAML text that any reader takes for that text: double quotes
// and the escapes that Go's ASCII form shares with YAML.
func quote(s string) string { return strconv.QuoteToASCII(s) }

// renderKey leaves a plain key as it is.
func renderKey(key string) string {
	plain := key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz-0123456789") == "" && key[0] >= 'a' && key[0] <= 'z' &&
		key != "y" && key != "n" && key != "yes" && key != "no" && key != "on" && key != "off" && key != "true" && key != "false" && key != "null"
	if plain {
		return key
	}
	return quote(key)
}

// KeyFor makes a key for a policy about a host.
func KeyFor(host string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, host), "-")
}
