package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sallyport/internal/testkit/tree"
)

// This file judges manifests as a platform would: the Pod Security Standard
// "restricted" and OpenShift's restricted-v2, on plain JSON, knowing nothing of
// this package's types.

type object = tree.Object

func containers(pod object) []object {
	return append(append(tree.List(pod, "spec", "initContainers"), tree.List(pod, "spec", "containers")...), tree.List(pod, "spec", "ephemeralContainers")...)
}

// rule is one control; it returns what is wrong, or nothing.
type rule struct {
	name  string
	check func(pod object) string
}

func podWide(path ...string) func(want any) func(object) string {
	return func(want any) func(object) string {
		return func(pod object) string {
			if got := tree.At(pod, append([]string{"spec"}, path...)...); got != want {
				return fmt.Sprintf("%s = %v, want %v", strings.Join(path, "."), got, want)
			}
			return ""
		}
	}
}

func each(check func(c object) string) func(object) string {
	return func(pod object) string {
		for _, c := range containers(pod) {
			if bad := check(c); bad != "" {
				return fmt.Sprintf("container %v: %s", c["name"], bad)
			}
		}
		return ""
	}
}

// effective is a security setting of a container: its own, else the pod's.
func effective(pod, c object, path ...string) any {
	if v := tree.At(c, append([]string{"securityContext"}, path...)...); v != nil {
		return v
	}
	return tree.At(pod, append([]string{"spec", "securityContext"}, path...)...)
}

