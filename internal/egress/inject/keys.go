package inject

import (
	"context"
	"fmt"
	"net/http"

	"sallyport/internal/policy/profile"
)

// headerKey is the credential of a provider that is sent in a header, and where.
func (in *Injector) headerKey(provider string) (*Credential, profile.Place, bool) {
	for _, c := range in.creds {
		if c.Provider != provider {
			continue
		}
		for _, p := range c.Places {
			if p.Kind == profile.Header {
				return c, p, true
			}
		}
	}
	return nil, profile.Place{}, false
}

// CanAuthorize tells whether Authorize can work for a provider.
func (in *Injector) CanAuthorize(provider string) bool {
	_, _, ok := in.headerKey(provider)
	return ok
}

// Authorize writes a provider's key into headers, in the first place that its
// profile has: for requests that are not the agent's own. The error is a
// *Refusal.
func (in *Injector) Authorize(ctx context.Context, provider string, h http.Header) error {
	c, p, ok := in.headerKey(provider)
	if !ok {
		return &Refusal{Code: Unavailable, Provider: provider, Detail: fmt.Sprintf("provider %s has no key that is sent in a header", provider)}
	}
	value, err := in.value(ctx, c)
	if err != nil {
		return err
	}
	if p.Scheme != "" {
		value = p.Scheme + " " + value
	}
	h.Set(p.Name, value)
	return nil
}

// ScrubFor is Scrub for an answer to a request that Authorize has prepared.
func (in *Injector) ScrubFor(provider string, resp *http.Response) error {
	var creds []*Credential
	for _, c := range in.creds {
		if c.Provider == provider {
			creds = append(creds, c)
		}
	}
	return in.scrub(creds, resp)
}

// Free is a *Refusal if there is a placeholder in b.
func (in *Injector) Free(b []byte) error {
	if c := in.passes(new([]byte), b); c != nil {
		return c.refuse(Misplaced, "does not belong there")
	}
	return nil
}
