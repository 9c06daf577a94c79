package rego

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"sallyport/internal/policy"
)

var update = flag.Bool("update", false, "write what the cases of testdata gave into their want.json")

// request is the form of request.json.
type request struct {
	Host      string   `json:"host"`
	Port      uint16   `json:"port"`
	Exe       string   `json:"exe"`
	Ancestors []string `json:"ancestors"`
}

// wanted is the form of want.json.
type wanted struct {
	Allow       bool           `json:"allow"`
	Reason      string         `json:"reason"`
	Policy      string         `json:"policy,omitempty"`
	Endpoint    *int           `json:"endpoint,omitempty"`
	Line        int            `json:"line,omitempty"`
	AllowedIPs  []netip.Prefix `json:"allowed_ips,omitempty"`
	HostService string         `json:"host_service,omitempty"`
	Detail      string         `json:"detail,omitempty"`
	Missing     *RuleMissing   `json:"missing,omitempty"`
}

func wantedOf(res Result) wanted {
	w := wanted{
		Allow: res.Allow, Reason: res.Reason, Detail: res.Detail, Missing: res.Missing,
		Policy: res.Policy, Line: res.Line, AllowedIPs: res.AllowedIPs,
	}
	if res.Allow {
		w.Endpoint = &res.EndpointIndex
	}
	if res.HostService != nil {
		w.HostService = res.HostService.To.String()
	}
	return w
}

// TestDecide runs every testdata/*.txtar: policy.yaml, request.json, want.json.
func TestDecide(t *testing.T) {
	runCases(t, "testdata/*.txtar", func(t *testing.T, p *policy.Policy, req request) wanted {
		return wantedOf(decide(t, compile(t, p), Input(req)))
	})
}

// runCases compares what decide gives with want.json of each file.
func runCases[R, W any](t *testing.T, glob string, decide func(*testing.T, *policy.Policy, R) W) {
	files, err := filepath.Glob(glob)
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob = %v, %v, want files", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			section := func(name string) *txtar.File {
				for i := range archive.Files {
					if archive.Files[i].Name == name {
						return &archive.Files[i]
					}
				}
				t.Fatalf("%s has no section %s", file, name)
				return nil
			}
			p, _, err := policy.Parse("policy.yaml", section("policy.yaml").Data)
			if err != nil {
				t.Fatal(err)
			}
			var req R
			decode(t, section("request.json").Data, &req)
			got := decide(t, p, req)
			want := section("want.json")
			if *update {
				want.Data = encode(t, got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			var expect W
			decode(t, want.Data, &expect)
			if diff := cmp.Diff(expect, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("the decision about %+v differs (-want +got):\n%s", req, diff)
			}
		})
	}
}

// compile is Compile, with the time for a decision that one takes on a machine that stands still now and then.
func compile(t testing.TB, p *policy.Policy) *Engine {
	t.Helper()
	e, err := Compile(p, 7)
	if err != nil {
		t.Fatal(err)
	}
	e.limit = time.Minute
	return e
}

func decide(t testing.TB, e *Engine, in Input) Result {
	t.Helper()
	res, err := e.Decide(t.Context(), in)
	if err != nil {
		t.Fatalf("Decide(%+v) = %v, want no error", in, err)
	}
	if res.Generation != e.generation {
		t.Fatalf("Decide(%+v): generation %d, want %d", in, res.Generation, e.generation)
	}
	return res
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("decoding %s: %v", data, err)
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}