// restrictedRules are the controls of the Pod Security Standards, baseline and
// restricted, latest.
var restrictedRules = []rule{
	{"host namespaces", func(p object) string {
		for _, f := range []string{"hostNetwork", "hostPID", "hostIPC"} {
			if v := tree.At(p, "spec", f); v != nil && v != false {
				return f
			}
		}
		return ""
	}},
	{"privileged", each(func(c object) string {
		if v := tree.At(c, "securityContext", "privileged"); v != nil && v != false {
			return "privileged"
		}
		return ""
	})},
	{"capabilities", each(func(c object) string {
		drop, _ := tree.At(c, "securityContext", "capabilities", "drop").([]any)
		if !slices.Contains(drop, any("ALL")) {
			return "does not drop ALL"
		}
		for _, a := range items2(tree.At(c, "securityContext", "capabilities", "add")) {
			if a != "NET_BIND_SERVICE" {
				return "adds " + a
			}
		}
		return ""
	})},
	{"volume types", func(p object) string {
		allowed := []string{"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
		for _, v := range tree.List(p, "spec", "volumes") {
			for kind := range v {
				if kind != "name" && !slices.Contains(allowed, kind) {
					return "volume of kind " + kind
				}
			}
		}
		return ""
	}},
	{"host ports", each(func(c object) string {
		for _, p := range tree.List(c, "ports") {
			if p["hostPort"] != nil {
				return "host port"
			}
		}
		return ""
	})},
	{"privilege escalation", each(func(c object) string {
		if tree.At(c, "securityContext", "allowPrivilegeEscalation") != false {
			return "allowPrivilegeEscalation is not false"
		}
		return ""
	})},
	{"not root", func(p object) string {
		for _, c := range containers(p) {
			if effective(p, c, "runAsNonRoot") != true {
				return fmt.Sprintf("%v: runAsNonRoot is not true", c["name"])
			}
			if u := effective(p, c, "runAsUser"); u == float64(0) {
				return fmt.Sprintf("%v: runs as root", c["name"])
			}
		}
		return ""
	}},
	{"seccomp", func(p object) string {
		for _, c := range containers(p) {
			if t := effective(p, c, "seccompProfile", "type"); t != "RuntimeDefault" && t != "Localhost" {
				return fmt.Sprintf("%v: seccomp profile %v", c["name"], t)
			}
		}
		return ""
	}},
	{"proc mount", each(func(c object) string {
		if v := tree.At(c, "securityContext", "procMount"); v != nil && v != "Default" {
			return "procMount"
		}
		return ""
	})},
	{"sysctls", func(p object) string {
		for _, s := range tree.List(p, "spec", "securityContext", "sysctls") {
			if !slices.Contains(safeSysctls, fmt.Sprint(s["name"])) {
				return fmt.Sprint(s["name"])
			}
		}
		return ""
	}},
	{"lsm options", func(p object) string {
		for _, c := range containers(p) {
			for _, f := range []string{"seLinuxOptions", "appArmorProfile"} {
				if effective(p, c, f) != nil {
					return f
				}
			}
		}
		return ""
	}},
}

// safeSysctls are those that the standard allows.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}

func items2(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, i := range list {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

// sccRules are what OpenShift's restricted-v2 adds: ranges that a namespace was
// given, which a manifest meets by naming nobody, and what it fills in itself.
func sccRules(first, size float64) []rule {
	inRange := func(v any) bool { n, ok := v.(float64); return v == nil || ok && n >= first && n < first+size }
	return append(slices.Clone(restrictedRules), []rule{
		{"user from the range", func(p object) string {
			for _, c := range containers(p) {
				if u := effective(p, c, "runAsUser"); !inRange(u) {
					return fmt.Sprintf("%v: runAsUser %v", c["name"], u)
				}
			}
			return ""
		}},
		{"fsGroup from the range", func(p object) string {
			if g := tree.At(p, "spec", "securityContext", "fsGroup"); !inRange(g) {
				return fmt.Sprint("fsGroup ", g)
			}
			return ""
		}},
		{"no added capability but one", restrictedRules[2].check},
		{"no flexVolume, no hostPath", restrictedRules[3].check},
	}...)
}

// ownRules are what this package promises beyond the standards.
var ownRules = []rule{
	{"no token", podWide("automountServiceAccountToken")(false)},
	{"no service links", podWide("enableServiceLinks")(false)},
	{"no restart hides the reason", podWide("restartPolicy")("Never")},
	{"names no group", func(p object) string {
		for _, f := range []string{"runAsGroup", "fsGroup", "supplementalGroups"} {
			if v := tree.At(p, "spec", "securityContext", f); v != nil {
				return f
			}
		}
		return ""
	}},
	{"read-only root", each(func(c object) string {
		if tree.At(c, "securityContext", "readOnlyRootFilesystem") != true {
			return "root file system is writable"
		}
		return ""
	})},
	{"bounded", each(func(c object) string {
		for _, r := range []string{"cpu", "memory"} {
			if tree.At(c, "resources", "limits", r) == nil {
				return "no limit of " + r
			}
		}
		return ""
	})},
	{"reason is told", each(func(c object) string {
		if c["terminationMessagePolicy"] != "FallbackToLogsOnError" {
			return "terminationMessagePolicy"
		}
		return ""
	})},
	{"no secret in a variable", each(func(c object) string {
		for _, e := range tree.List(c, "env") {
			if e["valueFrom"] != nil {
				return "valueFrom"
			}
		}
		if c["envFrom"] != nil {
			return "envFrom"
		}
		return ""
	})},
}

func violations(pod object, rules []rule) []string {
	var out []string
	for _, r := range rules {
		if bad := r.check(pod); bad != "" {
			out = append(out, r.name+": "+bad)
		}
	}
	return out
}

func podOf(t *testing.T, o Options) object {
	t.Helper()
	objs := build(t, o)
	return normal(t, objs[len(objs)-1]).(object)
}

func TestStandards(t *testing.T) {
	withUser := full()
	withUser.RunAsUser = 1000680000
	inImage := small()
	inImage.InImage, inImage.Supervisor = "/usr/local/bin/sallyport-supervisor", ""
	share := small()
	share.ShareProcesses = true
	for name, o := range map[string]Options{"small": small(), "full": full(), "user": withUser, "shared processes": share, "in the image": inImage} {
		if bad := violations(podOf(t, o), restrictedRules); bad != nil {
			t.Errorf("%s: restricted: %s", name, bad)
		}
		if bad := violations(podOf(t, o), ownRules); bad != nil {
			t.Errorf("%s: own: %s", name, bad)
		}
	}
	for name, o := range map[string]Options{"small": small(), "user": withUser} {
		if bad := violations(podOf(t, o), sccRules(1000680000, 10000)); bad != nil {
			t.Errorf("%s: restricted-v2: %s", name, bad)
		}
	}
	if bad := violations(podOf(t, full()), sccRules(1000680000, 10000)); len(bad) != 1 {
		t.Errorf("a user outside of the range: %v, want one violation", bad)
	}
}

// TestStandardsNotice breaks the manifest once for every rule: a judge that is
// never red judges nothing.
func TestStandardsNotice(t *testing.T) {
	ctx := func(p object) object { return tree.At(p, "spec", "securityContext").(object) }
	spec := func(p object) object { return p["spec"].(object) }
	first := func(p object) object { return containers(p)[1] }
	sec := func(p object) object { return first(p)["securityContext"].(object) }
	for name, breakIt := range map[string]func(object){
		"host namespaces":        func(p object) { spec(p)["hostPID"] = true },
		"privileged":             func(p object) { sec(p)["privileged"] = true },
		"capabilities":           func(p object) { sec(p)["capabilities"] = object{"drop": []any{"ALL"}, "add": []any{"SYS_PTRACE"}} },
		"volume types":           func(p object) { tree.List(p, "spec", "volumes")[0]["hostPath"] = object{"path": "/"} },
		"host ports":             func(p object) { tree.List(first(p), "ports")[0]["hostPort"] = 1 },
		"privilege escalation":   func(p object) { delete(sec(p), "allowPrivilegeEscalation") },
		"not root":               func(p object) { ctx(p)["runAsNonRoot"] = false },
		"seccomp":                func(p object) { ctx(p)["seccompProfile"] = object{"type": "Unconfined"} },
		"proc mount":             func(p object) { sec(p)["procMount"] = "Unmasked" },
		"sysctls":                func(p object) { ctx(p)["sysctls"] = []any{object{"name": "kernel.msgmax", "value": "1"}} },
		"lsm options":            func(p object) { sec(p)["appArmorProfile"] = object{"type": "Unconfined"} },
		"user from the range":    func(p object) { ctx(p)["runAsUser"] = float64(1000) },
		"fsGroup from the range": func(p object) { ctx(p)["fsGroup"] = float64(0) },
		"no token":               func(p object) { delete(spec(p), "automountServiceAccountToken") },
		"no service links":       func(p object) { delete(spec(p), "enableServiceLinks") },
		"read-only root":         func(p object) { delete(sec(p), "readOnlyRootFilesystem") },
		"names no group":         func(p object) { ctx(p)["runAsGroup"] = float64(5) },
		"bounded":                func(p object) { delete(first(p), "resources") },
		"reason is told":         func(p object) { delete(first(p), "terminationMessagePolicy") },
		"no secret in a variable": func(p object) {
			tree.List(first(p), "env")[0]["valueFrom"] = object{}
		},
		"no restart hides the reason": func(p object) { spec(p)["restartPolicy"] = "Always" },
	} {
		t.Run(name, func(t *testing.T) {
			p := podOf(t, small())
			breakIt(p)
			all := violations(p, append(sccRules(1000680000, 10000), ownRules...))
			if !slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, name+": ") }) {
				t.Errorf("broken, but only %q was noticed", all)
			}
		})
	}
}

// TestSecretStaysWithSupervisor: the Secret is mounted in the agent's container
// only where the agent's policy cannot reach, and nothing else carries it.
func TestSecretStaysWithSupervisor(t *testing.T) {
	p := podOf(t, full())
	var mounts []string
	for _, c := range containers(p) {
		for _, m := range tree.List(c, "volumeMounts") {
			if m["name"] == "sallyport-secrets" {
				mounts = append(mounts, fmt.Sprint(c["name"], " ", m["mountPath"], " ", m["readOnly"]))
			}
		}
	}
	if want := []string{"agent " + SecretDir + " true"}; !slices.Equal(mounts, want) {
		t.Errorf("mounts = %q, want %q", mounts, want)
	}
}
