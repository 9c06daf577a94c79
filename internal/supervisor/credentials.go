package supervisor

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sallyport/internal/confine"
	"sallyport/internal/egress/inject"
	"sallyport/internal/kernel/landlock"
	"sallyport/internal/policy"
	"sallyport/internal/policy/profile"
	"sallyport/internal/secret/source"
)

// held is one source of a secret, and what it was made from.
type held struct {
	provider string
	from     policy.Source
	source   *source.Source
}

// credentials are the secrets of one sandbox. The agent gets what is in env.
type credentials struct {
	sources  []held
	injector *inject.Injector // nil without providers
	env      []string         // NAME=PLACEHOLDER
}

// gatherCredentials makes a placeholder for each secret, and reads what needs
// the caller's rights. Nothing of it goes on if one cannot be had.
func (s *sandbox) gatherCredentials() error {
	if s.o.RunConfig == nil {
		return s.knownProviders(nil)
	}
	if err := s.knownProviders(s.o.RunConfig.Providers); err != nil {
		return err
	}
	var list []inject.Credential
	for _, p := range s.o.RunConfig.Providers {
		for i, c := range p.Profile.Credentials {
			if !p.Sources[i].Given() {
				continue
			}
			one, err := s.credential(p, c, p.Sources[i])
			if err != nil {
				return err
			}
			list = append(list, one)
		}
		s.tell(p)
	}
	var err error
	if s.creds.injector, err = inject.New(list, time.Now); err != nil {
		return err
	}
	return s.prime(func(f policy.Source) bool { return f.Env != "" || f.File != "" })
}

// tell says what the agent gets of a provider, and where the secret goes.
func (s *sandbox) tell(p policy.Provider) {
	var names, to []string
	for i, c := range p.Profile.Credentials {
		if p.Sources[i].Given() {
			names = append(names, c.Env...)
		}
	}
	for _, e := range p.Profile.Endpoints {
		to = append(to, fmt.Sprintf("%s:%d%s", e.Host, e.Port, e.Path))
	}
	verb, where := "hold", strings.Join(to, ", ")
	if len(names) == 1 {
		verb = "holds"
	}
	if len(to) == 0 {
		where = "what credential_binding names it for"
	}
	s.note("%s: %s %s a placeholder; the secret goes to %s", p.Name, strings.Join(names, " and "), verb, where)
}

// credential puts one together: its source, its placeholder, and the variables
// in which the agent finds that.
func (s *sandbox) credential(p policy.Provider, c profile.Credential, from policy.Source) (inject.Credential, error) {
	src, err := s.sourceOf(from)
	if err != nil {
		return inject.Credential{}, refused("", "provider %s: %w", p.Name, err)
	}
	name, err := c.Shape.New(rand.Reader)
	if err != nil {
		return inject.Credential{}, err
	}
	s.creds.sources = append(s.creds.sources, held{p.Name, from, src})
	for _, v := range c.Env {
		if slices.ContainsFunc(s.o.Env, func(kv string) bool { return strings.HasPrefix(kv, v+"=") }) {
			return inject.Credential{}, refused("leave one of them out", "--env %s: provider %s sets this variable to its placeholder", v, p.Name)
		}
		s.creds.env = append(s.creds.env, v+"="+name)
	}
	return inject.Credential{
		Provider: p.Name, Name: c.Name, Placeholder: name, Places: c.Places, Endpoints: p.Profile.Endpoints, Source: src,
	}, nil
}

func (s *sandbox) sourceOf(from policy.Source) (*source.Source, error) {
	switch {
	case from.Env != "":
		return source.Env(from.Env, s.baseVariable, time.Now), nil
	case from.File != "":
		return source.File(from.File, time.Now), nil
	case from.Service != "":
		if s.o.Keyring == nil {
			return nil, fmt.Errorf("this program has no way to the keyring")
		}
		read := func(context.Context) ([]byte, error) { return s.o.Keyring(from.Service, from.Account) }
		return source.Func("keyring "+from.Service+"/"+from.Account, read, from.TTL, time.Now), nil
	}
	if os.Getpid() == 1 {
		return nil, fmt.Errorf("a container's first process reads no commands, because it collects every process that ends; use a file")
	}
	path, err := exec.LookPath(from.Command[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("command %s: not found", from.Command[0])
	}
	argv := append([]string{path}, from.Command[1:]...)
	return source.Command(argv, s.commandEnv(), from.TTL, time.Now), nil
}

func (s *sandbox) baseVariable(name string) (string, bool) {
	for _, kv := range s.o.Base {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v, true
		}
	}
	return "", false
}

// commandEnv is the caller's environment without the variables that hold
// secrets of this run.
func (s *sandbox) commandEnv() []string {
	return slices.DeleteFunc(slices.Clone(s.o.Base), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(s.o.RunConfig.Providers, func(p policy.Provider) bool {
			return slices.ContainsFunc(p.Sources, func(f policy.Source) bool { return f.Env == name })
		})
	})
}

// prime reads the sources of some kinds once, so that what is wrong with them is
// said before anything runs.
func (s *sandbox) prime(kind func(policy.Source) bool) error {
	for _, h := range s.creds.sources {
		if !kind(h.from) {
			continue
		}
		if _, err := h.source.Value(context.Background()); err != nil {
			return refused("", "provider %s: %w", h.provider, err)
		}
	}
	return nil
}

// secureCredentials makes sure that the agent can neither read a source nor
// change what a source runs, and reads those that need no more rights than are
// left.
func (s *sandbox) secureCredentials() error {
	for _, h := range s.creds.sources {
		if err := outOfReach(h, s.plan.Files); err != nil {
			return refused("keep it where filesystem_policy grants nothing", "provider %s: %w", h.provider, err)
		}
	}
	return s.prime(func(f policy.Source) bool { return f.Env == "" && f.File == "" })
}

// outOfReach is about files that the agent could open. A word of a command is a
// file if there is one of that name.
func outOfReach(h held, grants []confine.FileRule) error {
	check := func(path string, right landlock.AccessFS, what string) error {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil //nolint:nilerr // what is not there cannot be reached
		}
		for _, g := range grants {
			root, err := filepath.EvalSymlinks(g.Path)
			if err != nil || g.Access&right == 0 {
				continue
			}
			if below(root, real) || below(root, path) {
				return fmt.Errorf("%s: the agent could %s it, because the policy grants %s", path, what, g.Path)
			}
		}
		return nil
	}
	if h.from.File != "" {
		return check(h.from.File, landlock.ReadFile|landlock.WriteFile|landlock.MakeReg, "read")
	}
	for i, word := range h.from.Command {
		if i == 0 {
			word, _ = exec.LookPath(word)
		}
		if !strings.HasPrefix(word, "/") {
			continue
		}
		if err := check(word, landlock.WriteFile|landlock.MakeReg, "change"); err != nil {
			return err
		}
	}
	return nil
}

// below tells whether path is root or under it.
func below(root, path string) bool {
	return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
}

// knownProviders holds a policy against the providers of a run: who is named
// must be there, and who is bound somewhere must be read there.
func (s *sandbox) knownProviders(list []policy.Provider) error {
	if errs := policy.CheckProviders(s.policy, list); len(errs) > 0 {
		return refused("", "%w", errs)
	}
	return nil
}

func (c *credentials) wipe() {
	for _, h := range c.sources {
		h.source.Wipe()
	}
}
