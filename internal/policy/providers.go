package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sallyport/internal/policy/match"
	"sallyport/internal/policy/profile"
)

// CheckProviders holds a policy against the providers of a run. A provider that
// is named must be there; where a credential is bound, what is sent must be
// read, or the policy must say that it knows better.
func CheckProviders(p *Policy, list []Provider) Errors {
	var errs Errors
	for _, np := range p.Network {
		for i := range np.Endpoints {
			e := &np.Endpoints[i]
			if msg := checkProvider(e, list); msg != "" {
				errs = append(errs, &PositionError{File: p.Source, Line: e.Line, Col: 1, Msg: msg})
			}
		}
	}
	return errs
}

func checkProvider(e *Endpoint, list []Provider) string {
	named := e.L7.CredentialProvider
	read := named != "" || e.Inspected()
	i := slices.IndexFunc(list, func(p Provider) bool { return p.Name == named })
	switch {
	case named != "" && i < 0:
		return fmt.Sprintf("credential_binding names provider %q, which the run configuration does not have", clip(named))
	case named != "" && len(list[i].Profile.Endpoints) == 0 && strings.Contains(e.Host, "*"):
		return fmt.Sprintf("credential_binding: provider %q says no hosts, so this endpoint must name one exactly", clip(named))
	case read && (e.L7.RequestBodyCredentialRewrite || e.L7.WebSocketCredentialRewrite || e.L7.CredentialSigning != "") && len(list) == 0:
		return "this endpoint rewrites or signs with credentials, and the run configuration has no providers"
	case read || e.L7.AllowUninspectedCredentials:
		return ""
	}
	for _, p := range list {
		for _, b := range p.Profile.Endpoints {
			if slices.Contains(e.Ports, b.Port) && e.Host != "" && match.HostsOverlap(e.Host, b.Host) {
				return fmt.Sprintf("provider %q is bound to %s port %d, where nothing reads what is sent, so its placeholder would never be replaced; "+
					"add protocol: rest with access or rules, or credential_binding: {provider: %s}, or allow_uninspected_credentials: true", p.Name, b.Host, b.Port, p.Name)
			}
		}
	}
	return ""
}

// ShortProvider reads NAME=SOURCE, a provider in one line: NAME is that of a
// profile with one credential; SOURCE is env:NAME, file:PATH or
// keyring:SERVICE/ACCOUNT, or env alone for the variable that the agent looks at.
func ShortProvider(text string) (Provider, error) {
	name, from, ok := strings.Cut(text, "=")
	profile, known := profile.Find(name)
	kind, rest, _ := strings.Cut(from, ":")
	p := Provider{Name: name, Profile: profile, Sources: make([]Source, 1)}
	s := &p.Sources[0]
	switch {
	case !ok || from == "":
		return p, errors.New("expected NAME=SOURCE, such as github=env:GITHUB_TOKEN")
	case !known:
		return p, fmt.Errorf("there is no profile %q; known are %s", clip(name), strings.Join(profileIDs(), ", "))
	case profile.Generic || len(profile.Credentials) != 1:
		return p, fmt.Errorf("profile %s needs more than one line; write it into a file for --config", name)
	case kind == "env" && rest == "":
		s.Env = profile.Credentials[0].Env[0]
	case kind == "env" && variable(rest):
		s.Env = rest
	case kind == "file" && strings.HasPrefix(rest, "/") && !strings.Contains(rest, "/../"):
		s.File = rest
	case kind == "keyring":
		var both bool
		if s.Service, s.Account, both = strings.Cut(rest, "/"); !both || s.Service == "" || s.Account == "" {
			return p, errors.New("expected keyring:SERVICE/ACCOUNT")
		}
		s.TTL = DefaultTTL
	default:
		return p, errors.New("expected env, env:NAME, file:/PATH or keyring:SERVICE/ACCOUNT after the =")
	}
	return p, nil
}
