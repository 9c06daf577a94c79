// Package source reads secrets from where a person keeps them: the caller's
// environment, a file, the output of a command, or a func such as one that asks
// the operating system's keyring.
//
// Deliberately not here: which secret is for what (policy), and whether the agent
// could read or change a source itself (supervisor).
//
// What must hold: what cannot be read anew when it must be is not given out any
// more; a command gets no secret, neither in its arguments nor in its
// environment; errors name the source and never what it holds.
package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sallyport/internal/secret"
)

// Bounds on how often a source is read.
const (
	// quietAfterError is how long an error stands before the source is asked again.
	quietAfterError = 5 * time.Second
	// quietAfterRefused is how young a secret must be for a server's refusal to
	// say nothing about it: an agent can make a server refuse as often as it likes.
	quietAfterRefused = 30 * time.Second
)

// Source is one secret that is read when it is first needed and kept while it is
// fresh. It is safe for concurrent use.
type Source struct {
	name string // for messages
	read func(ctx context.Context) ([]byte, error)
	mark func() (string, error) // what changes with the secret; nil: nothing does
	ttl  time.Duration          // 0: for ever
	once bool                   // reading again gives nothing new
	now  func() time.Time

	mu      sync.Mutex
	value   secret.Value
	before  secret.Value // not wiped yet: a request may be using it
	marked  string
	at      time.Time
	stale   bool
	failed  error
	failure time.Time
}

// Func is a source that read gives, kept for ttl.
func Func(name string, read func(ctx context.Context) ([]byte, error), ttl time.Duration, now func() time.Time) *Source {
	return &Source{name: name, read: read, ttl: ttl, now: now}
}

// Env is a variable of the caller's environment, which does not change.
func Env(name string, lookup func(string) (string, bool), now func() time.Time) *Source {
	s := Func("environment variable "+name, func(context.Context) ([]byte, error) {
		v, ok := lookup(name)
		if !ok || v == "" {
			return nil, errors.New("it is not set")
		}
		return []byte(v), nil
	}, 0, now)
	s.once = true
	return s
}

// String names the source.
func (s *Source) String() string { return s.name }

// Value gives the secret. A change of the source is seen here; while it cannot
// be read, there is none.
func (s *Source) Value(ctx context.Context) (secret.Value, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mark, err := s.look()
	if err == nil && s.fresh(mark) {
		return s.value, nil
	}
	if s.failed != nil && s.now().Sub(s.failure) < quietAfterError {
		return secret.Value{}, s.failed
	}
	if err == nil {
		err = s.take(ctx)
	}
	if err != nil {
		s.failed, s.failure = fmt.Errorf("%s: %w", s.name, err), s.now()
		return secret.Value{}, s.failed
	}
	s.marked, s.at, s.stale, s.failed = mark, s.now(), false, nil
	return s.value, nil
}

func (s *Source) look() (string, error) {
	if s.mark == nil {
		return "", nil
	}
	return s.mark()
}

func (s *Source) fresh(mark string) bool {
	return !s.at.IsZero() && s.failed == nil && !s.stale && mark == s.marked && (s.ttl == 0 || s.now().Sub(s.at) < s.ttl)
}

func (s *Source) take(ctx context.Context) error {
	b, err := s.read(ctx)
	if err != nil {
		return err
	}
	v, err := secret.New(b)
	if err != nil {
		return err
	}
	if s.value.Equal(v) {
		v.Wipe()
		return nil
	}
	s.before.Wipe()
	s.before, s.value = s.value, v
	return nil
}

// Refused lets the secret be read anew before it is used again: a server did not
// accept it.
func (s *Source) Refused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.once && !s.at.IsZero() && s.now().Sub(s.at) >= quietAfterRefused {
		s.stale = true
	}
}

// Wipe overwrites what is held. The source gives nothing out after it.
func (s *Source) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value.Wipe()
	s.before.Wipe()
	s.read = func(context.Context) ([]byte, error) { return nil, errors.New("the sandbox has ended") }
	s.stale, s.once = true, false
}
