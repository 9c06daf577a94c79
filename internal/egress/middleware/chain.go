package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sallyport/internal/policy"
)

// chainTime is how long all middlewares together may take for one message.
const chainTime = 30 * time.Second

// errTooLarge is a body that a middleware has to see and is not shown.
var errTooLarge = errors.New("the body is too large for it")

// handler is one middleware.
type handler interface {
	// limit is how many bytes of a body it wants to see; 0: it is not asked about the hook.
	limit(ctx context.Context, h Hook) (int64, error)
	// handle changes a message. A *Denied, with no name yet, refuses it.
	handle(ctx context.Context, m *Message) ([]Finding, error)
	close()
}

// stage is a middleware in a policy.
type stage struct {
	policy.Middleware
	handler
}

// Chain is the middlewares of one generation of a policy. It is safe for concurrent use.
type Chain struct{ stages []*stage }

// New makes the middlewares of a policy that has been parsed. Nothing is asked of services yet.
func New(ms []policy.Middleware) (*Chain, error) {
	c := &Chain{}
	for _, m := range ms {
		var h handler
		var err error
		switch {
		case m.Redactor != nil:
			h, err = newRedactor(m.Redactor)
		case m.Service != nil:
			h, err = newService(m.Service)
		default:
			err = fmt.Errorf("%q is not known", m.Middleware)
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("middleware %s: %w", m.Key, err)
		}
		c.stages = append(c.stages, &stage{m, h})
	}
	return c, nil
}

// Close gives up connections to services. Messages that are on their way may fail.
func (c *Chain) Close() {
	for _, s := range c.stages {
		s.close()
	}
}

// Stages are the middlewares that messages to one host pass, in order; none for most hosts.
type Stages []*stage

// For returns the middlewares that cover a canonical host. A nil chain has none.
func (c *Chain) For(host string) Stages {
	if c == nil {
		return nil
	}
	var out Stages
	for _, s := range c.stages {
		if s.Covers(host) {
			out = append(out, s)
		}
	}
	return out
}

// defaultBody is how much of a body is held where nothing else is said, in bytes.
const defaultBody = 1 << 20

// Limit is how many bytes of a body are to be held for a hook. It is 0 if no middleware is asked about it. A
// middleware that cannot say what it wants counts: it will fail in [Stages.Run].
func (s Stages) Limit(ctx context.Context, h Hook) int64 {
	var most int64
	for _, st := range s {
		n, err := st.limit(ctx, h)
		if err != nil {
			n = defaultBody
		}
		most = max(most, n)
	}
	return most
}

// Run takes a message through the middlewares, and returns what they report about it. The errors are *Denied and
// *Failed: the message must not be passed on.
func (s Stages) Run(ctx context.Context, m *Message) ([]Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	var all []Finding
	for _, st := range s {
		found, err := st.run(ctx, m)
		for _, f := range found {
			f.Middleware = st.Key
			all = append(all, f)
		}
		if denied, ok := errors.AsType[*Denied](err); ok {
			denied.Middleware = st.Key
			return all, denied
		}
		switch {
		case err == nil:
		case st.FailOpen && ctx.Err() == nil:
			all = append(all, Finding{st.Key, "passed a middleware that failed", err.Error()})
		default:
			return all, &Failed{st.Key, err}
		}
	}
	return all, nil
}

// run is one stage. It changes all or nothing of the message.
func (s *stage) run(ctx context.Context, m *Message) (found []Finding, err error) {
	defer func() {
		if p := recover(); p != nil {
			found, err = nil, fmt.Errorf("bug: it panicked: %v", p)
		}
	}()
	n, err := s.limit(ctx, m.Hook)
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, nil
	case m.TooLarge || int64(len(m.Body)) > n:
		return nil, errTooLarge
	}
	try := *m
	try.Header = m.Header.Clone()
	if found, err = s.handle(ctx, &try); err != nil {
		return found, err
	}
	*m = try
	return found, nil
}
