package pod

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Config is what the supervisor is told about its pod. The zero value of a
// field is its strictest.
type Config struct {
	Policy      string        // file; empty: the supervisor's default, which reaches nothing
	Run         string        // file, the document of run --config: providers, models; empty: neither
	UpstreamCA  string        // file, PEM: further roots for servers
	Workdir     string        // the agent's directory, which it must be able to write; empty: the current one
	Secrets     string        // directory with one file for each credential; empty: there are none
	Health      string        // address of /livez and /readyz; empty: none
	Grace       time.Duration // from SIGTERM until the agent is killed
	Env         []string      // NAME=VALUE, for the agent
	Private     []string      // paths that no grant of the policy may reach
	Events      string        // "stdout", "stderr" or a file, for every event as a JSON line; empty: none
	Termination string        // file for the reason of a refusal
}

// DefaultConfig is what holds without a file.
func DefaultConfig() Config {
	return Config{Grace: 30 * time.Second, Termination: "/dev/termination-log"}
}

// maxConfig is how long a configuration file may be, in bytes.
const maxConfig = 64 << 10

// fields are the keys of the file. Those of one string can be set by a variable
// too, SALLYPORT_ and the key in capitals, which wins over the file.
var fields = map[string]struct {
	text func(*Config) *string
	list func(*Config) *[]string
}{
	"policy":      {text: func(c *Config) *string { return &c.Policy }},
	"run":         {text: func(c *Config) *string { return &c.Run }},
	"upstream_ca": {text: func(c *Config) *string { return &c.UpstreamCA }},
	"workdir":     {text: func(c *Config) *string { return &c.Workdir }},
	"secrets":     {text: func(c *Config) *string { return &c.Secrets }},
	"health":      {text: func(c *Config) *string { return &c.Health }},
	"events":      {text: func(c *Config) *string { return &c.Events }},
	"termination": {text: func(c *Config) *string { return &c.Termination }},
	"grace":       {},
	"env":         {list: func(c *Config) *[]string { return &c.Env }},
	"private":     {list: func(c *Config) *[]string { return &c.Private }},
}

const variablePrefix = "SALLYPORT_"

// Parse reads a configuration, one JSON object, into c. A key that is unknown or
// comes twice is an error, as is anything behind the object.
func (c *Config) Parse(src []byte) error {
	dec := json.NewDecoder(bytes.NewReader(src))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return fmt.Errorf("expected one JSON object")
	}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := tok.(string)
		if seen[key] {
			return fmt.Errorf("%q comes twice", key)
		}
		seen[key] = true
		if err := c.decode(key, dec); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("something follows the JSON object")
	}
	return nil
}

func (c *Config) decode(key string, dec *json.Decoder) error {
	f, known := fields[key]
	if !known {
		return fmt.Errorf("%q is unknown; expected %s", key, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	if f.list != nil {
		var v []string
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf("%s: expected a list of strings", key)
		}
		*f.list(c) = v
		return nil
	}
	var v *string
	if err := dec.Decode(&v); err != nil || v == nil {
		return fmt.Errorf("%s: expected a string", key)
	}
	return c.set(key, *v)
}

func (c *Config) set(key, v string) error {
	if key != "grace" {
		*fields[key].text(c) = v
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return fmt.Errorf("grace: %q: expected a time such as 28s", v)
	}
	c.Grace = d
	return nil
}

// Environ reads the variables of base that begin with SALLYPORT_.
func (c *Config) Environ(base []string) error {
	for _, kv := range base {
		name, v, _ := strings.Cut(kv, "=")
		rest, ours := strings.CutPrefix(name, variablePrefix)
		if !ours {
			continue
		}
		key := strings.ToLower(rest)
		f, known := fields[key]
		switch {
		case !known || name != variablePrefix+strings.ToUpper(key):
			return refuse("set enableServiceLinks: false in the pod if a Service is the reason", "the variable %s is unknown", name)
		case f.list != nil:
			return refuse("", "the variable %s: a list can be given in the configuration file only", name)
		}
		if err := c.set(key, v); err != nil {
			return refuse("", "the variable %s: %w", name, err)
		}
	}
	return nil
}

// load reads the file, if there is one, and the variables over it.
func load(file string, environ []string) (Config, error) {
	c := DefaultConfig()
	if file != "" {
		src, err := readFile(file, maxConfig)
		if err != nil {
			return c, refuse("is the ConfigMap mounted there?", "configuration: %w", err)
		}
		if err := c.Parse(src); err != nil {
			return c, refuse("", "configuration: %s: %w", file, err)
		}
	}
	if err := c.Environ(environ); err != nil {
		return c, err
	}
	return c, c.validate()
}

// validate checks what can be judged without looking at the pod.
func (c Config) validate() error {
	for _, f := range []struct{ key, path string }{
		{"policy", c.Policy}, {"run", c.Run}, {"upstream_ca", c.UpstreamCA}, {"workdir", c.Workdir}, {"secrets", c.Secrets}, {"termination", c.Termination},
	} {
		if f.path != "" && !path.IsAbs(f.path) {
			return refuse("", "configuration: %s: %q: expected an absolute path", f.key, f.path)
		}
	}
	for _, p := range c.Private {
		if !path.IsAbs(p) {
			return refuse("", "configuration: private: %q: expected an absolute path", p)
		}
	}
	if c.Events != "" && c.Events != "stdout" && c.Events != "stderr" && !path.IsAbs(c.Events) {
		return refuse("", "configuration: events: %q: expected stdout, stderr or an absolute path", c.Events)
	}
	for _, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return refuse("", "configuration: env: %q: expected NAME=VALUE", e)
		}
	}
	return nil
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, plain(err)
	}
	if int64(len(src)) > limit {
		return nil, fmt.Errorf("%s: longer than %d bytes", name, limit)
	}
	return src, nil
}
