package kube

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func small() Options {
	return Options{Image: "debian:stable-slim", Supervisor: "sallyport-supervisor:dev", Command: []string{"sh", "-c", "echo $$; echo $(HOME)"}}
}

func full() Options {
	o := small()
	users := false
	o.Name, o.Namespace, o.Secret, o.PullPolicy = "coder", "team", "keys", "Never"
	o.Policy = "version: 1\nnetwork_policies: # ünïcode\n  on: {}\n"
	o.Run, o.UpstreamCA = "version: 1\nproviders: {}\n", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
	o.Env = []string{"A=yes", "B=1: 2"}
	o.Needs = []Need{
		{Host: "api.example.com", Ports: []uint16{443}},
		{Host: "*.example.org", Ports: []uint16{443, 8443}},
		{Host: "db.shop.svc.cluster.local", Ports: []uint16{80}, Networks: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}},
		{Host: "192.0.2.7", Ports: []uint16{22}},
		{Networks: []netip.Prefix{netip.MustParsePrefix("10.4.1.9/16")}, Ports: []uint16{5432}},
	}
	o.TargetPorts = map[uint16]uint16{80: 8080}
	o.RunAsUser, o.HostUsers, o.Grace, o.Events, o.LowPort = 65532, &users, 60, "stderr", 80
	return o
}

func build(t *testing.T, o Options) Objects {
	t.Helper()
	objs, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

func TestGolden(t *testing.T) {
	for name, o := range map[string]Options{"small": small(), "full": full()} {
		t.Run(name, func(t *testing.T) {
			got, err := build(t, o).YAML()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestYAMLEqualsJSON reads the YAML back: it says what the JSON says.
func TestYAMLEqualsJSON(t *testing.T) {
	for name, o := range map[string]Options{"small": small(), "full": full()} {
		objs := build(t, o)
		text, err := objs.YAML()
		if err != nil {
			t.Fatal(err)
		}
		sameAsText(t, name, objs, text)
	}
}

// sameAsText reads a stream of YAML and compares it with the objects.
func sameAsText(t *testing.T, name string, objs Objects, text []byte) {
	t.Helper()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for i := range objs {
		var got any
		if err := dec.Decode(&got); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if diff := cmp.Diff(normal(t, objs[i]), normal(t, got)); diff != "" {
			t.Fatalf("%s, object %d: %s\n%s", name, i, diff, text)
		}
	}
}

// normal is a value as encoding/json would read it.
func normal(t testing.TB, v any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestScalar(t *testing.T) {
	for in, want := range map[string]string{
		"agent": "agent", "/bin/sh": "/bin/sh", "a.b-c_d": "a.b-c_d",
		"": `""`, "yes": `"yes"`, "On": `"On"`, "~": `"~"`, "null": `"null"`, "1": `"1"`, "1Gi": `"1Gi"`, "0x1f": `"0x1f"`,
		"-c": `"-c"`, "a: b": `"a: b"`, "a #b": `"a #b"`, "*x": `"*x"`, "y": `"y"`, "<>&": `"<>&"`, "a\tb": `"a\tb"`, ".": `"."`,
	} {
		if got := scalar(in); got != want {
			t.Errorf("scalar(%q) = %s, want %s", in, got, want)
		}
	}
}

// FuzzYAML: whatever the command and the policy are, a reader gets them back.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{"", "a\nb", "a\n\nb\n", " a\nb", "a \nb", "a\nb\n\n", "|\n-", "key: |\n  x", "--- \nx", "...\n", "\t\n", "a\r\nb", "\u2028\nx", "#\n#", "- a\n- b\n", "%TAG\nx", "\ufeffa\nb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o := small()
		o.Policy, o.Command = s, []string{"x", s}
		objs, err := Build(o)
		if err != nil {
			return
		}
		text, err := objs.YAML()
		if err != nil {
			t.Fatal(err)
		}
		sameAsText(t, "fuzz", objs, text)
	})
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no command", func(o *Options) { o.Command = nil }, "no command"},
		{"upper case", func(o *Options) { o.Name = "Agent" }, "name"},
		{"long name", func(o *Options) { o.Name = strings.Repeat("a", 64) }, "name"},
		{"namespace", func(o *Options) { o.Namespace = "a.b" }, "namespace"},
		{"image", func(o *Options) { o.Image = "a b" }, "image"},
		{"no supervisor", func(o *Options) { o.Supervisor = "" }, "supervisor image"},
		{"quantity", func(o *Options) { o.Memory = "1 GB" }, "quantity"},
		{"variable", func(o *Options) { o.Env = []string{"=x"} }, "NAME=VALUE"},
		{"pull policy", func(o *Options) { o.PullPolicy = "Sometimes" }, "pull policy"},
		{"relative supervisor", func(o *Options) { o.InImage = "bin/supervisor" }, "supervisor in the image"},
		{"events", func(o *Options) { o.Events = "syslog" }, "events"},
		{"short grace", func(o *Options) { o.Grace = 2 }, "grace"},
		{"negative user", func(o *Options) { o.RunAsUser = -1 }, "user"},
		{"relative workdir", func(o *Options) { o.Workdir = "work" }, "absolute"},
		{"workdir is root", func(o *Options) { o.Workdir = "/" }, "absolute"},
		{"workdir over the supervisor", func(o *Options) { o.Workdir = "/sallyport" }, "belongs to the supervisor"},
		{"policy grants everything", func(o *Options) { o.Granted = []string{"/"} }, "belongs to the supervisor"},
		{"policy grants the secrets", func(o *Options) { o.Granted = []string{"/sallyport/secrets"} }, "belongs to the supervisor"},
		{"policy grants part of them", func(o *Options) { o.Granted = []string{"/sallyport/secrets/key"} }, "belongs to the supervisor"},
		{"not text", func(o *Options) { o.Command = []string{"\xff"} }, "UTF-8"},
		{"zero byte", func(o *Options) { o.Policy = "a\x00" }, "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := small()
			tt.change(&o)
			_, err := Build(o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Build = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestUnmappedServices(t *testing.T) {
	o := full()
	if got := o.UnmappedServices(); len(got) != 0 {
		t.Errorf("mapped, but UnmappedServices = %v", got)
	}
	o.TargetPorts = nil
	if diff := cmp.Diff([]string{"db.shop.svc.cluster.local"}, o.UnmappedServices()); diff != "" {
		t.Error(diff)
	}
}

// TestNoNameNoDNS: a policy without names needs no name server.
func TestNoNameNoDNS(t *testing.T) {
	o := small()
	o.Needs = []Need{{Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Ports: []uint16{1}}}
	for _, r := range o.networkPolicy().Spec.Egress {
		for _, p := range r.Ports {
			if p.Protocol == "UDP" {
				t.Error("a rule for DNS")
			}
		}
	}
	if got := small().networkPolicy().Spec.Egress; len(got) != 0 {
		t.Errorf("no needs, but egress %v", got)
	}
}
