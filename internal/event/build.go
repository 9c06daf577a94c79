package event

import (
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// Who is a process as its observer knows it.
type Who struct {
	PID       int
	Exe       string   // resolved path of the executable; empty if unknown
	SHA256    string   // lower-case hex; empty if not yet known
	Args      []string // as the program shows them; recorded, never trusted
	Ancestors []Binary // parents up to the sandbox's root, nearest first

	shared *shared
}

// shared is what all events of one process have in common.
type shared struct {
	actor  Actor
	hashes map[string]any // for Event.Unmapped; nil if there are none
}

// Shared is w for many events, which then share what they say of it: nothing of w
// is to be changed afterwards, and neither is what an event's Actor points to.
func (w Who) Shared() Who {
	w.shared = nil
	s := &shared{actor: Actor{w.process()}}
	if hashes := w.ancestorHashes(); hashes != nil {
		s.hashes = map[string]any{ancestryHashes: hashes}
	}
	w.shared = s
	return w
}

// ancestryHashes is the key in Event.Unmapped of what Ancestry has no place for.
const ancestryHashes = "ancestry_sha256"

// Binary is an executable of an ancestor.
type Binary struct{ Path, SHA256 string }

// Where is what a process wanted to reach. Either Path is set, for a unix
// socket, or some of the rest.
type Where struct {
	Host  string     // name as asked for
	Addr  netip.Addr // address, if one was judged or asked for
	Port  uint16
	Proto string // "tcp" if empty
	Path  string
}

// String is host:port, address:port or the path.
func (w Where) String() string {
	port := strconv.Itoa(int(w.Port))
	switch {
	case w.Path != "":
		return w.Path
	case w.Host != "" && strings.Contains(w.Host, ":"):
		return "[" + w.Host + "]:" + port
	case w.Host != "":
		return w.Host + ":" + port
	case w.Addr.IsValid():
		return netip.AddrPortFrom(w.Addr, w.Port).String()
	}
	return "nowhere"
}

// Verdict is what was decided and on what ground.
type Verdict struct {
	Disposition Disposition // zero counts as Blocked
	Reason      string      // stable code; required for Blocked
	Detail      string      // the reason as a sentence
	Policy      string      // file name of the policy
	Generation  uint64      // of the policy, 1 for the first
	Rule        string      // key of the network policy that decided, if one did
	Line        int         // of that rule in the file
}

// HTTP is a request as the proxy read it. Status is the answer's, 0 for none.
type HTTP struct {
	Method, Scheme, Path, RawQuery, Version, UserAgent string
	Status                                             int
	Operations                                         []Operation // that its body asks for, where that was read
}

// Connection is an event about a connection: opened, refused, failed, closed.
func Connection(a Activity, who Who, to Where, v Verdict) Event {
	e := start(NetworkActivity, a, Informational)
	e.network(who, to, v)
	if a == Fail {
		e.setStatus(false)
		e.SeverityID, e.Severity = Low, severityNames[Low]
	}
	e.Message = e.summary()
	return e
}

// Ended is Connection with Close and what the connection carried: in is
// towards the agent, out is from it.
func Ended(who Who, to Where, v Verdict, in, out int64, lasted time.Duration) Event {
	e := Connection(Close, who, to, v)
	e.Traffic = &Traffic{Bytes: in + out, BytesIn: in, BytesOut: out}
	e.Duration = lasted.Milliseconds()
	return e
}

// Request is an event about one HTTP request.
func Request(r HTTP, who Who, to Where, v Verdict) Event {
	activity, ok := methodActivities[r.Method]
	if !ok {
		activity = Other
	}
	e := start(HTTPActivity, activity, Informational)
	e.network(who, to, v)
	var all struct { // in one piece of memory
		request  HTTPRequest
		url      URL
		response HTTPResponse
	}
	m := &all
	m.url = URL{
		Scheme: clip(r.Scheme, maxToken), Hostname: clip(to.Host, maxHost), Port: to.Port,
		Path: clip(r.Path, maxPath), QueryString: RedactQuery(r.RawQuery),
	}
	m.request = HTTPRequest{
		HTTPMethod: clip(r.Method, maxToken), URL: &m.url, Version: clip(r.Version, maxToken), UserAgent: clip(r.UserAgent, maxText),
	}
	e.HTTPRequest = &m.request
	if r.Status != 0 {
		m.response.Code = r.Status
		e.HTTPResponse = &m.response
	}
	e.noteOperations(r.Operations)
	e.Message = e.summary()
	return e
}

// Launched says that by started the agent.
func Launched(by, agent Who) Event {
	e := start(ProcessActivity, Launch, Informational)
	e.Actor, e.Process = &Actor{by.process()}, agent.process()
	e.setStatus(true)
	e.Message = e.summary()
	return e
}

// Exited says how the agent ended: its status, or 128+n for a signal.
func Exited(by, agent Who, status int) Event {
	e := start(ProcessActivity, Terminate, Informational)
	e.Actor, e.Process, e.ExitCode = &Actor{by.process()}, agent.process(), &status
	e.setStatus(status == 0)
	e.Message = e.summary()
	return e
}

// Found is a finding: something a person should look at.
type Found struct {
	Kind     string // stable code, such as wall_degraded
	Title    string
	Detail   string
	Remedy   string // what to do; may be empty
	Severity Severity
	Who      *Who   // the process it is about, if any
	To       *Where // what that process wanted, if anything
}

// Finding is an event about f.
func Finding(f Found) Event {
	if severityNames[f.Severity] == "" {
		f.Severity = High
	}
	e := start(DetectionFinding, Create, f.Severity)
	e.FindingInfo = &FindingInfo{
		UID: clip(f.Kind, maxToken), Title: clip(f.Title, maxText), Desc: clip(f.Detail, maxText), Types: []string{clip(f.Kind, maxToken)},
	}
	e.IsAlert = f.Severity >= High
	e.StatusID, e.Status = 1, "New"
	e.ConfidenceID, e.Confidence = 3, "High"
	if f.Remedy != "" {
		e.Remediation = &Remediation{clip(f.Remedy, maxText)}
	}
	if f.Who != nil || f.To != nil {
		ev := Evidence{}
		if f.Who != nil {
			ev.Process = f.Who.process()
			e.Actor = &Actor{ev.Process}
		}
		if f.To != nil {
			to := f.To.endpoint()
			ev.DstEndpoint = &to
		}
		e.Evidences = []Evidence{ev}
	}
	e.Message = e.summary()
	return e
}

// Configured says which policy took force, or that one was refused.
type Configured struct {
	Policy     string
	Generation uint64
	Hash       string // SHA-256 of the file, lower-case hex
	Err        string // why it was refused; empty if it is in force
	Degraded   []string
	Unmapped   map[string]any // more about it, such as the layers of the report
}

// Configuration is an event about c.
func Configuration(c Configured) Event {
	e := start(ConfigState, Log, Informational)
	e.Policy = &Policy{Name: clip(c.Policy, maxPath), Version: strconv.FormatUint(c.Generation, 10), IsApplied: c.Err == ""}
	e.StateID, e.State = 2, "Enabled"
	e.SecurityLevelID, e.SecurityLevel = 1, "Secure"
	e.Unmapped = c.Unmapped
	if c.Hash != "" {
		e.note("policy_sha256", c.Hash)
	}
	if len(c.Degraded) > 0 {
		e.note("degraded", c.Degraded)
		e.SecurityLevelID, e.SecurityLevel = 2, "At Risk"
		e.SeverityID, e.Severity = Medium, severityNames[Medium]
	}
	e.setStatus(c.Err == "")
	if c.Err != "" {
		e.StateID, e.State = 1, "Disabled"
		e.StatusDetail = clip(c.Err, maxText)
		e.SeverityID, e.Severity = High, severityNames[High]
	}
	e.Message = e.summary()
	return e
}

// Lifecycle says that a part of the program, such as "proxy", changed state.
func Lifecycle(a Activity, part, version string) Event {
	e := start(AppLifecycle, a, Informational)
	p := product(version)
	if part != "" {
		p.Feature = &Feature{clip(part, maxToken)}
	}
	e.App = &p
	e.setStatus(true)
	e.Message = e.summary()
	return e
}

// network fills what connections and requests share.
func (e *Event) network(who Who, to Where, v Verdict) {
	if v.Disposition == 0 {
		v.Disposition = Blocked
	}
	var all struct { // in one piece of memory
		endpoint   Endpoint
		connection ConnectionInfo
		policy     Policy
		rule       Rule
	}
	m := &all
	m.endpoint, m.connection = to.endpoint(), to.connection()
	e.DstEndpoint, e.ConnectionInfo = &m.endpoint, &m.connection
	if who.shared == nil {
		who = who.Shared()
	}
	e.Actor, e.Unmapped = &who.shared.actor, who.shared.hashes
	e.DispositionID, e.Disposition = v.Disposition, dispositionNames[v.Disposition]
	e.ActionID, e.Action = actions[v.Disposition].id, actions[v.Disposition].name
	e.StatusCode, e.StatusDetail = clip(v.Reason, maxToken), clip(v.Detail, maxText)
	if v.Policy != "" {
		m.policy = Policy{Name: clip(v.Policy, maxPath), Version: strconv.FormatUint(v.Generation, 10), IsApplied: true}
		e.Policy = &m.policy
	}
	if v.Rule != "" {
		m.rule = Rule{Name: clip(v.Rule, maxHost), Type: "network_policies"}
		e.FirewallRule = &m.rule
		if v.Line > 0 {
			m.rule.Desc = clip(v.Policy, maxPath) + ":" + strconv.Itoa(v.Line)
		}
	}
	e.setStatus(v.Disposition != Blocked)
	if v.Disposition == Blocked {
		e.SeverityID, e.Severity, e.IsAlert = Medium, severityNames[Medium], true
	}
}

func (e *Event) setStatus(ok bool) {
	e.StatusID, e.Status = 1, "Success"
	if !ok {
		e.StatusID, e.Status = 2, "Failure"
	}
}

func (e *Event) note(key string, value any) {
	if e.Unmapped == nil {
		e.Unmapped = map[string]any{}
	}
	e.Unmapped[key] = value
}

// process is w in OCSF's words.
func (w Who) process() *Process {
	p := &Process{PID: w.PID, Name: baseName(w.Exe), CmdLine: redactArgs(w.Args)}
	if w.Exe != "" {
		p.File = &File{Name: p.Name, Path: clip(w.Exe, maxPath), TypeID: 8, Type: "Executable File"}
		if w.SHA256 != "" {
			p.File.Hashes = []Fingerprint{{3, "SHA-256", clip(w.SHA256, maxToken)}}
		}
	}
	for _, b := range w.Ancestors[:min(len(w.Ancestors), maxParent)] {
		p.Ancestry = append(p.Ancestry, ProcessEntity{baseName(b.Path), clip(b.Path, maxPath)})
	}
	return p
}

// ancestorHashes is in the order of Ancestry, which has no place for them; nil
// if none is known.
func (w Who) ancestorHashes() []string {
	var hashes []string
	known := false
	for _, b := range w.Ancestors[:min(len(w.Ancestors), maxParent)] {
		hashes = append(hashes, clip(b.SHA256, maxToken))
		known = known || b.SHA256 != ""
	}
	if !known {
		return nil
	}
	return hashes
}

// baseName is the last element of an executable's path, bounded.
func baseName(exe string) string {
	if exe == "" {
		return ""
	}
	return clip(path.Base(exe), maxHost)
}

func (w Where) endpoint() Endpoint {
	if w.Path != "" {
		return Endpoint{Name: clip(w.Path, maxPath)}
	}
	d := Endpoint{Hostname: clip(w.Host, maxHost), Port: w.Port}
	if w.Addr.IsValid() {
		d.IP = clip(w.Addr.String(), maxHost)
	}
	if d.Hostname == "" && d.IP == "" {
		d.Name = "nowhere"
	}
	return d
}

func (w Where) connection() ConnectionInfo {
	c := ConnectionInfo{DirectionID: 2, Direction: "Outbound", ProtocolName: clip(strings.ToLower(w.Proto), maxToken)}
	switch {
	case w.Path != "":
		c.DirectionID, c.Direction, c.ProtocolName = 4, "Local", "unix"
		return c
	case c.ProtocolName == "" || c.ProtocolName == "tcp":
		c.ProtocolName, c.ProtocolNum = "tcp", 6
	case c.ProtocolName == "udp":
		c.ProtocolNum = 17
	}
	switch {
	case w.Addr.Is4():
		c.ProtocolVerID = 4
	case w.Addr.Is6():
		c.ProtocolVerID = 6
	}
	return c
}
