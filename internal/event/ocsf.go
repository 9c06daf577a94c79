package event

// The objects below carry the attribute names of OCSF 1.8.0
// (https://schema.ocsf.io/1.8.0); a field's documentation is there. What OCSF
// has no name for is in Event.Unmapped. TestSchema compares every name, type
// and enumeration with the standard.

// Event is one event of any of the six classes. Build it with a constructor of
// this package: they fill the attributes that a class requires, and escape,
// redact and bound everything that came from outside.
type Event struct {
	ActivityID   Activity `json:"activity_id"`
	ActivityName string   `json:"activity_name"`
	CategoryUID  int      `json:"category_uid"`
	CategoryName string   `json:"category_name"`
	ClassUID     Class    `json:"class_uid"`
	ClassName    string   `json:"class_name"`
	TypeUID      int64    `json:"type_uid"` // class_uid * 100 + activity_id
	TypeName     string   `json:"type_name"`

	Time         int64    `json:"time"` // milliseconds since 1970; Session.Stamp sets it
	SeverityID   Severity `json:"severity_id"`
	Severity     string   `json:"severity"`
	StatusID     int      `json:"status_id,omitempty"` // 1 success, 2 failure
	Status       string   `json:"status,omitempty"`
	StatusCode   string   `json:"status_code,omitempty"`   // stable reason code, such as no_policy_for_host
	StatusDetail string   `json:"status_detail,omitempty"` // the same as a sentence
	Message      string   `json:"message,omitempty"`
	Duration     int64    `json:"duration,omitempty"` // milliseconds
	Metadata     Metadata `json:"metadata"`

	ActionID      int          `json:"action_id,omitempty"`
	Action        string       `json:"action,omitempty"`
	DispositionID Disposition  `json:"disposition_id,omitempty"`
	Disposition   string       `json:"disposition,omitempty"`
	IsAlert       bool         `json:"is_alert,omitempty"`
	Policy        *Policy      `json:"policy,omitempty"`
	FirewallRule  *Rule        `json:"firewall_rule,omitempty"`
	ConfidenceID  int          `json:"confidence_id,omitempty"`
	Confidence    string       `json:"confidence,omitempty"`
	FindingInfo   *FindingInfo `json:"finding_info,omitempty"`
	Evidences     []Evidence   `json:"evidences,omitempty"`
	Remediation   *Remediation `json:"remediation,omitempty"`

	Actor    *Actor   `json:"actor,omitempty"`
	Device   *Device  `json:"device,omitempty"`
	Process  *Process `json:"process,omitempty"`
	ExitCode *int     `json:"exit_code,omitempty"`

	SrcEndpoint    *Endpoint       `json:"src_endpoint,omitempty"`
	DstEndpoint    *Endpoint       `json:"dst_endpoint,omitempty"`
	ConnectionInfo *ConnectionInfo `json:"connection_info,omitempty"`
	Traffic        *Traffic        `json:"traffic,omitempty"`
	HTTPRequest    *HTTPRequest    `json:"http_request,omitempty"`
	HTTPResponse   *HTTPResponse   `json:"http_response,omitempty"`

	StateID         int    `json:"state_id,omitempty"`
	State           string `json:"state,omitempty"`
	SecurityLevelID int    `json:"security_level_id,omitempty"`
	SecurityLevel   string `json:"security_level,omitempty"`

	App *Product `json:"app,omitempty"`

	Unmapped map[string]any `json:"unmapped,omitempty"`
}

// Metadata says which program wrote the event and in which schema.
type Metadata struct {
	Version        string   `json:"version"` // of the schema
	Product        Product  `json:"product"`
	Profiles       []string `json:"profiles,omitempty"`
	LogName        string   `json:"log_name,omitempty"`
	Sequence       uint64   `json:"sequence,omitempty"`        // 1, 2, 3 … within a session
	UID            string   `json:"uid,omitempty"`             // of a denial: the id that policy explain takes
	CorrelationUID string   `json:"correlation_uid,omitempty"` // of the session
}

// Product is a program: ours, or the part of it that changed state.
type Product struct {
	Name       string   `json:"name"`
	VendorName string   `json:"vendor_name"`
	Version    string   `json:"version,omitempty"`
	Feature    *Feature `json:"feature,omitempty"`
}

