package event

// SchemaVersion is the version of OCSF whose names are used.
const SchemaVersion = "1.8.0"

// Class is an OCSF class_uid.
type Class int

// The classes that are emitted.
const (
	ProcessActivity  Class = 1007
	DetectionFinding Class = 2004
	NetworkActivity  Class = 4001
	HTTPActivity     Class = 4002
	ConfigState      Class = 5019
	AppLifecycle     Class = 6002
)

// Activity is an OCSF activity_id; its meaning depends on the class.
type Activity int

// Activities of NetworkActivity.
const (
	Open   Activity = 1 // a connection was allowed and is open
	Close  Activity = 2 // it ended
	Fail   Activity = 4 // it was allowed and could not be made
	Refuse Activity = 5 // it was denied
	Listen Activity = 7
)

// Activities of the other classes, but for HTTP, whose activity is the method.
const (
	Launch    Activity = 1 // process
	Terminate Activity = 2
	Create    Activity = 1 // finding
	Log       Activity = 1 // configuration
	Start     Activity = 3 // lifecycle
	Stop      Activity = 4
	Enable    Activity = 6
	Disable   Activity = 7
	Update    Activity = 8
	Other     Activity = 99
)

// Severity is an OCSF severity_id.
type Severity int

// The severities that are used: informational for what is allowed, medium for
// a denial, high and above for what a person should look at.
const (
	Informational Severity = 1
	Low           Severity = 2
	Medium        Severity = 3
	High          Severity = 4
	Critical      Severity = 5
)

// Disposition is an OCSF disposition_id.
type Disposition int

// The dispositions that are used.
const (
	Allowed Disposition = 1
	Blocked Disposition = 2
	Logged  Disposition = 17 // would have been blocked, but the rule is in audit
)

type classRow struct {
	name, category string
	categoryUID    int
	profiles       []string
	activities     map[Activity]string
}

var classes = map[Class]classRow{
	ProcessActivity: {"Process Activity", "System Activity", 1, []string{"security_control"},
		map[Activity]string{Launch: "Launch", Terminate: "Terminate"}},
	DetectionFinding: {"Detection Finding", "Findings", 2, []string{"host", "security_control"},
		map[Activity]string{Create: "Create"}},
	NetworkActivity: {"Network Activity", "Network Activity", 4, []string{"host", "security_control"},
		map[Activity]string{Open: "Open", Close: "Close", Fail: "Fail", Refuse: "Refuse", Listen: "Listen"}},
	HTTPActivity: {"HTTP Activity", "Network Activity", 4, []string{"host", "security_control"},
		map[Activity]string{1: "Connect", 2: "Delete", 3: "Get", 4: "Head", 5: "Options", 6: "Post", 7: "Put", 8: "Trace", 9: "Patch", Other: "Other"}},
	ConfigState: {"Device Config State Change", "Discovery", 5, []string{"security_control"},
		map[Activity]string{Log: "Log"}},
	AppLifecycle: {"Application Lifecycle", "Application Activity", 6, []string{"host"},
		map[Activity]string{Start: "Start", Stop: "Stop", Enable: "Enable", Disable: "Disable", Update: "Update"}},
}

var methodActivities = map[string]Activity{
	"CONNECT": 1, "DELETE": 2, "GET": 3, "HEAD": 4, "OPTIONS": 5, "POST": 6, "PUT": 7, "TRACE": 8, "PATCH": 9,
}

var severityNames = map[Severity]string{
	Informational: "Informational", Low: "Low", Medium: "Medium", High: "High", Critical: "Critical",
}

var dispositionNames = map[Disposition]string{Allowed: "Allowed", Blocked: "Blocked", Logged: "Logged"}

// actions pairs a disposition with the OCSF action that leads to it.
var actions = map[Disposition]struct {
	id   int
	name string
}{Allowed: {1, "Allowed"}, Blocked: {2, "Denied"}, Logged: {3, "Observed"}}

// start begins an event of a class; a class or activity that is not in the
// table is a bug of the caller and yields OCSF's "Unknown".
func start(c Class, a Activity, s Severity) Event {
	row := classes[c]
	name, ok := row.activities[a]
	if !ok {
		a, name = 0, "Unknown"
	}
	return Event{
		ClassUID: c, ClassName: row.name,
		CategoryUID: row.categoryUID, CategoryName: row.category,
		ActivityID: a, ActivityName: name,
		TypeUID: int64(c)*100 + int64(a), TypeName: row.name + ": " + name,
		SeverityID: s, Severity: severityNames[s],
		Metadata: Metadata{Version: SchemaVersion, Profiles: row.profiles},
	}
}
