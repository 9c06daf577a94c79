package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zalando/go-keyring"

	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

// loadRunConfig reads --config and adds each --provider to it. It is nil if
// neither is given.
func loadRunConfig(file string, short []string) (*policy.RunConfig, error) {
	if file == "" && len(short) == 0 {
		return nil, nil
	}
	c := &policy.RunConfig{Version: 1, Source: "--provider"}
	if file != "" {
		src, err := readConfig(file)
		if err != nil {
			return nil, err
		}
		if c, err = policy.ParseRunConfig(file, src); err != nil {
			return nil, err
		}
	}
	for _, text := range short {
		name, _, _ := strings.Cut(text, "=") // the rest could be a secret, by mistake
		p, err := policy.ShortProvider(text)
		if err != nil {
			return nil, usagef("--provider %s: %w", name, err)
		}
		if slices.ContainsFunc(c.Providers, func(o policy.Provider) bool { return o.Name == p.Name }) {
			return nil, usagef("--provider %s: there is a provider of that name already", name)
		}
		c.Providers = append(c.Providers, p)
	}
	slices.SortFunc(c.Providers, func(a, b policy.Provider) int { return strings.Compare(a.Name, b.Name) })
	return c, nil
}

func readConfig(file string) ([]byte, error) {
	src, err := readPolicy(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", errors.Unwrap(err))
	}
	return src, nil
}

// fromKeyring reads the operating system's keyring: the Secret Service of a
// desktop session.
func fromKeyring(service, account string) ([]byte, error) {
	text, err := keyring.Get(service, account)
	switch {
	case errors.Is(err, keyring.ErrNotFound):
		return nil, errors.New("it is not in the keyring; secret-tool store --label=NAME service SERVICE username ACCOUNT puts it there")
	case err != nil:
		return nil, fmt.Errorf("the keyring cannot be read: %w", err)
	}
	return []byte(text), nil
}

// withConfig adds to the supervisor's options what is in a run configuration.
func (f runFlags) withConfig(o *supervisor.Options) (err error) {
	o.RunConfig, err = loadRunConfig(f.config, f.provider)
	o.Keyring = fromKeyring
	return err
}
