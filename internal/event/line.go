package event

import (
	"fmt"
	"strconv"
	"strings"
)

// reasons puts the stable codes that people meet most into few words; another
// code is shown by its sentence or, without one, with spaces for underscores.
var reasons = map[string]string{
	"no_policy_for_host":             "no rule for host",
	"not_a_host_name":                "no host can have this name",
	"too_many_dns_connections":       "more connections to the resolver than may be open",
	"port_not_allowed":               "no rule for this port",
	"path_not_allowed":               "no rule for this path",
	"request_not_allowed":            "no rule for this request",
	"request_denied_by_rule":         "a rule denies this request",
	"request_not_understood":         "a request that no rule can be about",
	"persisted_query_not_registered": "a query that the policy does not know",
	"tool_name_not_allowed":          "a tool name that servers read differently",
	"binary_not_allowed":             "no rule for this program",
	"policy_undefined":               "the policy has no answer",
	"policy_timeout":                 "the policy took too long",
}

// Line is the event as one line for a person, without a prefix and without a
// line break. A denial that has an id names the command that explains it:
//
//	denied  git → evil.example:443  (no rule for host)   sallyport policy explain 7f3a
//
// Whatever an untrusted program chose is escaped and bounded.
func (e Event) Line() string {
	line := e.summary()
	if id := e.Metadata.UID; id != "" && e.DispositionID == Blocked {
		line += "   sallyport policy explain " + field(id)
	}
	return line
}

// summary is Line without the command.
func (e *Event) summary() string {
	switch e.ClassUID {
	case NetworkActivity, HTTPActivity:
		return e.networkLine()
	case ProcessActivity:
		return e.processLine()
	case DetectionFinding:
		return e.findingLine()
	case ConfigState:
		return e.configLine()
	case AppLifecycle:
		return e.lifecycleLine()
	}
	return "event of class " + strconv.Itoa(int(e.ClassUID))
}

func (e *Event) networkLine() string {
	var b strings.Builder
	b.Grow(maxInLine)
	b.WriteString(e.verb())
	b.WriteString("  ")
	b.WriteString(e.Actor.name())
	b.WriteString(" → ")
	if r := e.HTTPRequest; r != nil && r.HTTPMethod != "CONNECT" {
		b.WriteString(field(r.HTTPMethod))
		b.WriteByte(' ')
		b.WriteString(field(e.DstEndpoint.String()))
		b.WriteString(field(r.URL.Path))
	} else {
		b.WriteString(field(e.DstEndpoint.String()))
	}
	if why := e.why(); why != "" {
		b.WriteString("  (")
		b.WriteString(why)
		b.WriteByte(')')
	}
	return b.String()
}

// verb is the first word of the line.
func (e *Event) verb() string {
	switch {
	case e.DispositionID == Blocked:
		return "denied"
	case e.DispositionID == Logged:
		return "audit"
	case e.ClassUID == NetworkActivity && e.ActivityID == Close:
		return "closed"
	case e.ClassUID == NetworkActivity && e.ActivityID == Fail:
		return "failed"
	}
	return "allowed"
}

func (e *Event) why() string {
	switch {
	case e.DispositionID != Allowed || e.ActivityID == Fail && e.ClassUID == NetworkActivity:
		if text, ok := reasons[e.StatusCode]; ok {
			return text
		}
		if e.StatusDetail != "" {
			return field(e.StatusDetail)
		}
		return field(strings.ReplaceAll(e.StatusCode, "_", " "))
	case e.Traffic != nil:
		return fmt.Sprintf("%d bytes in, %d out", e.Traffic.BytesIn, e.Traffic.BytesOut)
	case e.FirewallRule != nil && e.FirewallRule.Desc != "":
		return field(e.FirewallRule.Name) + ", " + field(e.FirewallRule.Desc)
	case e.FirewallRule != nil:
		return field(e.FirewallRule.Name)
	}
	return ""
}

func (e *Event) processLine() string {
	name := "a process"
	if e.Process != nil {
		name = e.Process.name()
	}
	if e.ActivityID == Terminate && e.ExitCode != nil {
		return fmt.Sprintf("ended  %s  (status %d)", name, *e.ExitCode)
	}
	return "started  " + name
}

func (e *Event) findingLine() string {
	line := "finding  " + strings.ToLower(e.Severity)
	if f := e.FindingInfo; f != nil {
		line += "  " + field(f.Title)
		if f.Desc != "" {
			line += "  (" + field(f.Desc) + ")"
		}
	}
	if e.Remediation != nil {
		line += "   " + field(e.Remediation.Desc)
	}
	return line
}

func (e *Event) configLine() string {
	if e.Policy == nil {
		return "policy"
	}
	name := field(e.Policy.Name) + ", generation " + field(e.Policy.Version)
	if !e.Policy.IsApplied {
		return "policy  refused " + name + "  (" + field(e.StatusDetail) + ")"
	}
	return "policy  " + name
}

func (e *Event) lifecycleLine() string {
	part := "sallyport"
	if e.App != nil && e.App.Feature != nil {
		part = field(e.App.Feature.Name)
	}
	return strings.ToLower(e.ActivityName) + "  " + part
}

func (a *Actor) name() string {
	if a == nil {
		return "a program"
	}
	return a.Process.name()
}

func (p *Process) name() string {
	switch {
	case p == nil || p.Name == "" && p.PID == 0:
		return "a program"
	case p.Name != "":
		return field(p.Name)
	}
	return "pid " + strconv.Itoa(p.PID)
}

// String is what a person calls the endpoint; it is not escaped.
func (d *Endpoint) String() string {
	switch {
	case d == nil:
		return "nowhere"
	case d.Hostname == "" && d.IP == "":
		return d.Name
	}
	host := d.Hostname
	if host == "" {
		host = d.IP
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(d.Port))
}
