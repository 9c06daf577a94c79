package supervisor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// posture is everything that the kernel says about the agent and that bears on
// what it can do. What is not listed here and is there is a failure, too.
var posture = map[string]string{
	"NoNewPrivs":    "1",
	"Seccomp":       "2",
	"CapInh":        "0000000000000000",
	"CapPrm":        "0000000000000000",
	"CapEff":        "0000000000000000",
	"CapAmb":        "0000000000000000",
	"TracerPid":     "0",
	"SigBlk":        "0000000000000000",
	"descriptors":   "0 1 2 3", // 3 is the directory that ls reads
	"Max core file": "1",
	"environment": "HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy grpc_proxy NO_PROXY no_proxy NODE_USE_ENV_PROXY RES_OPTIONS SALLYPORT " +
		"SSL_CERT_FILE CURL_CA_BUNDLE GIT_SSL_CAINFO REQUESTS_CA_BUNDLE PIP_CERT CARGO_HTTP_CAINFO AWS_CA_BUNDLE CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE " +
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH NIX_SSL_CERT_FILE npm_config_cafile NODE_EXTRA_CA_CERTS DENO_CERT JAVA_TOOL_OPTIONS",
	"session leader": "yes",
}

const postureScript = `
cat /proc/self/status
echo "descriptors: $(ls /proc/self/fd | tr '\n' ' ')"
echo "Max core file: $(awk '/Max core file/ {print $5}' /proc/self/limits)"
echo "environment: $(env | cut -d= -f1 | tr '\n' ' ')"
read -r pid comm state ppid pgrp sid rest < /proc/$$/stat
[ "$sid" = "$$" ] && echo "session leader: yes" || echo "session leader: no"
`

func TestPosture(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		out, status := try(t, as, spec{Command: []string{"sh", "-c", postureScript}})
		if status != 0 {
			t.Fatalf("status = %d\n%s", status, out)
		}
		got := map[string]string{}
		for line := range strings.SplitSeq(out, "\n") {
			if k, v, is := strings.Cut(line, ":"); is {
				got[k] = strings.TrimSpace(v)
			}
		}
		for k, want := range posture {
			if k == "environment" {
				checkEnvironment(t, strings.Fields(want), strings.Fields(got[k]))
				continue
			}
			if got[k] != want {
				t.Errorf("%s = %q, want %q", k, got[k], want)
			}
		}
		for _, k := range []string{"Uid", "Gid"} {
			ids := strings.Fields(got[k])
			if len(ids) != 4 || slices.Contains(ids, "0") || len(slices.Compact(ids)) != 1 {
				t.Errorf("%s = %v, want one number that is not 0, four times", k, ids)
			}
		}
		if as == nil && os.Getuid() == 0 && got["CapBnd"] != "0000000000000000" {
			t.Errorf("CapBnd = %s for an agent of root", got["CapBnd"])
		}
		for k := range got {
			if regexp.MustCompile(`^Cap|^Seccomp$|^NoNew|Tracer`).MatchString(k) && posture[k] == "" && k != "CapBnd" {
				t.Errorf("the kernel reports %s, which this test does not know", k)
			}
		}
	})
}

// checkEnvironment wants every variable that leads to the proxy and none but
// those that are passed on.
func checkEnvironment(t *testing.T, want, got []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("the environment lacks %s", w)
		}
	}
	shell := []string{"PWD", "OLDPWD", "SHLVL", "_"}
	for _, g := range got {
		if !slices.Contains(want, g) && !slices.Contains(passed, g) && !slices.Contains(shell, g) && !strings.HasPrefix(g, "LC_") {
			t.Errorf("the environment has %s", g)
		}
	}
}
