package event

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// schema is the part of OCSF 1.8.0 that concerns us, taken from
// github.com/ocsf/ocsf-schema at tag 1.8.0 (Apache-2.0).
type schema struct {
	Version          string
	Classes, Objects map[string]map[string]attribute
}

type attribute struct {
	Type     string
	Required bool
	Enum     map[string]string
}

func loadSchema(t testing.TB) schema {
	t.Helper()
	src, err := os.ReadFile("testdata/ocsf-1.8.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(src, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

var (
	gitWho = Who{
		PID: 4711, Exe: "/usr/bin/git", SHA256: strings.Repeat("ab", 32), Args: []string{"git", "fetch"},
		Ancestors: []Binary{{"/usr/bin/sh", strings.Repeat("cd", 32)}, {"/usr/bin/make", ""}},
	}
	evil   = Where{Host: "evil.example", Addr: netip.MustParseAddr("93.184.216.34"), Port: 443}
	denied = Verdict{Reason: "no_policy_for_host", Detail: "no network policy names evil.example", Policy: "dev.yaml", Generation: 1}
	forge  = Verdict{Disposition: Allowed, Policy: "dev.yaml", Generation: 2, Rule: "forge", Line: 14}
	// samples has every constructor with everything filled in.
	samples = map[string]struct {
		class string
		event Event
	}{
		"open":      {"network_activity", Connection(Open, gitWho, evil, forge)},
		"refuse":    {"network_activity", Connection(Refuse, gitWho, evil, denied)},
		"audit":     {"network_activity", Connection(Open, gitWho, evil, Verdict{Disposition: Logged, Reason: "port_not_allowed"})},
		"fail":      {"network_activity", Connection(Fail, gitWho, Where{Addr: netip.MustParseAddr("2001:db8::1"), Port: 22}, forge)},
		"unix":      {"network_activity", Connection(Refuse, gitWho, Where{Path: "/run/docker.sock"}, denied)},
		"nowhere":   {"network_activity", Connection(Refuse, Who{}, Where{}, Verdict{})},
		"listen":    {"network_activity", Connection(Listen, gitWho, Where{Addr: netip.MustParseAddr("127.0.0.1"), Port: 3000, Proto: "udp"}, forge)},
		"end":       {"network_activity", Ended(gitWho, evil, forge, 10, 20, time.Second)},
		"request":   {"http_activity", Request(HTTP{"GET", "https", "/a", "k=v", "1.1", "curl/8", 403, []Operation{{Type: "query", Fields: []string{"a"}}}}, gitWho, evil, denied)},
		"patch":     {"http_activity", Request(HTTP{Method: "PATCH"}, gitWho, evil, forge)},
		"odd":       {"http_activity", Request(HTTP{Method: "BREW"}, gitWho, evil, forge)},
		"launch":    {"process_activity", Launched(Who{PID: 1, Exe: "/bin/sallyport"}, gitWho)},
		"exit":      {"process_activity", Exited(Who{PID: 1}, gitWho, 137)},
		"finding":   {"detection_finding", Finding(Found{"wall_degraded", "a wall", "is thin", "upgrade", High, &gitWho, &evil})},
		"finding0":  {"detection_finding", Finding(Found{Title: "bare"})},
		"policy":    {"device_config_state_change", Configuration(Configured{Policy: "dev.yaml", Generation: 1, Hash: "00", Degraded: []string{"landlock"}})},
		"broken":    {"device_config_state_change", Configuration(Configured{Policy: "dev.yaml", Generation: 1, Err: "line 4: no"})},
		"lifecycle": {"application_lifecycle", Lifecycle(Start, "proxy", "1.0.0")},
		"stop":      {"application_lifecycle", Lifecycle(Stop, "", "1.0.0")},
	}
)

func testSession() *Session {
	return NewSession(Origin{
		SessionID: "s-1", Version: "1.2.3", Hostname: "box", Kernel: "6.18.1", Seed: 7,
		Now: func() time.Time { return time.UnixMilli(1764000000123) },
	})
}

func TestSchema(t *testing.T) {
	s := loadSchema(t)
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) {
			line, err := json.Marshal(testSession().Stamp(sample.event))
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatal(err)
			}
			for _, complaint := range s.check(sample.class, s.Classes[sample.class], got) {
				t.Errorf("%s\n%s", complaint, line)
			}
			if want := got["class_uid"].(float64)*100 + got["activity_id"].(float64); got["type_uid"] != want {
				t.Errorf("type_uid = %v, want %v", got["type_uid"], want)
			}
		})
	}
}

