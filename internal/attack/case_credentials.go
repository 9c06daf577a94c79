package attack

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
)

// The key of the suite. Unsandboxed it is in the agent's environment, as keys
// are; inside there is a placeholder, and the key is the supervisor's.
const (
	keyVariable = "ATTACK_KEY"
	keySource   = "ATTACK_KEY_SOURCE"
	keyHeader   = "X-Attack-Key"
	realKey     = "attack-real-key-" // begins it
	wordNoKey   = "no-key"           // only a placeholder was found
)

// keyConfig is the run configuration of the suite's sandboxes: the key goes to
// the origin, below /bound, in one header.
const keyConfig = `version: 1
providers:
  attack:
    profile: header
    header: ` + keyHeader + `
    prefix: attack-key-
    env: ` + keyVariable + `
    source: {env: ` + keySource + `}
    endpoints: [{host: ` + originName + `, port: 80, scheme: http, path: /bound/**}]
`

// keyEnv is the variable that holds the key of a run.
func keyEnv(inside bool, token string) string {
	if inside {
		return keySource + "=" + realKey + token
	}
	return keyVariable + "=" + realKey + token
}

// credentialCases are after the key.
func credentialCases() []Case {
	return []Case{
		{
			Name: "key_in_reach", Category: Credentials, twin: "bound_key", attack: keyInReach, stops: []stop{by(WallProxy, wordNoKey)},
			What: "find a service's key in the environment of oneself and of every process",
		},
		{
			Name: "key_elsewhere", Category: Credentials, twin: "bound_key", attack: keyElsewhere, stops: []stop{by(WallProxy, "http-403")},
			What: "send a service's key, or what stands for it, to another path and in other places of a request",
		},
	}
}

func keyInReach(a *agent) {
	a.try("variable", func() error {
		if strings.HasPrefix(os.Getenv(keyVariable), realKey) {
			return nil
		}
		return &refusal{wordNoKey, "the variable holds a placeholder"}
	})
	a.try("every_process", func() error {
		list, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil {
			return faultf("listing processes: %w", err)
		}
		for _, name := range list {
			if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(realKey)) {
				return nil
			}
		}
		return &refusal{wordNoKey, "in no environment that can be read"}
	})
}

// withKey asks the origin for a path, with a header.
func (a *agent) withKey(path, header string) error {
	return a.plain("GET http://" + a.Origin + path + " HTTP/1.1\r\nHost: " + a.Origin + "\r\n" + header + "Connection: close\r\n\r\n")
}

func keyElsewhere(a *agent) {
	key := os.Getenv(keyVariable)
	for _, v := range []struct{ name, path, header string }{
		{"other_path", "/other", keyHeader + ": " + key + "\r\n"},
		{"path_like_it", "/boundless/x", keyHeader + ": " + key + "\r\n"},
		{"other_header", "/bound/x", "X-Other: " + key + "\r\n"},
		{"part_of_a_value", "/bound/x", keyHeader + ": x" + key + "\r\n"},
		{"cookie", "/bound/x", "Cookie: k=" + key + "\r\n"},
		{"basic", "/bound/x", "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("a:"+key)) + "\r\n"},
		{"query", "/bound/x?k=" + key, ""},
		{"segment", "/bound/" + key, ""},
	} {
		a.try(v.name, func() error { return a.withKey(v.path, v.header) })
	}
}

// boundKeyTwin sends the key where it belongs.
func boundKeyTwin(a *agent) error {
	return a.withKey("/bound/x", keyHeader+": "+os.Getenv(keyVariable)+"\r\n")
}