// Feature is a part of a product.
type Feature struct {
	Name string `json:"name"`
}

// Actor is who did it.
type Actor struct {
	Process *Process `json:"process"`
}

// Process is a program that runs. Ancestry lists its parents, nearest first.
type Process struct {
	PID      int             `json:"pid"`
	Name     string          `json:"name,omitempty"`
	CmdLine  string          `json:"cmd_line,omitempty"` // what the program says of itself: never trusted
	File     *File           `json:"file,omitempty"`
	Ancestry []ProcessEntity `json:"ancestry,omitempty"`
}

// ProcessEntity is the short form of a process.
type ProcessEntity struct {
	Name string `json:"name,omitempty"`
	Path string `json:"path"`
}

// File is an executable.
type File struct {
	Name   string        `json:"name"`
	Path   string        `json:"path"`
	TypeID int           `json:"type_id"`
	Type   string        `json:"type,omitempty"`
	Hashes []Fingerprint `json:"hashes,omitempty"`
}

// Fingerprint is a hash of a file's content.
type Fingerprint struct {
	AlgorithmID int    `json:"algorithm_id"`
	Algorithm   string `json:"algorithm"`
	Value       string `json:"value"` // lower-case hex
}

// Device is the machine or pod that the sandbox runs on.
type Device struct {
	TypeID   int    `json:"type_id"`
	Type     string `json:"type"`
	Hostname string `json:"hostname,omitempty"`
	OS       *OS    `json:"os,omitempty"`
}

// OS is the operating system of a device.
type OS struct {
	Name          string `json:"name"`
	TypeID        int    `json:"type_id"`
	Type          string `json:"type"`
	KernelRelease string `json:"kernel_release,omitempty"`
}

// Endpoint is one end of a connection. Name holds the path of a unix socket.
type Endpoint struct {
	Hostname string `json:"hostname,omitempty"`
	IP       string `json:"ip,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Name     string `json:"name,omitempty"`
}

// ConnectionInfo is how the two ends speak.
type ConnectionInfo struct {
	DirectionID   int    `json:"direction_id"`
	Direction     string `json:"direction"`
	ProtocolName  string `json:"protocol_name,omitempty"`
	ProtocolNum   int    `json:"protocol_num,omitempty"` // IANA number
	ProtocolVerID int    `json:"protocol_ver_id,omitempty"`
}

// Traffic is what a connection carried, in bytes. In is towards the agent.
type Traffic struct {
	Bytes    int64 `json:"bytes"`
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`
}

// Policy is the document that was in force.
type Policy struct {
	Name      string `json:"name"`
	Version   string `json:"version,omitempty"` // generation within the session
	IsApplied bool   `json:"is_applied"`
}

// Rule is the part of the policy that decided.
type Rule struct {
	Name string `json:"name"`
	Desc string `json:"desc,omitempty"` // file:line
	Type string `json:"type,omitempty"`
}

// HTTPRequest is a request as the proxy read it.
type HTTPRequest struct {
	HTTPMethod string `json:"http_method"`
	URL        *URL   `json:"url,omitempty"`
	Version    string `json:"version,omitempty"` // "1.1"
	UserAgent  string `json:"user_agent,omitempty"`
}

// HTTPResponse is the answer that the agent got.
type HTTPResponse struct {
	Code int `json:"code"`
}

// URL is a target with its query values replaced.
type URL struct {
	Scheme      string `json:"scheme,omitempty"`
	Hostname    string `json:"hostname,omitempty"`
	Port        uint16 `json:"port,omitempty"`
	Path        string `json:"path,omitempty"`
	QueryString string `json:"query_string,omitempty"`
}

// FindingInfo is what was found.
type FindingInfo struct {
	UID   string   `json:"uid"`
	Title string   `json:"title"`
	Desc  string   `json:"desc,omitempty"`
	Types []string `json:"types,omitempty"`
}

// Evidence is what a finding rests on.
type Evidence struct {
	Process     *Process  `json:"process,omitempty"`
	DstEndpoint *Endpoint `json:"dst_endpoint,omitempty"`
	Data        any       `json:"data,omitempty"`
}

// Remediation is what to do about a finding.
type Remediation struct {
	Desc string `json:"desc"`
}