// check compares one JSON object with its description, all the way down.
func (s schema) check(at string, attrs map[string]attribute, got map[string]any) []string {
	var out []string
	for name, a := range attrs {
		if _, ok := got[name]; a.Required && !ok {
			out = append(out, fmt.Sprintf("%s: required %s is missing", at, name))
		}
	}
	for name, value := range got {
		a, ok := attrs[name]
		if !ok {
			out = append(out, fmt.Sprintf("%s: OCSF has no attribute %s", at, name))
			continue
		}
		if a.Enum != nil {
			out = append(out, s.checkEnum(at, name, a, got)...)
		}
		out = append(out, s.checkType(at+"."+name, a.Type, value)...)
	}
	return out
}

// checkEnum compares an _id with the enumeration and with its caption.
func (s schema) checkEnum(at, name string, a attribute, got map[string]any) []string {
	caption, ok := a.Enum[fmt.Sprint(got[name])]
	if !ok {
		return []string{fmt.Sprintf("%s: %s = %v is not in the enumeration", at, name, got[name])}
	}
	sibling, found := got[strings.TrimSuffix(name, "_id")]
	if name == "activity_id" {
		sibling, found = got["activity_name"]
	}
	if found && sibling != caption && caption != "Other" {
		return []string{fmt.Sprintf("%s: %s = %v is %q, event says %q", at, name, got[name], caption, sibling)}
	}
	return nil
}

func (s schema) checkType(at, want string, value any) []string {
	if elem, ok := strings.CutPrefix(want, "[]"); ok {
		list, ok := value.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s: is no array", at)}
		}
		var out []string
		for _, v := range list {
			out = append(out, s.checkType(at+"[]", elem, v)...)
		}
		return out
	}
	if !strings.HasSuffix(want, "_t") {
		object, ok := value.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s: is no object", at)}
		}
		if attrs := s.Objects[want]; attrs != nil {
			return s.check(at, attrs, object)
		}
		if want != "object" { // unmapped may hold anything
			return []string{fmt.Sprintf("%s: object %s is not in testdata", at, want)}
		}
		return nil
	}
	kind := map[string]string{"integer_t": "float64", "long_t": "float64", "timestamp_t": "float64", "port_t": "float64", "boolean_t": "bool", "json_t": "any"}[want]
	if kind == "" {
		kind = "string"
	}
	if kind != "any" && fmt.Sprintf("%T", value) != kind {
		return []string{fmt.Sprintf("%s: is %T, want %s", at, value, want)}
	}
	return nil
}

// TestTables compares the class table with the standard, whether or not a
// sample uses the row.
func TestTables(t *testing.T) {
	s := loadSchema(t)
	byID := map[Class]string{
		ProcessActivity: "process_activity", DetectionFinding: "detection_finding", NetworkActivity: "network_activity",
		HTTPActivity: "http_activity", ConfigState: "device_config_state_change", AppLifecycle: "application_lifecycle",
	}
	if len(byID) != len(classes) {
		t.Errorf("%d classes in the table, %d in the test", len(classes), len(byID))
	}
	for class, row := range classes {
		enum := s.Classes[byID[class]]["activity_id"].Enum
		for id, name := range row.activities {
			if got := enum[fmt.Sprint(int(id))]; got != name {
				t.Errorf("%s: activity %d is %q, table says %q", row.name, id, got, name)
			}
		}
	}
	for id, name := range dispositionNames {
		if got := s.Classes["network_activity"]["disposition_id"].Enum[fmt.Sprint(int(id))]; got != name {
			t.Errorf("disposition %d is %q, table says %q", id, got, name)
		}
	}
	for id, name := range severityNames {
		if got := s.Classes["network_activity"]["severity_id"].Enum[fmt.Sprint(int(id))]; got != name {
			t.Errorf("severity %d is %q, table says %q", id, got, name)
		}
	}
}
