package policy

import (
	"time"

	"sallyport/internal/policy/profile"
)

// RunConfig is the document of run --config: what belongs to one person's run
// and not to a policy, which may be shared. It names where secrets are and holds
// none.
type RunConfig struct {
	Version   int
	Providers []Provider // ordered by name
	Inference *Inference // nil: inference.local does not exist
	Source    string     // the document's name, for messages
}

// Provider is one service whose keys the agent uses without having them.
type Provider struct {
	Name    string
	Profile profile.Profile // with the places, variables and endpoints of this provider
	Sources []Source        // beside Profile.Credentials; the zero Source where an optional one is not given
	Line    int
}

// Source says where a secret comes from. At most one of Env, File, Command and
// Service is set.
type Source struct {
	Env              string   // variable of the caller's environment
	File             string   // path; read again when it changes
	Command          []string // program and arguments; its standard output is the secret
	TTL              time.Duration
	Service, Account string // of the operating system's keyring
	Line             int
}

// Given tells whether there is a source.
func (s Source) Given() bool {
	return s.Env != "" || s.File != "" || len(s.Command) > 0 || s.Service != ""
}

// DefaultTTL is how long the output of a command is used.
const DefaultTTL = 15 * time.Minute

// Inference is the section of that name: the models that inference.local serves.
// A limit of 0 is its default.
type Inference struct {
	MaxBody       int64 // bytes of a request
	MaxConcurrent int   // requests at once
	PerMinute     int   // requests
	Routes        []Route
	Line          int
}

// API is the dialect of a route.
type API string

// The dialects.
const (
	OpenAI    API = "openai"
	Anthropic API = "anthropic"
)

// Route is one backend for models.
type Route struct {
	API       API
	Base      string // URL before /v1, without a slash at its end
	Provider  string // whose key is sent; empty: none
	Models    []Model
	MaxTokens int64         // cap of what a request may ask for; 0: none
	Timeout   time.Duration // until the answer begins
	Line      int
}

// Model lets a request name a model.
type Model struct {
	Name string // glob
	Use  string // what the backend is asked for; empty: the same
}

// InferenceHost is the name under which the proxy itself serves models.
const InferenceHost = "inference.local"
